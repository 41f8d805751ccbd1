"""Windows along one axis: their number and their elements."""

import jax
from jax import lax


def count(size: int, window: int, stride: int, dilation: int) -> int:
    """The number of windows that fit; an end that none reaches is ignored.

    >>> count(8, window=3, stride=2, dilation=1), count(8, window=3, stride=1, dilation=2)
    (3, 4)
    """
    return (size - dilation * (window - 1) - 1) // stride + 1


def places(x: jax.Array, axis: int, window: int, stride: int, dilation: int) -> list[jax.Array]:
    """The elements of all windows: `window` arrays, each with one entry for every window.

    >>> x = jax.numpy.arange(5)
    >>> [place.tolist() for place in places(x, 0, window=2, stride=2, dilation=1)]
    [[0, 2], [1, 3]]
    """
    span = (count(x.shape[axis], window, stride, dilation) - 1) * stride + 1
    return [
        lax.slice_in_dim(x, j * dilation, j * dilation + span, stride, axis)
        for j in range(window)
    ]
