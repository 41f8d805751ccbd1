"""Weighted sums of a few places along one axis: the work under interpolation and uneven means.

A place of the output reads few places of the input, so the cost grows with the number of
values, where a matrix product would grow with the square of the side. The gradient that JAX
derives from a gather is a scatter, which XLA:CPU does one row after the other (measured, 512 x
512 to twice the side: 146 ms against 3 ms). So the gradient is written as a gather too: every
place of the input knows the places of the output that read it.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

_UNROLLED = 8  # more neighbours than these are gathered at once, which keeps the program short


def weighted_sum(x: jax.Array, axis: int, index: np.ndarray, weight: np.ndarray) -> jax.Array:
    """`sum_k weight[p, k] * x[index[p, k]]` for each place p of the output along `axis`.

    Args:
      x: any array.
      axis: the axis to read along, not negative.
      index: the places of `x` that are read, `[outputs neighbours]`.
      weight: how much each counts, of the same shape.

    >>> index, weight = np.array([[0, 1], [1, 2]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    >>> weighted_sum(jnp.array([1.0, 3.0, 5.0]), 0, index, weight).tolist()
    [2.0, 3.0]
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return _gathered(x, axis, index, weight)
    readers, shares = _transposed(index, weight, x.shape[axis])

    @jax.custom_jvp
    def forward(x):
        return _gathered(x, axis, index, weight)

    @forward.defjvp
    def _(primals, tangents):
        y = forward(*primals)
        # Reverse mode transposes this once more, and so finds the gather itself.
        tangent = jax.linear_transpose(lambda g: _gathered(g, axis, readers, shares), y)
        return y, tangent(*tangents)[0]

    return forward(x)


def _gathered(x, axis, index, weight):
    outputs, neighbours = index.shape
    behind = (1,) * (x.ndim - axis - 1)
    if neighbours == 1 and (weight == 1).all():
        return jnp.take(x, index[:, 0], axis, mode="clip")
    weight = jnp.asarray(weight, x.dtype)
    if neighbours > _UNROLLED:
        read = jnp.take(x, index.reshape(-1), axis, mode="clip")
        read = read.reshape(*x.shape[:axis], outputs, neighbours, *x.shape[axis + 1 :])
        return (read * weight.reshape(outputs, neighbours, *behind)).sum(axis + 1)

    def term(k):
        read = jnp.take(x, index[:, k], axis, mode="clip")
        return read * weight[:, k].reshape(outputs, *behind)

    return functools.reduce(operator.add, map(term, range(neighbours)))


def _transposed(index, weight, size):
    """For each of the `size` places of the input: the outputs that read it, and how much."""
    outputs, neighbours = np.nonzero(weight)
    places, weights = index[outputs, neighbours], weight[outputs, neighbours]
    order = np.argsort(places, kind="stable")
    places, outputs, weights = places[order], outputs[order], weights[order]
    count = np.bincount(places, minlength=size)
    rank = np.arange(len(places)) - (np.cumsum(count) - count)[places]
    most = max(int(count.max(initial=0)), 1)
    readers, shares = np.zeros((size, most), int), np.zeros((size, most), weight.dtype)
    readers[places, rank], shares[places, rank] = outputs, weights
    # An unused entry repeats the first, so that a NaN reaches no other place.
    unused = np.arange(most) >= count[:, None]
    readers = np.where(unused, readers[:, :1], readers)
    return readers, shares
