"""The convolution under every convolution layer, with a gradient that stays fast inside loops on the CPU.

XLA:CPU runs a convolution fast when it is written `[batch, *spatial, features] x [*spatial, in, out] ->
[batch, *spatial, features]`. The gradients that JAX derives are written in other layouts. Outside a loop XLA
turns them around; inside `scan`, `fori_loop` and `while_loop` it does not, and they take more than ten times
as long (DESIGN §7). So this module writes the whole backward pass as convolutions in that one layout, and
puts an `optimization_barrier` behind the transposes to keep XLA from folding them back in.

Other platforms keep JAX's own gradient, which cuDNN and the TPU compiler recognise as a backward convolution:
the choice is made by `lax.platform_dependent` while lowering, so it costs nothing at run time.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn.convolution_cpu import canonical as _canonical
from dlwp_jax.nn.convolution_cpu import widened


class Geometry(NamedTuple):
    """The static part of a convolution; one entry per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x, kernel, geometry: Geometry):
    """Cross-correlation `[N *spatial in] x [*window in/groups out] -> [N *spatial' out]`.

    >>> geometry = Geometry(stride=(1,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> convolve(jnp.ones((1, 4, 1)), jnp.ones((2, 1, 1)), geometry)[0, :, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    cpu, default = partial(widened, **geometry._asdict()), partial(_canonical, **geometry._asdict())
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x, kernel, geometry):
    return convolve(x, kernel, geometry), (x, kernel)


def _backward(geometry, residuals, g):
    x, kernel = residuals

    def in_loop_safe_layout(x, kernel, g):
        return input_gradient(g, kernel, x.shape[1:-1], geometry), kernel_gradient(x, g, kernel.shape, geometry)

    def as_jax_derives_it(x, kernel, g):
        return jax.vjp(lambda x, kernel: _canonical(x, kernel, **geometry._asdict()), x, kernel)[1](g)

    return lax.platform_dependent(x, kernel, g, cpu=in_loop_safe_layout, default=as_jax_derives_it)


convolve.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_transpose(x, kernel, geometry: Geometry, spatial: tuple[int, ...]):
    """The transpose of `convolve`: `[N *spatial' out] x [*window in/groups out] -> [N *spatial in]`.

    `spatial` is the size to arrive at; `convolve` with the same geometry leads from there back to the size of
    `x`.

    >>> geometry = Geometry(stride=(2,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> convolve_transpose(jnp.ones((1, 2, 1)), jnp.ones((2, 1, 1)), geometry, (4,))[0, :, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def in_loop_safe_layout(x, kernel):
        return input_gradient(x, kernel, spatial, geometry)

    def as_jax_derives_it(x, kernel):
        channels = kernel.shape[-2] * geometry.groups
        output = jax.ShapeDtypeStruct((x.shape[0], *spatial, channels), x.dtype)
        return jax.linear_transpose(lambda y: _canonical(y, kernel, **geometry._asdict()), output)(x)[0]

    return lax.platform_dependent(x, kernel, cpu=in_loop_safe_layout, default=as_jax_derives_it)


def _transpose_forward(x, kernel, geometry, spatial):
    return convolve_transpose(x, kernel, geometry, spatial), (x, kernel)


def _transpose_backward(geometry, spatial, residuals, g):
    x, kernel = residuals

    def in_loop_safe_layout(x, kernel, g):
        return widened(g, kernel, **geometry._asdict()), kernel_gradient(g, x, kernel.shape, geometry)

    def as_jax_derives_it(x, kernel, g):
        through_kernel = jax.vjp(lambda kernel: _canonical(g, kernel, **geometry._asdict()), kernel)[1]
        return _canonical(g, kernel, **geometry._asdict()), through_kernel(x)[0]

    return lax.platform_dependent(x, kernel, g, cpu=in_loop_safe_layout, default=as_jax_derives_it)


convolve_transpose.defvjp(_transpose_forward, _transpose_backward)


def input_gradient(g, kernel, spatial, geometry: Geometry):
    """The gradient with respect to the input: `g`, spread by the stride, convolved with the flipped kernel.

    Input place p meets output place i and window place j where `p + low = stride * i + dilation * j`.
    """
    stride, padding, dilation, groups = geometry
    n = len(stride)
    window, (c, o) = kernel.shape[:n], kernel.shape[n:]
    flipped = jnp.flip(kernel, range(n)).reshape(*window, c, groups, o // groups)
    flipped = lax.optimization_barrier(jnp.swapaxes(flipped, n, n + 2).reshape(*window, o // groups, groups * c))
    pairs = [
        (d * (k - 1) - low, size + low - 1 - s * (outputs - 1))
        for size, outputs, k, s, d, (low, _) in zip(
            spatial, g.shape[1:-1], window, stride, dilation, padding, strict=True
        )
    ]
    return widened(g, flipped, stride=(1,) * n, padding=pairs, dilation=dilation, groups=groups, spread=stride)


def kernel_gradient(x, g, kernel_shape, geometry: Geometry):
    """The gradient with respect to the kernel: the input convolved with `g`, stride and dilation swapped.

    Channels become the batch, examples the features: `[in/groups *spatial groups*N] x [*spatial' N out]`.
    """
    stride, padding, dilation, groups = geometry
    n = len(stride)
    batch, spatial, c = x.shape[0], x.shape[1:-1], kernel_shape[n]
    images = jnp.moveaxis(x.reshape(batch, *spatial, groups, c), -1, 0)  # [c N *spatial groups]
    images = jnp.moveaxis(images, 1, -1).reshape(c, *spatial, groups * batch)
    errors = jnp.moveaxis(g, 0, n)  # [*spatial' N out]
    pairs = [
        (low, d * (k - 1) + s * (outputs - 1) + 1 - size - low)  # may cut off an end that no window reached
        for size, outputs, k, s, d, (low, _) in zip(
            spatial, g.shape[1:-1], kernel_shape, stride, dilation, padding, strict=False
        )
    ]
    images, errors = lax.optimization_barrier((images, errors))
    gradient = _canonical(images, errors, stride=dilation, padding=pairs, dilation=stride, groups=groups)
    return jnp.moveaxis(gradient, 0, n)  # [c *window out] -> [*window c out]
