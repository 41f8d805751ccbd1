"""Every schedule against torch.optim.lr_scheduler over 1000 steps, in double and in single
precision.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim import lr_scheduler as theirs

from dlwp_jax import optim

STEPS = 1000
LR = 0.3


def decay(step):
    return 0.99 ** (step % 13) + 0.01 * (step % 2)


def up_down(x):
    return 1 / (1 + 0.01 * x)


TABLE = [
    (optim.step_lr(LR, 30), lambda o: theirs.StepLR(o, 30)),
    (optim.step_lr(LR, 1, gamma=0.99), lambda o: theirs.StepLR(o, 1, gamma=0.99)),
    (
        optim.multi_step_lr(LR, [10, 200, 200, 700]),
        lambda o: theirs.MultiStepLR(o, [10, 200, 200, 700]),
    ),
    (optim.multi_step_lr(LR, [5], gamma=0.5), lambda o: theirs.MultiStepLR(o, [5], gamma=0.5)),
    (optim.constant_lr(LR), theirs.ConstantLR),
    (optim.constant_lr(LR, 0.7, 500), lambda o: theirs.ConstantLR(o, 0.7, 500)),
    (optim.linear_lr(LR), theirs.LinearLR),
    (optim.linear_lr(LR, 1.0, 0.0, 700), lambda o: theirs.LinearLR(o, 1.0, 0.0, 700)),
    (optim.linear_lr(LR, 0.01, 0.9, 1500), lambda o: theirs.LinearLR(o, 0.01, 0.9, 1500)),
    (optim.exponential_lr(LR, 0.99), lambda o: theirs.ExponentialLR(o, 0.99)),
    (optim.exponential_lr(LR, 1.001), lambda o: theirs.ExponentialLR(o, 1.001)),
    (optim.polynomial_lr(LR), theirs.PolynomialLR),
    (optim.polynomial_lr(LR, 600, 2.5), lambda o: theirs.PolynomialLR(o, 600, 2.5)),
    (optim.cosine_annealing_lr(LR, 1200), lambda o: theirs.CosineAnnealingLR(o, 1200)),
    (
        optim.cosine_annealing_lr(LR, 7, 0.1),
        lambda o: theirs.CosineAnnealingLR(o, 7, 0.1),
    ),  # far past T_max
    (
        optim.cosine_annealing_lr(LR, 300, 0.01),
        lambda o: theirs.CosineAnnealingLR(o, 300, 0.01),
    ),
    (
        optim.cosine_annealing_warm_restarts(LR, 11),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 11),
    ),
    (
        optim.cosine_annealing_warm_restarts(LR, 3, 2, 0.01),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    ),
    (
        optim.one_cycle_lr(LR, STEPS),
        lambda o: theirs.OneCycleLR(o, LR, STEPS, cycle_momentum=False),
    ),
    (
        optim.one_cycle_lr(LR, STEPS, 0.2, "linear", 5.0, 10.0, three_phase=True),
        lambda o: theirs.OneCycleLR(
            o,
            LR,
            STEPS,
            pct_start=0.2,
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=5.0,
            final_div_factor=10.0,
            three_phase=True,
        ),
    ),
    (
        optim.cyclic_lr(0.01, LR, 40),
        lambda o: theirs.CyclicLR(o, 0.01, LR, 40, cycle_momentum=False),
    ),
    (
        optim.cyclic_lr(0.01, LR, 40, 25, mode="triangular2"),
        lambda o: theirs.CyclicLR(
            o, 0.01, LR, 40, 25, mode="triangular2", cycle_momentum=False
        ),
    ),
    (
        optim.cyclic_lr(0.01, LR, 7, 90, mode="exp_range", gamma=0.999),
        lambda o: theirs.CyclicLR(
            o, 0.01, LR, 7, 90, mode="exp_range", gamma=0.999, cycle_momentum=False
        ),
    ),
    (
        optim.cyclic_lr(0.01, LR, 7, scale_fn=up_down, scale_mode="iterations"),
        lambda o: theirs.CyclicLR(
            o, 0.01, LR, 7, scale_fn=up_down, scale_mode="iterations", cycle_momentum=False
        ),
    ),
    (optim.lambda_lr(LR, decay), lambda o: theirs.LambdaLR(o, decay)),
    (optim.multiplicative_lr(LR, decay), lambda o: theirs.MultiplicativeLR(o, decay)),
    (
        optim.sequential_lr(
            [
                optim.linear_lr(LR, 0.1, total_iters=50),
                optim.cosine_annealing_lr(LR, 400),
                optim.step_lr(LR, 90),
            ],
            [50, 600],
        ),
        lambda o: theirs.SequentialLR(
            o,
            [
                theirs.LinearLR(o, 0.1, total_iters=50),
                theirs.CosineAnnealingLR(o, 400),
                theirs.StepLR(o, 90),
            ],
            [50, 600],
        ),
    ),
    (
        optim.sequential_lr(
            [
                optim.constant_lr(LR, 0.1, 20),
                optim.exponential_lr(LR, 0.99),
                optim.polynomial_lr(LR, 300, 2.0),
            ],
            [30, 200],
        ),
        lambda o: theirs.SequentialLR(
            o,
            [
                theirs.ConstantLR(o, 0.1, 20),
                theirs.ExponentialLR(o, 0.99),
                theirs.PolynomialLR(o, 300, 2.0),
            ],
            [30, 200],
        ),
    ),
    (
        optim.chained_scheduler(
            LR,
            [
                optim.constant_lr(1.0, 0.1, 20),
                optim.linear_lr(1.0, 0.5, total_iters=70),
                optim.exponential_lr(1.0, 0.999),
                optim.multi_step_lr(1.0, [100, 500], 0.5),
                optim.cosine_annealing_lr(1.0, 1100),
            ],
        ),
        lambda o: theirs.ChainedScheduler(
            [
                theirs.ConstantLR(o, 0.1, 20),
                theirs.LinearLR(o, 0.5, total_iters=70),
                theirs.ExponentialLR(o, 0.999),
                theirs.MultiStepLR(o, [100, 500], 0.5),
                theirs.CosineAnnealingLR(o, 1100),
            ]
        ),
    ),
]


def torch_rates(make, entry="lr"):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that nothing but the scheduler is stepped
        scheduler, rates = make(opt), []
        for _ in range(STEPS):
            rates.append(opt.param_groups[0][entry])
            scheduler.step()
    return np.array(rates)


@pytest.fixture(scope="module")
def our_rates():
    """The rates of all schedules, `[row][step]`, in double and in single precision: one program
    each.
    """
    schedules = [ours for ours, _ in [*TABLE, *MOMENTA]]

    def rates(steps):
        return [jax.vmap(schedule)(steps) for schedule in schedules]

    with jax.enable_x64(True):
        double = jax.jit(rates)(jnp.arange(STEPS))
    return double, jax.jit(rates)(jnp.arange(STEPS))


@pytest.mark.parametrize("row", range(len(TABLE)))
def test_schedule(row, our_rates):
    double, single = our_rates
    expected = torch_rates(TABLE[row][1])
    # torch multiplies 1000 times, rounding by 1e-16 each; its cosine recursion amplifies that
    # near zero.
    np.testing.assert_allclose(double[row], expected, rtol=1e-11, atol=1e-12)
    # Single precision: roundings of 6e-8 of the first rate and of the exponent step *
    # log(gamma) <= 10.
    np.testing.assert_allclose(single[row], expected, rtol=3e-6, atol=1e-7)


MOMENTA = [
    (optim.one_cycle_momentum(STEPS), lambda o: theirs.OneCycleLR(o, LR, STEPS)),
    (
        optim.one_cycle_momentum(STEPS, 0.2, "linear", 0.5, 0.7, three_phase=True),
        lambda o: theirs.OneCycleLR(
            o, LR, STEPS, None, None, 0.2, "linear", True, 0.5, 0.7, three_phase=True
        ),
    ),
    (optim.cyclic_momentum(step_size_up=33), lambda o: theirs.CyclicLR(o, 0.01, LR, 33)),
    (
        optim.cyclic_momentum(0.5, 0.7, 33, 10, mode="triangular2"),
        lambda o: theirs.CyclicLR(
            o, 0.01, LR, 33, 10, "triangular2", base_momentum=0.5, max_momentum=0.7
        ),
    ),
]


@pytest.mark.parametrize("row", range(len(MOMENTA)))
def test_momentum(row, our_rates):
    ours = our_rates[1][len(TABLE) + row]
    # Single precision; nothing near zero.
    np.testing.assert_allclose(ours, torch_rates(MOMENTA[row][1], "momentum"), rtol=1e-6)


# A floor, milestones, restarts, phases, a loop.
@pytest.mark.parametrize("row", [0, 2, 16, 19, 25])
def test_a_step_may_be_a_plain_number(row, our_rates):
    rate = TABLE[row][0](17)
    np.testing.assert_allclose(rate, our_rates[1][row][17], rtol=1e-6)  # float32


def test_one_cycle_ends_where_torch_raises():
    schedule = optim.one_cycle_lr(LR, 10)
    assert schedule(11) == schedule(10)


PLATEAUS = [
    {},
    {"patience": 2, "factor": 0.5},
    {"patience": 0, "factor": 0.5, "threshold": 0.05, "threshold_mode": "abs"},
    {"patience": 1, "mode": "max", "threshold": 0.02},
    {"patience": 1, "mode": "max", "threshold": 0.02, "threshold_mode": "abs"},
    {"patience": 1, "factor": 0.3, "cooldown": 4, "min_lr": 1e-3},
    {"patience": 0, "factor": 0.9, "eps": 0.02},
]


def plateau_rates(options, values, lr=LR):
    p = torch.nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=lr)
    scheduler, rates = theirs.ReduceLROnPlateau(opt, **options), []
    for value in values:
        rates.append(opt.param_groups[0]["lr"])
        scheduler.step(value)
    return rates


def plateau_values():
    """Losses that fall, stall, rise and are once nan."""
    rng, epochs = np.random.default_rng(0), np.arange(STEPS)
    values = 1 / (1 + epochs / 50) + 0.05 * rng.standard_normal(STEPS) + 0.2 * (epochs > 700)
    values = values.astype("f")
    values[333] = np.nan
    return values


def assert_rates(rates, options, values, lr=LR, repeats=1):
    # Each reduction is one float32 product.
    expected = np.repeat(plateau_rates(options, values.astype(float), lr), repeats)
    np.testing.assert_allclose(rates, expected, rtol=3e-6, atol=1e-12, err_msg=str(options))


def test_reduce_lr_on_plateau_of_the_loss_of_each_epoch_of_three_steps():
    def rates(options, values):
        tx = optim.reduce_lr_on_plateau(LR, **options, steps_per_epoch=3)
        tx = optax.chain(optim.sgd(LR), tx)

        def body(state, value):
            updates, state = tx.update(jnp.ones(()), state, jnp.ones(()), value=value)
            return state, -updates

        return jax.lax.scan(body, tx.init(jnp.ones(())), values)[1]

    values = plateau_values()
    all_rates = jax.jit(lambda v: [rates(options, v) for options in PLATEAUS])(values.repeat(3))
    for options, ours in zip(PLATEAUS, all_rates, strict=True):
        assert_rates(ours, options, values, repeats=3)


def test_reduce_lr_on_plateau():
    """In a loop under vmap, with two learning rates, in one group of two."""
    values, members = plateau_values(), jnp.array([LR, 3 * LR])

    def rates(options, lr):
        plateau = optim.reduce_lr_on_plateau(lr, **options, monitor="val/loss")
        tx = optax.partition(
            {"a": optax.chain(optim.sgd(lr), plateau), "b": optim.sgd(lr)}, {"a": "a", "b": "b"}
        )
        params = {"a": jnp.ones(()), "b": jnp.ones(())}

        def body(state, value):
            updates, state = tx.update(params, state, params)
            state = optim.plateau.end_of_epoch(state, {"val/loss": value, "train/loss": 0.0})
            return state, (-updates["a"], -updates["b"])

        return jax.lax.scan(body, tx.init(params), values)[1]

    all_rates = jax.jit(jax.vmap(lambda lr: [rates(options, lr) for options in PLATEAUS]))
    for options, (ours, others) in zip(PLATEAUS, all_rates(members), strict=True):
        for i, lr in enumerate((LR, 3 * LR)):
            assert_rates(ours[i], options, values, lr)
            np.testing.assert_array_equal(others[i], members[i])


def test_a_monitored_metric_must_be_recorded():
    state = optim.reduce_lr_on_plateau(LR, monitor="val/f1").init(None)
    assert optim.plateau.monitors((state, optim.sgd(LR).init({}))) == {"val/f1"}
    with pytest.raises(ValueError, match=r"'val/f1', which is not recorded.*'val/loss'"):
        optim.plateau.end_of_epoch((state,), {"val/loss": 1.0})


def test_per_epoch():
    schedule = optim.per_epoch(optim.exponential_lr(1.0, 0.5), 4)
    rates = jax.vmap(schedule)(jnp.arange(9))
    np.testing.assert_allclose(rates, [1] * 4 + [0.5] * 4 + [0.25], rtol=1e-6)  # float32


WRONG = [
    (lambda: optim.step_lr(LR, 0), "step_size=0"),
    (lambda: optim.constant_lr(LR, 1.5), "factor=1.5"),
    (lambda: optim.linear_lr(LR, 0.0), "start_factor=0.0"),
    (lambda: optim.cosine_annealing_lr(LR, 0), "T_max=0"),
    (lambda: optim.cosine_annealing_warm_restarts(LR, 2.5), "T_0=2.5"),
    (lambda: optim.one_cycle_lr(LR, 10, pct_start=1.5), "pct_start=1.5"),
    (lambda: optim.one_cycle_lr(LR, 10, anneal_strategy="exp"), "anneal_strategy='exp'"),
    (lambda: optim.cyclic_lr(0.1, LR, mode="square"), "mode='square'"),
    (lambda: optim.sequential_lr([optim.step_lr(LR, 3)], [5]), "1 milestones"),
    (lambda: optim.chained_scheduler(LR, []), "at least one"),
    (lambda: optim.reduce_lr_on_plateau(LR, factor=1.0), "factor=1.0"),
    (lambda: optim.reduce_lr_on_plateau(LR, mode="least"), "mode='least'"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
