"""Which rate, can it learn at all, would more data help: on problems whose answer is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import search, train
from dlwp_jax.search import probes
from tests.models import Plain, Scalar, Stochastic, regression, squared_error

KEY = jax.random.key(0)
DATA = regression(64)


def bowl(lr):
    """Loss 2 w^2: gradient descent diverges beyond the rate 2 / 4."""

    def loss_fn(model, batch):
        return 2 * model.w[...] ** 2 * jnp.mean(batch["x"]), {}

    return train.make_learner(Scalar(1.0), loss_fn, optax.sgd(lr), key=KEY)


def test_the_suggested_rate_is_below_the_known_limit_and_learns():
    data = {"x": jnp.ones(4)}
    found = search.find_learning_rate(bowl, data, batch_size=4, low=1e-5, high=10.0)
    assert 0.01 < found.suggestion < 0.5 < found.limit
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    result = train.run(*bowl(found.suggestion), data, epochs=50, batch_size=4)
    slower = train.run(*bowl(found.suggestion / 100), data, epochs=50, batch_size=4)
    assert result.history["train/loss"][-1] < 1e-2 * slower.history["train/loss"][-1]
    assert f"{found.suggestion:.2g}" in str(found)


def test_the_noise_of_small_batches_is_not_taken_for_a_fall():
    """At 1e-6 nothing is learned in forty steps; a regression of unit inputs is learned from
    about 1e-3 on.
    """

    def make(lr):
        return train.make_learner(
            nnx.Linear(3, 1, rngs=nnx.Rngs(0)), squared_error, optax.sgd(lr), key=KEY
        )

    x = jax.random.normal(KEY, (20, 3))
    for seed in range(3):
        data = {
            "x": x,
            "y": x.sum(axis=1, keepdims=True)
            + jax.random.normal(jax.random.key(seed), (20, 1)),
        }
        assert 1e-3 < search.find_learning_rate(make, data, batch_size=4).suggestion < 1


def test_the_rates_are_those_that_were_trained_with():
    """Each step's rate, read back from what one step of gradient descent did."""
    seen = []

    def loss_fn(model, batch):
        return model.w[...] * jnp.mean(batch["x"]), {}  # gradient 1: w falls by the rate

    def make(lr):
        seen.append([float(lr(step)) for step in range(20)])
        return train.make_learner(Scalar(0.0), loss_fn, optax.sgd(lr), key=KEY)

    found = search.find_learning_rate(
        make, {"x": jnp.ones(6)}, batch_size=2, low=0.01, high=1.0, steps=20
    )
    np.testing.assert_allclose(found.rates, seen[0][: len(found.rates)], rtol=1e-5)
    np.testing.assert_allclose(
        -np.diff(found.losses), found.rates[:-1], rtol=1e-4
    )  # three steps an epoch


def test_steps_that_float16_left_out_have_no_rate():
    """The gradient, 8192, overflows while the scale is above 4: 14 steps at the beginning are
    not taken.
    """

    def loss_fn(model, batch):
        return 8192 * model(batch["x"]).mean(), {}

    def make(lr):
        return train.make_learner(
            Scalar(0.0), loss_fn, optax.sgd(lr), key=KEY, compute_dtype=jnp.float16
        )

    found = search.find_learning_rate(
        make, {"x": jnp.ones(6)}, batch_size=2, low=1e-6, high=1e-4, steps=20
    )
    assert len(found.losses) == 20
    np.testing.assert_allclose(-np.diff(found.losses), 8192**2 * found.rates[:-1], rtol=3e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"low": 0.0}, "low must be a finite number above 0"),
        ({"steps": 3}, "too few"),
        ({"low": 10.0, "high": 1000.0}, "fell at no rate"),
    ],
)
def test_a_rate_finder_that_cannot_find_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        search.find_learning_rate(bowl, {"x": jnp.ones(4)}, batch_size=4, **options)


def test_eight_examples_are_memorised_unless_something_is_wrong():
    learner, state = train.make_learner(
        Stochastic(nnx.Rngs(0)), squared_error, optax.adam(1e-2), key=KEY
    )
    memory = search.memorises(
        learner, state, DATA, steps=1500, share=0.2
    )  # dropout of a half never rests
    assert memory
    assert memory.examples == 8
    np.testing.assert_allclose(
        memory.before,
        train.evaluate(learner, state, jax.tree.map(lambda a: a[:8], DATA))["loss"],
    )
    frozen = train.make_learner(Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.0), key=KEY)
    all_of_them = search.memorises(*frozen, DATA, examples=1000, steps=20)
    assert "NOT memorised" in str(all_of_them)
    assert all_of_them.examples == 64
    exploding = train.make_learner(Plain(nnx.Rngs(0)), squared_error, optax.sgd(1e9), key=KEY)
    assert not search.memorises(*exploding, DATA, steps=20)


def noisy_line(n, seed):
    """Five inputs of which one counts: few examples are learned with their noise, whose level
    is 1.
    """
    x = jax.random.normal(jax.random.key(seed), (n, 10))
    return {"x": x, "y": x[:, :1] + jax.random.normal(jax.random.key(seed + 1), (n, 1))}


def linear(key):
    model = nnx.Linear(10, 1, rngs=nnx.Rngs(key))
    return train.make_learner(
        model, lambda m, b: (jnp.mean((m(b["x"]) - b["y"]) ** 2), {}), optax.adam(0.05), key=key
    )


@pytest.mark.parametrize(
    ("n", "helps"), [(24, True), pytest.param(1600, False, marks=pytest.mark.slow)]
)
def test_more_data_helps_where_few_examples_are_overfitted_and_not_at_the_noise(n, helps):
    """Ten weights from n examples cost 10 / n of the noise in validation loss: a lot of 24,
    nothing of 1600.
    """
    curve = search.learning_curve(
        linear,
        noisy_line(n, 0),
        noisy_line(2000, 5),
        key=KEY,
        epochs=200,
        batch_size=2000,
        sizes=[n // 2, 3 * n // 4, n],
    )
    assert curve.more_data_would_help == helps, str(curve)
    assert curve.val.shape == (3, 3)
    assert ("hardly" in str(curve)) != helps
    if not helps:
        np.testing.assert_allclose(curve.val[-1].mean(), 1.0, rtol=0.1)  # the noise's variance


def test_a_power_law_is_carried_on_exactly_and_a_rising_curve_is_not_believed():
    sizes = np.array([10, 20, 40, 80])
    np.testing.assert_allclose(
        probes.carried_on(sizes, 0.3 + 5 / sizes, 160), 0.3 + 5 / 160, rtol=1e-3
    )
    np.testing.assert_allclose(
        probes.carried_on(sizes, 2 * sizes**-0.5, 160), 2 * 160**-0.5, rtol=1e-3
    )
    rising = np.array([1.0, 1.1, 1.0, 1.2])
    assert probes.carried_on(sizes, rising, 160) >= rising.min()


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_learning_curve_of_a_training_that_diverged_tells_nothing(lost):
    sizes, losses = (10, 20, 40), np.array([[1.0, 0.9], [0.6, 0.5], [lost, 0.3]])
    doubled = np.array([probes.carried_on(np.array(sizes), losses[:, i], 80) for i in range(2)])
    curve = search.LearningCurve(sizes, losses, losses, doubled, ())
    assert not curve.more_data_would_help
    assert "no telling" in str(curve)


@pytest.mark.slow
def test_a_learning_curve_of_trainings_that_go_on():
    """Their best epoch is found in their own histories, and not at its number since the state
    was made.
    """

    def trained(key):
        learner, state = linear(key)
        return learner, dataclasses.replace(state, epoch=jnp.int32(50))

    options = {"key": KEY, "epochs": 4, "batch_size": 64, "sizes": [16, 32, 64], "draws": 2}
    curve = search.learning_curve(trained, noisy_line(64, 0), noisy_line(32, 5), **options)
    for sweep, losses in zip(curve.sweeps, curve.train, strict=True):
        np.testing.assert_array_equal(
            losses, sweep.history["train/loss"][[0, 1], sweep.run.best.epoch - 51]
        )


def test_a_learning_curve_refuses_other_kinds_of_validation():
    for val in (
        DATA | {"z": DATA["x"]},
        DATA | {"x": DATA["x"][:, :0]},
        DATA | {"y": DATA["y"].astype(int)},
    ):
        with pytest.raises(
            ValueError, match="train and val must hold arrays of the same kinds"
        ):
            search.learning_curve(linear, DATA, val, key=KEY, epochs=1, batch_size=8)


def test_a_learning_curve_refuses_sizes_that_are_none():
    for sizes in ([8, 4, 2], [1, 2], [16, 32, 65]):
        with pytest.raises(ValueError, match="sizes must be three or more"):
            search.learning_curve(
                linear, DATA, DATA, key=KEY, epochs=1, batch_size=8, sizes=sizes
            )
