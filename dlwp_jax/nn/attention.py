"""Attention: every position takes an average over other positions (chapter 9 of the second
edition).

Sequences are `[N L E]` with `batch_first=True` and `[L N E]` without, as in torch; features are
last in both, so nothing turns over.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.nn import init
from dlwp_jax.nn.dropout import dropout
from dlwp_jax.nn.linear import Linear, linear
from dlwp_jax.nn.shapes import floating, promote, wide

__all__ = ["MultiheadAttention", "attend_with_cache", "scaled_dot_product_attention"]

# Keys and values of the positions so far, `[N heads length head_dim]` each.
KeyValueCache = tuple[jax.Array, jax.Array]

# A block of rows has at most so many scores: 64 MiB in float32. A batch of 8 with 8 heads and
# 512 positions just fits; a sequence of 4,096 positions with 8 heads is cut into 8 blocks.
BLOCK = 2**24


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dropout_key: jax.Array | None = None,
    implementation: Literal["cudnn", "xla"] | None = None,
) -> jax.Array:
    """`softmax(query @ key.T * scale + mask) @ value`:
    torch.nn.functional.scaled_dot_product_attention.

    If there are more than 2**24 scores, the rows are computed in blocks, and once more in the
    backward pass. The memory then grows with the length of the sequence, not with its square.

    Args:
      query: `[... L E]`.
      key: `[... S E]`.
      value: `[... S V]`.
      attn_mask: booleans, of which True takes part, or numbers that are added to the scores;
        it broadcasts to `[... L S]`.
      dropout_p: the probability with which a weight is dropped.
      is_causal: whether row i sees only positions up to i.
      scale: None takes 1 / sqrt(E).
      enable_gqa: whether `query` may have several heads (axis -3) for each head of `key` and
        `value`.
      dropout_key: a PRNG key, which dropout needs.
      implementation: 'cudnn' or 'xla' hand over to `jax.nn.dot_product_attention`: 'cudnn' is
        the fused kernel of a GPU, for float16 and bfloat16. It takes four axes, no dropout,
        and the average of all values for a row that sees nothing.

    Returns:
      `[... L V]`. A row that sees nothing is zero.

    Raises:
      ValueError: if dropout has no key; if `implementation` cannot do what is asked; if the
        heads of `key` or `value` do not divide those of `query` (enable_gqa).
      TypeError: (JAX's) if the shapes do not fit.

    >>> x = jnp.eye(2)
    >>> scaled_dot_product_attention(x, x, x, is_causal=True)[0].tolist()
    [1.0, 0.0]
    """
    query, key, value = _floats(query, key, value)
    if enable_gqa:
        key, value = (_grouped(x, query.shape[-3]) for x in (key, value))
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    how = _How(is_causal, scale, dropout_p, dropout_key)
    return _attention(query, key, value, *_kinds(attn_mask), how, implementation)


def _grouped(x: jax.Array, heads: int) -> jax.Array:
    """Keys or values, each head of them repeated for its share of the query's heads."""
    own = x.shape[-3]
    if not own or heads % own:
        raise ValueError(
            f"enable_gqa=True: the {heads} heads of query must be a multiple of the {own} heads "
            "of key and of value."
        )
    return jnp.repeat(x, heads // own, axis=-3)


def _floats(*arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """The arrays in one floating dtype."""
    return promote(*(floating(array) for array in arrays))


class _How(NamedTuple):
    """What else goes into the weights, beside queries, keys and masks."""

    is_causal: bool
    scale: float
    dropout_p: float | jax.Array
    dropout_key: jax.Array | None


def _kinds(mask: ArrayLike | None) -> tuple[jax.Array | None, jax.Array | None]:
    """A mask as (booleans, None) or (None, numbers)."""
    if mask is None:
        return None, None
    mask = jnp.asarray(mask)
    if mask.dtype == bool:
        return mask, None
    if not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(
            f"a mask is {mask.dtype}; give booleans (mask.astype(bool)), or floating point "
            "numbers that are added to the scores."
        )
    return None, mask


def _attention(query, key, value, allowed, bias, how: _How, implementation) -> jax.Array:
    """`scaled_dot_product_attention` with masks of both kinds."""
    drops = isinstance(how.dropout_p, jax.Array) or how.dropout_p > 0
    if drops and how.dropout_key is None:
        raise ValueError("dropout_p draws: give a key (dropout_key=jax.random.key(0)).")
    if implementation is not None:
        if drops:
            raise ValueError("implementation= has no dropout; leave it out, or dropout_p=0.")
        q, k, v = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
        output = jax.nn.dot_product_attention(
            q,
            k,
            v,
            bias,
            allowed,
            scale=how.scale,
            is_causal=how.is_causal,
            implementation=implementation,
        )
        return jnp.swapaxes(output, -3, -2)
    lead = jnp.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    row = math.prod(lead) * key.shape[-2]
    if query.shape[-2] * row <= BLOCK:
        return _weights(query, key, allowed, bias, how) @ value
    return _in_blocks(query, key, value, allowed, bias, how, max(1, BLOCK // row))


def _weights(
    query, key, allowed, bias, how: _How, first: ArrayLike = 0, empty_is_zero: bool = True
) -> jax.Array:
    """The weights of some rows, of which the first has the number `first`."""
    scores = jnp.matmul(
        query * jnp.asarray(how.scale, query.dtype),
        jnp.swapaxes(key, -1, -2),
        preferred_element_type=wide(query).dtype,
    )
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
    if how.is_causal:
        rows = first + jnp.arange(query.shape[-2])
        scores = jnp.where(jnp.arange(key.shape[-2]) <= rows[:, None], scores, -jnp.inf)
    weights = _softmax(scores, empty_is_zero).astype(query.dtype)
    return dropout(weights, how.dropout_p, key=how.dropout_key)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(scores: jax.Array, empty_is_zero: bool) -> jax.Array:
    """Softmax over the last axis. A row that is -inf throughout is NaN, or zero with no
    gradient if `empty_is_zero`.
    """
    largest = scores.max(-1, keepdims=True, initial=-jnp.inf)
    if not empty_is_zero:
        powers = jnp.exp(scores - largest)
        return powers / powers.sum(-1, keepdims=True)
    powers = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(empty_is_zero, primals, tangents):
    # The gradient from the weights themselves: attention took 1.1 times as long with the one
    # that JAX derives.
    weights = _softmax(primals[0], empty_is_zero)
    change = weights * tangents[0]
    return weights, change - weights * change.sum(-1, keepdims=True)


def _in_blocks(query, key, value, allowed, bias, how: _How, rows: int) -> jax.Array:
    """Attention in blocks of about `rows` rows, computed again in the backward pass."""
    length = query.shape[-2]
    blocks = -(-length // rows)
    rows = -(-length // blocks)

    def cut(x):  # [... length n] -> [blocks ... rows n]
        pad = [(0, 0)] * x.ndim
        pad[-2] = (0, blocks * rows - length)
        x = jnp.pad(x, pad)
        return jnp.moveaxis(x.reshape(*x.shape[:-2], blocks, rows, x.shape[-1]), -3, 0)

    masks = {"allowed": allowed, "bias": bias}
    by_row = {}
    for name, mask in masks.items():
        if mask is not None and mask.ndim > 1 and mask.shape[-2] == length:
            by_row[name] = cut(mask)

    @jax.checkpoint
    def block(xs):
        number, query, by_row = xs
        given = {**masks, **by_row}
        own = how
        if how.dropout_key is not None:
            own = how._replace(dropout_key=jax.random.fold_in(how.dropout_key, number))
        weights = _weights(query, key, **given, how=own, first=number * rows)
        return weights @ value

    output = jax.lax.map(block, (jnp.arange(blocks), cut(query), by_row))
    output = jnp.moveaxis(output, 0, -3)
    output = output.reshape(*output.shape[:-3], blocks * rows, output.shape[-1])
    return output[..., :length, :]


def attend_with_cache(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cache: KeyValueCache,
    position: ArrayLike,
) -> tuple[jax.Array, KeyValueCache]:
    """Causal attention of the next positions of a sequence, whose keys and values are added to
    a cache.

    Args:
      query, key, value: of T positions, `[N heads T E]`.
      cache: keys and values of the positions before, `[N heads length E]` each.
      position: the number of the first of the T positions.

    Returns:
      The output, `[N heads T E]`, and the new cache.

    Raises:
      ValueError: if the cache is too short. Under jit `position` is not known, and the last
        places of the cache are written over instead.

    >>> q, k, v = jnp.ones((3, 1, 2, 4, 8))
    >>> empty = (jnp.zeros((1, 2, 6, 8)), jnp.zeros((1, 2, 6, 8)))
    >>> output, cache = attend_with_cache(q, k, v, empty, 0)
    >>> output.shape, cache[0].shape
    ((1, 2, 4, 8), (1, 2, 6, 8))
    """
    length, more = cache[0].shape[2], query.shape[2]
    if not isinstance(position, Tracer) and not 0 <= int(cast(int, position)) <= length - more:
        raise ValueError(
            f"the cache has {length} places; {more} positions do not fit behind {position}."
        )
    keys, values = (
        jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, 0, position, 0))
        for old, new in zip(cache, (key, value), strict=True)
    )
    seen = jnp.arange(length) <= (position + jnp.arange(more))[:, None]
    return scaled_dot_product_attention(query, keys, values, seen), (keys, values)


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
        left_out, bias = _kinds(attn_mask)
        left_out, bias = (self._four_axes(mask, n) for mask in (left_out, bias))
        padded, padding = _kinds(key_padding_mask)
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
        how = _How(
            is_causal,
            scale,
            self.dropout if drops else 0.0,
            self.rngs() if drops else None,
        )
        allowed, bias = masks
        if not need_weights:
            return _attention(q, k, v, allowed, bias, how, self.implementation), None
        weights = _weights(q, k, allowed, bias, how, empty_is_zero=False)
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
