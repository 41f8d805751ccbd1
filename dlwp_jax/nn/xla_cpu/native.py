"""A convolution and its two gradients as calls of the compiled library.

Each is a primitive that is linear in both operands, and the derivatives of each are the two
others, so derivatives of any order and mode are calls again. If a program is compiled for
several devices or for a file, or if there is no library, the primitives are lowered to XLA's
forms.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.xla_cpu import forms, library
from dlwp_jax.nn.xla_cpu.choice import choose

Shape = tuple[int, ...]


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """`convolution_plain.convolve`."""
    if not _is_chosen(x, kernel, x.shape, kernel.shape, geometry):
        return forms.convolve(x, kernel, geometry)
    sizes = zip(x.shape[1:-1], kernel.shape, geometry.padding, geometry.stride, strict=False)
    places = [(size + sum(pair) - k) // s + 1 for size, k, pair, s in sizes]
    shape = (x.shape[0], *places, kernel.shape[-1])
    return _output.bind(x, kernel, shape=shape, geometry=geometry)


def input_gradient(
    g: jax.Array, kernel: jax.Array, spatial: Shape, geometry: Geometry
) -> jax.Array:
    """`convolution_plain.convolve_transpose`."""
    shape = (g.shape[0], *spatial, kernel.shape[-2] * geometry.groups)
    if not _is_chosen(g, kernel, shape, kernel.shape, geometry):
        return forms.input_gradient(g, kernel, spatial, geometry)
    return _input.bind(g, kernel, shape=shape, geometry=geometry)


def kernel_gradient(
    x: jax.Array, g: jax.Array, kernel_shape: Shape, geometry: Geometry
) -> jax.Array:
    """`convolution_plain.kernel_gradient`."""
    if not _is_chosen(x, g, x.shape, kernel_shape, geometry):
        return forms.kernel_gradient(x, g, kernel_shape, geometry)
    return _kernel.bind(x, g, shape=kernel_shape, geometry=geometry)


def _is_chosen(a, b, shape, kernel_shape, geometry):
    # An array of a mesh may be split over devices, which a call does not see.
    has_mesh = not all(jax.typeof(operand).sharding.mesh.empty for operand in (a, b))
    has_native = a.dtype == b.dtype and not has_mesh
    x = jax.ShapeDtypeStruct(shape, a.dtype)
    return choose(x, kernel_shape, geometry, has_native=has_native).form == "native"


def _xla_output(x, kernel, shape, geometry):
    return forms.convolve(x, kernel, geometry)


def _xla_input(g, kernel, shape, geometry):
    return forms.input_gradient(g, kernel, shape[1:-1], geometry)


def _xla_kernel(x, g, shape, geometry):
    return forms.kernel_gradient(x, g, shape, geometry)


def _numbers(x, y, kernel, geometry):
    """The `Shape` of `convolution.cc`, in which a picture has depth 1."""
    lows = [low for low, _ in geometry.padding]
    axes = zip(x[1:-1], y[1:-1], kernel[:-2], geometry.stride, lows, strict=True)
    numbers = [x[0], *kernel[-2:], *[1, 1, 1, 1, 0] * (5 - len(x))]
    for axis in axes:
        numbers += axis
    return np.array(numbers, np.int32)


def _primitive(call, xla, order, batched):
    """A primitive, without derivatives.

    Args:
      call: the library's function.
      xla: the same function in XLA's operations.
      order: the places of input, output and kernel among the operands and the result.
      batched: whether the result has a batch if the first operand alone has one.
    """
    primitive = Primitive(f"dlwp_{call}")

    compiled = jax.jit(primitive.bind, static_argnames=("shape", "geometry"))

    def evaluate(*operands, **params):
        with jax.disable_jit(False):
            return compiled(*operands, **params)

    def abstract(a, b, *, shape, geometry):
        return ShapedArray(shape, a.dtype)

    in_xla = mlir.lower_fun(xla, multiple_results=False)

    def lower(ctx, *operands, shape, geometry):
        context: Any = ctx.module_context
        is_here = (
            getattr(context.axis_context, "num_devices", 2) == 1
            and tuple(context.platforms) == ("cpu",)
            and not context.lowering_parameters.for_export
        )
        prefix = library.prefix() if is_here else None
        if prefix is None:
            return in_xla(ctx, *operands, shape=shape, geometry=geometry)
        shapes = [aval.shape for aval in (*ctx.avals_in, *ctx.avals_out)]
        x, y, kernel = (shapes[i] for i in order)
        numbers = _numbers(x, y, kernel, geometry)
        return jax.ffi.ffi_lowering(prefix + call)(ctx, *operands, shape=numbers)

    def batch(operands, axes, *, shape, geometry):
        a, b = operands
        if not batched or axes[1] is not None:
            function = partial(xla, shape=shape, geometry=geometry)
            return jax.vmap(function, axes)(a, b), 0
        a = jax.numpy.moveaxis(a, axes[0], 0)
        merged = a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
        wide = (a.shape[0] * shape[0], *shape[1:])
        y = primitive.bind(merged, b, shape=wide, geometry=geometry)
        return y.reshape(a.shape[0], *shape), 0

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lower, platform="cpu")
    # A program for several platforms holds the CPU's branch on each of them, unused.
    mlir.register_lowering(primitive, in_xla)
    batching.primitive_batchers[primitive] = batch
    return primitive


_output = _primitive("output_call", _xla_output, (0, 2, 1), batched=True)
_input = _primitive("input_call", _xla_input, (2, 0, 1), batched=True)
_kernel = _primitive("kernel_call", _xla_kernel, (0, 1, 2), batched=False)


def _transposes(primitive, left, right):
    """Say how to transpose a primitive, in its left and in its right operand: by a call of
    another one, with the cotangent as its first or its second operand.
    """

    def of_left(ct, a, b, *, shape, geometry):
        other, is_first = left
        operands = (ct, b) if is_first else (b, ct)
        return other.bind(*operands, shape=a.aval.shape, geometry=geometry)

    def of_right(ct, a, b, *, shape, geometry):
        other, is_first = right
        operands = (ct, a) if is_first else (a, ct)
        return other.bind(*operands, shape=b.aval.shape, geometry=geometry)

    ad.defbilinear(primitive, of_left, of_right)


# y = output(x, k), x = input(y, k), k = kernel(x, y)
_transposes(_output, left=(_input, True), right=(_kernel, False))
_transposes(_input, left=(_output, True), right=(_kernel, True))
_transposes(_kernel, left=(_input, False), right=(_output, False))
