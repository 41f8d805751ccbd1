"""A recurrent layer's loop over time, and its gradient.

JAX's own gradient of a `scan` adds the gradient of the recurrent weight up step by step: one
small product and one sum over the whole weight for each step. Here the loop backward keeps the
gradients of the gates, and the weight's gradient is one product behind it (`scripts/bench
sequences` has the times). The rule is a `custom_vjp` of functions that JAX can differentiate,
so gradients of gradients and `jax.hessian` work; `jax.jvp` and `jax.jacfwd` of the layer itself
are refused by JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# The arrays that one step hands to the next: (h,), or (h, c) of an LSTM.
State = tuple[jax.Array, ...]


class Rule(NamedTuple):
    """The formulas of one kind of cell.

    Attributes:
      step: (input's part of the gates, state, weights) -> (new state, what the gradient needs).
      slopes: (kept by `step`, new state, state before), for all steps at once -> what `pull`
        takes.
      pull: (slopes, gradient by the new state, weights) -> (gradient by the state before, what
        `gather` takes).
      gather: (kept by `step`, slopes, pulled, new state, state before, weights), for all steps
        at once -> gradients by the input's part of the gates and by the weights.
    """

    step: Callable[..., tuple[State, Any]]
    slopes: Callable[..., Any]
    pull: Callable[..., tuple[State, Any]]
    gather: Callable[..., tuple[jax.Array, tuple[Any, ...]]]


def times_transposed(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x @ weight.T`, for a weight `[out in]` as torch has it.

    >>> times_transposed(jnp.ones((1, 2)), jnp.array([[1.0, 2.0]])).tolist()
    [[3.0]]
    """
    return x @ weight.T


def _weight_gradient(out: jax.Array, into: jax.Array) -> jax.Array:
    """The gradient of a weight `[out in]`, summed over time and batch."""
    return jnp.einsum("tno,tni->oi", out, into)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    rule: Rule,
    reverse: bool,
    gates: jax.Array,
    weights: tuple[Any, ...],
    state: State,
    valid: jax.Array | None,
) -> tuple[jax.Array, State]:
    """Run a cell over time.

    Args:
      rule: the kind of cell.
      reverse: from the last step to the first.
      gates: the input's part of the gates, `[T N G]`.
      weights: as the rule takes them.
      state: the state before the first step, arrays `[N H]`.
      valid: `[T N 1]`, false for steps that leave the state as it is; None if there are none.

    Returns:
      The first array of the state behind every step, `[T N H]`, and the last state.

    >>> rule, state = rnn_rule("relu"), (jnp.zeros((1, 1)),)
    >>> h, _ = recur(rule, False, jnp.ones((3, 1, 1)), (2 * jnp.eye(1),), state, None)
    >>> h.ravel().tolist()
    [1.0, 3.0, 7.0]
    """
    state, states = _forward(rule, reverse, gates, weights, state, valid, lambda new, _: new[0])
    return states, state


def _forward(rule, reverse, gates, weights, state, valid, kept):
    def step(state, at):
        gates, valid = at
        new, residual = rule.step(gates, state, weights)
        new = _where(valid, new, state)
        return new, kept(new, residual)

    return lax.scan(step, state, (gates, valid), reverse=reverse)


def _where(valid, new: State, old: State) -> State:
    """`new` in the valid rows."""
    if valid is None:
        return new
    return tuple(jnp.where(valid, a, b) for a, b in zip(new, old, strict=True))


def _recur_forward(rule, reverse, gates, weights, state, valid):
    last, (states, residuals) = _forward(
        rule, reverse, gates, weights, state, valid, lambda *both: both
    )
    return (states[0], last), (weights, state, states, residuals, valid)


def _recur_backward(rule, reverse, saved, cotangents):
    weights, state, states, residuals, valid = saved
    gradient_of_outputs, gradient = cotangents
    before = tuple(_shifted(*both, reverse) for both in zip(state, states, strict=True))
    slopes = rule.slopes(residuals, states, before)

    def step(gradient, at):
        of_output, slopes, valid = at
        gradient = (gradient[0] + of_output, *gradient[1:])
        back, pulled = rule.pull(slopes, gradient, weights)
        if valid is not None:
            pulled = jax.tree.map(lambda x: jnp.where(valid, x, 0), pulled)
        return _where(valid, back, gradient), pulled

    gradient, pulled = lax.scan(
        step, gradient, (gradient_of_outputs, slopes, valid), reverse=not reverse
    )
    by_gates, by_weights = rule.gather(residuals, slopes, pulled, states, before, weights)
    return by_gates, by_weights, gradient, None


recur.defvjp(_recur_forward, _recur_backward)


def _shifted(first, every, reverse):
    """The state before each step, from that before the first and those behind every step."""
    if reverse:
        return jnp.concatenate([every[1:], first[None]])
    return jnp.concatenate([first[None], every[:-1]])


# The rules stand in dictionaries and constants, since each is a static argument of `recur`: a
# new one would be compiled anew.
def rnn_rule(nonlinearity: str) -> Rule:
    """`h' = f(gates + w h)` with f of 'tanh' or 'relu'; the weights are `(w,)`."""
    return _RNN[nonlinearity]


def _make_rnn(function, slope):
    def step(gates, state, weights):
        new = (function(gates + times_transposed(state[0], weights[0])),)
        return new, ()

    def pull(slopes, gradient, weights):
        by_gates = gradient[0] * slopes
        return (by_gates @ weights[0],), by_gates

    def gather(_, slopes, by_gates, new, before, weights):
        del slopes, new, weights
        return by_gates, (_weight_gradient(by_gates, before[0]),)

    return Rule(step, lambda _, new, before: slope(new[0]), pull, gather)


_RNN = {
    "tanh": _make_rnn(jnp.tanh, lambda h: 1 - h * h),
    "relu": _make_rnn(jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}


def _lstm_step(gates, state, weights):
    """`i f g o = gates + w h`, `c' = f c + i g`, `h' = o tanh(c')`, times the projection if
    there is one.
    """
    (h, c), (weight, projection) = state, weights
    i, f, g, o = jnp.split(gates + times_transposed(h, weight), 4, -1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    h = o * jnp.tanh(c)
    if projection is not None:
        h = times_transposed(h, projection)
    return (h, c), jnp.concatenate([i, f, g, o], -1)


def _lstm_slopes(kept, new, before):
    (i, f, g, o), c = jnp.split(kept, 4, -1), jnp.tanh(new[1])
    by_c = jnp.concatenate([g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g)], -1)
    return by_c, c * o * (1 - o), o * (1 - c * c), f


def _lstm_pull(slopes, gradient, weights):
    (by_h, by_c), (weight, projection) = gradient, weights
    slopes_c, slope_o, through, forget = slopes
    by_m = by_h if projection is None else by_h @ projection
    by_c = by_c + by_m * through
    by_gates = jnp.concatenate([by_c, by_c, by_c, by_m], -1)
    by_gates = by_gates * jnp.concatenate([slopes_c, slope_o], -1)
    return (by_gates @ weight, by_c * forget), (by_gates, None if projection is None else by_h)


def _lstm_gather(kept, slopes, pulled, new, before, weights):
    del slopes
    by_gates, by_h = pulled
    by_projection = None
    if weights[1] is not None:
        projected = jnp.split(kept, 4, -1)[3] * jnp.tanh(new[1])
        by_projection = _weight_gradient(by_h, projected)
    return by_gates, (_weight_gradient(by_gates, before[0]), by_projection)


# The weights are `(w, projection or None)`.
LSTM_RULE = Rule(_lstm_step, _lstm_slopes, _lstm_pull, _lstm_gather)


def _gru_step(gates, state, weights):
    """`r z = gates + w h`, `n = tanh(gates + r (w h + b))`, `h' = (1 - z) n + z h`."""
    (h,), (weight, bias) = state, weights
    size = h.shape[-1]
    recurrent = times_transposed(h, weight)
    r, z = jnp.split(jax.nn.sigmoid(gates[..., : 2 * size] + recurrent[..., : 2 * size]), 2, -1)
    inner = recurrent[..., 2 * size :]
    if bias is not None:
        inner = inner + bias
    n = jnp.tanh(gates[..., 2 * size :] + r * inner)
    return (n + z * (h - n),), jnp.concatenate([r, z, n, inner], -1)


def _gru_slopes(kept, new, before):
    del new
    r, z, n, inner = jnp.split(kept, 4, -1)
    of_n = (1 - z) * (1 - n * n)
    of_r, of_z = of_n * inner * r * (1 - r), (before[0] - n) * z * (1 - z)
    return jnp.concatenate([of_r, of_z, of_n * r], -1), of_n, z


def _gru_pull(slopes, gradient, weights):
    (by_h,), (of_recurrent, _, z) = gradient, slopes
    by_recurrent = jnp.concatenate([by_h, by_h, by_h], -1) * of_recurrent
    return (by_recurrent @ weights[0] + by_h * z,), (by_h, by_recurrent)


def _gru_gather(kept, slopes, pulled, new, before, weights):
    del kept, new
    (by_h, by_recurrent), (_, of_n, _) = pulled, slopes
    size = by_h.shape[-1]
    by_gates = jnp.concatenate([by_recurrent[..., : 2 * size], by_h * of_n], -1)
    by_bias = None if weights[1] is None else by_recurrent[..., 2 * size :].sum((0, 1))
    return by_gates, (_weight_gradient(by_recurrent, before[0]), by_bias)


# The weights are `(w, bias of n or None)`.
GRU_RULE = Rule(_gru_step, _gru_slopes, _gru_pull, _gru_gather)
