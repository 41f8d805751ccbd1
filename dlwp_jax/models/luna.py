"""The classifier of nodules (chapters 11, 12 and 14).

Layers carry the names of the book's checkpoints, so `parity.load_torch` finds their places by
name.
"""

from __future__ import annotations

import math

import jax
from flax import nnx

from dlwp_jax.models.initial import draw_by_fan_out
from dlwp_jax.nn.batch_norm import BatchNorm3d
from dlwp_jax.nn.containers import flatten
from dlwp_jax.nn.convolution import Conv3d
from dlwp_jax.nn.linear import Linear
from dlwp_jax.nn.pool import MaxPool3d

__all__ = ["LunaModel"]


class _LunaBlock(nnx.Module):
    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        self.conv1: Conv3d = Conv3d(in_channels, channels, 3, padding=1, rngs=rngs)
        self.conv2: Conv3d = Conv3d(channels, channels, 3, padding=1, rngs=rngs)
        self.maxpool: MaxPool3d = MaxPool3d(2)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n d h w c] -> [n d/2 h/2 w/2 channels]
        x = jax.nn.relu(self.conv1(x))
        x = jax.nn.relu(self.conv2(x))
        return self.maxpool(x)


class LunaModel(nnx.Module):
    """Nodule or not, from a small piece of a CT: batch norm, four blocks, one linear layer
    (chapter 11).

    Weights are drawn by the book's rule: He's normal distribution by fan-out, and biases from
    a normal distribution of mean -b and deviation b, where b is 1 / sqrt(fan_out).

    Args:
      in_channels: 1 for CT.
      channels: channels of the first block; each further block has twice as many.
      size: voxels of the input along index, row and column.
      rngs: draws the weights.

    Raises:
      ValueError: if a side of `size` has fewer than 16 voxels; four poolings leave nothing.

    >>> import jax.numpy as jnp
    >>> def classify(x):
    ...     return LunaModel(rngs=nnx.Rngs(0))(x)
    >>> logits, probabilities = nnx.eval_shape(classify, jnp.ones((2, 32, 48, 48, 1)))
    >>> logits.shape, probabilities.shape
    ((2, 2), (2, 2))
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 8,
        size: tuple[int, int, int] = (32, 48, 48),
        *,
        rngs: nnx.Rngs,
    ):
        if min(size) < 16:
            raise ValueError(f"size={size}: four poolings need at least 16 voxels each way.")
        places = math.prod(side // 16 for side in size)
        self.tail_batchnorm: BatchNorm3d = BatchNorm3d(in_channels)
        self.block1: _LunaBlock = _LunaBlock(in_channels, channels, rngs=rngs)
        self.block2: _LunaBlock = _LunaBlock(channels, 2 * channels, rngs=rngs)
        self.block3: _LunaBlock = _LunaBlock(2 * channels, 4 * channels, rngs=rngs)
        self.block4: _LunaBlock = _LunaBlock(4 * channels, 8 * channels, rngs=rngs)
        self.head_linear: Linear = Linear(places * 8 * channels, 2, rngs=rngs)
        draw_by_fan_out(self, rngs)

    def __call__(
        self, x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:  # [n *size c] -> logits [n 2], probabilities [n 2]
        """Logits and probabilities of (not a nodule, a nodule)."""
        x = self.tail_batchnorm(x)
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = block(x)
        logits = self.head_linear(flatten(x))
        return logits, jax.nn.softmax(logits, axis=1)
