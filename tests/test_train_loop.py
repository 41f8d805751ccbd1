"""The loop: what run, fit and train_epoch promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from tests.models import (
    Plain,
    Scalar,
    Stochastic,
    Tied,
    assert_same_bits,
    learner_of,
    regression,
    squared_error,
)
from tests.regressions import EVEN, TRAIN, VAL


def scripted(w, loss, val_loss=None):
    """Training under SGD(1) where the loss is a function of w alone in training, and of w in
    validation.
    """

    def loss_fn(model, batch):
        value = jnp.where(
            batch["is_val"][0], (val_loss or loss)(model.w[...]), loss(model.w[...])
        )
        return value, {"minus": -value}

    data = {"is_val": jnp.zeros(1, bool)}, {"is_val": jnp.ones(1, bool)}
    return *train.make_learner(Scalar(w), loss_fn, optax.sgd(1.0), key=jax.random.key(0)), *data


@pytest.mark.parametrize(
    ("model", "data", "batch_size", "stop"),
    [
        (Stochastic, EVEN, 8, train.EarlyStopping(2)),
        (Tied, TRAIN, 8, train.EarlyStopping(2)),
        (Tied, TRAIN, 100, None),
    ],
    ids=["dropout and batch norm", "a short last batch", "one batch of all"],
)
def test_fit_gives_the_bits_of_run(model, data, batch_size, stop):
    learner, state = learner_of(model)
    options = {"epochs": 6, "batch_size": batch_size, "stop": stop}
    ran = train.run(learner, state, data, VAL, **options)
    fitted = train.fit(learner, state, data, VAL, **options, progress=False)
    assert_same_bits(
        (ran.state, ran.best, ran.stopped), (fitted.state, fitted.best, fitted.stopped)
    )
    epochs = len(fitted.history["val/loss"])
    assert_same_bits({k: v[:epochs] for k, v in ran.history.items()}, fitted.history)
    assert np.isnan(ran.history["val/loss"][epochs:]).all()


def test_three_epochs_and_then_three_are_six():
    """By run, and by fit, which goes on from a state of run."""
    learner, state = learner_of()
    options = {"batch_size": 8}
    six = train.run(learner, state, EVEN, epochs=6, **options)
    three = train.run(learner, state, EVEN, epochs=3, **options)
    fit = functools.partial(train.fit, progress=False)
    for drive in (train.run, fit):
        rest = drive(learner, three.state, EVEN, epochs=3, **options)
        assert_same_bits(six.state, rest.state)
        assert int(rest.state.epoch) == 6
        for name, values in six.history.items():
            np.testing.assert_array_equal(
                values, np.concatenate([three.history[name], rest.history[name]])
            )


def test_train_epoch_is_an_epoch_of_run_with_the_logs_of_every_step():
    learner, state = learner_of(Plain)
    after, logs = train.train_epoch(learner, state, EVEN, batch_size=8)
    result = train.run(learner, state, EVEN, epochs=1, batch_size=8)
    assert_same_bits(after, result.state)
    assert logs["loss"].shape == (4,)
    # The mean of four float32 numbers, added in two orders.
    np.testing.assert_allclose(logs["loss"].mean(), result.history["train/loss"][0], rtol=1e-6)


def test_each_epoch_sees_every_example_once_in_a_new_order():
    def loss_fn(model, batch):
        return model.w[...] ** 2, {"seen": jnp.sum(2.0 ** batch["id"])}

    learner, state = train.make_learner(
        Scalar(), loss_fn, optax.sgd(0.1), key=jax.random.key(0)
    )
    seen = []
    for _ in range(3):
        state, logs = train.train_epoch(learner, state, {"id": jnp.arange(11.0)}, batch_size=4)
        seen.append(tuple(logs["seen"].tolist()))
        assert sum(seen[-1]) == 2**11 - 1  # each bit once: no example twice, none left out
        assert [bin(int(s)).count("1") for s in seen[-1]] == [4, 4, 3]
    assert len(set(seen)) == 3


def test_against_a_training_loop_written_out():
    """The loop a person writes with nnx and optax, over the batches that train_epoch takes."""
    orders = []

    def loss_fn(model, batch):
        return squared_error(model, batch)[0], {
            f"row{i}": row for i, row in enumerate(batch["row"])
        }

    model = Plain(nnx.Rngs(0))
    tx = optax.adamw(1e-2)
    data = jax.tree.map(np.asarray, regression(12)) | {"row": np.arange(12)}
    learner, state = train.make_learner(model, loss_fn, tx, key=jax.random.key(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        optimizer.update(model, nnx.grad(lambda m: squared_error(m, batch)[0])(model))

    for _ in range(3):
        state, logs = train.train_epoch(learner, state, data, batch_size=4)
        orders = np.stack([logs[f"row{i}"] for i in range(4)], axis=1).astype(int)  # [steps 4]
        for order in orders:
            batch = {"x": data["x"][order], "y": data["y"][order]}
            step(model, optimizer, batch)
    expected = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    # Nine Adam steps, compiled as one program and one by one: float32 rounding of the
    # gradients, which Adam's division by their size carries over at full strength.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
        state.params,
        expected,
    )


def test_dropout_draws_anew_each_epoch_and_batch_norm_moves_only_in_training():
    learner, state = learner_of(
        tx=optax.sgd(0.0)
    )  # parameters stand still: what differs is the dropout
    result = train.run(learner, state, TRAIN, epochs=6, batch_size=37)
    after = result.state
    assert len(set(result.history["train/loss"].tolist())) == 6
    assert not np.array_equal(after.extra["norm"]["mean"], state.extra["norm"]["mean"])
    first, second = (train.evaluate(learner, after, VAL)["loss"] for _ in range(2))
    assert first == second
    assert_same_bits(after.rngs, state.rngs)


# Pure: jit, vmap, grad


def test_run_under_vmap_over_seeds_and_data_equals_each_alone():
    sgd = optax.sgd(1e-2)

    def member(key, data):
        model_key, train_key = jax.random.split(key)
        learner, state = train.make_learner(
            Stochastic(nnx.Rngs(model_key)), squared_error, sgd, key=train_key
        )
        return train.run(learner, state, data, VAL, epochs=4, batch_size=8).history

    keys = jax.random.split(jax.random.key(3), 2)
    data = [EVEN, regression(32, seed=2)]
    together = jax.jit(jax.vmap(member))(keys, jax.tree.map(lambda *a: np.stack(a), *data))
    for i, key in enumerate(keys):
        # Batched matrix products sum in another order than single ones; sixteen SGD steps of
        # float32 rounding.
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5),
            jax.tree.map(lambda a, i=i: a[i], together),
            member(key, data[i]),
        )


def test_learning_rates_and_early_stopping_under_vmap():
    learner, state = learner_of(Plain, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    stop = train.EarlyStopping(1, min_delta=0.05)

    def member(lr):
        hyperparams = state.opt_state.hyperparams | {"learning_rate": lr}
        start = train.TrainState(
            **{**vars(state), "opt_state": state.opt_state._replace(hyperparams=hyperparams)}
        )
        result = train.run(learner, start, TRAIN, VAL, epochs=12, batch_size=37, stop=stop)
        return result.history["val/loss"], result.state.epoch, result.best.epoch

    rates = jnp.array([0.3, 0.03, 1e-4])
    together = jax.vmap(member)(rates)
    assert len(set(together[1].tolist())) > 1  # they stop at different epochs
    for i, lr in enumerate(rates):
        alone = member(lr)
        np.testing.assert_allclose(
            together[0][i], alone[0], rtol=1e-5
        )  # as above: order of sums
        assert (together[1][i], together[2][i]) == alone[1:]


@pytest.mark.slow
def test_reverse_mode_through_a_whole_training():
    """The gradient of the final loss with respect to the learning rate, against a central
    difference.
    """
    learner, state = learner_of(Plain, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))

    def final_loss(lr):
        hyperparams = state.opt_state.hyperparams | {"learning_rate": lr}
        start = train.TrainState(
            **{**vars(state), "opt_state": state.opt_state._replace(hyperparams=hyperparams)}
        )
        result = train.run(learner, start, EVEN, VAL, epochs=3, batch_size=32)
        return result.history["val/loss"][-1]

    lr, eps = jnp.float32(0.05), 1e-3
    slope = (final_loss(lr + eps) - final_loss(lr - eps)) / (2 * eps)
    # A central difference at 1e-3 in float32: truncation and cancellation leave about three
    # digits.
    np.testing.assert_allclose(jax.grad(final_loss)(lr), slope, rtol=1e-2)


def test_a_second_call_traces_nothing_new():
    traced = []

    def loss_fn(model, batch):
        traced.append(1)
        return squared_error(model, batch)

    def call():
        traced.clear()
        learner, state = train.make_learner(
            Plain(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0)
        )
        train.run(learner, state, EVEN, VAL, epochs=2, batch_size=8)
        train.fit(learner, state, EVEN, VAL, epochs=2, batch_size=8, progress=False)
        return len(traced)

    tx = optax.sgd(0.1)
    first, second, third = call(), call(), call()
    assert (
        second == third < first
    )  # what is left are the checks, which trace and compile nothing


# Early stopping


@pytest.mark.parametrize(
    ("stop", "last", "best"),
    [
        # w falls from 10 by 1 an epoch; validation is |w - 5|, lowest at epoch 5.
        (train.EarlyStopping(1), 6, 5),
        (train.EarlyStopping(3), 8, 5),
        (train.EarlyStopping(100), 20, 5),
        # Improvements of 1 never beat the last by more than 1; two epochs together do.
        (train.EarlyStopping(1, min_delta=1.0), 2, 2),
        (train.EarlyStopping(2, min_delta=1.0), 7, 5),
        (train.EarlyStopping(2, monitor="train/loss"), 20, 20),
        (train.EarlyStopping(3, monitor="val/minus", mode="max"), 8, 5),
        (
            train.EarlyStopping(3, monitor="val/minus"),
            20,
            20,
        ),  # |w - 5| at its largest, w = -10
    ],
)
def test_early_stopping_epoch_by_epoch(stop, last, best):
    learner, state, train_set, val_set = scripted(10.0, lambda w: w, lambda w: jnp.abs(w - 5))
    if (
        stop.monitor == "val/minus" and stop.mode == "min"
    ):  # rises to epoch 5, so the patience must outlast it
        stop = train.EarlyStopping(11, monitor="val/minus")
    result = train.run(learner, state, train_set, val_set, epochs=20, batch_size=1, stop=stop)
    assert int(result.state.epoch) == last
    assert int(result.best.epoch) == best
    assert bool(result.stopped) == (last < 20)
    np.testing.assert_allclose(result.best.params["w"], 10 - best)


def test_early_stopping_in_fit():
    learner, state, train_set, val_set = scripted(10.0, lambda w: w, lambda w: jnp.abs(w - 5))
    options = {"stop": train.EarlyStopping(3), "epochs": 20, "batch_size": 1}
    result = train.fit(learner, state, train_set, val_set, **options, progress=False)
    assert (int(result.state.epoch), int(result.best.epoch)) == (8, 5)
    assert bool(result.stopped)
    np.testing.assert_allclose(result.best.params["w"], 5)


def test_best_without_validation_follows_the_training_loss():
    learner, state, train_set, _ = scripted(3.0, lambda w: jnp.abs(w))  # 3 2 1 0 1 0 ...
    result = train.run(learner, state, train_set, epochs=5, batch_size=1)
    assert int(result.best.epoch) == 4  # the loss 0 was that of epoch 4, taken before its step
    assert not bool(result.stopped)


# Not finite


@pytest.mark.parametrize(
    ("validate", "stop"),
    [(False, None), (True, train.EarlyStopping(50, monitor="train/loss"))],
    ids=["scan", "while"],
)
def test_a_non_finite_loss_ends_training_at_the_last_finite_state(validate, stop):
    # Under SGD(1), w falls by 1 a step; sqrt(w - 2) has loss and gradient nan from w = 1 on (w
    # = 2: gradient inf).
    def loss_fn(model, batch):
        w = model.w[...]
        return w + 0 * jnp.log(w - 1.5) * batch["x"].sum(), {}

    data = {"x": jnp.ones(3)}  # three steps an epoch
    learner, state = train.make_learner(
        Scalar(6.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0)
    )
    options = {"epochs": 9, "batch_size": 1, "stop": stop}
    result = train.run(learner, state, data, data if validate else None, **options)
    assert result.failure.tolist() == [
        2,
        3,
    ]  # w = 6 5 4 | 3 2 1: log(-0.5) at step 3 of epoch 2
    assert bool(result.stopped)
    assert (
        float(result.state.params["w"]),
        int(result.state.step),
        int(result.state.epoch),
    ) == (1.0, 5, 1)
    with pytest.warns(RuntimeWarning, match="epoch 2, step 3") as told:
        fitted = train.fit(
            learner, state, data, data if validate else None, **options, progress=False
        )
    assert [warning.filename for warning in told] == [__file__]
    assert_same_bits(
        (result.state, result.best, result.failure), (fitted.state, fitted.best, fitted.failure)
    )
    losses = fitted.history["train/loss"]
    assert losses.shape == (2,)
    assert losses[0] == 5.0
    assert np.isnan(losses[1])


def test_train_epoch_stops_inside_the_epoch():
    def loss_fn(model, batch):
        w = model.w[...]
        return w + 0 * jnp.log(w - 1.5) * batch["x"].sum(), {}

    learner, state = train.make_learner(
        Scalar(3.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0)
    )
    state, logs = train.train_epoch(learner, state, {"x": jnp.ones(6)}, batch_size=1)
    np.testing.assert_array_equal(
        np.isnan(logs["loss"]), [False, False, True, True, True, True]
    )
    assert (float(state.params["w"]), int(state.step), int(state.epoch)) == (1.0, 2, 0)


def test_bfloat16_metrics_are_recorded_in_float32():
    def loss_fn(model, batch):
        return model.w[...] ** 2, {"half": jnp.bfloat16(0.1), "count": batch["x"].shape[0]}

    learner, state = train.make_learner(
        Scalar(1.0), loss_fn, optax.sgd(0.1), key=jax.random.key(0)
    )
    history = train.run(learner, state, {"x": jnp.ones(4)}, epochs=2, batch_size=2).history
    assert history["train/half"].dtype == jnp.float32
    assert history["train/count"].tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_a_penalty_that_the_loss_closes_over_can_be_mapped_and_differentiated():
    sgd = optax.sgd(0.1)

    def final(penalty):
        def loss_fn(model, batch):
            return squared_error(model, batch)[0] + penalty * jnp.sum(
                model.output.kernel[...] ** 2
            ), {}

        learner, state = train.make_learner(
            Plain(nnx.Rngs(0)), loss_fn, sgd, key=jax.random.key(0)
        )
        return train.run(learner, state, TRAIN, epochs=2, batch_size=37).history["train/loss"][
            -1
        ]

    alone = jax.jit(final)
    together = jax.vmap(final)(jnp.array([0.0, 0.1]))
    # Batched products sum otherwise.
    np.testing.assert_allclose(together, [alone(0.0), final(0.1)], rtol=1e-5)
    slope = (alone(0.11) - alone(0.09)) / 0.02
    np.testing.assert_allclose(
        jax.grad(final)(0.1), slope, rtol=1e-2
    )  # a central difference in float32
