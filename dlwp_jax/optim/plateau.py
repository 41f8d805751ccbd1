"""A learning rate that falls when a metric stops improving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dlwp_jax.optim._rule import Scalar


@jax.tree_util.register_static
@dataclass(frozen=True)
class PlateauRule:
    """The options of one `reduce_lr_on_plateau`: a static part of its state, without arrays."""

    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    min_lr: float
    eps: float
    monitor: str | None

    def after_epoch(self, state: PlateauState, value: ArrayLike) -> PlateauState:
        """The state after an epoch whose metric was `value`."""
        value = jnp.asarray(value).astype(state.best.dtype)
        better = self._is_better(value, state.best)
        cooling = state.cooldown_counter > 0
        bad = jnp.where(better | cooling, 0, state.num_bad_epochs + 1)
        reduce = bad > self.patience
        lower = jnp.maximum(state.lr * self.factor, self.min_lr)
        rest = jnp.maximum(state.cooldown_counter - 1, 0)
        return state._replace(
            lr=jnp.where(reduce & (state.lr - lower > self.eps), lower, state.lr),
            best=jnp.where(better, value, state.best),
            num_bad_epochs=jnp.where(reduce, 0, bad),
            cooldown_counter=jnp.where(reduce, self.cooldown, rest),
        )

    def _is_better(self, value, best):
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "rel":
            bar = best * (1 - sign * self.threshold)
        else:
            bar = best - sign * self.threshold
        return sign * value < sign * bar


class PlateauState(NamedTuple):
    """State of `reduce_lr_on_plateau`.

    `lr` is the learning rate of the next step; `best`, `num_bad_epochs` and `cooldown_counter`
    are torch's (the first `best` is the largest finite number instead of infinity). `value_sum`
    and `count` gather the values of the current epoch, and are None if a metric is monitored.
    `rule` is the `PlateauRule`, which is static.
    """

    lr: Any
    best: Any
    num_bad_epochs: Any
    cooldown_counter: Any
    value_sum: Any
    count: Any
    rule: Any


def reduce_lr_on_plateau(
    lr: Scalar,
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
    *,
    steps_per_epoch: int = 1,
    monitor: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Reduce the learning rate when a metric stops improving
    (`torch.optim.lr_scheduler.ReduceLROnPlateau`).

    Chain it after an optimizer with the same `lr`. It multiplies the updates by (present lr /
    first lr), which changes the learning rate of every optimizer here except ASGD, Rprop and
    Adafactor.

    With `monitor="val/loss"`, `train.fit` and `train.run` look at this column of the history at
    the end of every epoch: `optax.chain(sgd(lr), reduce_lr_on_plateau(lr,
    monitor="val/loss"))`. In a training loop of your own, call `optim.plateau.end_of_epoch`.

    Without `monitor`, every update takes the metric of its own step, `tx.update(grads, state,
    params, value=loss)`; `train` passes the loss of the minibatch. The metric of a step acts on
    the next step, as in torch, where optimizer.step() comes before scheduler.step(loss).
    `optax.contrib.reduce_on_plateau` reduces one epoch earlier.

    Args:
      lr: the first learning rate: a number or a traced scalar, not zero.
      mode: `'min'` if lower is better, `'max'` if higher is better.
      factor: new lr = factor * old lr; below one.
      patience: the number of epochs without improvement that do not reduce the rate yet.
      threshold: by how much a value must be better than the best one to be an improvement.
      threshold_mode: `'rel'` (a share of the best value) or `'abs'`.
      cooldown: the number of epochs after a reduction that are not counted.
      min_lr: the lowest learning rate.
      eps: a reduction by no more than this is not made.
      steps_per_epoch: without `monitor`: updates per epoch, whose values are averaged.
      monitor: the name of the metric that is looked at once an epoch, as in the history:
        "val/loss", "train/loss", "val/accuracy".

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `PlateauState`.

    Raises:
      ValueError: for options that torch refuses, and from `update` without a value if there is
        no `monitor`.

    >>> tx = reduce_lr_on_plateau(1.0, factor=0.5, patience=0, monitor="val/loss")
    >>> state, rates = tx.init(jnp.zeros(1)), []
    >>> for loss in [3.0, 2.0, 2.0, 1.0, 1.0]:
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     state = end_of_epoch(state, {"val/loss": loss})
    ...     rates.append(float(state.lr))
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    if factor >= 1:
        raise ValueError(f"factor={factor} must be below 1.")
    if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
        raise ValueError(
            f"mode={mode!r} must be 'min' or 'max', threshold_mode={threshold_mode!r} "
            "'rel' or 'abs'."
        )
    if steps_per_epoch < 1 or (monitor is not None and steps_per_epoch != 1):
        raise ValueError(
            f"steps_per_epoch={steps_per_epoch} must be at least 1, and 1 with monitor, which "
            "counts epochs itself."
        )
    rule = PlateauRule(
        mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps, monitor
    )

    def init(params):
        del params
        rate = jnp.asarray(lr, float)
        # Torch's infinity would set off `jax_debug_infs`.
        worst = jnp.asarray(jnp.finfo(rate.dtype).max, rate.dtype)
        worst = worst if mode == "min" else -worst
        zero = jnp.zeros((), jnp.int32)
        value_sum, count = (jnp.zeros_like(rate), zero) if monitor is None else (None, None)
        return PlateauState(rate, worst, zero, zero, value_sum, count, rule)

    def update(updates, state, params=None, *, value=None, **extra):
        del params, extra
        scale = state.lr / lr
        updates = jax.tree.map(lambda g: g * scale.astype(g.dtype), updates)
        if monitor is not None:
            return updates, state
        if value is None:
            raise ValueError(
                "value is missing; call update(grads, state, params, value=metric)."
            )
        value_sum = state.value_sum + jnp.asarray(value, state.value_sum.dtype)
        state = state._replace(value_sum=value_sum, count=state.count + 1)
        ended = rule.after_epoch(state, value_sum / state.count)
        fresh = {"value_sum": jnp.zeros_like(value_sum), "count": jnp.zeros_like(state.count)}
        ended = ended._replace(**fresh)
        is_end = state.count >= steps_per_epoch
        return updates, jax.tree.map(lambda a, b: jnp.where(is_end, a, b), ended, state)

    return optax.GradientTransformationExtraArgs(init, update)


def end_of_epoch(opt_state: Any, values: Mapping[str, ArrayLike]) -> Any:
    """The optimizer state after the end of an epoch.

    Every `reduce_lr_on_plateau(..., monitor=name)` within it looks at `values[name]` and
    reduces its learning rate if it has to. All else stays as it is. It is a pure function, for
    `jit`, loops and `vmap`.

    Args:
      opt_state: the state of any optimizer.
      values: the metrics of the epoch by name: `{"val/loss": scalar, ...}`.

    Returns:
      The new state, of the same structure.

    Raises:
      ValueError: if a monitored metric is not among the values.

    >>> tx = optax.chain(
    ...     optax.adam(1e-3), reduce_lr_on_plateau(1e-3, patience=0, monitor="val/loss")
    ... )
    >>> state = tx.init(jnp.zeros(1))
    >>> for loss in (1.0, 2.0):
    ...     state = end_of_epoch(state, {"val/loss": loss})
    >>> round(float(state[1].lr), 6)
    0.0001
    """

    def after(state):
        if not _is_monitored(state):
            return state
        if state.rule.monitor not in values:
            raise ValueError(
                f"reduce_lr_on_plateau monitors {state.rule.monitor!r}, which is not recorded; "
                f"take one of {sorted(values)}."
            )
        return state.rule.after_epoch(state, values[state.rule.monitor])

    return jax.tree.map(after, opt_state, is_leaf=_is_monitored)


def monitors(opt_state: Any) -> set[str]:
    """The names of all metrics that an optimizer's state monitors.

    >>> monitors(reduce_lr_on_plateau(0.1, monitor="val/loss").init(None))
    {'val/loss'}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_monitored)
    return {node.rule.monitor for node in nodes if _is_monitored(node)}


def _is_monitored(node: Any) -> bool:
    return isinstance(node, PlateauState) and node.rule.monitor is not None
