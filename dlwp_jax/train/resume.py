"""`fit(..., checkpoint=...)`: what is saved and when, and what a saved training must agree in
to be gone on with.
"""

import ast
import contextlib
import functools
import hashlib
import json
import numbers
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.checkpoint import (
    About,
    CheckpointError,
    Store,
    differing,
    fingerprint,
    fitted,
    load,
    newest,
    plain,
    read,
    shapes,
)
from dlwp_jax.checks import path
from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.train import checks
from dlwp_jax.train.epoch import train_step
from dlwp_jax.train.learner import Learner, TrainState
from dlwp_jax.train.loop import Loop, Plan, Run, result
from dlwp_jax.train.streams import Source

PyTree = Any
ONE_DEVICE = "one device"
FORMAT = 1  # of what a checkpoint holds; other formats are refused
LIBRARIES = ("dlwp-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """Where and when `fit` saves; a directory's path alone stands for `Checkpoint(directory)`.

    `fit` also saves at its end, at Ctrl-C, at SIGTERM (and then the process ends, as SIGTERM
    asks), and before it passes on an exception from a callback or a stream.

    Attributes:
      directory: one training's checkpoints; made where it does not exist.
      every_epochs: save after so many epochs. Chunks then end there, so tiny epochs are better
        saved by time.
      every_seconds: save when so many seconds have passed since the last time, within an epoch
        too; None: never.
      keep: how many checkpoints are kept, the newest. Each holds the best state too.
      extend: allow more `epochs` than the call asked for that began the directory.
      exact: refuse what cannot give the bits of an uninterrupted training: other versions of
        the libraries, another program of a step (model, loss, optimizer, learning rate), other
        data, another start, another number of devices. False: shapes, dtypes and settings must
        agree, and training goes on with what it is given.
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
                f"checkpoint must be a directory's path or a Checkpoint; got {checks.describe(self.directory)}."
            )
        path(self.directory, "checkpoint")
        if "://" in str(self.directory):
            raise ValueError(
                f"checkpoint must be a path of a mounted file system; got {self.directory!r}."
            )
        if self.every_epochs is not None:
            checks.count(self.every_epochs, "every_epochs")
        seconds = self.every_seconds
        if seconds is not None and not (isinstance(seconds, numbers.Real) and seconds >= 0):
            raise ValueError(f"every_seconds must be 0 or more, or None; got {seconds!r}.")
        checks.count(self.keep, "keep")


def asked(checkpoint: Checkpoint | str | os.PathLike[str] | None) -> Checkpoint | None:
    """What `fit`'s argument means."""
    return (
        checkpoint
        if checkpoint is None or isinstance(checkpoint, Checkpoint)
        else Checkpoint(checkpoint)
    )


def restore(directory: str | os.PathLike[str], state: TrainState) -> Run:
    """What the newest checkpoint of a directory holds, without training: to evaluate, predict,
    or begin anew from.

    Of many processes all must call it, and number 0 reads.

    Args:
      directory: `fit`'s `checkpoint`.
      state: of the same model and optimizer, from `make_learner`; its values are not looked at.

    Returns:
      The `Run` so far. Its `state` may be in the midst of an epoch.

    Raises:
      CheckpointError: where there is none, where it is damaged, or where it is of another model
        or optimizer; it names the newest that can be taken.
    """
    path(directory, "directory")
    checks.state(state)

    def look() -> tuple[Path, About]:
        found = newest(
            directory, lambda about: _wrong_format(about) or _wrong_leaves(about, state)
        )
        if found is None:
            raise CheckpointError(f"there is no checkpoint in {directory}.")
        return found

    found = hosts.by_writer("looking for a checkpoint", look)
    about = hosts.first("the checkpoint", found and found[1])
    loop = _loaded(found and found[0], _like(about, state))
    done = int(loop.done)
    run = result(loop)
    return replace(
        run,
        history={
            name: values[: done + bool(run.failure[0])] for name, values in run.history.items()
        },
    )


def _like(about: About, state: TrainState) -> Loop:
    """A loop of the saved shapes, around a state."""
    leaves = about["leaves"]

    def zeros(name):
        dtype, shape = leaves[name]
        return jnp.zeros(shape, dtype)

    def under(field):
        heads = {name: re.fullmatch(rf"\.{field}\[(.*)\]", name) for name in leaves}
        return {ast.literal_eval(head[1]): zeros(name) for name, head in heads.items() if head}

    plain = (
        "best_value",
        "reference",
        "waited",
        "done",
        "step",
        "alive",
        "stopped",
        "lost",
        "skipped",
    )
    rest = {field: zeros(f".{field}") for field in plain}
    return Loop(
        state=state,
        best=state,
        history=under("history"),
        totals=under("totals"),
        order=jnp.zeros(0, jnp.int32),
        **rest,
    )


class Saver:
    """Resumes a training, and saves it as it goes. Of many processes the one that writes has
    the store.
    """

    def __init__(
        self, settings: Checkpoint, store: Store | None, call: About, source: Source | None
    ):
        self.settings, self.store, self.call, self.source = settings, store, call, source
        self.called = 0  # the last epoch whose callbacks have answered
        self.last, self.epoch, self.time = None, 0, time.monotonic()  # of what was saved last

    def resumed(self, loop: Loop) -> Loop:
        """The loop of the newest checkpoint, the stream brought to its place; or this one where
        there is none.
        """
        found = hosts.by_writer("looking for a checkpoint", self._newest)
        about = hosts.first("the checkpoint", found and found[1])
        if about is None:
            return loop
        epochs = about["asked"]["epochs"]  # maybe fewer than now
        history = {
            name: jnp.full(epochs, jnp.nan, values.dtype)
            for name, values in loop.history.items()
        }
        loaded = _loaded(found and found[0], replace(loop, order=None, history=history))
        history = {
            name: values.at[:epochs].set(loaded.history[name])
            for name, values in loop.history.items()
        }
        loop = replace(loaded, order=loop.order, history=history)
        self.called, self.epoch = about["called"], int(loop.done)
        self.last = self._position(loop)
        if (
            self.source is not None
            and bool(loop.alive & ~loop.stopped)
            and int(loop.done) < self.call["asked"]["epochs"]
        ):
            place = about["place"][hosts.index()] if hosts.many() else about["place"]
            hosts.attempt("the stream's place", self.source.go_to, place)
        return loop

    def _newest(self) -> tuple[Path, About] | None:
        return newest(
            self._store.path,
            lambda about: _wrong_format(about) or _wrong_call(about, self.call, self.settings),
        )

    @property
    def _store(self) -> Store:
        assert self.store is not None  # by the process that writes
        return self.store

    def save_if_due(self, loop: Loop) -> None:
        """Save where it is time to."""
        if hosts.first("whether to save", hosts.is_writer() and self._is_due(loop)):
            self.save(loop)

    def _is_due(self, loop: Loop) -> bool:
        every, seconds = self.settings.every_epochs, self.settings.every_seconds
        by_epoch = every is not None and int(loop.done) // every > self.epoch // every
        by_time = (
            seconds is not None
            and time.monotonic() - self.time >= seconds
            and not self._store.busy
        )
        return by_epoch or by_time

    def save(self, loop: Loop) -> None:
        """Begin to save, unless this was saved last. A save that fails is told, and training
        goes on.
        """
        position = self._position(loop)
        self.epoch, self.time = position[0], time.monotonic()
        self._settle()
        if not hosts.first("whether there is more to save", position != self.last):
            return
        self.last, tree = position, joint.gathered(replace(loop, order=None))
        places = hosts.attempt("the stream's place", self._place, position[1])
        if hosts.is_writer():
            about = self.call | {
                "called": self.called,
                "place": places if hosts.many() else places[0],
            }
            with self._told():
                self._store.save(tree, about)

    def _place(self, step: int) -> dict[str, Any] | None:
        return None if self.source is None else self.source.place(min(step, self.source.taken))

    def finish(self, loop: Loop) -> None:
        """Save, and see it to the disk. What a computation that broke off has given away is not
        there to save.
        """
        if not any(leaf.is_deleted() for leaf in jax.tree.leaves(loop)):
            self.save(loop)
        self._settle()

    def _settle(self) -> None:
        if hosts.is_writer():
            with self._told():
                self._store.wait()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            self.last = None
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
    """In a `Saver`'s place where no checkpoints are asked for."""

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
    settings: Checkpoint | None, call: Callable[[], About], source: Source | None
) -> Iterator[Saver | Unsaved]:
    """A saver that holds its directory while it is open."""
    if settings is None:
        yield Unsaved()
        return
    store = hosts.by_writer(
        "the directory of checkpoints", lambda: Store(settings.directory, keep=settings.keep)
    )
    with contextlib.nullcontext() if store is None else contextlib.closing(store):
        yield Saver(settings, store, call(), source)


# What a checkpoint says about itself, and what must agree.


def describe_call(
    learner: Learner, loop: Loop, batch: PyTree, plan: Plan, data: dict[str, PyTree]
) -> About:
    """All that decides what a training gives, in JSON: leaves, settings, data, start, program,
    versions.
    """
    return {
        "format": FORMAT,
        "asked": asdict(plan) | {"history": sorted(loop.history), "batch": shapes(batch)},
        "state": shapes(loop.state),
        "data": fingerprint(joint.gathered(data)),
        "start": {
            "epoch": int(loop.state.epoch),
            "step": int(loop.state.step),
            "leaves": fingerprint(joint.gathered(loop.state)),
        },
        "program": program(learner, loop.state, batch),
        "devices": _where(learner),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _where(learner: Learner) -> str:
    where = ONE_DEVICE if learner.placement is None else str(learner.placement)
    return f"{where}, in {hosts.count()} processes" if hosts.many() else where


def program(learner: Learner, state: TrainState, batch: PyTree) -> str:
    """A checksum of what a step computes, constants included, the same in every process."""
    state = jax.tree.map(_anywhere, state)
    step = jax.make_jaxpr(functools.partial(train_step, learner.unplaced))(
        state, batch, state.key, jnp.array(True)
    )
    text = re.sub(r"0x[0-9a-f]+", "", str(step.jaxpr))  # addresses of functions
    constants = [
        constant for jaxpr in jaxprs_in(step) for constant in getattr(jaxpr, "consts", ())
    ]
    return hashlib.sha256((text + json.dumps(fingerprint(constants))).encode()).hexdigest()


def jaxprs_in(jaxpr: Any) -> Iterator[Any]:
    """A jaxpr and all those inside it: of its loops, branches and jitted functions."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")
        ):
            if hasattr(value, "eqns"):
                yield from jaxprs_in(value)


def _anywhere(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """A leaf to be traced with, wherever it lies."""
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False)
    )


def _wrong_format(about: About) -> str | None:
    if about.get("format") == FORMAT:
        return None
    return f"has format {about.get('format')!r}, written by another version of dlwp-jax; this one reads {FORMAT}."


def _wrong_leaves(about: About, state: TrainState) -> str | None:
    return _other_leaf(shapes(state), about["state"])


def _other_leaf(now: dict[str, list], then: dict[str, list]) -> str | None:
    name = differing(now, then)
    if name is None:
        return None
    if name not in now or name not in then:
        where = "the checkpoint" if name in then else "this training"
        return f"is of another model or optimizer: only {where} has a leaf {name}."
    (dtype, shape), (old_dtype, old_shape) = now[name], then[name]
    return f"is of another model or optimizer: the leaf {name} is {old_dtype}{old_shape} there and {dtype}{shape} here."


def _wrong_call(then: About, now: About, settings: Checkpoint) -> str | None:
    """Why a checkpoint is not of this call."""
    wrong = _other_leaf(now["state"], then["state"])
    name = differing(now["asked"], then["asked"])
    if (
        wrong is None
        and name == "epochs"
        and settings.extend
        and now["asked"]["epochs"] > then["asked"]["epochs"]
    ):
        name = differing(now["asked"] | {"epochs": 0}, then["asked"] | {"epochs": 0})
    if wrong is None and name is not None:
        is_more = name == "epochs" and now["asked"]["epochs"] > then["asked"]["epochs"]
        cure = " Checkpoint(..., extend=True) allows more of them." * is_more
        wrong = f"was begun with {name}={then['asked'].get(name)!r}, not {now['asked'].get(name)!r}.{cure}"
    if wrong is None:  # the place in an epoch is one among so many examples
        sizes = [
            {name: leaf[:2] for name, leaf in about["data"].items()} for about in (now, then)
        ]
        name = differing(*sizes)
        wrong = (
            name
            and f"was trained on other data: {name} was {sizes[1].get(name)}, not {sizes[0].get(name)}."
        )
    places = then["place"] if isinstance(then["place"], list) else [then["place"]]
    if wrong is None and any(places) and len(places) != hosts.count():
        wrong = f"was written by {len(places)} processes, each with its part of the stream; this is {hosts.count()}."
    if wrong is not None or not settings.exact:
        return wrong
    if name := differing(now["versions"], then["versions"]):
        wrong = f"was written with {name} {then['versions'].get(name)}, and this is {now['versions'].get(name)}."
    elif name := differing(now["data"], then["data"]):
        wrong = f"was trained on other data: {name} differs."
    elif name := differing(now["start"]["leaves"], then["start"]["leaves"]):
        at = [
            f"epoch {about['start']['epoch']}, step {about['start']['step']}"
            for about in (then, now)
        ]
        where = (
            f" (that one was at {at[0]}, the state given is at {at[1]})"
            if at[0] != at[1]
            else ""
        )
        wrong = f"was begun from another state: {name} differs{where}."
    elif now["program"] != then["program"]:
        wrong = "is of another program: the model, loss, optimizer or a constant in them (a learning rate) differs."
    elif now["devices"] != (was := then.get("devices", ONE_DEVICE)):
        wrong = f"was written on {was}, and this is {now['devices']}: the same training, but for the rounding of sums."
    return (
        wrong
        and f"{wrong} Checkpoint(..., exact=False) goes on without the promise of equal bits."
    )
