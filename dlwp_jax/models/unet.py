"""The U-Net, and the book's segmentation model around it (chapter 13).

Layers carry the names of the book's checkpoints, so `parity.load_torch` finds their places by
name.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.models.initial import draw_by_fan_out
from dlwp_jax.nn.activation_layers import ReLU
from dlwp_jax.nn.batch_norm import BatchNorm2d
from dlwp_jax.nn.containers import ModuleList, Sequential
from dlwp_jax.nn.convolution import Conv2d
from dlwp_jax.nn.convolution_transpose import ConvTranspose2d
from dlwp_jax.nn.pool import AvgPool2d
from dlwp_jax.nn.resize import Upsample

__all__ = ["UNet", "UNetWrapper"]

UpMode = Literal["upconv", "upsample"]


class _UNetBlock(nnx.Module):
    """Twice a convolution, ReLU, and batch norm if it is wanted, in this order."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        padding: bool,
        batch_norm: bool,
        *,
        rngs: nnx.Rngs,
    ):
        layers = []
        for width in (in_channels, channels):
            layers += [Conv2d(width, channels, 3, padding=int(padding), rngs=rngs), ReLU()]
            if batch_norm:
                layers.append(BatchNorm2d(channels))
        self.block: Sequential = Sequential(*layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.block(x)


class _UNetUp(nnx.Module):
    """Height and width doubled, the bridge beside it, and a block of both."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        padding: bool,
        batch_norm: bool,
        up_mode: UpMode,
        *,
        rngs: nnx.Rngs,
    ):
        if up_mode == "upconv":
            self.up: ConvTranspose2d | Sequential = ConvTranspose2d(
                in_channels, channels, 2, stride=2, rngs=rngs
            )
        else:
            self.up = Sequential(
                Upsample(scale_factor=2, mode="bilinear"),
                Conv2d(in_channels, channels, 1, rngs=rngs),
            )
        self.conv_block = _UNetBlock(in_channels, channels, padding, batch_norm, rngs=rngs)

    def __call__(self, x: jax.Array, bridge: jax.Array) -> jax.Array:
        x = self.up(x)
        height, width = x.shape[-3:-1]
        top = (bridge.shape[-3] - height) // 2
        left = (bridge.shape[-2] - width) // 2
        cropped = bridge[..., top : top + height, left : left + width, :]
        return self.conv_block(jnp.concatenate([x, cropped], axis=-1))


class UNet(nnx.Module):
    """A map of classes as large as the image: down by average pooling, up again with a bridge
    at each size (chapter 13.4).

    The weights are drawn as torch draws them; those of `UNetWrapper` by the book's rule.

    Args:
      in_channels: channels of the input.
      n_classes: channels of the output.
      depth: the number of sizes.
      wf: the first size has 2**wf channels; each smaller one has twice as many.
      padding: whether convolutions keep height and width. The output then has the size of the
        input if that is divisible by 2**(depth - 1); otherwise it is smaller, and the bridges
        are cropped.
      batch_norm: whether batch norm follows each activation.
      up_mode: "upconv" doubles height and width by a transposed convolution, "upsample" by
        bilinear interpolation and a 1x1 convolution.
      rngs: draws the weights.

    Raises:
      ValueError: if `up_mode` is neither of the two.

    >>> def segment(x):
    ...     return UNet(7, 1, depth=3, wf=4, padding=True, rngs=nnx.Rngs(0))(x)
    >>> nnx.eval_shape(segment, jnp.ones((1, 8, 8, 7))).shape
    (1, 8, 8, 1)
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        depth: int = 5,
        wf: int = 6,
        padding: bool = False,
        batch_norm: bool = False,
        up_mode: UpMode = "upconv",
        *,
        rngs: nnx.Rngs,
    ):
        if up_mode not in get_args(UpMode):
            raise ValueError(f"up_mode={up_mode!r} is unknown; take 'upconv' or 'upsample'.")
        widths = [2 ** (wf + i) for i in range(depth)]
        self.down_path: ModuleList = ModuleList(
            _UNetBlock(before, width, padding, batch_norm, rngs=rngs)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.up_path: ModuleList = ModuleList(
            _UNetUp(2 * width, width, padding, batch_norm, up_mode, rngs=rngs)
            for width in reversed(widths[:-1])
        )
        self.last: Conv2d = Conv2d(widths[0], n_classes, 1, rngs=rngs)
        self.pool: AvgPool2d = AvgPool2d(2)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n h w in_channels] -> [n h' w' n_classes]
        """The map of classes, before any activation."""
        *downs, bottom = self.down_path
        bridges = []
        for down in downs:
            x = down(x)
            bridges.append(x)
            x = self.pool(x)
        x = bottom(x)
        for up, bridge in zip(self.up_path, reversed(bridges), strict=True):
            x = up(x, bridge)
        return self.last(x)


class UNetWrapper(nnx.Module):
    """The book's segmentation model: batch norm of the slices, a U-Net, a sigmoid (chapter
    13.5).

    The book's model is `UNetWrapper(7, 1, depth=3, wf=4, padding=True, batch_norm=True)`, for
    seven slices of a CT. Its weights are drawn by the book's rule: He's normal distribution
    by fan-out, and biases from a normal distribution of mean -b and deviation b, where b is
    1 / sqrt(fan_out).

    Args:
      in_channels: the number of slices.
      n_classes: the number of maps.
      rngs: draws the weights.
      options: the other arguments of `UNet`: depth, wf, padding, batch_norm, up_mode.

    >>> def segment(x):
    ...     return UNetWrapper(7, 1, depth=3, wf=4, padding=True, rngs=nnx.Rngs(0))(x)
    >>> nnx.eval_shape(segment, jnp.ones((2, 8, 8, 7))).shape
    (2, 8, 8, 1)
    """

    def __init__(self, in_channels: int, n_classes: int = 1, *, rngs: nnx.Rngs, **options: Any):
        self.input_batchnorm: BatchNorm2d = BatchNorm2d(in_channels)
        self.unet: UNet = UNet(in_channels, n_classes, **options, rngs=rngs)
        draw_by_fan_out(self, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n h w slices] -> [n h' w' n_classes]
        """The probability of each class at each place."""
        return jax.nn.sigmoid(self.unet(self.input_batchnorm(x)))
