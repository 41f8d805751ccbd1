"""Loss of a sequence whose alignment is unknown."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dlwp_jax.labels import labels
from dlwp_jax.losses._common import (
    Reduction,
    checked_classes,
    floating,
    is_seen,
    reduce,
)


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Connectionist temporal classification, by `optax.ctc_loss` (`F.ctc_loss`).

    'mean' divides each loss by its target's length (at least 1) and then averages over the
    batch, as torch does. A target that cannot be fitted into its input costs inf (0 with
    `zero_infinity`); its gradient is 0; torch's is nan without `zero_infinity`.

    Args:
      log_probs: `[T n C]`, the output of a log-softmax (optax normalises it again;
        torch does not).
      targets: class indices `[n S]`, padded at the right with anything. torch's one-dimensional
        concatenated form is not taken.
      input_lengths: `[n]`, at most T.
      target_lengths: `[n]`, at most S.
      blank: the class that stands for no label.
      zero_infinity: whether impossible targets count as 0.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[n]` for `'none'`.

    Raises:
      ValueError: for shapes that do not fit or an unknown reduction.
      IndexError: for a class that is not there, if it can be seen; under `jit` the loss is
        nan then.
      RuntimeError: for lengths that are too long, if they can be seen.

    >>> import jax, jax.numpy as jnp
    >>> uniform = jax.nn.log_softmax(jnp.zeros((2, 1, 3)))
    >>> # "aa", "a-", "-a" of the nine paths read as "a"
    >>> loss = ctc_loss(uniform, jnp.array([[1]]), jnp.array([2]), jnp.array([1]))
    >>> round(float(jnp.exp(-loss)), 4)
    0.3333
    """
    log_probs, targets = floating("log_probs", log_probs), labels("targets", targets)
    input_lengths = labels("input_lengths", input_lengths)
    target_lengths = labels("target_lengths", target_lengths)
    if log_probs.ndim != 3 or targets.ndim != 2 or targets.shape[0] != log_probs.shape[1]:
        raise ValueError(
            f"log_probs {log_probs.shape} and targets {targets.shape} must be [T n C] and "
            "[n S]."
        )
    n = (targets.shape[0],)
    if input_lengths.shape != n or target_lengths.shape != n:
        raise ValueError(
            f"input_lengths {input_lengths.shape} and target_lengths "
            f"{target_lengths.shape} must both be {n}."
        )
    _check_lengths("input_lengths", input_lengths, log_probs.shape[0])
    _check_lengths("target_lengths", target_lengths, targets.shape[1])
    n_classes = log_probs.shape[2]
    if not 0 <= blank < n_classes:
        raise ValueError(f"blank={blank} is not one of {n_classes} classes.")
    past_input = jnp.arange(log_probs.shape[0]) >= input_lengths[:, None]
    past_target = jnp.arange(targets.shape[1]) >= target_lengths[:, None]
    targets = checked_classes(jnp.where(past_target, blank, targets), n_classes)
    wide = jnp.promote_types(log_probs.dtype, jnp.float32)  # optax marks log 0 by -1e5
    loss = optax.ctc_loss(
        jnp.swapaxes(log_probs, 0, 1).astype(wide),
        past_input.astype(wide),
        targets,
        past_target.astype(wide),
        blank_id=blank,
    )
    # Rounding may leave -1e-7 for a target that is certain. The gradient is that of `loss`.
    loss = jnp.where(loss < 0, loss - jax.lax.stop_gradient(loss), loss)
    # A repeated label needs a blank between: an input too short for that has no path at all.
    repeats = jnp.sum((targets[:, 1:] == targets[:, :-1]) & ~past_target[:, 1:], axis=1)
    impossible = input_lengths < target_lengths + repeats
    loss = jnp.where(impossible, 0.0 if zero_infinity else jnp.inf, loss)
    loss = jnp.where(jnp.any(targets == n_classes, axis=1), jnp.nan, loss)
    if reduction == "mean":
        loss = loss / jnp.maximum(target_lengths, 1)
    return reduce(loss.astype(log_probs.dtype), reduction)


def _check_lengths(name: str, lengths, most: int) -> None:
    if is_seen(lambda lengths: (lengths < 0) | (lengths > most), lengths):
        raise RuntimeError(f"{name} has values outside 0 .. {most}.")
