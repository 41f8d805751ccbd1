"""Small models, losses and data that several tests train."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import checkpoint, train


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.output = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):  # [n 3] -> [n 1]
        return self.output(jnp.tanh(self.hidden(x)))


class Stochastic(nnx.Module):
    """Dropout and batch norm: everything that makes a step depend on more than the
    parameters.
    """

    def __init__(self, rngs):
        self.hidden, self.output = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.output(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


class Tied(nnx.Module):
    """One layer used twice, under two names."""

    def __init__(self, rngs):
        self.first = self.again = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.again(jnp.tanh(self.first(x))).sum(axis=1, keepdims=True)


class Scalar(nnx.Module):
    """One number, to script a training by hand."""

    def __init__(self, w=0.0):
        self.w = nnx.Param(jnp.asarray(w))

    def __call__(self, x):
        return self.w[...] * x


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the functions that JAX compiles meanwhile, by its own monitoring."""
    names = []

    def listen(event, _seconds, **about):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            names.append(about["fun_name"].removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def squared_error(model, batch):
    error = model(batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


def regression(n, seed=0, noise=0.1):
    """`{"x": [n 3], "y": [n 1]}`, a linear function of x with noise."""
    x_key, noise_key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(x_key, (n, 3))
    y = x @ jnp.array([[1.0], [-2.0], [0.5]]) + noise * jax.random.normal(noise_key, (n, 1))
    return {"x": x, "y": y}


ADAM = optax.adam(1e-2)  # one object: equal learners share compiled programs


def learner_of(model=Stochastic, tx=ADAM, seed=0, **options):
    """The learner and state of a model, or of a class of models."""
    model = model(nnx.Rngs(0)) if isinstance(model, type) else model
    return train.make_learner(model, squared_error, tx, key=jax.random.key(seed), **options)


def endure(path, *, epochs, callback, directory, stream=None):
    """The training to be killed: dropout, shuffling, batch norm, Adam and early stopping; its
    result goes to `path`.

    It is saved in `directory`, if there is one, whenever the save before is done. `stream`
    makes one of the examples.
    """
    train_set, val_set = regression(37), regression(10, seed=1)
    learner, state = train.make_learner(
        Stochastic(nnx.Rngs(0)), squared_error, optax.adam(1e-3), key=jax.random.key(0)
    )
    result = train.fit(
        learner,
        state,
        stream(train_set) if stream else train_set,
        val_set,
        epochs=epochs,
        batch_size=None if stream else 8,
        stop=train.EarlyStopping(patience=epochs - 1),
        callbacks=[callback],
        checkpoint=directory and train.Checkpoint(directory, every_seconds=0.0),
        progress=False,
    )
    np.savez(path, *(np.asarray(leaf) for leaf in checkpoint.plain(result).values()))


def assert_same_bits(a, b):
    """Two pytrees are equal to the last bit, NaN equal to NaN."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))
