"""Chapter 8's networks for small pictures: the first conv net, and what the chapter varies
about it.

`ConvNet(32)` is the variation in width; each class varies one thing more. Layers carry the
names of the book's listings, so `parity.load_torch` finds their places by name. All take `[n 32
32 3]` and give the logits of two classes. L1 and L2 penalties belong to the loss or the
optimizer, not to a network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn import init
from dlwp_jax.nn.batch_norm import BatchNorm2d
from dlwp_jax.nn.containers import Sequential, flatten
from dlwp_jax.nn.convolution import Conv2d
from dlwp_jax.nn.dropout import Dropout2d
from dlwp_jax.nn.linear import Linear
from dlwp_jax.nn.pool import max_pool

__all__ = [
    "ConvNet",
    "NetBatchNorm",
    "NetDepth",
    "NetDropout",
    "NetRes",
    "NetResDeep",
    "ResBlock",
]


class ConvNet(nnx.Module):
    """Birds from airplanes: two convolutions, two linear layers; 18,090 parameters (chapter
    8.3).

    Args:
      channels: of the first convolution; the second has half as many.
      rngs: draws the weights.

    >>> ConvNet(rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def __init__(self, channels: int = 16, *, rngs: nnx.Rngs):
        half = channels // 2
        self.conv1: Conv2d = Conv2d(3, channels, 3, padding=1, rngs=rngs)
        self.conv2: Conv2d = Conv2d(channels, half, 3, padding=1, rngs=rngs)
        self.fc1: Linear = Linear(8 * 8 * half, 32, rngs=rngs)
        self.fc2: Linear = Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n 32 32 3] -> logits [n 2]
        """Logits of the two classes."""
        x = max_pool(jnp.tanh(self.conv1(x)), 2)
        x = max_pool(jnp.tanh(self.conv2(x)), 2)
        x = jnp.tanh(self.fc1(flatten(x)))
        return self.fc2(x)


class NetDropout(ConvNet):
    """`ConvNet` that drops whole channels after both poolings (chapter 8.5.2).

    Args:
      channels: of the first convolution; the second has half as many.
      p: the probability with which a channel is dropped, in train mode.
      rngs: draws the weights, and the channels that are dropped.

    >>> NetDropout(channels=4, rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def __init__(self, channels: int = 32, p: float = 0.4, *, rngs: nnx.Rngs):
        super().__init__(channels, rngs=rngs)
        self.conv1_dropout: Dropout2d = Dropout2d(p, rngs=rngs)
        self.conv2_dropout: Dropout2d = Dropout2d(p, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n 32 32 3] -> logits [n 2]
        """Logits of the two classes."""
        x = self.conv1_dropout(max_pool(jnp.tanh(self.conv1(x)), 2))
        x = self.conv2_dropout(max_pool(jnp.tanh(self.conv2(x)), 2))
        x = jnp.tanh(self.fc1(flatten(x)))
        return self.fc2(x)


class NetBatchNorm(ConvNet):
    """`ConvNet` with batch normalisation between convolution and activation (chapter 8.5.2).

    Args:
      channels: of the first convolution; the second has half as many.
      rngs: draws the weights.

    >>> NetBatchNorm(channels=4, rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def __init__(self, channels: int = 32, *, rngs: nnx.Rngs):
        super().__init__(channels, rngs=rngs)
        self.conv1_batchnorm: BatchNorm2d = BatchNorm2d(channels)
        self.conv2_batchnorm: BatchNorm2d = BatchNorm2d(channels // 2)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n 32 32 3] -> logits [n 2]
        """Logits of the two classes."""
        x = max_pool(jnp.tanh(self.conv1_batchnorm(self.conv1(x))), 2)
        x = max_pool(jnp.tanh(self.conv2_batchnorm(self.conv2(x))), 2)
        x = jnp.tanh(self.fc1(flatten(x)))
        return self.fc2(x)


class NetDepth(nnx.Module):
    """A third convolution and pooling, and ReLU for tanh (chapter 8.5.3).

    Args:
      channels: of the first convolution; the others have half as many.
      rngs: draws the weights.

    >>> NetDepth(channels=4, rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def __init__(self, channels: int = 32, *, rngs: nnx.Rngs):
        half = channels // 2
        self.conv1: Conv2d = Conv2d(3, channels, 3, padding=1, rngs=rngs)
        self.conv2: Conv2d = Conv2d(channels, half, 3, padding=1, rngs=rngs)
        self.conv3: Conv2d = Conv2d(half, half, 3, padding=1, rngs=rngs)
        self.fc1: Linear = Linear(4 * 4 * half, 32, rngs=rngs)
        self.fc2: Linear = Linear(32, 2, rngs=rngs)

    def _third(self, x):  # [n 8 8 half] -> the same
        return jax.nn.relu(self.conv3(x))

    def __call__(self, x: jax.Array) -> jax.Array:  # [n 32 32 3] -> logits [n 2]
        """Logits of the two classes."""
        x = max_pool(jax.nn.relu(self.conv1(x)), 2)
        x = max_pool(jax.nn.relu(self.conv2(x)), 2)
        x = max_pool(self._third(x), 2)
        x = jax.nn.relu(self.fc1(flatten(x)))
        return self.fc2(x)


class NetRes(NetDepth):
    """`NetDepth` with a skip over its third convolution (chapter 8.5.3). The arguments are
    those of `NetDepth`.

    >>> NetRes(channels=4, rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def _third(self, x):
        return jax.nn.relu(self.conv3(x)) + x


class ResBlock(nnx.Module):
    """`x + relu(batch_norm(conv(x)))`, the unit of `NetResDeep` (chapter 8.5.3).

    The convolution has no bias, which batch norm would take away again, and starts from He's
    normal distribution; batch norm starts at scale 0.5, so that many blocks in a row do not
    blow the signal up.

    >>> ResBlock(4, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 4))).shape
    (2, 8, 8, 4)
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        he = init.kaiming_normal(nonlinearity="relu")
        self.conv: Conv2d = Conv2d(
            channels, channels, 3, padding=1, bias=False, kernel_init=he, rngs=rngs
        )
        self.batch_norm: BatchNorm2d = BatchNorm2d(channels)
        self.batch_norm.scale = nnx.Param(jnp.full(channels, 0.5))

    def __call__(self, x: jax.Array) -> jax.Array:  # [n h w channels] -> the same
        """The input plus what the block adds to it."""
        return jax.nn.relu(self.batch_norm(self.conv(x))) + x


class NetResDeep(nnx.Module):
    """One convolution, `n_blocks` residual blocks between two poolings, two linear layers
    (chapter 8.5.3).

    Every block has weights of its own, as the chapter's text has it. The chapter's listing
    repeats one block, so that all have the same weights and the running statistics of batch
    norm move `n_blocks` times a step: `shared=True` does so.

    Args:
      channels: channels of every convolution.
      n_blocks: the number of blocks; the book has 10, and 100 to show that depth trains.
      shared: whether one block is applied `n_blocks` times.
      rngs: draws the weights.

    >>> NetResDeep(channels=4, n_blocks=2, rngs=nnx.Rngs(0))(jnp.ones((2, 32, 32, 3))).shape
    (2, 2)
    """

    def __init__(
        self,
        channels: int = 32,
        n_blocks: int = 10,
        shared: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv1: Conv2d = Conv2d(3, channels, 3, padding=1, rngs=rngs)
        if shared:
            blocks = n_blocks * [ResBlock(channels, rngs=rngs)]
        else:
            blocks = [ResBlock(channels, rngs=rngs) for _ in range(n_blocks)]
        self.resblocks: Sequential = Sequential(*blocks)
        self.fc1: Linear = Linear(8 * 8 * channels, 32, rngs=rngs)
        self.fc2: Linear = Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n 32 32 3] -> logits [n 2]
        """Logits of the two classes."""
        x = max_pool(jax.nn.relu(self.conv1(x)), 2)
        x = max_pool(self.resblocks(x), 2)
        x = jax.nn.relu(self.fc1(flatten(x)))
        return self.fc2(x)
