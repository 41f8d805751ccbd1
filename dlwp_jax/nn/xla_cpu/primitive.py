"""The convolution under every convolution layer: the forms for the CPU, the plain form
elsewhere.

The derivative is given as a `custom_jvp`, so that forward mode works: its tangents are the
*transposes* of the gradients. Reverse mode transposes tangents, and so finds the gradients
again, to the letter. `lax.platform_dependent` chooses the platform while lowering, so it costs
nothing at run time; cuDNN and the TPU compiler recognise JAX's own gradient as a backward
convolution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from dlwp_jax.nn import convolution_plain as plain
from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.xla_cpu import native


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`convolution_plain.convolve`.

    >>> geometry = Geometry(stride=(1,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> convolve(jnp.ones((1, 4, 1)), jnp.ones((2, 1, 1)), geometry)[0, :, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    return _convolve(*_varying(x, kernel), geometry)


def convolve_transpose(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, spatial: tuple[int, ...]
) -> jax.Array:
    """`convolution_plain.convolve_transpose`.

    >>> geometry = Geometry(stride=(2,), padding=((0, 0),), dilation=(1,), groups=1)
    >>> y = convolve_transpose(jnp.ones((1, 2, 1)), jnp.ones((2, 1, 1)), geometry, (4,))
    >>> y[0, :, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return _convolve_transpose(*_varying(x, kernel), geometry, spatial)


def _varying(*arrays):
    """The arrays, made to vary over the same axes of `jax.shard_map`."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    missing = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [
        lax.pcast(array, names, to="varying") if names else array
        for array, names in zip(arrays, missing, strict=True)
    ]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x, kernel, geometry):
    return _forward(x, kernel, geometry)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve_transpose(x, kernel, geometry, spatial):
    return _to_input(x, kernel, geometry, spatial)


@partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(geometry, primals, tangents):
    x, kernel = primals
    y = _convolve(x, kernel, geometry)
    gradients = (
        lambda g: _to_input(g, kernel, geometry, x.shape[1:-1]),
        lambda g: _to_kernel(x, g, kernel.shape, geometry),
    )
    return y, _tangent(gradients, y, tangents)


@partial(_convolve_transpose.defjvp, symbolic_zeros=True)
def _convolve_transpose_jvp(geometry, spatial, primals, tangents):
    x, kernel = primals
    y = _convolve_transpose(x, kernel, geometry, spatial)
    gradients = (
        lambda g: _forward(g, kernel, geometry),
        lambda g: _to_kernel(g, x, kernel.shape, geometry),
    )
    return y, _tangent(gradients, y, tangents)


def _tangent(gradients, y, tangents):
    """The tangent of `y`, by the transposes of the gradients."""
    parts = [
        jax.linear_transpose(gradient, y)(tangent)[0]
        for gradient, tangent in zip(gradients, tangents, strict=True)
        if not isinstance(tangent, SymbolicZero)
    ]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


def _forward(x, kernel, geometry):
    cpu = partial(native.convolve, geometry=geometry)
    default = partial(plain.convolve, geometry=geometry)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _to_input(g, kernel, geometry, spatial):
    cpu = partial(native.input_gradient, spatial=spatial, geometry=geometry)
    default = partial(plain.convolve_transpose, spatial=spatial, geometry=geometry)
    return lax.platform_dependent(g, kernel, cpu=cpu, default=default)


def _to_kernel(x, g, shape, geometry):
    cpu = partial(native.kernel_gradient, kernel_shape=shape, geometry=geometry)
    default = partial(plain.kernel_gradient, shape=shape, geometry=geometry)
    return lax.platform_dependent(x, g, cpu=cpu, default=default)
