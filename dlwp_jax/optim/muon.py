"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax

from dlwp_jax.optim._rule import (
    LearningRate,
    Scalar,
    lerp,
    require_non_negative,
    transformation,
    zeros,
)


class MuonState(NamedTuple):
    """`momentum_buffer` is torch's; torch keeps no `step` and nothing depends on it but a
    schedule.
    """

    step: Any
    momentum_buffer: Any


def muon(
    lr: LearningRate = 1e-3,
    weight_decay: Scalar = 0.1,
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Scalar, Scalar, Scalar] = (3.4445, -4.775, 2.0315),
    eps: Scalar = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
) -> optax.GradientTransformation:
    """Muon for matrices (`torch.optim.Muon`): steps along the nearly orthogonal part of the
    momentum.

    b <- b + (1 - momentum) (g - b); O = Newton-Schulz(g + momentum (b - g)); p <- (1 - lr
    weight_decay) p - lr' O, with lr' = lr sqrt(max(1, rows / columns)), or 0.2 lr
    sqrt(max(rows, columns)) for `'match_rms_adamw'`.

    torch rounds every product of the iteration to bfloat16, and so does this: small matrices
    come out equal bit for bit, in large ones a sum taken in another order now and then rounds
    to the neighbour, 2^-8 of an entry. Rows are torch's output features: for Flax kernels `[in
    out]` wrap in `torch_layout`.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      weight_decay: decoupled decay.
      momentum: decay rate of the buffer.
      nesterov: look ahead.
      ns_coefficients: of the quintic iteration.
      eps: the smallest norm to divide by.
      ns_steps: how many iterations, below 100.
      adjust_lr_fn: None or `'original'`, or `'match_rms_adamw'`.

    Returns:
      An `optax.GradientTransformation` with state `MuonState`.

    Raises:
      ValueError: for parameters that are not matrices (give those to AdamW with `groups`) and
        for wrong options.

    >>> import jax.numpy as jnp
    >>> tx, params = muon(0.1, weight_decay=0.0), jnp.eye(2)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> 0.05 < -float(updates[0, 0]) < 0.15  # singular values come out near one
    True
    """
    require_non_negative("muon", lr=lr, weight_decay=weight_decay, momentum=momentum)
    if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
        raise ValueError(
            f"muon: adjust_lr_fn={adjust_lr_fn!r} is not 'original' or 'match_rms_adamw'."
        )
    if ns_steps >= 100 or len(ns_coefficients) != 3:
        raise ValueError(
            f"muon: ns_steps={ns_steps} must be < 100, ns_coefficients={ns_coefficients} three."
        )

    def start(param, lr):
        if param.ndim != 2:
            raise ValueError(f"muon takes matrices only; a parameter has shape {param.shape}.")
        return zeros(param, lr)

    def rule(g, p, lr, step, momentum_buffer):
        del step
        buffer = lerp(momentum_buffer, g, 1 - momentum)
        direction = lerp(g, buffer, momentum) if nesterov else buffer
        rows, columns = p.shape
        scales = {
            "original": max(1, rows / columns) ** 0.5,
            "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5,
        }
        orthogonal = _orthogonal(direction, ns_coefficients, ns_steps, eps).astype(p.dtype)
        return -lr * scales[adjust_lr_fn or "original"] * orthogonal, {
            "momentum_buffer": buffer
        }

    slots = {"momentum_buffer": start}
    return transformation(MuonState, rule, lr=lr, slots=slots, decay=weight_decay)


def _orthogonal(matrix, coefficients, steps, eps):
    """The quintic Newton-Schulz iteration X <- a X + (b G + c G G) X with G = X X^T, every line
    rounded.

    Entries of bfloat16 are exact in every precision a matrix product may run at (TF32
    included).
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = _bfloat16(matrix.T if tall else matrix)
    x = _bfloat16(x / jnp.maximum(_bfloat16(jnp.sqrt(jnp.sum(x * x))), eps))
    for _ in range(steps):
        gram = _bfloat16(x @ x.T)
        polynomial = _bfloat16(b * gram + c * (gram @ gram))
        x = _bfloat16(a * x + polynomial @ x)
    return x.T if tall else x


def _bfloat16(x):
    """Round to bfloat16 and stay in float32: XLA may drop a conversion there and back, but
    never this.
    """
    return lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)
