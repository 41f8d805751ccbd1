"""linear, embedding, layer_norm, batch_norm and dropout as functions, against
torch.nn.functional.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import assert_close, random

F = torch.nn.functional


def check(ours, theirs, *arrays):
    """Output and gradients of every array agree."""
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    want = theirs(*tensors)
    weight = random(*want.shape)
    want.backward(torch.tensor(weight))
    got, pull = jax.vjp(ours, *map(jnp.asarray, arrays))
    assert_close(got, want.detach())
    for gradient, tensor in zip(pull(jnp.asarray(weight)), tensors, strict=True):
        assert_close(gradient, tensor.grad)


def test_linear():
    kernel, bias = random(6, 5), random(5)
    check(nn.linear, lambda x, k, b: F.linear(x, k.T, b), random(2, 3, 6), kernel, bias)
    check(nn.linear, lambda x, k: F.linear(x, k.T), random(6), kernel)
    with pytest.raises(RuntimeError, match=r"\[\.\.\. 6\]"):
        nn.linear(jnp.ones((2, 5)), kernel)


def test_embedding():
    indices = np.array([[0, 5, 2], [2, 6, 5]])
    for padding in (None, 5, -2):
        check(
            lambda table, padding=padding: nn.embedding(indices, table, padding),
            lambda table, padding=padding: F.embedding(torch.tensor(indices), table, padding),
            random(7, 3),
        )
    with pytest.raises(IndexError, match="rows 0 to 6"):
        nn.embedding(jnp.array([7]), jnp.ones((7, 3)))


def test_layer_norm():
    shape, scale, bias = (4, 5), random(4, 5), random(4, 5)
    check(
        lambda x, w, b: nn.layer_norm(x, shape, w, b, 1e-3),
        lambda x, w, b: F.layer_norm(x, shape, w, b, 1e-3),
        random(3, 4, 5),
        scale,
        bias,
    )
    check(lambda x: nn.layer_norm(x, 5), lambda x: F.layer_norm(x, (5,)), random(3, 4, 5))
    with pytest.raises(RuntimeError, match="weight has shape"):
        nn.layer_norm(jnp.ones((3, 5)), 5, jnp.ones(1))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_its_running_values(training):
    x, weight, bias = random(4, 2, 3, 5), random(5), random(5)
    start = random(5), 1 + random(5) ** 2
    theirs = [torch.tensor(value) for value in start]
    want = F.batch_norm(
        torch.movedim(torch.tensor(x), -1, 1),
        *theirs,
        torch.tensor(weight),
        torch.tensor(bias),
        training,
        0.3,
    )
    ours = [nnx.BatchStat(jnp.asarray(value)) for value in start]
    got = nn.batch_norm(x, *ours, weight, bias, training, 0.3)
    assert_close(got, torch.movedim(want, 1, -1))
    for running, tensor in zip(ours, theirs, strict=True):
        assert_close(running[...], tensor)


def test_batch_norm_without_running_values():
    x = random(6, 3)
    check(
        lambda x: nn.batch_norm(x, None, None, training=True),
        lambda x: F.batch_norm(x, None, None, training=True),
        x,
    )
    mean, var = jnp.zeros(3), jnp.ones(3)
    assert_close(nn.batch_norm(x, mean, var), F.batch_norm(*map(_tensor, (x, mean, var))))
    with pytest.raises(TypeError, match="give the NNX variables"):
        nn.batch_norm(x, mean, var, training=True)
    with pytest.raises(ValueError, match="in evaluation"):
        nn.batch_norm(x, None, None)


def _tensor(x):
    return torch.tensor(np.array(x))


def test_dropout_keeps_torchs_share_and_scale():
    x = jnp.ones((100, 200))
    got = np.asarray(nn.dropout(x, 0.3, key=jax.random.key(0)))
    want = F.dropout(torch.ones(100, 200), 0.3)
    np.testing.assert_allclose(np.unique(got), np.unique(want), rtol=1e-6)
    assert abs((got == 0).mean() - 0.3) < 0.02
    assert nn.dropout(x, 0.3, training=False) is x
    assert not nn.dropout(x, 1.0, key=jax.random.key(0)).any()
    with pytest.raises(ValueError, match="give it a key"):
        nn.dropout(x, 0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.dropout(x, 1.5, key=jax.random.key(0))
