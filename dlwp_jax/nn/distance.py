"""Lengths, distances and angles of vectors, with torch's derivatives at zero."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from dlwp_jax.nn.shapes import floating, promote, wide

__all__ = [
    "CosineSimilarity",
    "PairwiseDistance",
    "cosine_similarity",
    "normalize",
    "pairwise_distance",
    "pdist",
    "vector_norm",
]


def vector_norm(
    x: ArrayLike,
    ord: float = 2.0,
    dim: int | tuple[int, ...] | None = None,
    keepdim: bool = False,
) -> jax.Array:
    """The length of vectors; torch.linalg.vector_norm.

    Its derivative at the zero vector is 0, as torch's; that of `jnp.linalg.norm` is NaN there.

    Args:
      x: any shape.
      ord: the order of the norm, inf included.
      dim: one axis or several, counted as in the array itself; None takes all.
      keepdim: whether these axes stay, with length 1.

    >>> vector_norm(jnp.array([[3.0, 4.0], [0.0, 0.0]]), dim=1).tolist()
    [5.0, 0.0]
    """
    x = floating(x)
    return _norm(wide(x), ord, dim, keepdim).astype(x.dtype)


def _norm(x: jax.Array, p: float, dim, keepdim: bool = False) -> jax.Array:
    size = jnp.abs(x)
    if p == 0:
        return jnp.count_nonzero(x, dim, keepdims=keepdim).astype(x.dtype)
    if math.isinf(p):
        return (size.max if p > 0 else size.min)(dim, keepdims=keepdim)
    if p == 1:
        return size.sum(dim, keepdims=keepdim)
    if p < 1:
        return (size**p).sum(dim, keepdims=keepdim) ** (1 / p)
    total = (jnp.square(x) if p == 2 else size**p).sum(dim, keepdims=keepdim)
    is_zero = total == 0
    root = jnp.where(is_zero, 1, total) ** (1 / p)
    return jnp.where(is_zero, 0, root)


def normalize(x: ArrayLike, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> jax.Array:
    """`x / max(|x|, eps)` along one axis; torch.nn.functional.normalize.

    Args:
      x: any shape.
      p: the order of the norm.
      dim: the axis, counted as in the array itself; the channels of an image are -1 here.
      eps: the smallest divisor.

    >>> print(normalize(jnp.array([[3.0, 4.0]])))
    [[0.6 0.8]]
    """
    x = floating(x)
    y = wide(x)
    return (y / jnp.maximum(_norm(y, p, dim, True), eps)).astype(x.dtype)


def cosine_similarity(
    x1: ArrayLike, x2: ArrayLike, dim: int = 1, eps: float = 1e-8
) -> jax.Array:
    """The cosine of the angle between vectors; torch.nn.functional.cosine_similarity.

    Args:
      x1, x2: of shapes that broadcast.
      dim: the axis of the vectors, counted as in the arrays themselves; the channels of an
        image are -1 here.
      eps: the smallest length to divide by.

    >>> print(cosine_similarity(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])).round(3))
    [0.707]
    """
    a, b = jnp.broadcast_arrays(*promote(floating(x1), floating(x2)))

    def unit(x):
        x = wide(x)
        length = _norm(x, 2, dim, True)
        # As in torch, the gradient does not see that a short length was replaced.
        return x / (length + jax.lax.stop_gradient(jnp.maximum(length, eps) - length))

    return (unit(a) * unit(b)).sum(dim).astype(a.dtype)


def pairwise_distance(
    x1: ArrayLike, x2: ArrayLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """`|x1 - x2 + eps|` over the last axis; torch.nn.functional.pairwise_distance.

    Args:
      x1, x2: `[... D]`, of shapes that broadcast.
      p: the order of the norm.
      eps: added to each difference, as torch does.
      keepdim: `[... 1]` instead of `[...]`.

    >>> pairwise_distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))).round(3).tolist()
    [5.0]
    """
    a, b = promote(floating(x1), floating(x2))
    return _norm(wide(a) - wide(b) + eps, p, -1, keepdim).astype(a.dtype)


def pdist(x: ArrayLike, p: float = 2.0) -> jax.Array:
    """The distances of all pairs of rows, `[N (N - 1) / 2]`; torch.nn.functional.pdist.

    Args:
      x: `[N D]`.
      p: the order of the norm.

    >>> pdist(jnp.array([[0.0], [1.0], [3.0]])).tolist()
    [1.0, 3.0, 2.0]
    """
    x = floating(x)
    first, second = np.triu_indices(len(x), 1)
    y = wide(x)
    return _norm(y[first] - y[second], p, -1).astype(x.dtype)


class CosineSimilarity(nnx.Module):
    """`cosine_similarity` along an axis; torch.nn.CosineSimilarity.

    >>> CosineSimilarity()(jnp.ones((2, 3)), jnp.ones((2, 3))).round(3).tolist()
    [1.0, 1.0]
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8):
        self.dim = dim
        self.eps = eps

    def __call__(self, x1: ArrayLike, x2: ArrayLike) -> jax.Array:
        """`cosine_similarity` of both."""
        return cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(nnx.Module):
    """`pairwise_distance` over the last axis; torch.nn.PairwiseDistance.

    >>> PairwiseDistance(p=1.0, eps=0.0)(jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist()
    [3.0, 3.0]
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        self.p: float = float(p)
        self.eps = eps
        self.keepdim = keepdim

    def __call__(self, x1: ArrayLike, x2: ArrayLike) -> jax.Array:
        """`pairwise_distance` of both."""
        return pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)
