"""The way back from max pooling, and max pooling with windows drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from dlwp_jax.nn.pool import at_places
from dlwp_jax.nn.shapes import Sizes, check_input, positive_tuple, to_tuple

__all__ = [
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "fractional_max_pool",
    "max_unpool",
]


def max_unpool(
    x: jax.Array,
    indices: jax.Array,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Maxima back at their places, zeros elsewhere; torch.nn.functional.max_unpool1d,
    max_unpool2d and max_unpool3d.

    Args:
      x: `[N *spatial C]`, or the same without N. Only sizes tell `[H W C]` from `[N L C]`: give
        one for each axis, as `kernel_size=(2, 2)`, if N is not there.
      indices: the places, as `max_pool` returns them with `return_indices`.
      kernel_size, stride, padding: those of the pooling.
      output_size: its input's shape, or the spatial part of it, if the sizes leave a choice.

    Returns:
      `[N *output_size C]`.

    Raises:
      RuntimeError: if x and indices have different shapes, or a place is outside of the output
        (not known, and then dropped, under jit).
      ValueError: for an output size that the pooling cannot have had.

    >>> y, places = jnp.array([[[3.0], [2.0]]]), jnp.array([[[1], [2]]])
    >>> max_unpool(y, places, 2)[0, :, 0].tolist()
    [0.0, 3.0, 2.0, 0.0]
    """
    spatial_size = None if output_size is None or len(output_size) >= x.ndim else output_size
    n = _spatial_axes(x.ndim - 2, kernel_size, stride, padding, spatial_size)
    check_input(x, n, "max_unpool")
    if x.shape != indices.shape:
        raise RuntimeError(
            f"max_unpool: x has shape {x.shape}, its indices have {indices.shape}."
        )
    window = positive_tuple(kernel_size, n, "kernel_size")
    strides = window if stride is None else positive_tuple(stride, n, "stride")
    padding = to_tuple(padding, n, "padding")
    spatial = x.shape[-n - 1 : -1]
    sizes = zip(spatial, window, strides, padding, strict=True)
    size = [(count - 1) * step - 2 * pad + kernel for count, kernel, step, pad in sizes]
    if output_size is not None:
        size = _given(list(output_size), size, strides, n)
    places = math.prod(size)
    if not isinstance(indices, Tracer) and indices.size:
        known = np.asarray(indices)
        low, high = known.min(), known.max()
        if low < 0 or high >= places:
            raise RuntimeError(
                f"max_unpool: the indices go from {low} to {high}; the output {size} has "
                f"{places} places."
            )
    lead = () if x.ndim == n + 1 else x.shape[:1]
    rows, where = (a.reshape(-1, math.prod(spatial), x.shape[-1]) for a in (x, indices))
    return _put(rows, where, places).reshape(*lead, *size, x.shape[-1])


def _spatial_axes(default: int, *sizes: Any) -> int:
    """The number of entries of the first size that has one for each axis, or the default."""
    for size in sizes:
        if hasattr(size, "__len__"):
            return len(size)
    return default


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _put(rows, where, places):
    """`[N number C]` at its places of `[N places C]`."""
    return _at(rows, where, places).set(rows, mode="drop")


@_put.defjvp
def _put_jvp(places, primals, tangents):
    # Two windows may have their maximum at one place; torch then gives both its gradient.
    rows, where = primals
    tangent = _at(rows, where, places).add(tangents[0], mode="drop")
    return _put(rows, where, places), tangent


def _at(rows, where, places):
    batch, channel = jnp.arange(len(rows))[:, None, None], jnp.arange(rows.shape[-1])
    return jnp.zeros((len(rows), places, rows.shape[-1]), rows.dtype).at[batch, where, channel]


def _given(wanted, default, strides, n):
    """The output size that the caller gave, if the pooling can have had it."""
    size = wanted[-n - 1 : -1] if len(wanted) == n + 2 else wanted
    near = zip(size, default, strides, strict=False)
    if len(size) != n or any(not d - s < given < d + s for given, d, s in near):
        raise ValueError(
            f"output_size={wanted} does not fit: "
            f"the sizes lead to {default}, or up to a stride beside it."
        )
    return size


class _MaxUnpool(nnx.Module):
    _spatial_axes: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0):
        n = self._spatial_axes
        self.kernel_size: tuple[int, ...] = positive_tuple(kernel_size, n, "kernel_size")
        self.stride: tuple[int, ...] = (
            self.kernel_size if stride is None else positive_tuple(stride, n, "stride")
        )
        self.padding: tuple[int, ...] = to_tuple(padding, n, "padding")

    def __call__(
        self, x: jax.Array, indices: jax.Array, output_size: Sequence[int] | None = None
    ) -> jax.Array:
        """`max_unpool` with this layer's sizes."""
        check_input(x, self._spatial_axes, type(self).__name__)
        sizes = self.kernel_size, self.stride, self.padding
        return max_unpool(x, indices, *sizes, output_size)


class MaxUnpool1d(_MaxUnpool):
    """The way back from `MaxPool1d(return_indices=True)`, whose `kernel_size`, `stride` and
    `padding` it is given; torch.nn.MaxUnpool1d.

    >>> MaxUnpool1d(2)(jnp.ones((1, 2, 1)), jnp.array([[[1], [2]]])).shape
    (1, 4, 1)
    """

    _spatial_axes = 1


class MaxUnpool2d(_MaxUnpool):
    """The way back from `MaxPool2d(return_indices=True)`, whose `kernel_size`, `stride` and
    `padding` it is given; torch.nn.MaxUnpool2d.

    >>> MaxUnpool2d(2)(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), int)).shape
    (1, 2, 2, 1)
    """

    _spatial_axes = 2


class MaxUnpool3d(_MaxUnpool):
    """The way back from `MaxPool3d(return_indices=True)`, whose `kernel_size`, `stride` and
    `padding` it is given; torch.nn.MaxUnpool3d.

    >>> MaxUnpool3d(2)(jnp.ones((1, 1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1, 1), int)).shape
    (1, 2, 2, 2, 1)
    """

    _spatial_axes = 3


def fractional_max_pool(
    x: jax.Array,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    random_samples: jax.Array | None = None,
    *,
    key: jax.Array | None = None,
) -> Any:
    """The largest values of windows that are spread at random;
    torch.nn.functional.fractional_max_pool2d and fractional_max_pool3d.

    Args:
      x: `[N *spatial C]`, or the same without N. Four axes are `[N H W C]`, if no size has
        three entries, as `kernel_size=(2, 2, 2)`.
      kernel_size: the window, an int or one for each spatial axis.
      output_size: how many windows, likewise.
      output_ratio: their number as a share of the input's size, below 1; in place of
        output_size.
      return_indices: return the places of the maxima too, as `max_pool` does.
      random_samples: numbers from 0 to 1 that place the windows, `[N C axes]` as torch has
        them, in torch's order of axes (W H for images, D H W for volumes).
      key: a PRNG key, from which they are drawn if they are not given.

    Raises:
      ValueError: if neither or both of output_size and output_ratio are given, if the windows
        do not fit, or there is neither a key nor random_samples.

    >>> fractional_max_pool(jnp.ones((1, 7, 7, 2)), 2, 3, key=jax.random.key(0)).shape
    (1, 3, 3, 2)
    """
    # There is no pooling of one axis, so three axes are one picture.
    n = _spatial_axes(max(x.ndim - 2, 2), kernel_size, output_size, output_ratio)
    check_input(x, n, "fractional_max_pool")
    window = positive_tuple(kernel_size, n, "kernel_size")
    single = x.ndim == n + 1
    x = x[None] if single else x
    size = _output_size(output_size, output_ratio, x.shape[1:-1], window)
    if random_samples is None:
        if key is None:
            raise ValueError(
                "fractional_max_pool draws its windows: give it a key (key=jax.random.key(0)) "
                "or random_samples."
            )
        random_samples = jax.random.uniform(key, (len(x), x.shape[-1], n), x.dtype)
    samples = jnp.flip(random_samples, -1) if n == 2 else random_samples
    # For every axis the places of each window, [N outputs window C], then all together, as
    # numbers of places row by row.
    place = jnp.zeros((len(x), *(1,) * (2 * n), x.shape[-1]), int)
    for axis in range(n):
        start = _starts(samples[..., axis], x.shape[axis + 1], size[axis], window[axis])
        inside = start[:, :, None] + jnp.arange(window[axis])[:, None]
        shape = [1] * (2 * n + 2)
        shape[0], shape[-1] = len(x), x.shape[-1]
        shape[axis + 1], shape[n + axis + 1] = size[axis], window[axis]
        place = place * x.shape[axis + 1] + inside.reshape(shape)
    shape = (len(x), *size, math.prod(window), x.shape[-1])
    place = jnp.broadcast_to(place, (len(x), *size, *window, x.shape[-1])).reshape(shape)
    best = _best(jax.lax.stop_gradient(at_places(x, place)))
    place = jnp.take_along_axis(place, best, -2)[..., 0, :]
    y = at_places(x, place)
    if single:
        y, place = y[0], place[0]
    return (y, place) if return_indices else y


def _best(values):
    """The first of the largest along the axis before the last, the last of NaN, as in torch."""
    count = values.shape[-2]
    last_nan = count - 1 - jnp.argmax(jnp.flip(jnp.isnan(values), -2), -2, keepdims=True)
    has_nan = jnp.isnan(values).any(-2, keepdims=True)
    return jnp.where(has_nan, last_nan, jnp.argmax(values, -2, keepdims=True))


def _output_size(output_size, output_ratio, spatial, window) -> tuple[int, ...]:
    n = len(spatial)
    if (output_size is None) == (output_ratio is None):
        raise ValueError("give one of output_size and output_ratio.")
    if output_size is not None:
        size = positive_tuple(output_size, n, "output_size")
    else:
        one = isinstance(output_ratio, int | float)
        ratios = (output_ratio,) * n if one else tuple(output_ratio)
        if len(ratios) != n or not all(0 < ratio < 1 for ratio in ratios):
            raise ValueError(f"output_ratio={output_ratio} must be between 0 and 1.")
        size = tuple(int(s * ratio) for s, ratio in zip(spatial, ratios, strict=True))
    fits = zip(spatial, size, window, strict=True)
    if any(count < 1 or count + kernel - 1 > extent for extent, count, kernel in fits):
        raise ValueError(
            f"fractional_max_pool: {size} windows of {window} do not fit into {spatial}."
        )
    return size


def _starts(sample, extent: int, outputs: int, window: int):
    """Where each window begins, `[N outputs C]`, from one number for each channel."""
    sample = sample[:, None]
    last = jnp.full(sample.shape, extent - window)
    if outputs == 1:
        return last
    alpha = jnp.asarray((extent - window) / (outputs - 1), sample.dtype)
    number = jnp.arange(outputs - 1, dtype=sample.dtype)[:, None]
    first = jnp.trunc((number + sample) * alpha) - jnp.trunc(sample * alpha)
    return jnp.concatenate([first.astype(last.dtype), last], 1)


class _FractionalMaxPool(nnx.Module):
    _spatial_axes: int

    def __init__(
        self,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        n = self._spatial_axes
        self.kernel_size: tuple[int, ...] = positive_tuple(kernel_size, n, "kernel_size")
        if (output_size is None) == (output_ratio is None):
            raise ValueError("give one of output_size and output_ratio.")
        self.output_size: tuple[int, ...] | None = (
            None if output_size is None else positive_tuple(output_size, n, "output_size")
        )
        several = isinstance(output_ratio, Sequence)
        self.output_ratio: Any = tuple(output_ratio) if several else output_ratio
        self.return_indices = return_indices
        self.rngs: nnx.RngStream = rngs.dropout.fork()

    def __call__(self, x: jax.Array) -> Any:  # [N *spatial C] -> [N *output_size C]
        """`fractional_max_pool` with this layer's sizes and a new key."""
        check_input(x, self._spatial_axes, type(self).__name__)
        options = self.kernel_size, self.output_size, self.output_ratio, self.return_indices
        return fractional_max_pool(x, *options, key=self.rngs())


class FractionalMaxPool2d(_FractionalMaxPool):
    """`fractional_max_pool` of `[N H W C]`, in either mode; torch.nn.FractionalMaxPool2d.

    The draw uses a fork of the `dropout` stream of `rngs`.

    >>> FractionalMaxPool2d(2, output_ratio=0.5, rngs=nnx.Rngs(0))(jnp.ones((1, 8, 8, 3))).shape
    (1, 4, 4, 3)
    """

    _spatial_axes = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """`fractional_max_pool` of `[N D H W C]`, in either mode; torch.nn.FractionalMaxPool3d.

    The draw uses a fork of the `dropout` stream of `rngs`.

    >>> FractionalMaxPool3d(2, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 5, 3))).shape
    (1, 2, 2, 2, 3)
    """

    _spatial_axes = 3
