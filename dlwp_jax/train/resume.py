"""`fit(..., checkpoint=...)`: when a training is saved, and how it is resumed."""

import ast
import contextlib
import numbers
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from dlwp_jax.checks import describe, path, whole
from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.leaves import plain, shapes
from dlwp_jax.saving.store import (
    About,
    CheckpointError,
    Store,
    fitted,
    load,
    newest,
    read,
)
from dlwp_jax.train.identity import (
    changed_at_start,
    wrong_call,
    wrong_format,
    wrong_leaves,
)
from dlwp_jax.train.loop import Loop, Run, history_until, result
from dlwp_jax.train.metrics import Ratio
from dlwp_jax.train.state import TrainState, check_state
from dlwp_jax.train.streams import Replayable

PyTree = Any


@dataclass(frozen=True)
class Checkpoint:
    """The directory where `fit` saves a training, and how often.

    `fit` also saves at its end, at Ctrl-C, at SIGTERM (the process then ends), and before it
    passes on an exception from a callback or a stream.

    Attributes:
      directory: for the checkpoints of one training; is made if it does not exist.
      every_epochs: save after so many epochs, or None. A compiled chunk ends at each save, so
        if epochs are tiny, saving by time is faster.
      every_seconds: save if so many seconds have passed since the last save, also within an
        epoch; None switches this off.
      keep: how many checkpoints are kept. Each contains the best state too.
      extend: allow more `epochs` than in the call that began the training.
      exact: True refuses to resume if the result could differ from that of an uninterrupted
        training: other versions of the libraries, another program of a step (model, loss,
        optimizer, learning rate), other data, another start, another number of devices. False
        requires only equal shapes, dtypes and settings; metrics may be added, and are NaN in
        the epochs before.
    """

    directory: str | os.PathLike[str]
    every_epochs: int | None = None
    every_seconds: float | None = 30.0
    keep: int = 2
    extend: bool = False
    exact: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.directory, str | os.PathLike) or not str(self.directory):
            raise TypeError(
                "checkpoint must be a directory's path or a Checkpoint; got "
                f"{describe(self.directory)}."
            )
        path(self.directory, "checkpoint")
        if "://" in str(self.directory):
            raise ValueError(
                f"checkpoint must be a path of a mounted file system; got {self.directory!r}."
            )
        if self.every_epochs is not None:
            whole(self.every_epochs, "every_epochs", 1)
        seconds = self.every_seconds
        if seconds is not None and not (isinstance(seconds, numbers.Real) and seconds >= 0):
            raise ValueError(f"every_seconds must be 0 or more, or None; got {seconds!r}.")
        whole(self.keep, "keep", 1)


def as_checkpoint(
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
) -> Checkpoint | None:
    """The `Checkpoint` that the argument of `fit` stands for."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    return Checkpoint(checkpoint)


def restore(directory: str | os.PathLike[str], state: TrainState) -> Run:
    """The training in the newest checkpoint of a directory.

    If there are many processes, all of them must call it; number 0 reads the files.

    Args:
      directory: `fit`'s `checkpoint`.
      state: of the same model and optimizer, from `make_learner`; its values are not used.

    Returns:
      The `Run` so far. Its `state` may be in the midst of an epoch.

    Raises:
      CheckpointError: if there is none, it is damaged, or it belongs to another model or
        optimizer; the message names the newest that can be used.
    """
    path(directory, "directory")
    check_state(state)

    def misfit(about):
        return wrong_format(about) or wrong_leaves(shapes(state), about["state"])

    def find() -> tuple[Path, About]:
        found = newest(directory, misfit)
        if found is None:
            raise CheckpointError(f"there is no checkpoint in {directory}.")
        return found

    found = hosts.by_writer("looking for a checkpoint", find)
    about = hosts.first("the checkpoint", found and found[1])
    loop = _loaded(found and found[0], _like(about, state))
    history = history_until(loop, int(loop.done) + (not bool(loop.alive)))
    return result(loop, {name: jnp.asarray(column) for name, column in history.items()})


def _like(about: About, state: TrainState) -> Loop:
    """A loop of the saved shapes, around a state."""
    fields: dict[str, Any] = {}
    for name, (dtype, shape) in about["leaves"].items():
        # `.done`, `.history['train/loss']`, `.totals['loss'].numerator`
        match = re.fullmatch(r"\.(\w+)(?:\[(.*)\](?:\.(\w+))?)?", name)
        if match is None or match[1] in ("state", "best"):
            continue
        field, key, part = match.groups()
        zeros = jnp.zeros(shape, dtype)
        if key is None:
            fields[field] = zeros
        elif part is None:
            fields.setdefault(field, {})[ast.literal_eval(key)] = zeros
        else:
            parts = fields.setdefault(field, {}).setdefault(ast.literal_eval(key), {})
            parts[part] = zeros
    totals = {name: Ratio(**parts) for name, parts in fields.pop("totals").items()}
    return Loop(state=state, best=state, totals=totals, **fields)


class Saver:
    """Resumes a training, and saves it as it goes.

    Args:
      settings: when to save.
      store: the open directory; None in the processes that do not write.
      call: the description of this call (`describe_call`).
      stream: the training's stream, if it has one.

    Attributes:
      called: the last epoch whose callbacks have answered.
    """

    def __init__(
        self, settings: Checkpoint, store: Store | None, call: About, stream: Replayable | None
    ):
        self.settings, self._store, self.call, self.stream = settings, store, call, stream
        self.called = 0
        self.saved_position: tuple | None = None
        self.saved_epoch = 0
        self.saved_at = time.monotonic()

    def resumed(self, loop: Loop) -> Loop:
        """The loop of the newest checkpoint, the stream brought to its place.

        It is `loop` itself if there is no checkpoint.
        """
        found = hosts.by_writer("looking for a checkpoint", self._newest)
        about = hosts.first("the checkpoint", found and found[1])
        if about is None:
            return loop
        epochs = about["asked"]["epochs"]  # they may be fewer than now
        shorter = {}
        for name in about["asked"]["history"]:  # a metric may have been added since then
            shorter[name] = jnp.zeros(epochs, loop.history[name].dtype)
        totals = {}
        for name, total in loop.totals.items():
            if f".totals[{name!r}].numerator" in about["leaves"]:
                totals[name] = total
        loaded = _loaded(found and found[0], replace(loop, history=shorter, totals=totals))
        history = {}
        for name, column in loop.history.items():
            if name in shorter:
                history[name] = column.at[:epochs].set(loaded.history[name])
            else:
                history[name] = column.at[: int(loaded.done)].set(jnp.nan)
        loaded = replace(loaded, history=history, totals=loop.totals | loaded.totals)
        self.called = about["called"]
        self.saved_epoch = int(loaded.done)
        self.saved_position = self._position(loaded)
        is_going = bool(loaded.alive & ~loaded.stopped)
        if self.stream is not None and is_going and self._has_more(loaded):
            place = about["place"]
            if hosts.many():
                place = place[hosts.index()]
            hosts.attempt("the stream's place", self.stream.go_to, place)
        return self._with_given(loaded, loop.state, about)

    def _has_more(self, loop: Loop) -> bool:
        return int(loop.done) < self.call["asked"]["epochs"]

    def _with_given(self, loaded: Loop, given: TrainState, about: About) -> Loop:
        """The loop with the hyperparameters that this call asks for, if they are others.

        Only `exact=False` comes here with another optimizer's state. The rest of that state is
        the checkpoint's, and a warning says so if this call begins with another.
        """
        changed = changed_at_start(about, self.call)
        if not changed:
            return loaded
        is_set = re.compile(r".*\.hyperparams\['\w+'\]")
        asked = [name for name in changed if is_set.fullmatch(name)]
        others = [name for name in changed if not is_set.fullmatch(name)]
        if others:
            warnings.warn(
                f"going on with the optimizer's state of the checkpoint; this call began with "
                f"other values of {', '.join(others[:3])}, which are not used.",
                RuntimeWarning,
                stacklevel=5,
            )

        def chosen(path, old, new):
            return jnp.copy(new) if ".opt_state" + keystr(path) in asked else old

        opt_state = jax.tree_util.tree_map_with_path(
            chosen, loaded.state.opt_state, given.opt_state
        )
        return replace(loaded, state=replace(loaded.state, opt_state=opt_state))

    def _newest(self) -> tuple[Path, About] | None:
        exact, extend = self.settings.exact, self.settings.extend

        def misfit(about):
            return wrong_format(about) or wrong_call(
                about, self.call, exact=exact, extend=extend
            )

        return newest(self.store.path, misfit)

    @property
    def store(self) -> Store:
        """The open directory, in the process that writes."""
        return cast(Store, self._store)

    def save_if_due(self, loop: Loop) -> None:
        """Save if it is time to."""
        if hosts.first("whether to save", hosts.is_writer() and self._is_due(loop)):
            self.save(loop)

    def _is_due(self, loop: Loop) -> bool:
        every, seconds = self.settings.every_epochs, self.settings.every_seconds
        if every is not None and int(loop.done) // every > self.saved_epoch // every:
            return True
        if seconds is None or self.store.busy:
            return False
        return time.monotonic() - self.saved_at >= seconds

    def save(self, loop: Loop) -> None:
        """Begin to save, unless the last save was at this position.

        If saving fails, there is a warning, and training goes on.
        """
        position = self._position(loop)
        self.saved_epoch = position[0]
        self.saved_at = time.monotonic()
        self._settle()
        if not hosts.first("whether there is more to save", position != self.saved_position):
            return
        self.saved_position = position
        tree = joint.gathered(loop)
        places = hosts.attempt("the stream's place", self._place, position[1])
        if hosts.is_writer():
            about = self.call | {
                "called": self.called,
                "place": places if hosts.many() else places[0],
            }
            with self._failure_as_warning():
                self.store.save(tree, about)

    def _place(self, step: int) -> dict[str, Any] | None:
        if self.stream is None:
            return None
        return self.stream.place(min(step, self.stream.taken))

    def finish(self, loop: Loop) -> None:
        """Save, and wait until the files are on the disk.

        If a computation failed, the buffers of `loop` are deleted, and nothing can be saved.
        """
        if not any(leaf.is_deleted() for leaf in jax.tree.leaves(loop)):
            self.save(loop)
        self._settle()

    def _settle(self) -> None:
        if hosts.is_writer():
            with self._failure_as_warning():
                self.store.wait()

    @contextlib.contextmanager
    def _failure_as_warning(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            self.saved_position = None
            warnings.warn(str(error), RuntimeWarning, stacklevel=7)

    def _position(self, loop: Loop) -> tuple[int, int, bool, int]:
        return int(loop.done), int(loop.step), bool(loop.alive), self.called


def _loaded(path: Path | None, like: Loop) -> Loop:
    """The arrays of a checkpoint, which process 0 reads."""
    if path is not None and not hosts.many():
        return load(path, like)
    mine = plain(like)
    read_by_one = hosts.by_writer("reading the checkpoint", read, path, mine)
    return fitted(joint.from_writer(read_by_one, mine), like)


class Unsaved:
    """Takes the place of a `Saver` if `fit` has no checkpoint."""

    def __init__(self):
        self.called = 0

    def resumed(self, loop: Loop) -> Loop:
        """The loop that came in."""
        return loop

    def save_if_due(self, loop: Loop) -> None:
        """Nothing."""

    def finish(self, loop: Loop) -> None:
        """Nothing."""


@contextlib.contextmanager
def saving(
    settings: Checkpoint | None, identity: Callable[[], About], stream: Replayable | None
) -> Iterator[Saver | Unsaved]:
    """A saver that holds its directory while it is open."""
    if settings is None:
        yield Unsaved()
        return
    store = hosts.by_writer(
        "the directory of checkpoints", lambda: Store(settings.directory, keep=settings.keep)
    )
    with contextlib.nullcontext() if store is None else contextlib.closing(store):
        yield Saver(settings, store, identity(), stream)
