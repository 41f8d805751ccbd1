"""Pooling along one axis. Windows of several axes are pooled axis by axis: max and sum allow
it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn import windows


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def max_over_windows(
    x: jax.Array, axis: int, window: int, stride: int, dilation: int
) -> jax.Array:
    """The largest value of each window along `axis`; no padding, the end that no window reaches
    is ignored.

    >>> max_over_windows(jnp.array([1.0, 3.0, 2.0, 0.0]), 0, 2, 1, 1).tolist()
    [3.0, 3.0, 2.0]
    """
    first, *others = windows.places(x, axis, window, stride, dilation)
    for other in others:
        first = jnp.maximum(first, other)
    return first


@max_over_windows.defjvp
def _max_jvp(axis, window, stride, dilation, primals, tangents):
    """The tangent is the transpose of the backward pass `_spread`, which reverse mode finds by
    transposing again.
    """
    (x,), (dx,) = primals, tangents
    best, *others = windows.places(x, axis, window, stride, dilation)
    index_dtype = jnp.int8 if window <= 128 else jnp.int32
    index = jnp.zeros(best.shape, index_dtype)
    for j, other in enumerate(others, start=1):
        wins = (other > best) | (
            other != other
        )  # torch's rule: the first of equals, the last NaN
        best, index = (
            jnp.where(wins, other, best),
            jnp.where(wins, jnp.asarray(j, index_dtype), index),
        )
    backward = partial(
        _spread,
        index,
        axis=axis,
        window=window,
        stride=stride,
        dilation=dilation,
        size=x.shape[axis],
    )
    return best, jax.linear_transpose(backward, best)(dx)[0]


def _spread(index, g, *, axis, window, stride, dilation, size):
    """The gradient by the input: each window's `g` at the place that won."""
    if dilation == 1 and stride >= window:
        return _spread_disjoint(index, g, axis, window, stride, size)
    total = 0
    span = (g.shape[axis] - 1) * stride + 1
    for j in range(window):
        mine = jnp.where(index == j, g, jnp.zeros((), g.dtype))
        before = j * dilation
        edges = [(0, 0, 0)] * g.ndim
        edges[axis] = (before, size - before - span, stride - 1)
        total = total + lax.pad(mine, jnp.zeros((), g.dtype), edges)
    return total


def _spread_disjoint(index, g, axis, window, stride, size):
    """Windows that do not overlap: every input belongs to one window, so its places lie side by
    side; no sum is needed.

    Stacked, and not compared with a count of places: XLA:CPU vectorises it however the layers
    around are fused in.
    """
    zero = jnp.zeros((), g.dtype)
    spread = jnp.stack([jnp.where(index == j, g, zero) for j in range(window)], axis + 1)
    spread = _extended(spread, axis + 1, stride)
    spread = spread.reshape(*g.shape[:axis], g.shape[axis] * stride, *g.shape[axis + 1 :])
    return _extended(spread, axis, size)


def _extended(x, axis, size):
    """With zeros up to `size` along `axis`."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (0, size - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def sum_over_windows(
    x: jax.Array, axis: int, window: int, stride: int, dilation: int
) -> jax.Array:
    """The sum of each window along `axis`.

    >>> sum_over_windows(jnp.array([1.0, 3.0, 2.0, 0.0]), 0, 2, 2, 1).tolist()
    [4.0, 2.0]
    """
    if (
        dilation == 1 and stride == window
    ):  # one reshape holds all windows, however large they are
        outputs = windows.count(x.shape[axis], window, stride, dilation)
        x = lax.slice_in_dim(x, 0, outputs * stride, 1, axis)
        return x.reshape(*x.shape[:axis], outputs, stride, *x.shape[axis + 1 :]).sum(axis + 1)
    first, *others = windows.places(x, axis, window, stride, dilation)
    return sum(others, first)
