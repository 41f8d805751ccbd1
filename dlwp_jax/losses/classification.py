"""Losses of a predicted class or probability. The class axis is the last one."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from dlwp_jax.labels import labels
from dlwp_jax.losses._common import (
    Reduction,
    as_floats,
    at_class,
    checked_classes,
    clamp_min,
    class_weights,
    floating,
    is_seen,
    reduce,
    same_shape,
    weighted,
)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Negative log-likelihood -w[y] x[y] of the true class (chapter 7.2.6,
    `torch.nn.functional.nll_loss`).

    'mean' divides by the sum of the weights w[y] that took part, not by n; if every target is
    ignored it is nan.

    Args:
      input: log-probabilities `[... C]`. torch has the classes second, `[n C ...]`: move that
        axis to the end.
      target: class indices `[...]`.
      weight: optional weight of each class `[C]`.
      ignore_index: the target that marks an element as not counted.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      IndexError: for a class outside 0 .. C-1 if it can be seen; under `jit` the loss is nan
        then.
      ValueError: for shapes that do not fit or an unknown reduction. RuntimeError: for wrong
        dtypes.

    >>> import jax.numpy as jnp
    >>> log_probs = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> round(float(nll_loss(log_probs, jnp.array([0, 1]))), 4)  # (log 2 - log 0.75) / 2
    0.4904
    """
    log_probs, target = _class_arguments(input, target)
    picked, class_weight = _pick(log_probs, target, weight, ignore_index)
    return reduce(-picked * class_weight, reduction, total=_total(class_weight))


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross-entropy of logits against classes or probabilities (`F.cross_entropy`).

    For classes: `nll_loss` of the log-softmax, with its normalisation. For probabilities q:
    -sum_c w[c] q[c] log p[c], and 'mean' divides by the number of rows, weights or not.
    Smoothing s mixes the target with the uniform one: (1 - s) q + s / C.

    Args:
      input: logits `[... C]`. torch has the classes second, `[n C ...]`: move that axis to the
        end.
      target: class indices `[...]`, or probabilities `[... C]` of floating dtype.
      weight: optional weight of each class `[C]`.
      ignore_index: the class target that marks an element as not counted.
      reduction: `'none'`, `'mean'` or `'sum'`.
      label_smoothing: s, from 0 to 1.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      IndexError: for a class outside 0 .. C-1 if it can be seen; under `jit` the loss is nan
        then.
      ValueError: for shapes that do not fit or an unknown reduction. RuntimeError: for wrong
        dtypes or smoothing.

    >>> import jax.numpy as jnp
    >>> logits = jnp.zeros((2, 5, 4))  # two sequences of five, four classes
    >>> round(float(cross_entropy(logits, jnp.zeros((2, 5), int))), 4)  # log 4
    1.3863
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing={label_smoothing} must lie between 0 and 1.")
    log_probs = jax.nn.log_softmax(floating("input", input), axis=-1)
    if jnp.shape(target) == log_probs.shape and _is_floating(target):
        if ignore_index >= 0:
            raise RuntimeError(
                f"ignore_index={ignore_index} has no meaning if the targets are probabilities."
            )
        target = jnp.asarray(target)
        return _soft_cross_entropy(log_probs, target, weight, reduction, label_smoothing)
    log_probs, target = _class_arguments(log_probs, target)
    loss, class_weight = _pick(log_probs, target, weight, ignore_index)
    loss = -loss * class_weight
    if label_smoothing:
        smooth = -jnp.sum(
            log_probs * class_weights(weight, log_probs.shape[-1], log_probs.dtype), axis=-1
        )
        smooth = jnp.where(target == ignore_index, 0.0, smooth) / log_probs.shape[-1]
        loss = (1 - label_smoothing) * loss + label_smoothing * smooth
    return reduce(loss, reduction, total=_total(class_weight))


def _is_floating(values):
    return jnp.issubdtype(jnp.result_type(values), jnp.floating)


def _total(weight):
    """The sum of the weights, in at least float32."""
    return jnp.sum(weight, dtype=jnp.promote_types(weight.dtype, jnp.float32))


def _soft_cross_entropy(log_probs, target, weight, reduction, label_smoothing):
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / log_probs.shape[-1]
    loss = -jnp.sum(
        log_probs * target * class_weights(weight, log_probs.shape[-1], log_probs.dtype),
        axis=-1,
    )
    return reduce(loss, reduction)


def _class_arguments(input, target):
    x = floating("input", input)
    if x.ndim == 0 or x.shape[:-1] != jnp.shape(target):
        raise ValueError(
            f"target has shape {jnp.shape(target)}, but input {x.shape} needs {x.shape[:-1]}: "
            "classes are the last axis of input (torch's [n C ...] has them second)."
        )
    return x, labels("target", target)


def _pick(log_probs, target, weight, ignore_index):
    """log_probs and weight at the target class; both are 0 if the target is ignored."""
    n_classes = log_probs.shape[-1]
    kept = target != ignore_index
    index = checked_classes(jnp.where(kept, target, 0), n_classes)
    weight = class_weights(weight, n_classes, log_probs.dtype)
    picked = jnp.where(kept, at_class(log_probs, index), 0.0)
    return picked, jnp.where(kept, weight[index], 0.0)


def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross-entropy of a probability, -y log x - (1 - y) log(1 - x) (`F.binary_cross_entropy`).

    As torch does, logarithms stop at -100 and the derivative's denominator x (1 - x) at 1e-12,
    so that probabilities of exactly 0 and 1 give finite numbers. Prefer
    `binary_cross_entropy_with_logits`.

    Args:
      input: probabilities `[...]`, from 0 to 1.
      target: probabilities of the same shape.
      weight: optional factor for each element, broadcast to the shape of `input`.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      RuntimeError: for an input outside 0 .. 1 if it can be seen; under `jit` the loss is
        nan then.
      ValueError: for different shapes or an unknown reduction.

    >>> import jax.numpy as jnp
    >>> round(float(binary_cross_entropy(jnp.array([0.5]), jnp.array([1.0]))), 4)
    0.6931
    """
    x, y = same_shape(input=input, target=target)
    if is_seen(lambda x: ~((x >= 0) & (x <= 1)), x):
        raise RuntimeError(
            "input has values outside 0 .. 1; binary_cross_entropy needs probabilities."
        )
    return reduce(weighted(_bernoulli_nll(x, y.astype(x.dtype)), weight), reduction)


@jax.custom_jvp
def _bernoulli_nll(x, y):
    return (y - 1) * clamp_min(jnp.log1p(-x), -100.0) - y * clamp_min(jnp.log(x), -100.0)


@_bernoulli_nll.defjvp
def _bernoulli_nll_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    slope_x = (x - y) / clamp_min(x * (1 - x), 1e-12)
    slope_y = jnp.log1p(-x) - jnp.log(x)
    return _bernoulli_nll(x, y), slope_x * dx + slope_y * dy


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross-entropy of a logit, stable for large ones (`F.binary_cross_entropy_with_logits`).

    (1 - y) x - (1 + (p - 1) y) log sigmoid(x), with p the weight of the positive class.

    Args:
      input: logits `[...]`.
      target: probabilities of the same shape.
      weight: optional factor for each element, broadcast to the shape of `input`.
      pos_weight: optional p, broadcast to the shape of `input`; above one it favours recall.
      reduction: `'none'`, `'mean'` or `'sum'`.

    Returns:
      A scalar, or `[...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        logits.

    >>> import jax.numpy as jnp
    >>> logit, target = jnp.array([0.0]), jnp.array([1.0])
    >>> round(float(binary_cross_entropy_with_logits(logit, target, pos_weight=3.0)), 4)
    2.0794
    """
    x, y = same_shape(input=input, target=target)
    positive = 1
    if pos_weight is not None:
        positive += weighted(y, as_floats(pos_weight, x.dtype) - 1)
    loss = (1 - y) * x - positive * jax.nn.log_sigmoid(x)
    return reduce(weighted(loss, weight), reduction)


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    *,
    log_target: bool = False,
    reduction: Reduction | Literal["batchmean"] = "mean",
) -> jax.Array:
    """Kullback-Leibler divergence y (log y - x), pointwise (`F.kl_div`).

    Args:
      input: log-probabilities `[n ...]`.
      target: probabilities of the same shape, or their logarithms with `log_target=True`.
      log_target: whether `target` holds logarithms.
      reduction: `'none'`, `'mean'` (over every element, which is not the divergence), `'sum'`
        or `'batchmean'` (the sum over n: the divergence).

    Returns:
      A scalar, or `[n ...]` for `'none'`.

    Raises:
      ValueError: for different shapes or an unknown reduction. RuntimeError: for integer
        predictions.

    >>> import jax.numpy as jnp
    >>> p = jnp.array([[0.5, 0.5]])
    >>> round(float(kl_div(jnp.log(jnp.array([[0.25, 0.75]])), p, reduction="batchmean")), 4)
    0.1438
    """
    x, y = same_shape(input=input, target=target)
    loss = jnp.exp(y) * (y - x) if log_target else xlogy(y, y) - y * x
    if reduction == "batchmean":
        return reduce(loss, "mean", total=x.shape[0] if x.ndim else 1)
    return reduce(loss, reduction)
