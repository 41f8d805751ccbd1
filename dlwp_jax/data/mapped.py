"""A large array on disk that is made once, part by part, and then mapped into memory.

Pieces that are cut out of large files (chapter 10: boxes out of scans) are read in another
order, and many times. They are cut once, into one `.npy` file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile
from dlwp_jax.files import flush, whole

PROGRESS = 2.0  # seconds between two lines


class Mapped(NamedTuple):
    """An array on disk.

    Attributes:
      array: `[n ...]`, read from the file as it is used; it cannot be written to.
      left_out: part -> why it could not be made. Its rows are 0.
    """

    array: np.ndarray
    left_out: dict[str, str]


def build(
    path: str | os.PathLike[str],
    parts: Mapping[str, int],
    make: Callable[[str], Any],
    *,
    shape: tuple[int, ...],
    dtype: Any,
    about: str = "",
    leave_out: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> Mapped:
    """Open an array on disk; make it first, part by part, if it is not there yet.

    Several threads make parts at once. A part is written down as finished when its rows are on
    the disk, so a call that was interrupted is continued by the next one, and the file gets its
    name when all of it is there.

    Args:
      path: the `.npy` file. Beside it stands a `.json` file that says what is in it.
      parts: name of each part -> its number of rows, in the order of the rows.
      make: the name of a part -> its rows `[n *shape]`. It is called in threads.
      shape: the shape of a row.
      dtype: the type of the numbers; rows of another type must fit into it.
      about: a description of how the rows are made. A file with another description, other
        parts, or another shape is refused, not overwritten.
      leave_out: leave out a part whose `make` raises `BrokenFile`, and go on. Otherwise its
        error is raised, and the parts that are finished stay.
      threads: the number of parts that are made at once; None takes one for each processor.
      progress: say on standard error how large the file becomes, and how far it is.

    Returns:
      A `Mapped`.

    Raises:
      OSError: if the disk has too little room, which is found out before anything is made.
      ValueError: if the file is of other parts, or is being made by another process, or `make`
        gives rows of another shape or type.

    >>> path = getfixture("tmp_path") / "rows.npy"
    >>> def make(name):
    ...     return np.full((2 if name == "b" else 1, 3), 7)
    >>> rows = build(path, {"a": 1, "b": 2}, make, shape=(3,), dtype=np.int16, progress=False)
    >>> rows.array.shape, rows.array[2].tolist(), rows.left_out
    ((3, 3), [7, 7, 7], {})
    """
    checks.path(path)
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path} must end in .npy.")
    counts = {str(name): checks.whole(n, f"parts[{name!r}]", 0) for name, n in parts.items()}
    shape, dtype = tuple(shape), np.dtype(dtype)
    wanted = {
        "about": about,
        "shape": list(shape),
        "dtype": dtype.str,
        "parts": counts,
    }
    record = path.with_suffix(".json")
    if path.exists() and record.exists():
        return _opened(path, record, wanted, leave_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        journal = _Journal(path.with_suffix(".unfinished"), wanted)
        partial = path.with_suffix(".partial")
        first = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
        rows = sum(counts.values())
        row_bytes = dtype.itemsize * int(np.prod(shape))
        start = _header(partial, (rows, *shape), dtype)
        missing = [name for name in counts if name not in journal.finished]
        size = rows * row_bytes
        need = sum(counts[name] for name in missing) * row_bytes
        _require_room(path, need)
        meter = _Meter(path, size, len(counts), len(counts) - len(missing), progress)

        def one(name: str) -> None:
            try:
                made = _rows(make(name), name, (counts[name], *shape), dtype)
            except BrokenFile as error:
                if not leave_out:
                    raise
                journal.add(name, str(error))
                return
            with partial.open("r+b") as file:
                file.seek(start + first[name] * row_bytes)
                file.write(made.tobytes())
                file.flush()
                os.fsync(file.fileno())
            journal.add(name, None)

        workers = threads or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            tasks = [pool.submit(one, name) for name in missing]
            try:
                for task in tasks:
                    task.result()
                    meter.step()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        flush(partial)
        wanted["left_out"] = {n: why for n, why in journal.finished.items() if why is not None}
        with whole(record) as unnamed:
            unnamed.write_text(json.dumps(wanted))
        os.replace(partial, path)  # the last step: without it the next call makes all anew
        journal.path.unlink()
    return _opened(path, record, wanted, leave_out)


def _rows(made: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Rows in the file's type, or an error if they do not fit."""
    array = np.asarray(made)
    if array.shape != shape:
        raise ValueError(f"part {name!r} has shape {array.shape}; {shape} is needed.")
    with np.errstate(invalid="ignore"):  # NaN as a whole number is found below
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not (cast == array).all():
        raise ValueError(f"part {name!r} holds numbers that do not fit into {dtype}.")
    return np.ascontiguousarray(cast)


def _opened(path: Path, record: Path, wanted: dict[str, Any], leave_out: bool) -> Mapped:
    """The finished file, if it is of these parts."""
    found = json.loads(record.read_text())
    left_out = found.pop("left_out")
    asked = {key: value for key, value in wanted.items() if key != "left_out"}
    differing = [key for key, value in asked.items() if found.get(key) != value]
    if differing:
        raise ValueError(
            f"{path} was made of other {' and '.join(differing)}; name another file, or delete "
            "it."
        )
    if left_out and not leave_out:
        name, why = next(iter(left_out.items()))
        raise BrokenFile(f"{path} was made without {name!r}: {why}")
    return Mapped(np.load(path, mmap_mode="r"), left_out)


def _header(partial: Path, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Make the unfinished file unless it is there; gives the place of the first row."""
    if not partial.exists():
        with whole(partial) as unnamed, unnamed.open("wb") as file:
            about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, about)
            file.truncate(file.tell() + dtype.itemsize * int(np.prod(shape)))
    with partial.open("rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (2, 0)
        np.lib.format.read_array_header_2_0(file)
        return file.tell()


class _Journal:
    """Which parts are on the disk: one line for each, after a line that says of what array."""

    def __init__(self, path: Path, wanted: dict[str, Any]):
        self.path = path
        self.finished: dict[str, str | None] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        # Without the unfinished file the journal speaks of rows that are gone.
        is_there = path.with_suffix(".partial").exists()
        if is_there and lines and json.loads(lines[0]) == wanted:
            for line in lines[1:]:
                # The last line may be cut off; its part is made once more.
                with contextlib.suppress(json.JSONDecodeError):
                    name, why = json.loads(line)
                    self.finished[name] = why
        else:
            path.with_suffix(".partial").unlink(missing_ok=True)
        lines = [json.dumps(wanted), *(json.dumps(item) for item in self.finished.items())]
        with whole(path) as unnamed:
            unnamed.write_text("".join(f"{line}\n" for line in lines))

    def add(self, name: str, why: str | None) -> None:
        """A part is finished: it is on the disk, or cannot be made."""
        with self.path.open("a") as file:
            file.write(json.dumps([name, why]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished[name] = why


class _Meter:
    """Lines on standard error: the size before, and then how far it is."""

    def __init__(self, path: Path, size: int, parts: int, done: int, shown: bool):
        self.path, self.parts, self.done, self.shown = path, parts, done, shown
        self.begin = self.last = time.monotonic()
        self.before = done
        if shown:
            goes_on = f", {done} of {parts} parts are there" if done else ""
            self._say(f"making {path}: {parts} parts, {size / 1e6:,.1f} MB{goes_on}")

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        is_end = self.done == self.parts
        if not self.shown or (now - self.last < PROGRESS and not is_end):
            return
        self.last = now
        seconds = now - self.begin
        left = seconds * (self.parts - self.done) / (self.done - self.before)
        rest = "" if is_end else f", {left:.0f} s left"
        self._say(f"{self.path.name}: {self.done} of {self.parts} parts, {seconds:.1f} s{rest}")

    def _say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)


def _require_room(path: Path, need: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise OSError(
            f"{path} needs {need / 1e6:,.0f} MB more, and its disk has {free / 1e6:,.0f} MB "
            "free; name a folder on another disk."
        )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file for this process; the system lets go of it if the process is killed."""
    import fcntl

    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being made by another process; wait for it.") from None
        yield
