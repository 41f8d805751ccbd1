"""A convolution as one operation of XLA, and its transposes as JAX derives them."""

from typing import NamedTuple

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


class Geometry(NamedTuple):
    """The static part of a convolution; one entry per spatial axis.

    `spread - 1` zeros are put between every two places of the input; None stands for ones.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    spread: tuple[int, ...] | None = None


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Cross-correlation `[N *spatial in] x [*window in/groups out] -> [N *spatial' out]`.

    >>> x, kernel = jax.numpy.ones((1, 4, 1)), jax.numpy.ones((2, 1, 1))
    >>> convolve(x, kernel, Geometry((1,), ((0, 0),), (1,), 1))[0, :, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    axes = "DHW"[-len(geometry.stride) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.stride,
        geometry.padding,
        lhs_dilation=geometry.spread,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


def convolve_transpose(
    g: jax.Array, kernel: jax.Array, geometry: Geometry, spatial: tuple[int, ...]
) -> jax.Array:
    """The transpose of `convolve` in its input: `[N *spatial' out] -> [N *spatial in]`.

    Args:
      g: the output of `convolve`, or a gradient with respect to it.
      kernel: `[*window in/groups out]`.
      geometry: of `convolve`.
      spatial: the sizes of the input of `convolve`.

    >>> g, kernel = jax.numpy.ones((1, 2, 1)), jax.numpy.ones((2, 1, 1))
    >>> geometry = Geometry((2,), ((0, 0),), (1,), 1)
    >>> convolve_transpose(g, kernel, geometry, (4,))[0, :, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    channels = kernel.shape[-2] * geometry.groups
    x = _like(g, (g.shape[0], *spatial, channels))
    return jax.linear_transpose(lambda x: convolve(x, kernel, geometry), x)(g)[0]


def kernel_gradient(
    x: jax.Array, g: jax.Array, shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The transpose of `convolve` in its kernel, an array of this shape."""
    kernel = _like(g, shape)
    return jax.linear_transpose(lambda kernel: convolve(x, kernel, geometry), kernel)(g)[0]


def _like(g, shape):
    """An array of another shape that varies over the same axes of `jax.shard_map`."""
    kind, mesh = jax.typeof(g).manual_axis_type, jax.typeof(g).sharding.mesh
    if not kind.varying:
        return jax.ShapeDtypeStruct(shape, g.dtype)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, g.dtype, sharding=whole, manual_axis_type=kind)
