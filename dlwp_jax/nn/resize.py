"""Changing the size of images: interpolation as in torch, without antialiasing, and pixel
shuffling.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dlwp_jax.nn.adaptive_pool import adaptive_avg_pool
from dlwp_jax.nn.neighbours import weighted_sum
from dlwp_jax.nn.shapes import floating, layout, wide

__all__ = [
    "ChannelShuffle",
    "PixelShuffle",
    "PixelUnshuffle",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "channel_shuffle",
    "interpolate",
    "pixel_shuffle",
    "pixel_unshuffle",
]

Mode = Literal["nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear"]
# mode -> the numbers of spatial axes it is for (None: any)
_MODES = {
    "nearest": None,
    "nearest-exact": None,
    "area": None,
    "linear": 1,
    "bilinear": 2,
    "bicubic": 2,
    "trilinear": 3,
}
_CUBIC = -0.75  # torch's (and OpenCV's) parameter of the cubic kernel


def interpolate(
    x: jax.Array,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: Mode = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> jax.Array:
    """Resize the spatial axes of `[N *spatial C]`; torch.nn.functional.interpolate, which does
    not antialias.

    Output place p reads the input at `(p + 1/2) * step - 1/2` with `step = size / size'`, or,
    with `align_corners`, at `p * (size - 1) / (size' - 1)`. Mode 'nearest' reads `floor(p *
    step)`, 'nearest-exact' `floor((p + 1/2) * step)`.

    Args:
      x: `[N *spatial C]`.
      size: the new size, an int or one per spatial axis.
      scale_factor: or the factor: the new size is `floor(size * factor)`, and the step is `1 /
        factor`, unless `recompute_scale_factor` asks for the quotient of the sizes.
      mode: 'nearest', 'nearest-exact', 'linear' (1 axis), 'bilinear', 'bicubic' (2),
        'trilinear' (3) or 'area'.
      align_corners: whether first and last places fall on each other; for the linear and cubic
        modes only.
      recompute_scale_factor: see `scale_factor`.

    Returns:
      `[N *spatial' C]`. The nearest modes keep the dtype. In the others uint8 stays uint8,
      rounded and cut to 0 .. 255 as in torch; other whole numbers become floating point.

    Raises:
      ValueError: if the options do not fit together, or the number of axes does not fit the
        mode.

    >>> row = jnp.array([0.0, 2.0]).reshape(1, 2, 1)
    >>> interpolate(row, size=3, mode="linear", align_corners=True)[0, :, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    n = x.ndim - 2
    _check_mode(x, n, mode, align_corners)
    sizes, factors = _new_sizes(x.shape[1:-1], size, scale_factor, recompute_scale_factor)
    if mode == "area":
        return adaptive_avg_pool(x, sizes)
    # torch's nearest kernel for small images: an axis that stays, or doubles, is copied.
    copies = mode == "nearest" and n == 2 and sum(sizes) <= 128
    y = x if mode.startswith("nearest") else wide(floating(x))
    for axis, (new, factor) in enumerate(zip(sizes, factors, strict=True), start=1):
        y = _resize_axis(y, axis, new, factor, mode, bool(align_corners), copies)
    if y.dtype == x.dtype:
        return y
    if x.dtype == jnp.uint8:
        return jnp.clip(jnp.round(y), 0, 255).astype(x.dtype)
    return y.astype(floating(x).dtype)


def _check_mode(x, n, mode, align_corners):
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r} is unknown; take one of {list(_MODES)}.")
    if n not in (1, 2, 3) or _MODES[mode] not in (None, n):
        wanted = (
            layout(_MODES[mode]) if _MODES[mode] else "[N *spatial C] with 1 to 3 spatial axes"
        )
        raise ValueError(
            f"interpolate by mode={mode!r} takes {wanted}; the input has shape {x.shape}."
        )
    if _MODES[mode] is None and align_corners is not None:
        raise ValueError(
            f"align_corners goes with the linear and cubic modes, not with mode={mode!r}."
        )


def _new_sizes(spatial, size, scale_factor, recompute):
    n = len(spatial)
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"give either size or scale_factor; they are {size!r} and {scale_factor!r}."
        )
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor goes with scale_factor, not with size.")
        return _one_per_axis(size, n, "size"), (None,) * n
    factors = _one_per_axis(scale_factor, n, "scale_factor")
    sizes = tuple(
        math.floor(old * factor) for old, factor in zip(spatial, factors, strict=True)
    )
    return sizes, (None,) * n if recompute else factors


def _one_per_axis(value, n, name) -> tuple:
    values = (value,) * n if np.ndim(value) == 0 else tuple(value)
    if len(values) != n or min(values) <= 0:
        raise ValueError(f"{name}={value!r} must be a positive number, or {n} of them.")
    return values


def _resize_axis(x, axis, new, factor, mode, align_corners, copies):
    old = x.shape[axis]
    # The precision in which torch computes it decides which place is read.
    real = np.float64 if x.dtype == jnp.float64 else np.float32
    step = real(1 / factor if factor else old / new)
    if copies and new in (old, 2 * old):
        step = real(old / new)
    if mode in ("linear", "bilinear", "trilinear") and new == old:
        return x  # as in torch, whatever the factor
    place = np.arange(new).astype(real)
    if mode.startswith("nearest"):
        source = np.floor((place + (0.5 if mode == "nearest-exact" else 0)) * step)
        taps = [(source.astype(int), np.ones(new, real))]
    else:
        if align_corners:
            source = place * real((old - 1) / (new - 1) if new > 1 else 0)
        else:
            source = (place + real(0.5)) * step - real(0.5)
        taps = _cubic_taps(source) if mode == "bicubic" else _linear_taps(source)
    index, weight = (np.stack(part, 1) for part in zip(*taps, strict=True))
    return weighted_sum(x, axis, np.clip(index, 0, old - 1), weight)


def _linear_taps(source):
    source = np.maximum(source, 0)
    first = np.floor(source)
    share = source - first
    return [(first.astype(int), 1 - share), (first.astype(int) + 1, share)]


def _cubic_taps(source):
    first = np.floor(source)
    share = source - first
    distances = [share + 1, share, 1 - share, 2 - share]
    return [
        (first.astype(int) + j - 1, _cubic(distance)) for j, distance in enumerate(distances)
    ]


def _cubic(d):
    """The cubic convolution kernel at distances `d` from 0 to 2."""
    a = _CUBIC
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


class Upsample(nnx.Module):
    """`interpolate` as a layer; torch.nn.Upsample.

    >>> Upsample(scale_factor=2)(jnp.ones((1, 4, 4, 3))).shape
    (1, 8, 8, 3)
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: Mode = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):
        self.size = size
        self.scale_factor = scale_factor
        self.mode: Mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> [N *spatial' C]
        """`interpolate` with this layer's options."""
        options = self.mode, self.align_corners, self.recompute_scale_factor
        return interpolate(x, self.size, self.scale_factor, *options)


class UpsamplingNearest2d(Upsample):
    """`Upsample` by mode 'nearest'; torch.nn.UpsamplingNearest2d.

    >>> UpsamplingNearest2d(scale_factor=2)(jnp.ones((1, 4, 4, 3))).shape
    (1, 8, 8, 3)
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
    ):
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """`Upsample` by mode 'bilinear' with `align_corners`; torch.nn.UpsamplingBilinear2d.

    >>> UpsamplingBilinear2d(size=(5, 7))(jnp.ones((1, 4, 4, 3))).shape
    (1, 5, 7, 3)
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
    ):
        super().__init__(size, scale_factor, "bilinear", align_corners=True)


def pixel_shuffle(x: jax.Array, upscale_factor: int) -> jax.Array:
    """Channels become pixels: `[... H W C*r*r] -> [... H*r W*r C]`;
    torch.nn.functional.pixel_shuffle.

    Channel `(c r + i) r + j` goes to row `i` and column `j` of the r x r block, in torch's
    order, with r the `upscale_factor`.

    >>> pixel_shuffle(jnp.arange(4).reshape(1, 1, 4), 2)[:, :, 0].tolist()
    [[0, 1], [2, 3]]
    """
    r = upscale_factor
    if x.ndim < 3 or x.shape[-1] % (r * r):
        raise RuntimeError(
            f"pixel_shuffle takes [... H W C*{r}*{r}], channels last; the input has shape "
            f"{x.shape}."
        )
    *lead, h, w, channels = x.shape
    blocks = x.reshape(*lead, h, w, channels // (r * r), r, r)
    blocks = jnp.moveaxis(blocks, (-2, -1), (-4, -2))  # [... H r W r C]
    return blocks.reshape(*lead, h * r, w * r, channels // (r * r))


def pixel_unshuffle(x: jax.Array, downscale_factor: int) -> jax.Array:
    """Pixels become channels: `[... H*r W*r C] -> [... H W C*r*r]`; the inverse of
    `pixel_shuffle`.

    r is `downscale_factor`.

    >>> pixel_unshuffle(jnp.arange(4).reshape(2, 2, 1), 2).tolist()
    [[[0, 1, 2, 3]]]
    """
    r = downscale_factor
    if x.ndim < 3 or x.shape[-3] % r or x.shape[-2] % r:
        raise RuntimeError(
            f"pixel_unshuffle takes [... H*{r} W*{r} C], channels last; the input has "
            f"shape {x.shape}."
        )
    *lead, h, w, channels = x.shape
    blocks = x.reshape(*lead, h // r, r, w // r, r, channels)
    blocks = jnp.moveaxis(blocks, (-4, -2), (-2, -1))  # [... H W C r r]
    return blocks.reshape(*lead, h // r, w // r, channels * r * r)


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """The channels of `x`, of `groups` groups, dealt out in turn;
    torch.nn.functional.channel_shuffle.

    >>> channel_shuffle(jnp.arange(6).reshape(1, 6), 2).tolist()
    [[0, 3, 1, 4, 2, 5]]
    """
    if x.shape[-1] % groups:
        raise RuntimeError(
            f"channel_shuffle: {groups} groups do not divide the channels of {x.shape}, which "
            "are last."
        )
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class ChannelShuffle(nnx.Module):
    """`channel_shuffle` as a layer; torch.nn.ChannelShuffle.

    >>> ChannelShuffle(2)(jnp.ones((1, 4, 4, 8))).shape
    (1, 4, 4, 8)
    """

    def __init__(self, groups: int):
        self.groups = groups

    def __call__(self, x: jax.Array) -> jax.Array:  # [... C] -> the same
        """`channel_shuffle` of `x`."""
        return channel_shuffle(x, self.groups)


class PixelShuffle(nnx.Module):
    """`pixel_shuffle` as a layer; torch.nn.PixelShuffle.

    >>> PixelShuffle(2)(jnp.ones((1, 4, 4, 8))).shape
    (1, 8, 8, 2)
    """

    def __init__(self, upscale_factor: int):
        self.upscale_factor = upscale_factor

    def __call__(self, x: jax.Array) -> jax.Array:  # [... H W C*r*r] -> [... H*r W*r C]
        """`pixel_shuffle` of `x`."""
        return pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(nnx.Module):
    """`pixel_unshuffle` as a layer; torch.nn.PixelUnshuffle.

    >>> PixelUnshuffle(2)(jnp.ones((1, 4, 4, 2))).shape
    (1, 2, 2, 8)
    """

    def __init__(self, downscale_factor: int):
        self.downscale_factor = downscale_factor

    def __call__(self, x: jax.Array) -> jax.Array:  # [... H*r W*r C] -> [... H W C*r*r]
        """`pixel_unshuffle` of `x`."""
        return pixel_unshuffle(x, self.downscale_factor)
