"""The convolution under every convolution layer, with a gradient that stays fast inside loops
on the CPU.

XLA:CPU runs a convolution fast when it is written `[batch, *spatial, features] x [*spatial, in,
out] -> [batch, *spatial, features]`. The gradients that JAX derives are written in other
layouts. Outside a loop XLA turns them around; inside `scan`, `fori_loop` and `while_loop` it
does not, and they take more than ten times as long (DESIGN §7). So this module writes the whole
backward pass as convolutions in that one layout, and puts an `optimization_barrier` behind the
transposes to keep XLA from folding them back in.

Forward mode works as well: the derivative is given as a `custom_jvp`, whose tangents are the
*transposes* of the gradients below. Reverse mode transposes tangents, and so finds these
gradients again, to the letter.

Other platforms keep JAX's own gradient, which cuDNN and the TPU compiler recognise as a
backward convolution: the choice is made by `lax.platform_dependent` while lowering, so it costs
nothing at run time.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from dlwp_jax.nn import convolution_depth as volumes
from dlwp_jax.nn import convolution_product as product
from dlwp_jax.nn.convolution_cpu import canonical as _canonical
from dlwp_jax.nn.convolution_cpu import fast, is_plain


class Geometry(NamedTuple):
    """The static part of a convolution; one entry per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Cross-correlation `[N *spatial in] x [*window in/groups out] -> [N *spatial' out]`.

    >>> geometry = Geometry(stride=(1,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> convolve(jnp.ones((1, 4, 1)), jnp.ones((2, 1, 1)), geometry)[0, :, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    return _forward(x, kernel, geometry)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolve_transpose(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, spatial: tuple[int, ...]
) -> jax.Array:
    """The transpose of `convolve`: `[N *spatial' out] x [*window in/groups out] -> [N *spatial
    in]`.

    `spatial` is the size to arrive at; `convolve` with the same geometry leads from there back
    to the size of `x`.

    >>> geometry = Geometry(stride=(2,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> convolve_transpose(jnp.ones((1, 2, 1)), jnp.ones((2, 1, 1)), geometry, (4,))[0, :, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return _to_input(x, kernel, geometry, spatial)


@partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(geometry, primals, tangents):
    x, kernel = primals
    y = convolve(x, kernel, geometry)
    gradients = (
        lambda g: _to_input(g, kernel, geometry, x.shape[1:-1]),
        lambda g: _to_kernel(x, g, kernel.shape, geometry),
    )
    return y, _tangent(gradients, y, tangents)


@partial(convolve_transpose.defjvp, symbolic_zeros=True)
def _convolve_transpose_jvp(geometry, spatial, primals, tangents):
    x, kernel = primals
    y = convolve_transpose(x, kernel, geometry, spatial)
    gradients = (
        lambda g: _forward(g, kernel, geometry),
        lambda g: _to_kernel(g, x, kernel.shape, geometry),
    )
    return y, _tangent(gradients, y, tangents)


def _tangent(gradients, y, tangents):
    """The tangent of `y`: the transposes of the gradients, so that reverse mode, which
    transposes it, finds them.
    """
    parts = [
        jax.linear_transpose(gradient, y)(tangent)[0]
        for gradient, tangent in zip(gradients, tangents, strict=True)
        if not isinstance(tangent, SymbolicZero)
    ]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


def _forward(x, kernel, geometry):
    cpu, default = (partial(form, **geometry._asdict()) for form in (fast, _canonical))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _to_input(g, kernel, geometry, spatial):
    def as_jax_derives_it(g, kernel):
        channels = kernel.shape[-2] * geometry.groups
        x = jax.ShapeDtypeStruct((g.shape[0], *spatial, channels), g.dtype)
        return jax.linear_transpose(lambda x: _canonical(x, kernel, **geometry._asdict()), x)(
            g
        )[0]

    cpu = partial(input_gradient, spatial=spatial, geometry=geometry)
    return lax.platform_dependent(g, kernel, cpu=cpu, default=as_jax_derives_it)


def _to_kernel(x, g, shape, geometry):
    def as_jax_derives_it(x, g):
        kernel = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(
            lambda kernel: _canonical(x, kernel, **geometry._asdict()), kernel
        )(g)[0]

    cpu = partial(kernel_gradient, kernel_shape=shape, geometry=geometry)
    return lax.platform_dependent(x, g, cpu=cpu, default=as_jax_derives_it)


def input_gradient(
    g: jax.Array, kernel: jax.Array, spatial: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The gradient with respect to the input: `g`, spread by the stride, convolved with the
    flipped kernel.

    Input place p meets output place i and window place j where `p + low = stride * i + dilation
    * j`.
    """
    stride, padding, dilation, groups = geometry
    n = len(stride)
    window, (c, o) = kernel.shape[:n], kernel.shape[n:]
    flipped = jnp.flip(kernel, range(n)).reshape(*window, c, groups, o // groups)
    flipped = lax.optimization_barrier(
        jnp.swapaxes(flipped, n, n + 2).reshape(*window, o // groups, groups * c)
    )
    pairs = [
        (d * (k - 1) - low, size + low - 1 - s * (outputs - 1))
        for size, outputs, k, s, d, (low, _) in zip(
            spatial, g.shape[1:-1], window, stride, dilation, padding, strict=True
        )
    ]
    return fast(
        g,
        flipped,
        stride=(1,) * n,
        padding=pairs,
        dilation=dilation,
        groups=groups,
        spread=stride,
    )


def kernel_gradient(
    x: jax.Array, g: jax.Array, kernel_shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The gradient with respect to the kernel: the input convolved with `g`, stride and
    dilation swapped.

    Channels become the batch, examples the features: `[in/groups *spatial groups*N] x
    [*spatial' N out]`.
    """
    stride, padding, dilation, groups = geometry
    if volumes.pays(x, len(stride), groups):
        at_depth = {"stride": stride[0], "padding": padding[0], "dilation": dilation[0]}
        within = Geometry(stride[1:], padding[1:], dilation[1:], groups)
        seen, g = volumes.pictures(x, kernel_shape[0], **at_depth), volumes.merged(g)
        return jnp.stack(
            [kernel_gradient(volumes.merged(x), g, kernel_shape[1:], within) for x in seen]
        )
    if is_plain(stride, dilation, groups) and product.pays(g.shape[1:-1], kernel_shape):
        return product.kernel_gradient(x, g, kernel_shape, padding)
    n = len(stride)
    batch, spatial, c = x.shape[0], x.shape[1:-1], kernel_shape[n]
    images = jnp.moveaxis(x.reshape(batch, *spatial, groups, c), -1, 0)  # [c N *spatial groups]
    images = jnp.moveaxis(images, 1, -1).reshape(c, *spatial, groups * batch)
    errors = jnp.moveaxis(g, 0, n)  # [*spatial' N out]
    pairs = [
        (
            low,
            d * (k - 1) + s * (outputs - 1) + 1 - size - low,
        )  # may cut off an end that no window reached
        for size, outputs, k, s, d, (low, _) in zip(
            spatial, g.shape[1:-1], kernel_shape, stride, dilation, padding, strict=False
        )
    ]
    images, errors = lax.optimization_barrier(images), lax.optimization_barrier(errors)
    gradient = _canonical(
        images, errors, stride=dilation, padding=pairs, dilation=stride, groups=groups
    )
    return jnp.moveaxis(gradient, 0, n)  # [c *window out] -> [*window c out]
