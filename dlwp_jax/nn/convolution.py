"""Convolution layers over one, two or three spatial axes, channels last (chapter 8)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dlwp_jax.nn import init
from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.padding import PadMode, pad
from dlwp_jax.nn.shapes import (
    Sizes,
    check_input,
    is_integer,
    over_batch,
    positive_tuple,
    promote,
    to_tuple,
)
from dlwp_jax.nn.xla_cpu import convolve

__all__ = ["Conv", "Conv1d", "Conv2d", "Conv3d", "conv"]

# torch's padding_mode -> the mode of `pad`
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: dict[PaddingMode, PadMode] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    stride: Sizes = 1,
    padding: Sizes | Literal["valid", "same"] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
) -> jax.Array:
    """Cross-correlation of `x` with `kernel`: torch.nn.functional.conv1d, conv2d and conv3d,
    channels last.

    `y[n, p, o] = bias[o] + sum_{k, c} x[n, stride * p + dilation * k - padding, c] * kernel[k,
    c, o]`

    Derivatives of any order and mode work; a first gradient is fast inside `lax.scan` too (see
    `nn.xla_cpu`).

    Args:
      x: `[N *spatial in]`, or `[*spatial in]` for one example.
      kernel: `[*window in/groups out]`, with one to three spatial axes.
      bias: `[out]` or None.
      stride, dilation: an int, or one per spatial axis.
      padding: an int or one per axis, added on both sides; 'valid' is 0; 'same' keeps the size
        (stride 1 only, the odd element goes to the end, as in torch).
      groups: channels are split into this many groups that do not see each other.
      padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.

    Returns:
      `[N *spatial' out]` with `spatial' = (spatial + 2 padding - dilation (window - 1) - 1) //
      stride + 1`.

    Raises:
      RuntimeError: if ranks or channels do not fit.
      ValueError: for a wrong option.

    >>> conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 8)), padding="same").shape
    (1, 5, 5, 8)
    """
    n = kernel.ndim - 2
    owner = f"conv over {n} axes"
    check_input(x, n, owner, kernel.shape[-2] * groups)
    check_floating(x, owner)
    stride = positive_tuple(stride, n, "stride")
    dilation = positive_tuple(dilation, n, "dilation")
    window = kernel.shape[:n]
    pairs = padding_pairs(padding, window, stride, dilation)
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode={padding_mode!r} is unknown; take one of {list(PADDING_MODES)}."
        )

    def batched(x):
        inner = pairs
        if padding_mode != "zeros":
            x, inner = pad(x, pairs, PADDING_MODES[padding_mode]), ((0, 0),) * n
        _check_reach(x.shape[1:-1], window, dilation, inner, owner)
        y = convolve(x, kernel, Geometry(stride, inner, dilation, groups))
        return y if bias is None else y + bias

    return over_batch(batched, x, n)


def padding_pairs(
    padding: Sizes | str,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis from torch's `padding`: ints, 'valid' or 'same'.

    >>> padding_pairs("same", (4,), (1,), (1,))
    ((1, 2),)
    """
    n = len(window)
    if padding == "valid":
        padding = 0
    if padding == "same":
        if max(stride) > 1:
            raise ValueError(
                f"padding='same' needs stride 1; stride is {stride} (torch refuses it too)."
            )
        totals = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, str):
        raise ValueError(f"padding={padding!r} is unknown; take ints, 'same' or 'valid'.")
    sides = to_tuple(padding, n, "padding")
    if min(sides) < 0:
        raise ValueError(f"padding={padding!r} must not be negative.")
    return tuple((p, p) for p in sides)


def check_floating(x: jax.Array, owner: str) -> None:
    """Refuse whole numbers, as torch does."""
    if is_integer(x):
        raise RuntimeError(
            f"{owner} takes floating input; this one is {x.dtype}: convert it with "
            "x.astype(float)."
        )


def _check_reach(spatial, window, dilation, pairs, owner):
    for size, k, d, (low, high) in zip(spatial, window, dilation, pairs, strict=True):
        if size + low + high < d * (k - 1) + 1:
            raise RuntimeError(
                f"{owner}: the window {window} with dilation {dilation} reaches over the "
                f"padded input ({spatial} with padding {pairs}); take a smaller window or "
                "more padding."
            )


class ConvolutionLayer(nnx.Module):
    """Base of convolutions and transposed convolutions: options, kernel and bias."""

    _spatial_axes: int | None = None

    def _set_options(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride,
        dilation,
        groups: int,
        dtype: DTypeLike | None,
    ) -> int:
        """Check and keep the options; returns the number of spatial axes."""
        n = spatial_axes(self._spatial_axes, kernel_size, type(self).__name__)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size: tuple[int, ...] = positive_tuple(kernel_size, n, "kernel_size")
        self.stride: tuple[int, ...] = positive_tuple(stride, n, "stride")
        self.dilation: tuple[int, ...] = positive_tuple(dilation, n, "dilation")
        self.groups = groups
        self.dtype: DTypeLike | None = dtype
        return n

    def _make_parameters(
        self, channels: tuple[int, int], bias: bool, rngs, param_dtype, kernel_init, bias_init
    ):
        """Draw `kernel [*kernel_size *channels]` and `bias [out_channels]`, by default as torch
        does.
        """
        shape = (*self.kernel_size, *channels)
        kernel_init = kernel_init or init.torch_kernel
        bias_init = bias_init or init.torch_bias(init.fans(shape)[0])
        self.kernel: nnx.Param[jax.Array] = nnx.Param(
            kernel_init(rngs.params(), shape, param_dtype)
        )
        self.bias: nnx.Param[jax.Array] | None = (
            nnx.Param(bias_init(rngs.params(), (self.out_channels,), param_dtype))
            if bias
            else None
        )

    def _operands(self, x):
        """The checked input, the kernel and the bias, in the dtype of the computation."""
        check_input(x, len(self.kernel_size), type(self).__name__, self.in_channels)
        check_floating(x, type(self).__name__)
        bias = None if self.bias is None else self.bias[...]
        return promote(x, self.kernel[...], bias, dtype=self.dtype)


class Conv(ConvolutionLayer):
    """Convolution over as many spatial axes as `kernel_size` has entries; torch.nn.Conv1d,
    Conv2d and Conv3d.

    The function is `conv`. `Conv1d`, `Conv2d` and `Conv3d` also take `kernel_size` as one int.

    Args:
      in_channels, out_channels: sizes of the last axis of input and output.
      kernel_size: the window, one int per spatial axis.
      stride, padding, dilation, groups, padding_mode: as in `conv`.
      bias: whether to add a bias.
      rngs: its `params` stream draws kernel and bias.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      kernel_init, bias_init: initialisers; None takes torch's U(-1/sqrt(fan_in),
        1/sqrt(fan_in)).

    Parameters: `kernel [*kernel_size, in_channels / groups, out_channels]`, `bias
    [out_channels]`.

    Raises:
      ValueError: if `groups` does not divide both channel counts.

    >>> layer = Conv(3, 16, (3, 3), padding=1, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 8, 8, 3))).shape
    (2, 8, 8, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | Literal["valid", "same"] = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: init.Initializer | None = None,
        bias_init: init.Initializer | None = None,
    ):
        n = self._set_options(
            in_channels, out_channels, kernel_size, stride, dilation, groups, dtype
        )
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode={padding_mode!r} is unknown; take one of {list(PADDING_MODES)}."
            )
        self.padding: Literal["valid", "same"] | tuple[int, ...] = (
            padding if isinstance(padding, str) else to_tuple(padding, n, "padding")
        )
        # Refuse a wrong padding now, not at the first call.
        padding_pairs(self.padding, self.kernel_size, self.stride, self.dilation)
        self.padding_mode: PaddingMode = padding_mode
        channels = (in_channels // groups, out_channels)
        self._make_parameters(channels, bias, rngs, param_dtype, kernel_init, bias_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[N *spatial in_channels] -> [N *spatial' out_channels]`."""
        x, kernel, bias = self._operands(x)
        return conv(
            x,
            kernel,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class Conv1d(Conv):
    """`Conv` over `[N L C]`; torch.nn.Conv1d.

    >>> jax.eval_shape(Conv1d(4, 8, 3, rngs=nnx.Rngs(0)), jnp.ones((2, 10, 4))).shape
    (2, 8, 8)
    """

    _spatial_axes = 1


class Conv2d(Conv):
    """`Conv` over `[N H W C]`; torch.nn.Conv2d.

    >>> layer = Conv2d(3, 8, 3, stride=2, padding=1, rngs=nnx.Rngs(0))
    >>> jax.eval_shape(layer, jnp.ones((2, 8, 8, 3))).shape
    (2, 4, 4, 8)
    """

    _spatial_axes = 2


class Conv3d(Conv):
    """`Conv` over `[N D H W C]`; torch.nn.Conv3d.

    >>> layer = Conv3d(1, 8, 3, padding="same", rngs=nnx.Rngs(0))
    >>> jax.eval_shape(layer, jnp.ones((2, 4, 4, 4, 1))).shape
    (2, 4, 4, 4, 8)
    """

    _spatial_axes = 3


def spatial_axes(fixed: int | None, kernel_size: Sizes, owner: str) -> int:
    """The number of spatial axes: that of the class, otherwise the length of `kernel_size`."""
    if fixed is not None:
        return fixed
    if isinstance(kernel_size, int) or not 1 <= len(kernel_size) <= 3:
        raise ValueError(
            f"{owner} counts the spatial axes of kernel_size, a tuple of 1 to 3 ints; it is "
            f"{kernel_size!r}. Write {owner}2d(...) or kernel_size=(3, 3)."
        )
    return len(kernel_size)
