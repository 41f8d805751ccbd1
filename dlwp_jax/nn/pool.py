"""Max, average and power-average pooling over windows; as in torch, the stride is the window by
default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from dlwp_jax.nn.pool_axis import max_and_place, max_over_windows, sum_over_windows
from dlwp_jax.nn.shapes import (
    Sizes,
    check_input,
    floating,
    over_batch,
    positive_tuple,
    to_tuple,
    wide,
)

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "avg_pool",
    "lp_pool",
    "max_pool",
]


def max_pool(
    x: jax.Array,
    window: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window; torch.nn.functional.max_pool1d, max_pool2d and
    max_pool3d.

    Of equal values the first of the window (row by row) gets the gradient, and NaN wins over
    numbers: both as in torch. On a CPU the axes are pooled one after the other, which is faster
    there than XLA's own pooling; other platforms use XLA's own.

    Args:
      x: `[N *spatial C]`, or `[*spatial C]` for one example.
      window: an int, or one int per spatial axis.
      stride: the same; None takes the window.
      padding: the same; at most half the window, filled with minus infinity.
      dilation: the same; the distance between the places of a window.
      ceil_mode: also take the last window that starts inside the input (or its padding before
        it) but sticks out.
      return_indices: return the places of the maxima too, for `max_unpool`.

    Returns:
      `[N *spatial' C]` with `spatial' = (spatial + 2 padding - dilation (window - 1) - 1) /
      stride + 1`, rounded down (up in ceil_mode). With `return_indices` a pair: the maxima, and
      the places in their channel, numbered row by row.

    Raises:
      RuntimeError: if the window does not fit, or the padding is more than half of it.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    plan = _plan(x, window, stride, padding, dilation, ceil_mode, "max_pool")
    if return_indices:
        return with_places(x, len(plan), lambda pair: _places_by_axis(pair, plan))
    dilated = any(axis.dilation > 1 for axis in plan)  # XLA has no gradient for these
    if jax.default_backend() == "cpu" or dilated:
        return over_batch(
            lambda x: _axis_by_axis(max_over_windows, x, plan, _smallest(x.dtype)), x, len(plan)
        )
    return over_batch(lambda x: _by_xla(x, plan), x, len(plan))


def with_places(
    x: jax.Array,
    n: int,
    pool: Callable[[tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """Maxima and their places, from a function that pools both together.

    The maxima are read at the places, so that their gradients go there.
    """
    single = x.ndim == n + 1
    x = x[None] if single else x
    spatial = x.shape[1:-1]
    numbers = jnp.arange(math.prod(spatial)).reshape(1, *spatial, 1)
    _, place = pool((lax.stop_gradient(x), jnp.broadcast_to(numbers, x.shape)))
    y = at_places(x, place)
    return (y[0], place[0]) if single else (y, place)


def at_places(x: jax.Array, place: jax.Array) -> jax.Array:
    """The values of `[N *spatial C]` at `place [N *places C]`, numbered row by row."""
    rows = place.reshape(len(x), -1, x.shape[-1])
    return jnp.take_along_axis(x.reshape(len(x), -1, x.shape[-1]), rows, 1).reshape(place.shape)


def _places_by_axis(pair, plan):
    """`_axis_by_axis` of values and places."""
    for axis in range(len(plan), 0, -1):
        entry = plan[axis - 1]
        sides = axis, entry.padding, entry.after
        fills = _smallest(pair[0].dtype), -1
        x, place = (_pad_axis(a, *sides, fill) for a, fill in zip(pair, fills, strict=True))
        pair = max_and_place((x, place), axis, entry.window, entry.stride, entry.dilation)
    return pair


def _by_xla(x, plan):
    edges = [(axis.padding, max(axis.after, 0)) for axis in plan]
    return lax.reduce_window(
        x,
        np.asarray(_smallest(x.dtype), x.dtype),
        lax.max,
        (1, *(axis.window for axis in plan), 1),
        (1, *(axis.stride for axis in plan), 1),
        [(0, 0), *edges, (0, 0)],
    )


def avg_pool(
    x: jax.Array,
    window: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window; torch.nn.functional.avg_pool1d, avg_pool2d and avg_pool3d.

    Args:
      x, window, stride, padding, ceil_mode: as in `max_pool`; the padding is zeros.
      count_include_pad: whether padded places count in the mean (places beyond them, in
        ceil_mode, never do).
      divisor_override: divide the sum by this number and not by the count.

    Returns:
      `[N *spatial' C]`; for whole numbers in floating point. Sums are in at least float32.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    if divisor_override == 0:
        raise ValueError("divisor_override must not be zero.")
    plan = _plan(x, window, stride, padding, 1, ceil_mode, "avg_pool")

    def batched(x):
        total = _axis_by_axis(sum_over_windows, x, plan, 0)
        if divisor_override is not None:
            return total / divisor_override
        for axis, entry in enumerate(plan, start=1):
            count = jnp.asarray(entry.counts(count_include_pad), x.dtype)
            total = total / jnp.expand_dims(count, range(1, x.ndim - axis))
        return total

    x = floating(x)
    return over_batch(batched, wide(x), len(plan)).astype(x.dtype)


def lp_pool(
    x: jax.Array,
    norm_type: float,
    window: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """`(sum over the window of x^p)^(1/p)`; torch.nn.functional.lp_pool1d, lp_pool2d and
    lp_pool3d.

    As in torch the sum is the mean times the window's size, so a window that sticks out in
    ceil_mode counts as full.

    Args:
      x, window, stride, ceil_mode: as in `avg_pool`.
      norm_type: p; infinity gives the largest absolute value.

    >>> lp_pool(jnp.array([3.0, 4.0]).reshape(1, 2, 1), 2.0, 2).tolist()
    [[[5.0]]]
    """
    x = floating(x)
    if norm_type == math.inf:
        return max_pool(jnp.abs(x), window, stride, ceil_mode=ceil_mode)
    sizes = positive_tuple(window, _spatial_axes(x, window), "window")
    means = avg_pool(wide(x) ** norm_type, sizes, stride, 0, ceil_mode)
    return ((means * math.prod(sizes)) ** (1 / norm_type)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class _AxisPlan:
    """One spatial axis of a pooling: its sizes, and how many windows there are."""

    size: int
    window: int
    stride: int
    padding: int
    dilation: int
    ceil_mode: bool

    @property
    def reach(self) -> int:
        """From the first to the last place of a window."""
        return self.dilation * (self.window - 1) + 1

    @property
    def outputs(self) -> int:
        free = self.size + 2 * self.padding - self.reach
        if not self.ceil_mode or free < 0:
            return free // self.stride + 1
        rounded_up = -(-free // self.stride) + 1
        starts_inside = (rounded_up - 1) * self.stride < self.size + self.padding
        return rounded_up if starts_inside else rounded_up - 1

    @property
    def after(self) -> int:
        """The padding behind, as far as the last window reaches; negative if it ends before."""
        last = (self.outputs - 1) * self.stride + self.reach
        return last - self.size - self.padding

    def counts(self, include_pad: bool) -> np.ndarray:
        """How many places of each window count in a mean: numpy `[outputs]`."""
        start = np.arange(self.outputs) * self.stride - self.padding
        stop = np.minimum(start + self.window, self.size + self.padding)
        if not include_pad:
            start, stop = np.maximum(start, 0), np.minimum(stop, self.size)
        return stop - start


def _spatial_axes(x, window) -> int:
    return x.ndim - 2 if isinstance(window, int) else len(window)


def _plan(x, window, stride, padding, dilation, ceil_mode, owner) -> list[_AxisPlan]:
    n = _spatial_axes(x, window)
    if n not in (1, 2, 3):
        raise RuntimeError(
            f"{owner} takes [N *spatial C] with 1 to 3 spatial axes; the input has shape "
            f"{x.shape}."
        )
    check_input(x, n, owner)
    window = positive_tuple(window, n, "window")
    stride = window if stride is None else positive_tuple(stride, n, "stride")
    padding, dilation = to_tuple(padding, n, "padding"), positive_tuple(dilation, n, "dilation")
    if any(p < 0 or 2 * p > k for p, k in zip(padding, window, strict=True)):
        raise RuntimeError(
            f"padding={padding} must be between 0 and half of the window {window}."
        )
    spatial = x.shape[-n - 1 : -1]
    plan = [
        _AxisPlan(*axis, ceil_mode)
        for axis in zip(spatial, window, stride, padding, dilation, strict=True)
    ]
    if any(axis.outputs < 1 for axis in plan):
        raise RuntimeError(
            f"{owner}: the window {window} does not fit into {spatial} padded by {padding}."
        )
    return plan


def _axis_by_axis(pool_axis, x, plan, fill):
    """Pool the last spatial axis first, so that the first of equal values, row by row, wins."""
    for axis in range(len(plan), 0, -1):
        entry = plan[axis - 1]
        x = _pad_axis(x, axis, entry.padding, entry.after, fill)
        x = pool_axis(x, axis, entry.window, entry.stride, entry.dilation)
    return x


def _pad_axis(x, axis, before, after, fill):
    if after < 0:
        x = x[(slice(None),) * axis + (slice(0, x.shape[axis] + after),)]
    grow = [(0, 0)] * x.ndim
    grow[axis] = (before, max(after, 0))
    if max(grow[axis]) == 0:
        return x
    return jnp.pad(x, grow, constant_values=jnp.asarray(fill, x.dtype))


def _smallest(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.integer) else False


class _Pool(nnx.Module):
    """A pooling layer over a fixed number of spatial axes."""

    _spatial_axes: int

    def _sizes(self, kernel_size, stride):
        self.kernel_size: tuple[int, ...] = positive_tuple(
            kernel_size, self._spatial_axes, "kernel_size"
        )
        self.stride: tuple[int, ...] = (
            self.kernel_size
            if stride is None
            else positive_tuple(stride, self._spatial_axes, "stride")
        )

    def _check(self, x):
        check_input(x, self._spatial_axes, type(self).__name__)


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        self._sizes(kernel_size, stride)
        self.padding: tuple[int, ...] = to_tuple(padding, self._spatial_axes, "padding")
        self.dilation: tuple[int, ...] = positive_tuple(
            dilation, self._spatial_axes, "dilation"
        )
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def __call__(self, x: jax.Array) -> Any:  # [N *spatial C] -> [N *spatial' C]
        """`max_pool` with this layer's options."""
        self._check(x)
        sizes = self.kernel_size, self.stride, self.padding, self.dilation
        return max_pool(x, *sizes, self.ceil_mode, self.return_indices)


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        self._sizes(kernel_size, stride)
        self.padding: tuple[int, ...] = to_tuple(padding, self._spatial_axes, "padding")
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> [N *spatial' C]
        """`avg_pool` with this layer's options."""
        self._check(x)
        options = self.ceil_mode, self.count_include_pad, self.divisor_override
        return avg_pool(x, self.kernel_size, self.stride, self.padding, *options)


class _LPPool(_Pool):
    def __init__(
        self,
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
    ):
        self._sizes(kernel_size, stride)
        self.norm_type: float = float(norm_type)
        self.ceil_mode = ceil_mode

    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> [N *spatial' C]
        """`lp_pool` with this layer's options."""
        self._check(x)
        return lp_pool(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class MaxPool1d(_MaxPool):
    """The largest value of each window of `[N L C]`; torch.nn.MaxPool1d.

    `kernel_size` is the window; the other options are those of `max_pool`.

    >>> MaxPool1d(2)(jnp.ones((2, 8, 3))).shape
    (2, 4, 3)
    """

    _spatial_axes = 1


class MaxPool2d(_MaxPool):
    """The largest value of each window of `[N H W C]`; torch.nn.MaxPool2d.

    `kernel_size` is the window; the other options are those of `max_pool`.

    >>> MaxPool2d(2)(jnp.ones((2, 8, 8, 3))).shape
    (2, 4, 4, 3)
    """

    _spatial_axes = 2


class MaxPool3d(_MaxPool):
    """The largest value of each window of `[N D H W C]`; torch.nn.MaxPool3d.

    `kernel_size` is the window; the other options are those of `max_pool`.

    >>> MaxPool3d(2)(jnp.ones((2, 8, 8, 8, 3))).shape
    (2, 4, 4, 4, 3)
    """

    _spatial_axes = 3


class AvgPool1d(_AvgPool):
    """The mean of each window of `[N L C]`; torch.nn.AvgPool1d.

    `kernel_size` is the window; the other options are those of `avg_pool`.

    >>> AvgPool1d(2)(jnp.ones((2, 8, 3))).shape
    (2, 4, 3)
    """

    _spatial_axes = 1


class AvgPool2d(_AvgPool):
    """The mean of each window of `[N H W C]`; torch.nn.AvgPool2d.

    `kernel_size` is the window; the other options are those of `avg_pool`.

    >>> AvgPool2d(2)(jnp.ones((2, 8, 8, 3))).shape
    (2, 4, 4, 3)
    """

    _spatial_axes = 2


class AvgPool3d(_AvgPool):
    """The mean of each window of `[N D H W C]`; torch.nn.AvgPool3d.

    `kernel_size` is the window; the other options are those of `avg_pool`.

    >>> AvgPool3d(2)(jnp.ones((2, 8, 8, 8, 3))).shape
    (2, 4, 4, 4, 3)
    """

    _spatial_axes = 3


class LPPool1d(_LPPool):
    """`lp_pool` over `[N L C]`; torch.nn.LPPool1d.

    `kernel_size` is the window; the other options are those of `lp_pool`.

    >>> LPPool1d(2.0, 2)(jnp.ones((2, 8, 3))).shape
    (2, 4, 3)
    """

    _spatial_axes = 1


class LPPool2d(_LPPool):
    """`lp_pool` over `[N H W C]`; torch.nn.LPPool2d.

    `kernel_size` is the window; the other options are those of `lp_pool`.

    >>> LPPool2d(2.0, 2)(jnp.ones((2, 8, 8, 3))).shape
    (2, 4, 4, 3)
    """

    _spatial_axes = 2


class LPPool3d(_LPPool):
    """`lp_pool` over `[N D H W C]`; torch.nn.LPPool3d.

    `kernel_size` is the window; the other options are those of `lp_pool`.

    >>> LPPool3d(2.0, 2)(jnp.ones((2, 8, 8, 8, 3))).shape
    (2, 4, 4, 4, 3)
    """

    _spatial_axes = 3
