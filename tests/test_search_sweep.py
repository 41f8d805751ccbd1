"""Many trainings at once: each equals its training alone, and what cannot be traced is
named.
"""

import dataclasses
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import data, nn, regularization, search, train
from dlwp_jax.search import members
from tests.models import Plain, Scalar, regression, squared_error

TRAIN, VAL = regression(37), regression(10, seed=1)
EVEN = regression(32)  # no short last batch: XLA compiles the step once and not twice
# For a model of one number, which compiles faster.
LINE, LINE_VAL = ({"x": part["y"], "y": part["x"][:, :1]} for part in (TRAIN, VAL))


class Noisy(nnx.Module):
    def __init__(self, dropout, noise, rngs):
        self.noise = regularization.InputNoise(noise, rngs=rngs)
        self.hidden, self.output = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)
        self.dropout = nn.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        return self.output(self.dropout(jnp.tanh(self.hidden(self.noise(x)))))


def plain(lr=0.1, key=None):
    key = jax.random.key(0) if key is None else key
    return train.make_learner(Plain(nnx.Rngs(key)), squared_error, optax.sgd(lr), key=key)


def scalar(lr=0.1):
    return train.make_learner(Scalar(3.0), squared_error, optax.sgd(lr), key=jax.random.key(0))


def make(lr=0.1, penalty=0.0, dropout=0.0, noise=0.0, key=None):
    """Every kind of value that may be swept."""
    key = jax.random.key(0) if key is None else key

    def loss_fn(model, batch):
        loss, metrics = squared_error(model, batch)
        return loss + penalty * regularization.l2(model, biases=False), metrics

    return train.make_learner(
        Noisy(dropout, noise, nnx.Rngs(key)), loss_fn, optax.sgd(lr), key=key
    )


@pytest.fixture(scope="module")
def swept():
    """One member for each kind of value, with early stopping that ends them at different
    epochs.
    """
    over = [
        {"lr": 0.1, "penalty": 0.0, "dropout": 0.0, "noise": 0.0, "key": 0},
        {"lr": 0.01, "penalty": 0.0, "dropout": 0.0, "noise": 0.0, "key": 0},
        {"lr": 0.1, "penalty": 0.3, "dropout": 0.0, "noise": 0.0, "key": 0},
        {"lr": 0.1, "penalty": 0.0, "dropout": 0.5, "noise": 0.0, "key": 1},
        {"lr": 0.1, "penalty": 0.0, "dropout": 0.0, "noise": 1.0, "key": 2},
    ]
    options = {"epochs": 12, "batch_size": 32, "stop": train.EarlyStopping(2, min_delta=0.02)}
    return over, options, search.sweep(make, EVEN, VAL, over=over, **options)


def test_every_member_equals_the_training_run_alone(swept):
    over, options, result = swept
    assert result.how == "vmap"
    assert (
        len(set(np.asarray(result.run.state.epoch).tolist())) > 1
    )  # they stopped at different epochs
    alone_of = jax.jit(
        lambda values: train.run(*make(**values), EVEN, VAL, **options)
    )  # one compilation for all
    for i, values in enumerate(over):
        alone = alone_of(values | {"key": jax.random.key(values["key"])})
        assert int(alone.best.epoch) == int(result.run.best.epoch[i])
        for name, column in alone.history.items():
            # Batched matrix products sum in another order; up to twelve SGD steps of float32
            # rounding.
            np.testing.assert_allclose(
                result.history[name][i], column, rtol=1e-4, err_msg=f"{values} {name}"
            )
    # The penalty that the best state is evaluated with.
    evaluated = train.evaluate(*result.member(2), VAL)["loss"]
    np.testing.assert_allclose(evaluated, np.nanmin(result.history["val/loss"][2]), rtol=1e-4)


@pytest.mark.slow
def test_one_after_another_and_in_chunks_members_equal_the_training_run_alone():
    """With shuffled batches, the last of which is short."""
    options = {"epochs": 3, "batch_size": 16}
    alone_of = jax.jit(lambda lr: train.run(*scalar(lr), LINE, LINE_VAL, **options))
    rates = [0.01, 0.05, 0.1]
    alone = [alone_of(lr).history["val/loss"] for lr in rates]
    for different in ({"how": "map"}, {"chunk": 2}):
        result = search.sweep(
            scalar, LINE, LINE_VAL, over={"lr": rates}, **options, **different
        )
        np.testing.assert_allclose(result.history["val/loss"], alone, rtol=1e-4)
        assert result.best == np.argmin(np.min(alone, axis=1))


def test_the_best_member_and_the_tables(swept):
    over, _, result = swept
    losses = result.history["val/loss"]
    assert result.best == np.nanargmin(np.nanmin(losses, axis=1))
    table = result.table()
    assert [row["lr"] for row in table] == [member["lr"] for member in over]
    assert table[result.best]["val/loss"] == np.nanmin(losses)
    history = result.member_history(1)
    assert len(history["val/loss"]) == table[1]["epochs"]
    assert not np.isnan(history["val/loss"]).any()
    shown = str(result)
    assert "val/loss" in shown
    assert (
        len(shown.splitlines()) == 1 + 5 + 1
    )  # head, members (no two differ in the seed alone), timing
    with pytest.raises(IndexError, match="member 5 of 5"):
        result.member(5)


@pytest.mark.slow
def test_folds_and_seeds_are_averaged_and_every_example_is_validated_once():
    folds = data.k_fold(37, 3, key=jax.random.key(0))  # parts of 13, 12, 12: two shapes
    options = {"epochs": 3, "batch_size": 40}

    def drawn(lr, key):
        return train.make_learner(
            Scalar(jax.random.normal(key)), squared_error, optax.sgd(lr), key=key
        )

    over = {"lr": [0.1, 0.01], "key": [0, 1]}
    result = search.sweep(drawn, LINE, over=over, folds=folds, **options)
    assert result.values["fold"].tolist() == [0, 1, 2] * 4
    for i in (1, 3):  # of the second program, and of the first
        rows, held = folds[result.values["fold"][i]]
        values = {
            "lr": result.values["lr"][i].item(),
            "key": jax.random.key(result.values["key"][i]),
        }
        alone = train.run(
            *drawn(**values), data.take(LINE, rows), data.take(LINE, held), **options
        )
        np.testing.assert_allclose(
            result.history["val/loss"][i], alone.history["val/loss"], rtol=1e-4
        )
    fast, slow = result.settings()
    assert (fast.values, fast.members) == ({"lr": 0.1}, (0, 1, 2, 3, 4, 5))
    np.testing.assert_allclose(
        [fast.mean, fast.spread], [result.scores[:6].mean(), result.scores[:6].std(ddof=1)]
    )
    np.testing.assert_allclose(
        slow.history["val/loss"], result.history["val/loss"][6:].mean(axis=0)
    )
    assert (
        result.best_setting().values
        == min((fast, slow), key=lambda setting: setting.mean).values
    )
    assert len(str(result).splitlines()) == 1 + 2 + 1


def test_convolutions_are_mapped_on_the_cpu_and_dense_nets_are_not():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.output = nn.Conv2d(1, 2, 3, rngs=rngs), nn.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.output(self.conv(x).reshape(len(x), -1))

    def convolutional(lr):
        return train.make_learner(
            Net(nnx.Rngs(0)), squared_error, optax.sgd(lr), key=jax.random.key(0)
        )

    pictures = {"x": jnp.ones((6, 4, 4, 1)), "y": jnp.ones((6, 1))}
    result = search.sweep(
        convolutional, pictures, over={"lr": [0.01, 0.02, 0.0]}, epochs=2, batch_size=3
    )
    assert result.how == ("map" if jax.default_backend() == "cpu" else "vmap")
    assert result.monitor == "train/loss"
    np.testing.assert_allclose(
        result.history["train/loss"][2, 0], result.history["train/loss"][2, 1], rtol=1e-6
    )


def test_a_member_that_diverges_is_told_and_leaves_the_others_alone():
    over = {"lr": [0.1, 1e6]}
    result = search.sweep(scalar, LINE, LINE_VAL, over=over, epochs=9, batch_size=40)
    assert np.asarray(result.run.failure)[:, 0].astype(bool).tolist() == [False, True]
    assert [row["verdict"] == "diverged" for row in result.table()] == [False, True]
    assert result.best == 0
    assert np.isfinite(result.history["val/loss"][0]).all()


def test_larger_is_better_where_the_monitor_says_so():
    def loss_fn(model, batch):
        loss, _ = squared_error(model, batch)
        return loss, {"score": -loss}

    def scored(lr):
        return train.make_learner(Scalar(3.0), loss_fn, optax.sgd(lr), key=jax.random.key(0))

    stop = train.EarlyStopping(50, monitor="val/score", mode="max")
    result = search.sweep(
        scored, LINE, LINE_VAL, over={"lr": [1e-4, 0.1]}, epochs=5, batch_size=37, stop=stop
    )
    assert result.best == 1
    assert result.scores[1] == result.history["val/score"][1].max()


def test_the_time_that_is_told_includes_the_work_that_was_only_queued(monkeypatch):
    clock, ready = [0.0], jax.block_until_ready

    def wait(arrays):
        clock[0] += 100.0
        return ready(arrays)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(jax, "block_until_ready", wait)
    result = search.sweep(scalar, LINE, LINE_VAL, over={"lr": [0.1]}, epochs=1, batch_size=37)
    assert (result.seconds, result.compile_seconds) == (100.0, 0.0)


def test_the_epoch_in_which_a_member_failed_is_no_score():
    """Accuracy is finite in it: the mean over the steps until then."""
    history = {"train/accuracy": np.array([[0.9, np.nan], [0.5, 0.6], [0.4, 0.95]])}
    run = types.SimpleNamespace(history=history, failure=np.array([[1, 3], [0, 0], [2, 1]]))
    values = {"lr": np.array([3.0, 0.1, 2.0])}
    told = search.Sweep(values, run, "train/accuracy", "max", "vmap", 1.0, 0.0, plain)
    np.testing.assert_array_equal(told.scores, [np.nan, 0.6, 0.4])
    assert told.best == 1


def test_seeds_of_thirty_two_bits_are_those_of_jax():
    seeds = np.array([0, 7, 2**31, 2**32 - 1])
    keys = members.as_arguments({"key": seeds})["key"]
    assert [
        key == jax.random.key(seed) for key, seed in zip(keys, seeds.tolist(), strict=True)
    ] == [True] * 4


def test_a_training_that_goes_on_is_scored_by_its_own_epochs():
    """The state that comes in has seen 5 epochs. In its second epoch a member fails, whose
    accuracy is finite there.
    """
    begun = jnp.int32(5)

    def loss_fn(model, batch):  # w falls by the rate a step: the logarithm ends at 0
        w = model.w[...]
        return w + 0 * jnp.log(w) * batch["x"].sum(), {"fall": -jnp.abs(w)}

    def falling(lr):
        learner, state = train.make_learner(Scalar(4.0), loss_fn, optax.sgd(lr), key=KEY)
        return learner, dataclasses.replace(state, epoch=begun)

    stop = train.EarlyStopping(9, monitor="train/fall", mode="max")
    result = search.sweep(
        falling, {"x": jnp.ones(3)}, over={"lr": [1.0, 0.1]}, epochs=3, batch_size=1, stop=stop
    )
    assert result.run.failure.tolist() == [[2, 2], [0, 0]]
    np.testing.assert_allclose(result.scores, [-3.0, -3.3], rtol=1e-5)
    assert result.best_index.tolist() == [0, 2]
    assert result.run.best.epoch.tolist() == [6, 8]
    assert result.diagnose(0).evidence["failed_epoch"] == 2


# What cannot be swept


def by_width(width, lr):
    return train.make_learner(
        nnx.Linear(3, width, rngs=nnx.Rngs(0)), squared_error, optax.sgd(lr), key=KEY
    )


def by_flax_dropout(rate, lr):
    model = nnx.Sequential(
        nnx.Dropout(rate, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    )
    return train.make_learner(model, squared_error, optax.sgd(lr), key=KEY)


def by_branch(deep, lr):
    return make(lr * 2 if deep else lr)


def by_seed(seed, lr):
    return make(lr, key=nnx.Rngs(seed).params())


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (by_width, "width", [4, 8]),
        (by_flax_dropout, "rate", [0.1, 0.2]),
        (by_branch, "deep", [True, False]),
        (by_seed, "seed", [0, 1]),
    ],
)
def test_what_cannot_be_traced_is_named(make, name, values):
    with pytest.raises(
        TypeError, match=f"^'{name}' cannot be swept.*search_capacity.*Python loop"
    ):
        search.sweep(make, TRAIN, VAL, over={name: values, "lr": [0.1]}, epochs=1, batch_size=8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"over": {"lr": ["fast", "slow"]}},
            TypeError,
            r"over\['lr'\] must be a list of numbers",
        ),
        ({"over": {"lr": 0.1}}, TypeError, r"over\['lr'\] must be a list of numbers"),
        ({"over": {"lr": []}}, TypeError, r"over\['lr'\] must be a list of numbers"),
        ({"over": {"key": [0.5]}}, TypeError, r"over\['key'\] must be whole numbers"),
        (
            {"over": {"key": [0, 2**32]}},
            OverflowError,
            r"over\['key'\] of int64 reaches 0..4294967296",
        ),
        ({"over": {"lr": [2**40]}}, OverflowError, r"over\['lr'\] of int64 reaches"),
        ({"over": {"fold": [0]}}, ValueError, "the name 'fold' is taken"),
        ({"over": {}}, ValueError, "nothing to sweep"),
        ({"over": [{"lr": 0.1}, {"penalty": 0.1}]}, ValueError, "must name the same values"),
        ({"over": [0.1, 0.2]}, TypeError, "over must be"),
        ({"over": None}, TypeError, "over must be"),
        ({"over": {"speed": [0.1]}}, TypeError, "speed"),
        ({"how": "pmap"}, ValueError, "how must be"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
        ({"folds": [([0, 1], [2])]}, ValueError, "leave val out"),
        ({"folds": [([0, 1], [99])], "val": None}, ValueError, "row 99; the rows are 0 to 36"),
        ({"folds": [([0, -1], [2])], "val": None}, ValueError, "row -1; the rows are 0 to 36"),
        ({"folds": [([0, 0.5], [2])], "val": None}, TypeError, "a list of row numbers"),
        ({"folds": [([0, 1], [])], "val": None}, ValueError, "at least one row"),
        ({"folds": [], "val": None}, ValueError, "pairs of row numbers"),
        ({"folds": 3, "val": None}, ValueError, "pairs of row numbers"),
        (
            {"stop": train.EarlyStopping(1, monitor="val/accuracy")},
            ValueError,
            "is not recorded",
        ),
    ],
)
def test_wrong_use_is_told_in_a_sentence(options, error, message):
    val = options.pop("val", VAL)
    with pytest.raises(error, match=message):
        search.sweep(
            plain, TRAIN, val, **{"over": {"lr": [0.1]}, "epochs": 1, "batch_size": 8} | options
        )


def test_an_error_of_the_users_own_is_passed_on():
    def broken(lr):
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        search.sweep(broken, TRAIN, over={"lr": [0.1]}, epochs=1, batch_size=8)
    with pytest.raises(TypeError, match="make must return"):
        search.sweep(lambda lr: lr, TRAIN, over={"lr": [0.1]}, epochs=1, batch_size=8)
    with pytest.raises(TypeError, match="make must return"):
        search.sweep(
            lambda lr: (plain(lr)[0], Plain(nnx.Rngs(0))),
            TRAIN,
            over={"lr": [0.1]},
            epochs=1,
            batch_size=8,
        )


@pytest.mark.parametrize("how", ["vmap", "map"])
def test_ctrl_c_gives_the_epochs_until_then_as_run_alone_has_them(how):
    """The first call of the loss raises the signal."""
    calls = []

    def raise_once():
        calls.append(0)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)

    def interrupting(model, batch):
        jax.debug.callback(raise_once)
        return squared_error(model, batch)

    def interrupted(lr):
        return train.make_learner(
            Plain(nnx.Rngs(0)), interrupting, optax.sgd(lr), key=jax.random.key(0)
        )

    def alone(lr):
        learner, state = plain(lr)
        return train.run(learner, state, TRAIN, VAL, epochs=3, batch_size=37)

    over = {"lr": [0.1, 0.01]}
    result = search.sweep(
        interrupted, TRAIN, VAL, over=over, epochs=100000, batch_size=37, how=how
    )
    assert result.interrupted
    assert "interrupted: " in str(result)
    trained = np.sum(~np.isnan(result.history["val/loss"]), axis=1)
    assert 0 < trained[0] < 1000
    assert trained[1] == (trained[0] if how == "vmap" else 0)
    n = min(trained[0], 3)
    np.testing.assert_allclose(
        result.history["val/loss"][0, :n], alone(0.1).history["val/loss"][:n], rtol=1e-5
    )


def test_preprocessing_is_fitted_inside_each_fold():
    """Referee: NumPy scales each fold, and `train.run` trains on it alone. Nothing but the
    folds is swept: `scalar` takes its defaults.
    """
    folds = data.k_fold(37, 3, key=jax.random.key(0))  # parts of two lengths

    def prepare(ours, held):
        mean, std = ours["x"].mean(0), ours["x"].std(0)
        return tuple(part | {"x": (part["x"] - mean) / std} for part in (ours, held))

    options = {"epochs": 2, "batch_size": 40}
    x, y = np.asarray(LINE["x"]), np.asarray(LINE["y"])
    result = search.sweep(scalar, LINE, over={}, folds=folds, prepare=prepare, **options)
    for i, (ours, held) in enumerate(folds):
        mean, std = x[ours].mean(0), x[ours].std(0)
        parts = [{"x": (x[rows] - mean) / std, "y": y[rows]} for rows in (ours, held)]
        alone = train.run(*scalar(), *parts, **options)
        np.testing.assert_allclose(
            result.history["val/loss"][i], alone.history["val/loss"], rtol=1e-4
        )
    with pytest.raises(TypeError, match="goes with folds"):
        search.sweep(plain, TRAIN, VAL, over={"lr": [0.1]}, prepare=prepare, **options)
    with pytest.raises(TypeError, match=r"prepare must return \(train, val\)"):
        search.sweep(
            plain, TRAIN, over={}, folds=folds, prepare=lambda ours, _: ours, **options
        )
