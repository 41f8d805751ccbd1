"""Pooling to a given size, whatever the size of the input; torch's adaptive pooling.

Output i of an axis of `size` places is pooled from places `floor(i * size / outputs)` to
`ceil((i + 1) * size / outputs)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dlwp_jax.nn.neighbours import weighted_sum
from dlwp_jax.nn.pool import max_pool, with_places
from dlwp_jax.nn.pool_axis import max_and_place
from dlwp_jax.nn.shapes import Sizes, check_input, floating, over_batch, wide

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "adaptive_avg_pool",
    "adaptive_max_pool",
]


def adaptive_avg_pool(x: jax.Array, output_size: Sizes | tuple[int | None, ...]) -> jax.Array:
    """Means over windows that cover the input evenly; torch.nn.functional.adaptive_avg_pool1d,
    2d and 3d.

    Args:
      x: `[N *spatial C]`, or `[*spatial C]` for one example.
      output_size: an int, or one per spatial axis; None keeps an axis.

    Returns:
      `[N *output_size C]`; for whole numbers in floating point.

    >>> adaptive_avg_pool(jnp.arange(6.0).reshape(1, 6, 1), 4)[0, :, 0].tolist()
    [0.5, 1.5, 3.5, 4.5]
    """
    x = floating(x)
    means = _each_axis(_mean_axis, wide(x), output_size, "adaptive_avg_pool")
    return means.astype(x.dtype)


def adaptive_max_pool(
    x: jax.Array, output_size: Sizes | tuple[int | None, ...], return_indices: bool = False
) -> Any:
    """Maxima over windows that cover the input evenly; torch.nn.functional.adaptive_max_pool1d,
    2d and 3d.

    Arguments and result as for `adaptive_avg_pool`; ties give their gradient to the first
    place, as torch. With `return_indices` the result is a pair, as that of `max_pool`.

    >>> adaptive_max_pool(jnp.arange(6.0).reshape(1, 6, 1), 4)[0, :, 0].tolist()
    [1.0, 2.0, 4.0, 5.0]
    """
    if not return_indices:
        return _each_axis(_max_axis, x, output_size, "adaptive_max_pool")
    n = x.ndim - 2 if isinstance(output_size, int) else len(output_size)
    check_input(x, n, "adaptive_max_pool")
    sizes = _sizes(output_size, n)
    return with_places(x, n, lambda pair: _max_and_place(pair, sizes))


def _each_axis(pool_axis, x, output_size, owner):
    n = x.ndim - 2 if isinstance(output_size, int) else len(output_size)
    check_input(x, n, owner)
    sizes = _sizes(output_size, n)

    def batched(x):
        for axis in range(n, 0, -1):
            outputs = sizes[axis - 1]
            if outputs is not None and outputs != x.shape[axis]:
                x = pool_axis(x, axis, outputs)
        return x

    return over_batch(batched, x, n)


def _sizes(output_size, n) -> tuple[int | None, ...]:
    sizes = (
        (output_size,) * n
        if isinstance(output_size, int) or output_size is None
        else tuple(output_size)
    )
    if len(sizes) != n or any(size is not None and size < 1 for size in sizes):
        raise ValueError(
            f"output_size={output_size!r} must be a positive int, or {n} of them (None "
            "keeps an axis)."
        )
    return sizes


def _windows(size: int, outputs: int):
    """Start and stop of every window: numpy `[outputs]` each."""
    index = np.arange(outputs)
    return index * size // outputs, -(-(index + 1) * size // outputs)


def _mean_axis(x, axis, outputs):
    size = x.shape[axis]
    if size % outputs == 0:
        side_by_side = (*x.shape[:axis], outputs, size // outputs, *x.shape[axis + 1 :])
        return x.reshape(side_by_side).mean(axis + 1)
    start, stop = _windows(size, outputs)
    longest = int((stop - start).max())
    places = start[:, None] + np.arange(longest)
    weight = (places < stop[:, None]) / (stop - start)[:, None]
    return weighted_sum(x, axis, np.minimum(places, size - 1), weight)


def _side_by_side(x, axis, outputs):
    """The windows side by side, and their length. Short ones are filled up with their own last
    place: that changes neither the maximum nor the first place that has it.
    """
    size = x.shape[axis]
    start, stop = _windows(size, outputs)
    longest = int((stop - start).max())
    places = np.minimum(start[:, None] + np.arange(longest), stop[:, None] - 1).reshape(-1)
    return x if size == outputs * longest else jnp.take(x, places, axis), longest


def _max_and_place(pair, sizes):
    for axis in range(len(sizes), 0, -1):
        outputs = sizes[axis - 1]
        if outputs is not None:
            (x, longest), (place, _) = (_side_by_side(a, axis, outputs) for a in pair)
            pair = max_and_place((x, place), axis, longest, longest, 1)
    return pair


def _max_axis(x, axis, outputs):
    side_by_side, longest = _side_by_side(x, axis, outputs)
    window = [1] * (x.ndim - 2)
    window[axis - 1] = longest
    return max_pool(side_by_side, tuple(window))


class _AdaptivePool(nnx.Module):
    _spatial_axes: int

    def __init__(self, output_size: Sizes | tuple[int | None, ...]):
        self.output_size: tuple[int | None, ...] = _sizes(output_size, self._spatial_axes)


class _AdaptiveAvgPool(_AdaptivePool):
    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> [N *output_size C]
        """`adaptive_avg_pool` to this layer's size."""
        check_input(x, self._spatial_axes, type(self).__name__)
        return adaptive_avg_pool(x, self.output_size)


class _AdaptiveMaxPool(_AdaptivePool):
    def __init__(
        self, output_size: Sizes | tuple[int | None, ...], return_indices: bool = False
    ):
        super().__init__(output_size)
        self.return_indices = return_indices

    def __call__(self, x: jax.Array) -> Any:  # [N *spatial C] -> [N *output_size C]
        """`adaptive_max_pool` to this layer's size."""
        check_input(x, self._spatial_axes, type(self).__name__)
        return adaptive_max_pool(x, self.output_size, self.return_indices)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """`adaptive_avg_pool` of `[N L C]`; torch.nn.AdaptiveAvgPool1d.

    >>> AdaptiveAvgPool1d(4)(jnp.ones((2, 7, 3))).shape
    (2, 4, 3)
    """

    _spatial_axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """`adaptive_avg_pool` of `[N H W C]`; torch.nn.AdaptiveAvgPool2d.

    >>> AdaptiveAvgPool2d((4, None))(jnp.ones((2, 7, 6, 3))).shape
    (2, 4, 6, 3)
    """

    _spatial_axes = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """`adaptive_avg_pool` of `[N D H W C]`; torch.nn.AdaptiveAvgPool3d.

    >>> AdaptiveAvgPool3d(2)(jnp.ones((2, 7, 6, 5, 3))).shape
    (2, 2, 2, 2, 3)
    """

    _spatial_axes = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """`adaptive_max_pool` of `[N L C]`; torch.nn.AdaptiveMaxPool1d.

    >>> AdaptiveMaxPool1d(4)(jnp.ones((2, 7, 3))).shape
    (2, 4, 3)
    """

    _spatial_axes = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """`adaptive_max_pool` of `[N H W C]`; torch.nn.AdaptiveMaxPool2d.

    >>> AdaptiveMaxPool2d((4, None))(jnp.ones((2, 7, 6, 3))).shape
    (2, 4, 6, 3)
    """

    _spatial_axes = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """`adaptive_max_pool` of `[N D H W C]`; torch.nn.AdaptiveMaxPool3d.

    >>> AdaptiveMaxPool3d(2)(jnp.ones((2, 7, 6, 5, 3))).shape
    (2, 2, 2, 2, 3)
    """

    _spatial_axes = 3
