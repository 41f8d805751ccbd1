"""What `make_learner(record=...)` adds to the logs: norms by hand, eval-mode loss, under every
way of training.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from dlwp_jax.diagnose import diagnose
from tests.models import Plain, Scalar, Stochastic, regression, squared_error

TRAIN, VAL = regression(37), regression(10, seed=1)
ADAM = optax.adam(1e-2)  # one object: equal learners share compiled programs
ALL = ("norms", "dead_units", "eval_loss")
NORMS = ("grad_norm", "param_norm", "update_norm")
TX = optax.sgd(0.1)
NEW = {f"train/{name}" for name in (*NORMS, "dead_units", "eval_loss")}


def learner_of(model, tx=ADAM, record=ALL, loss_fn=squared_error):
    return train.make_learner(
        model(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0), record=record
    )


def euclid(tree):
    return np.sqrt(
        sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree))
    )


def test_norms_are_those_of_steps_taken_by_hand():
    learner, state = learner_of(Plain, optax.sgd(0.1, momentum=0.9), record=("norms",))
    _, logs = train.train_epoch(learner, state, TRAIN, batch_size=37)

    model = Plain(nnx.Rngs(0))
    graph, params = nnx.split(model)

    def loss(params):
        return squared_error(nnx.merge(graph, params), TRAIN)[0]

    grads = jax.jit(jax.grad(loss))(params)
    np.testing.assert_allclose(logs["grad_norm"], [euclid(grads)], rtol=1e-6)  # float32 sums
    np.testing.assert_allclose(logs["update_norm"], [0.1 * euclid(grads)], rtol=1e-6)
    np.testing.assert_allclose(logs["param_norm"], [euclid(params)], rtol=1e-6)


def test_run_and_streams_record_the_same_and_change_nothing_else():
    learner, state = learner_of(Stochastic, TX)
    ran = train.run(learner, state, TRAIN, VAL, epochs=2, batch_size=37).history
    streamed = train.fit(learner, state, Once(), VAL, epochs=2, progress=False).history
    assert set(streamed) == set(ran)
    for name, values in ran.items():  # another program: sums may be ordered differently
        np.testing.assert_allclose(streamed[name], values, rtol=1e-5)

    bare = train.run(
        *learner_of(Stochastic, TX, record=()), TRAIN, VAL, epochs=2, batch_size=37
    ).history
    assert set(ran) == set(bare) | NEW  # nothing for val
    for name, values in bare.items():
        np.testing.assert_allclose(ran[name], values, rtol=1e-5)


class Once:
    def __iter__(self):
        return iter([TRAIN])


def test_the_eval_loss_is_the_one_evaluate_gives_before_the_step():
    learner, state = learner_of(Stochastic, record=("eval_loss",))
    _, logs = train.train_epoch(learner, state, TRAIN, batch_size=37)
    expected = train.evaluate(learner, state, TRAIN)["loss"]
    np.testing.assert_allclose(logs["eval_loss"][0], expected, rtol=1e-6)
    assert (
        abs(float(logs["loss"][0] - expected)) > 1e-3
    )  # dropout and batch statistics do make a difference


class Rectified(nnx.Module):
    """Two hidden units of four are driven below zero, whatever the input."""

    def __init__(self, activation, bias):
        self.hidden, self.output = (
            nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
            nnx.Linear(4, 1, rngs=nnx.Rngs(1)),
        )
        self.hidden.bias[...] = jnp.array([bias, bias, 0.0, 0.0])
        self.activation = activation

    def __call__(self, x):
        return self.output(self.activation(self.hidden(x)))


@pytest.mark.parametrize(
    ("activation", "bias"), [(nnx.relu, -100.0), (jnp.tanh, 100.0), (nnx.sigmoid, -200.0)]
)
def test_dead_units_are_counted_whatever_kills_them(activation, bias):
    make = functools.partial(
        train.make_learner,
        loss_fn=squared_error,
        tx=optax.sgd(0.0),
        key=jax.random.key(0),
        record=("dead_units",),
    )
    learner, state = make(Rectified(activation, bias))
    _, logs = train.train_epoch(learner, state, TRAIN, batch_size=37)
    assert float(logs["dead_units"][0]) == pytest.approx(
        2 / 5
    )  # of four hidden units and one output
    assert float(train.unit_health(learner, state, TRAIN)["dead"]) == pytest.approx(2 / 5)


def test_a_saturated_unit_is_one_that_examples_hardly_move():
    learner, state = train.make_learner(
        Rectified(jnp.tanh, 6.0), squared_error, optax.sgd(0.0), key=jax.random.key(0)
    )
    health = train.unit_health(learner, state, TRAIN)  # tanh'(6) = 2e-5
    assert {name: float(share) for name, share in health.items()} == {
        "dead": 0.0,
        "saturated": pytest.approx(2 / 5),
    }


def test_members_of_a_vmap_record_as_they_do_alone():
    def norms(w):
        learner, state = train.make_learner(
            Scalar(w), squared_error, TX, key=jax.random.key(0), record=("norms",)
        )
        history = train.run(
            learner, state, {"x": TRAIN["y"], "y": TRAIN["y"]}, epochs=2, batch_size=37
        ).history
        return [history[f"train/{name}"] for name in NORMS]

    w = jnp.array([0.0, 3.0])
    together = jax.vmap(norms)(w)
    for i in range(2):
        alone = norms(w[i])
        np.testing.assert_allclose([values[i] for values in together], alone, rtol=1e-5)


def test_a_run_that_explodes_is_diagnosed_with_its_gradient():
    data = {"x": jnp.ones((4, 1)), "y": jnp.zeros((4, 1))}
    learner, state = train.make_learner(
        Scalar(1.0), squared_error, optax.sgd(10.0), key=jax.random.key(0), record=("norms",)
    )
    run = train.run(learner, state, data, data, epochs=40, batch_size=4)
    diagnosis = diagnose(run)
    assert diagnosis.verdict == "diverged"
    assert diagnosis.evidence["failed_epoch"] == int(run.failure[0]) > 0
    assert diagnosis.advice[0].startswith("The gradient explodes")


def test_a_run_with_norms_can_be_differentiated_where_the_gradient_is_zero():
    data = {"x": jnp.zeros((4, 1)), "y": jnp.zeros((4, 1))}
    learner, _ = train.make_learner(
        Scalar(), squared_error, optax.sgd(0.1), key=jax.random.key(0), record=("norms",)
    )

    def last_loss(w):
        _, state = train.make_learner(
            Scalar(w), squared_error, learner.tx, key=jax.random.key(0)
        )
        return train.run(learner, state, data, epochs=2, batch_size=4).history["train/loss"][-1]

    assert float(jax.grad(last_loss)(1.0)) == 0.0


def test_norms_can_be_watched_and_half_precision_does_not_swallow_them():
    learner, state = learner_of(Plain, record=("norms",))
    stop = train.EarlyStopping(
        1, monitor="train/grad_norm", mode="max"
    )  # a falling norm is no improvement
    options = {"epochs": 50, "batch_size": 37, "stop": stop}
    watched = train.fit(learner, state, TRAIN, **options, progress=False)
    assert bool(watched.stopped)
    assert set(NORMS) < {name.removeprefix("train/") for name in watched.history}
    tree = {"w": jnp.full(100_000, 0.01, jnp.bfloat16)}
    assert float(train.step.norm(tree)) == pytest.approx(euclid(tree), rel=1e-3)


@pytest.mark.parametrize("record", ["norms", ("norm",), {"loss"}])
def test_what_is_not_known_is_refused(record):
    with pytest.raises(
        ValueError, match="record must be a collection of 'norms', 'dead_units', 'eval_loss'"
    ):
        learner_of(Plain, record=record)


def test_a_metric_of_the_same_name_is_refused_before_anything_is_compiled():
    learner, state = learner_of(
        Plain, loss_fn=lambda m, b: (squared_error(m, b)[0], {"grad_norm": jnp.zeros(())})
    )
    with pytest.raises(ValueError, match="a metric may not be called 'grad_norm'"):
        train.run(learner, state, TRAIN, epochs=1, batch_size=8)
