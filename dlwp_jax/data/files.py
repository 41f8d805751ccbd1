"""The parts that all readers share: one error for bad files, and one for missing libraries."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dlwp_jax import checks
from dlwp_jax.files import needs

__all__ = ["BrokenFile", "needs", "reading"]

MOST_SHOWN = 240  # characters of a library's own complaint


class BrokenFile(ValueError):
    """A file that its reader cannot read: truncated, damaged, ragged, or of another kind.

    >>> raise BrokenFile("cat.png: not a picture.")
    Traceback (most recent call last):
    dlwp_jax.data.files.BrokenFile: cat.png: not a picture.
    """


@contextlib.contextmanager
def reading(path: str | Path, kind: str, *causes: type[Exception]) -> Iterator[None]:
    """Turn a library's own failures inside the block into one `BrokenFile` that names the file.

    Args:
      path: the file being read.
      kind: the kind of file that is expected ("a WAV file"), for the message.
      causes: the exceptions that the library is known to raise for bad bytes. A missing or a
        forbidden file stays the error that it is: nothing is wrong with its bytes.

    Raises:
      BrokenFile: in place of any of `causes`.
      TypeError, ValueError: if `path` is not a path.

    >>> with reading("words.txt", "text in UTF-8", UnicodeDecodeError):
    ...     b"\\xff".decode()
    Traceback (most recent call last):
    dlwp_jax.data.files.BrokenFile: words.txt cannot be read as text in UTF-8: 'utf-8' codec ...
    """
    checks.path(path)
    try:
        yield
    except (BrokenFile, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except causes as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if len(reason) > MOST_SHOWN:  # some libraries write paragraphs, the reason last
            reason = f"...{reason[-MOST_SHOWN:]}"
        raise BrokenFile(f"{path} cannot be read as {kind}: {reason}") from error


def files_in(folder: str | Path, *suffixes: str) -> list[Path]:
    """The files of a folder that have one of these suffixes (in any case), sorted by name.

    Hidden files are left out. Without suffixes every file is taken.

    Raises:
      FileNotFoundError: if there is no such folder, or no such file in it.

    >>> [path.name for path in files_in(Path(__file__).parent, ".typed", ".py")][0]
    '__init__.py'
    """
    checks.path(folder, "folder")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    if suffixes:
        found = [path for path in found if path.suffix.lower() in suffixes]
    if not found:
        ends = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise FileNotFoundError(f"{folder} holds no file{ends}.")
    return found
