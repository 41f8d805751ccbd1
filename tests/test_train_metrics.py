"""Metrics that are ratios of sums; NumPy over all examples is the referee."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from tests.models import Plain, assert_same_bits


def classes(n, seed):
    """Few positives, so that batches without any come up."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = (x[:, :1] + rng.normal(size=(n, 1)) > 1.8).astype(np.float32)
    return {"x": x, "y": y}


TRAIN, VAL = classes(70, 0), classes(50, 1)
OPTIONS = {"epochs": 3, "batch_size": 8, "val_batch_size": 16}


def loss_fn(model, batch):
    logits = model(batch["x"])
    found = logits > -1.0
    true = jnp.sum(found * batch["y"])
    loss = optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean()
    f1 = train.Ratio(2 * true, jnp.sum(found) + jnp.sum(batch["y"]))
    return loss, {"f1": f1, "recall": train.Ratio(true, jnp.sum(batch["y"]))}


def learner_of(**options):
    model = Plain(nnx.Rngs(0))
    return train.make_learner(
        model, loss_fn, optax.adam(0.01), key=jax.random.key(0), **options
    )


def f1_by_hand(learner, state, data):
    found = np.asarray(train.predict(learner, state, data["x"])) > -1.0
    true = (found * data["y"]).sum()
    return 2 * true / (found.sum() + data["y"].sum())


@pytest.fixture(scope="module")
def learned():
    return learner_of()


@pytest.fixture(scope="module")
def ran(learned):
    return train.run(*learned, TRAIN, VAL, **OPTIONS)


def test_the_history_holds_the_quotient_of_sums(learned, ran):
    learner, _ = learned
    by_hand = f1_by_hand(learner, ran.state, VAL)
    assert float(ran.history["val/f1"][-1]) == pytest.approx(by_hand, rel=1e-6)
    evaluated = train.evaluate(learner, ran.state, VAL, batch_size=7)["f1"]
    assert float(evaluated) == pytest.approx(by_hand, rel=1e-6)


def test_the_training_metric_sums_over_the_steps_of_the_epoch(learned):
    """With a learning rate of 0 every step sees the same parameters."""
    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), loss_fn, optax.sgd(0.0), key=jax.random.key(0)
    )
    data = classes(72, 0)
    history = train.run(learner, state, data, epochs=1, batch_size=8).history
    by_hand = f1_by_hand(learner, state, data)
    assert float(history["train/f1"][0]) == pytest.approx(by_hand, rel=1e-6)
    _, logs = train.train_epoch(learner, state, data, batch_size=8)
    assert logs["f1"].shape == (9,)
    assert np.isnan(logs["recall"]).any()  # a batch without positives has none


def test_fit_and_streams_record_the_same(learned, ran):
    assert_same_bits(
        ran.history, train.fit(*learned, TRAIN, VAL, **OPTIONS, progress=False).history
    )

    class Batches:
        def __iter__(self):
            return (
                {name: array[i : i + 16] for name, array in VAL.items()}
                for i in range(0, 50, 16)
            )

    streamed = train.fit(*learned, Batches(), Batches(), epochs=1, progress=False)
    by_hand = f1_by_hand(learned[0], streamed.state, VAL)
    assert float(streamed.history["val/f1"][0]) == pytest.approx(by_hand, rel=1e-6)


def test_parts_of_a_batch_are_summed():
    whole, parts = (
        train.train_epoch(*learner_of(accumulate=k), TRAIN, batch_size=70)[1] for k in (1, 4)
    )  # parts of 18 and 17 rows: of equal ones a wrong weight would cancel
    np.testing.assert_allclose(whole["f1"], parts["f1"], rtol=1e-6)


def test_early_stopping_watches_the_quotient(learned):
    stop = train.EarlyStopping(1, monitor="val/f1", mode="max", min_delta=1.0)
    assert bool(train.run(*learned, VAL, VAL, epochs=3, batch_size=50, stop=stop).stopped)


def test_a_ratio_of_no_scalars_is_refused():
    def wrong(model, batch):
        return jnp.mean(model(batch["x"])), {"f1": train.Ratio(batch["y"], 1.0)}

    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), wrong, optax.sgd(0.1), key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"metrics must be scalars, or train.Ratio of scalars"):
        train.run(learner, state, TRAIN, epochs=1, batch_size=8)


def test_the_sums_of_parts_are_not_cut_to_half_precision():
    """65504 is the largest float16 (IEEE 754): two parts of 40000 are more."""

    def half(model, batch):
        large = jnp.float16(40000)
        return jnp.mean(model(batch["x"]) ** 2), {"one": train.Ratio(large, large)}

    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), half, optax.sgd(0.1), key=jax.random.key(0), accumulate=2
    )
    assert train.train_epoch(learner, state, TRAIN, batch_size=70)[1]["one"].tolist() == [1.0]
