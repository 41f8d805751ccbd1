"""The settings of a training, checked before anything is compiled, and the sizes that follow
from them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from dlwp_jax.checks import describe, real, whole
from dlwp_jax.optim import plateau
from dlwp_jax.train import checks
from dlwp_jax.train.evaluation import check_form
from dlwp_jax.train.minibatches import (
    Sampler,
    batch_shape,
    epoch_length,
    epoch_order,
    n_rows,
    rows,
    rows_or_nan,
    steps_of,
)
from dlwp_jax.train.state import Learner, TrainState
from dlwp_jax.train.step import log_shapes
from dlwp_jax.train.streams import is_stream
from dlwp_jax.train.transform import Transform, row_leaves, training_half, transform_pair

PyTree = Any
SMALL = 2**18  # bytes of a validation set that is evaluated as one batch


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a monitored value has not improved for `patience` epochs in a row.

    NaN is no improvement.

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
        object.__setattr__(self, "patience", whole(self.patience, "patience", 1))
        object.__setattr__(self, "min_delta", real(self.min_delta, "min_delta", 0))
        if not isinstance(self.monitor, str):
            raise TypeError(
                f"monitor must be a name in the history; got {describe(self.monitor)}."
            )
        if not isinstance(self.mode, str) or self.mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max'; got {describe(self.mode)}.")


@dataclass(frozen=True)
class Plan:
    """The settings of a training: hashable, a static argument of its programs."""

    epochs: int
    batch_size: int
    val_batch_size: int
    monitor: str
    stop: EarlyStopping | None
    skip_nonfinite: bool
    drop_last: bool
    sampler: Sampler | None
    transform: Transform

    @property
    def fetch(self) -> Callable[[PyTree, jax.Array], PyTree]:
        """How a minibatch's rows are looked up: a sampler may give some that do not exist."""
        return rows if self.sampler is None else rows_or_nan


def make_plan(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    val: Any,
    *,
    epochs: int | None = None,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    skip_nonfinite: bool = False,
    drop_last: bool = False,
    sampler: Sampler | None = None,
    transform: Any = None,
) -> Plan:
    """Check all settings of a training.

    Args:
      batch: shapes and dtypes of a minibatch.
      val: the validation set, a stream of it, or None.
      epochs: None for a single epoch without a history.
    """
    if stop is not None and not isinstance(stop, EarlyStopping):
        raise TypeError(f"stop must be a train.EarlyStopping, or None; got {describe(stop)}.")
    if not isinstance(skip_nonfinite, bool | np.bool_):
        raise TypeError(
            f"skip_nonfinite must be True or False; got {describe(skip_nonfinite)}."
        )
    batch_size = n_rows(batch)
    if val_batch_size is None:
        val_batch_size = max(batch_size, 256, _rows_of_small(val))
    monitor = "train/loss" if val is None else "val/loss"
    if stop is not None:
        monitor = stop.monitor
    plan = Plan(
        epochs=1 if epochs is None else whole(epochs, "epochs", 1),
        batch_size=batch_size,
        val_batch_size=whole(val_batch_size, "val_batch_size", 1),
        monitor=monitor,
        stop=stop,
        skip_nonfinite=bool(skip_nonfinite),
        drop_last=bool(drop_last),
        sampler=sampler,
        transform=transform_pair(transform),
    )
    logs = shapes_of_logs(learner, state, batch, plan)
    recorded = list(history_names(learner, logs, val is not None))
    monitors = set() if epochs is None else plateau.monitors(state.opt_state)
    for name in sorted(monitors | {monitor}):
        checks.monitor(name, recorded, has_val=val is not None)
    if val is not None and not is_stream(val):
        check_form(learner.unplaced, state, batch, val, plan.transform)
    return plan


def _rows_of_small(val: Any) -> int:
    """All rows of a small validation set, of which metrics are then exact; 0 of others."""
    if val is None or is_stream(val):
        return 0
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(val))
    return n_rows(val) if size <= SMALL else 0


def transformed_shape(data: PyTree, plan: Plan) -> PyTree:
    """Shapes and dtypes of a minibatch of `data` as the loss is given it."""
    batch = batch_shape(data, plan.batch_size)
    if plan.transform[0] is None:
        return batch
    key = jax.eval_shape(lambda: jax.random.key(0))
    return _traced_half.eval_shape(plan.transform, key, batch)


# Tracing takes longer than an epoch of a small model; jit remembers what it has traced.
_traced_half = jax.jit(training_half, static_argnums=0)


def rows_of_parts(
    learner: Learner, plan: Plan, key: jax.Array, batch: PyTree
) -> tuple[bool, ...] | None:
    """Which leaves of the transformed batch are cut, if the learner takes it in parts."""
    return None if learner.accumulate == 1 else row_leaves(plan.transform, key, batch)


def shapes_of_logs(
    learner: Learner, state: TrainState, data: PyTree, plan: Plan
) -> dict[str, jax.ShapeDtypeStruct]:
    """The logs of a step on a minibatch of `data`."""
    batch = batch_shape(data, plan.batch_size)
    rows = rows_of_parts(learner, plan, state.key, batch)
    return log_shapes(learner, state, transformed_shape(data, plan), rows)


def order_of(state: TrainState, data: PyTree, plan: Plan) -> jax.Array:
    """The rows of `data` that the current epoch trains on, in their order."""
    return epoch_order(state, n_rows(data), plan.batch_size, plan.sampler, plan.drop_last)


def steps_per_epoch(data: PyTree, plan: Plan) -> int:
    """The number of minibatches of an epoch."""
    length = epoch_length(n_rows(data), plan.batch_size, plan.sampler, plan.drop_last)
    return steps_of(length, plan.batch_size)


def history_names(learner: Learner, logs: Collection[str], has_val: bool) -> dict[str, str]:
    """The names of the history's columns, each with the log that it holds."""
    names = {f"train/{log}": log for log in logs}
    if has_val:
        names |= {f"val/{log}": log for log in logs if log not in learner.step_logs}
    return names
