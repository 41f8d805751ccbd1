"""A convolution of few input channels as one matrix product, and the gradient of its kernel as
another.

Every row of the left factor holds the window of two neighbouring output columns, one column
wider than the kernel's own; it is made of whole slices of the input, which is cheap where there
are few channels. The right factor is the kernel twice, the second time one column further
(`scripts/bench layers` has the times). Stride and dilation are 1.
"""

import math
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

Pairs = Sequence[tuple[int, int]]


def pays(outputs: Sequence[int], kernel_shape: Sequence[int]) -> bool:
    """Whether the product is the faster form: few channels, and windows of no more than four
    times the output.

    >>> pays((32, 32), (3, 3, 3, 16)), pays((32, 32), (3, 3, 16, 16)), pays((32, 32), (11, 11, 3, 8))
    (True, False, False)
    """
    *window, channels, out = kernel_shape
    columns = columns_at_once(outputs)
    width = math.prod(window[:-1]) * (window[-1] + columns - 1) * channels
    return (
        math.prod(window) > 1
        and channels < 8
        and width <= 4 * columns * out
        and math.prod(outputs) > 0
    )


def columns_at_once(outputs: Sequence[int]) -> int:
    """Two where they come out even, else one.

    >>> columns_at_once((3, 4)), columns_at_once((4, 3))
    (2, 1)
    """
    return 2 - outputs[-1] % 2


def outputs(spatial: Sequence[int], window: Sequence[int], padding: Pairs) -> tuple[int, ...]:
    """The spatial sizes of the output.

    >>> outputs((5, 6), (3, 3), ((1, 1), (0, 0)))
    (5, 4)
    """
    return tuple(
        size + sum(pair) - k + 1 for size, k, pair in zip(spatial, window, padding, strict=True)
    )


def widened(kernel: jax.Array, columns: int) -> jax.Array:
    """`[*window in out] -> [*window' in columns out]`: copies, each a column further in a wider
    window.

    >>> widened(jnp.ones((2, 1, 1)), 2)[:, 0, :, 0].tolist()
    [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """
    if columns == 1:  # as most are: nothing to trace
        return jnp.expand_dims(kernel, -2)
    before = [(0, 0)] * (kernel.ndim - 3)
    shifted = [
        jnp.pad(kernel, [*before, (j, columns - 1 - j), (0, 0), (0, 0)]) for j in range(columns)
    ]
    return jnp.stack(shifted, -2)


def convolve(x: jax.Array, kernel: jax.Array, padding: Pairs) -> jax.Array:
    """`[N *spatial in] x [*window in out] -> [N *spatial' out]`.

    >>> convolve(jnp.ones((1, 4, 1)), jnp.ones((3, 1, 1)), ((0, 0),))[0, :, 0].tolist()
    [3.0, 3.0]
    """
    *window, _, out = kernel.shape
    places = outputs(x.shape[1:-1], window, padding)
    columns = columns_at_once(places)
    rows = _windows(x, window, padding, places)
    y = rows @ widened(kernel, columns).reshape(rows.shape[-1], columns * out)
    return y.reshape(x.shape[0], *places, out)


def kernel_gradient(
    x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], padding: Pairs
) -> jax.Array:
    """The gradient by the kernel: `[N *spatial in] x [N *spatial' out] -> [*window in out]`.

    >>> kernel_gradient(jnp.ones((1, 4, 1)), jnp.ones((1, 2, 1)), (3, 1, 1), ((0, 0),))[:, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    *window, channels, out = kernel_shape
    columns = columns_at_once(g.shape[1:-1])
    rows = _windows(x, window, padding, g.shape[1:-1])
    g = g.reshape(*rows.shape[:2], columns * out)
    if (
        jax.device_count() == 1
    ):  # XLA copies an operand that it sums over two axes of; devices split the first of them
        places = rows.shape[0] * rows.shape[1]
        products = rows.reshape(places, rows.shape[-1]).T @ g.reshape(places, columns * out)
    else:
        products = jnp.tensordot(rows, g, ((0, 1), (0, 1)))
    wide = products.reshape(*window[:-1], window[-1] + columns - 1, channels, columns, out)
    return reduce(jnp.add, [wide[..., j : j + window[-1], :, j, :] for j in range(columns)])


def _windows(x, window, padding, spatial):
    """What the windows of neighbouring outputs, of sizes `spatial`, see together: `[N
    spatial'/columns window'*in]`.

    Examples stay an axis of their own, which devices can split where they do not come out even,
    too.
    """
    n, channels, columns = x.shape[0], x.shape[-1], columns_at_once(spatial)
    width = window[-1] + columns - 1
    edges = [(0, 0), *padding[:-1], (padding[-1][0], padding[-1][1] + columns - 1), (0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in edges])
    *leading, _, _ = x.shape
    pieces = []
    for first in range(0, width, columns):
        piece = lax.slice_in_dim(x, first, first + spatial[-1], axis=-2)
        piece = piece.reshape(*leading, spatial[-1] // columns, columns * channels)
        pieces.append(piece[..., : (width - first) * channels])
    seen = jnp.concatenate(pieces, -1)  # [N *padded spatial'/columns width*in]
    for axis in reversed(range(1, len(window))):
        size = spatial[axis - 1]
        shifted = [
            lax.slice_in_dim(seen, i, i + size, axis=axis) for i in range(window[axis - 1])
        ]
        seen = jnp.concatenate(shifted, -1)
    return lax.optimization_barrier(
        seen.reshape(n, math.prod(spatial) // columns, seen.shape[-1])
    )
