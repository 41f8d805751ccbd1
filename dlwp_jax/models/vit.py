"""Vision transformers: a picture as a sequence of patches (chapter 9 of the second edition).

Layers carry torchvision's names, so `parity.load_torch` reads its files by name.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn import init
from dlwp_jax.nn.activation_layers import GELU, Tanh
from dlwp_jax.nn.attention_layer import MultiheadAttention
from dlwp_jax.nn.containers import Sequential
from dlwp_jax.nn.convolution import Conv2d
from dlwp_jax.nn.dropout import Dropout
from dlwp_jax.nn.layer_norm import LayerNorm
from dlwp_jax.nn.linear import Linear

__all__ = ["VisionTransformer", "vit_b_16"]

Norm = Callable[[int], Any]
_NORM = partial(LayerNorm, eps=1e-6)


class _Block(nnx.Module):
    """torchvision's EncoderBlock: attention, then a network of each patch; norms ahead."""

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_layer: Norm,
        *,
        rngs: nnx.Rngs,
    ):
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = MultiheadAttention(
            hidden_dim, num_heads, attention_dropout, batch_first=True, rngs=rngs
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.ln_2 = norm_layer(hidden_dim)
        kernel, bias = init.xavier_uniform(), init.normal(std=1e-6)
        self.mlp = Sequential(
            Linear(hidden_dim, mlp_dim, rngs=rngs, kernel_init=kernel, bias_init=bias),
            GELU(),
            Dropout(dropout, rngs=rngs),
            Linear(mlp_dim, hidden_dim, rngs=rngs, kernel_init=kernel, bias_init=bias),
            Dropout(dropout, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:  # [n l hidden_dim] -> the same
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.ln_2(x))

    def attention_weights(self, x: jax.Array) -> jax.Array:  # -> [n heads l l]
        y = self.ln_1(x)
        _, weights = self.self_attention(y, y, y, average_attn_weights=False)
        assert weights is not None  # they are, unless need_weights=False
        return weights


class _Encoder(nnx.Module):
    """torchvision's Encoder: positions, the blocks, a last norm."""

    def __init__(self, pos_embedding: jax.Array, layers: Sequential, dropout: Dropout, ln: Any):
        self.pos_embedding = nnx.Param(pos_embedding)
        self.dropout = dropout
        self.layers = layers
        self.ln = ln

    def start(self, x: jax.Array) -> jax.Array:  # [n l hidden_dim] -> the same
        return self.dropout(x + self.pos_embedding[...])

    def __call__(self, x: jax.Array) -> jax.Array:  # [n l hidden_dim] -> the same
        return self.ln(self.layers(self.start(x)))


class VisionTransformer(nnx.Module):
    """Patches of a picture and a class token through transformer blocks; the class token tells
    the class. torchvision.models.VisionTransformer, without its convolutional stem.

    Args:
      image_size: height and width of the pictures.
      patch_size: height and width of a patch, which divides the image size.
      num_layers: blocks.
      num_heads: heads of every attention.
      hidden_dim: features of a patch.
      mlp_dim: hidden features of the network of each block.
      dropout: probability of dropout of features.
      attention_dropout: probability of dropout of attention weights.
      num_classes: of ImageNet 1000.
      representation_size: features of one more layer ahead of the last; None leaves it out.
      norm_layer: makes a norm for so many features; by default a `LayerNorm` with eps 1e-6.
      rngs: its `params` stream draws the weights; its `dropout` stream is forked.

    Raises:
      ValueError: if the patches do not divide the picture, or the heads not the features.

    >>> model = VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10, rngs=nnx.Rngs(0))
    >>> images = jnp.ones((5, 32, 32, 3))
    >>> model(images).shape, model.attention_weights(images)[0].shape
    ((5, 10), (5, 4, 17, 17))
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
        representation_size: int | None = None,
        norm_layer: Norm = _NORM,
        *,
        rngs: nnx.Rngs,
    ):
        if image_size % patch_size:
            raise ValueError(
                f"patch_size={patch_size} must divide image_size={image_size} "
                "without a remainder."
            )
        self.image_size = image_size
        self.patch_size = patch_size
        fan_in = 3 * patch_size**2
        self.conv_proj = Conv2d(
            3,
            hidden_dim,
            patch_size,
            patch_size,
            rngs=rngs,
            kernel_init=init.trunc_normal(std=math.sqrt(1 / fan_in)),
            bias_init=init.zeros(),
        )
        self.class_token = nnx.Param(jnp.zeros((1, 1, hidden_dim)))
        blocks = {}
        for number in range(num_layers):
            blocks[f"encoder_layer_{number}"] = _Block(
                num_heads,
                hidden_dim,
                mlp_dim,
                dropout,
                attention_dropout,
                norm_layer,
                rngs=rngs,
            )
        shape = (1, (image_size // patch_size) ** 2 + 1, hidden_dim)
        self.encoder = _Encoder(
            init.normal(std=0.02)(rngs.params(), shape),
            Sequential(blocks),
            Dropout(dropout, rngs=rngs),
            norm_layer(hidden_dim),
        )
        heads: dict[str, Any] = {}
        if representation_size is not None:
            heads["pre_logits"] = Linear(
                hidden_dim,
                representation_size,
                rngs=rngs,
                kernel_init=init.trunc_normal(std=math.sqrt(1 / hidden_dim)),
                bias_init=init.zeros(),
            )
            heads["act"] = Tanh()
        # The head begins with zeros, so that no class is likelier than another.
        heads["head"] = Linear(
            representation_size or hidden_dim,
            num_classes,
            rngs=rngs,
            kernel_init=init.zeros(),
            bias_init=init.zeros(),
        )
        self.heads = Sequential(heads)

    def __call__(self, images: jax.Array) -> jax.Array:  # [n h w 3] -> [n num_classes]
        """Logits of the classes."""
        return self.heads(self.encoder(self._tokens(images))[:, 0])

    def attention_weights(self, images: jax.Array) -> list[jax.Array]:
        """`[n heads l l]` of each block: how much each token takes from each one. Token 0 is
        the class token; the others are the patches, row by row.
        """
        x = self.encoder.start(self._tokens(images))
        weights = []
        for block in self.encoder.layers:
            weights.append(block.attention_weights(x))
            x = block(x)
        return weights

    def _tokens(self, images):  # [n h w 3] -> [n 1 + patches hidden_dim]
        size = self.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"the model takes pictures [N {size} {size} 3]; "
                f"these have shape {images.shape}."
            )
        x = self.conv_proj(images)
        x = x.reshape(len(x), -1, x.shape[-1])
        token = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[-1]))
        return jnp.concatenate([token.astype(x.dtype), x], axis=1)


def vit_b_16(num_classes: int = 1000, *, rngs: nnx.Rngs) -> VisionTransformer:
    """`[N 224 224 3] -> logits [N num_classes]`, 86.6 million parameters;
    torchvision.models.vit_b_16.

    >>> model = nnx.eval_shape(lambda: vit_b_16(rngs=nnx.Rngs(0)))  # shapes alone
    >>> len(model.encoder.layers), model.encoder.pos_embedding.shape
    (12, (1, 197, 768))
    """
    return VisionTransformer(224, 16, 12, 12, 768, 3072, num_classes=num_classes, rngs=rngs)
