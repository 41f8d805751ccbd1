"""Subjects: tables and text of `dlwp_jax.data`, with NumPy and torch as the reference."""

import string

import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import strategies as st

from dlwp_jax import data
from dlwp_jax.data import (
    table,
    text,
)
from tests.properties.data import (
    integer,
    numbers,
)
from tests.properties.hostile import recipes
from tests.properties.subject import same, subject

# Tables.

subject(
    "data.table.one_hot",
    table.one_hot,
    takes={
        "codes": st.sampled_from(
            [
                [1, 0, 3],
                [],
                [[0, 1], [2, 2]],
                2,
                *recipes(
                    "array([2.0, 0.0])", "arange(3, dtype=np.uint8)", "array([True, False])"
                ),
            ]
        ),
        "classes": st.sampled_from([None, 4, 7]),
    },
    reference=lambda codes, classes: one_hot(codes, classes),
    near={
        "codes": st.sampled_from(
            [
                [-1],
                [0.5],
                [8],
                *recipes("array([nan, 0])", "array([2**63], np.uint64)", "array(['1', '0'])"),
            ]
        ),
        "classes": st.sampled_from([0, 3, -1, 2.0]),
    },
)


def one_hot(codes, classes):
    codes = numbers(codes)
    codes.astype(object) if codes.dtype.kind != "f" else codes
    if codes.size and (
        not np.isfinite(codes.astype(float)).all()
        or (codes != np.floor(codes.astype(float))).any()
        or codes.min() < 0
    ):
        raise ValueError("no codes")
    most = int(codes.max()) if codes.size else -1
    classes = most + 1 if classes is None else integer(classes, 0)
    if most >= classes or classes > 10**6:
        raise ValueError("no column")
    return (
        torch.nn.functional.one_hot(torch.from_numpy(codes.astype(np.int64)), classes)
        .numpy()
        .astype(np.float32)
        if codes.size
        else np.zeros((*codes.shape, classes), np.float32)
    )


def named(values):
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("masked")
    array = np.asarray(values)
    if array.dtype == object and array.ndim and all(isinstance(v, str) for v in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biufUSMm" and array.dtype != jnp.bfloat16:
        raise TypeError("no names")
    return array


def numbers_them(result, values):
    codes, names = result
    assert codes.shape == values.shape
    assert (
        list(names) == sorted(set(values.ravel().tolist()))
        or values.dtype.kind in "MmfSV"
        or not values.size
    )
    np.testing.assert_array_equal(
        names[codes] if values.size else names, values if values.size else names
    )


subject(
    "data.table.categories",
    table.categories,
    takes={
        "values": st.sampled_from(
            [
                ["red", "white", "red"],
                [3, 1, 1],
                *recipes("array(['b', 'a'], dtype=object)", "array([[1.5, 2], [2, 1]])"),
            ]
        )
    },
    reference=named,
    agrees=numbers_them,
)


def agreeing(predicted, actual):
    predicted, actual = np.asarray(predicted), np.asarray(actual)
    if (
        predicted.shape != actual.shape
        or predicted.dtype != bool
        or actual.dtype != bool
        or any(isinstance(m, np.ma.MaskedArray) for m in (predicted, actual))
    ):
        raise ValueError("no masks")
    said, true, both = int(predicted.sum()), int(actual.sum()), int((predicted & actual).sum())
    return (said, true, both, both / said if said else 0.0, both / true if true else 0.0)


_masks = st.sampled_from(
    [
        [True, False, True],
        *recipes("array([False, False, False])", "jnp.array([True, True, False])"),
    ]
)
subject(
    "data.table.agreement",
    lambda predicted, actual: tuple(table.agreement(predicted, actual)),
    takes={"predicted": _masks, "actual": _masks},
    reference=agreeing,
)
TABLE = table.Table(("ph", "alcohol"), np.array([[3.0, 8.8], [3.3, 9.5]]))


def column(name):
    if not isinstance(name, str):
        raise TypeError("no name")
    return TABLE.names.index(name)


subject(
    "data.table.Table.column",
    lambda name: TABLE.column(name),
    takes={"name": st.sampled_from(TABLE.names)},
    reference=column,
)
subject(
    "data.table.Table.__getitem__",
    lambda name: TABLE[name],
    takes={"name": st.sampled_from([*TABLE.names, 0, 1])},
    reference=lambda name: (
        tuple(TABLE)[name] if isinstance(name, int | slice) else TABLE.values[:, column(name)]
    ),
)

# Text.

TEXTS = st.one_of(
    st.text(alphabet=string.printable, max_size=12),
    st.sampled_from(["“Impossible”", "Naïve.", "", "a\tb\n c"]),
)


def codes_of(text, unknown):
    if not isinstance(text, str):
        raise TypeError("no text")
    unknown = None if unknown is None else integer(unknown, 0, 127)
    codes = [ord(c) for c in text]
    if unknown is None and any(code > 127 for code in codes):
        raise ValueError("not ASCII")
    return np.eye(128, dtype=np.float32)[
        [unknown if code > 127 else code for code in codes]
    ].reshape(len(codes), 128)


subject(
    "data.text.one_hot_characters",
    lambda text, unknown: data.text.one_hot_characters(text, unknown=unknown),
    takes={"text": TEXTS, "unknown": st.sampled_from([0, 127])},
    reference=codes_of,
    near={"unknown": st.sampled_from([None, 128, -1, 0.0])},
)


def characters_of(rows):
    rows = numbers(rows)
    if rows.ndim != 2 or not rows.shape[1] or np.isnan(rows.astype(float)).any():
        raise ValueError("no rows")
    return "".join(chr(int(np.argmax(row))) for row in rows)


subject(
    "data.text.decode_characters",
    text.decode_characters,
    takes={
        "rows": st.sampled_from(
            recipes("np.eye(128)[[77, 114]]", "zeros((0, 128))", "jnp.eye(128)[:3]")
        )
    },
    reference=characters_of,
)


def cleaned(text):
    if not isinstance(text, str):
        raise TypeError("no text")
    return [word.strip('.,;:"!?”“_-') for word in text.lower().replace("\n", " ").split()]


subject(
    "data.text.clean_words",
    lambda text: data.text.clean_words(text),
    takes={"text": TEXTS},
    reference=cleaned,
)


def word_list(words):
    words = (
        list(words)
        if (np.ndim(words) <= 1 and not isinstance(words, np.ndarray)) or np.ndim(words) == 1
        else None
    )
    if words is None or not all(isinstance(word, str) for word in words):
        raise TypeError("no words")
    return words


subject(
    "data.text.vocabulary",
    lambda words: data.text.vocabulary(words),
    takes={"words": st.lists(TEXTS, max_size=5)},
    reference=lambda words: {word: i for i, word in enumerate(sorted(set(word_list(words))))},
    near={
        "words": st.sampled_from(
            [["a", 1], [None], [["a"]], *recipes("(w for w in 'abc')", "array(['a', 'b'])")]
        )
    },
)
VOCABULARY = {"bennet": 0, "mr": 1, "“": 2}


def vocabulary_of(codes):
    if not isinstance(codes, dict):
        raise TypeError("no vocabulary")
    return {word: integer(code, -(2**31)) for word, code in codes.items()}


def encoded(words, codes, unknown):
    words, codes = word_list(words), vocabulary_of(codes)
    unknown = None if unknown is None else integer(unknown, -(2**31))
    if unknown is None and any(word not in codes for word in words):
        raise ValueError("unknown")
    return np.array([codes.get(word, unknown) for word in words], np.int32)


subject(
    "data.text.encode",
    lambda words, codes, unknown: text.encode(words, codes, unknown=unknown),
    takes={
        "words": st.lists(st.sampled_from(sorted(VOCABULARY)), max_size=4),
        "codes": st.just(VOCABULARY),
        "unknown": st.sampled_from([None, 3, -1]),
    },
    reference=encoded,
    near={
        "words": st.sampled_from([["who"], "mr", [1]]),
        "codes": st.sampled_from([{"mr": 1.5}, {"mr": 2**40}, {"mr": "1"}, {}]),
    },
)


def decoded(numbers_, codes):
    words = {code: word for word, code in vocabulary_of(codes).items()}
    numbers_ = np.ravel(numbers(numbers_))
    if numbers_.size and numbers_.dtype.kind not in "iu":
        raise TypeError("no codes")
    return [words[int(n)] for n in numbers_]


subject(
    "data.text.decode",
    lambda numbers, codes: text.decode(numbers, codes),
    takes={"numbers": st.lists(st.integers(0, 2), max_size=4), "codes": st.just(VOCABULARY)},
    reference=lambda numbers, codes: decoded(numbers, codes),
    near={"numbers": st.sampled_from([[3], [-1], [0.0], [[0], [1]], 1])},
)


def looked_up(vectors, numbers_):
    vectors, numbers_ = numbers(vectors, "fc"), numbers(numbers_, "iu")
    if not vectors.ndim or (
        numbers_.size
        and (
            (numbers_.max() > 2**31 - 1 and numbers_.dtype != np.uint32)
            or numbers_.min() < -(2**31)
        )
    ):
        raise ValueError("no table")
    inside = (numbers_ >= 0) & (numbers_ < len(vectors))
    found = (
        vectors[np.where(inside, numbers_, 0).astype(int)]
        if len(vectors)
        else np.full((*numbers_.shape, *vectors.shape[1:]), np.nan)
    )
    return np.where(inside.reshape(*inside.shape, *[1] * (vectors.ndim - 1)), found, np.nan)


def as_float32(result, expected):
    with np.errstate(over="ignore"):
        same(
            np.asarray(result),
            expected.astype(np.complex64 if expected.dtype.kind == "c" else np.float32),
            rtol=1e-2,
        )


subject(
    "data.text.embed",
    lambda vectors, numbers: text.embed(vectors, numbers),
    takes={
        "vectors": st.sampled_from(recipes("arange(8.0).reshape(4, 2)", "jnp.ones((300, 2))")),
        "numbers": st.sampled_from(
            [[1, 1, 0], 2, *recipes("array([-1, 5], np.int8)", "array([[0, 3]], np.uint8)")]
        ),
    },
    reference=lambda vectors, numbers: looked_up(vectors, numbers),
    agrees=as_float32,
    near={
        "numbers": st.sampled_from(
            [
                [2**32],
                [0.5],
                *recipes("array([255], np.uint8)", "array([2**32 - 1], np.uint32)"),
            ]
        ),
        "vectors": st.sampled_from(recipes("arange(4)", "zeros((0, 2))")),
    },
    examples=(8, 40),
)
