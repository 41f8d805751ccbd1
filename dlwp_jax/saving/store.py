"""Checkpoints: what a training holds, on disk, whole or not at all (over Orbax).

    fit(learner, state, train, val, epochs=100, batch_size=64, checkpoint="runs/digits")   # killed: call it again

A directory of checkpoints holds

    lock                    held by the process that trains (flock: it dies with it), with its number inside
    checkpoint-000012/      never changed once it has this name
        arrays/             Orbax's files: {path of a leaf: array}
        about.json          whose arrays they are: leaves, settings, data, versions, how far
        SHA256SUMS          of every other file, as sha256sum(1) writes and checks it
    .partial-*              being written or deleted; whoever opens the directory next removes it
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
from dlwp_jax.leaves import as_was, is_key

PyTree = Any
About = dict[str, Any]
SUMS, ABOUT, ARRAYS = "SHA256SUMS", "about.json", "arrays"


class CheckpointError(ValueError):
    """A checkpoint that cannot be taken: damaged, or of another training. The message names
    what is wrong.
    """


class Store:
    """A directory of checkpoints, the newest `keep` of them, open for writing. Only one process
    has it.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int):
        _orbax()  # missed now, and not when there is a training to lose
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
        """Begin to save the arrays of `tree`, which may be given away at once; the last save is
        waited for first.

        Raises:
          CheckpointError: where the last save failed. What was there before it still is.
        """
        self.wait()
        number = max((_number(path) for path in saved(self.path)), default=0) + 1
        # Under a name of its own: threads of a save that failed may linger in theirs.
        partial = self.path / f".partial-{number:06d}-{time.monotonic_ns()}"
        copied = (
            np.array if hosts.many() else jnp.copy
        )  # to Orbax arrays of JAX are those of all processes
        arrays = {name: copied(leaf) for name, leaf in plain(tree).items()}
        about = about | {"leaves": shapes(tree)}
        with _told(self.path):
            _require_room(self.path, sum(array.nbytes for array in arrays.values()))
            partial.mkdir()
            written = _begin_to_save(partial / ARRAYS, arrays)
        self._pending = self._worker.submit(self._finish, written, partial, number, about)

    def _finish(
        self, written: Callable[[], None], partial: Path, number: int, about: About
    ) -> None:
        """Wait for Orbax; describe and seal; give the checkpoint its name; drop those that are
        one too many.
        """
        try:
            written()
            (partial / ABOUT).write_text(json.dumps(about))
            seal(partial)
            os.rename(partial, self.path / f"checkpoint-{number:06d}")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush(self.path)
        for old in saved(self.path)[: -self.keep]:
            os.rename(old, gone := self.path / f".partial-old-{old.name}")
            shutil.rmtree(gone, ignore_errors=True)

    @property
    def busy(self) -> bool:
        """Whether a save is going on."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Wait for the save that is going on.

        Raises:
          CheckpointError: where it failed.
        """
        pending, self._pending = self._pending, None
        error = None if pending is None else pending.exception()
        if error is not None:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Let go of the directory, after the save that is going on."""
        self._worker.shutdown()
        self._tidy()
        _held.remove(self._lock)
        os.close(self._lock)

    def _tidy(self) -> None:
        for partial in self.path.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def saved(directory: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a directory, the oldest first, whole or damaged."""
    found = [
        path
        for path in Path(directory).glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    ]
    return sorted(found, key=_number)


def newest(
    directory: str | os.PathLike[str], misfit: Callable[[About], str | None]
) -> tuple[Path, About] | None:
    """The newest checkpoint and what it says about itself; None where there is none.

    Args:
      directory: of checkpoints.
      misfit: tells from `about` why a checkpoint cannot be taken, or None.

    Raises:
      CheckpointError: where the newest is damaged or does not fit. It names the newest that
        does.
    """
    paths = saved(directory)
    if not paths:
        return None
    wrong, about = _judged(paths[-1], misfit)
    if wrong is None:
        return paths[-1], about
    good = next((path for path in paths[-2::-1] if _judged(path, misfit)[0] is None), None)
    offer = (
        f"The last good one is {good}: move {paths[-1].name} away to go on from it."
        if good
        else "No other one there can be taken; name another directory to begin anew."
    )
    raise CheckpointError(f"{paths[-1]} {wrong} {offer}")


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
    """The arrays of a checkpoint, in the dtypes and shapes of `like` (of `plain`), read by this
    process alone.
    """
    wanted = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in like.items()}
    with _in_this_process():
        arrays = _orbax().load(os.path.abspath(path / ARRAYS), wanted)
    return {name: np.asarray(array) for name, array in arrays.items()}


def fitted(arrays: Mapping[str, Any], like: PyTree) -> PyTree:
    """Arrays under the paths of leaves, in the structure of `like`."""

    def leaf_of(path, leaf):
        return (
            as_was(arrays[keystr(path)], leaf) if leaf.size else leaf
        )  # the empty ones were not written

    return jax.tree_util.tree_map_with_path(leaf_of, like)


def _begin_to_save(path: Path, arrays: Mapping[str, Any]) -> Callable[[], None]:
    """Begin to write arrays in this process alone; the function that waits for the end."""
    if not hosts.many():
        return _orbax().save_async(str(path), dict(arrays)).result
    # Orbax's v1 asks all processes when it saves. Its first interface can be told that one
    # process saves alone, and v1 reads the same files.
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


# Leaves: what JAX holds, as what can be written.


def plain(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves under their paths; keys as their numbers, and without the empty ones, which
    Orbax cannot hold.
    """
    leaves = {keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {
        name: jax.random.key_data(leaf) if is_key(leaf) else leaf
        for name, leaf in leaves.items()
        if leaf.size
    }


# Files: sealed by the checksums of all of them.


def seal(path: Path) -> None:
    """Write SHA256SUMS over the files below a directory, and see all of them to the disk."""
    sums = {name: _sha256(path / name) for name in _files(path)}
    (path / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    for name in (*sums, SUMS):
        flush(path / name)
    for folder in (*(p for p in path.rglob("*") if p.is_dir()), path):
        flush(folder)


def damage(path: Path) -> str | None:
    """What is wrong with the files of a sealed directory, naming one, or None."""
    sealed = path / SUMS
    if not sealed.is_file():
        return f"is damaged: {SUMS} is missing."
    lines = sealed.read_bytes().decode(errors="replace").splitlines(keepends=True)
    sums = dict(line.removesuffix("\n").split("  ", 1)[::-1] for line in lines if "  " in line)
    if ABOUT not in sums or "".join(
        f"{digest}  {name}\n" for name, digest in sums.items()
    ) != "".join(lines):
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
    """An open file that holds the directory for this process as long as it lives."""
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
    _held.add(descriptor)
    return descriptor


_held: set[int] = set()  # the locks of this process


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(
    os, "register_at_fork"
):  # a loader's forked worker may outlive a process that is killed
    os.register_at_fork(after_in_child=_let_go)


def _require_room(path: Path, size: int) -> None:
    """Refuse what a disk cannot hold: where Orbax runs into its end, its threads print dozens
    of tracebacks.
    """
    disk = shutil.disk_usage(path)
    if disk.total and disk.free < size:  # file systems that do not tell have a total of 0
        raise OSError(f"it takes {size:,} bytes, and {disk.free:,} are free there.")


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
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


def shapes(tree: PyTree) -> dict[str, list[Any]]:
    """Path -> [dtype, shape] of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {keystr(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def fingerprint(tree: PyTree) -> dict[str, list[Any]]:
    """Path -> [dtype, shape, SHA-256 of the values] of each leaf."""
    return {
        name: [str(leaf.dtype), list(leaf.shape), _digest(leaf)]
        for name, leaf in plain(tree).items()
    }


def _digest(leaf: jax.Array) -> str:
    data = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    return hashlib.sha256(data.data).hexdigest()


def differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """The first name whose values in `now` and `then` differ, or None."""
    return next((name for name in {**now, **then} if now.get(name) != then.get(name)), None)
