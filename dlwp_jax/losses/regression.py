"""Losses of a predicted number: how far, and how unlikely."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from dlwp_jax.losses._common import (
    Reduction,
    absolute,
    clamp_min,
    floating,
    is_seen,
    reduce,
    same_shape,
)


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Squared error (x - y)^2, the loss of chapter 5 (`F.mse_loss`).

    Args:
      input: predictions `[...]`, floating point.
      target: the truth, of the same shape.
      weight: optional factor for each element, of the same shape; 'mean' then divides by the
        sum of the weights.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> float(mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    return _weighted_mean_loss(lambda x, y: (x - y) ** 2, input, target, weight, reduction)


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Absolute error |x - y|, with derivative 0 at x = y (`F.l1_loss`).

    Arguments, result and errors are those of `mse_loss`.

    >>> import jax.numpy as jnp
    >>> float(l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    1.0
    """
    return _weighted_mean_loss(lambda x, y: absolute(x - y), input, target, weight, reduction)


def _weighted_mean_loss(error, input, target, weight, reduction):
    x, y = same_shape(input=input, target=target)
    if weight is None:
        return reduce(error(x, y), reduction)
    _, weight = same_shape(input=x, weight=weight)
    total = jnp.sum(weight, dtype=jnp.promote_types(weight.dtype, jnp.float32))
    return reduce(error(x, y) * weight, reduction, total=total)


def smooth_l1_loss(
    input: ArrayLike, target: ArrayLike, *, beta: float = 1.0, reduction: Reduction = "mean"
) -> jax.Array:
    """Squared error near zero, absolute error further out (`F.smooth_l1_loss`).

    d^2 / (2 beta) if |d| < beta, else |d| - beta / 2, with d = x - y. `beta=0` is `l1_loss`.

    Args:
      input: predictions `[...]`.
      target: the truth, of the same shape.
      beta: the distance at which the square turns into the absolute value; a number, not
        traced.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for beta < 0, as
        torch.

    >>> import jax.numpy as jnp
    >>> smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), reduction="none").tolist()
    [0.125, 2.5]
    """
    if beta < 0:
        raise RuntimeError(f"beta={beta} is negative; smooth_l1_loss needs beta >= 0.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    x, y = same_shape(input=input, target=target)
    distance = jnp.abs(x - y)
    loss = jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return reduce(loss, reduction)


def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    delta: float = 1.0,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Squared error near zero, slope `delta` further out (`F.huber_loss`).

    d^2 / 2 if |d| <= delta, else delta (|d| - delta / 2): `smooth_l1_loss` times delta.

    Args:
      input: predictions `[...]`.
      target: the truth, of the same shape.
      delta: the distance at which the square ends; a number, not traced.
      weight: optional factors of the same shape; as in torch, 'mean' still divides by the
        number of elements.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for delta <= 0, as
        torch.

    >>> import jax.numpy as jnp
    >>> huber_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), delta=2.0, reduction="none").tolist()
    [0.125, 4.0]
    """
    if delta <= 0:
        raise RuntimeError(f"delta={delta} is not positive; huber_loss needs delta > 0.")
    x, y = same_shape(input=input, target=target)
    distance = jnp.abs(x - y)
    loss = jnp.where(distance <= delta, 0.5 * distance**2, delta * (distance - 0.5 * delta))
    if weight is not None:
        loss = loss * same_shape(input=x, weight=weight)[1]
    return reduce(loss, reduction)


def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Negative log-likelihood of a count under a Poisson distribution (`F.poisson_nll_loss`).

    exp(x) - y x for a predicted log-rate, x - y log(x + eps) for a predicted rate; `full` adds
    Stirling's y log y - y + log(2 pi y) / 2 if y > 1.

    Args:
      input: predicted log-rates (`log_input=True`) or rates `[...]`.
      target: counts, of the same shape.
      log_input: whether `input` is the logarithm of the rate.
      full: whether to add Stirling's approximation of log(y!).
      eps: keeps the logarithm of a rate away from zero.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> float(poisson_nll_loss(jnp.array([0.0]), jnp.array([3.0])))
    1.0
    """
    x, y = same_shape(input=input, target=target)
    loss = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        counts = jnp.where(y > 1, y, 1.0)  # keeps log(0) out of the masked gradients
        loss += jnp.where(
            y > 1, xlogy(counts, counts) - counts + 0.5 * jnp.log(2 * math.pi * counts), 0.0
        )
    return reduce(loss, reduction)


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    *,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Negative log-likelihood under a normal distribution (`F.gaussian_nll_loss`).

    (log v + (x - y)^2 / v) / 2 with v = max(var, eps). As in torch the clamp does not stop the
    gradient to `var`.

    Args:
      input: predicted means `[... d]`.
      target: samples, of the same shape.
      var: variances: a number, `[... d]`, `[... 1]` or `[...]` (one for each row of `input`).
      full: whether to add the constant log(2 pi) / 2.
      eps: the smallest variance.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[... d]` for `'none'`.

    Raises:
      ValueError: for shapes that do not fit, and for a negative variance if it can be seen
        (not under `jit`).

    >>> import jax.numpy as jnp
    >>> float(gaussian_nll_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])))
    2.0
    """
    x, y = same_shape(input=input, target=target)
    var = _variance(var, x)
    clamped = lax.stop_gradient(clamp_min(var, eps)) + (var - lax.stop_gradient(var))
    loss = 0.5 * (jnp.log(clamped) + (x - y) ** 2 / clamped)
    if full:
        loss += 0.5 * math.log(2 * math.pi)
    return reduce(loss, reduction)


def _variance(var, x):
    """`var` in a shape that broadcasts against the means `x`, by torch's rules."""
    var = floating("var", var)
    if is_seen(lambda var: var < 0, var):
        raise ValueError("var has a negative entry; variances are >= 0.")
    if var.ndim == 0 or var.shape == x.shape:
        return var
    if var.shape == x.shape[:-1]:
        return var[..., None]
    mismatches = [v for v, n in zip(var.shape, x.shape, strict=False) if v != n]
    if var.ndim == x.ndim and mismatches == [1]:
        return var
    raise ValueError(
        f"var has shape {var.shape}; for input {x.shape} take that shape or one value for "
        "each row."
    )
