"""Long trainings: killed at random moments, and memory that stays flat."""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import pytest
from flax import nnx

from dlwp_jax import leaves, train
from tests.compiling import quick_environment
from tests.models import Plain, Scalar, compilations, regression, squared_error

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_at_random_moments_and_called_again_it_is_the_training_that_was_not(capsys):
    """6 times kill -9, some of them while a checkpoint is being written.

    docs/reliability.md tells of longer runs of `tests.kills`, by hand.
    """
    command = [sys.executable, "-m", "tests.kills", "--kills", "3", "--kind"]
    lives = [
        subprocess.Popen(
            [*command, kind],
            cwd=ROOT,
            env=quick_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in ("memory", "stream")
    ]
    told = [life.communicate(timeout=1800) for life in lives]
    assert [life.returncode for life in lives] == [0, 0], [
        errors[-2000:] for _, errors in told
    ]  # it compares the bits
    counts = [json.loads(printed) for printed, _ in told]
    with capsys.disabled():
        print("", *counts, sep="\n")
    assert sum(count["kill -9"] for count in counts) == 6
    assert sum(count["of them while saving"] for count in counts) >= 1


class Wide(nnx.Module):
    """Half a megabyte of parameters, so that one state kept for every epoch would show."""

    def __init__(self, rngs):
        self.hidden, self.output = (
            nnx.Linear(3, 32768, rngs=rngs),
            nnx.Linear(32768, 1, rngs=rngs),
        )

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


class Batches:
    def __init__(self, data):
        self.data = jax.tree.map(np.asarray, data)

    def __iter__(self):
        yield self.data


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "stream", "checkpoints"])
def test_resident_memory_is_flat_over_hundreds_of_epochs(kind, tmp_path):
    """A state is 2 MB (Adam): one kept for every epoch would be 300 MB from epoch 50 to 200,
    the bound is 32 MB.
    """
    learned = train.make_learner(
        Wide(nnx.Rngs(0)), squared_error, optax.adam(1e-4), key=jax.random.key(0)
    )
    data, process, sizes = regression(8), psutil.Process(), {}

    def look(progress):
        float(
            progress.state.params["hidden"]["bias"][0]
            + progress.best.params["hidden"]["bias"][0]
        )
        if progress.epoch % 50 == 0:
            gc.collect()
            sizes[progress.epoch] = process.memory_info().rss / 2**20

    options = {"epochs": 200, "callbacks": [look], "progress": False}
    if kind == "checkpoints":
        options["checkpoint"] = train.Checkpoint(tmp_path, every_epochs=3)
    if kind == "stream":
        train.fit(*learned, Batches(data), data, **options)
    else:
        train.fit(*learned, data, data, batch_size=8, **options)
    print(kind, sizes)
    assert sizes[200] - sizes[50] < 32, sizes


@pytest.mark.slow
def test_repeated_calls_compile_and_keep_nothing_more():
    def call():
        learner, state = train.make_learner(
            Plain(nnx.Rngs(0)), squared_error, tx, key=jax.random.key(0)
        )
        train.fit(learner, state, data, data, epochs=2, batch_size=4, progress=False)
        train.fit(learner, state, Batches(data), data, epochs=2, progress=False)
        train.run(learner, state, data, data, epochs=2, batch_size=4)
        gc.collect()  # else when the collector last ran is counted too
        return len(jax.live_arrays())

    tx, data = optax.sgd(0.01), regression(8)
    call()
    first = call()
    with compilations() as compiled:
        again = [call() for _ in range(5)]
    assert compiled == []
    assert max(again) <= first


def test_numbers_without_a_dtype_of_their_own_are_compiled_for_once():
    """`jnp.full(1, 0.5)` is weakly typed, and what a step makes of it is not."""
    model, half = Scalar(0.5), jnp.asarray(0.5)
    model.seen = nnx.BatchStat(half)
    rate = optax.stateless_with_tree_map(lambda g, _: -0.01 * g)
    tx = optax.GradientTransformation(
        lambda _: half, lambda g, s, p: (rate.update(g, (), p)[0], s)
    )
    learner, state = train.make_learner(model, squared_error, tx, key=jax.random.key(0))
    parts = state.params, state.extra, state.opt_state
    assert [leaf.weak_type for leaf in jax.tree.leaves(parts)] == [False] * 3
    data = {"x": jnp.ones(6), "y": jnp.zeros(6)}
    weak = replace(state, params=jax.tree.map(leaves.weakly, state.params))
    for start in (state, weak):
        with compilations() as compiled:
            train.fit(
                learner,
                start,
                data,
                epochs=3,
                batch_size=2,
                callbacks=[lambda _: None],
                progress=False,
            )
        assert compiled.count("_advance") == (start is state)
    with compilations() as compiled:
        for _ in range(3):
            state, _ = train.train_epoch(learner, state, data, batch_size=2)
    assert compiled.count("_train_epoch") == 1


@pytest.mark.parametrize("kind", ["memory", "stream", "checkpoints"])
def test_after_the_second_epoch_nothing_is_compiled(kind, tmp_path):
    """Slices of a history, each of another length, were compiled once an epoch."""
    learned = train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.01), key=jax.random.key(0)
    )
    data, counts = regression(8), []

    def look(progress):
        assert progress.state.params
        assert progress.best.params
        counts.append(len(compiled))

    options = {"epochs": 9, "callbacks": [look], "progress": True}
    if kind == "checkpoints":
        options["checkpoint"] = train.Checkpoint(tmp_path, every_epochs=1)
    with compilations() as compiled:
        if kind == "stream":
            train.fit(*learned, Batches(data), data, **options)
        else:
            train.fit(*learned, data, data, batch_size=4, **options)
    assert counts[1] == counts[-1], compiled[counts[1] :]
