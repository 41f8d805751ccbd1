"""Attention with several heads, as torch's layer.

Sequences are `[N L E]` with `batch_first=True` and `[L N E]` without, as in torch; features are
last in both, so nothing turns over.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.nn import init
from dlwp_jax.nn.attention import (
    How,
    KeyValueCache,
    attend,
    attend_with_cache,
    attention_weights,
    kinds_of_mask,
)
from dlwp_jax.nn.linear import Linear, linear
from dlwp_jax.nn.shapes import promote

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nnx.Module):
    """Attention with several heads and linear maps ahead and behind;
    torch.nn.MultiheadAttention.

    Args:
      embed_dim: features of the query and of the output.
      num_heads: heads, each of embed_dim / num_heads features.
      dropout: the probability with which an attention weight is dropped in train mode.
      bias: whether the linear maps have biases.
      add_bias_kv: whether a learned key and value stand behind the others.
      add_zero_attn: whether a key and a value of zeros stand behind the others.
      kdim, vdim: features of keys and values, if they are not `embed_dim`.
      batch_first: whether sequences are `[N L E]`; if not, `[L N E]`.
      rngs: its `params` stream draws the parameters; its `dropout` stream is forked.
      dtype: dtype of the computation; None takes the one to which input and parameters
        promote.
      param_dtype: dtype of the parameters.

    Parameters: `in_proj_kernel [embed_dim, 3 embed_dim]` (torch's in_proj_weight, transposed),
    or with kdim or vdim `q_proj_kernel`, `k_proj_kernel` and `v_proj_kernel`; `in_proj_bias [3
    embed_dim]`; `out_proj`, a Linear; `bias_k` and `bias_v`, `[1, 1, embed_dim]`.

    Attributes:
      implementation: as for `scaled_dot_product_attention`; used with `need_weights=False`.

    Raises:
      ValueError: if embed_dim is no multiple of num_heads.

    >>> layer = MultiheadAttention(8, 2, batch_first=True, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((3, 5, 8))
    >>> output, weights = layer(x, x, x)
    >>> output.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float | jax.Array = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim={embed_dim} must be a positive multiple of num_heads={num_heads}."
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout: float | jax.Array = (
            nnx.data(dropout) if isinstance(dropout, jax.Array) else dropout
        )
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn
        self.dtype: DTypeLike | None = dtype
        self.implementation: Literal["cudnn", "xla"] | None = None
        self.deterministic = False  # nnx's model.train() and model.eval() set it

        def drawn(initializer, *shape):
            return nnx.Param(initializer(rngs.params(), shape, param_dtype))

        kernel = init.xavier_uniform()
        # Torch's xavier_normal_ of `[1, 1, embed_dim]` takes embed_dim for fan-in and fan-out.
        vector = init.normal(std=embed_dim**-0.5)
        kdim, vdim = kdim or embed_dim, vdim or embed_dim
        self.packed = kdim == vdim == embed_dim
        if self.packed:
            self.in_proj_kernel = drawn(kernel, embed_dim, 3 * embed_dim)
        else:
            self.q_proj_kernel = drawn(kernel, embed_dim, embed_dim)
            self.k_proj_kernel = drawn(kernel, kdim, embed_dim)
            self.v_proj_kernel = drawn(kernel, vdim, embed_dim)
        self.in_proj_bias = drawn(init.zeros(), 3 * embed_dim) if bias else None
        self.out_proj = Linear(
            embed_dim,
            embed_dim,
            bias,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            bias_init=init.zeros(),
        )
        self.bias_k = drawn(vector, 1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = drawn(vector, 1, 1, embed_dim) if add_bias_kv else None
        self.rngs: nnx.RngStream = rngs.dropout.fork()

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: ArrayLike | None = None,
        need_weights: bool = True,
        attn_mask: ArrayLike | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attend from `query` to `key` and `value`.

        Masks have torch's meaning in this layer: True is left out (the opposite of
        `scaled_dot_product_attention`), numbers are added to the scores.

        Args:
          query: `[L N embed_dim]`, or `[N L embed_dim]` if batch_first, or without N.
          key: the same with S in place of L, and `kdim` features.
          value: the same as key, with `vdim` features.
          key_padding_mask: `[N S]` (`[S]` without N): keys to leave out.
          need_weights: whether to return the weights. Without them, long sequences are
            computed in blocks, and a row that sees nothing is zero before `out_proj`; with
            them it is NaN, as in torch.
          attn_mask: `[L S]` or `[N * num_heads L S]`.
          average_attn_weights: whether the weights are averaged over the heads.
          is_causal: whether position i sees only positions up to i; torch wants the mask too.

        Returns:
          The output, in the query's layout, and the weights, `[N L S]` or `[N num_heads L S]`,
          or None.
        """
        batched = query.ndim == 3
        axis = 0 if self.batch_first else 1
        if not batched:
            query, key, value = _one_batch(query, key, value, axis)
            if key_padding_mask is not None:
                key_padding_mask = jnp.asarray(key_padding_mask)[None]
        q, k, v = self._projected(query, key, value)
        masks = self._masks(attn_mask, key_padding_mask, q.shape[0])
        more = self.add_zero_attn or self.bias_k is not None
        if is_causal and more:
            allowed, bias = masks
            seen = jnp.tri(q.shape[2], k.shape[2], dtype=bool)[None, None]
            masks, is_causal = (seen if allowed is None else allowed & seen, bias), False
        k, v, masks = self._with_more_keys(k, v, masks)
        output, weights = self._attend(q, k, v, masks, need_weights, is_causal)
        output = self._joined(output)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            output = jnp.squeeze(output, axis)
            weights = None if weights is None else weights[0]
        return output, weights

    def _projected(self, query, key, value):
        """Queries, keys and values, `[N heads L head_dim]`."""
        if self.packed and key is value:
            kernel = self.in_proj_kernel[...]
            bias = None if self.in_proj_bias is None else self.in_proj_bias[...]
            if query is key:
                return [self._heads(x) for x in self._linear(query, kernel, bias, 3)]
            e = self.embed_dim
            last = None if bias is None else bias[e:]
            parts = self._linear(key, kernel[:, e:], last, 2)
            return [self._part(query, 0), *(self._heads(x) for x in parts)]
        return [self._part(x, i) for i, x in enumerate((query, key, value))]

    def _linear(self, x, kernel, bias, parts: int):
        return jnp.split(linear(*promote(x, kernel, bias, dtype=self.dtype)), parts, axis=-1)

    def _heads(self, x):
        """`[N L E]` or `[L N E]` to `[N heads L head_dim]`."""
        # XLA:CPU multiplies faster if the heads stand in front than if an einsum moves them:
        # 0.51 against 0.75 of torch's time.
        x = x.reshape(*x.shape[:-1], self.num_heads, -1)
        return jnp.transpose(x, (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _joined(self, x):
        """The way back of `_heads`, and the output's map."""
        x = jnp.transpose(x, (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3))
        return self.out_proj(x.reshape(*x.shape[:2], self.embed_dim))

    def _masks(self, attn_mask, key_padding_mask, n: int):
        """(allowed, bias), each `[N or 1, heads or 1, L or 1, S]` or None."""
        left_out, bias = kinds_of_mask(attn_mask)
        left_out, bias = (self._four_axes(mask, n) for mask in (left_out, bias))
        padded, padding = kinds_of_mask(key_padding_mask)
        if padded is not None:
            padded = padded[:, None, None]
            left_out = padded if left_out is None else left_out | padded
        if padding is not None:
            padding = padding[:, None, None]
            bias = padding if bias is None else bias + padding
        return None if left_out is None else ~left_out, bias

    def _four_axes(self, mask, n: int):
        if mask is None or mask.ndim == 2:
            return None if mask is None else mask[None, None]
        return mask.reshape(n, self.num_heads, *mask.shape[1:])

    def _with_more_keys(self, k, v, masks):
        """Append the learned key and value and those of zeros, which every row sees."""
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                self._behind(x, row[...].reshape(1, self.num_heads, 1, -1))
                for x, row in ((k, self.bias_k), (v, self.bias_v))
            )
            masks = _wider(masks)
        if self.add_zero_attn:
            k, v = (self._behind(x, jnp.zeros((1, self.num_heads, 1, 1))) for x in (k, v))
            masks = _wider(masks)
        return k, v, masks

    def _behind(self, x, row):
        row = jnp.broadcast_to(row, (*x.shape[:2], 1, x.shape[-1]))
        return jnp.concatenate([x, row.astype(x.dtype)], axis=2)

    def _attend(self, q, k, v, masks, need_weights: bool, is_causal: bool):
        """The output of all heads, and the weights or None."""
        drops = isinstance(self.dropout, jax.Array) or self.dropout > 0
        drops = drops and not self.deterministic
        scale = 1 / math.sqrt(q.shape[-1])
        how = How(
            is_causal,
            scale,
            self.dropout if drops else 0.0,
            self.rngs() if drops else None,
        )
        allowed, bias = masks
        if not need_weights:
            return attend(q, k, v, allowed, bias, how, self.implementation), None
        weights = attention_weights(q, k, allowed, bias, how, empty_is_zero=False)
        return weights @ v, weights

    def make_cache(self, n: int, length: int, dtype: DTypeLike | None = None) -> KeyValueCache:
        """An empty cache for `n` sequences of up to `length` positions, for `decode`.

        Raises:
          ValueError: if the layer has keys that belong to no position (add_bias_kv,
            add_zero_attn).
        """
        self._refuse_keys_without_position()
        shape = (n, self.num_heads, length, self.embed_dim // self.num_heads)
        zeros = jnp.zeros(shape, dtype or self.dtype or self.in_proj_kernel.dtype)
        return zeros, zeros

    def decode(
        self, x: jax.Array, cache: KeyValueCache, position: ArrayLike
    ) -> tuple[jax.Array, KeyValueCache]:
        """Causal self-attention of the next positions of a sequence: the rows of
        `self(x, x, x, is_causal=True)` from `position` on.

        Args:
          x: the next T positions, in the layer's layout.
          cache: of the positions before, from `make_cache` or the last call.
          position: the number of the first of them.

        Returns:
          The output for `x`, and the cache with its keys and values.
        """
        q, k, v = self._projected(x, x, x)
        output, cache = attend_with_cache(q, k, v, cache, position)
        return self._joined(output), cache

    def project(self, key: jax.Array, value: jax.Array) -> KeyValueCache:
        """Keys and values of a sequence that does not grow, as an encoder's output, for
        `attend`.

        Args:
          key, value: in the layer's layout.

        Returns:
          `[N heads S head_dim]` each.

        Raises:
          ValueError: as for `make_cache`.

        >>> layer = MultiheadAttention(8, 2, batch_first=True, rngs=nnx.Rngs(0))
        >>> memory = jnp.ones((3, 7, 8))
        >>> layer.attend(jnp.ones((3, 1, 8)), layer.project(memory, memory)).shape
        (3, 1, 8)
        """
        self._refuse_keys_without_position()
        return self._part(key, 1), self._part(value, 2)

    def attend(
        self,
        query: jax.Array,
        projected: KeyValueCache,
        key_padding_mask: ArrayLike | None = None,
    ) -> jax.Array:
        """`self(query, key, value, key_padding_mask, need_weights=False)[0]`, with the keys and
        values of `project`.

        Args:
          query: in the layer's layout, with N.
          projected: from `project`.
          key_padding_mask: `[N S]`: keys to leave out.
        """
        masks = self._masks(None, key_padding_mask, len(projected[0]))
        output, _ = self._attend(self._part(query, 0), *projected, masks, False, False)
        return self._joined(output)

    def _refuse_keys_without_position(self) -> None:
        if self.add_zero_attn or self.bias_k is not None:
            raise ValueError("a cache has no place for add_bias_kv or add_zero_attn.")

    def _part(self, x, part: int):
        """Queries (part 0), keys (1) or values (2) of `x`, `[N heads L head_dim]`."""
        own = slice(part * self.embed_dim, (part + 1) * self.embed_dim)
        if self.packed:
            kernel = self.in_proj_kernel[:, own]
        else:
            kernel = (self.q_proj_kernel, self.k_proj_kernel, self.v_proj_kernel)[part][...]
        bias = None if self.in_proj_bias is None else self.in_proj_bias[own]
        return self._heads(self._linear(x, kernel, bias, 1)[0])


def _one_batch(query, key, value, axis: int):
    """The three with an axis of one sequence; arrays that are the same stay the same."""
    added = jnp.expand_dims(query, axis)
    keys = added if key is query else jnp.expand_dims(key, axis)
    return added, keys, keys if value is key else jnp.expand_dims(value, axis)


def _wider(masks):
    """Masks with one more key, which every row sees."""
    allowed, bias = masks
    pad = [(0, 0)] * 3 + [(0, 1)]
    return (
        None if allowed is None else jnp.pad(allowed, pad, constant_values=True),
        None if bias is None else jnp.pad(bias, pad),
    )
