"""Generation: a sequence model continues a text, one token after the other, as one program."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from dlwp_jax.labels import labels
from dlwp_jax.nn.shapes import floating

__all__ = ["generate", "next_token"]


class _Decoder(Protocol):
    """A module with a cache; `make_cache(n, length)` is needed too, if none is given."""

    def decode(
        self, x: jax.Array, cache: Any, position: ArrayLike
    ) -> tuple[jax.Array, Any]: ...


class _Choice(NamedTuple):
    """How the next token is chosen."""

    temperature: float
    top_k: int | None
    top_p: float | None


def next_token(
    logits: ArrayLike,
    key: jax.Array | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """The next token of each sequence, by logits.

    Args:
      logits: `[N V]`.
      key: a PRNG key; without it the most likely token is taken (greedy).
      temperature: divides the logits; 0 is greedy.
      top_k: draw from the k most likely tokens only.
      top_p: draw from the fewest most likely tokens whose probabilities sum to p or more.

    Returns:
      Token numbers `[N]`, int32.

    Raises:
      ValueError: for a negative temperature, top_k below 1, or top_p outside (0, 1].

    >>> next_token(jnp.array([[0.0, 2.0, 1.0]])).tolist()
    [1]
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature} is at least 0, top_k={top_k} at least 1.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is above 0 and at most 1.")
    logits = floating(logits)
    if key is None or temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    # In 16 bits the noise of a draw has too few values, and low numbers win the ties.
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        falling = -jnp.sort(-logits, axis=-1)
        shares = jax.nn.softmax(falling, axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares  # of the tokens that are more likely
        least = jnp.where(before < top_p, falling, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def generate(
    model: _Decoder,
    prompt: ArrayLike,
    tokens: int,
    *,
    lengths: ArrayLike | None = None,
    key: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    cache: Any = None,
) -> jax.Array:
    """Continue sequences by `tokens` tokens, as one compiled program with a cache.

    The model is a module, which is run in eval mode, with two methods: `make_cache(n, length)`
    returns an empty cache, a pytree with one entry for each layer, and `decode(tokens, cache,
    position)` takes the next tokens `[N T]`, of which the first has the number `position`, and
    returns logits `[N T V]` and the cache with them. `TransformerEncoder` and the models of
    chapter 9 have such methods.

    Args:
      model: the module.
      prompt: token numbers `[N P]`, at least one each.
      tokens: how many to add to each.
      lengths: how many tokens of each row of `prompt` belong to it, `[N]`, from its first; None
        takes all. Every row is continued after its own last token; without a key, as it would
        be alone.
      key: a PRNG key; without it the most likely token is taken (greedy).
      temperature, top_k, top_p: as for `next_token`.
      stop: a token that ends a sequence: it is kept, and repeated until the end. The program
        ends when every sequence has it.
      cache: the cache to begin with, for P + tokens positions, if `make_cache` of the model
        needs more than their number, as that of `TransformerDecoder`.

    Returns:
      Token numbers `[N P + tokens]`, int32. If `lengths` are given, row i ends behind
      `lengths[i] + tokens` tokens; `stop`, or 0, fills the rest.

    Raises:
      ValueError: for an empty prompt, lengths that are not in 1 to P (not checked under jit),
        or options that `next_token` refuses.

    >>> from dlwp_jax import models
    >>> model = models.SequenceTransformer(27, 11, rngs=nnx.Rngs(0))
    >>> generate(model, jnp.zeros((2, 1), int), 10, stop=0).shape
    (2, 11)
    """
    prompt = labels("prompt", prompt).astype(jnp.int32)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or tokens < 0:
        raise ValueError(
            f"prompt has shape {prompt.shape} and tokens={tokens}; give token numbers [N P] "
            "with P at least 1, and tokens of at least 0."
        )
    lengths, shortest = _lengths(lengths, *prompt.shape)
    module = nnx.clone(cast(nnx.Module, model))
    module.eval()
    if cache is not None:
        _check_cache(module, cache, prompt, prompt.shape[1] + tokens)
    graph, state = nnx.split(module)
    choice = _Choice(temperature, top_k, top_p)
    given = (prompt, lengths, key, cache)
    return _generate(graph, state, *given, shortest, tokens, choice, stop)


def _check_cache(module: Any, cache: Any, prompt: jax.Array, positions: int) -> None:
    """Let the model refuse a cache that has no place for the last position. In the compiled
    program, which does not know positions, the last place would be written over.
    """
    jax.eval_shape(
        lambda token, cache: module.decode(token, cache, positions - 1)[0], prompt[:, :1], cache
    )


def _lengths(lengths: ArrayLike | None, n: int, longest: int) -> tuple[jax.Array, int]:
    """The length of each prompt, and the least of them, or 1 if that is not known."""
    if lengths is None:
        return jnp.full(n, longest, jnp.int32), longest
    lengths = labels("lengths", lengths)
    if lengths.shape != (n,):
        raise ValueError(f"lengths has shape {lengths.shape}; {n} prompts have {n} lengths.")
    if isinstance(lengths, Tracer):
        return lengths, 1
    values = np.asarray(lengths)
    least, most = values.min(initial=longest), values.max(initial=1)
    if least < 1 or most > longest:
        raise ValueError(
            f"lengths go from {least} to {most}; these prompts have 1 to {longest} tokens."
        )
    return lengths, int(least)


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9))
def _generate(
    graph,
    state,
    prompt,
    lengths,
    key,
    cache,
    shortest: int,
    tokens: int,
    choice: _Choice,
    stop: int | None,
):
    n, width = prompt.shape
    length = width + tokens
    filler = 0 if stop is None else stop

    def decode(x, cache, position):
        model = nnx.merge(graph, state, copy=True)
        logits, cache = model.decode(x, cache, position)
        return logits[:, -1], cache

    def choose(logits, number):
        own = None if key is None else jax.random.fold_in(key, number)
        return next_token(logits, own, **choice._asdict())

    def goes_on(carry):
        number, _, _, _, ended = carry
        return (number < length) & ~ended.all()

    def step(carry):
        number, text, logits, cache, ended = carry
        # A prompt that is longer than the shortest one is read on.
        token = jnp.where(ended, filler, choose(logits, number))
        token = jnp.where(number < lengths, text[:, number], token)
        if stop is not None:
            ended = ended | ((token == stop) & (number >= lengths))
        ended = ended | (number + 1 >= lengths + tokens)
        text = text.at[:, number].set(token)
        logits, cache = decode(token[:, None], cache, number)
        return number + 1, text, logits, cache, ended

    text = jnp.pad(prompt, ((0, 0), (0, tokens)))
    text = jnp.where(jnp.arange(length) < lengths[:, None], text, filler)
    if cache is None:
        cache = nnx.merge(graph, state, copy=True).make_cache(n, length)
    logits, cache = decode(text[:, :shortest], cache, 0)
    ended = jnp.full(n, tokens == 0)
    return jax.lax.while_loop(goes_on, step, (shortest, text, logits, cache, ended))[1]
