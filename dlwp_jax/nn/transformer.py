"""Transformers: layers of attention and of a small network for each position (chapter 9 of the
second edition).

Sequences are `[N L E]` with `batch_first=True` and `[L N E]` without, as in torch. Masks are
those of `MultiheadAttention`: True is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.nn import activations, init
from dlwp_jax.nn.attention import KeyValueCache
from dlwp_jax.nn.attention_layer import MultiheadAttention
from dlwp_jax.nn.containers import ModuleList
from dlwp_jax.nn.dropout import Dropout
from dlwp_jax.nn.layer_norm import LayerNorm
from dlwp_jax.nn.linear import Linear

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = Callable[[jax.Array], jax.Array]
_ACTIVATIONS: dict[str, Activation] = {"relu": activations.relu, "gelu": activations.gelu}
Mask = ArrayLike | None
# Keys and values of the sequence so far, and those of the encoder's output.
DecoderCache = tuple[KeyValueCache, KeyValueCache]


def _activation(activation: str | Activation) -> Activation:
    if not isinstance(activation, str):
        return activation
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is 'relu', 'gelu' or a function, not {activation!r}.")
    return _ACTIVATIONS[activation]


class _Layer(nnx.Module):
    """What the layers of encoders and decoders have in common.

    The parts are called as in torch, and are made in torch's order.
    """

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention
    norm1: LayerNorm
    _attentions: tuple[str, ...]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float | jax.Array = 0.1,
        activation: str | Activation = activations.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        for name in self._attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, rngs=rngs, **dtypes
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, rngs=rngs, **dtypes)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rngs=rngs, **dtypes)
        self.norm_first = norm_first
        numbers = range(1, len(self._attentions) + 2)
        for number in numbers:
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, param_dtype=param_dtype)
            setattr(self, f"norm{number}", norm)
        for number in numbers:
            setattr(self, f"dropout{number}", Dropout(dropout, rngs=rngs))
        self.activation: Activation = _activation(activation)

    def fresh(self, *, rngs: nnx.Rngs) -> Self:
        """A layer of the same options with newly drawn parameters.

        Encoders and decoders make their layers by it. A class of your own whose `__init__`
        takes other arguments needs its own `fresh`.

        Raises:
          ValueError: if the parameters of this layer have other shapes than its options say.
        """
        layer = type(self)(
            self.self_attn.embed_dim,
            self.self_attn.num_heads,
            self.linear1.out_features,
            self.dropout.p,
            self.activation,
            self.norm1.eps,
            self.self_attn.batch_first,
            self.norm_first,
            self.linear1.bias is not None,
            rngs=rngs,
            dtype=self.linear1.dtype,
            param_dtype=self.linear1.kernel.dtype,
        )
        ours, theirs = (
            jax.tree.map(jnp.shape, nnx.state(each, nnx.Param)) for each in (layer, self)
        )
        if ours != theirs:
            raise ValueError(
                f"this {type(self).__name__} was changed after it was made; give its class a "
                "method fresh(*, rngs) that makes such a layer."
            )
        return layer

    def _network(self, x):
        """The network of each position."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))

    def _residual(self, x, number: int, part: Callable[[jax.Array], jax.Array]):
        """`x` plus a part of it, normalised ahead or behind."""
        norm, drop = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + drop(part(norm(x)))
        return norm(x + drop(part(x)))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a network of two linear maps, each added to its input;
    torch.nn.TransformerEncoderLayer.

    Args:
      d_model: features of each position.
      nhead: heads of the attention.
      dim_feedforward: hidden features of the network.
      dropout: probability of dropout: of attention weights, of hidden features, and of each
        part's output.
      activation: 'relu', 'gelu' or a function.
      layer_norm_eps: `eps` of the layer norms.
      batch_first: whether sequences are `[N L E]`; if not, `[L N E]`.
      norm_first: whether a layer norm comes ahead of each part, and not behind the sum.
      bias: whether linear maps and layer norms have biases.
      rngs: its `params` stream draws the parameters; its `dropout` stream is forked.
      dtype: dtype of the computation of the linear maps; None takes the one to which input and
        parameters promote.
      param_dtype: dtype of the parameters.

    Parts: `self_attn`, `linear1`, `linear2`, `norm1`, `norm2`, and dropouts.

    Raises:
      ValueError: for another word as activation, or heads that do not divide the features.

    >>> layer = TransformerEncoderLayer(8, 2, 16, batch_first=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((3, 5, 8))).shape
    (3, 5, 8)
    """

    _attentions = ("self_attn",)

    def __call__(
        self,
        src: jax.Array,
        src_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> jax.Array:
        """The layer's output, of the shape of `src`.

        Args:
          src: `[L N d_model]`, or `[N L d_model]` if batch_first, or without N.
          src_mask: `[L L]` or `[N * nhead L L]`.
          src_key_padding_mask: `[N L]`: positions that no other one sees.
          is_causal: whether position i sees only positions up to i; torch wants the mask too.
        """

        def attend(x):
            return self.self_attn(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )[0]

        src = self._residual(src, 1, attend)
        return self._residual(src, 2, self._network)

    def make_cache(self, n: int, length: int, dtype: DTypeLike | None = None) -> KeyValueCache:
        """An empty cache of `decode`: `n` sequences of up to `length` positions, in `dtype`."""
        return self.self_attn.make_cache(n, length, dtype)

    def decode(
        self, src: jax.Array, cache: KeyValueCache, position: ArrayLike
    ) -> tuple[jax.Array, KeyValueCache]:
        """The output of a causal layer for the next positions `src`, of which the first has the
        number `position`, and the `cache` with them.
        """
        kept = [cache]

        def attend(x):
            y, kept[0] = self.self_attn.decode(x, cache, position)
            return y

        src = self._residual(src, 1, attend)
        return self._residual(src, 2, self._network), kept[0]


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the output of an encoder, and a network, each added to its
    input; torch.nn.TransformerDecoderLayer.

    Arguments and errors as for `TransformerEncoderLayer`.

    Parts: `self_attn`, `multihead_attn`, `linear1`, `linear2`, `norm1` to `norm3`, and
    dropouts.

    >>> layer = TransformerDecoderLayer(8, 2, 16, batch_first=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((3, 5, 8)), jnp.ones((3, 7, 8))).shape
    (3, 5, 8)
    """

    _attentions = ("self_attn", "multihead_attn")

    def __call__(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The layer's output, of the shape of `tgt`.

        Args:
          tgt: `[T N d_model]`, or `[N T d_model]` if batch_first, or without N.
          memory: the encoder's output, with S in place of T.
          tgt_mask, memory_mask: `[T T]` and `[T S]`, or with `N * nhead` ahead.
          tgt_key_padding_mask, memory_key_padding_mask: `[N T]` and `[N S]`.
          tgt_is_causal, memory_is_causal: whether position i sees only positions up to i.
        """

        def attend(x):
            return self.self_attn(
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def look(x):
            return self.multihead_attn(
                x,
                memory,
                memory,
                memory_key_padding_mask,
                False,
                memory_mask,
                is_causal=memory_is_causal,
            )[0]

        tgt = self._residual(tgt, 1, attend)
        tgt = self._residual(tgt, 2, look)
        return self._residual(tgt, 3, self._network)

    def make_cache(
        self, memory: jax.Array, length: int, dtype: DTypeLike | None = None
    ) -> DecoderCache:
        """A cache for `decode`.

        Args:
          memory: the encoder's output, with N, whose keys and values are computed here, once.
          length: the most positions of a sequence.
          dtype: of the sequence's keys and values; None takes the layer's own.
        """
        n = memory.shape[0 if self.self_attn.batch_first else 1]
        growing = self.self_attn.make_cache(n, length, dtype)
        return growing, self.multihead_attn.project(memory, memory)

    def decode(
        self,
        tgt: jax.Array,
        cache: DecoderCache,
        position: ArrayLike,
        memory_key_padding_mask: Mask = None,
    ) -> tuple[jax.Array, DecoderCache]:
        """The rows of `self(tgt, memory, tgt_is_causal=True)` from `position` on.

        Args:
          tgt: the next positions, in the layer's layout.
          cache: from `make_cache` or the last call.
          position: the number of the first of them.
          memory_key_padding_mask: `[N S]`.

        Returns:
          The output for `tgt`, and the cache with its keys and values.
        """
        growing, memory = cache
        kept = [growing]

        def attend(x):
            y, kept[0] = self.self_attn.decode(x, growing, position)
            return y

        def look(x):
            return self.multihead_attn.attend(x, memory, memory_key_padding_mask)

        tgt = self._residual(tgt, 1, attend)
        tgt = self._residual(tgt, 2, look)
        return self._residual(tgt, 3, self._network), (kept[0], memory)


class _Fresh(Protocol):
    def fresh(self, *, rngs: nnx.Rngs) -> Self: ...


class _Stack(nnx.Module):
    """Several layers, each drawn anew with the options of `layer`, and a norm or None."""

    def __init__(
        self,
        layer: _Fresh,
        num_layers: int,
        norm: nnx.Module | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.layers = ModuleList([layer.fresh(rngs=rngs) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def _normed(self, x):
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """Several encoder layers, one after the other; torch.nn.TransformerEncoder.

    Every layer is drawn anew with the options of `layer`. (Torch copies the layer with its
    parameters, so that all layers of its encoder start equal.) Torch's shortcut for evaluation,
    which zeroes the output at padded positions, has no counterpart.

    Args:
      layer: a `TransformerEncoderLayer`, or a module with a method `fresh(*, rngs)`.
      num_layers: how many.
      norm: a module for the output of the last layer, or None.
      rngs: draws the layers.

    Parts: `layers`, `norm`.

    >>> layer = TransformerEncoderLayer(8, 2, 16, batch_first=True, rngs=nnx.Rngs(0))
    >>> encoder = TransformerEncoder(layer, 3, rngs=nnx.Rngs(1))
    >>> encoder(jnp.ones((3, 5, 8)), is_causal=True).shape
    (3, 5, 8)
    """

    def __call__(
        self,
        src: jax.Array,
        mask: Mask = None,
        src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> jax.Array:
        """The output of the last layer, of the shape of `src`.

        Args:
          src, src_key_padding_mask, is_causal: as for `TransformerEncoderLayer`.
          mask: its `src_mask`.
        """
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return self._normed(src)

    def make_cache(
        self, n: int, length: int, dtype: DTypeLike | None = None
    ) -> tuple[KeyValueCache, ...]:
        """Each layer's empty cache: `n` sequences of up to `length` positions, in `dtype`."""
        return tuple(layer.make_cache(n, length, dtype) for layer in self.layers)

    def decode(
        self, src: jax.Array, cache: tuple[KeyValueCache, ...], position: ArrayLike
    ) -> tuple[jax.Array, tuple[KeyValueCache, ...]]:
        """The output of a causal encoder for the next positions `src`, of which the first has
        the number `position`, and the `cache` with them.
        """
        caches = []
        for layer, own in zip(self.layers, cache, strict=True):
            src, own = layer.decode(src, own, position)
            caches.append(own)
        return self._normed(src), tuple(caches)


class TransformerDecoder(_Stack):
    """Several decoder layers, one after the other; torch.nn.TransformerDecoder.

    Args:
      layer: a `TransformerDecoderLayer`, or a module with a method `fresh(*, rngs)`.
      num_layers, norm, rngs: as for `TransformerEncoder`.

    Parts: `layers`, `norm`.

    >>> layer = TransformerDecoderLayer(8, 2, 16, batch_first=True, rngs=nnx.Rngs(0))
    >>> decoder = TransformerDecoder(layer, 2, rngs=nnx.Rngs(1))
    >>> decoder(jnp.ones((3, 5, 8)), jnp.ones((3, 7, 8))).shape
    (3, 5, 8)
    """

    def __call__(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The output of the last layer, of the shape of `tgt`.

        Args:
          tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal: as for `TransformerDecoderLayer`.
        """
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                tgt_is_causal,
                memory_is_causal,
            )
        return self._normed(tgt)

    def make_cache(
        self, memory: jax.Array, length: int, dtype: DTypeLike | None = None
    ) -> tuple[DecoderCache, ...]:
        """For each layer a cache to `length` positions, with its keys and values of `memory`,
        as for `TransformerDecoderLayer`; the growing ones in `dtype`.
        """
        return tuple(layer.make_cache(memory, length, dtype) for layer in self.layers)

    def decode(
        self,
        tgt: jax.Array,
        cache: tuple[DecoderCache, ...],
        position: ArrayLike,
        memory_key_padding_mask: Mask = None,
    ) -> tuple[jax.Array, tuple[DecoderCache, ...]]:
        """The output of a causal decoder for the next positions `tgt`, of which the first has
        the number `position`, and the `cache` with them. `memory_key_padding_mask` is `[N S]`.
        """
        caches = []
        for layer, own in zip(self.layers, cache, strict=True):
            tgt, own = layer.decode(tgt, own, position, memory_key_padding_mask)
            caches.append(own)
        return self._normed(tgt), tuple(caches)


class Transformer(nnx.Module):
    """An encoder and a decoder, each with a layer norm at its end; torch.nn.Transformer.

    Args:
      d_model: features of each position.
      nhead: heads of every attention.
      num_encoder_layers, num_decoder_layers: how many layers.
      dim_feedforward, dropout, activation: as for `TransformerEncoderLayer`.
      custom_encoder, custom_decoder: modules to take in place of `TransformerEncoder` and
        `TransformerDecoder`.
      layer_norm_eps, batch_first, norm_first, bias: as for `TransformerEncoderLayer`.
      rngs, dtype, param_dtype: as for `TransformerEncoderLayer`.

    Parts: `encoder`, `decoder`. All matrices are drawn by `init.xavier_uniform`.

    >>> model = Transformer(8, 2, 1, 1, 16, batch_first=True, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((3, 7, 8)), jnp.ones((3, 5, 8))).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float | jax.Array = 0.1,
        activation: str | Activation = activations.relu,
        custom_encoder: nnx.Module | None = None,
        custom_decoder: nnx.Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        def stack(stack_class, layer_class, number):
            layer = layer_class(
                d_model,
                nhead,
                dim_feedforward,
                dropout,
                activation,
                layer_norm_eps,
                batch_first,
                norm_first,
                bias,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, param_dtype=param_dtype)
            return stack_class(layer, number, norm, rngs=rngs)

        self.encoder = custom_encoder or stack(
            TransformerEncoder, TransformerEncoderLayer, num_encoder_layers
        )
        self.decoder = custom_decoder or stack(
            TransformerDecoder, TransformerDecoderLayer, num_decoder_layers
        )
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        draw = init.xavier_uniform()
        for _, variable in nnx.to_flat_state(nnx.state(self, nnx.Param)):
            if variable.ndim > 1:
                variable[...] = draw(rngs.params(), variable.shape, variable.dtype)

    def __call__(
        self,
        src: jax.Array,
        tgt: jax.Array,
        src_mask: Mask = None,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The decoder's output for `tgt`, given the encoder's for `src`.

        Args:
          src, src_mask, src_key_padding_mask, src_is_causal: as for `TransformerEncoderLayer`.
          tgt, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal: as for `TransformerDecoderLayer`.
        """
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, dtype: DTypeLike = jnp.float32
    ) -> jax.Array:  # -> [sz sz]
        """A causal mask for `sz` positions, in `dtype`: -inf above the diagonal, else 0.

        >>> Transformer.generate_square_subsequent_mask(2).tolist()
        [[0.0, -inf], [0.0, 0.0]]
        """
        return jnp.triu(jnp.full((sz, sz), -jnp.inf, dtype), 1)
