"""Metrics: numbers that are averaged over the steps of an epoch, and ratios of sums.

Every value that a step logs is kept as a `Ratio`. The loss and a plain metric are a value over
1 in training (the mean over the epoch's steps) and a sum over the number of examples in an
evaluation. So one rule serves all: numerators and denominators are summed over steps, parts
and devices, and divided once, at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import describe

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ratio:
    """A metric that is a ratio of two sums, such as precision, recall, Dice or F1.

    A mean of the ratios of single batches is not the ratio over the epoch. A `loss_fn` that
    returns a `Ratio` among its metrics has both sums added up over the steps of the epoch, the
    parts of a batch (`accumulate`) and the devices; the history, early stopping and `evaluate`
    see the quotient. It is NaN if the denominator is 0.

    Attributes:
      numerator: a scalar, summed.
      denominator: a scalar, summed.

    >>> found, there = jnp.array([1.0, 0.0, 1.0]), jnp.array([1.0, 1.0, 1.0])
    >>> recall = Ratio(jnp.sum(found * there), jnp.sum(there))
    >>> round(float(recall.value), 3)
    0.667
    """

    numerator: Any
    denominator: Any

    @property
    def value(self) -> jax.Array:
        """The quotient."""
        return jnp.asarray(self.numerator) / jnp.asarray(self.denominator)


Metric = jax.Array | Ratio
Sums = dict[str, Ratio]


def is_ratio(value: Any) -> bool:
    """Whether a node of a tree is a `Ratio`."""
    return isinstance(value, Ratio)


def as_sums(loss: jax.Array, metrics: Mapping[str, Metric], weight: int = 1) -> Sums:
    """Loss and metrics as ratios, in float32 or wider so that sums over many steps stay exact.

    Args:
      loss: the mean over a batch.
      metrics: as `loss_fn` returns them.
      weight: by how much the loss and plain metrics count: 1, or the rows of the batch.
    """
    sums = {}
    for name, value in {"loss": loss, **metrics}.items():
        if is_ratio(value):
            sums[name] = Ratio(wide(value.numerator), wide(value.denominator))
        else:
            sums[name] = Ratio(weight * wide(value), jnp.int32(weight))
    return sums


def wide(value: Any) -> jax.Array:
    """A number in float32 or wider."""
    return jnp.asarray(value).astype(jnp.promote_types(jnp.result_type(value), jnp.float32))


def add(a: Sums, b: Sums) -> Sums:
    """The sums of two disjoint sets of steps or examples."""
    return jax.tree.map(jnp.add, a, b)


def quotients(sums: Sums) -> dict[str, jax.Array]:
    """The values of all metrics."""
    return {name: ratio.value for name, ratio in sums.items()}


def check(outcome: Any) -> None:
    """Refuse a result of `loss_fn` that is not a scalar loss with a dict of scalar metrics.

    It is called while the loss is traced.
    """
    is_pair = isinstance(outcome, tuple) and len(outcome) == 2
    if not is_pair or not isinstance(outcome[1], dict):
        raise TypeError(
            "loss_fn must return (loss, metrics), metrics a dict of scalars and maybe empty; "
            f"it returned {describe(outcome)}."
        )
    loss, metrics = outcome
    if np.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(
            f"the loss must be one real number; loss_fn returned shape {np.shape(loss)} of "
            f"{jnp.result_type(loss)}. Reduce it, for example by jnp.mean."
        )
    for name, value in metrics.items():
        parts = (value.numerator, value.denominator) if is_ratio(value) else (value,)
        if not isinstance(name, str) or not all(_is_scalar(part) for part in parts):
            raise ValueError(
                "metrics must be scalars, or train.Ratio of scalars, under names; loss_fn "
                f"returned {name!r}: {describe(value)}."
            )
    if "loss" in metrics:
        raise ValueError(
            "a metric may not be called 'loss': that name is the loss itself; rename it."
        )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()
