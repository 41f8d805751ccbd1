"""Residual networks for ImageNet (He et al. 2015), layer for layer as torchvision has them
(chapter 2).

Layers carry torchvision's names, so `parity.load_torch` finds the places of its weights by
name.
"""

from __future__ import annotations

import jax
from flax import nnx

from dlwp_jax.nn import init
from dlwp_jax.nn.activation_layers import ReLU
from dlwp_jax.nn.activations import relu
from dlwp_jax.nn.adaptive_pool import AdaptiveAvgPool2d
from dlwp_jax.nn.batch_norm import BatchNorm2d
from dlwp_jax.nn.containers import Flatten, Sequential
from dlwp_jax.nn.convolution import Conv2d
from dlwp_jax.nn.linear import Identity, Linear
from dlwp_jax.nn.pool import MaxPool2d

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet50", "resnet101"]

CHANNELS = (64, 128, 256, 512)  # of the four stages; each but the first halves height and width


def _conv(
    in_channels: int, channels: int, window: int, stride: int = 1, *, rngs: nnx.Rngs
) -> Conv2d:
    """A convolution before a batch norm: no bias, variance kept on the way back (torchvision's
    initialisation).
    """
    return Conv2d(
        in_channels,
        channels,
        window,
        stride,
        padding=window // 2,
        bias=False,
        kernel_init=init.kaiming_normal(mode="fan_out", nonlinearity="relu"),
        rngs=rngs,
    )


def _shortcut(
    in_channels: int, channels: int, stride: int, *, rngs: nnx.Rngs
) -> Identity | Sequential:
    """What stands beside a block: the input itself, or where the shape changes a 1x1
    convolution of it.
    """
    if stride == 1 and in_channels == channels:
        return Identity()
    return Sequential(_conv(in_channels, channels, 1, stride, rngs=rngs), BatchNorm2d(channels))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18 and ResNet-34.

    Args:
      in_channels: of the input.
      channels: of the convolutions, and of the output.
      stride: of the first convolution and of the shortcut.
      rngs: draws the weights.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 6, 6, 4))
    >>> nnx.eval_shape(lambda x: BasicBlock(4, 8, stride=2, rngs=nnx.Rngs(0))(x), x).shape
    (1, 3, 3, 8)
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.conv1: Conv2d = _conv(in_channels, channels, 3, stride, rngs=rngs)
        self.bn1: BatchNorm2d = BatchNorm2d(channels)
        self.conv2: Conv2d = _conv(channels, channels, 3, rngs=rngs)
        self.bn2: BatchNorm2d = BatchNorm2d(channels)
        self.downsample: Identity | Sequential = _shortcut(
            in_channels, channels, stride, rngs=rngs
        )

    def __call__(
        self, x: jax.Array
    ) -> jax.Array:  # [n h w in_channels] -> [n h/stride w/stride channels]
        """The convolutions of `x` plus its shortcut."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + self.downsample(x))


class Bottleneck(nnx.Module):
    """1x1 down, 3x3, 1x1 up to four times the channels, beside a shortcut: the block of
    ResNet-50 and above.

    The stride stands at the 3x3 convolution, as in torchvision (the paper has it at the first
    1x1).

    Args:
      in_channels: of the input.
      channels: of the 3x3 convolution; the output has four times as many.
      stride: of the 3x3 convolution and of the shortcut.
      rngs: draws the weights.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 6, 6, 4))
    >>> nnx.eval_shape(lambda x: Bottleneck(4, 2, stride=2, rngs=nnx.Rngs(0))(x), x).shape
    (1, 3, 3, 8)
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, rngs: nnx.Rngs):
        out_channels = self.expansion * channels
        self.conv1: Conv2d = _conv(in_channels, channels, 1, rngs=rngs)
        self.bn1: BatchNorm2d = BatchNorm2d(channels)
        self.conv2: Conv2d = _conv(channels, channels, 3, stride, rngs=rngs)
        self.bn2: BatchNorm2d = BatchNorm2d(channels)
        self.conv3: Conv2d = _conv(channels, out_channels, 1, rngs=rngs)
        self.bn3: BatchNorm2d = BatchNorm2d(out_channels)
        self.downsample: Identity | Sequential = _shortcut(
            in_channels, out_channels, stride, rngs=rngs
        )

    def __call__(
        self, x: jax.Array
    ) -> jax.Array:  # [n h w in_channels] -> [n h/stride w/stride 4*channels]
        """The convolutions of `x` plus its shortcut."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y + self.downsample(x))


class ResNet(Sequential):
    """A stem, four stages of residual blocks, a mean over the places, one linear layer.

    A named `Sequential`: `model[:-1]` is all but the head, and `model.fc = nn.Linear(...)`
    gives it another. Call `model.eval()` before classifying: batch norm then uses its running
    moments.

    Args:
      block: `BasicBlock` or `Bottleneck`.
      depths: how many blocks each of the four stages has.
      num_classes: of ImageNet 1000.
      rngs: draws the weights.

    >>> import jax
    >>> resnet34 = nnx.eval_shape(lambda: ResNet(BasicBlock, (3, 4, 6, 3), rngs=nnx.Rngs(0)))
    >>> weights = jax.tree.leaves(nnx.state(resnet34, nnx.Param))
    >>> sum(weight.size for weight in weights)  # counted, none drawn
    21797672
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            conv1=_conv(3, 64, 7, stride=2, rngs=rngs),
            bn1=BatchNorm2d(64),
            relu=ReLU(),
            maxpool=MaxPool2d(3, stride=2, padding=1),
        )
        in_channels = 64
        for stage, (channels, depth) in enumerate(zip(CHANNELS, depths, strict=True), start=1):
            blocks = []
            for i in range(depth):
                blocks.append(
                    block(
                        in_channels,
                        channels,
                        stride=2 if stage > 1 and i == 0 else 1,
                        rngs=rngs,
                    )
                )
                in_channels = block.expansion * channels
            self._add(f"layer{stage}", Sequential(*blocks))
        self._add("avgpool", AdaptiveAvgPool2d(1))
        self._add("flatten", Flatten())
        self._add("fc", Linear(in_channels, num_classes, rngs=rngs))


def resnet18(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """`[N 224 224 3] -> logits [N num_classes]`, 11.7 million parameters;
    torchvision.models.resnet18.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((2, 64, 64, 3))  # smaller ones do
    >>> nnx.eval_shape(lambda x: resnet18(10, rngs=nnx.Rngs(0))(x), x).shape
    (2, 10)
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, rngs=rngs)


def resnet50(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """`[N 224 224 3] -> logits [N num_classes]`, 25.6 million parameters;
    torchvision.models.resnet50.

    >>> model = nnx.eval_shape(lambda: resnet50(rngs=nnx.Rngs(0)))  # shapes alone
    >>> len(model.layer3), model.fc.in_features
    (6, 2048)
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, rngs=rngs)


def resnet101(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    """`[N 224 224 3] -> logits [N num_classes]`, 44.5 million parameters;
    torchvision.models.resnet101.

    >>> model = nnx.eval_shape(lambda: resnet101(rngs=nnx.Rngs(0)))  # shapes alone
    >>> len(model.layer3), model.fc.in_features
    (23, 2048)
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, rngs=rngs)
