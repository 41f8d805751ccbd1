"""Learner and state: which arrays are trained, and how they come from the user's model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from tests.models import Plain, Stochastic, Tied, assert_same_bits, learner_of
from tests.regressions import EVEN, VAL


def test_tied_weights_are_one_leaf_and_stay_tied():
    learner, state = learner_of(Tied)
    assert list(state.params) == ["again"]
    model = learner.model(train.run(learner, state, EVEN, epochs=1, batch_size=32).state)
    assert model.first is model.again


def test_frozen_leaves_have_no_optimizer_state_and_do_not_move():
    learner, state = learner_of(
        Plain, optax.adam(1e-2), trainable=nnx.All(nnx.Param, nnx.PathContains("output"))
    )
    assert list(state.params) == ["output"]
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * (4 + 1) + 1
    )  # two moments and a count
    result = train.run(learner, state, EVEN, epochs=2, batch_size=32)
    assert_same_bits(result.state.extra, state.extra)
    assert not np.array_equal(
        result.state.params["output"]["kernel"], state.params["output"]["kernel"]
    )


def test_the_users_model_and_state_are_left_alone():
    model = Stochastic(nnx.Rngs(0))
    model.eval()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    learner, state = learner_of(model)
    train.fit(learner, state, VAL, epochs=2, batch_size=10, progress=False)
    assert model.dropout.deterministic
    assert_same_bits(nnx.state(model), before)
    assert train.evaluate(learner, state, VAL)["loss"] > 0  # its buffers were not given away


class Stacked(nnx.Module):
    """Three layers stacked into one, each with a random stream of its own: streams of keys of
    shape [3].
    """

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def layers(rngs):
            return nnx.List([nnx.Linear(3, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])

        self.layers = layers(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def through(x, layer):
            linear, dropout = layer
            return dropout(jnp.tanh(linear(x)))

        return through(x, self.layers).sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_stacked_layers_with_streams_of_their_own():
    learner, state = learner_of(Stacked)
    result = train.run(learner, state, EVEN, VAL, epochs=3, batch_size=32)
    assert np.isfinite(result.history["val/loss"]).all()
    assert result.history["val/loss"][-1] == train.evaluate(learner, result.state, VAL)["loss"]
