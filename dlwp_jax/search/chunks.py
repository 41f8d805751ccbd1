"""The trainings of a sweep in lockstep, chunk by chunk: Ctrl-C is answered between chunks."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.search import members
from dlwp_jax.search.members import Make
from dlwp_jax.train import EarlyStopping, Learner, Run
from dlwp_jax.train.loop import (
    Loop,
    is_going,
    padded_history,
    result,
    start,
    take_step,
    validated,
    with_means,
)
from dlwp_jax.train.minibatches import fold, minibatch_shape, steps_key, steps_of
from dlwp_jax.train.plan import Plan, make_plan, order_of, steps_per_epoch
from dlwp_jax.train.signals import Signals
from dlwp_jax.train.sources import CHUNK_SECONDS

PyTree = Any
QUIET_SECONDS = 1.0  # trainings that are over by then show no progress


@dataclasses.dataclass(frozen=True)
class Member:
    """One training of a sweep, as functions of its traced values.

    `begin` and `advance` give together what `train.run` gives alone.

    Attributes:
      select: `select(part, data) -> (train, val)`, the member's data.
      make, epochs, batch_size, stop, val_batch_size: as for `sweep`.
    """

    make: Make
    select: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    epochs: int
    batch_size: int
    stop: EarlyStopping | None
    val_batch_size: int | None = None

    def begin(self, values: dict, part: PyTree, data: PyTree) -> tuple[Loop, jax.Array]:
        """The loop before its first step, and an array for the order of an epoch."""
        learner, state, train, val, plan = self._made(values, part, data)
        batch = minibatch_shape(state, train, self.batch_size, None)
        loop = start(learner, state, batch, val is not None, plan)
        shape = jax.eval_shape(lambda: order_of(state, train, plan))
        return loop, jnp.zeros(shape.shape, shape.dtype)

    def advance(
        self, values: dict, part: PyTree, data: PyTree, carry: tuple, at: Any, target: Any
    ) -> tuple[Loop, jax.Array]:
        """Train from step `at` to step `target`, counted over epochs.

        Both numbers are the same for all members, so the loop over steps needs no choice
        between old and new values under `vmap`.
        """
        learner, _, train, val, plan = self._made(values, part, data)
        steps = steps_per_epoch(train, plan)

        def body(carry):
            at, loop, order = carry
            first = at % steps
            end = jnp.minimum(steps, first + target - at)

            def go_on(loop, order):
                order = jax.lax.cond(
                    first == 0, lambda: order_of(loop.state, train, plan), lambda: order
                )
                take = functools.partial(take_step, learner, plan, steps_key(loop.state))
                loop = fold(take, loop, train, order, plan.batch_size, first, end)
                loop = with_means(loop)
                loop = jax.lax.cond(
                    end == steps,
                    lambda loop: validated(learner, loop, val, plan),
                    lambda loop: loop,
                    loop,
                )
                return loop, order

            if self.stop is None:  # after a failure a step changes nothing by itself
                loop, order = go_on(loop, order)
            else:
                loop, order = jax.lax.cond(
                    is_going(loop, plan), go_on, lambda *same: same, loop, order
                )
            return at + end - first, loop, order

        _, loop, order = jax.lax.while_loop(lambda carry: carry[0] < target, body, (at, *carry))
        return loop, order

    def _made(self, values, part, data) -> tuple[Learner, Any, PyTree, PyTree, Plan]:
        learner, state = members.made(self.make, **values)
        train, val = self.select(part, data)
        batch = minibatch_shape(state, train, self.batch_size, None)
        plan = make_plan(
            learner,
            state,
            batch,
            val,
            epochs=self.epochs,
            stop=self.stop,
            val_batch_size=self.val_batch_size,
        )
        return learner.placed(state, train=train, val=val), state, train, val, plan

    def steps(self, n: int) -> int:
        """The number of steps of all epochs on n examples."""
        return self.epochs * steps_of(n, min(self.batch_size, n))


Compiled = tuple[Callable, Callable]


@dataclasses.dataclass
class Together:
    """Members whose data have one shape, trained by two compiled programs.

    Args:
      programs: `Member.begin` and `Member.advance`, of one member or of several side by side.
      values, parts: of all members, with a leading axis.
      data: the data that all members select from.
      count: how many members there are; size: how many are trained side by side.
      steps: of all epochs of a member.
      is_mapped: whether the members are trained one after another, without an axis of members.
    """

    programs: tuple[Callable, Callable]
    values: PyTree
    parts: PyTree
    data: PyTree
    count: int
    size: int
    steps: int
    is_mapped: bool

    def compile(self) -> Compiled:
        """Compile both programs, for as many members as are trained side by side."""
        inputs, zero = self._inputs(0), np.int32(0)
        begin = jax.jit(self.programs[0]).lower(*inputs, self.data).compile()
        carry = begin(*inputs, self.data)
        advance = jax.jit(self.programs[1], donate_argnums=3)
        advance = advance.lower(*inputs, self.data, carry, zero, zero).compile()
        return begin, advance

    def train(
        self,
        compiled: Compiled,
        signals: Signals,
        show: Callable[[float, Loop], None],
    ) -> list[Loop]:
        """The loops of all members, in parts: trained to the end, or until an interruption.

        Args:
          signals: that came; looked at between chunks.
          show: is given the share of the work that is done, and the newest loop.
        """
        begin, advance = compiled
        started = time.perf_counter()
        loops = []
        for first in range(0, self.count, self.size):
            inputs = self._inputs(first)
            carry = begin(*inputs, self.data)
            here = min(self.size, self.count - first)
            at, size = 0, 1
            while at < self.steps and not signals.here:
                target = min(at + size, self.steps)
                since = time.perf_counter()
                carry = advance(*inputs, self.data, carry, np.int32(at), np.int32(target))
                carry = jax.block_until_ready(carry)
                seconds = max(time.perf_counter() - since, 1e-4)
                size = max(1, int((target - at) * min(4.0, CHUNK_SECONDS / seconds)))
                at = target if np.any(self._is_going(carry[0])) else self.steps
                if time.perf_counter() - started > QUIET_SECONDS:
                    show((first + here * at / self.steps) / self.count, carry[0])
            loops.append(self._kept(carry[0], here))
        return loops

    def _is_going(self, loop: Loop) -> np.ndarray:
        return np.asarray(loop.alive) & ~np.asarray(loop.stopped)

    def _inputs(self, first: int) -> PyTree:
        """Values and parts of the members from `first` on; the last one is repeated, so that
        one program serves all.
        """
        index = np.minimum(np.arange(first, first + self.size), self.count - 1)
        index = index[0] if self.is_mapped else index
        return jax.tree.map(lambda a: a[index], (self.values, self.parts))

    def _kept(self, loop: Loop, count: int) -> Loop:
        """The loop of the first members, the others being repetitions."""
        if self.is_mapped:
            return jax.tree.map(lambda a: a[None], loop)
        return loop if count == self.size else jax.tree.map(lambda a: a[:count], loop)


@jax.jit
def finished(loops: list[Loop], place: np.ndarray) -> Run:
    """The `Run` of all members, in the order of their places."""
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *loops)
    return jax.vmap(lambda loop: result(loop, padded_history(loop)))(together)
