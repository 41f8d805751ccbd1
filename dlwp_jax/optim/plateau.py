"""The learning rate that falls when the loss stops falling."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlwp_jax.optim._rule import Scalar


class PlateauState(NamedTuple):
    """torch's `best`, `num_bad_epochs` and `cooldown_counter`, and the learning rate of the
    next step.

    `value_sum` and `count` gather the losses of the epoch that is running.
    """

    lr: Any
    best: Any
    num_bad_epochs: Any
    cooldown_counter: Any
    value_sum: Any
    count: Any


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
) -> optax.GradientTransformationExtraArgs:
    """Reduce the learning rate when a metric stops improving
    (`torch.optim.lr_scheduler.ReduceLROnPlateau`).

    Chain it after an optimizer built with the same `lr` and pass the metric: `tx =
    optax.chain(sgd(lr), reduce_lr_on_plateau(lr))`, then `tx.update(grads, state, params,
    value=loss)`. It scales the updates by (present lr / first lr), which is the changed
    learning rate for every optimizer here except ASGD, Rprop and Adafactor. The metric of a
    step acts on the next one: torch's order, optimizer.step() before scheduler.step(loss).
    optax.contrib.reduce_on_plateau reduces one epoch earlier.

    Args:
      lr: the first learning rate: a number or a traced scalar, not zero.
      mode: `'min'` or `'max'`: whether lower or higher is better.
      factor: new lr = factor * old lr, below one.
      patience: how many epochs without improvement are forgiven.
      threshold: what counts as an improvement.
      threshold_mode: `'rel'` (of the best) or `'abs'`.
      cooldown: epochs after a reduction in which nothing is counted.
      min_lr: the learning rate goes no lower.
      eps: smaller reductions are not made.
      steps_per_epoch: updates per epoch: the mean of so many values is one metric for torch's
        rules.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `PlateauState`.

    Raises:
      ValueError: for options torch refuses, and from `update` without a value.

    >>> import jax.numpy as jnp
    >>> tx = reduce_lr_on_plateau(1.0, factor=0.5, patience=0)
    >>> state, rates = tx.init(jnp.zeros(1)), []
    >>> for loss in [3.0, 2.0, 2.0, 1.0, 1.0]:
    ...     _, state = tx.update(jnp.ones(1), state, value=loss)
    ...     rates.append(float(state.lr))
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    if factor >= 1:
        raise ValueError(f"factor={factor} must be below 1.")
    if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
        raise ValueError(
            f"mode={mode!r} must be 'min' or 'max', threshold_mode={threshold_mode!r} 'rel' or 'abs'."
        )
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch={steps_per_epoch} must be at least 1.")
    sign = 1 if mode == "min" else -1

    def is_better(value, best):
        bar = (
            best * (1 - sign * threshold)
            if threshold_mode == "rel"
            else best - sign * threshold
        )
        return sign * value < sign * bar

    def init(params):
        del params
        rate = jnp.asarray(lr, float)
        zero = jnp.zeros((), jnp.int32)
        return PlateauState(
            rate,
            jnp.asarray(sign * jnp.inf, rate.dtype),
            zero,
            zero,
            jnp.zeros_like(rate),
            zero,
        )

    def after_epoch(state):
        value = state.value_sum / state.count
        better = is_better(value, state.best)
        cooling = state.cooldown_counter > 0
        bad = jnp.where(better | cooling, 0, state.num_bad_epochs + 1)
        reduce = bad > patience
        lower = jnp.maximum(state.lr * factor, min_lr)
        return PlateauState(
            lr=jnp.where(reduce & (state.lr - lower > eps), lower, state.lr),
            best=jnp.where(better, value, state.best),
            num_bad_epochs=jnp.where(reduce, 0, bad),
            cooldown_counter=jnp.where(
                reduce, cooldown, jnp.maximum(state.cooldown_counter - 1, 0)
            ),
            value_sum=jnp.zeros_like(state.value_sum),
            count=jnp.zeros_like(state.count),
        )

    def update(updates, state, params=None, *, value=None, **extra):
        del params, extra
        if value is None:
            raise ValueError(
                "value is missing; call update(grads, state, params, value=metric)."
            )
        scale = state.lr / lr
        updates = jax.tree.map(lambda g: g * scale.astype(g.dtype), updates)
        value_sum = state.value_sum + jnp.asarray(value, state.value_sum.dtype)
        state = state._replace(value_sum=value_sum, count=state.count + 1)
        ended = after_epoch(state)
        return updates, jax.tree.map(
            lambda a, b: jnp.where(state.count >= steps_per_epoch, a, b), ended, state
        )

    return optax.GradientTransformationExtraArgs(init, update)
