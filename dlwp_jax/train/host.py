"""The same training driven from the host: progress, callbacks, Ctrl-C, streaming data."""

import functools
import itertools
import math
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

from dlwp_jax.train import checks
from dlwp_jax.train.epoch import (
    batch_shape,
    epoch_keys,
    epoch_order,
    eval_step,
    mean_logs,
    n_rows,
    steps_per_epoch,
    train_step,
)
from dlwp_jax.train.learner import Learner, TrainState
from dlwp_jax.train.loop import (
    EarlyStopping,
    Loop,
    Plan,
    Run,
    add_logs,
    close_epoch,
    end_epoch,
    is_going,
    make_plan,
    planned,
    record,
    result,
    run_steps,
    start,
)
from dlwp_jax.train.progress import display

PyTree = Any
CHUNK_SECONDS = 0.2  # between two looks at the keyboard; a chunk costs about a millisecond of host time


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
        return jax.tree.map(jnp.copy, self._loop.state)

    @property
    def best(self) -> TrainState:
        """The best state so far, yours to keep."""
        return jax.tree.map(jnp.copy, self._loop.best)


Callback = Callable[[Progress], bool | None]


@dataclass(frozen=True)
class every:  # reads as a word: callbacks=[every(100, show)]
    """A callback called after every `epochs` epochs instead of after each one."""

    epochs: int
    callback: Callback

    def __post_init__(self):
        checks.count(self.epochs, "epochs")

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
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Train from the host in compiled chunks: parameters and history are those of `run`.

    They agree to float32 rounding, and most often to the last bit: the compiler may order the sums of the two
    programs in different ways. A program is compiled for each learner and number of epochs, and kept; to change a
    learning rate between calls without compiling anew use `optax.inject_hyperparams`.

    Args:
      learner, state, val, epochs, batch_size, stop, val_batch_size: as for `run`. `state` stays usable.
      train: pytree of arrays `[n ...]`; or an iterable of batches (anything that is not itself a pytree of arrays:
        such as a loader) that is iterated anew for every epoch. Then `batch_size` is left
        out, and `val` may be such an iterable too.
      callbacks: each is called with a `Progress` after every epoch, or as `every(n, callback)` after every n;
        one that returns True ends the training. Without callbacks chunks may span many epochs.
      progress: a bar with epochs, losses and time left on a terminal, a dozen plain lines elsewhere; on standard
        error. False: nothing.

    An exception from a callback or a stream is passed on, and with it what was trained in this call is gone: keep
    `Progress.state` if that matters.

    Returns:
      A `Run`, its history trimmed to the epochs that were trained. Ctrl-C ends the chunk that is running and
      returns what there is (the state may then be in the midst of an epoch, the history ends before it); a second
      Ctrl-C raises KeyboardInterrupt.

    Warns:
      RuntimeWarning: naming epoch and step, where loss or parameters became non-finite; the `Run` holds the last
        finite state.

    Raises:
      ValueError, TypeError: as `run`; and where a stream is empty or cannot be iterated a second time.
    """
    callbacks = [callback if isinstance(callback, every) else every(1, callback) for callback in callbacks]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError("fit drives training from the host and cannot be jitted, mapped or differentiated; use run.")
    if is_stream(train):
        if batch_size is not None:
            raise ValueError(f"batch_size={batch_size} does not apply to a stream, which brings its own batches.")
        held, plan, chunks = _streamed(learner, state, train, val, epochs, stop, val_batch_size)
    elif batch_size is None:
        raise ValueError(
            f"batch_size is missing: {checks.describe(train)} is taken as arrays in memory, to be cut into batches. "
            "To stream batches, pass an object that can be iterated (not a list, tuple or dict, nor a function)."
        )
    elif val is not None and is_stream(val):
        raise TypeError("val streams while train is in memory; give both in memory, or stream train too.")
    else:
        train, val, plan = planned(learner, state, train, val, epochs, batch_size, stop, val_batch_size)
        stride = functools.reduce(math.gcd, (c.epochs for c in callbacks), 0) or plan.epochs
        held = _start(learner, state, batch_shape(train, plan.batch_size), val is not None, plan)
        chunks = _in_memory(learner, held, train, val, plan, stride)
    return _drive(held, plan, chunks, callbacks, progress)


@dataclass
class Held:
    """The newest loop. A chunk gives back the buffers of the one before, so there must be one place to look."""

    loop: Loop


def is_stream(data: Any) -> bool:
    """Whether data is an iterable of batches rather than a pytree of arrays."""
    if hasattr(data, "__array__") or not isinstance(data, Iterable):
        return False
    return isinstance(data, Iterator) or jax.tree_util.all_leaves([data])


def _drive(held: Held, plan: Plan, chunks: Iterator[float], callbacks: list[every], shown: bool) -> Run:
    """Take chunk after chunk, showing and calling back between them."""
    asked_to_stop, called = False, 0
    with display(plan.epochs, shown=shown) as bar, _interruptible() as interrupted:
        try:
            for fraction in chunks:
                done = int(held.loop.done)
                bar.update(done + fraction, _latest(held.loop, done))
                if done > called:
                    called = done
                    asked_to_stop = _call_back(held.loop, done, plan, callbacks)
                if asked_to_stop or interrupted():
                    break
        except KeyboardInterrupt:  # from a callback or a stream; a second Ctrl-C is meant
            if interrupted():
                raise
    return _finished(held.loop)


def _call_back(loop: Loop, done: int, plan: Plan, callbacks: list[every]) -> bool:
    """Call those whose turn it is; whether one asked to stop."""
    due = [callback for callback in callbacks if done % callback.epochs == 0 or done == plan.epochs]
    if not due:
        return False
    told = Progress(done, plan.epochs, _trimmed(loop, done), loop)
    answers = [callback(told) for callback in due]
    return any(answer is True for answer in answers)


def _latest(loop: Loop, done: int) -> dict[str, float]:
    """The latest losses, for the display."""
    last = max(done - 1, 0)
    losses = {name: float(values[last]) for name, values in loop.history.items() if name.endswith("/loss")}
    return {name: loss for name, loss in losses.items() if not (name == "val/loss" and math.isnan(loss))}


def _finished(loop: Loop) -> Run:
    run = result(loop)
    epoch, step = (int(n) for n in run.failure)
    done = int(loop.done)
    if epoch:
        warnings.warn(
            f"loss or parameters stopped being finite at epoch {epoch}, step {step}; training ended there, and the "
            "last finite state is returned. A smaller learning rate or normalised inputs are the usual cure.",
            RuntimeWarning,
            stacklevel=4,
        )
        done += 1  # the epoch that failed is in the history: its loss tells how
    return replace(run, history=jax.tree.map(jnp.asarray, _trimmed(loop, done)))


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
    if steps > 1:
        held.loop = replace(held.loop, order=jnp.zeros(n_rows(train), jnp.int32))
    size, target = 1, 0
    while bool(is_going(held.loop, plan)):
        boundary = (target // (stride * steps) + 1) * stride * steps
        target = min(target + size, boundary, plan.epochs * steps)
        begin = time.perf_counter()
        held.loop = jax.block_until_ready(_advance(learner, held.loop, train, val, plan, target))
        seconds = time.perf_counter() - begin
        yield target % steps / steps if bool(held.loop.alive) else 0.0
        size = max(1, int(size * min(4.0, CHUNK_SECONDS / max(seconds, 1e-4))))


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _advance(learner: Learner, loop: Loop, train: PyTree, val: PyTree | None, plan: Plan, target: Any) -> Loop:
    """Train until `target` steps of this call are taken."""
    steps = steps_per_epoch(train, plan.batch_size)

    def body(loop):
        # The order is made once an epoch and kept: shuffling a million examples takes longer than a chunk.
        order = jax.lax.cond(
            loop.step == 0, lambda loop: epoch_order(loop.state, train, plan.batch_size), lambda loop: loop.order, loop
        )
        end = jnp.minimum(steps, target - loop.done * steps)
        loop = run_steps(learner, replace(loop, order=order), train, order, plan.batch_size, loop.step, end)
        return jax.lax.cond(
            loop.step == steps, lambda loop: end_epoch(learner, loop, val, plan), lambda loop: loop, loop
        )

    return jax.lax.while_loop(lambda loop: is_going(loop, plan) & (loop.done * steps + loop.step < target), body, loop)


def _start(learner: Learner, state: TrainState, batch: PyTree, has_val: bool, plan: Plan) -> Held:
    """The first loop, in buffers of its own: chunks give theirs back, and the caller keeps `state`."""
    return Held(jax.tree.map(jnp.copy, start(learner, state, batch, has_val, plan)))


# Streams: a step a batch, the same keys and the same bookkeeping.


def _streamed(
    learner: Learner,
    state: TrainState,
    train: Iterable[PyTree],
    val: PyTree | Iterable[PyTree] | None,
    epochs: int,
    stop: EarlyStopping | None,
    val_batch_size: int | None,
) -> tuple[Held, Plan, Iterator[float]]:
    if val is not None and not is_stream(val):
        val = checks.dataset(val, "val")
    batches = _batches(train, 1)
    first = next(batches)
    plan = make_plan(learner, state, _shape(first), val, epochs, n_rows(first), stop, val_batch_size)
    held = _start(learner, state, _shape(first), val is not None, plan)
    return held, plan, _stream_chunks(learner, held, train, itertools.chain([first], batches), val, plan)


def _stream_chunks(
    learner: Learner, held: Held, train: Iterable[PyTree], batches: Iterable[PyTree], val: Any, plan: Plan
) -> Iterator[float]:
    for epoch in range(1, plan.epochs + 1):
        shown = time.monotonic()
        for batch in batches if epoch == 1 else _batches(train, epoch):
            held.loop = _stream_step(learner, held.loop, batch)
            if time.monotonic() - shown > CHUNK_SECONDS:
                yield 0.0
                shown = time.monotonic()
                if not bool(held.loop.alive):
                    return
        if bool(held.loop.alive):
            held.loop = _next_epoch(held.loop)
            held.loop = _close(held.loop, _val_logs(learner, held.loop.state, val, plan), plan)
        yield 0.0
        if not bool(is_going(held.loop, plan)):
            return


def _batches(stream: Iterable[PyTree], epoch: int) -> Iterator[PyTree]:
    """The batches of an epoch as arrays, each checked; a stream without any is refused."""
    empty = True
    for number, batch in enumerate(stream, 1):
        empty = False
        yield checks.dataset(batch, f"train (epoch {epoch}, batch {number})")
    if empty:
        again = " It was used up by an earlier epoch: pass an object that can be iterated anew." if epoch > 1 else ""
        raise ValueError(f"the stream gave no batch in epoch {epoch}.{again}")


def _val_logs(learner: Learner, state: TrainState, val: Any, plan: Plan) -> dict[str, jax.Array]:
    if val is None:
        return {}
    if not is_stream(val):
        return mean_logs(learner, state, val, min(plan.val_batch_size, n_rows(val)))
    total, n = {}, 0
    for number, batch in enumerate(val, 1):
        batch = checks.dataset(batch, f"val (batch {number})")
        logs = _eval_step(learner, state, batch)
        total = {k: total.get(k, 0.0) + n_rows(batch) * v for k, v in logs.items()}
        n += n_rows(batch)
    if n == 0:
        raise ValueError(
            "the validation stream gave no batch; pass an object that can be iterated anew, or leave val out."
        )
    return {k: v / n for k, v in total.items()}


@functools.partial(jax.jit, static_argnames="learner", donate_argnames="loop")
def _stream_step(learner: Learner, loop: Loop, batch: PyTree) -> Loop:
    _, steps_key = epoch_keys(loop.state)
    key = jax.random.fold_in(steps_key, loop.step)
    state, alive, logs = train_step(learner, loop.state, batch, key, loop.alive)
    totals, step = add_logs((loop.totals, loop.step), None, logs, loop.alive)
    return record(replace(loop, state=state, alive=alive, totals=totals, step=step))


@functools.partial(jax.jit, donate_argnums=0)
def _next_epoch(loop: Loop) -> Loop:
    return replace(loop, state=replace(loop.state, epoch=loop.state.epoch + 1))


_close = functools.partial(jax.jit, static_argnames="plan", donate_argnames="loop")(close_epoch)
_eval_step = functools.partial(jax.jit, static_argnames="learner")(eval_step)


def _shape(batch: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag that is looked at between chunks; the second one raises.

    A chunk gives back the buffers of the one before, so an exception in its midst would leave nothing to return.
    Elsewhere than in the main thread Python delivers no Ctrl-C, and nothing is changed.
    """
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(_number, _frame):
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
