"""Checkpoints: what saving costs a training

`fit` without checkpoints, and with one after every epoch (written in the background, checksums
and flush to the disk included; the next save waits for the last), interleaved. Both networks
are trained by Adam, so that a checkpoint holds six times the parameters: state and best state.
*Share* is what saving adds, in parts of the training without it. *Resume* is a second call on
the finished directory: checksums, reading, and what `fit` does before it trains.
"""

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from timing import interleaved, readable

from dlwp_jax import checkpoint, train


class Net(nnx.Module):
    def __init__(self, sizes, rngs):
        self.layers = nnx.List(
            [nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)]
        )

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        return self.layers[-1](x)


def loss_fn(model, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
        model(batch["x"]), batch["y"]
    ).mean(), {}


def row(name, sizes, n, epochs):
    x_key, y_key = jax.random.split(jax.random.key(0))
    data = {
        "x": jax.random.normal(x_key, (n, sizes[0])),
        "y": jax.random.randint(y_key, (n,), 0, sizes[-1]),
    }
    learner, state = train.make_learner(
        Net(sizes, nnx.Rngs(0)), loss_fn, optax.adam(1e-4), key=jax.random.key(0)
    )
    root = Path(tempfile.mkdtemp())

    def fit(settings=None):
        train.fit(
            learner,
            state,
            data,
            epochs=epochs,
            batch_size=64,
            progress=False,
            checkpoint=settings,
            callbacks=[lambda progress: None],  # so that chunks end at the same places
        )

    def saving():
        shutil.rmtree(root, ignore_errors=True)
        fit(train.Checkpoint(root, every_epochs=1, every_seconds=None))

    times = interleaved({"without": fit, "with": saving}, rounds=3)
    size = sum(
        file.stat().st_size for file in checkpoint.saved(root)[-1].rglob("*") if file.is_file()
    )
    begin = time.perf_counter()
    fit(root)
    resume = time.perf_counter() - begin
    shutil.rmtree(root)
    return {
        "training": name,
        "an epoch": readable(times["without"] / epochs),
        "an epoch, saved": readable(times["with"] / epochs),
        "share": f"{times['with'] / times['without'] - 1:.0%}",
        "a checkpoint": f"{size / 2**20:.2g} MB",
        "resume": readable(resume),
    }


def measure() -> list[dict[str, str]]:
    return [
        row("64-32-10, 1,437 examples", (64, 32, 10), 1437, 10),
        row("3072-512-10, 10,000 examples", (3072, 512, 10), 10_000, 3),
    ]
