"""Text: characters and words to numbers (chapter 4.5)."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import reading
from dlwp_jax.data.table import one_hot

PUNCTUATION = '.,;:"!?”“_-'  # the book strips these from both ends of a word
ASCII = 128


def read(path: str | Path, *, encoding: str = "utf-8") -> str:
    """Read a text file.

    Args:
      path: the file.
      encoding: "utf-8" keeps a byte order mark as the first character, as the book's `open`
        does (it makes one more word of the novel); "utf-8-sig" drops it.

    Raises:
      BrokenFile: if the bytes are not in that encoding, or Python does not know it.

    >>> path = getfixture("tmp_path") / "note.txt"
    >>> _ = path.write_text("Naïve.", "utf-8")
    >>> read(path)
    'Naïve.'
    """
    with reading(path, f"text in {encoding}", UnicodeError, LookupError):
        return Path(path).read_text(encoding)


def one_hot_characters(text: str, *, unknown: int | None = None) -> np.ndarray:
    """One row for each character, one column for each ASCII code (chapter 4.5.2).

    Args:
      text: the characters; lower-case and strip it first, as the book does.
      unknown: the column of characters beyond ASCII, such as typographic quotes; the book takes
        0. None refuses.

    Returns:
      `[characters 128]` float32; `decode_characters` is the inverse for ASCII.

    Raises:
      ValueError: naming the first character beyond ASCII, if `unknown` is None.

    >>> one_hot_characters("“Impossible”", unknown=0).argmax(axis=1)[:3].tolist()
    [0, 73, 109]
    """
    checks.text(text, "text")
    unknown = None if unknown is None else checks.whole(unknown, "unknown", 0, ASCII - 1)
    codes = np.array([ord(character) for character in text], dtype=np.int64)
    beyond = codes >= ASCII
    if unknown is None and beyond.any():
        i = int(np.argmax(beyond))
        raise ValueError(
            f"text has {text[i]!r} at {i}, which is not ASCII; unknown=0 puts such into column "
            "0."
        )
    return one_hot(np.where(beyond, 0 if unknown is None else unknown, codes), ASCII)


def decode_characters(rows: Any) -> str:
    """The text whose one-hot rows these are.

    >>> decode_characters(one_hot_characters("mr. bennet"))
    'mr. bennet'
    """
    rows = checks.real_on_host(rows, "rows")
    if (
        rows.ndim != 2
        or not rows.shape[1]
        or rows.shape[1] > sys.maxunicode
        or np.isnan(rows.astype(float)).any()
    ):
        raise ValueError(
            f"rows must be [characters codes] without NaN; got {checks.describe(rows)}."
        )
    return "".join(chr(code) for code in rows.argmax(axis=-1))


def clean_words(text: str) -> list[str]:
    """Lower-case words without punctuation at their ends, as the book's `clean_words` (chapter
    4.5.3).

    >>> clean_words("“Impossible, Mr. Bennet, impossible!”")
    ['impossible', 'mr', 'bennet', 'impossible']
    """
    checks.text(text, "text")
    return [word.strip(PUNCTUATION) for word in text.lower().replace("\n", " ").split()]


def vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Number the different words in sorted order.

    >>> vocabulary(["mr", "bennet", "mr"])
    {'bennet': 0, 'mr': 1}
    """
    return {word: code for code, word in enumerate(sorted(set(_words(words))))}


def _words(words: Iterable[str]) -> list[str]:
    if not isinstance(words, Iterable) or getattr(words, "ndim", 1) != 1:
        raise TypeError(f"words must be an iterable of str; got {checks.describe(words)}.")
    words = list(words)
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise TypeError(f"words must be str; got {checks.describe(wrong[0])} among them.")
    return words


def encode(
    words: Sequence[str], codes: Mapping[str, int], *, unknown: int | None = None
) -> np.ndarray:
    """Words to their numbers.

    Args:
      words: n words.
      codes: a vocabulary.
      unknown: the number of words that the vocabulary lacks; None refuses them.

    Returns:
      `[n]` int32. `one_hot(encode(words, codes), len(codes))` is the book's sparse form,
      `embed` the dense one.

    Raises:
      ValueError: naming the first word that is not in the vocabulary, if `unknown` is None.

    >>> encode(["mr", "bennet"], {"bennet": 0, "mr": 1}).tolist()
    [1, 0]
    """
    words, codes = _words(words), _codes(codes)
    unknown = None if unknown is None else checks.whole(unknown, "unknown", -(2**31))
    if unknown is None and (strangers := [word for word in words if word not in codes]):
        raise ValueError(
            f"words has {strangers[0]!r}, which is not among the {len(codes)} words of the "
            "vocabulary."
        )
    return np.array([codes.get(word, unknown) for word in words], dtype=np.int32)


def _codes(codes: Mapping[str, int]) -> dict[str, int]:
    """A vocabulary, its numbers whole ones that int32 holds."""
    if not isinstance(codes, Mapping):
        raise TypeError(
            "codes must be a vocabulary, a dict of numbers by word; got "
            f"{checks.describe(codes)}."
        )
    return {
        word: checks.whole(code, f"the number of {word!r} in codes", -(2**31))
        for word, code in codes.items()
    }


def decode(numbers: Any, codes: Mapping[str, int]) -> list[str]:
    """Numbers back to words: the inverse of `encode`.

    >>> decode([1, 0], {"bennet": 0, "mr": 1})
    ['mr', 'bennet']
    """
    words = {code: word for word, code in _codes(codes).items()}
    numbers = np.ravel(checks.on_host(numbers, "numbers"))
    if numbers.size and numbers.dtype.kind not in "iu":
        raise TypeError(f"numbers are {numbers.dtype}; the codes of words are integers.")
    if strangers := [int(number) for number in numbers if int(number) not in words]:
        raise ValueError(
            f"numbers has {strangers[0]}, which is no code of the {len(words)} words of the "
            "vocabulary."
        )
    return [words[int(number)] for number in numbers]


def embed(vectors: Any, numbers: Any) -> Any:
    """Look up one dense vector for each number (chapter 4.5.4): equal to `one_hot(numbers) @
    vectors`.

    Args:
      vectors: `[words features]`, usually learned (`torch.nn.Embedding`'s weight).
      numbers: `[...]` integers in 0 .. words - 1.

    Returns:
      `[... features]`, a JAX array; differentiable in `vectors`, jittable. A number out of
      range gives NaN, since a compiled program cannot refuse.

    >>> embed(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([1, 1, 0])).tolist()
    [[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]
    """
    import jax.numpy as jnp

    vectors, numbers = (
        checks.on_device(vectors, "vectors"),
        checks.on_device(numbers, "numbers"),
    )
    if not vectors.ndim:
        raise ValueError(
            "vectors has no axes; [words features] is needed, one row for each word."
        )
    if not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise TypeError(f"numbers are {numbers.dtype}; the codes of words are integers.")
    if not jnp.issubdtype(vectors.dtype, jnp.inexact):
        raise TypeError(
            f"vectors are {vectors.dtype}; floats are needed, which have a NaN for numbers out "
            "of range."
        )
    if not len(vectors):
        raise ValueError(f"vectors of shape {vectors.shape} holds no word.")
    # A small integer type could not hold len(vectors), and a large unsigned one would turn
    # negative inside `take`.
    numbers = numbers.astype(
        jnp.uint32 if jnp.issubdtype(numbers.dtype, jnp.unsignedinteger) else jnp.int32
    )
    numbers = jnp.where(
        (numbers < 0) | (numbers >= len(vectors)), len(vectors), numbers
    ).astype(jnp.int32)
    return jnp.take(vectors, numbers, axis=0, mode="fill")
