"""A convolution of few input channels as one matrix product, and the gradient of its kernel as
another.

Every row of the left factor holds the window of `columns` (one or two) neighbouring output
columns, so it may be one column wider than the kernel. It is made of whole slices of the input,
which is cheap if there are few channels. The right factor is the kernel once for each of these
columns, the second time one column further. Stride and dilation are 1.
"""

import math
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn.xla_cpu.choice import output_sizes

Pairs = Sequence[tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, padding: Pairs, columns: int) -> jax.Array:
    """`[N *spatial in] x [*window in out] -> [N *spatial' out]`.

    >>> x, kernel = jnp.ones((1, 4, 1)), jnp.ones((3, 1, 1))
    >>> convolve(x, kernel, ((0, 0),), columns=2)[0, :, 0].tolist()
    [3.0, 3.0]
    """
    *window, _, out = kernel.shape
    places = output_sizes(x.shape[1:-1], window, padding)
    rows = _windows(x, window, padding, places, columns)
    y = rows @ widened(kernel, columns).reshape(rows.shape[-1], columns * out)
    return y.reshape(x.shape[0], *places, out)


def kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    kernel_shape: Sequence[int],
    padding: Pairs,
    columns: int,
    *,
    merge: bool,
) -> jax.Array:
    """The gradient by the kernel: `[N *spatial in] x [N *spatial' out] -> [*window in out]`.

    Args:
      x, g: the input, and the gradient by the output.
      kernel_shape, padding: of the convolution.
      columns: the number of output columns in a row of the product.
      merge: whether examples and places become one axis. XLA copies an operand that it sums
        over two axes of; but devices split the first of the two.

    >>> x, g = jnp.ones((1, 4, 1)), jnp.ones((1, 2, 1))
    >>> kernel_gradient(x, g, (3, 1, 1), ((0, 0),), 2, merge=True)[:, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    *window, channels, out = kernel_shape
    rows = _windows(x, window, padding, g.shape[1:-1], columns)
    g = g.reshape(*rows.shape[:2], columns * out)
    if merge:
        places = rows.shape[0] * rows.shape[1]
        products = rows.reshape(places, rows.shape[-1]).T @ g.reshape(places, columns * out)
    else:
        products = jnp.tensordot(rows, g, ((0, 1), (0, 1)))
    wide = products.reshape(*window[:-1], window[-1] + columns - 1, channels, columns, out)
    return reduce(jnp.add, [wide[..., j : j + window[-1], :, j, :] for j in range(columns)])


def widened(kernel: jax.Array, columns: int) -> jax.Array:
    """`[*window in out] -> [*window' in columns out]`: copies, each a column further in a wider
    window.

    >>> widened(jnp.ones((2, 1, 1)), 2)[:, 0, :, 0].tolist()
    [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """
    if columns == 1:
        return jnp.expand_dims(kernel, -2)
    before = [(0, 0)] * (kernel.ndim - 3)
    shifted = [
        jnp.pad(kernel, [*before, (j, columns - 1 - j), (0, 0), (0, 0)]) for j in range(columns)
    ]
    return jnp.stack(shifted, -2)


def _windows(x, window, padding, spatial, columns):
    """The windows of neighbouring outputs, of sizes `spatial`: `[N spatial'/columns
    window'*in]`.

    Examples stay an axis of their own, which devices can split even if they do not come out
    even.
    """
    n, channels = x.shape[0], x.shape[-1]
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
