"""Callbacks that write the history to files as it grows: a CSV table, TensorBoard's events."""

import csv
import io
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlwp_jax import checks
from dlwp_jax.devices import processes as hosts
from dlwp_jax.files import needs, whole

if TYPE_CHECKING:
    from dlwp_jax.train.fit import Progress

Row = dict[str, str]


def to_csv(path: str | os.PathLike[str]) -> "ToCsv":
    """A callback of `fit` that writes the history to a CSV file, a row after every epoch.

    The first column, `epoch`, counts from `make_learner`. A training that goes on, from a
    checkpoint or from the state of an earlier `fit`, goes on in the file: earlier epochs stay,
    and no epoch comes twice. A metric that is added later is empty in the epochs before. If the
    file is of another training, it is kept under another name: `history.1.csv`.

    Args:
      path: the file; its folder is made if it is missing.

    Raises:
      TypeError, IsADirectoryError: if `path` is no path, or a folder.

    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import every, fit, make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch) - 1) ** 2), {}
    >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> pair = make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    >>> path = Path(tempfile.mkdtemp(), "history.csv")
    >>> options = {"epochs": 2, "batch_size": 4, "progress": False}
    >>> _ = fit(*pair, jnp.ones((4, 1)), callbacks=[to_csv(path)], **options)
    >>> [line.split(",")[0] for line in path.read_text().splitlines()]
    ['epoch', '1', '2']
    """
    checks.path(path)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; to_csv writes a file, history.csv in it?")
    return ToCsv(path)


class ToCsv:
    """The callback that `to_csv` gives."""

    def __init__(self, path: Path):
        self.path = path
        self._job: Callable[[], Any] = lambda: None  # a weak reference: it holds all arrays
        self._written = 0  # epochs of this call of `fit`
        self._names: list[str] = []

    def __call__(self, progress: "Progress") -> None:
        """Write the epochs that are not in the file yet."""
        if not hosts.is_writer():
            return
        if self._job() is not progress._job:
            self._begin(progress)
        else:
            rows = _rows(progress, self._written)
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_text(self._names, rows))
        self._job, self._written = weakref.ref(progress._job), progress.epoch

    def _begin(self, progress: "Progress") -> None:
        """Write the whole file: the epochs before this call, and those of this call."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = _rows(progress, 0)
        before = _read(self.path)
        first = int(rows[0]["epoch"])
        if before is None or _differ(before, rows):
            os.replace(self.path, _free(self.path))
            before = []
        earlier = [row for row in before if int(row["epoch"]) < first]
        names = list(rows[0])
        names += [name for row in earlier[:1] for name in row if name not in rows[0]]
        self._names = names
        with whole(self.path) as partial:
            header = ",".join(_field(name) for name in names) + "\r\n"
            text = header + _text(names, earlier + rows)
            partial.write_bytes(text.encode())


def _field(text: str) -> str:
    return _text([text], [{text: text}]).removesuffix("\r\n")


def _text(names: list[str], rows: list[Row]) -> str:
    file = io.StringIO()
    csv.DictWriter(file, names, restval="").writerows(rows)
    return file.getvalue()


def _rows(progress: "Progress", done: int) -> list[Row]:
    """The rows of this call's epochs after the first `done`."""
    before = epochs_before(progress)
    rows = []
    for i in range(done, progress.epoch):
        row = {"epoch": str(before + i + 1)}
        rows.append(
            row | {name: _shown(column[i]) for name, column in progress.history.items()}
        )
    return rows


def _shown(value: np.generic) -> str:
    """The shortest decimal number that gives this value again; nothing for NaN, as pandas."""
    return "" if np.isnan(value) else str(value)


def epochs_before(progress: "Progress") -> int:
    """The epochs that the state had seen when this call began."""
    return int(progress._job.loop.state.epoch) - progress.epoch


def _read(path: Path) -> list[Row] | None:
    """The rows of a file, without a last one that was cut off; None if they are no history."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(complete, newline="")))
    if not complete:
        return None if text else []
    is_history = complete.startswith("epoch,") and all(row["epoch"].isdigit() for row in rows)
    return rows if is_history else None


def _differ(before: list[Row], rows: list[Row]) -> bool:
    """Whether two tables have another value of one column in one epoch."""
    known = {row["epoch"]: row for row in before}
    for row in rows:
        old = known.get(row["epoch"], {})
        if any(old[name] not in ("", row[name]) for name in row if name in old):
            return True
    return False


def _free(path: Path) -> Path:
    """The first of history.1.csv, history.2.csv, ... that does not exist."""
    number = 1
    while (other := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return other


def to_tensorboard(directory: str | os.PathLike[str]) -> "ToTensorBoard":
    """A callback of `fit` that writes the history for TensorBoard, after every epoch.

    Steps are epochs, counted from `make_learner`. A training that goes on, from a checkpoint or
    from the state of an earlier `fit`, goes on in the same curves: earlier epochs stay, and
    those that are trained again replace the ones that were lost. Each training needs a folder
    of its own.

    Args:
      directory: the folder that `tensorboard --logdir` is given, or one in it.

    Raises:
      ImportError: if tensorboardX is missing: pip install 'dlwp-jax[tensorboard]'.
      TypeError, NotADirectoryError: if `directory` is no path, or a file.
    """
    checks.path(directory, "directory")
    with needs("tensorboard"):
        import tensorboardX  # noqa: F401
    directory = Path(directory)
    if directory.is_file():
        raise NotADirectoryError(f"{directory} is a file; to_tensorboard writes to a folder.")
    return ToTensorBoard(directory)


class ToTensorBoard:
    """The callback that `to_tensorboard` gives."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._job: Callable[[], Any] = lambda: None  # a weak reference: it holds all arrays
        self._writer: Any = None
        self._close: Any = None
        self._written = 0

    def __call__(self, progress: "Progress") -> None:
        """Write the epochs that are not there yet."""
        if not hosts.is_writer():
            return
        from tensorboardX.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboardX.summary import scalar

        before = epochs_before(progress)
        if self._job() is not progress._job:
            self._begin(before + 1)
            self._job, self._written = weakref.ref(progress._job), 0
        for i in range(self._written, progress.epoch):
            for name, column in progress.history.items():
                if not np.isnan(column[i]):
                    value = scalar(name, column[i])
                    event = Event(wall_time=time.time(), step=before + i + 1, summary=value)
                    self._writer.write_event(event)
        self._written = progress.epoch
        self._writer.flush()

    def _begin(self, step: int) -> None:
        """Open a file, after which TensorBoard drops the older events from a step on.

        The writer is the one without a thread, so that the last epochs are on the disk, too, if
        the program ends. Names of files have seconds: without a number a second file would
        replace the first.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )

        if self._close is not None:
            self._close()
        self.directory.mkdir(parents=True, exist_ok=True)
        number = len(list(self.directory.iterdir()))
        self._writer = EventsWriter(str(self.directory / "events"), f".{number:06}")
        self._close = weakref.finalize(self, self._writer.close)
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))
