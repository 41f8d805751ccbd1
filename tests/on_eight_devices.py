"""Tests in a process of 8 virtual devices: NPROC=64 JAX_NUM_CPU_DEVICES=8 python -m pytest
tests/on_eight_devices.py.

`tests/test_shard.py` runs them. One device is the referee. Most comparisons are made in
float64, where rounding is 1e-16: what is left of a difference at 1e-10 is then a difference of
meaning, such as batch norm over a part of the batch, or a short batch that is weighted like a
long one.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlwp_jax import nn, shard, train
from dlwp_jax.train import minibatches, step
from tests.models import Plain, Stochastic, assert_same_bits, regression, squared_error

ROUNDING = (
    1e-10  # float64: 1e-16 a sum, times the amplification of some dozens of steps of Adam
)


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.output = nnx.Linear(12, 64, rngs=rngs), nnx.Linear(64, 3, rngs=rngs)
        self.dropout = nn.Dropout(0.4, rngs=rngs)

    def __call__(self, x):  # [n 2 2 3] -> [n 3]
        return self.output(self.dropout(jnp.tanh(self.hidden(x.reshape(x.shape[0], -1)))))


class Residual(nnx.Module):
    """No bias in front of batch norm: its gradient is rounding alone, which Adam makes a full
    step of.
    """

    def __init__(self, rngs):
        self.first = nn.Conv2d(3, 16, 3, padding=1, rngs=rngs)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False, rngs=rngs)
        self.norm, self.dropout = nn.BatchNorm2d(16), nn.Dropout2d(0.2, rngs=rngs)
        self.pool, self.output = nn.MaxPool2d(2), nn.Linear(16, 3, rngs=rngs)

    def __call__(self, x):  # [n 2 2 3] -> [n 3]
        x = jnp.tanh(self.first(x))
        x = x + self.dropout(nnx.relu(self.norm(self.second(x))))
        return self.output(self.pool(x)[:, 0, 0])


def cross_entropy(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return loss.mean(), {"accuracy": (logits.argmax(1) == batch["y"]).mean()}


def pictures(n, seed=0, dtype=jnp.float64):
    """`{"x": [n 2 2 3], "y": [n]}` in three classes."""
    x = np.random.default_rng(seed).normal(size=(n, 2, 2, 3))
    y = (x[:, 0, 0, 0] > 0).astype(np.int32) + (x[:, 1, 1, 1] > 0)
    return {"x": jnp.asarray(x, dtype), "y": jnp.asarray(y, jnp.int32)}


def wide(model):
    """The model with all its numbers in float64."""
    state = nnx.state(model)
    nnx.update(
        model,
        jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state),
    )
    return model


def learner_of(model, tx=None, **options):
    return train.make_learner(
        model, cross_entropy, tx or optax.adam(1e-2), key=jax.random.key(1), **options
    )


def assert_close(a, b, tolerance):
    """Two pytrees agree, wherever their arrays lie."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(
            np.asarray(left), np.asarray(right), tolerance, tolerance, err_msg=name
        )


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# 67 rows in batches of 10: 7 steps, none of whose sizes 8 divides; 21 rows in batches of 16 and
# 5.
SIZES = {"epochs": 4, "batch_size": 10, "val_batch_size": 16}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("model", "n", "how"),
    [
        (MLP, 8, {"params": "sharded", "min_size": 100}),
        pytest.param(Residual, 8, {}, marks=pytest.mark.slow),
    ],
)
def test_one_device_and_many_train_the_same(model, n, how):
    options = SIZES | {"stop": train.EarlyStopping(1, min_delta=0.004)}
    learner, state = learner_of(wide(model(nnx.Rngs(0))))
    sets = pictures(67), pictures(21, seed=1)
    alone = train.run(learner, state, *sets, **options)
    on_mesh = shard.put(shard.mesh(n), state, *sets, **how)
    ran = train.run(learner, *on_mesh, **options)
    assert_close(ran, alone, ROUNDING)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_fit_on_many_devices_is_run():
    options = SIZES | {"stop": train.EarlyStopping(1, min_delta=0.004)}
    learner, state = learner_of(wide(MLP(nnx.Rngs(0))))
    sets = pictures(67), pictures(21, seed=1)
    on_mesh = shard.put(shard.mesh(8), state, *sets, params="sharded", min_size=100)
    ran = train.run(learner, *on_mesh, **options)
    fitted = train.fit(learner, *on_mesh, **options, progress=False)
    done = int(fitted.state.epoch)
    history = {name: values[:done] for name, values in ran.history.items()}
    assert_close(fitted.history, history, ROUNDING)
    assert_close((fitted.state, fitted.best), (ran.state, ran.best), ROUNDING)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_rows_that_are_split_give_the_same():
    learner, state = learner_of(wide(MLP(nnx.Rngs(0))))
    sets = pictures(64), pictures(24, seed=1)
    alone = train.run(learner, state, *sets, **SIZES)
    on_mesh = shard.put(shard.mesh(8), state, *sets, data="rows")
    assert {s.data.shape[0] for s in on_mesh[1]["x"].addressable_shards} == {8}
    assert_close(train.run(learner, *on_mesh, **SIZES), alone, ROUNDING)
    end, val = shard.put(shard.mesh(8), alone.state, sets[1], data="rows")
    assert_close(
        train.evaluate(learner, end, val),
        train.evaluate(learner, alone.state, sets[1]),
        ROUNDING,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_single_calls_and_streams_give_the_same():
    learner, state = learner_of(wide(MLP(nnx.Rngs(0))))
    rows, val = pictures(32), pictures(12, seed=1)
    placed, placed_rows, placed_val = shard.put(shard.mesh(8), state, rows, val)
    theirs = train.train_epoch(learner, state, rows, batch_size=32)  # the full batch
    assert_close(
        train.train_epoch(learner, placed, placed_rows, batch_size=32), theirs, ROUNDING
    )
    assert_close(
        train.evaluate(learner, placed, placed_val),
        train.evaluate(learner, state, val),
        ROUNDING,
    )
    inputs = np.asarray(val["x"])
    for size in (None, 5):
        outputs = train.predict(learner, placed, inputs, batch_size=size)
        assert_close(outputs, train.predict(learner, state, inputs), ROUNDING)

    class Stream:
        def __iter__(self):
            return iter(
                [
                    {name: np.asarray(a[i : i + 12]) for name, a in rows.items()}
                    for i in range(0, 32, 12)
                ]
            )

    options = {"epochs": 2, "progress": False}
    for validation in ((val, placed_val), (Stream(), Stream())):
        ours = train.fit(learner, placed, Stream(), validation[1], **options)
        assert_close(
            ours, train.fit(learner, state, Stream(), validation[0], **options), ROUNDING
        )


@pytest.mark.slow
def test_a_state_that_is_split_stays_split(caplog):
    learner, state = learner_of(MLP(nnx.Rngs(0)))
    sets = pictures(64, dtype=jnp.float32), pictures(16, dtype=jnp.float32)
    on_mesh = shard.put(shard.mesh(8), state, *sets, params="sharded", min_size=100)
    with jax.log_compiles():
        callbacks = [train.every(1, lambda _: None)]
        fitted = train.fit(learner, *on_mesh, **SIZES, callbacks=callbacks, progress=False)
    # One program for all chunks: what comes out lies as what went in.
    assert (
        sum("Compiling jit(_advance)" in record.getMessage() for record in caplog.records) == 1
    )
    results = [fitted, train.run(learner, *on_mesh, **SIZES)]
    for result in results:
        for kept in (result.state, result.best):
            adam = kept.opt_state[0]
            for params in (kept.params, adam.mu, adam.nu):
                assert held(params["hidden"]["kernel"]) == {(12, 8)}  # of [12 64]
                assert held(params["output"]["kernel"]) == {(8, 3)}  # of [64 3]
                assert held(params["hidden"]["bias"]) == {(64,)}  # too small
    assert_same_bits(on_mesh[0], state)  # what was given is still there
    # Sums of 64 terms in float32, in another order: 1e-6 relative; 28 steps of Adam make at
    # most ten times that.
    alone = train.run(learner, state, *sets, **SIZES)
    assert_close(results[1].history, alone.history, 1e-5)


def held(array):
    """The shapes that the devices hold."""
    assert len(array.addressable_shards) == 8
    return {piece.data.shape for piece in array.addressable_shards}


# What the compiler makes of a step.


def compiled_step(model, n, data, batch_size, **how):
    learner, state = learner_of(model)
    state, data = shard.put(shard.mesh(n), state, data, **how)
    learner = learner.placed(state, data=data)

    def one_step(state, data, order):
        return step.step(
            learner, state, minibatches.rows(data, order), state.key, jnp.array(True)
        )

    return jax.jit(one_step).lower(state, data, jnp.arange(batch_size)).compile().as_text()


def shapes_of(text, operation):
    """The shapes of the results of an operation in a compiled program."""
    lines = [line for line in text.splitlines() if re.search(rf" {operation}(-start)?\(", line)]
    return [
        tuple(map(int, shape.split(",")))
        for line in lines
        for shape in re.findall(r"\w\[([\d,]+)\]", line.split("(%")[0])
    ]


@pytest.mark.parametrize("batch_size", [pytest.param(32, marks=pytest.mark.slow), 26])
def test_the_work_of_a_convolution_is_split(batch_size):
    """Each of 8 devices convolves 4 of 32 rows; of 26 rows too, with the last ones at rest."""
    text = compiled_step(Residual(nnx.Rngs(0)), 8, pictures(64, dtype=jnp.float32), batch_size)
    convolutions = shapes_of(text, "convolution")
    forward = [shape for shape in convolutions if shape[1:3] == (2, 2)]
    kernels = [shape for shape in convolutions if shape[1:3] == (3, 3)]
    assert len(forward) >= 2, convolutions
    assert {shape[0] for shape in forward} == {4}, convolutions
    assert len(kernels) == 1, convolutions
    pictures_product = [
        shape for shape in shapes_of(text, "dot") if shape[-1] == 2 * 16
    ]  # two columns of 16 channels
    assert pictures_product == [(4 * 2, 2 * 16)], pictures_product  # 4 pictures of 2 rows
    sums = shapes_of(text, "all-reduce")  # gradients, summed over the devices
    assert (16, 3, 3, 16) in sums, text
    assert {(32, 36), (36, 32)} & set(sums), text  # that of the product
    gathered = [shape for shape in shapes_of(text, "all-gather") if len(shape) > 3]
    assert not gathered, gathered  # no pictures, no activations


@pytest.mark.parametrize("n", [pytest.param(16, marks=pytest.mark.slow), 12])
def test_the_work_of_a_convolution_of_volumes_is_split(n):
    """Of 12 volumes two each, with the last devices at rest."""
    split = NamedSharding(shard.mesh(8), PartitionSpec("data"))

    def loss(kernel, x):
        x = jax.lax.with_sharding_constraint(x, split)
        for _ in range(2):
            x = jnp.tanh(nn.conv(x, kernel, padding=1))
        return (x**2).sum()

    compiled = (
        jax.jit(jax.grad(loss))
        .lower(jnp.ones((3, 3, 3, 9, 9)), jnp.ones((n, 4, 6, 6, 9)))
        .compile()
    )
    assert len(shapes_of(compiled.as_text(), "convolution")) >= 5
    assert not shapes_of(compiled.as_text(), "all-gather")


def test_parameters_that_are_split_are_gathered_to_compute_with():
    text = compiled_step(
        MLP(nnx.Rngs(0)), 8, pictures(64, dtype=jnp.float32), 32, params="sharded", min_size=100
    )
    assert {(12, 64), (64, 3)} <= set(shapes_of(text, "all-gather"))
    assert (4, 64) in shapes_of(text, "dot")  # 4 of 32 rows, by the whole kernel


# Inside an outer jax.jit, where arrays are traced.


@pytest.mark.parametrize("how", [{}, {"params": "sharded", "min_size": 100}])
def test_an_outer_jit_splits_the_work_too(how):
    """The referee is what the compiler writes: 16 of 32 rows on each of 2 devices."""
    learner, state = learner_of(MLP(nnx.Rngs(0)))
    state, data = shard.put(shard.mesh(2), state, pictures(64, dtype=jnp.float32), **how)

    def epoch(state):
        return train.train_epoch(learner, state, data, batch_size=32)[0]

    compiled = jax.jit(epoch).lower(state).compile()
    text = compiled.as_text()
    forward = {shape for shape in shapes_of(text, "dot") if shape[-1] == 64 and shape[0] > 12}
    assert forward == {(16, 64)}, forward
    assert {(12, 64), (64, 12)} & set(shapes_of(text, "all-reduce"))  # a gradient, summed
    placed = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    assert compiled.output_shardings.params == placed  # what was split is split


def test_an_outer_jit_for_devices_that_are_not_here():
    """Shapes with a sharding are enough, as a program compiled ahead of time has them."""
    learner, state = learner_of(MLP(nnx.Rngs(0)))
    put = shard.put(shard.mesh(2), state, pictures(64, dtype=jnp.float32))
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), put
    )
    grad = jax.grad(
        lambda params, state, data: train.evaluate(
            learner, replace(state, params=params), data
        )["loss"]
    )
    compiled = jax.jit(grad).lower(shapes[0].params, *shapes).compile()
    assert {shape[0] for shape in shapes_of(compiled.as_text(), "dot")} >= {32}
    assert shapes_of(compiled.as_text(), "all-reduce")


# Wrong use.


def on(mesh, tree):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            lambda s, d, m: (on(m, s), d),
            r"state lies on a mesh of 8 devices and train does not; put both there",
        ),
        (
            lambda s, d, m: (s, on(m, d)),
            r"train lies on a mesh of 8 devices and state does not; put both there",
        ),
        (
            lambda s, d, m: (on(m, s), on(shard.mesh(4), d)),
            r"state lies on 8 devices .*, and train on 4 devices .*one mesh",
        ),
        (
            lambda s, d, m: (on(m, s), {**on(m, d), "y": d["y"]}),
            r"the arrays of train lie on 8 devices .* and one device",
        ),
        (
            lambda s, d, m: (on(Mesh(m.devices, "x"), s), on(Mesh(m.devices, "x"), d)),
            r"split over an axis called 'data', and the mesh has 'x'; use shard.mesh\(\)",
        ),
        (
            lambda s, d, m: (
                on(jax.make_mesh((8,), ("data",)), s),
                on(jax.make_mesh((8,), ("data",)), d),
            ),
            r"must be Auto, not Explicit; shard.put makes them so",
        ),
    ],
)
def test_what_lies_in_several_places_is_refused(where, message):
    data = regression(16)
    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    state, data = where(state, data, shard.mesh())
    with pytest.raises(ValueError, match=message):
        train.run(learner, state, data, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=message):
        train.fit(learner, state, data, epochs=1, batch_size=4, progress=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: shard.mesh(9),
            r"devices=9 are more than the 8 that JAX finds \(cpu\). JAX_NUM_CPU_DEVICES",
        ),
        (lambda d: shard.mesh(0), r"devices must be at least 1"),
        (lambda d: shard.mesh([]), r"one or more different ones of jax.devices\(\); got \[\]"),
        (
            lambda d: shard.mesh([jax.devices()[0]] * 2),
            r"different ones of jax.devices\(\); got \[Cpu",
        ),
        (
            lambda d: shard.put(shard.mesh(), d, params="split"),
            r"params must be 'replicated' or 'sharded'; got 'split'",
        ),
        (
            lambda d: shard.put(shard.mesh(), d, data="split"),
            r"data must be 'replicated' or 'rows'; got 'split'",
        ),
        (lambda d: shard.put(Mesh(np.array(jax.devices()), "x"), d), r"the mesh has 'x'"),
        (
            lambda d: shard.put(shard.mesh(), d, data="rows"),
            r"13 rows cannot be split evenly over 8 devices; cut it to 8",
        ),
        (
            lambda d: shard.put(shard.mesh(), {"x": d["x"][:3]}, data="rows"),
            r"3 rows .* 8 devices; use fewer devices",
        ),
        (
            lambda d: shard.mesh("8"),
            r"devices must be how many, or one or more different ones .*; got \['8'\]",
        ),
        (lambda d: shard.mesh([0, 1]), r"devices must be how many, .*; got \[0, 1\]"),
        (
            lambda d: shard.put(d, shard.mesh()),
            r"mesh must be one of devices, such as shard.mesh\(\); got a? ?dict",
        ),
        (
            lambda d: shard.put(shard.mesh(), {"x": np.array(["a"])}),
            "tree 1 must be numbers; got an array",
        ),
        (
            lambda d: shard.put(shard.mesh(), d, {"x": np.array([2**40])}),
            "tree 2 of int64 .* does not fit int32",
        ),
        (
            lambda d: shard.put(shard.mesh(), d, min_size="1"),
            "min_size must be a whole number; got str '1'",
        ),
    ],
)
def test_wrong_places_are_refused(call, message):
    with pytest.raises((ValueError, TypeError, OverflowError), match=message):
        call(regression(13))


def test_a_mesh_with_explicit_axes_is_taken():
    placed = shard.put(jax.make_mesh((8,), ("data",)), regression(16))
    assert placed["x"].sharding == NamedSharding(shard.mesh(), PartitionSpec())


def test_a_mesh_of_one_device_is_no_mesh():
    learner, state = train.make_learner(
        Stochastic(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    state, data = shard.put(shard.mesh([jax.devices()[3]]), state, regression(16))
    assert learner.placed(state, data=data) == learner
    result = train.fit(learner, state, data, epochs=1, batch_size=4, progress=False)
    assert result.state.params["hidden"]["kernel"].devices() == {jax.devices()[3]}


# A batch in parts, and half precision.


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_parts_are_the_same_on_every_number_of_devices():
    """Batch norm within each part, and each part's own dropout: which rows are in it must not
    depend on devices.
    """
    learner, state = learner_of(wide(Residual(nnx.Rngs(0))), accumulate=2)
    rows = pictures(38)
    alone = train.run(learner, state, rows, epochs=2, batch_size=16)
    ran = train.run(
        learner,
        *shard.put(shard.mesh(8), state, rows, params="sharded", min_size=100),
        epochs=2,
        batch_size=16,
    )
    assert_close(ran, alone, ROUNDING)


@pytest.mark.slow
def test_float16_on_a_mesh():
    """4 digits: the losses of two orders of summation agree to 1 %, and the scales exactly."""
    learner, state = learner_of(MLP(nnx.Rngs(0)), compute_dtype=jnp.float16)
    rows = pictures(38, dtype=jnp.float32)
    alone = train.run(learner, state, rows, epochs=2, batch_size=16)
    ran = train.run(learner, *shard.put(shard.mesh(8), state, rows), epochs=2, batch_size=16)
    assert_close(ran.history, alone.history, 1e-2)
    assert ran.state.opt_state.scale == alone.state.opt_state.scale


# Checkpoints.


class Broken(Exception):
    """Raised by a callback to break a training off."""


@pytest.mark.slow
def test_checkpoints_move_between_8_2_and_1_devices(tmp_path):
    """With as many devices as before: the same bits. With others: to rounding, and only where
    that is asked for.
    """
    learner, state = learner_of(MLP(nnx.Rngs(0)))
    sets = pictures(37, dtype=jnp.float32), pictures(16, seed=1, dtype=jnp.float32)
    options = {"epochs": 4, "batch_size": 10, "progress": False}

    def on(n):
        return shard.put(shard.mesh(n), state, *sets, params="sharded", min_size=100)

    def broken_off(n, at, **settings):
        def callback(progress):
            if progress.epoch == at:
                raise Broken

        store = train.Checkpoint(tmp_path / "moving", every_epochs=1, **settings)
        with pytest.raises(Broken):
            train.fit(learner, *on(n), **options, callbacks=[callback], checkpoint=store)

    eight = train.fit(learner, *on(8), **options)
    alone = train.fit(learner, *on(1), **options)
    broken_off(8, 1)
    with pytest.raises(
        ValueError, match=r"written on 8 devices \(data=8\), \d+ arrays .*, and this is 2"
    ):
        broken_off(2, 2)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "moving", kept)
    same = train.fit(learner, *on(8), **options, checkpoint=kept)
    assert_same_bits(
        jax.device_get((same.history, same.state.params)),
        jax.device_get((eight.history, eight.state.params)),
    )
    assert (
        same.state.params["hidden"]["kernel"].sharding
        == eight.state.params["hidden"]["kernel"].sharding
    )

    broken_off(2, 2, exact=False)
    broken_off(1, 3, exact=False)
    moved = train.fit(
        learner,
        *on(8),
        **options,
        checkpoint=train.Checkpoint(tmp_path / "moving", exact=False),
    )
    for other in (alone, eight):
        assert_close(
            (moved.history, moved.state.params), (other.history, other.state.params), 1e-5
        )
    assert held(moved.state.params["hidden"]["kernel"]) == {(12, 8)}

    restored = [train.restore(tmp_path / "moving", on(n)[0]).state for n in (8, 2, 1)]
    for other in restored:  # values are read exactly, wherever they are put
        assert_same_bits(jax.device_get(other.params), jax.device_get(moved.state.params))


@pytest.mark.slow
def test_the_documentations_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "sharding.md").read_text()
    names: dict = {}
    for block in re.findall(
        r"```python\n(.*?)```", page.split("\n## Many hosts")[0], re.DOTALL
    ):
        exec(
            compile(
                block.replace("epochs=3", "epochs=1, progress=False"),
                "docs/sharding.md",
                "exec",
            ),
            names,
        )
    assert names["result"].state.params["layers"][0]["kernel"].sharding.mesh.size == 8
    assert names["result"].history["train/loss"][0] < 2.3  # of ten classes at random


def test_gradients_of_a_convolution_inside_shard_map():
    key_x, key_k = jax.random.split(jax.random.key(0))
    x, kernel = jax.random.normal(key_x, (8, 6, 5, 3)), jax.random.normal(key_k, (3, 3, 3, 4))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    whole, split = PartitionSpec(), PartitionSpec("data")

    def gradients(x, kernel):
        return jax.grad(lambda x, k: (nn.conv(x, k, stride=2) ** 2).sum(), (0, 1))(x, kernel)

    inside = jax.shard_map(
        gradients, mesh=mesh, in_specs=(split, whole), out_specs=(split, whole)
    )
    for ours, expected in zip(inside(x, kernel), gradients(x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
