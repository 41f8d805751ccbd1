"""The sources of minibatches: arrays in memory, or a stream.

Both have `advance(loop) -> (loop, fraction)`, and `fit` does not know which it drives.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.train import checks
from dlwp_jax.train.evaluation import check_form, eval_step, mean_sums
from dlwp_jax.train.loop import (
    Loop,
    end_of_epoch,
    is_going,
    take_step,
    validated,
    with_epoch,
    with_means,
)
from dlwp_jax.train.metrics import Sums, add
from dlwp_jax.train.minibatches import fold, n_rows, steps_key
from dlwp_jax.train.plan import Plan, order_of, steps_per_epoch
from dlwp_jax.train.state import Learner, TrainState
from dlwp_jax.train.streams import Replayable, is_stream

PyTree = Any
CHUNK_SECONDS = 0.2  # between two looks at the keyboard; a look costs about a millisecond
RECENT = 64  # batches of a stream that are kept until the next look


class InMemory:
    """Chunks of steps over arrays in memory, one program for chunks of every length.

    Args:
      stride: chunks do not reach over a multiple of so many epochs, after which callbacks or
        checkpoints are due.
    """

    def __init__(
        self, learner: Learner, plan: Plan, train: PyTree, val: PyTree | None, stride: int
    ):
        self.learner, self.plan, self.train, self.val = learner, plan, train, val
        self.steps: int = steps_per_epoch(train, plan)
        self.stride: int = stride * self.steps
        self.order: jax.Array | None = None
        self.size: int = 1  # steps of the next chunk

    def advance(self, loop: Loop) -> tuple[Loop, float]:
        """Train for about CHUNK_SECONDS.

        Returns:
          The loop after the chunk, and the fraction of its epoch that is done. The loop that
          came in has given away its buffers.
        """
        if self.order is None:
            self.order = self.first_order(loop)
        before = int(loop.done) * self.steps + int(loop.step)
        boundary = (before // self.stride + 1) * self.stride
        target = min(before + self.size, boundary, self.plan.epochs * self.steps)
        begin = time.perf_counter()
        loop, self.order = jax.block_until_ready(
            _advance(self.learner, self.plan, loop, self.order, self.train, self.val, target)
        )
        seconds = time.perf_counter() - begin
        wanted = (target - before) * min(4.0, CHUNK_SECONDS / max(seconds, 1e-4))
        self.size = hosts.first("the size of a chunk", max(1, int(wanted)))
        if not bool(loop.alive):
            return loop, 0.0
        return loop, target % self.steps / self.steps

    def first_order(self, loop: Loop) -> jax.Array:
        """The order of the loop's epoch, or an array like it at the beginning of an epoch."""
        shape = jax.eval_shape(lambda: order_of(loop.state, self.train, self.plan))
        order = jnp.zeros(shape.shape, shape.dtype)
        if int(loop.step):  # the loop comes from a checkpoint in the midst of an epoch
            order = _order(loop.state, self.train, self.plan)
        return self.learner.constrain(order)

    def latest(self, loop: Loop) -> PyTree:
        """The batch of the step that was begun last."""
        if self.order is None or not self.order.size:
            return self.train
        begin = (int(loop.step) - 1) * self.plan.batch_size
        return self.plan.fetch(self.train, self.order[begin : begin + self.plan.batch_size])


_order = functools.partial(jax.jit, static_argnames="plan")(order_of)


@functools.partial(
    jax.jit, static_argnames=("learner", "plan"), donate_argnames=("loop", "order")
)
def _advance(
    learner: Learner,
    plan: Plan,
    loop: Loop,
    order: jax.Array,
    train: PyTree,
    val: PyTree | None,
    target: Any,
) -> tuple[Loop, jax.Array]:
    """Train until `target` steps of this call are taken; the order is that of the epoch."""
    steps = steps_per_epoch(train, plan)

    def body(carry):
        loop, order = carry
        # The order is made once an epoch and kept: shuffling a million examples takes longer
        # than a chunk.
        order = jax.lax.cond(
            loop.step == 0,
            lambda: order_of(loop.state, train, plan),
            lambda: order,
        )
        end = jnp.minimum(steps, target - loop.done * steps)
        take = functools.partial(take_step, learner, plan, steps_key(loop.state))
        loop = fold(take, loop, train, order, plan.batch_size, loop.step, end, plan.fetch)
        loop = with_means(loop)
        loop = jax.lax.cond(
            loop.step == steps,
            lambda loop: validated(learner, loop, val, plan),
            lambda loop: loop,
            loop,
        )
        return loop, order

    def is_before(carry):
        loop, _ = carry
        return is_going(loop, plan) & (loop.done * steps + loop.step < target)

    return learner.constrain(jax.lax.while_loop(is_before, body, (loop, order)))


class Stream:
    """A step for each batch of a stream, with the keys and the bookkeeping of `InMemory`.

    Args:
      stream: the training stream.
      val: a stream, arrays in memory, or None.
      like: shapes and dtypes of a batch.
    """

    def __init__(
        self, learner: Learner, plan: Plan, stream: Replayable, val: Any, like: PyTree
    ):
        self.learner, self.plan, self.stream, self.val = learner, plan, stream, val
        self.like = like
        self.batches: Iterator[PyTree] | None = None
        self.recent: dict[int, PyTree] = {}  # by the number of their step in the epoch
        self.steps: int | None = None  # of an epoch, known after the first
        self.looked: float = 0.0

    def advance(self, loop: Loop) -> tuple[Loop, float | None]:
        """Train on one batch, or end the epoch if there is none left.

        Returns:
          The loop, and the fraction of its epoch that is done; None if it is too early to look
          at the loop, which would wait for the device.
        """
        if self.batches is None:
            epoch = int(loop.done) + 1
            self.step = int(loop.step)
            self.batches = joint.batches(
                self.stream.epoch(epoch), self.like, self.learner.placement
            )
            self.look()
        batch = next(self.batches, None)
        if batch is None:
            return self.end_epoch(loop), 0.0
        loop = _take(self.learner, self.plan, loop, batch)
        self.step += 1
        self.recent[self.step] = batch
        is_time = time.monotonic() - self.looked > CHUNK_SECONDS or len(self.recent) == RECENT
        if not hosts.first("whether a chunk ends", is_time):
            return loop, None
        if bool(loop.alive):
            self.look()
        return loop, min(1.0, self.step / self.steps) if self.steps else 0.0

    def look(self) -> None:
        """Note that the loop is looked at now, and drop the batches before."""
        self.looked = time.monotonic()
        self.recent.clear()

    def end_epoch(self, loop: Loop) -> Loop:
        """The loop after the last batch of an epoch."""
        if not bool(loop.alive):
            return loop
        self.look()
        self.steps = self.step
        sums = self.validate(with_epoch(loop))
        loop = _end_of_epoch(self.learner, self.plan, loop, sums)
        self.stream.end_epoch()
        self.batches = None
        return loop

    def validate(self, state: TrainState) -> Sums:
        """The sums of the validation of a state."""
        if self.val is None:
            return {}
        if not is_stream(self.val):
            size = min(self.plan.val_batch_size, n_rows(self.val))
            return _mean_sums(self.learner, state, self.val, size, self.plan.transform)
        parts = (
            checks.dataset(batch, f"val (batch {number})")
            for number, batch in enumerate(self.val, 1)
        )
        if not hosts.many():
            parts = self.checked(parts, state)
        total = None
        for batch in joint.batches(parts, self.like, self.learner.placement):
            sums = _eval_step(self.learner, state, batch, self.plan.transform)
            total = sums if total is None else add(total, sums)
        if total is None:
            raise ValueError(
                "the validation stream gave no batch; pass an object that can be iterated "
                "anew, or leave val out."
            )
        return total

    def checked(self, batches: Iterator[PyTree], state: TrainState) -> Iterator[PyTree]:
        """The batches, the first of which has the form of those of the training, or one that
        the loss takes as well.
        """
        for number, batch in enumerate(batches):
            if number == 0:
                check_form(self.learner.unplaced, state, self.like, batch, self.plan.transform)
            yield batch

    def latest(self, loop: Loop) -> PyTree | None:
        """The batch of the step that was begun last, if it is at hand."""
        return self.recent.get(int(loop.step))


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _take(learner: Learner, plan: Plan, loop: Loop, batch: PyTree) -> Loop:
    loop = take_step(learner, plan, steps_key(loop.state), loop.step, loop, batch)
    return learner.constrain(with_means(loop))


@functools.partial(jax.jit, static_argnames=("learner", "plan"), donate_argnames="loop")
def _end_of_epoch(learner: Learner, plan: Plan, loop: Loop, val_sums: Sums) -> Loop:
    return learner.constrain(end_of_epoch(loop, val_sums, plan))


_eval_step = functools.partial(jax.jit, static_argnums=(0, 3))(eval_step)
_mean_sums = functools.partial(jax.jit, static_argnums=(0, 3, 4))(mean_sums)
