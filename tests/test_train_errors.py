"""Wrong use is one clear sentence, before anything is compiled."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import losses, train
from tests.models import Plain, Scalar, regression, squared_error

DATA = regression(6)
KEY = jax.random.key(0)
TX = optax.sgd(0.1)
GOOD = {"model": Plain(nnx.Rngs(0)), "loss_fn": squared_error, "tx": TX, "key": KEY}


class Counting(nnx.Module):
    """Makes a variable in its forward pass, which a compiled loop cannot carry."""

    def __init__(self):
        self.w = nnx.Param(jnp.array(1.0))

    def __call__(self, x):
        self.late = nnx.BatchStat(x.mean())
        return self.w[...] * x


class Listed(nnx.Module):
    """Holds a Python set as an attribute: nothing that jit can look up."""

    def __init__(self):
        self.w, self.unhashable = nnx.Param(jnp.array(1.0)), {1, 2}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"model": lambda x: x}, TypeError, "model must be a flax.nnx.Module; got function"),
        ({"model": Plain}, TypeError, "got the class Plain. Call it first"),
        ({"model": flax.linen.Dense(3)}, TypeError, "ToNNX"),
        ({"model": Listed()}, TypeError, "must be hashable"),
        ({"loss_fn": 3}, TypeError, "loss_fn must be a function"),
        (
            {"tx": 0.1},
            TypeError,
            r"tx must be an optax.GradientTransformation such as optax.adam\(1e-3\); got float "
            r"0.1",
        ),
        ({"tx": optax.MultiSteps(TX, 2)}, TypeError, "Call its .gradient_transformation"),
        ({"tx": optax.sgd}, TypeError, "tx must be an optax.GradientTransformation"),
        (
            {"key": 0},
            TypeError,
            r"key must be one PRNG key such as jax.random.key\(0\); got int 0",
        ),
        ({"key": jax.random.split(KEY)}, TypeError, "key must be one PRNG key"),
        ({"trainable": nnx.PathContains("nowhere")}, ValueError, "chooses no leaf"),
        (
            {"model": nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "trainable": ...},
            ValueError,
            "chooses no leaf",
        ),
        (
            {"model": Scalar(jnp.arange(3)), "loss_fn": squared_error},
            TypeError,
            r"\['w'\] of dtype int32, which has no",
        ),
    ],
)
def test_make_learner(wrong, error, message):
    with pytest.raises(error, match=message):
        train.make_learner(**GOOD | wrong)


def test_the_older_form_of_keys_is_taken():
    old, new = (
        train.make_learner(**GOOD | {"key": key})[1] for key in (jax.random.PRNGKey(0), KEY)
    )
    assert old.key == new.key


@pytest.mark.parametrize("callbacks", [None, print, 3])
def test_callbacks(callbacks):
    with pytest.raises(
        TypeError, match="callbacks must be a list of functions of a Progress; got"
    ):
        train.fit(
            *train.make_learner(**GOOD), DATA, epochs=1, batch_size=3, callbacks=callbacks
        )


NAN = {"x": DATA["x"].at[4, 1].set(jnp.nan), "y": DATA["y"]}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"train": {"x": jnp.ones((6, 3)), "y": jnp.ones((5, 1))}},
            ValueError,
            r"train\['x'\] has 6, train\['y'\] has 5",
        ),
        ({"train": {}}, ValueError, "train holds no array"),
        ({"train": {"x": 1.0}}, TypeError, r"train\['x'\] is float 1.0"),
        ({"train": {"x": jnp.float32(1)}}, TypeError, "leading axis"),
        ({"train": {"x": np.array(["a", "b"])}}, TypeError, "encode it as numbers"),
        ({"train": {"x": np.array([None, 1])}}, TypeError, "dtype object"),
        ({"train": NAN}, ValueError, r"train\['x'\] holds 1 NaN, the first at row 4"),
        ({"val": NAN}, ValueError, r"val\['x'\] holds 1 NaN"),
        ({"val": jax.tree.map(lambda a: a[:0], DATA)}, ValueError, "val is empty"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1; got int 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number; got float 2.5"),
        ({"batch_size": True}, TypeError, "got bool True"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1; got int 0"),
        ({"epochs": -3}, ValueError, "got int -3"),
        ({"val_batch_size": 0}, ValueError, "val_batch_size must be"),
        (
            {"stop": train.EarlyStopping(2)},
            ValueError,
            "monitor='val/loss' is not recorded; there are train/loss, train/mae. Give",
        ),
        (
            {"val": DATA, "stop": train.EarlyStopping(2, monitor="val/f1")},
            ValueError,
            "val/loss, val/mae",
        ),
    ],
)
@pytest.mark.parametrize("drive", [train.run, train.fit])
def test_run_and_fit(drive, wrong, error, message):
    learner, state = train.make_learner(**GOOD)
    arguments = {"train": DATA, "val": None, "epochs": 2, "batch_size": 3} | wrong
    with pytest.raises(error, match=message):
        drive(learner, state, arguments.pop("train"), arguments.pop("val"), **arguments)


def returning(outcome):
    def loss_fn(model, batch):
        return outcome(model(batch["x"]))

    return loss_fn


@pytest.mark.parametrize(
    ("loss_fn", "error", "message"),
    [
        (returning(lambda y: y.mean()), TypeError, r"must return \(loss, metrics\)"),
        (returning(lambda y: (y.mean(), [1.0])), TypeError, "metrics a dict"),
        (
            returning(lambda y: (y[:, 0] ** 2, {})),
            ValueError,
            r"the loss must be one real number; .* shape \(3,\)",
        ),
        (returning(lambda y: (1, {})), ValueError, "one real number"),
        (
            returning(lambda y: (y.mean(), {"all": y})),
            ValueError,
            "metrics must be scalars, .* under names; .* 'all'",
        ),
        (
            returning(lambda y: (y.mean(), {"deep": {"a": y.mean()}})),
            ValueError,
            "metrics must be scalars, .* under names",
        ),
        (
            returning(lambda y: (y.mean(), {1: y.mean()})),
            ValueError,
            "metrics must be scalars, .* under names",
        ),
        (
            returning(lambda y: (y.mean(), {"loss": y.mean()})),
            ValueError,
            "may not be called 'loss'",
        ),
    ],
)
def test_loss_functions(loss_fn, error, message):
    learner, state = train.make_learner(**GOOD | {"loss_fn": loss_fn})
    calls = (
        lambda: train.run(learner, state, DATA, epochs=1, batch_size=3),
        lambda: train.fit(learner, state, DATA, epochs=1, batch_size=3),
        lambda: train.train_epoch(learner, state, DATA, batch_size=3),
        lambda: train.evaluate(learner, state, DATA, batch_size=3),
    )
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_state_made_in_the_forward_pass_is_refused():
    def loss_fn(model, batch):
        return jnp.mean(model(batch["x"]) ** 2), {}

    learner, state = train.make_learner(Counting(), loss_fn, TX, key=KEY)
    with pytest.raises(ValueError, match=r"create every nnx\.Variable in __init__"):
        train.run(learner, state, DATA, epochs=1, batch_size=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patience": 0}, "patience"),
        ({"patience": 1, "min_delta": -1.0}, "min_delta"),
        ({"patience": 1, "mode": "up"}, "mode"),
    ],
)
def test_early_stopping(wrong, message):
    with pytest.raises(ValueError, match=message):
        train.EarlyStopping(**wrong)


def test_a_batch_that_does_not_fit_the_model_says_the_models_own_words():
    def loss_fn(model, batch):
        return jnp.mean(model(batch["y"])), {}

    learner, state = train.make_learner(Plain(nnx.Rngs(0)), loss_fn, TX, key=KEY)
    with pytest.raises(TypeError, match="dot_general"):
        train.run(learner, state, DATA, epochs=1, batch_size=3)
    scalar, scalar_state = train.make_learner(Scalar(), squared_error, TX, key=KEY)
    with pytest.raises(KeyError, match="x"):
        train.run(scalar, scalar_state, {"z": jnp.ones(3)}, epochs=1, batch_size=3)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ((jnp.ones((4, 3)), jnp.ones((4, 1))), r"TypeError.*of val: \[0\] float32\[3\]"),
        ({"inputs": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}, r"KeyError: 'x'"),
        ({"x": jnp.ones((4, 2)), "y": jnp.ones((4, 1))}, r"\['x'\] float32\[2\]"),
        ([{"x": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}], "TypeError"),
    ],
)
@pytest.mark.parametrize("drive", [train.run, train.fit, None])  # None: streams in fit
def test_validation_data_of_another_form_are_told(drive, val, message):
    learner, state = train.make_learner(**GOOD)
    ours = {"x": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}
    sets, options = (ours, val), {"epochs": 1, "batch_size": 2}
    if drive is None:
        sets, options = (Stream(ours), Stream(val)), {"epochs": 1}
    with pytest.raises(ValueError, match="val has another form than train.*" + message):
        (drive or train.fit)(learner, state, *sets, **options)


class Stream:
    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_validation_data_that_the_loss_takes_may_have_another_form():
    learner, state = train.make_learner(**GOOD)
    ours = {"x": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}
    result = train.run(
        learner, state, ours | {"unused": jnp.ones(4)}, ours, epochs=1, batch_size=2
    )
    assert jnp.isfinite(result.history["val/loss"]).all()


@pytest.mark.parametrize(
    ("monitor", "val", "hint"),
    [
        ("val/mae", None, "Give val, or monitor a train/ value"),
        ("mae", True, r"Did you mean 'val/mae'\?"),
        ("val/mea", True, r"Did you mean 'val/mae'\?"),
        ("valid/mae", True, r"Did you mean 'val/mae'\?"),
        ("val/accuracy", True, "If loss_fn returns 'accuracy' among its metrics"),
    ],
)
def test_a_monitor_that_is_not_recorded_is_answered_by_its_case(monitor, val, hint):
    def loss_fn(model, batch):
        return squared_error(model, batch)[0], {"mae": jnp.float32(0)}

    learner, state = train.make_learner(**GOOD | {"loss_fn": loss_fn})
    ours = {"x": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}
    stop = train.EarlyStopping(2, monitor=monitor)
    with pytest.raises(ValueError, match=f"monitor='{monitor}' is not recorded.*{hint}"):
        train.run(learner, state, ours, val and ours, epochs=1, batch_size=2, stop=stop)


def test_a_label_that_is_no_class_is_thought_of():
    """Referee: torch, which refuses such a label by IndexError."""
    images, labels = np.ones((4, 2), np.float32), np.array([0, 1, 2, 3])
    with pytest.raises(IndexError):
        torch.nn.functional.cross_entropy(torch.zeros(4, 3), torch.tensor(labels))

    def loss_fn(model, batch):
        return losses.cross_entropy(model(batch["x"]), batch["y"]), {}

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    pair = train.make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    with pytest.warns(RuntimeWarning, match="look for a label that is no class"):
        train.fit(*pair, {"x": images, "y": labels}, epochs=1, batch_size=4, progress=False)
