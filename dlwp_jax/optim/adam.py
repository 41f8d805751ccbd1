"""Adam and its relatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from dlwp_jax.optim._rule import (
    LearningRate,
    Scalar,
    is_zero,
    lerp,
    one_minus_power,
    power,
    require_betas,
    require_non_negative,
    transformation,
    zeros,
)


class AdamState(NamedTuple):
    """torch's fields: `step`, the averages `exp_avg` of g and `exp_avg_sq` of g^2, and with
    `amsgrad` `max_exp_avg_sq`, the maximum of the latter.
    """

    step: Any
    exp_avg: Any
    exp_avg_sq: Any
    max_exp_avg_sq: Any = None


def adam(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam (chapter 5, `torch.optim.Adam`).

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; p <- p - lr m / (1 - b1^t) / (sqrt(v / (1
    - b2^t)) + eps). `weight_decay` is an L2 penalty on the gradient, as in torch; optax.adam
    has none.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      betas: decay rates (b1, b2) of the two averages.
      eps: added to the root, outside of it.
      weight_decay: L2 penalty, added to the gradient.
      amsgrad: divide by the largest v so far.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `AdamState`.

    Raises:
      ValueError: for negative options or betas outside [0, 1).

    >>> import jax.numpy as jnp
    >>> tx, params = adam(0.1), jnp.array([2.0, -30.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> [round(u, 4) for u in updates.tolist()]  # the size of the first step is lr
    [-0.1, 0.1]
    """
    return _adam("adam", lr, betas, eps, amsgrad, l2=weight_decay, maximize=maximize)


def adamw(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay p <- (1 - lr weight_decay) p (`torch.optim.AdamW`).

    The default decay is torch's 1e-2 (optax.adamw has 1e-4). Arguments, result and errors are
    those of `adam`.

    >>> import jax.numpy as jnp
    >>> tx, params = adamw(0.1, weight_decay=0.5), jnp.array([2.0])
    >>> updates, state = tx.update(jnp.zeros(1), tx.init(params), params)
    >>> round(float(updates[0]), 4)  # no gradient: only the decay, 0.1 * 0.5 * 2
    -0.1
    """
    return _adam("adamw", lr, betas, eps, amsgrad, decay=weight_decay, maximize=maximize)


def _adam(name, lr, betas, eps, amsgrad, *, l2: Scalar = 0.0, decay: Scalar = 0.0, maximize):
    require_non_negative(name, lr=lr, eps=eps, weight_decay=l2 if is_zero(decay) else decay)
    require_betas(name, betas)
    beta1, beta2 = betas

    def rule(g, p, lr, step, exp_avg, exp_avg_sq, max_exp_avg_sq=None):
        del p
        new = _averages(g, exp_avg, exp_avg_sq, betas)
        largest = new["exp_avg_sq"]
        if max_exp_avg_sq is not None:
            largest = new["max_exp_avg_sq"] = jnp.maximum(max_exp_avg_sq, largest)
        root = jnp.sqrt(largest) / jnp.sqrt(one_minus_power(beta2, step)) + eps
        return -lr / one_minus_power(beta1, step) * new["exp_avg"] / root, new

    slots = {"exp_avg": zeros, "exp_avg_sq": zeros} | (
        {"max_exp_avg_sq": zeros} if amsgrad else {}
    )
    return transformation(
        AdamState, rule, lr=lr, slots=slots, l2=l2, decay=decay, maximize=maximize
    )


def _averages(g, exp_avg, exp_avg_sq, betas):
    """The two moving averages after one more gradient."""
    return {
        "exp_avg": lerp(exp_avg, g, 1 - betas[0]),
        "exp_avg_sq": betas[1] * exp_avg_sq + (1 - betas[1]) * g * g,
    }


class AdamaxState(NamedTuple):
    """torch's fields: `step`, the average `exp_avg` of the gradient, and `exp_inf`, the decayed
    maximum of its size.
    """

    step: Any
    exp_avg: Any
    exp_inf: Any


def adamax(
    lr: LearningRate = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with a maximum in place of the second average (`torch.optim.Adamax`).

    u <- max(b2 u, |g| + eps); p <- p - lr m / (1 - b1^t) / u. Arguments, result and errors are
    those of `adam`; the state is `AdamaxState`.

    >>> import jax.numpy as jnp
    >>> tx, params = adamax(0.1), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0]), 4), state.exp_inf.tolist()
    (-0.1, [2.0])
    """
    require_non_negative("adamax", lr=lr, eps=eps, weight_decay=weight_decay)
    require_betas("adamax", betas)

    def rule(g, p, lr, step, exp_avg, exp_inf):
        del p
        exp_avg = lerp(exp_avg, g, 1 - betas[0])
        exp_inf = jnp.maximum(betas[1] * exp_inf, jnp.abs(g) + eps)
        delta = -lr / one_minus_power(betas[0], step) * exp_avg / exp_inf
        return delta, {"exp_avg": exp_avg, "exp_inf": exp_inf}

    slots = {"exp_avg": zeros, "exp_inf": zeros}
    return transformation(
        AdamaxState, rule, lr=lr, slots=slots, l2=weight_decay, maximize=maximize
    )


class NAdamState(NamedTuple):
    """torch's fields: those of `AdamState`, and `mu_product`, the product of the momentum
    coefficients.

    It is a scalar for each parameter.
    """

    step: Any
    exp_avg: Any
    exp_avg_sq: Any
    mu_product: Any


def nadam(
    lr: LearningRate = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum_decay: Scalar = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with Nesterov momentum, whose coefficient warms up (`torch.optim.NAdam`).

    optax.nadam has no warm-up of the coefficient.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2); p <- p - lr (1 - mu_t) / (1 - prod mu) g / d
    - lr mu_{t+1} / (1 - mu_{t+1} prod mu) m / d with d = sqrt(v / (1 - b2^t)) + eps.

    Args:
      lr: learning rate: a number, a traced scalar or a schedule.
      betas: decay rates (b1, b2) of the two averages.
      eps: added to the root, outside of it.
      weight_decay: L2 penalty, or decoupled decay.
      momentum_decay: speed of the warm-up.
      decoupled_weight_decay: decay as AdamW does.
      maximize: climb instead of descend.

    Returns:
      An `optax.GradientTransformation` with state `NAdamState`.

    Raises:
      ValueError: for negative options or betas outside [0, 1).

    >>> import jax.numpy as jnp
    >>> tx, params = nadam(0.1), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(state.mu_product[()]), 4), bool(updates[0] < 0)
    (0.4501, True)
    """
    require_non_negative(
        "nadam", lr=lr, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay
    )
    require_betas("nadam", betas)
    beta1, beta2 = betas

    def coefficient(step):
        return beta1 * (1 - 0.5 * power(0.96, step * momentum_decay))

    def rule(g, p, lr, step, exp_avg, exp_avg_sq, mu_product):
        del p
        new = _averages(g, exp_avg, exp_avg_sq, betas)
        mu, mu_next = coefficient(step), coefficient(step + 1)
        product = mu_product * mu
        root = jnp.sqrt(new["exp_avg_sq"] / one_minus_power(beta2, step)) + eps
        ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * new[
            "exp_avg"
        ]
        return -lr * ahead / root, new | {"mu_product": product}

    slots = {
        "exp_avg": zeros,
        "exp_avg_sq": zeros,
        "mu_product": lambda p, lr: jnp.ones((), p.dtype),
    }
    l2, decay = (0.0, weight_decay) if decoupled_weight_decay else (weight_decay, 0.0)
    return transformation(
        NAdamState, rule, lr=lr, slots=slots, l2=l2, decay=decay, maximize=maximize
    )


class RAdamState(NamedTuple):
    """torch's fields: `step`, and the moving averages `exp_avg` of the gradient, `exp_avg_sq`
    of its square.
    """

    step: Any
    exp_avg: Any
    exp_avg_sq: Any


def radam(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam without its second average in the first steps (`torch.optim.RAdam`).

    rho_t = rho - 2 t b2^t / (1 - b2^t), rho = 2 / (1 - b2) - 1. If rho_t > 5 the step is
    Adam's times a rectification, otherwise plain momentum, lr m / (1 - b1^t). Arguments,
    result and errors are those of `adam`, without amsgrad and with `decoupled_weight_decay`;
    the state is `RAdamState`.

    >>> import jax.numpy as jnp
    >>> tx, params = radam(0.1), jnp.array([2.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0]), 4)  # step 1 is plain momentum: -lr g
    -0.2
    """
    require_non_negative("radam", lr=lr, eps=eps, weight_decay=weight_decay)
    require_betas("radam", betas)
    beta1, beta2 = betas
    rho_inf = 2 / (1 - beta2) - 1

    def rule(g, p, lr, step, exp_avg, exp_avg_sq):
        del p
        new = _averages(g, exp_avg, exp_avg_sq, betas)
        momentum = new["exp_avg"] / one_minus_power(beta1, step)
        correction = one_minus_power(beta2, step)
        rho = rho_inf - 2 * step * power(beta2, step) / correction
        known = rho > 5
        rho = jnp.where(known, rho, 6.0)  # any value that keeps the root below real
        rectification = jnp.sqrt(
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        )
        adaptive = rectification * jnp.sqrt(correction) / (jnp.sqrt(new["exp_avg_sq"]) + eps)
        return -lr * momentum * jnp.where(known, adaptive, 1.0), new

    slots = {"exp_avg": zeros, "exp_avg_sq": zeros}
    l2, decay = (0.0, weight_decay) if decoupled_weight_decay else (weight_decay, 0.0)
    return transformation(
        RAdamState, rule, lr=lr, slots=slots, l2=l2, decay=decay, maximize=maximize
    )
