"""Files that are written completely or not at all; one error for libraries that are missing."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` to write to.

    If the block ends without an error the temporary file is renamed to `path`, else it is
    removed.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "notes.txt")
    >>> with whole(target) as partial:
    ...     _ = partial.write_text("all of it")
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Write a file or a directory to the disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OURS = ("dlwp_jax", "experiments")


@contextlib.contextmanager
def needs(extra: str = "data") -> Iterator[None]:
    """Turn an `ImportError` inside the block into one that names the extra to install.

    >>> with needs("data"):
    ...     import a_library_that_is_not_there
    Traceback (most recent call last):
    ImportError: a_library_that_is_not_there is needed: pip install 'dlwp-jax[data]'
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).split(".")[0]
        if name in OURS or "pip install" in str(error):  # a fault of ours, or named already
            raise
        raise ImportError(
            f"{name} is needed: pip install 'dlwp-jax[{extra}]'", name=error.name
        ) from error
