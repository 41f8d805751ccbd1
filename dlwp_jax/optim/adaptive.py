"""Optimizers that divide by the size of past gradients: RMSprop, Adagrad, Adadelta,
Adafactor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from dlwp_jax.optim._rule import (
    LearningRate,
    Scalar,
    is_zero,
    lerp,
    require,
    require_non_negative,
    transformation,
    zeros,
)


class RmspropState(NamedTuple):
    """torch's fields: `square_avg`, the average of the squared gradient, `momentum_buffer`
    (None without momentum) and `grad_avg` (None unless centered).
    """

    step: Any
    square_avg: Any
    momentum_buffer: Any = None
    grad_avg: Any = None


def rmsprop(
    lr: LearningRate = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """RMSprop (`torch.optim.RMSprop`): v <- alpha v + (1 - alpha) g^2; p <- p - lr g / (sqrt(v)
    + eps).

    `eps` is outside the root and the learning rate outside the momentum buffer; optax.rmsprop
    has both inside.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      alpha: decay rate of v.
      eps: added to the root.
      weight_decay: L2 penalty, added to the gradient.
      momentum: b <- momentum b + g / (sqrt(v) + eps), and p <- p - lr b.
      centered: divide by the standard deviation, sqrt(v - mean(g)^2).
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `RmspropState`.

    Raises:
      ValueError: for negative options.

    >>> import jax.numpy as jnp
    >>> tx, params = rmsprop(0.1), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0]), 4)  # 0.1 * 2 / sqrt(0.01 * 4)
    -1.0
    """
    require_non_negative(
        "rmsprop", lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
    )

    def rule(g, p, lr, step, square_avg, momentum_buffer=None, grad_avg=None):
        del p, step
        new = {"square_avg": alpha * square_avg + (1 - alpha) * g * g}
        variance = new["square_avg"]
        if grad_avg is not None:
            new["grad_avg"] = lerp(grad_avg, g, 1 - alpha)
            variance = variance - new["grad_avg"] ** 2
        direction = g / (jnp.sqrt(variance) + eps)
        if momentum_buffer is not None:
            direction = new["momentum_buffer"] = momentum * momentum_buffer + direction
        return -lr * direction, new

    slots = {"square_avg": zeros}
    slots |= {} if is_zero(momentum) else {"momentum_buffer": zeros}
    slots |= {"grad_avg": zeros} if centered else {}
    return transformation(
        RmspropState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class AdagradState(NamedTuple):
    """torch's fields; `sum` is the sum of the squared gradients."""

    step: Any
    sum: Any


def adagrad(
    lr: LearningRate = 1e-2,
    lr_decay: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    initial_accumulator_value: Scalar = 0.0,
    eps: Scalar = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adagrad (`torch.optim.Adagrad`).

    s <- s + g^2; p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps).

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      lr_decay: how fast the learning rate falls with the steps.
      weight_decay: L2 penalty, added to the gradient.
      initial_accumulator_value: the first value of s.
      eps: added to the root; optax.adagrad adds it inside the root.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `AdagradState`.

    Raises:
      ValueError: for negative options.

    >>> import jax.numpy as jnp
    >>> tx, params = adagrad(0.1), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0]), 4), state.sum.tolist()
    (-0.1, [4.0])
    """
    require_non_negative(
        "adagrad",
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
    )

    def rule(g, p, lr, step, sum):
        del p
        sum = sum + g * g
        return -lr / (1 + (step - 1) * lr_decay) * g / (jnp.sqrt(sum) + eps), {"sum": sum}

    slots = {"sum": lambda p, lr: jnp.full_like(p, initial_accumulator_value)}
    return transformation(
        AdagradState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class AdadeltaState(NamedTuple):
    """torch's fields: the averages `square_avg` of the squared gradient and `acc_delta` of the
    squared step.
    """

    step: Any
    square_avg: Any
    acc_delta: Any


def adadelta(
    lr: LearningRate = 1.0,
    rho: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adadelta (`torch.optim.Adadelta`): steps in the units of the parameters.

    v <- rho v + (1 - rho) g^2; d = sqrt(a + eps) / sqrt(v + eps) g; a <- rho a + (1 - rho) d^2;
    p <- p - lr d.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      rho: decay rate of both averages, from 0 to 1.
      eps: inside both roots.
      weight_decay: L2 penalty, added to the gradient.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `AdadeltaState`.

    Raises:
      ValueError: for negative options or rho above 1.

    >>> import jax.numpy as jnp
    >>> tx, params = adadelta(), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0]), 5)  # sqrt(1e-6) / sqrt(0.4) * 2
    -0.00316
    """
    require_non_negative("adadelta", lr=lr, eps=eps, weight_decay=weight_decay)
    require("adadelta", rho=(rho, lambda v: 0 <= v <= 1, "in [0, 1]"))

    def rule(g, p, lr, step, square_avg, acc_delta):
        del p, step
        square_avg = rho * square_avg + (1 - rho) * g * g
        delta = jnp.sqrt(acc_delta + eps) / jnp.sqrt(square_avg + eps) * g
        acc_delta = rho * acc_delta + (1 - rho) * delta * delta
        return -lr * delta, {"square_avg": square_avg, "acc_delta": acc_delta}

    slots = {"square_avg": zeros, "acc_delta": zeros}
    return transformation(
        AdadeltaState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class AdafactorState(NamedTuple):
    """torch's fields. Matrices have `row_var` and `col_var`, vectors `variance`; the others
    have size 0.
    """

    step: Any
    row_var: Any
    col_var: Any
    variance: Any


def adafactor(
    lr: LearningRate = 1e-2,
    beta2_decay: Scalar = -0.8,
    eps: tuple[Scalar | None, Scalar] = (None, 1e-3),
    d: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adafactor (`torch.optim.Adafactor`): the second average of a matrix is kept as one row
    and one column.

    The factored axes are the last two. For a convolution these are the kernel's own axes in
    torch but the channels here; wrap in `torch_layout` to factor what torch does.

    Args:
      lr: the largest relative step: a number, a traced scalar or a schedule.
      beta2_decay: the averages forget by t^beta2_decay.
      eps: the smallest root (None: the machine epsilon of the parameter) and the smallest scale
        of a parameter.
      d: updates with a larger root mean square are scaled down to it.
      weight_decay: decoupled decay p <- (1 - lr weight_decay) p.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `AdafactorState`.

    Raises:
      ValueError: for options out of torch's range.

    >>> import jax.numpy as jnp
    >>> tx, params = adafactor(), jnp.ones((3, 4))
    >>> state = tx.init(params)
    >>> state.row_var.shape, state.col_var.shape, state.variance.shape
    ((3, 1), (1, 4), (0,))
    """
    eps1, eps2 = eps
    require_non_negative("adafactor", lr=lr, eps1=eps1, eps2=eps2, weight_decay=weight_decay)
    require(
        "adafactor",
        d=(d, lambda v: v >= 1, ">= 1"),
        beta2_decay=(beta2_decay, lambda v: v <= 0, "<= 0"),
    )

    def rule(g, p, lr, step, row_var, col_var, variance):
        floor = jnp.finfo(p.dtype).eps if eps1 is None else eps1
        forget = step**beta2_decay
        alpha = jnp.maximum(eps2, _root_mean_square(p)) * jnp.minimum(lr, 1 / jnp.sqrt(step))
        if g.ndim > 1:
            row_var = lerp(row_var, jnp.mean(g * g, axis=-1, keepdims=True), forget)
            col_var = lerp(col_var, jnp.mean(g * g, axis=-2, keepdims=True), forget)
            estimate = (
                row_var
                * col_var
                / jnp.maximum(jnp.mean(row_var, axis=-2, keepdims=True), floor)
            )
        else:
            variance = estimate = lerp(variance, g * g, forget)
        update = g / jnp.sqrt(jnp.maximum(estimate, floor * floor))
        update = update / jnp.maximum(1.0, _root_mean_square(update) / d)
        return -alpha * update, {"row_var": row_var, "col_var": col_var, "variance": variance}

    slots = {
        "row_var": lambda p, lr: jnp.zeros((*p.shape[:-1], 1) if p.ndim > 1 else 0, p.dtype),
        "col_var": lambda p, lr: jnp.zeros(
            (*p.shape[:-2], 1, p.shape[-1]) if p.ndim > 1 else 0, p.dtype
        ),
        "variance": lambda p, lr: jnp.zeros(0 if p.ndim > 1 else p.shape, p.dtype),
    }
    return transformation(
        AdafactorState, rule, lr=lr, slots=slots, decay=weight_decay, maximize=maximize
    )


def _root_mean_square(x):
    return jnp.sqrt(jnp.mean(x * x))
