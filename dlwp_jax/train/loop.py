"""A whole training as one pure function, early stopping included."""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dlwp_jax.checks import real
from dlwp_jax.devices import joint
from dlwp_jax.train import checks
from dlwp_jax.train.epoch import (
    Logs,
    all_logs,
    batch_shape,
    choose,
    choose_state,
    epoch_order,
    mean_logs,
    n_rows,
    steps_per_epoch,
    train_steps,
)
from dlwp_jax.train.learner import Learner, TrainState

PyTree = Any
BLOCK_STEPS = 64  # steps that are computed in vain, at most, after a failure


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a monitored value has not improved for `patience` epochs in a row. NaN is no
    improvement.

    Attributes:
      patience: epochs without improvement after which training stops, at least 1.
      min_delta: an improvement is one by more than this.
      monitor: a name in the history.
      mode: "min" for values that should fall (losses), "max" for those that should rise
        (accuracies).
    """

    patience: int
    min_delta: float = 0.0
    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", checks.count(self.patience, "patience"))
        object.__setattr__(self, "min_delta", real(self.min_delta, "min_delta", 0))
        if not isinstance(self.monitor, str):
            raise TypeError(
                f"monitor must be a name in the history; got {checks.describe(self.monitor)}."
            )
        if not isinstance(self.mode, str) or self.mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max'; got {checks.describe(self.mode)}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Run:
    """What a training gives back.

    Attributes:
      state: the last state whose loss was finite.
      best: the state after the epoch with the best monitored value (early stopping's monitor;
        else val/loss, else train/loss). The state that came in, where no epoch was finished.
      history: `{"train/loss": [epochs], "val/loss": [epochs], ...}`, the mean over the epoch's
        steps in training mode, and the mean over the validation examples in eval mode after it.
        `run` pads with NaN after a stop, `fit` trims.
      stopped: bool, whether training ended before the epochs asked for.
      failure: int32 `[2]`: epoch (of this training, as the history has them) and step, both
        counted from 1, at which loss or parameters were first not finite; zeros where that
        never happened.
      skipped: int32, steps that were not taken because they were not finite (`skip_nonfinite`),
        or because a gradient in float16 overflowed (`compute_dtype`). They are not in the means
        of the history.
    """

    state: TrainState
    best: TrainState
    history: Logs
    stopped: jax.Array
    failure: jax.Array
    skipped: jax.Array


@dataclass(frozen=True)
class Plan:
    """What is asked for, hashable."""

    epochs: int
    batch_size: int
    val_batch_size: int
    monitor: str
    stop: EarlyStopping | None
    skip_nonfinite: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loop:
    """All that a training carries from step to step; `fit` holds it between chunks."""

    state: TrainState
    best: TrainState
    best_value: jax.Array  # monitored value of `best`, signed so that lower is better
    reference: jax.Array  # the value that an epoch must beat by min_delta
    waited: jax.Array  # int32, epochs since the reference was beaten
    history: Logs  # [epochs], NaN where not reached
    totals: Logs  # sums of the logs over the steps of the current epoch
    done: jax.Array  # int32, epochs finished in this call
    step: jax.Array  # int32, steps begun in the current epoch
    lost: jax.Array  # int32, those of them that were skipped
    skipped: jax.Array  # int32, steps skipped in the epochs before
    alive: jax.Array  # bool, nothing was non-finite
    stopped: jax.Array  # bool, early stopping said so
    order: jax.Array  # the current epoch's order, kept by `fit` from chunk to chunk; else [0]


def run(
    learner: Learner,
    state: TrainState,
    train: PyTree,
    val: PyTree | None = None,
    *,
    epochs: int,
    batch_size: int,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    skip_nonfinite: bool = False,
) -> Run:
    """Train as one XLA program: a pure function of its arrays.

    It can be jitted, mapped by `jax.vmap` over states (seeds, learning rates in the optimizer
    state) and data, and differentiated: in reverse mode where `stop` is None (the program is a
    scan then, else a while loop). Through a step that was left out (`skip_nonfinite`, float16)
    the derivative is NaN.

    Args:
      learner, state: from `make_learner`. Epochs count from the state that comes in: 3 epochs
        and then 4 give the bits of 7.
      train: pytree of arrays `[n ...]`.
      val: pytree of arrays `[m ...]`, evaluated in eval mode after every epoch; or None.
      epochs: how many epochs to train.
      batch_size: examples a step; n or more is the full batch. The last short batch is trained
        on.
      stop: early stopping; under vmap each member stops by itself.
      val_batch_size: examples of `val` at a time; None means `batch_size`, or 256 where that is
        more.
      skip_nonfinite: what to do at a step whose loss or new parameters are not finite: end the
        training at the state before it (False), or leave that step out, of the state and of the
        means in the history, and count it (True).

    Returns:
      A `Run`.

    Raises:
      ValueError, TypeError: in one sentence, before anything is compiled, for data whose
        leading axes differ or that hold NaN, sizes below 1, a loss that is not a scalar, a
        monitor that is not recorded.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> data = {"x": jnp.ones((8, 1)), "y": jnp.zeros((8, 1))}
    >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> learner, state = make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    >>> result = run(learner, state, data, epochs=5, batch_size=4)
    >>> result.history["train/loss"].shape, int(result.state.step)
    ((5,), 10)
    """
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "skip_nonfinite": skip_nonfinite,
    }
    call = joint.enter("run", state, {"train": train, "val": val}, settings)
    state, (train, val) = call.state, call.data
    train, val, plan = planned(learner, state, train, val, **settings)
    return call.leave(
        _run(learner.placed(state, train=train, val=val), state, train, val, plan)
    )


@functools.partial(jax.jit, static_argnames=("learner", "plan"))
def _run(
    learner: Learner, state: TrainState, train: PyTree, val: PyTree | None, plan: Plan
) -> Run:
    steps = steps_per_epoch(train, plan.batch_size)

    def epoch(loop):
        order = epoch_order(loop.state, train, plan.batch_size)
        return validated(
            learner, run_steps(learner, loop, train, order, plan, 0, steps), val, plan
        )

    loop = start(learner, state, batch_shape(train, plan.batch_size), val is not None, plan)
    if plan.stop is not None:
        return learner.laid(
            result(jax.lax.while_loop(lambda loop: is_going(loop, plan), epoch, loop))
        )
    return learner.laid(result(counted(epoch, loop, plan.epochs, steps)))


def counted(epoch: Callable[[Loop], Loop], loop: Loop, epochs: int, steps: int) -> Loop:
    """All epochs by scans, which reverse-mode differentiates, skipping what comes after a
    failure.

    The skip is a branch, which costs microseconds: a block of up to BLOCK_STEPS steps shares
    one.
    """
    block = max(
        d
        for d in range(1, epochs + 1)
        if epochs % d == 0 and (d == 1 or d * steps <= BLOCK_STEPS)
    )

    def epochs_of_a_block(loop):
        return jax.lax.fori_loop(0, block, lambda _, loop: epoch(loop), loop)

    def block_or_nothing(_, loop):
        return jax.lax.cond(loop.alive, epochs_of_a_block, lambda loop: loop, loop)

    return jax.lax.fori_loop(0, epochs // block, block_or_nothing, loop)


def planned(
    learner: Learner,
    state: TrainState,
    train: PyTree,
    val: PyTree | None,
    epochs: int,
    batch_size: int,
    stop: EarlyStopping | None,
    val_batch_size: int | None,
    skip_nonfinite: bool,
) -> tuple[PyTree, PyTree | None, Plan]:
    """Check everything that `run` and `fit` are given; the data as arrays, and the plan."""
    checks.pair(learner, state)
    train = checks.dataset(train, "train")
    val = None if val is None else checks.dataset(val, "val")
    batch_size = min(checks.count(batch_size, "batch_size"), n_rows(train))
    batch = batch_shape(train, batch_size)
    plan = make_plan(
        learner, state, batch, val, epochs, batch_size, stop, val_batch_size, skip_nonfinite
    )
    return train, val, plan


def make_plan(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    val: Any,
    epochs: int,
    batch_size: int,
    stop: EarlyStopping | None,
    val_batch_size: int | None,
    skip_nonfinite: bool,
) -> Plan:
    """Check what does not depend on where the training data come from."""
    epochs = checks.count(epochs, "epochs")
    checks.stopping(stop, skip_nonfinite)
    recorded = list(history_names(learner, all_logs(learner, state, batch), val is not None))
    monitor = stop.monitor if stop is not None else "train/loss" if val is None else "val/loss"
    checks.monitor(monitor, recorded)
    wanted = (
        max(batch_size, 256)
        if val_batch_size is None
        else checks.count(val_batch_size, "val_batch_size")
    )
    return Plan(epochs, batch_size, wanted, monitor, stop, bool(skip_nonfinite))


def history_names(learner: Learner, logs: Collection[str], has_val: bool) -> dict[str, str]:
    """The names of the history's columns, each with the log that it holds."""
    in_eval_mode = [log for log in logs if has_val and log not in learner.step_logs]
    return {f"train/{log}": log for log in logs} | {f"val/{log}": log for log in in_eval_mode}


def start(
    learner: Learner, state: TrainState, batch: PyTree, has_val: bool, plan: Plan
) -> Loop:
    """The loop before its first step."""
    logs = all_logs(learner, state, batch)
    names = history_names(learner, logs, has_val)
    history = {
        name: jnp.full(plan.epochs, jnp.nan, logs[log].dtype) for name, log in names.items()
    }
    infinity = jnp.array(jnp.inf, history[plan.monitor].dtype)
    zero, true = jnp.zeros((), jnp.int32), jnp.array(True)
    totals = {k: jnp.zeros((), log.dtype) for k, log in logs.items()}
    no_order = jnp.zeros(0, jnp.int32)
    return Loop(
        state,
        state,
        infinity,
        infinity,
        zero,
        history,
        totals,
        zero,
        zero,
        zero,
        zero,
        true,
        ~true,
        no_order,
    )


def run_steps(
    learner: Learner,
    loop: Loop,
    train: PyTree,
    order: jax.Array,
    plan: Plan,
    begin: Any,
    end: Any,
) -> Loop:
    """Steps `begin` to `end` of the current epoch, and the history's entry for what is done of
    it.
    """
    state, alive, loop = train_steps(
        learner,
        loop.state,
        loop.alive,
        replace(loop, state=None, alive=None),
        add_logs,
        train,
        order,
        plan.batch_size,
        begin,
        end,
        skip=plan.skip_nonfinite,
    )
    return record(replace(loop, state=state, alive=alive))


def add_logs(loop: Loop, _i: Any, values: Logs, alive: jax.Array, counts: jax.Array) -> Loop:
    """Add the logs of a step, unless training had failed before it or it is skipped."""
    totals = choose(counts, {k: loop.totals[k] + values[k] for k in loop.totals}, loop.totals)
    return replace(
        loop, totals=totals, step=loop.step + alive, lost=loop.lost + (alive & ~counts)
    )


def record(loop: Loop) -> Loop:
    """Write the mean over the epoch's steps so far into the history."""
    steps = loop.step - loop.lost
    return replace(
        loop,
        history=written(
            loop, {f"train/{k}": total / steps for k, total in loop.totals.items()}
        ),
    )


def written(loop: Loop, values: Logs) -> Logs:
    """The history with the values of the current epoch."""
    put = (
        jax.lax.dynamic_update_index_in_dim
    )  # in place in a loop; .at[].set is a scatter, itself a loop on CPU
    return loop.history | {
        k: put(loop.history[k], value, loop.done, 0) for k, value in values.items()
    }


def validated(learner: Learner, loop: Loop, val: PyTree | None, plan: Plan) -> Loop:
    """The epoch ended, with the validation of its last state."""
    logs = (
        {}
        if val is None
        else mean_logs(learner, ended(loop), val, min(plan.val_batch_size, n_rows(val)))
    )
    return end_epoch(loop, logs, plan)


def ended(loop: Loop) -> TrainState:
    """The state after the last step of an epoch, its epoch counted unless training failed in
    it.
    """
    return replace(loop.state, epoch=loop.state.epoch + loop.alive)


def end_epoch(loop: Loop, val_logs: Logs, plan: Plan) -> Loop:
    """After the last step of an epoch: keep the best state, count towards early stopping, make
    ready for the next.

    After a failure all stays as it is.
    """
    state = ended(loop)
    history = written(
        loop, {f"val/{k}": jnp.where(loop.alive, v, jnp.nan) for k, v in val_logs.items()}
    )
    sign = -1 if plan.stop is not None and plan.stop.mode == "max" else 1
    value = jnp.where(loop.alive, sign * history[plan.monitor][loop.done], jnp.inf)
    is_best, min_delta = (
        value < loop.best_value,
        0.0 if plan.stop is None else plan.stop.min_delta,
    )
    improved = value < loop.reference - min_delta
    waited = jnp.where(improved, 0, loop.waited + 1)
    return Loop(
        state=state,
        best=choose_state(is_best, state, loop.best),
        best_value=jnp.where(is_best, value, loop.best_value),
        reference=jnp.where(improved, value, loop.reference),
        waited=waited,
        history=history,
        totals=choose(loop.alive, jax.tree.map(jnp.zeros_like, loop.totals), loop.totals),
        done=loop.done + loop.alive,
        step=jnp.where(loop.alive, 0, loop.step),
        lost=jnp.where(loop.alive, 0, loop.lost),
        skipped=loop.skipped + jnp.where(loop.alive, loop.lost, 0),
        alive=loop.alive,
        stopped=loop.stopped
        if plan.stop is None
        else loop.alive & (waited >= plan.stop.patience),
        order=loop.order,
    )


def is_going(loop: Loop, plan: Plan) -> jax.Array:
    """Whether there is more to train."""
    return loop.alive & ~loop.stopped & (loop.done < plan.epochs)


def result(loop: Loop) -> Run:
    """The `Run` of a loop, its history at full length."""
    epochs = next(iter(loop.history.values())).shape[0]
    failure = jnp.where(loop.alive, 0, jnp.stack([loop.done + 1, loop.step]))
    return Run(
        loop.state,
        loop.best,
        loop.history,
        ~loop.alive | (loop.done < epochs),
        failure,
        loop.skipped + loop.lost,
    )
