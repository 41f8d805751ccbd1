"""Losses that ask for a distance: once a pair is further apart than the margin it costs
nothing.

Gradients at the kinks are torch's, and torch has two kinds: losses written with `clamp_min`
have slope one at the kink, `multi_margin_loss` and `multilabel_margin_loss` have slope zero
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dlwp_jax.labels import labels
from dlwp_jax.losses._common import (
    Reduction,
    absolute,
    as_floats,
    at_class,
    checked_classes,
    clamp_min,
    class_weights,
    floating,
    reduce,
    same_shape,
    weighted,
)


def hinge_embedding_loss(
    input: ArrayLike, target: ArrayLike, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> jax.Array:
    """x for a similar pair, max(0, margin - x) for a dissimilar one (`F.hinge_embedding_loss`).

    Args:
      input: distances `[...]`.
      target: 1 (similar) or -1 (dissimilar), of the same shape.
      margin: how far apart dissimilar pairs should be.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> distances, similar = jnp.array([0.5, 0.25]), jnp.array([1, -1])
    >>> hinge_embedding_loss(distances, similar, reduction="none").tolist()
    [0.5, 0.75]
    """
    x, y = same_shape(input=input, target=target)
    similar = jnp.where(y != -1, x, 0.0)
    dissimilar = jnp.where(y != 1, clamp_min(margin - x, 0.0), 0.0)
    return reduce(similar + dissimilar, reduction)


def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """max(0, margin - y (x1 - x2)): y = 1 wants x1 ranked higher (`F.margin_ranking_loss`).

    Args:
      input1: scores `[...]`.
      input2: scores of the same shape.
      target: 1 or -1, of the same shape.
      margin: by how much the winner should win.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> float(margin_ranking_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])))
    2.0
    """
    x1, x2, y = same_shape(input1=input1, input2=input2, target=target)
    return reduce(clamp_min(-y * (x1 - x2) + margin, 0.0), reduction)


def soft_margin_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: Reduction = "mean"
) -> jax.Array:
    """log(1 + exp(-y x)), the logistic loss for y = 1 or -1 (`F.soft_margin_loss`).

    For -y x above 88 (float32) torch overflows to inf with a gradient of nan; here the value
    stays -y x.

    Args:
      input: scores `[...]`.
      target: 1 or -1, of the same shape.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> round(float(soft_margin_loss(jnp.array([0.0]), jnp.array([1.0]))), 4)
    0.6931
    """
    x, y = same_shape(input=input, target=target)
    return reduce(jax.nn.softplus(-y * x), reduction)


def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Multi-class hinge: sum over j != y of w[y] max(0, margin - x[y] + x[j])^p / C
    (`multi_margin_loss`).

    Args:
      input: scores `[n C]` or `[C]`.
      target: class indices `[n]` or a scalar.
      p: 1 or 2.
      margin: by how much the true class should win.
      weight: optional weight of each class `[C]`.
      reduction: `'none'`, `'mean'` (over n, weights or not) or `'sum'`.

    Returns:
      A scalar, or `[n]` for `'none'`.

    Raises:
      ValueError: for shapes that do not fit, another p, or an unknown reduction. IndexError:
        for a class that is not there; under `jit` the loss is nan then.

    >>> import jax.numpy as jnp
    >>> float(multi_margin_loss(jnp.array([[0.5, 0.0, 2.0]]), jnp.array([2])))
    0.0
    """
    x = floating("input", input)
    if p not in (1, 2):
        raise ValueError(f"p={p} is not supported; multi_margin_loss takes 1 or 2.")
    if x.ndim not in (1, 2) or x.shape[:-1] != jnp.shape(target):
        raise ValueError(
            f"target has shape {jnp.shape(target)}, but input {x.shape} (classes last) needs "
            f"{x.shape[:-1]}."
        )
    n_classes = x.shape[-1]
    target = checked_classes(target, n_classes)
    hinge = jax.nn.relu(margin - at_class(x, target)[..., None] + x) ** p
    hinge = hinge * class_weights(weight, n_classes, x.dtype)[target][..., None]
    others = jnp.arange(n_classes) != target[..., None]
    return reduce(jnp.sum(jnp.where(others, hinge, 0.0), axis=-1) / n_classes, reduction)


def multilabel_margin_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: Reduction = "mean"
) -> jax.Array:
    """Multi-label hinge: sum, for labels y and others j, of max(0, 1 - x[y] + x[j]) / C.

    torch's `F.multilabel_margin_loss`.

    Args:
      input: scores `[n C]` or `[C]`.
      target: the labels of each row, as torch wants them: class indices followed by -1 up to
        the length C. Values after the first -1 are not read. The shape is that of `input`.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[n]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for labels that
        are not integers.
      IndexError: for a class that is not there; under `jit` the loss is nan then.

    >>> import jax.numpy as jnp
    >>> scores, labels = jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([[3, 0, -1, 1]])
    >>> round(float(multilabel_margin_loss(scores, labels)), 4)
    0.85
    """
    x, target = floating("input", input), labels("target", target)
    if x.ndim not in (1, 2) or target.shape != x.shape:
        raise ValueError(
            f"input has shape {x.shape} and target {target.shape}; multilabel_margin_loss "
            "takes [n C] or [C], both of one shape."
        )
    n_classes = x.shape[-1]
    given = jnp.cumsum(target == -1, axis=-1) == 0  # before the first -1
    index = checked_classes(jnp.where(given, target, 0), n_classes)
    is_label = jnp.any(
        (jnp.arange(n_classes) == index[..., None]) & given[..., None], axis=-2
    )  # [n C]
    label_scores = jnp.take_along_axis(x, index, axis=-1, mode="fill", fill_value=jnp.nan)
    hinge = jax.nn.relu(1 - label_scores[..., :, None] + x[..., None, :])  # [n label class]
    counted = given[..., :, None] & ~is_label[..., None, :]
    return reduce(jnp.sum(jnp.where(counted, hinge, 0.0), axis=(-2, -1)) / n_classes, reduction)


def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Logistic loss of each label, averaged over the classes (`multilabel_soft_margin_loss`).

    -(y log sigmoid(x) + (1 - y) log sigmoid(-x)), mean over the last axis.

    Args:
      input: scores `[... C]`.
      target: 0 or 1, of the same shape.
      weight: optional factor for each class (anything that broadcasts to `input`).
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> round(float(multilabel_soft_margin_loss(jnp.zeros((2, 3)), jnp.ones((2, 3)))), 4)
    0.6931
    """
    x, y = same_shape(input=input, target=target)
    loss = -(y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x))
    return reduce(jnp.sum(weighted(loss, weight), axis=-1) / x.shape[-1], reduction)


def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: Reduction = "mean",
) -> jax.Array:
    """max(0, |a - p| - |a - n| + margin) with p-norms (`F.triplet_margin_loss`).

    Args:
      anchor: embeddings `[... d]`.
      positive: embeddings of the same shape that should be near.
      negative: embeddings of the same shape that should be far.
      margin: by how much.
      p: the order of the norm.
      eps: added to each difference, as torch does.
      swap: take the smaller of |a - n| and |p - n| as the distance to the negative.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes, p or margin <= 0, or an unknown reduction.

    >>> import jax.numpy as jnp
    >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])
    >>> round(float(triplet_margin_loss(a, p, n)), 4)
    4.0
    """
    if margin <= 0 or p <= 0:
        raise ValueError(f"margin={margin} and p={p} must both be positive.")
    a, near, far = same_shape(anchor=anchor, positive=positive, negative=negative)
    to_far = _norm(a - far + eps, p)
    if swap:
        to_far = jnp.minimum(to_far, _norm(near - far + eps, p))
    return reduce(clamp_min(margin + _norm(a - near + eps, p) - to_far, 0.0), reduction)


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: Reduction = "mean",
) -> jax.Array:
    """max(0, d(a, p) - d(a, n) + margin) with a distance of your own
    (`F.triplet_margin_with_distance_loss`).

    Args:
      anchor, positive, negative: as for `triplet_margin_loss`.
      distance_function: of two arrays `[... d]` to `[...]`; None takes `triplet_margin_loss`'s.
      margin: by how much.
      swap: take the smaller of d(a, n) and d(p, n) as the distance to the negative.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Raises:
      ValueError: for different shapes, a margin <= 0, or an unknown reduction.

    >>> import jax.numpy as jnp
    >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])
    >>> by_largest = lambda x, y: abs(x - y).max(-1)
    >>> float(triplet_margin_with_distance_loss(a, p, n, distance_function=by_largest))
    3.0
    """
    if margin <= 0:
        raise ValueError(f"margin={margin} must be positive.")
    a, near, far = same_shape(anchor=anchor, positive=positive, negative=negative)
    distance = distance_function or (lambda x, y: _norm(x - y + 1e-6, 2.0))
    to_far = distance(a, far)
    if swap:
        to_far = jnp.minimum(to_far, distance(near, far))
    return reduce(clamp_min(margin + distance(a, near) - to_far, 0.0), reduction)


def _norm(x, p: float):
    """p-norm over the last axis; its derivative at the zero vector is 0, as torch's is."""
    if math.isinf(p):
        return jnp.max(absolute(x), axis=-1)
    powers = jnp.sum(absolute(x) ** p, axis=-1)
    is_zero = powers == 0
    return jnp.where(is_zero, 0.0, jnp.where(is_zero, 1.0, powers) ** (1 / p))


def cosine_embedding_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """1 - cos(x1, x2) for similar pairs, max(0, cos(x1, x2) - margin) for others
    (`cosine_embedding_loss`).

    Args:
      input1: embeddings `[n d]` or `[d]`.
      input2: embeddings of the same shape.
      target: 1 (similar) or -1, `[n]` or a scalar.
      margin: the cosine up to which a dissimilar pair costs nothing.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[n]` for `'none'`.

    Raises:
      ValueError: for shapes that do not fit or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0]])
    >>> round(float(cosine_embedding_loss(x, -x, jnp.array([1.0]))), 4)
    2.0
    """
    x1, x2 = same_shape(input1=input1, input2=input2)
    target = as_floats(target, x1.dtype)
    if target.shape != x1.shape[:-1]:
        raise ValueError(
            f"target has shape {target.shape}, but input1 {x1.shape} needs {x1.shape[:-1]}."
        )
    tiny = 1e-12  # torch's own, added to each squared length
    lengths = (jnp.sum(x1 * x1, axis=-1) + tiny) * (jnp.sum(x2 * x2, axis=-1) + tiny)
    cosine = jnp.sum(x1 * x2, axis=-1) / jnp.sqrt(lengths)
    similar = jnp.where(target == 1, 1 - cosine, 0.0)
    dissimilar = jnp.where(target == -1, clamp_min(cosine - margin, 0.0), 0.0)
    return reduce(similar + dissimilar, reduction)
