"""Which examples an epoch trains on, and what is done to a batch before the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import data, train
from dlwp_jax.train.minibatches import fold
from tests.models import Plain, assert_same_bits, regression, squared_error

TRAIN, VAL = regression(37), regression(10, seed=1)
EVEN = regression(32)  # no short last batch: XLA compiles the step once and not twice
SGD = optax.sgd(0.05)  # one object: equal learners share compiled programs


def learner_of(model=Plain, loss_fn=squared_error, tx=SGD):
    return train.make_learner(model(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0))


def seen_rows(**options):
    """The rows, of eleven, that the steps of an epoch see, a set a step."""

    def loss_fn(model, batch):
        rows = jnp.zeros(11).at[batch["row"]].add(1.0)
        metrics = {f"row{i}": rows[i] for i in range(11)}
        return jnp.mean(model(batch["x"]) ** 2), metrics

    rows = regression(11) | {"row": np.arange(11)}
    _, logs = train.train_epoch(*learner_of(loss_fn=loss_fn), rows, **options)
    return np.stack([logs[f"row{i}"] for i in range(11)], axis=1)  # [steps 11]


@pytest.mark.parametrize("n", [12, 13, 5])
def test_fold_is_a_python_loop_over_batches(n):
    values = jnp.arange(float(n))
    order = jnp.asarray(np.random.default_rng(0).permutation(n))

    def step(i, carry, batch):
        return carry * 1.5 + (i + 1) * batch.sum()

    expected = 0.0
    batches = [np.asarray(order[i : i + 4]) for i in range(0, n, 4)]
    for i, rows in enumerate(batches):
        expected = expected * 1.5 + (i + 1) * np.asarray(values)[rows].sum()
    steps = len(batches)
    assert float(fold(step, 0.0, values, order, 4, 0, steps)) == pytest.approx(expected)
    traced = jax.jit(lambda end: fold(step, 0.0, values, order, 4, 0, end))
    assert float(traced(steps)) == pytest.approx(expected)
    assert float(traced(0)) == 0.0


def test_drop_last_leaves_out_the_short_batch_as_torch_does():
    loader = torch.utils.data.DataLoader(range(11), batch_size=4, drop_last=True)
    seen = seen_rows(batch_size=4, drop_last=True)
    assert len(seen) == len(loader)
    assert seen.sum() == 8
    assert seen.max() == 1


@pytest.mark.parametrize("drive", [train.run, train.fit])
def test_drop_last_in_a_training(drive):
    """A last batch of one example would be a third step."""
    options = {} if drive is train.run else {"progress": False}
    result = drive(*learner_of(), TRAIN, epochs=2, batch_size=36, drop_last=True, **options)
    assert int(result.state.step) == 2


@pytest.mark.parametrize("drive", [train.run, train.fit, train.train_epoch])
def test_drop_last_of_a_batch_larger_than_the_data_leaves_nothing(drive):
    loader = torch.utils.data.DataLoader(range(37), batch_size=38, drop_last=True)
    assert len(loader) == 0
    options = {} if drive is train.train_epoch else {"epochs": 1}
    with pytest.raises(ValueError, match="batch_size=38 is more than the 37 examples"):
        drive(*learner_of(), TRAIN, batch_size=38, drop_last=True, **options)
    with pytest.raises(ValueError, match="batch_size=9 is more than the 8 examples"):
        drive(
            *learner_of(),
            TRAIN,
            batch_size=9,
            drop_last=True,
            sampler=data.epoch_of(37, 8),
            **options,
        )


def test_a_sampler_decides_which_rows_a_step_sees():
    def sampler(key, epoch):
        del key
        return jnp.array([3, 3, 5, 7]) + epoch

    seen = seen_rows(batch_size=2, sampler=sampler)
    assert seen.shape == (2, 11)
    assert seen[0, 3] == 2
    assert seen[1, 5] == seen[1, 7] == 1


def test_a_sampler_in_run_in_fit_and_resumed(tmp_path):
    labels = np.arange(32) % 5 == 0
    options = {"epochs": 4, "batch_size": 8, "sampler": data.balanced(labels)}
    learned = learner_of()
    whole = train.run(*learned, EVEN, **options)
    quiet = options | {"progress": False}
    assert_same_bits(whole, train.fit(*learned, EVEN, **quiet))

    def stop_at_two(progress):
        return progress.epoch == 2

    part = train.fit(*learned, EVEN, **quiet, checkpoint=tmp_path, callbacks=[stop_at_two])
    assert int(part.state.epoch) == 2
    assert_same_bits(whole, train.fit(*learned, EVEN, **quiet, checkpoint=tmp_path))


def test_another_sampler_is_another_training(tmp_path):
    learned = learner_of()
    options = {"epochs": 1, "batch_size": 8, "checkpoint": tmp_path, "progress": False}
    train.fit(*learned, TRAIN, **options, sampler=data.epoch_of(37, 8))
    with pytest.raises(
        ValueError, match="of another program: the model, loss, optimizer, samp"
    ):
        train.fit(*learned, TRAIN, **options, sampler=data.epoch_of(37, 16))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ([1, 2], "sampler must be a function"),
        (lambda key, epoch: jnp.ones(3), "a row of at least one integer"),
        (lambda key, epoch: jnp.ones((2, 2), int), "a row of at least one integer"),
    ],
)
def test_samplers_that_are_none(sampler, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train.run(*learner_of(), TRAIN, epochs=1, batch_size=8, sampler=sampler)


def test_a_stream_brings_its_own_batches():
    class Batches:
        def __iter__(self):
            return iter([TRAIN])

    for wrong in ({"drop_last": True}, {"sampler": data.epoch_of(37, 8)}):
        with pytest.raises(ValueError, match="does not apply to a stream"):
            train.fit(*learner_of(), Batches(), epochs=1, **wrong)


def scaled(factor):
    def transform(key, batch):
        del key
        return batch | {"x": batch["x"] * factor}

    return transform


def test_a_transform_changes_training_batches_alone_and_a_pair_both():
    """Training on transformed batches is training on data that are transformed before."""
    doubled = EVEN | {"x": EVEN["x"] * 2}
    val_doubled = VAL | {"x": VAL["x"] * 2}
    options = {"epochs": 2, "batch_size": 32}
    learned = learner_of()
    before = train.run(*learned, doubled, VAL, **options)
    double = scaled(2)
    assert_same_bits(before, train.run(*learned, EVEN, VAL, **options, transform=double))
    both = train.run(*learned, doubled, val_doubled, **options)
    pair = (double, double)
    assert_same_bits(both, train.run(*learned, EVEN, VAL, **options, transform=pair))

    class Normalise:
        def __call__(self, key, batch):
            return self.evaluate(key, batch)

        evaluate = staticmethod(double)

    fitted = train.fit(*learned, EVEN, VAL, **options, transform=Normalise(), progress=False)
    assert_same_bits(both, fitted)
    found = train.evaluate(*learned, VAL, transform=pair)
    assert_same_bits(train.evaluate(*learned, val_doubled), found)


def test_the_key_of_a_transform_is_new_in_every_step_and_the_same_in_every_way():
    def noisy(key, batch):
        return batch | {"x": batch["x"] + jax.random.normal(key, batch["x"].shape)}

    def loss_fn(model, batch):
        loss, _ = squared_error(model, batch)
        return loss, {"noise": jnp.sum(batch["x"])}

    learner, state = learner_of(loss_fn=loss_fn)
    zeros = EVEN | {"x": EVEN["x"] * 0}
    options = {"batch_size": 8, "transform": noisy}
    ran = train.run(learner, state, zeros, epochs=2, **options)
    fitted = train.fit(learner, state, zeros, epochs=2, progress=False, **options)
    assert_same_bits(ran.state, fitted.state)
    noise = []
    for _ in range(2):
        state, logs = train.train_epoch(learner, state, zeros, **options)
        noise += logs["noise"].tolist()
    assert len(set(noise)) == 8
    assert_same_bits(ran.state, state)


def test_two_optimizers_take_turns():
    """Each step changes one part of the model only, by its own part of the loss."""

    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 1, rngs=rngs)
            self.second = nnx.Linear(3, 1, rngs=rngs)

    def loss_fn(model, batch):
        first = jnp.mean((model.first(batch["x"]) - batch["y"]) ** 2)
        frozen = jax.lax.stop_gradient(model.first(batch["x"]))
        second = jnp.mean((model.second(batch["x"]) - frozen) ** 2)
        return first + second, {}

    def owner(params):
        return {name: jax.tree.map(lambda _, name=name: name, params[name]) for name in params}

    def turn(remainder):
        return optax.conditionally_mask(optax.adam(0.1), lambda step: step % 2 == remainder)

    tx = optax.partition({"first": turn(0), "second": turn(1)}, owner)
    learner, state = learner_of(Pair, loss_fn, tx)
    for changing, resting in [("first", "second"), ("second", "first"), ("first", "second")]:
        after, _ = train.train_epoch(learner, state, TRAIN, batch_size=37)
        assert_same_bits(after.params[resting], state.params[resting])
        assert np.all(after.params[changing]["kernel"] != state.params[changing]["kernel"])
        state = after


@pytest.mark.parametrize("n", [3, 26])
def test_batches_are_cut_from_the_rows_of_the_sampler(n):
    """torch's DataLoader over a sampler of n rows says how many batches there are: fewer rows
    than the eleven there are, and so many that a batch is larger than them.
    """
    loader = torch.utils.data.DataLoader(range(n), batch_size=16)
    seen = seen_rows(batch_size=16, sampler=data.epoch_of(11, n))
    np.testing.assert_array_equal(seen.sum(axis=1), [len(batch) for batch in loader])


@pytest.mark.parametrize("row", [-1, 37])
def test_rows_that_do_not_exist_are_refused_or_fail(row):
    """NumPy's rows 0 to 36 are all there are; later epochs and traced ones end in a failure."""

    def later(key, epoch):
        del key
        return jnp.where(epoch == 0, jnp.arange(8), row)

    def now(key, epoch):
        return later(key, epoch + 1)

    learner, state = learner_of()
    with pytest.raises(ValueError, match=rf"gave row {row}, and the 37 examples are rows 0"):
        train.run(learner, state, TRAIN, epochs=1, batch_size=8, sampler=now)
    options = {"epochs": 2, "batch_size": 8, "sampler": later}
    assert train.run(learner, state, TRAIN, **options).failure.tolist() == [2, 1]
    if row == 37:  # the same rows come to fit
        with pytest.warns(RuntimeWarning, match="epoch 2, step 1"):
            train.fit(learner, state, TRAIN, **options, progress=False)


def test_a_transform_may_add_what_is_no_row():
    """A mean over 10 examples in batches of 4 is NumPy's over all."""

    def scale(key, batch):
        del key
        return batch | {"a": jnp.float32(2)}

    def loss_fn(model, batch):
        return jnp.mean(model(batch["x"])) * 0 + jnp.mean(batch["a"] * batch["y"]), {}

    learned = learner_of(loss_fn=loss_fn)
    found = train.evaluate(*learned, VAL, batch_size=4, transform=(None, scale))
    assert float(found["loss"]) == pytest.approx(2 * float(np.mean(VAL["y"])), rel=1e-5)


def test_another_transform_of_evaluation_is_another_training(tmp_path):
    options = {"epochs": 1, "batch_size": 37, "checkpoint": tmp_path, "progress": False}
    train.fit(*learner_of(), TRAIN, VAL, **options, transform=(None, scaled(1)))
    with pytest.raises(ValueError, match="of another program"):
        train.fit(*learner_of(), TRAIN, VAL, **options, transform=(None, scaled(2)))
