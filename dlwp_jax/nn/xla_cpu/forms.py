"""A convolution and its two gradients, each in the form that is chosen for the CPU."""

import operator
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn import convolution_plain as plain
from dlwp_jax.nn import windows
from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.xla_cpu import product
from dlwp_jax.nn.xla_cpu.choice import choose, output_sizes


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`convolution_plain.convolve`, in the form that takes the least time.

    >>> x, kernel = jnp.arange(12.0).reshape(1, 2, 6, 1), jnp.ones((2, 3, 1, 1))
    >>> geometry = Geometry((1, 1), ((0, 0), (1, 1)), (1, 1), 1)
    >>> (convolve(x, kernel, geometry) == plain.convolve(x, kernel, geometry)).all().item()
    True
    """
    choice = choose(x, kernel.shape, geometry)
    if choice.form == "depths":
        return _over_depths(x, kernel, geometry)
    if choice.form == "plain":
        return _plain(x, kernel, geometry)
    if choice.form == "product":
        return product.convolve(x, kernel, geometry.padding, choice.columns)
    *window, channels, out = kernel.shape
    outputs = output_sizes(x.shape[1:-1], window, geometry.padding)
    wide = product.widened(kernel, choice.columns).reshape(
        *window[:-1], window[-1] + choice.columns - 1, channels, choice.columns * out
    )
    stride = (*geometry.stride[:-1], choice.columns)
    y = plain.convolve(x, wide, geometry._replace(stride=stride))
    return y.reshape(x.shape[0], *outputs, out)


def input_gradient(
    g: jax.Array, kernel: jax.Array, spatial: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The gradient with respect to the input: `g`, spread by the stride, convolved with the
    flipped kernel.

    Input place p meets output place i and window place j if `p + low = stride * i + dilation *
    j`.
    """
    stride, padding, dilation, groups, _ = geometry
    n = len(stride)
    window, (c, o) = kernel.shape[:n], kernel.shape[n:]
    flipped = jnp.flip(kernel, range(n)).reshape(*window, c, groups, o // groups)
    flipped = lax.optimization_barrier(
        jnp.swapaxes(flipped, n, n + 2).reshape(*window, o // groups, groups * c)
    )
    sizes = zip(spatial, g.shape[1:-1], window, stride, dilation, padding, strict=True)
    pairs = tuple(
        (d * (k - 1) - low, size + low - 1 - s * (outputs - 1))
        for size, outputs, k, s, d, (low, _) in sizes
    )
    return convolve(g, flipped, Geometry((1,) * n, pairs, dilation, groups, stride))


def kernel_gradient(
    x: jax.Array, g: jax.Array, kernel_shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The gradient with respect to the kernel: the input convolved with `g`, stride and
    dilation swapped.

    Channels become the batch, examples the features: `[in/groups *spatial groups*N] x
    [*spatial' N out]`.
    """
    stride, padding, dilation, groups, _ = geometry
    choice = choose(x, kernel_shape, geometry)
    if choice.form == "depths":
        within = _within_depth(geometry)
        seen, g = _pictures(x, kernel_shape[0], geometry), _merged(g)
        return jnp.stack(
            [kernel_gradient(_merged(x), g, kernel_shape[1:], within) for x in seen]
        )
    if choice.form == "product":
        return product.kernel_gradient(
            x, g, kernel_shape, padding, choice.columns, merge=choice.merges_examples
        )
    n = len(stride)
    batch, spatial, c = x.shape[0], x.shape[1:-1], kernel_shape[n]
    images = jnp.moveaxis(x.reshape(batch, *spatial, groups, c), -1, 0)  # [c N *spatial groups]
    images = jnp.moveaxis(images, 1, -1).reshape(c, *spatial, groups * batch)
    errors = jnp.moveaxis(g, 0, n)  # [*spatial' N out]
    sizes = zip(
        spatial, g.shape[1:-1], kernel_shape[:n], stride, dilation, padding, strict=True
    )
    # The end may be negative: it cuts off what no window reached.
    pairs = tuple(
        (low, d * (k - 1) + s * (outputs - 1) + 1 - size - low)
        for size, outputs, k, s, d, (low, _) in sizes
    )
    images, errors = lax.optimization_barrier(images), lax.optimization_barrier(errors)
    swapped = Geometry(stride=dilation, padding=pairs, dilation=stride, groups=groups)
    gradient = plain.convolve(images, errors, swapped)
    return jnp.moveaxis(gradient, 0, n)  # [c *window out] -> [*window c out]


def _plain(x, kernel, geometry):
    """`plain.convolve`, with a place more on axes that XLA takes for others.

    If an axis has two taps, an input that is spread by 2 and no padding, and another axis has a
    window larger than its input, XLA's simplifier (jaxlib 0.10 to 0.12) swaps input and kernel
    on the second axis only, and ends the process.
    """
    spread = geometry.spread or (1,) * len(geometry.stride)
    axes = zip(kernel.shape, spread, geometry.stride, geometry.padding, strict=False)
    more = [int(axis == (2, 2, 1, (0, 0))) for axis in axes]
    pairs = zip(geometry.padding, more, strict=True)
    padding = tuple((low, high + extra) for (low, high), extra in pairs)
    y = plain.convolve(x, kernel, geometry._replace(padding=padding))
    ends = [size - extra for size, extra in zip(y.shape[1:-1], more, strict=True)]
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *ends, y.shape[-1]))


def _over_depths(x, kernel, geometry):
    """The sum of one convolution of pictures for each depth of the window."""
    seen, within = _pictures(x, kernel.shape[0], geometry), _within_depth(geometry)
    parts = [convolve(_merged(x), taps, within) for x, taps in zip(seen, kernel, strict=True)]
    return reduce(operator.add, parts).reshape(*seen[0].shape[:2], *parts[0].shape[1:])


def _within_depth(geometry):
    """The geometry of the two other axes."""
    stride, padding, dilation, groups, spread = geometry
    spread = None if spread is None else spread[1:]
    return Geometry(stride[1:], padding[1:], dilation[1:], groups, spread)


def _pictures(x, window, geometry):
    """The pictures that a window meets at each of its depths: `[N D H W C] ->` as many `[N D' H
    W C]` as the window is deep.
    """
    spread = 1 if geometry.spread is None else geometry.spread[0]
    edges = [(0, 0, 0), (*geometry.padding[0], spread - 1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    return windows.places(x, 1, window, geometry.stride[0], geometry.dilation[0])


def _merged(x):
    """`[N D H W C] -> [N*D H W C]`: every depth is an example."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
