"""What all readers share: one error for files that cannot be trusted, raised with the file's
name.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dlwp_jax import checks

MOST_TOLD = 240  # characters of a library's own complaint


class BrokenFile(ValueError):
    """A file that is not what its reader reads: truncated, damaged, ragged, or of another kind.

    >>> raise BrokenFile("cat.png: not a PNG or JPEG image.")
    Traceback (most recent call last):
    dlwp_jax.data.files.BrokenFile: cat.png: not a PNG or JPEG image.
    """


@contextlib.contextmanager
def reading(path: str | Path, kind: str, *causes: type[Exception]) -> Iterator[None]:
    """Turn a library's own failures inside the block into one `BrokenFile` that names the file.

    Args:
      path: the file being read.
      kind: what it should have been ("a WAV file"), for the message.
      causes: the exceptions that the library is known to raise for bad bytes. A missing file or
        a forbidden one stays what it is: there is nothing wrong with its bytes.

    Raises:
      BrokenFile: in place of any of `causes`.
      TypeError, ValueError: where the path is none.

    >>> with reading("words.txt", "text in UTF-8", UnicodeDecodeError):
    ...     b"\\xff".decode()
    Traceback (most recent call last):
    dlwp_jax.data.files.BrokenFile: words.txt cannot be read as text in UTF-8: 'utf-8' codec can't decode byte ...
    """
    checks.path(path)
    try:
        yield
    except (BrokenFile, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except causes as error:
        told = (
            " ".join(str(error).split()) or type(error).__name__
        )  # some libraries write paragraphs, the reason last
        told = told if len(told) <= MOST_TOLD else f"...{told[-MOST_TOLD:]}"
        raise BrokenFile(f"{path} cannot be read as {kind}: {told}") from error


def files_in(folder: str | Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of these suffixes (any case), by name; hidden files are
    left out.

    Raises:
      FileNotFoundError: where there is no such folder, or nothing in it ends so.

    >>> [path.name for path in files_in(Path(__file__).parent, ".typed", ".py")][0]
    '__init__.py'
    """
    checks.path(folder, "folder")
    for suffix in suffixes:
        checks.text(suffix, "a suffix")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    found = [
        p
        for p in sorted(folder.iterdir())
        if p.suffix.lower() in suffixes and not p.name.startswith(".")
    ]
    if not found:
        raise FileNotFoundError(f"{folder} holds no file that ends in {' or '.join(suffixes)}.")
    return found
