"""Functions that change a batch on the device before the loss sees it."""

import functools
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


def row_leaves(transform: Transform, key: jax.Array, batch: PyTree) -> tuple[bool, ...] | None:
    """Which arrays of a batch, as training sees it, hold rows: those that are longer if the
    batch is longer.

    Their lengths do not tell: weights of ten classes are no rows of a batch of ten.

    Args:
      key, batch: arrays, or their shapes and dtypes.

    Returns:
      A bool for each leaf; None if there is no transform: then all hold rows.

    Raises:
      ValueError: if the transform works for one number of rows only.

    >>> add = lambda key, batch: batch | {"weights": jax.numpy.ones(10)}
    >>> row_leaves((add, None), jax.random.key(0), {"x": jax.numpy.zeros((10, 3))})
    (False, True)
    """
    if transform[0] is None:
        return None

    def lengths(factor: int) -> list[tuple[int, ...]]:
        longer = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((factor * x.shape[0], *x.shape[1:]), x.dtype), batch
        )
        changed = jax.eval_shape(functools.partial(training_half, transform), key, longer)
        return [leaf.shape[:1] for leaf in jax.tree.leaves(changed)]

    once = lengths(1)
    refusal = (
        "accumulate= cuts the arrays that are longer if the batch is longer, and the transform "
        f"{{}} a batch of twice as many rows as {jax.tree.leaves(batch)[0].shape[0]}{{}}. Take "
        "the number of rows from the batch, as in len(batch['x'])."
    )
    try:
        twice = lengths(2)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(refusal.format("cannot take", f" ({error})")) from error
    found = [a != b for a, b in zip(once, twice, strict=True)]
    if not any(found):
        raise ValueError(refusal.format("makes arrays that do not grow with", ""))
    # Examples first: a second set of rows, such as two boxes for each example, stays whole.
    n = jax.tree.leaves(batch)[0].shape[:1]
    examples = [grows and length == n for grows, length in zip(found, once, strict=True)]
    return tuple(examples if any(examples) else found)


def _applied(function: OfBatch | None, key: jax.Array, batch: PyTree) -> PyTree:
    if function is None:
        return batch
    return function(jax.random.fold_in(key, STREAM), batch)
