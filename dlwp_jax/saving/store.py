"""The files of a checkpoint, each written completely or not at all. Orbax writes the arrays.

A directory of checkpoints contains

    lock                    locked (flock) by the process that trains, and names it
    checkpoint-000012/      is never changed after it has this name
        arrays/             Orbax's files: {path of a leaf: array}
        about.json          leaves, settings, data, versions, and how far the training is
        SHA256SUMS          of every other file, in the format of sha256sum(1)
    .partial-*              is being written or deleted; the next process to train removes it
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from dlwp_jax.devices import processes as hosts
from dlwp_jax.files import flush
from dlwp_jax.leaves import as_was, plain, shapes

PyTree = Any
About = dict[str, Any]
SUMS, ABOUT, ARRAYS = "SHA256SUMS", "about.json", "arrays"


class CheckpointError(ValueError):
    """A checkpoint is damaged, belongs to another training, or could not be written."""


class Store:
    """A directory of checkpoints that is open for writing, by one process at a time.

    Args:
      directory: is made if it does not exist.
      keep: how many checkpoints are kept; older ones are deleted.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int):
        _orbax()  # if Orbax is missing, fail before the training and not after it
        self.path: Path = Path(os.path.abspath(directory))
        self.keep: int = keep
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        except OSError as error:
            raise type(error)(
                f"checkpoints cannot be written to {self.path} ({error.strerror}); name a "
                "directory that can be."
            ) from error
        self._tidy()
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Any] | None = None

    def save(self, tree: PyTree, about: About) -> None:
        """Copy the arrays of `tree` and begin to write them, after the save before has ended.

        Raises:
          CheckpointError: if the save before failed, or the disk has too little room. The
            checkpoints that exist are not changed.
        """
        self.wait()
        number = max((_number(path) for path in saved(self.path)), default=0) + 1
        # The name is new each time: threads of a save that failed may still write to the old.
        partial = self.path / f".partial-{number:06d}-{time.monotonic_ns()}"
        # If there are many processes, Orbax takes a JAX array for one that all of them save.
        copy = np.array if hosts.many() else jnp.copy
        arrays = {name: copy(leaf) for name, leaf in plain(tree).items()}
        about = about | {"leaves": shapes(tree)}
        with _as_checkpoint_error(self.path):
            _require_room(self.path, sum(array.nbytes for array in arrays.values()))
            partial.mkdir()
            written = _begin_to_save(partial / ARRAYS, arrays)
        self._pending = self._worker.submit(self._finish, written, partial, number, about)

    def _finish(
        self, written: Callable[[], None], partial: Path, number: int, about: About
    ) -> None:
        """Wait for Orbax, add other files, rename the folder, and delete old checkpoints."""
        try:
            written()
            (partial / ABOUT).write_text(json.dumps(about))
            seal(partial)
            os.rename(partial, self.path / f"checkpoint-{number:06d}")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush(self.path)
        for old in saved(self.path)[: -self.keep]:
            partial = self.path / f".partial-old-{old.name}"
            os.rename(old, partial)
            shutil.rmtree(partial, ignore_errors=True)

    @property
    def busy(self) -> bool:
        """Whether a save is going on."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Wait for the save that is going on.

        Raises:
          CheckpointError: if it failed.
        """
        pending = self._pending
        self._pending = None
        error = None if pending is None else pending.exception()
        if error is not None:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Wait for the save that is going on, and unlock the directory."""
        self._worker.shutdown()
        self._tidy()
        _locks.remove(self._lock)
        os.close(self._lock)

    def _tidy(self) -> None:
        for partial in self.path.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def saved(directory: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a directory, damaged ones too, the oldest first."""
    found = []
    for path in Path(directory).glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", path.name):
            found.append(path)
    return sorted(found, key=_number)


def newest(
    directory: str | os.PathLike[str], misfit: Callable[[About], str | None]
) -> tuple[Path, About] | None:
    """The newest checkpoint and the contents of its about.json; None if there is none.

    Args:
      directory: of checkpoints.
      misfit: a function of the contents of about.json. It returns the reason why that
        checkpoint cannot be used, or None.

    Raises:
      CheckpointError: if the newest is damaged or cannot be used. The message names the newest
        that can.
    """
    paths = saved(directory)
    if not paths:
        return None
    wrong, about = _judged(paths[-1], misfit)
    if wrong is None:
        return paths[-1], about
    cure = "No other one there can be taken; name another directory to begin anew."
    for path in reversed(paths[:-1]):
        if _judged(path, misfit)[0] is None:
            cure = f"The last good one is {path}: move {paths[-1].name} away to go on from it."
            break
    raise CheckpointError(f"{paths[-1]} {wrong} {cure}")


def _judged(path: Path, misfit: Callable[[About], str | None]) -> tuple[str | None, About]:
    wrong = damage(path)
    about = {} if wrong else json.loads((path / ABOUT).read_text())
    return wrong or misfit(about), about


def load(path: Path, like: PyTree) -> PyTree:
    """The arrays of a checkpoint, in the structure, dtypes and shardings of `like`."""
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in plain(like).items()
    }
    return fitted(_orbax().load(os.path.abspath(path / ARRAYS), wanted), like)


def read(path: Path, like: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, read by this process alone.

    Args:
      path: of the checkpoint.
      like: the result of `plain`, for dtypes and shapes.
    """
    wanted = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in like.items()}
    with _in_this_process():
        arrays = _orbax().load(os.path.abspath(path / ARRAYS), wanted)
    return {name: np.asarray(array) for name, array in arrays.items()}


def fitted(arrays: Mapping[str, Any], like: PyTree) -> PyTree:
    """Arrays by the paths of leaves, put into the structure of `like`."""

    def leaf_of(path, leaf):
        if not leaf.size:  # empty arrays were not written
            return leaf
        return as_was(arrays[keystr(path)], leaf)

    return jax.tree_util.tree_map_with_path(leaf_of, like)


def _begin_to_save(path: Path, arrays: Mapping[str, Any]) -> Callable[[], None]:
    """Begin to write arrays in this process alone; the function returned waits for the end."""
    if not hosts.many():
        return _orbax().save_async(str(path), dict(arrays)).result
    # Orbax's v1 lets all processes take part in a save. Its first interface can save in one
    # process alone, and v1 reads the same files.
    from orbax import checkpoint as orbax

    here = orbax.options.MultiprocessingOptions(
        primary_host=hosts.index(), active_processes={hosts.index()}
    )
    handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=here)
    saver = orbax.AsyncCheckpointer(handler, multiprocessing_options=here)
    saver.save(str(path), orbax.args.PyTreeSave(dict(arrays)))
    return saver.close


@contextlib.contextmanager
def _in_this_process() -> Iterator[None]:
    """Let Orbax read in this process alone."""
    if not hosts.many():
        yield
        return
    context = _orbax().Context()
    context.multiprocessing.primary_host = hosts.index()
    context.multiprocessing.active_processes = {hosts.index()}
    with context:
        yield


def _orbax() -> Any:
    try:
        from orbax.checkpoint import v1
    except ImportError as error:
        raise ImportError(
            "checkpoints need a newer Orbax: pip install 'dlwp-jax[checkpoint]'"
        ) from error
    return v1


# Checksums of the files of a checkpoint.


def seal(path: Path) -> None:
    """Write SHA256SUMS for the files below a directory, and flush all of them to the disk."""
    sums = {name: _sha256(path / name) for name in _files(path)}
    (path / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    for name in (*sums, SUMS):
        flush(path / name)
    for folder in path.rglob("*"):
        if folder.is_dir():
            flush(folder)
    flush(path)


def damage(path: Path) -> str | None:
    """The first fault found in the files of a directory with SHA256SUMS, or None."""
    sealed = path / SUMS
    if not sealed.is_file():
        return f"is damaged: {SUMS} is missing."
    text = sealed.read_bytes().decode(errors="replace")
    sums = {}
    for line in text.split("\n"):
        digest, _, name = line.partition("  ")
        if name:
            sums[name] = digest
    written = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    if ABOUT not in sums or written != text:
        return f"is damaged: {SUMS} is not what was written."
    for name, digest in sums.items():
        if not (path / name).is_file():
            return f"is damaged: the file {name} is missing."
        if _sha256(path / name) != digest:
            return f"is damaged: the file {name} is not what was written (its SHA-256 differs)."
    return None


def _files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _lock(directory: Path) -> int:
    """Lock a directory for as long as this process lives; returns the open file of the lock."""
    import fcntl

    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 100).decode(errors="replace").strip()
        os.close(descriptor)
        raise CheckpointError(
            f"{directory} is in use: {holder or 'another process'} trains there; wait for it, "
            "or name another one."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
    _locks.add(descriptor)
    return descriptor


_locks: set[int] = set()  # open files of the locks of this process


def _close_locks() -> None:
    while _locks:
        os.close(_locks.pop())


# A forked worker of a data loader may outlive its parent, and must not keep the lock.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def _require_room(path: Path, size: int) -> None:
    """Raise an OSError if a disk has less than `size` bytes free.

    If Orbax fills the disk, its threads print dozens of tracebacks.
    """
    disk = shutil.disk_usage(path)
    if disk.total and disk.free < size:  # some file systems give 0 for the total
        raise OSError(f"it takes {size:,} bytes, and {disk.free:,} are free there.")


@contextlib.contextmanager
def _as_checkpoint_error(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(directory, error) from error


def _failed(directory: Path, error: BaseException) -> CheckpointError:
    lines = (str(error) or type(error).__name__).strip().splitlines()
    return CheckpointError(
        f"no checkpoint could be written to {directory}: {lines[0]} The ones before it are "
        "untouched."
    )
