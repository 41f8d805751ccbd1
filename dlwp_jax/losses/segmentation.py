"""Losses of a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dlwp_jax.losses._common import Reduction, reduce, same_shape


def dice_loss(
    prediction: ArrayLike, label: ArrayLike, *, eps: float = 1.0, reduction: Reduction = "mean"
) -> jax.Array:
    """One minus the soft Dice overlap, the book's segmentation loss (chapter 13.5.5).

    1 - (2 sum(p y) + eps) / (sum(p) + sum(y) + eps), the sums over all axes but the first.

    Args:
      prediction: probabilities `[n ...]`.
      label: the mask, 0 or 1 (or booleans), of the same shape.
      eps: makes an empty mask that is predicted empty a perfect 0.
      reduction: `'none'` (one value for each example), `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[n]` for `'none'`.

    Raises:
      ValueError: for different shapes, a single example without its leading axis, or an unknown
        reduction.

    >>> import jax.numpy as jnp
    >>> mask = jnp.array([[1.0, 1.0, 0.0]])
    >>> float(dice_loss(mask, mask)), float(dice_loss(1 - mask, mask))
    (0.0, 0.75)
    """
    p, y = same_shape(prediction=prediction, label=label)
    if p.ndim < 2:
        raise ValueError(
            f"prediction has shape {p.shape}; dice_loss needs [n ...], one mask for each "
            "example."
        )
    axes = tuple(range(1, p.ndim))
    # A mask may have more pixels than float16 can count.
    wide = jnp.promote_types(p.dtype, jnp.float32)
    both, predicted, true = (jnp.sum(a, axes, dtype=wide) for a in (p * y, p, y))
    overlap = (2 * both + eps) / (predicted + true + eps)
    return reduce((1 - overlap).astype(p.dtype), reduction)
