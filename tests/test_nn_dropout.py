"""Dropout: its share, its scale, whole channels, its keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import nn


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_dropout_share_scale_and_whole_channels(n):
    layer = getattr(nn, f"Dropout{n}d" if n else "Dropout")(0.3, rngs=nnx.Rngs(0))
    x = jnp.ones((100, *(2,) * n, 200))
    y = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    channels = y.reshape(100, -1, 200)
    assert (channels == channels[:, :1]).all()  # a channel is zero as a whole
    assert (
        abs((channels[:, 0] == 0).mean() - 0.3) < 0.01
    )  # 3 standard errors of 20,000 draws: 0.0097
    assert not jnp.array_equal(layer(x), y)
    gradient = jax.vjp(lambda x: nnx.clone(layer)(x), x)[1](x)[0]
    assert set(np.unique(gradient)) == {np.float32(0), np.float32(1 / 0.7)}
    layer.eval()
    assert layer(x) is x
    if n:
        assert getattr(nn, f"Dropout{n}d")(0.5, rngs=nnx.Rngs(0))(x[0]).shape == x[0].shape


def test_stochastic_depth_drops_branches_with_torchvisions_share_and_scale():
    x = jnp.ones((20_000, 2, 3))
    layer = nn.StochasticDepth(0.3, rngs=nnx.Rngs(0))
    rows = layer(x).reshape(20_000, -1)
    assert set(np.unique(rows)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (rows == rows[:, :1]).all()
    assert abs((rows[:, 0] == 0).mean() - 0.3) < 0.01  # 3 standard errors: 0.0097
    whole = nn.StochasticDepth(0.5, "batch", rngs=nnx.Rngs(0))
    draws = jnp.stack([whole(x[:4]) for _ in range(30)]).reshape(30, -1)
    assert (draws == draws[:, :1]).all()
    assert set(np.unique(draws)) == {np.float32(0), np.float32(2)}
    layer.eval()
    assert layer(x) is x
    with pytest.raises(ValueError, match="mode must be 'row' or 'batch'"):
        nn.StochasticDepth(0.5, "rows", rngs=nnx.Rngs(0))


def test_dropout_at_its_ends():
    x = jnp.ones(5)
    assert nn.Dropout(0.0, rngs=nnx.Rngs(0))(x) is x
    assert not nn.Dropout(1.0, rngs=nnx.Rngs(0))(x).any()
    assert not jax.grad(lambda x: nn.Dropout(1.0, rngs=nnx.Rngs(0))(x).sum())(x).any()
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        nn.Dropout(1.5, rngs=nnx.Rngs(0))


def test_dropout_keys_are_state_and_repeat():
    layer = nn.Dropout(0.5, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)
    first, again = (nnx.merge(graphdef, state, copy=True)(jnp.ones(50)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
