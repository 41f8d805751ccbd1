"""A whole training as one pure function, early stopping included."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.devices import joint
from dlwp_jax.optim import plateau
from dlwp_jax.train import checks, precision
from dlwp_jax.train.evaluation import mean_sums
from dlwp_jax.train.metrics import Ratio, Sums, add, quotients
from dlwp_jax.train.minibatches import (
    Sampler,
    batch_shape,
    fold,
    minibatch_shape,
    n_rows,
    steps_key,
)
from dlwp_jax.train.plan import (
    EarlyStopping,
    Plan,
    history_names,
    make_plan,
    order_of,
    rows_of_parts,
    shapes_of_logs,
    steps_per_epoch,
)
from dlwp_jax.train.state import Learner, TrainState, check_pair
from dlwp_jax.train.step import Outcome, all_finite, choose, choose_state, step
from dlwp_jax.train.transform import training_half

PyTree = Any
Logs = dict[str, jax.Array]
BLOCK_STEPS = 64  # at most so many steps are computed in vain after a failure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Run:
    """The result of a training.

    Attributes:
      state: the last state whose loss was finite.
      best: the state after the epoch with the best monitored value (early stopping's monitor;
        else val/loss, else train/loss). The state that came in if no epoch was finished.
      history: `{"train/loss": [epochs], "val/loss": [epochs], ...}`. A train/ value is the mean
        over the epoch's steps in training mode, a val/ value the mean over the validation
        examples in eval mode after the epoch; of a `Ratio`, both are the quotient of its sums.
        `run` pads with NaN after a stop, `fit` trims.
      stopped: bool, whether training ended before the epochs asked for.
      failure: int32 `[2]`: epoch (of this training, as the history has them) and step, both
        counted from 1, at which loss or parameters were first not finite; zeros if that never
        happened.
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loop:
    """All that a training carries from step to step; `fit` holds it between chunks.

    All numbers are finite as long as the training is, so that JAX's alarms for NaN and infinity
    (`jax_debug_nans`, `jax_debug_infs`) can be on.
    """

    state: TrainState
    best: TrainState
    best_value: jax.Array  # monitored value of `best`, signed so that lower is better
    reference: jax.Array  # the value that an epoch must beat by min_delta
    waited: jax.Array  # int32, epochs since the reference was beaten
    history: Logs  # [epochs], 0 in epochs that are not reached
    totals: Sums  # sums of the logs over the steps of the current epoch
    done: jax.Array  # int32, epochs finished in this call
    step: jax.Array  # int32, steps begun in the current epoch
    lost: jax.Array  # int32, those of them that were skipped
    skipped: jax.Array  # int32, steps skipped in the epochs before
    alive: jax.Array  # bool, nothing was non-finite
    stopped: jax.Array  # bool, early stopping or a callback ended the training


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
    drop_last: bool = False,
    sampler: Sampler | None = None,
    transform: Any = None,
) -> Run:
    """Train as one XLA program: a pure function of its arrays.

    It can be jitted, mapped by `jax.vmap` over states (seeds, learning rates in the optimizer
    state) and data, and differentiated: in reverse mode if `stop` is None (the program is a
    scan then, else a while loop). Through a step that was left out (`skip_nonfinite`, float16)
    the derivative is NaN.

    Args:
      learner, state: from `make_learner`. Epochs count from the state that comes in: 3 epochs
        and then 4 give the bits of 7.
      train: pytree of arrays `[n ...]`.
      val: pytree of arrays `[m ...]`, evaluated in eval mode after every epoch; or None.
      epochs: how many epochs to train.
      batch_size: examples a step; n or more is the full batch.
      stop: early stopping; under vmap each member stops by itself.
      val_batch_size: examples of `val` at a time; None means all of a small set (256 KiB), and
        otherwise `batch_size`, or 256 if that is more.
      skip_nonfinite: at a step whose loss or new parameters are not finite, end the training at
        the state before it (False), or leave that step out of the state and of the means in the
        history, and count it (True).
      drop_last: whether to leave out the last batch of an epoch if it is shorter than the
        others, as torch's `DataLoader` does if asked. Otherwise it is trained on. A batch size
        above the number of examples is refused then: torch would train on nothing.
      sampler: `sampler(key, epoch) -> rows`, integers `[m]`: the rows of `train` that an epoch
        trains on, in their order, in place of all rows shuffled. `key` is the epoch's own,
        `epoch` an int32 that counts from `make_learner`. `data.balanced` and `data.weighted`
        make samplers. Rows that do not exist are refused in the first epoch, and are examples
        of NaN later.
      transform: `transform(key, batch) -> batch`, applied on the device to each training batch
        before the loss (augmentation). For validation too: a pair of such functions, or a
        function with an attribute `evaluate` that is one (normalisation).

    Returns:
      A `Run`.

    Raises:
      ValueError, TypeError: in one sentence, before anything is compiled, if the leading axes
        of the data differ, they hold NaN, a size is below 1, the loss is not a scalar, or a
        monitor is not recorded.

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
    check_pair(learner, state)
    settings = {
        "epochs": epochs,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "skip_nonfinite": skip_nonfinite,
        "drop_last": drop_last,
        "sampler": sampler,
        "transform": transform,
    }
    agreed = settings | {"batch_size": batch_size}
    call = joint.enter("run", state, {"train": train, "val": val}, agreed)
    state, (train, val) = call.state, call.data
    train = checks.dataset(train, "train")
    val = None if val is None else checks.dataset(val, "val")
    batch = minibatch_shape(state, train, batch_size, sampler, drop_last)
    plan = make_plan(learner, state, batch, val, **settings)
    placed = learner.placed(state, train=train, val=val)
    return call.leave(_run(placed, state, train, val, plan))


@functools.partial(jax.jit, static_argnames=("learner", "plan"))
def _run(
    learner: Learner, state: TrainState, train: PyTree, val: PyTree | None, plan: Plan
) -> Run:
    steps = steps_per_epoch(train, plan)

    def epoch(loop):
        order = learner.constrain(order_of(loop.state, train, plan))
        take = functools.partial(take_step, learner, plan, steps_key(loop.state))
        loop = fold(take, loop, train, order, plan.batch_size, 0, steps, plan.fetch)
        return validated(learner, with_means(loop), val, plan)

    loop = start(learner, state, batch_shape(train, plan.batch_size), val is not None, plan)
    if plan.stop is not None:
        loop = jax.lax.while_loop(lambda loop: is_going(loop, plan), epoch, loop)
    else:
        loop = _scanned(epoch, loop, plan.epochs, steps)
    return learner.constrain(result(loop, padded_history(loop)))


def _scanned(epoch: Callable[[Loop], Loop], loop: Loop, epochs: int, steps: int) -> Loop:
    """All epochs by scans, which reverse mode differentiates, without those after a failure.

    Leaving them out is a branch, which costs microseconds: a block of up to BLOCK_STEPS steps
    shares one.
    """
    block = max(
        divisor
        for divisor in range(1, epochs + 1)
        if epochs % divisor == 0 and (divisor == 1 or divisor * steps <= BLOCK_STEPS)
    )

    def epochs_of_a_block(loop):
        return jax.lax.fori_loop(0, block, lambda _, loop: epoch(loop), loop)

    def block_or_nothing(_, loop):
        return jax.lax.cond(loop.alive, epochs_of_a_block, lambda loop: loop, loop)

    return jax.lax.fori_loop(0, epochs // block, block_or_nothing, loop)


def train_epoch(
    learner: Learner,
    state: TrainState,
    data: PyTree,
    *,
    batch_size: int,
    drop_last: bool = False,
    sampler: Sampler | None = None,
    transform: Any = None,
) -> tuple[TrainState, Logs]:
    """Train on every example once, in shuffled minibatches.

    A step whose loss or new parameters are not finite is not taken, nor is any after it; the
    logs of those after it are NaN and `state.epoch` stays. In float16 a step whose gradient
    overflowed is left out, its logs are NaN, and training goes on.

    Args:
      learner, state: from `make_learner`.
      data: pytree of arrays `[n ...]`.
      batch_size: examples a step; n or more is the full batch, in the order given.
      drop_last, sampler, transform: as for `run`.

    Returns:
      The state after the epoch, and `{"loss": [steps], metric: [steps], ...}` with
      `steps = ceil(n / batch_size)`; of a `Ratio`, the quotient of each step.
    """
    check_pair(learner, state)
    settings = {"drop_last": drop_last, "sampler": sampler, "transform": transform}
    agreed = settings | {"batch_size": batch_size}
    call = joint.enter("train_epoch", state, {"data": data}, agreed)
    state, data = call.state, checks.dataset(call.data[0], "data")
    batch = minibatch_shape(state, data, batch_size, sampler, drop_last)
    plan = make_plan(learner, state, batch, None, **settings)
    return call.leave(_train_epoch(learner.placed(state, data=data), state, data, plan))


@functools.partial(jax.jit, static_argnames=("learner", "plan"))
def _train_epoch(
    learner: Learner, state: TrainState, data: PyTree, plan: Plan
) -> tuple[TrainState, Logs]:
    steps = steps_per_epoch(data, plan)
    key = steps_key(state)

    def take_one(i, carry, batch):
        state, going, logs = carry
        step_key = jax.random.fold_in(key, i)
        rows = rows_of_parts(learner, plan, step_key, batch)
        batch = training_half(plan.transform, step_key, batch)
        outcome = step(learner, state, batch, step_key, going, rows=rows)
        values = quotients(outcome.logs)
        for name, value in values.items():
            value = jnp.where(outcome.counted, value, jnp.nan)
            logs = logs | {name: logs[name].at[i].set(value)}
        return outcome.state, outcome.goes_on, logs

    shapes = jax.eval_shape(quotients, shapes_of_logs(learner, state, data, plan))
    logs = {name: jnp.full(steps, jnp.nan, log.dtype) for name, log in shapes.items()}
    order = learner.constrain(order_of(state, data, plan))
    carry = (state, jnp.array(True), logs)
    state, going, logs = fold(
        take_one, carry, data, order, plan.batch_size, 0, steps, plan.fetch
    )
    return learner.constrain((replace(state, epoch=state.epoch + going), logs))


def start(
    learner: Learner, state: TrainState, batch: PyTree, has_val: bool, plan: Plan
) -> Loop:
    """The loop before its first step.

    Args:
      batch: shapes and dtypes of a minibatch.
    """
    logs = shapes_of_logs(learner, state, batch, plan)
    values = jax.eval_shape(quotients, logs)
    names = history_names(learner, values, has_val)
    history = {name: jnp.zeros(plan.epochs, values[log].dtype) for name, log in names.items()}
    dtype = history[plan.monitor].dtype
    worst = jnp.array(jnp.finfo(dtype).max, dtype)
    zero = jnp.zeros((), jnp.int32)
    return Loop(
        state=state,
        best=state,
        best_value=worst,
        reference=worst,
        waited=zero,
        history=history,
        totals=jax.tree.map(lambda log: jnp.zeros((), log.dtype), logs),
        done=zero,
        step=zero,
        lost=zero,
        skipped=zero,
        alive=jnp.array(True),
        stopped=jnp.array(False),
    )


# Steps and epochs.


def take_step(
    learner: Learner, plan: Plan, key: jax.Array, i: Any, loop: Loop, batch: PyTree
) -> Loop:
    """Step `i` of the current epoch.

    Args:
      key: `steps_key` of the state at the beginning of the epoch.
    """
    step_key = jax.random.fold_in(key, i)
    rows = rows_of_parts(learner, plan, step_key, batch)
    batch = training_half(plan.transform, step_key, batch)
    outcome = step(
        learner,
        loop.state,
        batch,
        step_key,
        loop.alive,
        skip=plan.skip_nonfinite,
        rows=rows,
    )
    totals = choose(outcome.counted, add(loop.totals, outcome.logs), loop.totals)
    if plan.skip_nonfinite or isinstance(loop.state.opt_state, precision.Scaled):
        totals = _unless_none_counted(loop, outcome, totals)
    return replace(
        loop,
        state=outcome.state,
        alive=outcome.goes_on,
        totals=totals,
        step=loop.step + loop.alive,
        lost=loop.lost + (loop.alive & ~outcome.counted),
    )


def _unless_none_counted(loop: Loop, outcome: Outcome, totals: Sums) -> Sums:
    """The sums of an epoch, of which the steps so far may all have been left out.

    A mean over no steps is NaN, which looks like a failure. Until a step is counted, the sums
    are those of the step that was left out last, if they are finite.
    """
    none_before = loop.step == loop.lost
    totals = choose(none_before & outcome.counted, outcome.logs, totals)
    stands_in = loop.alive & none_before & ~outcome.counted & all_finite(outcome.logs)
    return choose(stands_in, outcome.logs, totals)


def with_means(loop: Loop) -> Loop:
    """The loop with the means over the epoch's steps so far in its history."""
    return with_history(loop, "train/", loop.totals)


def with_history(loop: Loop, prefix: str, sums: dict[str, Ratio]) -> Loop:
    """The loop with the values of the current epoch in its history."""
    # In place in a loop; .at[].set is a scatter, itself a loop on the CPU.
    put = jax.lax.dynamic_update_index_in_dim
    history = dict(loop.history)
    for log, value in quotients(sums).items():
        name = prefix + log
        history[name] = put(history[name], value, loop.done, 0)
    return replace(loop, history=history)


def validated(learner: Learner, loop: Loop, val: PyTree | None, plan: Plan) -> Loop:
    """The end of an epoch, with the validation of its last state."""
    sums = {}
    if val is not None:
        size = min(plan.val_batch_size, n_rows(val))
        sums = mean_sums(learner, with_epoch(loop), val, size, plan.transform)
    return end_of_epoch(loop, sums, plan)


def with_epoch(loop: Loop) -> TrainState:
    """The state after the last step of an epoch, its epoch counted unless training failed."""
    return replace(loop.state, epoch=loop.state.epoch + loop.alive)


def end_of_epoch(loop: Loop, val_sums: Sums, plan: Plan) -> Loop:
    """Keep the best state, count towards early stopping, make ready for the next epoch.

    After a failure all stays as it is.

    Args:
      loop: after the last step of an epoch.
      val_sums: of the validation of its state; empty without validation.
    """
    loop = with_history(loop, "val/", val_sums)
    values = {name: column[loop.done] for name, column in loop.history.items()}
    state = with_epoch(loop)
    after = replace(state, opt_state=plateau.end_of_epoch(state.opt_state, values))
    state = choose_state(loop.alive, after, state)
    sign = 1
    min_delta = 0.0
    if plan.stop is not None:
        sign = -1 if plan.stop.mode == "max" else 1
        min_delta = plan.stop.min_delta
    value = sign * values[plan.monitor]
    is_best = loop.alive & (value < loop.best_value)
    improved = loop.alive & (value < loop.reference - min_delta)
    waited = jnp.where(improved, 0, loop.waited + 1)
    stopped = loop.stopped
    if plan.stop is not None:
        stopped = stopped | (loop.alive & (waited >= plan.stop.patience))
    zero = jnp.zeros_like(loop.step)
    return replace(
        loop,
        state=state,
        best=choose_state(is_best, state, loop.best),
        best_value=jnp.where(is_best, value, loop.best_value),
        reference=jnp.where(improved, value, loop.reference),
        waited=waited,
        totals=choose(loop.alive, jax.tree.map(jnp.zeros_like, loop.totals), loop.totals),
        done=loop.done + loop.alive,
        step=jnp.where(loop.alive, zero, loop.step),
        lost=jnp.where(loop.alive, zero, loop.lost),
        skipped=loop.skipped + jnp.where(loop.alive, loop.lost, zero),
        stopped=stopped,
    )


def is_going(loop: Loop, plan: Plan) -> jax.Array:
    """Whether there is more to train."""
    return loop.alive & ~loop.stopped & (loop.done < plan.epochs)


def result(loop: Loop, history: Logs) -> Run:
    """The `Run` of a loop with this history."""
    length = next(iter(loop.history.values())).shape[0]
    return Run(
        state=loop.state,
        best=loop.best,
        history=history,
        stopped=~loop.alive | (loop.done < length),
        failure=jnp.where(loop.alive, 0, jnp.stack([loop.done + 1, loop.step])),
        skipped=loop.skipped + loop.lost,
    )


def padded_history(loop: Loop) -> Logs:
    """The history at full length, NaN in epochs that were not finished.

    Of an epoch that failed the losses of training are kept: they tell how.
    """
    epoch = jnp.arange(next(iter(loop.history.values())).shape[0])
    history = {}
    for name, column in loop.history.items():
        reached = loop.done if name.startswith("val/") else loop.done + ~loop.alive
        history[name] = jnp.where(epoch < reached, column, jnp.nan)
    return history


def history_until(loop: Loop, epochs: int) -> dict[str, np.ndarray]:
    """`padded_history`, cut after some epochs and made on the host.

    JAX's alarm for NaN (`jax_debug_nans`) looks at every computation on a device.
    """
    history = {}
    for name, column in loop.history.items():
        values = np.array(column)[:epochs]  # JAX would compile each length of a slice
        if name.startswith("val/"):
            values[int(loop.done) :] = np.nan
        history[name] = values
    return history
