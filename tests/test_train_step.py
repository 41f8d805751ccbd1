"""One step: what it takes and what it leaves out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlwp_jax import train
from dlwp_jax.train.step import all_finite
from tests.models import Plain, Scalar, assert_same_bits, learner_of
from tests.regressions import EVEN, TRAIN


def test_a_finite_loss_with_an_infinite_gradient_does_not_reach_the_parameters():
    def loss_fn(model, batch):
        return jnp.sqrt(model.w[...]), {}  # gradient 1 / (2 sqrt w): infinite at 0

    learner, state = train.make_learner(
        Scalar(0.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0)
    )
    result = train.run(learner, state, {"x": jnp.ones(2)}, epochs=3, batch_size=2)
    assert result.failure.tolist() == [1, 1]
    assert_same_bits(result.state, state)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5,), jnp.float32),
        ((8, 1024), jnp.float32),  # in eight parts
        ((3, 1367), jnp.bfloat16),  # in eight parts and a rest
        ((3, 1367), jnp.complex64),
    ],
)
def test_no_place_in_an_array_hides_a_number_that_is_not_finite(shape, dtype):
    size = np.prod(shape)
    places = np.unique(
        np.clip([0, 1, 4, size // 2, 7 * size // 8 - 1, 7 * size // 8, size - 1], 0, size - 1)
    )
    arrays = np.full((3 * len(places) + 1, size), 3e38, dtype)  # large, but finite
    for row, (place, bad) in enumerate(itertools.product(places, (np.nan, np.inf, -np.inf))):
        arrays[row, place] = bad
    verdicts = jax.jit(
        jax.vmap(lambda array: all_finite({"w": array.reshape(shape), "b": jnp.ones(())}))
    )(arrays)
    assert verdicts.tolist() == [False] * (3 * len(places)) + [True]


def test_a_step_that_makes_one_number_of_many_infinite_is_not_taken():
    def loss_fn(model, batch):
        return jnp.sqrt(model.w[...]).sum(), {}  # the gradient at 0 is infinite

    w = jnp.ones((70, 70))
    for start, taken in ((w, 1), (w.at[69, 3].set(0.0), 0)):
        learner, state = train.make_learner(
            Scalar(start), loss_fn, optax.sgd(0.1), key=jax.random.key(0)
        )
        after, _ = train.train_epoch(learner, state, {"x": jnp.ones(1)}, batch_size=1)
        assert int(after.step) == taken
        np.testing.assert_array_equal(after.params["w"], start - 0.05 * taken)


@pytest.mark.parametrize(
    "tx",
    [
        optax.lbfgs(),  # asks for the value and the function
        optax.chain(
            optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)
        ),  # asks for the value
        optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2).gradient_transformation(),
        optax.sgd(optax.cosine_decay_schedule(0.1, 20)),
    ],
    ids=["lbfgs", "reduce_on_plateau", "multi steps", "schedule"],
)
def test_transformations_that_ask_for_more_than_the_gradient(tx):
    learner, state = learner_of(Plain, tx)
    result = train.run(learner, state, TRAIN, epochs=4, batch_size=37)
    assert result.history["train/loss"][-1] < result.history["train/loss"][0]


def test_a_transformation_with_extra_arguments_of_its_own():
    """It is given those of ours that it names, and no other."""

    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda g: -0.1 * g * jnp.sign(value), updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    learner, state = learner_of(Plain, tx)
    plain, plain_state = learner_of(Plain, optax.sgd(0.1))
    options = {"epochs": 2, "batch_size": 32}
    ours = train.run(learner, state, EVEN, **options).history["train/loss"]
    expected = train.run(plain, plain_state, EVEN, **options).history["train/loss"]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("stop", [None, train.EarlyStopping(50, monitor="train/loss")])
def test_steps_that_are_not_finite_are_skipped_and_counted(stop):
    """One example in six gives an infinite loss: its step is left out, of the state and of the
    mean.
    """

    def loss_fn(model, batch):
        return model.w[...] / batch["x"].sum(), {"x": batch["x"].sum()}

    data = {"x": jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])}
    learner, state = train.make_learner(
        Scalar(10.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0)
    )
    options = {"epochs": 2, "batch_size": 1, "stop": stop, "skip_nonfinite": True}
    result = train.run(learner, state, data, **options)
    assert (int(result.skipped), int(result.state.step), int(result.state.epoch)) == (2, 10, 2)
    assert float(result.state.params["w"]) == 0.0  # five steps down by 1, twice
    assert result.history["train/loss"].tolist() == [
        8.0,
        3.0,
    ]  # means of 10 9 8 7 6 and 5 4 3 2 1
    assert result.history["train/x"].tolist() == [1.0, 1.0]
    assert not result.stopped
    if stop is None:  # fit has one program, with early stopping or without
        assert_same_bits(result, train.fit(learner, state, data, **options, progress=False))

    class Loader:
        def __iter__(self):
            return iter({"x": x[None]} for x in np.asarray(data["x"]))

    options.pop("batch_size")
    assert_same_bits(result, train.fit(learner, state, Loader(), **options, progress=False))


def test_an_epoch_of_which_every_step_is_skipped_has_no_mean():
    def loss_fn(model, batch):
        return jnp.sqrt(model.w[...]), {}

    learner, state = train.make_learner(
        Scalar(-1.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0)
    )
    data = {"x": jnp.ones(2)}
    result = train.run(learner, state, data, data, epochs=2, batch_size=1, skip_nonfinite=True)
    assert int(result.skipped) == 4
    assert np.isnan(result.history["train/loss"]).all()
    assert_same_bits((result.state.params, result.best.params), (state.params, state.params))


@pytest.mark.parametrize(
    ("bad", "tx", "blamed", "kind"),
    [
        (lambda w: jnp.log(-w), optax.sgd(1.0), "the loss was nan", "memory"),
        (
            lambda w: jnp.sqrt(w - w) + 1,
            optax.sgd(1.0),
            "the loss was 1, the gradient of ['w'] has 1 of 1 numbers",
            "memory",
        ),
        (
            lambda w: 1e30 * w,
            optax.sgd(1e30),
            "the loss was 2e+30, the new value of ['w'] has 1 of 1 numbers",
            "memory",
        ),
        (
            lambda w: jnp.sqrt(w - w) + 1,
            optax.sgd(1.0),
            "the loss was 1, the gradient of ['w'] has 1 of 1 numbers",
            "stream",
        ),
    ],
    ids=["loss", "gradient", "update", "gradient in a stream"],
)
def test_what_was_not_finite_is_named(bad, tx, blamed, kind):
    """The batch of zeros is harmless, the batch of ones is not; the message is about the
    latter.
    """

    def loss_fn(model, batch):
        w = model.w[...]
        return jax.lax.cond(batch["x"].sum() > 0, bad, lambda w: 0 * w, w), {}

    class Loader:
        def __iter__(self):
            return iter([{"x": jnp.zeros(1)}, {"x": jnp.ones(1)}, {"x": jnp.zeros(1)}])

    learner, state = train.make_learner(Scalar(2.0), loss_fn, tx, key=jax.random.key(0))
    data, options = (
        ({"x": jnp.ones(1)}, {"batch_size": 1}) if kind == "memory" else (Loader(), {})
    )
    step = 1 if kind == "memory" else 2
    with pytest.warns(RuntimeWarning, match=f"at epoch 1, step {step} ") as told:
        train.fit(learner, state, data, epochs=1, **options, progress=False)
    assert blamed in str(told[0].message)
