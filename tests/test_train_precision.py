"""A batch in parts, and half precision: the same training, at another price."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, train
from dlwp_jax.train import accumulate, precision
from tests.models import Plain, Scalar, Stochastic, assert_same_bits, regression, squared_error

DATA, VAL = regression(37), regression(10, seed=1)
OPTIONS = {"epochs": 3, "batch_size": 16}
EVEN = regression(32)  # no short last batch: XLA compiles the step once and not twice
ADAM = optax.adam(1e-2)  # one object: equal learners share compiled programs


def learner_of(model=Plain, tx=ADAM, loss_fn=squared_error, **options):
    return train.make_learner(model(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0), **options)


def assert_close(a, b, tolerance):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, tolerance, tolerance)


# A batch in parts.


def test_parts_make_the_whole():
    """Batches of 16 and 5 rows in 7 parts: of two lengths, and more parts than rows; float32
    sums in another order.
    """
    whole, in_parts = (train.run(*learner_of(accumulate=k), DATA, **OPTIONS) for k in (1, 7))
    assert_close(in_parts.history, whole.history, 2e-6)
    assert_close(in_parts.state.params, whole.state.params, 2e-6)


def test_parts_are_as_equal_as_array_split_makes_them():
    def look(part, key, sizes):
        return part.sum(), sizes.at[part].set(part.shape[0])

    def sizes_of(n, k):
        rows, none = jnp.arange(n), jnp.zeros(n, int)
        return accumulate.in_parts(look, rows, jax.random.key(0), none, k)[1]

    cases = [(11, 4), (8, 4), (3, 7)]
    for (n, k), sizes in zip(
        cases, jax.jit(lambda: [sizes_of(*c) for c in cases])(), strict=True
    ):
        parts = np.array_split(np.arange(n), k)
        assert sorted(sizes.tolist()) == sorted(len(part) for part in parts for _ in part)


def losses_of_whole_and_parts(loss_fn, transform):
    """Of one batch of 16 rows, undivided and in three parts."""
    return [
        train.train_epoch(
            *learner_of(loss_fn=loss_fn, accumulate=k),
            regression(16),
            batch_size=16,
            transform=transform,
        )[1]["loss"]
        for k in (1, 3)
    ]


@pytest.mark.parametrize(  # the names stand before and after the arrays of rows
    "added",
    [
        {"a": 2.0, "zz": np.arange(16.0)},
        {"a": np.arange(16.0), "b": np.arange(3.0), "zz": np.float32(2.0)},
    ],
    ids=["number first", "rows first"],
)
def test_a_transform_may_add_arrays_that_have_no_rows(added):
    """Each part has all of them, of whatever length: the loss is that of the whole batch, of 16
    rows, to float32 rounding.
    """

    def loss_fn(model, batch):
        factor = sum(jnp.mean(batch[name]) for name in added)
        return factor * jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    losses = losses_of_whole_and_parts(loss_fn, lambda key, batch: batch | added)
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_rows_that_a_transform_adds_are_cut_with_the_others():
    def loss_fn(model, batch):
        return jnp.mean(batch["weight"] * (model(batch["x"]) - batch["y"]) ** 2), {}

    def transform(key, batch):
        return batch | {"weight": jnp.abs(batch["x"][:, :1])}

    np.testing.assert_allclose(*losses_of_whole_and_parts(loss_fn, transform), rtol=1e-5)


def traced_epoch(learned, data, **options):
    """`train_epoch` without compiling it: what it refuses, and shapes, are known by then."""
    learner, state = learned
    return jax.eval_shape(
        lambda state: train.train_epoch(learner, state, data, **options), state
    )


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda key, batch: batch | {"x": batch["x"] + jnp.ones((16, 1))}, "cannot take"),
        (
            lambda key, batch: jax.tree.map(lambda x: x[:4], batch),
            "makes arrays that do not grow with",
        ),
    ],
)
def test_parts_of_a_transform_for_one_number_of_rows_are_refused(transform, words):
    options = {"batch_size": 16, "drop_last": True, "transform": transform}
    with pytest.raises(ValueError, match=rf"the transform {words} a batch of twice .* as 16"):
        train.train_epoch(*learner_of(accumulate=2), DATA, **options)
    traced_epoch(learner_of(), DATA, **options)


def test_a_second_set_of_rows_stays_whole_whatever_its_name():
    """Two boxes for each example, named ahead of the examples and behind them."""
    shapes = []

    def loss_fn(model, batch):
        shapes.append({name: len(value) for name, value in sorted(batch.items())})
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    for name in ("boxes", "zones"):
        traced_epoch(
            learner_of(loss_fn=loss_fn, accumulate=4),
            DATA,
            batch_size=16,
            transform=lambda key, batch, name=name: (
                batch | {name: jnp.repeat(batch["x"], 2, 0)}
            ),
        )
        assert {"x": 4, "y": 4, name: 32} in shapes


def test_every_row_is_in_one_part_and_every_part_has_its_key():
    def look(part, key, seen):
        draw = jax.random.uniform(key)
        return (jnp.sum(part) / part.shape[0], draw, draw**2), seen + jnp.isin(
            jnp.arange(11), part
        )

    (mean, first, second), seen = jax.jit(
        lambda: accumulate.in_parts(look, jnp.arange(11), jax.random.key(0), jnp.zeros(11), 4)
    )()
    assert seen.tolist() == [1] * 11
    assert mean == 5
    draws = [jax.random.uniform(jax.random.fold_in(jax.random.key(0), i)) for i in range(4)]
    weights = [3, 3, 3, 2]
    np.testing.assert_allclose(first, np.dot(weights, draws) / 11, 1e-6)
    np.testing.assert_allclose(second, np.dot(weights, np.square(draws)) / 11, 1e-6)


def test_batch_norm_sees_its_part_and_moves_part_by_part():
    """Torch's loop over micro-batches, by hand: rows 0, 2, 4, ... and then 1, 3, 5, ..."""

    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.output = nn.BatchNorm1d(3), nn.Linear(3, 1, rngs=rngs)

        def __call__(self, x):
            return self.output(self.norm(x))

    learner, state = learner_of(Normed, optax.sgd(0.1), accumulate=2)
    data = regression(8)
    new, _ = train.train_epoch(learner, state, data, batch_size=8)

    norm, linear = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(np.array(state.params["output"]["kernel"].T)))
        linear.bias.copy_(torch.tensor(np.array(state.params["output"]["bias"])))
    optimizer = torch.optim.SGD([*norm.parameters(), *linear.parameters()], 0.1)
    x, y = (torch.tensor(np.array(data[name])) for name in "xy")
    for part in (slice(0, None, 2), slice(1, None, 2)):
        (((linear(norm(x[part])) - y[part]) ** 2).mean() / 2).backward()
    optimizer.step()
    ours = [
        new.params["output"]["kernel"][:, 0],
        new.params["norm"]["scale"],
        *new.extra["norm"].values(),
    ]
    theirs = [
        linear.weight[0],
        norm.weight,
        norm.running_mean,
        norm.num_batches_tracked,
        norm.running_var,
    ]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other.detach(), 1e-5, 1e-6)


def test_parts_reach_line_searches_and_records():
    tx = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
    whole, in_parts = (
        train.run(
            *learner_of(tx=tx, record=["norms", "eval_loss"], accumulate=k),
            EVEN,
            epochs=3,
            batch_size=32,
        )
        for k in (1, 4)
    )
    assert_close(in_parts.history, whole.history, 1e-5)


@pytest.mark.slow
def test_parts_go_on_where_they_were():
    learner, state = learner_of(Stochastic, accumulate=2)
    run = train.run(learner, state, EVEN, epochs=2, batch_size=32)
    half = train.run(learner, state, EVEN, epochs=1, batch_size=32).state
    rest = train.run(learner, half, EVEN, epochs=1, batch_size=32).state
    assert_same_bits(rest, run.state)
    fitted = train.fit(learner, state, EVEN, epochs=2, batch_size=32, progress=False)
    assert_close(fitted.history, run.history, 1e-6)


@pytest.mark.slow
def test_training_in_parts_is_differentiated():
    sgd = optax.sgd(0.1)
    learner, state = learner_of(tx=sgd, accumulate=4)
    whole, _ = learner_of(tx=sgd)

    def final(params, learner):
        start = replace(state, params=params)
        return train.run(learner, start, EVEN, VAL, epochs=1, batch_size=32).history[
            "val/loss"
        ][0]

    assert_close(*(jax.grad(final)(state.params, made) for made in (learner, whole)), 1e-5)


@pytest.mark.parametrize("k", [0, -1, 2.0, "2", True])
def test_wrong_numbers_of_parts(k):
    with pytest.raises((TypeError, ValueError), match=r"accumulate must be (a|at least)"):
        learner_of(accumulate=k)


# Half precision.

HALVES = [jnp.bfloat16, jnp.float16]
ONE_HALF_SLOW = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtype", ONE_HALF_SLOW)
def test_only_the_call_of_the_model_is_in_half_precision(dtype):
    seen = {}

    class Watched(Stochastic):
        def __call__(self, x):
            seen["input"], seen["kernel"] = x.dtype, self.hidden.kernel[...].dtype
            return super().__call__(x)

        def penalty(self):
            return (self.hidden.kernel[...] ** 2).sum()

    def loss_fn(model, batch):
        output, penalty = model(batch["x"]), model.penalty()
        seen["output"], seen["penalty"], seen["target"] = (
            output.dtype,
            penalty.dtype,
            batch["y"].dtype,
        )
        return ((output - batch["y"]) ** 2).mean() + 1e-3 * penalty, {"penalty": penalty}

    learner, state = learner_of(Watched, loss_fn=loss_fn, compute_dtype=dtype)
    result = train.run(learner, state, EVEN, VAL, epochs=1, batch_size=32)
    half, full = jnp.dtype(dtype), jnp.dtype(jnp.float32)
    assert seen == {
        "input": half,
        "kernel": half,
        "output": full,
        "penalty": full,
        "target": full,
    }
    model = learner.model(result.state)
    assert isinstance(model, Watched)
    assert model.hidden.kernel[...].dtype == full
    assert_close(
        train.predict(learner, result.state, VAL["x"]),
        jax.jit(lambda x: model(x))(VAL["x"]),
        1e-6,
    )
    floats = [
        leaf
        for leaf in jax.tree.leaves((result.state, result.history))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert {leaf.dtype for leaf in floats} == {full}


@pytest.fixture(scope="module")
def in_single():
    """The history of 20 epochs."""
    return train.run(*learner_of(), EVEN, VAL, epochs=20, batch_size=32).history


@pytest.mark.parametrize("dtype", ONE_HALF_SLOW)
def test_half_precision_learns_what_single_does(dtype, in_single):
    """bfloat16 holds 3 digits, float16 4: the losses of 20 epochs agree to 3 % and 1 %."""
    learner, state = learner_of(compute_dtype=dtype)
    if (
        dtype == jnp.float16
    ):  # a scale that fits from the first step on, to compare step with step
        state = replace(state, opt_state=state.opt_state._replace(scale=jnp.float32(2**10)))
    half = train.run(learner, state, EVEN, VAL, epochs=20, batch_size=32)
    assert half.skipped == 0
    for name, values in in_single.items():
        np.testing.assert_allclose(
            half.history[name], values, 0.03 if dtype == jnp.bfloat16 else 0.01, err_msg=name
        )
        assert not np.array_equal(half.history[name], values)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (64, 4)),
        (nn.BatchNorm2d(4), (8, 4, 4, 4)),
        (nn.LayerNorm(4), (64, 4)),
        (nn.GroupNorm(2, 4), (8, 4, 4, 4)),
        (nn.InstanceNorm2d(4, track_running_stats=True), (8, 4, 4, 4)),
        (nnx.BatchNorm(4, rngs=nnx.Rngs(0)), (64, 4)),
    ],
)
def test_norms_keep_their_statistics_in_float32(norm, shape):
    """A mean of 300 with deviation 1: sums of squares in float16 would overflow, and in
    bfloat16 lose the variance.
    """
    exact = [nnx.clone(norm) for _ in HALVES]
    halves = [precision.compute_in(nnx.clone(norm), jnp.dtype(dtype)) for dtype in HALVES]

    x = 300 + np.random.default_rng(0).normal(size=shape)
    inputs = [x.astype(dtype) for dtype in HALVES]

    @nnx.jit
    def outputs(halves, exact):
        return [
            (half(x), reference(x.astype(jnp.float32)))
            for half, reference, x in zip(halves, exact, inputs, strict=True)
        ]

    for y, reference in outputs(nnx.List(halves), nnx.List(exact)):
        # The output is rounded to the half's 3 digits.
        np.testing.assert_allclose(y, reference, atol=0.02)
    for ours, theirs in zip(
        *(jax.tree.leaves([nnx.state(m, nnx.BatchStat) for m in ms]) for ms in (halves, exact)),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, 1e-5)


def overflow_if_told(model, batch):
    return model(batch["x"]).mean() * 1e-3 * jnp.where(batch["bad"][0], jnp.inf, 1.0), {}


def overflowing(steps):
    """A model whose gradient in float16 overflows where the batch says so, whatever the
    scale.
    """
    data = {"x": jnp.ones(len(steps)), "bad": jnp.array(steps)}
    learner, state = train.make_learner(
        Scalar(1.0),
        overflow_if_told,
        optax.sgd(1e-3),
        key=jax.random.key(0),
        compute_dtype=jnp.float16,
    )
    return learner, state, data


def test_the_scale_is_torchs(monkeypatch):
    """GradScaler's scale after each of 60 steps, some of which overflow."""
    monkeypatch.setattr(precision, "INTERVAL", 5)
    bad = np.random.default_rng(0).random(60) < 0.15
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], 1e-3)
    scaler = torch.amp.GradScaler("cpu", growth_interval=5)
    defaults = torch.amp.GradScaler("cpu")
    numbers = [
        defaults.get_scale(),
        defaults.get_growth_factor(),
        defaults.get_backoff_factor(),
    ]
    assert numbers == [precision.INITIAL, precision.GROWTH, precision.BACKOFF]
    assert defaults.get_growth_interval() == 2000
    theirs = []
    for is_bad in bad:
        optimizer.zero_grad()
        scaler.scale(weight * 1e-3 * (np.inf if is_bad else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        theirs.append(scaler.get_scale())
    state = precision.scaled(None, jnp.float16)
    ours = []
    for is_bad in bad:
        state = state.after_overflow() if is_bad else state.after_step(None)
        ours.append(float(state.scale))
    assert ours == theirs
    assert len(set(ours)) > 3


def test_a_step_that_overflows_is_left_out_and_counted():
    learner, state, data = overflowing([False, True, True, False])
    bad = 2
    for result in (
        train.run(learner, state, data, epochs=2, batch_size=1),
        train.fit(learner, state, data, epochs=2, batch_size=1, progress=False),
    ):
        assert result.skipped == 2 * bad
        assert not result.failure.any()
        assert not result.stopped
        assert result.state.opt_state.scale == 2.0**16 / 2 ** (2 * bad)
        assert result.state.step == 2 * 2
        assert jnp.isfinite(result.history["train/loss"]).all()
        np.testing.assert_allclose(result.state.params["w"], 1 - 4 * 1e-3 * 1e-3, 1e-6)


def test_an_epoch_has_no_logs_of_a_step_that_was_left_out():
    learner, state, data = overflowing([False, True, True, False])
    after, logs = train.train_epoch(learner, state, data, batch_size=1)
    assert int(after.step) == np.isfinite(logs["loss"]).sum() == 2
    assert int(after.epoch) == 1


def test_a_gradient_too_small_for_float16_arrives():
    """1e-9 is 0 in float16; scaled by 65536 it is not."""

    def loss_fn(model, batch):
        return 1e-9 * model(batch["x"]).mean(), {}

    def gradient(**options):
        learner, state = train.make_learner(
            Scalar(1.0),
            loss_fn,
            optax.sgd(1.0),
            key=jax.random.key(0),
            record=["norms"],
            **options,
        )
        return train.train_epoch(learner, state, {"x": jnp.ones(4)}, batch_size=4)[1][
            "grad_norm"
        ][0]

    np.testing.assert_allclose(gradient(compute_dtype=jnp.float16), gradient(), 1e-3)


def test_at_the_floor_an_overflow_is_a_failure():
    learner, state, data = overflowing([True] * 20)
    result = train.run(learner, state, data, epochs=1, batch_size=1)
    assert result.skipped == 16  # 2**16 halved down to 1
    assert result.failure.tolist() == [1, 17]
    assert result.state.opt_state.scale == precision.FLOOR
    with pytest.warns(
        RuntimeWarning, match=r"epoch 1, step 17 \(the loss was inf, the gradient of \['w'\]"
    ):
        train.fit(learner, state, data, epochs=1, batch_size=1, progress=False)
    allowed = train.run(learner, state, data, epochs=1, batch_size=1, skip_nonfinite=True)
    assert allowed.skipped == 20
    assert not allowed.failure.any()


def test_the_scale_is_resumed(tmp_path):
    learner, state, data = overflowing([False, True, True, False, False, True])
    whole = train.fit(learner, state, data, epochs=4, batch_size=2, progress=False)

    def broken(progress):
        if progress.epoch == 2:
            raise KeyError

    store = train.Checkpoint(tmp_path, every_epochs=1)
    with pytest.raises(KeyError):
        train.fit(
            learner,
            state,
            data,
            epochs=4,
            batch_size=2,
            progress=False,
            callbacks=[broken],
            checkpoint=store,
        )
    resumed = train.fit(
        learner, state, data, epochs=4, batch_size=2, progress=False, checkpoint=store
    )
    assert_same_bits(resumed, whole)
    assert whole.skipped > 0


def test_where_nothing_is_asked_for_nothing_is_compiled():
    tx = optax.sgd(0.1)
    learner, state = learner_of(tx=tx)
    text = str(jax.make_jaxpr(lambda s, d: train.run(learner, s, d, **OPTIONS))(state, DATA))
    assert "f16" not in text
    assert "sharding_constraint" not in text
    assert learner == learner_of(tx=tx, accumulate=1, compute_dtype=None)[0]
    assert not isinstance(state.opt_state, precision.Scaled)


@pytest.mark.parametrize("dtype", [jnp.float32, "int8", 16, [jnp.float16], np.ones(3)])
def test_unknown_dtypes(dtype):
    with pytest.raises(
        ValueError, match=r"compute_dtype must be jnp.bfloat16, jnp.float16 or None"
    ):
        learner_of(compute_dtype=dtype)


@pytest.mark.parametrize("dtype", [jnp.float16, "float16", np.float16, jnp.dtype("float16")])
def test_known_dtypes(dtype):
    assert precision.dtype_of(dtype) == jnp.float16


def test_an_epoch_whose_steps_were_all_left_out_has_the_loss_that_torch_would_print():
    """`GradScaler` begins at 65536: its first step overflows in torch, too."""

    def loss_fn(model, batch):
        return jnp.mean(model(batch)) * 60000.0, {}

    learner, state = train.make_learner(
        Scalar(2.0),
        loss_fn,
        optax.sgd(1e-3),
        key=jax.random.key(0),
        compute_dtype=jnp.float16,
    )
    x = jnp.ones((4, 1))
    result = train.run(learner, state, x, epochs=1, batch_size=4)
    w = torch.tensor(2.0, requires_grad=True)
    torch_loss = (w * torch.ones(4, 1)).mean() * 60000.0
    assert int(result.skipped) == 1
    assert float(result.history["train/loss"][0]) == torch_loss.item()
