"""The same training driven from the host: progress, callbacks, Ctrl-C, streaming data."""

import functools
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.train import checks
from dlwp_jax.train.epoch import (
    batch_shape,
    epoch_keys,
    epoch_order,
    eval_step,
    mean_logs,
    n_rows,
    rows,
    steps_per_epoch,
    train_step,
)
from dlwp_jax.train.failure import blame
from dlwp_jax.train.learner import Learner, TrainState
from dlwp_jax.train.loop import (
    EarlyStopping,
    Loop,
    Plan,
    Run,
    add_logs,
    end_epoch,
    ended,
    is_going,
    make_plan,
    planned,
    record,
    result,
    run_steps,
    start,
    validated,
)
from dlwp_jax.train.progress import display
from dlwp_jax.train.resume import (
    Checkpoint,
    Saver,
    Unsaved,
    asked,
    describe_call,
    program,
    saving,
)
from dlwp_jax.train.streams import Source, is_stream

PyTree = Any
CHUNK_SECONDS = (
    0.2  # between two looks at the keyboard; a chunk costs about a millisecond of host time
)
RECENT = 64  # batches of a stream that are kept to look back at


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes:
      epoch: epochs finished in this call.
      epochs: epochs asked for.
      history: as in `Run`, up to this epoch, NumPy arrays.
    """

    epoch: int
    epochs: int
    history: dict[str, np.ndarray]
    _loop: Loop

    @property
    def state(self) -> TrainState:
        """The state after this epoch, yours to keep."""
        return joint.given_back(jax.tree.map(jnp.copy, self._loop.state))

    @property
    def best(self) -> TrainState:
        """The best state so far, yours to keep."""
        return joint.given_back(jax.tree.map(jnp.copy, self._loop.best))


Callback = Callable[[Progress], bool | None]


@dataclass(frozen=True)
class every:  # reads as a word: callbacks=[every(100, show)]
    """A callback called after every `epochs` epochs instead of after each one."""

    epochs: int
    callback: Callback

    def __post_init__(self) -> None:
        checks.count(self.epochs, "epochs")
        if not callable(self.callback):
            raise TypeError(
                f"callback must be a function of a Progress; got {checks.describe(self.callback)}."
            )

    def __call__(self, progress: Progress) -> bool | None:
        """Call the callback."""
        return self.callback(progress)


def fit(
    learner: Learner,
    state: TrainState,
    train: PyTree | Iterable[PyTree],
    val: PyTree | Iterable[PyTree] | None = None,
    *,
    epochs: int,
    batch_size: int | None = None,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    skip_nonfinite: bool = False,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Run:
    """Train from the host in compiled chunks: parameters and history are those of `run`.

    They agree to float32 rounding, and most often to the last bit: the compiler may order the
    sums of the two programs in different ways. A program is compiled for each learner and
    number of epochs, and kept; to change a learning rate between calls without compiling anew
    use `optax.inject_hyperparams`.

    Args:
      learner, state, val, epochs, batch_size, stop, val_batch_size, skip_nonfinite: as for
        `run`. `state` stays usable.
      train: pytree of arrays `[n ...]`; or an iterable of batches (anything that is not itself
        a pytree of arrays:
        such as a loader) that is iterated anew for every epoch. Then `batch_size` is left
        out, and `val` may be such an iterable too.
      callbacks: each is called with a `Progress` after every epoch, or as `every(n, callback)`
        after every n; one that returns True ends the training. Without callbacks chunks may
        span many epochs.
      checkpoint: a directory's path, or a `Checkpoint`. The training is saved there as it goes.
        A call that finds it interrupted finishes it, with the bits it would have had; one that
        finds it finished returns it. Callbacks hear of an epoch again where the training was
        interrupted before that was saved.
      progress: a bar with epochs, losses and time left on a terminal, a dozen plain lines
        elsewhere; on standard error. False: nothing.

    An exception from a callback or a stream is passed on, and without `checkpoint` what was
    trained in this call is gone with it.

    Returns:
      A `Run`, its history trimmed to the epochs that were trained. Ctrl-C ends the chunk that
      is running and returns what there is (the state may then be in the midst of an epoch, the
      history ends before it); a second Ctrl-C raises KeyboardInterrupt.

    Warns:
      RuntimeWarning: naming epoch, step, and the leaf of gradient or parameters, where loss or
        parameters became non-finite; the `Run` holds the last finite state. And where a
        checkpoint could not be written (a full disk), while training goes on.

    Raises:
      ValueError, TypeError: as `run`; and where a stream is empty or cannot be iterated a
      second time. CheckpointError (a ValueError): where the directory is in use, or its newest
      checkpoint is damaged or of another
        training; it says what differs, and names the newest that can be taken.
      OSError: where the directory cannot be written to.
    """
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks must be a list of functions of a Progress; got {checks.describe(callbacks)}."
        )
    callbacks = [
        callback if isinstance(callback, every) else every(1, callback)
        for callback in callbacks
    ]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError(
            "fit drives training from the host and cannot be jitted, mapped or differentiated; use run."
        )
    checkpoint = asked(checkpoint)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "skip_nonfinite": skip_nonfinite,
    }
    arrays = {
        name: None if is_stream(data) else data
        for name, data in {"train": train, "val": val}.items()
    }
    call = joint.enter("fit", state, arrays, settings)
    state = call.state
    train = train if is_stream(train) else call.data[0]
    val = val if is_stream(val) else call.data[1]
    if is_stream(train):
        if batch_size is not None:
            raise ValueError(
                f"batch_size={batch_size} does not apply to a stream, which brings its own batches."
            )
        if val is not None and not is_stream(val):
            val = checks.dataset(val, "val")
        source = Source(train, is_saved=checkpoint is not None)
        batch, kept = joint.whole_shape(source.peek), {"val": None if is_stream(val) else val}
        learner = learner.placed(state, val=kept["val"])
        plan = make_plan(
            learner,
            state,
            batch,
            val,
            epochs,
            n_rows(batch),
            stop,
            val_batch_size,
            skip_nonfinite,
        )
        held = _start(learner, state, batch, val is not None, plan)
        chunks = _stream_chunks(learner, held, source, batch, val, plan)
    elif batch_size is None:
        raise ValueError(
            f"batch_size is missing: {checks.describe(train)} is taken as arrays in memory, to be cut into batches. "
            "To stream batches, pass an object that can be iterated (not a list, tuple or dict, nor a function)."
        )
    elif val is not None and is_stream(val):
        raise TypeError(
            "val streams while train is in memory; give both in memory, or stream train too."
        )
    else:
        train, val, plan = planned(
            learner, state, train, val, epochs, batch_size, stop, val_batch_size, skip_nonfinite
        )
        source, batch, kept = (
            None,
            batch_shape(train, plan.batch_size),
            {"train": train, "val": val},
        )
        learner = learner.placed(state, **kept)
        periods = [c.epochs for c in callbacks] + [
            c.every_epochs for c in [checkpoint] if c and c.every_epochs
        ]
        stride = functools.reduce(math.gcd, periods, 0) or plan.epochs
        held = _start(learner, state, batch, val is not None, plan)
        chunks = _in_memory(learner, held, train, val, plan, stride)
    if hosts.many():
        step = program(learner, held.loop.state, batch)
        joint.same(
            "fit",
            {"the program of a step (model, loss, optimizer or a constant in them)": step},
            "the learner",
        )
    about = functools.partial(describe_call, learner, held.loop, batch, plan, kept)
    ends_well = (
        checkpoint is not None or hosts.many()
    )  # at SIGTERM: there is something to save, or others to tell
    numbers = [signal.SIGINT, signal.SIGTERM] if ends_well else [signal.SIGINT]
    with _signals(*numbers) as heard, saving(checkpoint, about, source) as saver:
        held.loop = saver.resumed(held.loop)
        ran = _drive(learner, held, plan, chunks, callbacks, progress, saver, heard)
        return call.leave(ran)


@dataclass
class Held:
    """The newest loop. A chunk gives back the buffers of the one before, so there must be one
    place to look.
    """

    loop: Loop
    batch: Callable[[Loop], PyTree | None] = lambda loop: (
        None
    )  # of the step begun last, where it is at hand


def _drive(
    learner: Learner,
    held: Held,
    plan: Plan,
    chunks: Iterator[float],
    callbacks: list[every],
    shown: bool,
    saver: Saver | Unsaved,
    heard: "Heard",
) -> Run:
    """Take chunk after chunk, showing, calling back and saving between them."""

    def is_over() -> bool:
        done = int(held.loop.done)
        is_new = done > saver.called

        def answer() -> bool:
            return is_new and _call_back(held.loop, done, plan, callbacks)

        is_asked_to_stop = any(hosts.attempt("the end of a chunk", answer))
        heard.tell()
        if is_asked_to_stop:
            return True
        saver.called = max(done, saver.called)
        return bool(heard.by_any)

    is_shared = True
    with display(plan.epochs, shown=shown and hosts.is_writer()) as bar:
        try:
            over = is_over()  # a resumed training may owe its callbacks an epoch
            while not over and (fraction := next(chunks, None)) is not None:
                done = int(held.loop.done)
                bar.update(done + fraction, _latest(held.loop, done))
                over = is_over()
                saver.save_if_due(held.loop)
        except KeyboardInterrupt:  # from a callback or a stream; a second Ctrl-C is meant
            if signal.SIGINT in heard.here:
                raise
        except BaseException as error:
            is_shared = hosts.is_shared(
                error
            )  # else the others are elsewhere, and there is no saving with them
            raise
        finally:
            if is_shared:
                saver.finish(held.loop)
                heard.tell()
    return _finished(learner, held)


def _call_back(loop: Loop, done: int, plan: Plan, callbacks: list[every]) -> bool:
    """Call those whose turn it is; whether one asked to stop."""
    due = [
        callback for callback in callbacks if done % callback.epochs == 0 or done == plan.epochs
    ]
    if not due:
        return False
    told = Progress(done, plan.epochs, _trimmed(loop, done), loop)
    answers = [callback(told) for callback in due]
    return any(map(_is_true, answers))


def _is_true(answer: Any) -> bool:
    """Whether an answer is True: Python's, NumPy's or JAX's, as comparing values of the history
    gives it.
    """
    return answer is True or (getattr(answer, "dtype", None) == np.bool_ and bool(answer))


def _latest(loop: Loop, done: int) -> dict[str, float]:
    """The latest losses, for the display."""
    last = max(done - 1, 0)
    losses = {
        name: float(values[last])
        for name, values in loop.history.items()
        if name.endswith("/loss")
    }
    return {
        name: loss
        for name, loss in losses.items()
        if not (name == "val/loss" and math.isnan(loss))
    }


def _finished(learner: Learner, held: Held) -> Run:
    run = result(held.loop)
    epoch, step = (int(n) for n in run.failure)
    done = int(held.loop.done)
    if epoch:
        told = (
            f"loss or parameters stopped being finite at epoch {epoch}, step {step}{_why(learner, held)}; training "
            "ended there, and the last finite state is returned. A smaller learning rate or normalised inputs are the "
            "usual cure."
        )
        if hosts.is_writer():
            warnings.warn(told, RuntimeWarning, stacklevel=4)  # where `fit` was called
        done += 1  # the epoch that failed is in the history: its loss tells how
    return replace(run, history=jax.tree.map(jnp.asarray, _trimmed(held.loop, done)))


def _why(learner: Learner, held: Held) -> str:
    """Which leaf was not finite, where the batch of the step that failed is still at hand."""
    batch = held.batch(held.loop)
    if batch is None:
        return ""
    return f" ({blame(learner, held.loop.state, batch, _step_key(held.loop.state, held.loop.step - 1))})"


def _trimmed(loop: Loop, done: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(values)[:done] for name, values in loop.history.items()}


# In memory: chunks of steps, one program for chunks of every length.


def _in_memory(
    learner: Learner, held: Held, train: PyTree, val: PyTree | None, plan: Plan, stride: int
) -> Iterator[float]:
    """Chunks of about CHUNK_SECONDS that do not reach over a multiple of `stride` epochs.

    Yields:
      The fraction of the current epoch that is done.
    """
    steps = steps_per_epoch(train, plan.batch_size)

    def latest(loop):
        begin = (int(loop.step) - 1) * plan.batch_size
        return train if steps == 1 else rows(train, loop.order[begin : begin + plan.batch_size])

    held.batch = latest
    if steps > 1:
        amid = int(held.loop.step) > 0  # of an epoch that a checkpoint was written in
        order = (
            _epoch_order(held.loop.state, train, plan.batch_size)
            if amid
            else jnp.zeros(n_rows(train), jnp.int32)
        )
        held.loop = replace(held.loop, order=learner.laid(order))
    size, target = 1, int(held.loop.done) * steps + int(held.loop.step)
    while bool(is_going(held.loop, plan)):
        boundary = (target // (stride * steps) + 1) * stride * steps
        before, target = target, min(target + size, boundary, plan.epochs * steps)
        begin = time.perf_counter()
        held.loop = jax.block_until_ready(
            _advance(learner, held.loop, train, val, plan, target)
        )
        seconds = time.perf_counter() - begin
        yield target % steps / steps if bool(held.loop.alive) else 0.0
        wanted = (target - before) * min(4.0, CHUNK_SECONDS / max(seconds, 1e-4))
        size = hosts.first("the size of a chunk", max(1, int(wanted)))


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _advance(
    learner: Learner, loop: Loop, train: PyTree, val: PyTree | None, plan: Plan, target: Any
) -> Loop:
    """Train until `target` steps of this call are taken."""
    steps = steps_per_epoch(train, plan.batch_size)

    def body(loop):
        # The order is made once an epoch and kept: shuffling a million examples takes longer
        # than a chunk.
        order = jax.lax.cond(
            loop.step == 0,
            lambda loop: epoch_order(loop.state, train, plan.batch_size),
            lambda loop: loop.order,
            loop,
        )
        end = jnp.minimum(steps, target - loop.done * steps)
        loop = run_steps(
            learner, replace(loop, order=order), train, order, plan, loop.step, end
        )
        return jax.lax.cond(
            loop.step == steps,
            lambda loop: validated(learner, loop, val, plan),
            lambda loop: loop,
            loop,
        )

    def is_before(loop):
        return is_going(loop, plan) & (loop.done * steps + loop.step < target)

    return learner.laid(jax.lax.while_loop(is_before, body, loop))


_epoch_order = functools.partial(jax.jit, static_argnames="batch_size")(epoch_order)


def _start(
    learner: Learner, state: TrainState, batch: PyTree, has_val: bool, plan: Plan
) -> Held:
    """The first loop, in buffers of its own: chunks give theirs back, and the caller keeps
    `state`.
    """
    return Held(
        learner.laid(jax.tree.map(jnp.copy, start(learner, state, batch, has_val, plan)))
    )


# Streams: a step a batch, the same keys and the same bookkeeping.


def _stream_chunks(
    learner: Learner, held: Held, source: Source, like: PyTree, val: Any, plan: Plan
) -> Iterator[float]:
    recent: dict[
        int, PyTree
    ] = {}  # batches that nobody has looked back at, by their number in the epoch
    held.batch = lambda loop: recent.get(int(loop.step))
    while bool(is_going(held.loop, plan)):
        shown, step = time.monotonic(), int(held.loop.step)
        for batch in joint.batches(
            source.epoch(int(held.loop.done) + 1), like, learner.placement
        ):
            held.loop = _stream_step(learner, held.loop, batch, plan)
            recent[step := step + 1] = batch
            is_time = time.monotonic() - shown > CHUNK_SECONDS or len(recent) == RECENT
            if hosts.first("whether a chunk ends", is_time):
                yield 0.0
                shown = time.monotonic()
                if not bool(held.loop.alive):
                    return
                recent.clear()
        if bool(held.loop.alive):
            recent.clear()
            held.loop = _end_epoch(
                learner, held.loop, _val_logs(learner, ended(held.loop), val, like, plan), plan
            )
            source.end_epoch()
        yield 0.0


def _val_logs(
    learner: Learner, state: TrainState, val: Any, like: PyTree, plan: Plan
) -> dict[str, jax.Array]:
    if val is None:
        return {}
    if not is_stream(val):
        return mean_logs(learner, state, val, min(plan.val_batch_size, n_rows(val)))
    total, n = {}, 0
    parts = (
        checks.dataset(batch, f"val (batch {number})") for number, batch in enumerate(val, 1)
    )
    for batch in joint.batches(parts, like, learner.placement):
        logs = _eval_step(learner, state, batch)
        total = {k: total.get(k, 0.0) + n_rows(batch) * v for k, v in logs.items()}
        n += n_rows(batch)
    if n == 0:
        raise ValueError(
            "the validation stream gave no batch; pass an object that can be iterated anew, or leave val out."
        )
    return {k: v / n for k, v in total.items()}


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _stream_step(learner: Learner, loop: Loop, batch: PyTree, plan: Plan) -> Loop:
    key = _step_key(loop.state, loop.step)
    skip = plan.skip_nonfinite
    state, goes_on, counts, logs = train_step(
        learner, loop.state, batch, key, loop.alive, skip=skip
    )
    loop = add_logs(loop, None, logs, loop.alive, counts)
    return learner.laid(record(replace(loop, state=state, alive=goes_on)))


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _end_epoch(
    learner: Learner, loop: Loop, val_logs: dict[str, jax.Array], plan: Plan
) -> Loop:
    return learner.laid(end_epoch(loop, val_logs, plan))


def _step_key(state: TrainState, step: jax.Array) -> jax.Array:
    """The key of a step of the epoch that is going on."""
    return jax.random.fold_in(epoch_keys(state)[1], step)


_eval_step = functools.partial(jax.jit, static_argnames="learner")(eval_step)


class Heard:
    """Signals: what this process has heard, and what all know that one of them has."""

    def __init__(self):
        self.here: list[int] = []
        self.by_any: set[int] = set()

    def tell(self) -> None:
        """Let all processes know."""
        self.by_any = {
            number for theirs in hosts.agree("signals", self.here) for number in theirs
        }


@contextmanager
def _signals(*numbers: int) -> Iterator[Heard]:
    """Collect these signals to be looked at between chunks; a second Ctrl-C raises.

    SIGTERM is passed on at the end, even where that is an exception, to whom it was sent; of
    many processes all end by it alike.

    A chunk gives back the buffers of the one before, so an exception in its midst would leave
    nothing to return or to save. Elsewhere than in the main thread Python delivers no signal,
    and nothing is changed.
    """
    heard = Heard()

    def handler(number, _frame):
        if number == signal.SIGINT and number in heard.here:
            raise KeyboardInterrupt
        heard.here.append(number)

    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    before = {number: signal.getsignal(number) for number in numbers}
    before = {
        number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)
    }
    for number in before:
        signal.signal(number, handler)
    try:
        yield heard
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        if signal.SIGTERM in heard.by_any:
            hosts.part_company()
        if signal.SIGTERM in {*heard.here, *heard.by_any}:
            signal.raise_signal(signal.SIGTERM)
