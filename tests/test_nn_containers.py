"""Sequential and ModuleList."""

from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import random


def sequential():
    rngs = nnx.Rngs(0)
    return OrderedDict(
        hidden=nn.Linear(4, 8, rngs=rngs),
        act=jnp.tanh,
        drop=nn.Dropout(0.5, rngs=rngs),
        output=nn.Linear(8, 2, rngs=rngs),
    )


def test_sequential_by_name_and_by_position():
    layers = sequential()
    by_mapping, by_keyword, by_position = (
        nn.Sequential(layers),
        nn.Sequential(**layers),
        nn.Sequential(*layers.values()),
    )
    for model in (by_mapping, by_keyword, by_position):
        model.eval()
    x = jnp.asarray(random(3, 4))
    np.testing.assert_array_equal(by_mapping(x), by_keyword(x))
    np.testing.assert_array_equal(by_mapping(x), by_position(x))
    paths = {path[:2] for path, _ in nnx.to_flat_state(nnx.state(by_mapping, nnx.Param))}
    assert paths == {
        ("hidden", "kernel"),
        ("hidden", "bias"),
        ("output", "kernel"),
        ("output", "bias"),
    }
    assert {path[0] for path, _ in nnx.to_flat_state(nnx.state(by_position, nnx.Param))} == {
        "0",
        "3",
    }
    assert by_mapping["output"] is by_mapping.output is by_mapping[-1] is by_mapping[3]
    assert list(by_mapping)[1] is jnp.tanh
    assert by_mapping[:2](x).shape == (3, 8)
    assert nn.Sequential(jnp.tanh).append(jnp.sin)(1.0) == jnp.sin(jnp.tanh(1.0))
    assert nn.Sequential()(x) is x
    with pytest.raises(KeyError, match="has no layer 'missing'"):
        by_mapping["missing"]


@pytest.mark.parametrize("name", ["", "a.b", "train", "append", "_names"])
def test_sequential_refuses_names(name):
    with pytest.raises(KeyError, match="cannot name a layer"):
        nn.Sequential({name: jnp.tanh})
    with pytest.raises(TypeError, match="must be callable"):
        nn.Sequential(jnp.tanh, 3)


def test_module_list():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nn.ModuleList([nn.Linear(3, 3, rngs=rngs)])
            self.layers.append(nn.Linear(3, 3, rngs=rngs))

    flat = nnx.to_flat_state(nnx.state(Model(nnx.Rngs(0))))
    assert sorted({path[:2] for path, _ in flat}) == [("layers", 0), ("layers", 1)]
