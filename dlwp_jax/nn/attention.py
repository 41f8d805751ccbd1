"""Attention: every position takes an average over other positions (chapter 9 of the second
edition).

`MultiheadAttention`, the layer, stands in `attention_layer`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from dlwp_jax.nn.dropout import dropout
from dlwp_jax.nn.shapes import floating, promote, wide

__all__ = ["attend_with_cache", "scaled_dot_product_attention"]

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
    how = How(is_causal, scale, dropout_p, dropout_key)
    return attend(query, key, value, *kinds_of_mask(attn_mask), how, implementation)


def _grouped(x: jax.Array, heads: int) -> jax.Array:
    """Keys or values, each head of them repeated for its share of the query's heads."""
    own = x.shape[-3]
    if not own or heads % own:
        raise ValueError(
            f"enable_gqa=True: the {heads} heads of query must be a multiple "
            f"of the {own} heads of key and of value."
        )
    return jnp.repeat(x, heads // own, axis=-3)


def _floats(*arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """The arrays in one floating dtype."""
    return promote(*(floating(array) for array in arrays))


class How(NamedTuple):
    """What else goes into the weights, beside queries, keys and masks."""

    is_causal: bool
    scale: float
    dropout_p: float | jax.Array
    dropout_key: jax.Array | None


def kinds_of_mask(mask: ArrayLike | None) -> tuple[jax.Array | None, jax.Array | None]:
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


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array | None,
    bias: jax.Array | None,
    how: How,
    implementation: Literal["xla", "cudnn"] | None,
) -> jax.Array:
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
        return attention_weights(query, key, allowed, bias, how) @ value
    return _in_blocks(query, key, value, allowed, bias, how, max(1, BLOCK // row))


def attention_weights(
    query: jax.Array,
    key: jax.Array,
    allowed: jax.Array | None,
    bias: jax.Array | None,
    how: How,
    first: ArrayLike = 0,
    empty_is_zero: bool = True,
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


def _in_blocks(query, key, value, allowed, bias, how: How, rows: int) -> jax.Array:
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
        weights = attention_weights(query, key, **given, how=own, first=number * rows)
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
