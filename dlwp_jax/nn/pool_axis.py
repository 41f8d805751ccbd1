"""Pooling along one axis; windows over several axes are pooled axis by axis.

There are three ways to find a maximum and the place that its gradient goes to. Small windows
compare their places one after the other. Large windows that lie side by side are one reshape.
Large windows that overlap are compared by doubling: the maximum over 2n places is that of two
maxima over n places. The program of the last two hardly grows with the window. Measured on two
cores, `[8 4096 16]` in float32, compilation and one gradient: window 8, stride 4 takes 1.2 ms
by doubling and 15 ms place by place; window 100, stride 100 compiles in 0.5 s instead of 45 s.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn import windows

SMALL = 4  # the largest window that is compared place by place


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def max_over_windows(
    x: jax.Array, axis: int, window: int, stride: int, dilation: int
) -> jax.Array:
    """The largest value of each window along `axis`; there is no padding, and an end that no
    window reaches is ignored.

    >>> max_over_windows(jnp.array([1.0, 3.0, 2.0, 0.0]), 0, 2, 1, 1).tolist()
    [3.0, 3.0, 2.0]
    """
    if window > SMALL:
        return _doubled(jnp.maximum, x, axis, window, stride, dilation)
    first, *others = windows.places(x, axis, window, stride, dilation)
    for other in others:
        first = jnp.maximum(first, other)
    return first


@max_over_windows.defjvp
def _max_jvp(axis, window, stride, dilation, primals, tangents):
    (x,), (dx,) = primals, tangents
    if window <= SMALL:
        return _small(x, dx, axis, window, stride, dilation)
    if dilation == 1 and stride >= window:
        return _side_by_side(x, dx, axis, window, stride)
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    best, place = _doubled(_winner, (x, place), axis, window, stride, dilation)
    return best, jnp.take_along_axis(dx, place, axis)


def max_and_place(
    pair: tuple[jax.Array, jax.Array], axis: int, window: int, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """`max_over_windows` of values and of the places they came from, which are negative for
    padding.

    >>> pair = jnp.array([1.0, 3.0, 2.0, 0.0]), jnp.arange(4)
    >>> max_and_place(pair, 0, 2, 1, 1)[1].tolist()
    [1, 1, 2]
    """
    return _doubled(_winner_beside_padding, pair, axis, window, stride, dilation)


def _winner_beside_padding(first, second):
    """`_winner`, but padding always loses."""
    best = _winner(first, second)
    is_padding = first[1] < 0
    return tuple(jnp.where(is_padding, b, a) for a, b in zip(best, second, strict=True))


def _winner(first, second):
    """Of two (value, place), torch's choice: the first of equal numbers, the last NaN."""
    (value, place), (other, other_place) = first, second
    wins = (other > value) | (other != other)
    return jnp.where(wins, other, value), jnp.where(wins, other_place, place)


def _doubled(combine, arrays, axis, window, stride, dilation):
    """Combine the places of every window: 1, 2, 4, ... of them, at last `window`."""

    def moved(arrays, by):
        def part(a):
            size = a.shape[axis] - step * dilation
            return lax.slice_in_dim(a, by * dilation, by * dilation + size, 1, axis)

        return jax.tree.map(part, arrays)

    reach = 1
    while reach < window:
        step = min(reach, window - reach)
        arrays = combine(moved(arrays, 0), moved(arrays, step))
        reach += step
    return jax.tree.map(lambda a: lax.slice_in_dim(a, 0, None, stride, axis), arrays)


def _side_by_side(x, dx, axis, window, stride):
    """Maxima and their tangents for windows that do not overlap."""
    outputs = windows.count(x.shape[axis], window, stride, 1)

    def split(x):
        x = _extended(x, axis, outputs * stride)
        x = x.reshape(*x.shape[:axis], outputs, stride, *x.shape[axis + 1 :])
        return lax.slice_in_dim(x, 0, window, 1, axis + 1)

    parts = split(x)
    best = parts.max(axis + 1, keepdims=True)
    place = lax.broadcasted_iota(jnp.int32, parts.shape, axis + 1)
    first = jnp.where(parts == best, place, window).min(axis + 1, keepdims=True)
    last_nan = jnp.where(parts != parts, place, -1).max(axis + 1, keepdims=True)
    won = place == jnp.where(last_nan >= 0, last_nan, first)
    return best.squeeze(axis + 1), jnp.where(won, split(dx), 0).sum(axis + 1)


def _small(x, dx, axis, window, stride, dilation):
    """Maxima of small windows; the tangent is the transpose of the backward pass `_spread`,
    which reverse mode finds by transposing again.
    """
    best, *others = windows.places(x, axis, window, stride, dilation)
    index = jnp.zeros(best.shape, jnp.int8)
    for j, other in enumerate(others, start=1):
        best, index = _winner((best, index), (other, jnp.int8(j)))
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
    """The gradient by the input: the `g` of each window at the place that won."""
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
    """`_spread` for windows that do not overlap: their places lie side by side, and no sum is
    needed.

    They are stacked, and not compared with a count of places, because XLA:CPU vectorises that
    whichever layers are fused with it.
    """
    zero = jnp.zeros((), g.dtype)
    spread = jnp.stack([jnp.where(index == j, g, zero) for j in range(window)], axis + 1)
    spread = _extended(spread, axis + 1, stride)
    spread = spread.reshape(*g.shape[:axis], g.shape[axis] * stride, *g.shape[axis + 1 :])
    return _extended(spread, axis, size)


def _extended(x, axis, size):
    """`x` cut, or filled up with zeros, to `size` along `axis`."""
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
    if dilation == 1 and stride == window:  # one reshape holds all windows
        outputs = windows.count(x.shape[axis], window, stride, dilation)
        x = lax.slice_in_dim(x, 0, outputs * stride, 1, axis)
        return x.reshape(*x.shape[:axis], outputs, stride, *x.shape[axis + 1 :]).sum(axis + 1)
    first, *others = windows.places(x, axis, window, stride, dilation)
    return sum(others, first)
