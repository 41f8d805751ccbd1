"""Functions that change a batch on the device before the loss sees it."""

from collections.abc import Callable
from typing import Any, cast

import jax

from dlwp_jax.checks import describe

PyTree = Any
OfBatch = Callable[[jax.Array, PyTree], PyTree]
Transform = tuple[OfBatch | None, OfBatch | None]
STREAM = 2**31 - 1  # folded into a step's key; the model's streams count up from 0


def transform_pair(transform: Any) -> Transform:
    """The functions for training and for evaluation that `transform=` stands for.

    Args:
      transform: None; `transform(key, batch) -> batch`, for training, and for evaluation if
        its attribute `evaluate` is such a function too; or a pair of them, each may be None.

    >>> transform_pair(None)
    (None, None)
    """
    if isinstance(transform, tuple) and len(transform) == 2:
        training, evaluation = transform
    else:
        training, evaluation = transform, getattr(transform, "evaluate", None)
    for function in (training, evaluation):
        if function is not None and not callable(function):
            raise TypeError(
                "transform must be a function (key, batch) -> batch, or a pair of them for "
                f"training and evaluation; got {describe(transform)}."
            )
    return cast(Transform, (training, evaluation))


def training_half(transform: Transform, key: jax.Array, batch: PyTree) -> PyTree:
    """A batch as training sees it."""
    return _applied(transform[0], key, batch)


def evaluation_half(transform: Transform, key: jax.Array, batch: PyTree) -> PyTree:
    """A batch as evaluation sees it."""
    return _applied(transform[1], key, batch)


def _applied(function: OfBatch | None, key: jax.Array, batch: PyTree) -> PyTree:
    if function is None:
        return batch
    return function(jax.random.fold_in(key, STREAM), batch)
