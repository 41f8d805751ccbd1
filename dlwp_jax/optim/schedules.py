"""Learning-rate schedules with the names and numbers of `torch.optim.lr_scheduler`.

Each takes the first learning rate and torch's options and returns a function of the step,
which an optimizer takes as `lr`. Step 0 is the first update, before torch's first call of
`scheduler.step()`. torch often steps its schedulers once per epoch: `per_epoch(schedule,
steps)` does that. A first learning rate may be traced, as in `search.sweep`.

torch multiplies the learning rate of the step before; these are the closed forms, equal up to
rounding. Powers are computed with a logarithm in double precision, which optax's schedules
lack: over 1000 steps of 0.99 they are off by 1e-5 in float32, these by 5e-7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jax import lax

from dlwp_jax.optim._rule import Scalar, Schedule, power, require


def per_epoch(schedule: Schedule, steps_per_epoch: int) -> Schedule:
    """The schedule as a function of the epoch: constant over `steps_per_epoch` updates.

    >>> schedule = per_epoch(exponential_lr(1.0, gamma=0.5), steps_per_epoch=3)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    """
    _positive(steps_per_epoch=steps_per_epoch)
    return lambda step: schedule(jnp.asarray(step) // steps_per_epoch)


def step_lr(lr: Scalar, step_size: int, gamma: float = 0.1) -> Schedule:
    """Times gamma every `step_size` steps (`StepLR`).

    >>> [round(float(step_lr(1.0, step_size=2)(step)), 3) for step in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    _positive(step_size=step_size)
    return lambda step: lr * power(gamma, _float(jnp.asarray(step) // step_size))


def multi_step_lr(lr: Scalar, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Times gamma at each of the `milestones`; one that is named twice counts twice
    (`MultiStepLR`).

    >>> [round(float(multi_step_lr(1.0, [1, 3])(step)), 3) for step in range(4)]
    [1.0, 0.1, 0.1, 0.01]
    """
    return lambda step: (
        lr * power(gamma, _float(sum(jnp.asarray(step) >= m for m in milestones)))
    )


def constant_lr(lr: Scalar, factor: float = 1 / 3, total_iters: int = 5) -> Schedule:
    """Times `factor` for the first `total_iters` steps (`ConstantLR`).

    >>> [round(float(constant_lr(1.0, 0.5, total_iters=2)(step)), 3) for step in range(4)]
    [0.5, 0.5, 1.0, 1.0]
    """
    _fraction(factor=factor)
    _positive(total_iters=total_iters)
    return lambda step: lr * jnp.where(jnp.asarray(step) < total_iters, factor, 1.0)


def linear_lr(
    lr: Scalar, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """A factor that goes from `start_factor` to `end_factor` in a straight line (`LinearLR`).

    >>> [round(float(linear_lr(1.0, 0.5, total_iters=2)(step)), 3) for step in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """
    _fraction(start_factor=start_factor, end_factor=end_factor)
    _positive(total_iters=total_iters, start_factor=start_factor)

    def schedule(step):
        return lr * _linear(
            start_factor, end_factor, jnp.minimum(1.0, _float(step) / total_iters)
        )

    return schedule


def exponential_lr(lr: Scalar, gamma: float) -> Schedule:
    """Times gamma at every step (`ExponentialLR`).

    >>> [round(float(exponential_lr(1.0, gamma=0.5)(step)), 3) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """
    return lambda step: lr * power(gamma, _float(step))


def polynomial_lr(lr: Scalar, total_iters: int = 5, power: float = 1.0) -> Schedule:
    """Times (1 - step / total_iters)^power, and 0 from `total_iters` on (`PolynomialLR`).

    >>> schedule = polynomial_lr(1.0, total_iters=2, power=2.0)
    >>> [round(float(schedule(step)), 3) for step in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """
    _positive(total_iters=total_iters)
    return lambda step: lr * (1 - jnp.minimum(1.0, _float(step) / total_iters)) ** power


def cosine_annealing_lr(lr: Scalar, T_max: int, eta_min: float = 0.0) -> Schedule:
    """Half a cosine from lr to `eta_min` in `T_max` steps, after that up again
    (`CosineAnnealingLR`).

    >>> [round(float(cosine_annealing_lr(1.0, T_max=2)(step)), 3) for step in range(5)]
    [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    _positive(T_max=T_max)
    # The remainder is taken in integers: cos(pi * 1000 / 7) in float32 would lose three digits.
    return lambda step: _cosine(lr, eta_min, _float(jnp.asarray(step) % (2 * T_max)) / T_max)


def cosine_annealing_warm_restarts(
    lr: Scalar, T_0: int, T_mult: int = 1, eta_min: float = 0.0
) -> Schedule:
    """Half a cosine to `eta_min` that starts again after T_0, then T_0 T_mult, then T_0
    T_mult^2, ... steps.

    torch's `CosineAnnealingWarmRestarts`.

    >>> schedule = cosine_annealing_warm_restarts(1.0, T_0=2, T_mult=2)
    >>> [round(float(schedule(step)), 3) for step in range(6)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146]
    """
    for name, value in {"T_0": T_0, "T_mult": T_mult}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value} must be an integer of at least 1.")
    if T_mult == 1:
        return lambda step: _cosine(lr, eta_min, _float(jnp.asarray(step) % T_0) / T_0)
    starts, lengths = [0], [T_0]
    while starts[-1] + lengths[-1] < 2**31:  # every restart that a 32-bit step can reach
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * T_mult)

    def schedule(step):
        step = jnp.asarray(step)
        cycle = jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1
        since = _float(step - jnp.asarray(starts)[cycle])
        return _cosine(lr, eta_min, since / jnp.asarray(lengths, since.dtype)[cycle])

    return schedule


def _cosine(start, end, fraction):
    """From start (fraction 0) to end (fraction 1) along half a cosine."""
    return end + (start - end) * (1 + jnp.cos(math.pi * fraction)) / 2


def _linear(start, end, fraction):
    return start + (end - start) * fraction


def one_cycle_lr(
    max_lr: Scalar,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Up from max_lr / div_factor to max_lr, then down to nearly nothing (`OneCycleLR`).

    torch also cycles momentum by default: see `one_cycle_momentum`. Steps after
    `total_steps`, for which torch raises, keep the last rate.

    Args:
      max_lr: the highest learning rate.
      total_steps: length of the cycle (torch's epochs * steps_per_epoch).
      pct_start: the fraction of the cycle that goes up.
      anneal_strategy: `'cos'` or `'linear'`.
      div_factor: max_lr / first learning rate.
      final_div_factor: first / last learning rate.
      three_phase: come down in the time it took to go up, then anneal.

    Returns:
      A function step -> learning rate.

    Raises:
      ValueError: for options torch refuses.

    >>> schedule = one_cycle_lr(1.0, 11, pct_start=0.5, anneal_strategy="linear")
    >>> [round(float(schedule(step)), 2) for step in (0, 10)]
    [0.04, 0.0]
    """
    first = max_lr / div_factor
    last = first / final_div_factor
    values = [first, max_lr, first, last] if three_phase else [first, max_lr, last]
    return _one_cycle(values, total_steps, pct_start, anneal_strategy)


def one_cycle_momentum(
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """The momentum that `OneCycleLR` sets beside the learning rate: low while the rate is high.

    Use both by `optax.inject_hyperparams(sgd)(lr=one_cycle_lr(...),
    momentum=one_cycle_momentum(...))`. It goes from `max_momentum` to `base_momentum` and back;
    other arguments, and errors, are those of `one_cycle_lr`.

    >>> schedule = one_cycle_momentum(total_steps=11, pct_start=0.5)
    >>> [round(float(schedule(step)), 2) for step in (0, 10)]
    [0.95, 0.95]
    """
    high, low = max_momentum, base_momentum
    values = [high, low, high, high] if three_phase else [high, low, high]
    return _one_cycle(values, total_steps, pct_start, anneal_strategy)


def _one_cycle(values, total_steps, pct_start, anneal_strategy):
    """Anneal through `values`, one phase between each two, with torch's phase ends."""
    _positive(total_steps=total_steps)
    _fraction(pct_start=pct_start)
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy={anneal_strategy!r} must be 'cos' or 'linear'.")
    anneal = _cosine if anneal_strategy == "cos" else _linear
    ends = [
        0.0,
        *(i * pct_start * total_steps - i for i in range(1, len(values) - 1)),
        total_steps - 1.0,
    ]
    phases = list(zip(values[:-1], values[1:], ends[:-1], ends[1:], strict=True))

    def schedule(step):
        step = jnp.minimum(_float(step), float(total_steps))
        *earlier, last = (
            anneal(start, end, (step - begin) / (finish - begin) if finish != begin else 1.0)
            for start, end, begin, finish in phases
        )
        for value, finish in zip(reversed(earlier), reversed(ends[1:-1]), strict=True):
            last = jnp.where(step <= finish, value, last)
        return last

    return schedule


def cyclic_lr(
    base_lr: Scalar,
    max_lr: Scalar,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
    scale_fn: Schedule | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Schedule:
    """Up and down between two learning rates (`CyclicLR`).

    torch also cycles momentum by default: see `cyclic_momentum`.

    Args:
      base_lr: the lower learning rate.
      max_lr: the upper one.
      step_size_up: steps on the way up.
      step_size_down: steps on the way down; None for as many as on the way up.
      mode: `'triangular'`, `'triangular2'` (height halved every cycle) or `'exp_range'` (height
        gamma^step).
      gamma: for `'exp_range'`.
      scale_fn: a function of your own for the factor of the height, in place of `mode`.
      scale_mode: whether `scale_fn` takes the number of the `'cycle'` (from one) or
        `'iterations'`.

    Returns:
      A function step -> learning rate.

    Raises:
      ValueError: for an unknown mode.

    >>> [round(float(cyclic_lr(0.0, 1.0, step_size_up=2)(step)), 2) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    height = _cyclic_height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    return lambda step: base_lr + (max_lr - base_lr) * height(step)


def cyclic_momentum(
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
    scale_fn: Schedule | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Schedule:
    """The momentum that `CyclicLR` sets beside the learning rate: high while the rate is low.

    It goes from `max_momentum` down to `base_momentum` and up again; the other options are
    those of `cyclic_lr`.

    >>> [round(float(cyclic_momentum(0.5, 1.0, step_size_up=1)(step)), 2) for step in range(3)]
    [1.0, 0.5, 1.0]
    """
    height = _cyclic_height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    return lambda step: max_momentum - (max_momentum - base_momentum) * height(step)


def _cyclic_height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode):
    """A function step -> height of the triangle, from 0 to 1, times the scale."""
    up, down = step_size_up, step_size_up if step_size_down is None else step_size_down
    _positive(step_size_up=up, step_size_down=down)
    scales = {
        "triangular": (lambda cycle: 1.0, "cycle"),
        "triangular2": (lambda cycle: power(0.5, _float(cycle - 1)), "cycle"),
        "exp_range": (lambda step: power(gamma, _float(step)), "iterations"),
    }
    if scale_fn is None and mode not in scales:
        raise ValueError(
            f"mode={mode!r} must be one of {', '.join(scales)}; or give a scale_fn."
        )
    scale, argument = scales[mode] if scale_fn is None else (scale_fn, scale_mode)

    def height(step):
        step = jnp.asarray(step)
        inside = _float(step % (up + down))
        triangle = jnp.where(inside <= up, inside / up, (up + down - inside) / down)
        return triangle * scale(step // (up + down) + 1 if argument == "cycle" else step)

    return height


def lambda_lr(lr: Scalar, lr_lambda: Schedule) -> Schedule:
    """lr times your own function `lr_lambda` of the step, which must be jittable (`LambdaLR`).

    >>> float(lambda_lr(0.5, lambda step: 1 / (1 + step))(1))
    0.25
    """
    return lambda step: lr * lr_lambda(step)


def multiplicative_lr(lr: Scalar, lr_lambda: Schedule) -> Schedule:
    """lr times your function `lr_lambda` of 1, of 2, ... of the step (`MultiplicativeLR`).

    The product is computed at every call, in as many operations as there were steps.

    >>> float(multiplicative_lr(1.0, lambda step: 0.5)(3))
    0.125
    """

    def schedule(step):
        one = jnp.ones((), jnp.result_type(float))
        return lr * lax.fori_loop(
            1, jnp.asarray(step) + 1, lambda i, product: product * lr_lambda(i), one
        )

    return schedule


def sequential_lr(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """One schedule after another, each counting from its milestone (`SequentialLR`).

    Args:
      schedules: functions of the step.
      milestones: the steps at which the second, third, ... take over.

    Returns:
      A function step -> learning rate.

    Raises:
      ValueError: if the milestones are not one fewer than the schedules.

    >>> parts = [linear_lr(1.0, 0.5, total_iters=2), exponential_lr(1.0, 0.5)]
    >>> warm = sequential_lr(parts, [2])
    >>> [float(warm(step)) for step in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """
    if not schedules or len(milestones) != len(schedules) - 1:
        raise ValueError(
            f"{len(schedules)} schedules need one milestone fewer; got {len(milestones)} "
            "milestones."
        )
    return optax.join_schedules(list(schedules), list(milestones))


def chained_scheduler(lr: Scalar, factors: Sequence[Schedule]) -> Schedule:
    """lr times several schedules at once (`ChainedScheduler`).

    Build each with a first learning rate of 1. The product is torch's chain for the schedules
    that scale the present rate: step, multi-step, constant, linear, exponential, polynomial and
    multiplicative; for a cosine with `eta_min=0` up to its `T_max` only.

    Args:
      lr: the first learning rate.
      factors: functions of the step.

    Returns:
      A function step -> learning rate.

    Raises:
      ValueError: without any schedule.

    >>> parts = [constant_lr(1.0, 0.5, total_iters=2), exponential_lr(1.0, 0.5)]
    >>> chain = chained_scheduler(0.5, parts)
    >>> [round(float(chain(step)), 4) for step in range(3)]
    [0.25, 0.125, 0.125]
    """
    if not factors:
        raise ValueError("chained_scheduler needs at least one schedule.")
    return lambda step: lr * math.prod(factor(step) for factor in factors)


def _float(step):
    return jnp.asarray(step).astype(jnp.result_type(float))


def _positive(**values) -> None:
    require(
        "schedule", **{name: (v, lambda v: v > 0, "positive") for name, v in values.items()}
    )


def _fraction(**values) -> None:
    require(
        "schedule",
        **{name: (v, lambda v: 0 <= v <= 1, "in [0, 1]") for name, v in values.items()},
    )
