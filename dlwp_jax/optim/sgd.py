"""Gradient descent with momentum, with averaging, and by signs only."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from dlwp_jax.optim._rule import (
    LearningRate,
    Scalar,
    is_zero,
    power,
    require,
    require_non_negative,
    transformation,
    zeros,
)


class SgdState(NamedTuple):
    """`momentum_buffer` is torch's. torch has no `step`; here step > 0 means that the buffer is
    filled.
    """

    step: Any
    momentum_buffer: Any = None


def sgd(
    lr: LearningRate = 1e-3,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Gradient descent with momentum (chapter 5, `torch.optim.SGD`).

    g <- g + weight_decay p; b <- momentum b + (1 - dampening) g, the first time b <- g; p <- p
    - lr b. Nesterov steps along g + momentum b. The learning rate is outside the buffer, so a
    schedule acts at once.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      momentum: how much of the last step's direction is kept.
      dampening: how much of the gradient does not enter the buffer.
      weight_decay: L2 penalty, added to the gradient before momentum.
      nesterov: look ahead; needs momentum > 0 and dampening 0.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `SgdState`.

    Raises:
      ValueError: for negative options or Nesterov without momentum.

    >>> import jax.numpy as jnp, optax
    >>> tx, params = sgd(0.5, momentum=0.5), jnp.array([1.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):  # the gradient of p^2 / 2 is p
    ...     updates, state = tx.update(params, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params.tolist()
    [0.0]
    """
    require_non_negative("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    if nesterov and (
        (isinstance(momentum, int | float) and momentum <= 0) or not is_zero(dampening)
    ):
        raise ValueError(
            f"sgd: nesterov needs momentum > 0 and dampening 0, not {momentum} and {dampening}."
        )

    def rule(g, p, lr, step, momentum_buffer=None):
        del p
        if momentum_buffer is None:
            return -lr * g, {}
        buffer = jnp.where(step == 1, g, momentum * momentum_buffer + (1 - dampening) * g)
        direction = g + momentum * buffer if nesterov else buffer
        return -lr * direction, {"momentum_buffer": buffer}

    slots = {} if is_zero(momentum) else {"momentum_buffer": zeros}
    return transformation(
        SgdState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class AsgdState(NamedTuple):
    """torch's fields: the rate `eta`, the weight `mu` of the average, and `ax`, the running
    average of the parameters, which is the result to use in the end.
    """

    step: Any
    eta: Any
    mu: Any
    ax: Any


def asgd(
    lr: LearningRate = 1e-2,
    lambd: Scalar = 1e-4,
    alpha: Scalar = 0.75,
    t0: Scalar = 1e6,
    weight_decay: Scalar = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Averaged gradient descent (`torch.optim.ASGD`).

    p <- (1 - lambd eta) p - eta g, with eta = lr / (1 + lambd lr t)^alpha taken from the step
    before; from step t0 on `ax` averages the parameters, before that it is a copy of them.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      lambd: decay of the parameters and of eta.
      alpha: power of the decay of eta.
      t0: the step at which averaging starts.
      weight_decay: L2 penalty, added to the gradient.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `AsgdState`.

    Raises:
      ValueError: for negative options.

    >>> import jax.numpy as jnp
    >>> tx, params = asgd(0.5, lambd=0.0), jnp.array([1.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates.tolist(), state.ax.tolist()
    ([-0.5], [0.5])
    """
    require_non_negative("asgd", lr=lr, weight_decay=weight_decay)

    def rule(g, p, lr, step, eta, mu, ax):
        delta = -eta * g - lambd * eta * p
        ax = jnp.where(mu == 1, p + delta, ax + mu * (p + delta - ax))
        eta = lr / power(1 + lambd * lr * step, alpha)
        return delta, {"eta": eta, "mu": 1 / jnp.maximum(1.0, step - t0), "ax": ax}

    slots = {
        "eta": lambda p, lr: jnp.asarray(lr, p.dtype),
        "mu": lambda p, lr: jnp.ones((), p.dtype),
        "ax": zeros,
    }
    return transformation(
        AsgdState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class RpropState(NamedTuple):
    """torch's fields: `prev`, the last gradient (0 for elements whose sign turned), and
    `step_size`, each element's own step.
    """

    step: Any
    prev: Any
    step_size: Any


def rprop(
    lr: LearningRate = 1e-2,
    etas: tuple[Scalar, Scalar] = (0.5, 1.2),
    step_sizes: tuple[Scalar, Scalar] = (1e-6, 50.0),
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Resilient backpropagation: only the signs of full-batch gradients count
    (`torch.optim.Rprop`).

    Each element's step grows by etas[1] while its gradient keeps its sign and shrinks by
    etas[0] when it turns; a turned element waits one step. `lr` is the first step size; a
    schedule has no effect after that, as in torch.

    Args:
      lr: the first step size: a number, a traced scalar or a schedule.
      etas: factors (shrink, grow), 0 < shrink < 1 < grow.
      step_sizes: the smallest and the largest step.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `RpropState`.

    Raises:
      ValueError: for a negative lr or factors out of order.

    >>> import jax.numpy as jnp
    >>> tx, params = rprop(0.25), jnp.array([3.0, -0.001])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates.tolist()
    [-0.25, 0.25]
    """
    require_non_negative("rprop", lr=lr)
    shrink, grow = etas
    require("rprop", etas=(shrink, lambda v: 0 < v < 1, "(shrink, grow) with 0 < shrink < 1"))
    require("rprop", etas=(grow, lambda v: v > 1, "(shrink, grow) with grow > 1"))

    def rule(g, p, lr, step, prev, step_size):
        del p, lr, step
        agreement = g * prev
        factor = jnp.where(agreement > 0, grow, jnp.where(agreement < 0, shrink, 1.0))
        step_size = jnp.clip(step_size * factor, *step_sizes)
        g = jnp.where(agreement < 0, 0.0, g)
        return -jnp.sign(g) * step_size, {"prev": g, "step_size": step_size}

    slots = {"prev": zeros, "step_size": lambda p, lr: jnp.full_like(p, lr)}
    return transformation(RpropState, rule, lr=lr, slots=slots, maximize=maximize)
