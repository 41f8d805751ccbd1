"""The networks of the second edition's chapter 9, which predict the next token of a sequence.

Layers carry the names of the book's, so `parity.load_torch` finds their places by name. Each
network takes tokens `[N L]` and returns logits `[N L V]`, of which position i depends on tokens
up to i only, and can be given to `nn.generate`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from dlwp_jax.nn.activation_layers import ReLU
from dlwp_jax.nn.attention import (
    KeyValueCache,
    attend_with_cache,
    scaled_dot_product_attention,
)
from dlwp_jax.nn.containers import ModuleList, Sequential
from dlwp_jax.nn.embedding import Embedding
from dlwp_jax.nn.layer_norm import LayerNorm
from dlwp_jax.nn.linear import Linear

__all__ = ["AttentionMLP", "Bigram", "SequenceBlock", "SequenceMLP", "SequenceTransformer"]


class Bigram(nnx.Module):
    """A table as a model: the next token from the last one alone.

    Args:
      shares: `[V V]`, how often each token (column) comes behind each one (row), to any scale.
      rngs: not used.

    >>> model = Bigram(jnp.array([[0.0, 1.0], [0.5, 0.5]]))
    >>> jax.nn.softmax(model(jnp.array([[1, 0]]))).round(2).tolist()
    [[[0.5, 0.5], [0.0, 1.0]]]
    """

    def __init__(self, shares: jax.Array, *, rngs: nnx.Rngs | None = None):
        del rngs
        # A pair that never came has a small probability, not zero.
        self.logits = nnx.Param(jnp.log(jnp.asarray(shares, jnp.float32) + 1e-9))

    def __call__(self, tokens: jax.Array) -> jax.Array:  # [n l] -> [n l vocab_size]
        """Logits of the token behind each position."""
        return self.logits[...][jnp.asarray(tokens, jnp.int32)]

    def make_cache(self, n: int, length: int) -> tuple[()]:
        """An empty cache for `nn.generate`, which needs none, whatever `n` and `length` are."""
        del n, length
        return ()

    def decode(
        self, tokens: jax.Array, cache: tuple[()], position: ArrayLike
    ) -> tuple[jax.Array, tuple[()]]:
        """Logits of the next `tokens`; the `cache` stays empty, and `position` is not used."""
        del position
        return self(tokens), cache


class SequenceMLP(nnx.Module):
    """The book's `SequenceMLP`: the tokens so far, as one row of features, through one hidden
    layer.

    Behind the last token the row is filled with token 0.

    Args:
      vocab_size: number of tokens.
      max_sequence_length: the longest sequence.
      embedding_dim: features of a token.
      hidden_dim: hidden features.
      rngs: draws the weights.

    >>> model = SequenceMLP(27, 11, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 6), int)).shape
    (2, 6, 27)
    """

    def __init__(
        self,
        vocab_size: int,
        max_sequence_length: int,
        embedding_dim: int = 3,
        hidden_dim: int = 32,
        *,
        rngs: nnx.Rngs,
    ):
        self.max_sequence_length = max_sequence_length
        self.embedding = Embedding(vocab_size, embedding_dim, rngs=rngs)
        self.linear = Linear(max_sequence_length * embedding_dim, hidden_dim, rngs=rngs)
        self.out = Linear(hidden_dim, vocab_size, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:  # [n l] -> [n l vocab_size]
        """Logits of the token behind each position."""
        n, length = tokens.shape
        width = self.max_sequence_length
        tokens = jnp.pad(jnp.asarray(tokens), ((0, 0), (0, width - length)))
        features = self.embedding(tokens)[:, None]
        filler = self.embedding(jnp.zeros((), int))
        seen = jnp.tri(length, width, dtype=bool)[..., None]
        rows = jnp.where(seen, features, filler).reshape(n, length, -1)
        return self.out(jax.nn.relu(self.linear(rows)))

    def make_cache(self, n: int, length: int) -> jax.Array:
        """An empty cache for `nn.generate`: `n` sequences of `length` tokens."""
        _check_length(length, self.max_sequence_length)
        return jnp.zeros((n, length), jnp.int32)

    def decode(
        self, tokens: jax.Array, cache: jax.Array, position: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of the next `tokens`, of which the first has the number `position`, and the
        `cache` with them.
        """
        cache = jax.lax.dynamic_update_slice(cache, tokens.astype(cache.dtype), (0, position))
        last = jax.lax.dynamic_slice_in_dim(self(cache), position, tokens.shape[1], axis=1)
        return last, cache


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise ValueError(f"the model has {most} positions; {length} tokens do not fit.")


def _network(features: int, hidden: int, rngs: nnx.Rngs) -> Sequential:
    """The network of each position, as the book calls its parts."""
    first, last = Linear(features, hidden, rngs=rngs), Linear(hidden, features, rngs=rngs)
    return Sequential(first, ReLU(), last)


class AttentionMLP(nnx.Module):
    """The book's `AttentionMLP`: causal attention of one head, then a network for each
    position.

    There are no positions: the tokens so far are a bag. The book keeps the causal mask among
    its weights; load them with `rules=[("mask", None)]`.

    Args:
      n_embd: features of a token.
      vocab_size: number of tokens.
      n_hidden: hidden features of the network.
      rngs: draws the weights.

    >>> model = AttentionMLP(32, 27, rngs=nnx.Rngs(0))
    >>> tokens = jnp.zeros((2, 6), int)
    >>> model(tokens).shape, model.attention_weights(tokens).shape
    ((2, 6, 27), (2, 6, 6))
    """

    def __init__(self, n_embd: int, vocab_size: int, n_hidden: int = 64, *, rngs: nnx.Rngs):
        self.tok_embd = Embedding(vocab_size, n_embd, rngs=rngs)
        self.query_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.key_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.value_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.mlp = _network(n_embd, n_hidden, rngs)
        self.output_proj = Linear(n_embd, vocab_size, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:  # [n l] -> [n l vocab_size]
        """Logits of the token behind each position."""
        x = scaled_dot_product_attention(*self._projected(tokens), is_causal=True)
        return self.output_proj(self.mlp(x))

    def attention_weights(self, tokens: jax.Array) -> jax.Array:  # [n l] -> [n l l]
        """How much each position (axis 1) takes from each one (axis 2)."""
        query, key, _ = self._projected(tokens)
        # Values that are the unit vectors give the weights themselves.
        each = jnp.broadcast_to(jnp.eye(key.shape[1]), (len(key), *2 * key.shape[1:2]))
        return scaled_dot_product_attention(query, key, each, is_causal=True)

    def _projected(self, tokens):
        x = self.tok_embd(tokens)
        return self.query_proj(x), self.key_proj(x), self.value_proj(x)

    def make_cache(self, n: int, length: int) -> KeyValueCache:
        """An empty cache for `nn.generate`: `n` sequences of `length` tokens."""
        zeros = jnp.zeros((n, 1, length, self.tok_embd.embedding_dim))
        return zeros, zeros

    def decode(
        self, tokens: jax.Array, cache: KeyValueCache, position: ArrayLike
    ) -> tuple[jax.Array, KeyValueCache]:
        """Logits of the next `tokens`, of which the first has the number `position`, and the
        `cache` with them.
        """
        query, key, value = (x[:, None] for x in self._projected(tokens))
        x, cache = attend_with_cache(query, key, value, cache, position)
        return self.output_proj(self.mlp(x[:, 0])), cache


class SequenceBlock(nnx.Module):
    """The book's transformer block: causal attention of several heads without an output map,
    then a network; a layer norm behind each sum.

    Args:
      n_embd: features of a position.
      num_heads: heads of the attention.
      n_hidden: hidden features of the network.
      rngs: draws the weights.

    >>> SequenceBlock(64, rngs=nnx.Rngs(0))(jnp.ones((2, 6, 64))).shape
    (2, 6, 64)
    """

    def __init__(self, n_embd: int, num_heads: int = 4, n_hidden: int = 64, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.query_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.key_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.value_proj = Linear(n_embd, n_embd, rngs=rngs)
        self.mlp = _network(n_embd, n_hidden, rngs)
        self.norm_1 = LayerNorm(n_embd)
        self.norm_2 = LayerNorm(n_embd)

    def __call__(self, x: jax.Array) -> jax.Array:  # [n l n_embd] -> the same
        """The block's output."""
        query, key, value = self._heads(x)
        return self._rest(x, scaled_dot_product_attention(query, key, value, is_causal=True))

    def attention_weights(self, x: jax.Array) -> jax.Array:  # [n l n_embd] -> [n heads l l]
        """How much each position takes from each one, for each head."""
        query, key, _ = self._heads(x)
        each = jnp.broadcast_to(jnp.eye(x.shape[1]), (*key.shape[:2], *2 * x.shape[1:2]))
        return scaled_dot_product_attention(query, key, each, is_causal=True)

    def decode(
        self, x: jax.Array, cache: KeyValueCache, position: ArrayLike
    ) -> tuple[jax.Array, KeyValueCache]:
        """The output for the next positions `x`, of which the first has the number `position`,
        and the `cache` with them.
        """
        query, key, value = self._heads(x)
        attended, cache = attend_with_cache(query, key, value, cache, position)
        return self._rest(x, attended), cache

    def _heads(self, x):
        """Queries, keys and values, `[n heads l features]`."""
        parts = (self.query_proj(x), self.key_proj(x), self.value_proj(x))
        return [
            jnp.swapaxes(part.reshape(*part.shape[:2], self.num_heads, -1), 1, 2)
            for part in parts
        ]

    def _rest(self, x, attended):
        x = self.norm_1(x + jnp.swapaxes(attended, 1, 2).reshape(x.shape))
        return self.norm_2(x + self.mlp(x))


class SequenceTransformer(nnx.Module):
    """The book's `Transformer` (a GPT): tokens and positions, several blocks, one linear layer.

    Args:
      vocab_size: number of tokens.
      block_size: the longest sequence.
      n_embd: features of a position.
      num_blocks: number of blocks.
      num_heads, n_hidden: as for `SequenceBlock`.
      rngs: draws the weights.

    >>> model = SequenceTransformer(27, 11, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 6), int)).shape
    (2, 6, 27)
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: int = 64,
        num_blocks: int = 6,
        num_heads: int = 4,
        n_hidden: int = 64,
        *,
        rngs: nnx.Rngs,
    ):
        self.char_embedding = Embedding(vocab_size, n_embd, rngs=rngs)
        self.positional_embedding = Embedding(block_size, n_embd, rngs=rngs)
        self.transformer_blocks = ModuleList(
            SequenceBlock(n_embd, num_heads, n_hidden, rngs=rngs) for _ in range(num_blocks)
        )
        self.output_proj = Linear(n_embd, vocab_size, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:  # [n l] -> [n l vocab_size]
        """Logits of the token behind each position."""
        x = self._start(tokens, jnp.arange(tokens.shape[1]))
        for block in self.transformer_blocks:
            x = block(x)
        return self.output_proj(x)

    def attention_weights(self, tokens: jax.Array) -> list[jax.Array]:
        """`[n heads l l]` of each block, for tokens `[n l]`."""
        x = self._start(tokens, jnp.arange(tokens.shape[1]))
        weights = []
        for block in self.transformer_blocks:
            weights.append(block.attention_weights(x))
            x = block(x)
        return weights

    def _start(self, tokens, positions):
        return self.char_embedding(tokens) + self.positional_embedding(positions)

    def make_cache(self, n: int, length: int) -> tuple[KeyValueCache, ...]:
        """An empty cache for `nn.generate`: for each block, keys and values of `n` sequences of
        `length` tokens.
        """
        _check_length(length, self.positional_embedding.num_embeddings)
        heads = self.transformer_blocks[0].num_heads
        features = self.positional_embedding.embedding_dim
        zeros = jnp.zeros((n, heads, length, features // heads))
        return tuple((zeros, zeros) for _ in self.transformer_blocks)

    def decode(
        self, tokens: jax.Array, cache: tuple[KeyValueCache, ...], position: ArrayLike
    ) -> tuple[jax.Array, tuple[KeyValueCache, ...]]:
        """Logits of the next `tokens`, of which the first has the number `position`, and the
        `cache` with them.
        """
        x = self._start(tokens, position + jnp.arange(tokens.shape[1]))
        caches = []
        for block, own in zip(self.transformer_blocks, cache, strict=True):
            x, own = block.decode(x, own, position)
            caches.append(own)
        return self.output_proj(x), tuple(caches)
