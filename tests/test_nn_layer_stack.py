"""LayerStack is Sequential as a loop: outputs, gradients, running statistics, randomness; and
what it refuses.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 6, 4)).astype(np.float32))


def pair(depth=3):
    rngs = nnx.Rngs(0)
    layers = nn.Sequential(*(nn.ResBlock(4, rngs=rngs) for _ in range(depth)))
    return layers, nn.LayerStack(*layers)


def gradients(model):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        merged = nnx.merge(graph, params, rest, copy=True)
        return jnp.sum(jnp.sin(merged(X))), nnx.state(merged, nnx.BatchStat)

    (value, statistics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, jax.tree.leaves(grads), jax.tree.leaves(statistics)


def stacked(leaves, depth=3):
    """The leaves of `depth` layers, one layer after the other, as the stack has them."""
    per_layer = len(leaves) // depth
    return [jnp.stack(leaves[i::per_layer]) for i in range(per_layer)]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_stack_computes_what_its_layers_compute(mode):
    layers, stack = pair()
    for model in (layers, stack):
        getattr(model, mode)()
    value, grads, statistics = gradients(layers)
    stack_value, stack_grads, stack_statistics = gradients(stack)
    # The same products in the same order; fused differently, so a few float32 ulp.
    np.testing.assert_allclose(stack_value, value, rtol=1e-5)
    for ours, theirs in zip(
        stack_grads + stack_statistics, stacked(grads) + stacked(statistics), strict=True
    ):
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max())
        )
    moved = any(
        (ours != theirs).any()
        for ours, theirs in zip(
            stack_statistics, jax.tree.leaves(nnx.state(stack, nnx.BatchStat)), strict=True
        )
    )
    assert moved == (mode == "train")


def test_layers_come_out_of_a_stack_as_they_went_in():
    layers, stack = pair()
    assert len(stack) == len(layers)
    for before, after in zip(layers, stack, strict=True):
        assert nnx.graphdef(before) == nnx.graphdef(after)
        assert jax.tree.all(
            jax.tree.map(lambda a, b: (a == b).all(), nnx.state(before), nnx.state(after))
        )


def test_every_layer_of_a_stack_draws_its_own_random_numbers():
    rngs = nnx.Rngs(0)
    stack = nn.LayerStack(*(nn.Dropout(0.5, rngs=rngs) for _ in range(3)))
    first = stack(jnp.ones(4000))
    # Three independent masks leave an eighth: 500 of 4000, to four deviations of 21.
    assert abs(int((first != 0).sum()) - 500) < 84
    assert (stack(jnp.ones(4000)) != first).any()


def test_what_a_stack_refuses():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="at least one layer"):
        nn.LayerStack()
    with pytest.raises(ValueError, match="layer 1 differs in structure from layer 0"):
        nn.LayerStack(nn.Linear(4, 4, rngs=rngs), nn.Linear(4, 4, bias=False, rngs=rngs))
    with pytest.raises(ValueError, match="layer 1 differs in structure from layer 0"):
        nn.LayerStack(nn.ResBlock(4, rngs=rngs), nn.ResBlock(6, rngs=rngs))
