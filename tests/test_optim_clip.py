"""Clipping of gradients against torch.nn.utils."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from dlwp_jax import optim
from tests.optim_steps import assert_trees_close, random_problem


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_clip_grad_norm(norm_type, max_norm):
    params, grads = random_problem(np.float32)
    grads = {k: g[3] for k, g in grads.items()}
    tensors = {k: torch.nn.Parameter(torch.tensor(p)) for k, p in params.items()}
    for k, t in tensors.items():
        t.grad = torch.tensor(grads[k])
    norm = torch.nn.utils.clip_grad_norm_(list(tensors.values()), max_norm, norm_type)
    clipped, _ = optim.clip_grad_norm(max_norm, norm_type).update(grads, optax.EmptyState())
    # One float32 sum of a few numbers and a division.
    np.testing.assert_allclose(optim.grad_norm(grads, norm_type), norm, rtol=1e-6)
    assert_trees_close(clipped, {k: t.grad for k, t in tensors.items()}, rtol=1e-6)


def test_clip_grad_norm_spreads_what_is_not_finite():
    grads = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.array([1.0])}
    p = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    p[0].grad, p[1].grad = torch.tensor([float("inf"), 1.0]), torch.tensor([1.0])
    torch.nn.utils.clip_grad_norm_(p, 1.0)
    clipped, _ = optim.clip_grad_norm(1.0).update(grads, optax.EmptyState())
    np.testing.assert_array_equal(clipped["a"], p[0].grad)
    np.testing.assert_array_equal(clipped["b"], p[1].grad)


def test_clip_grad_value():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.tensor([-3.0, -0.1, 0.5, 7.0])
    clipped, _ = optim.clip_grad_value(0.5).update(
        jnp.asarray(p.grad.numpy()), optax.EmptyState()
    )
    torch.nn.utils.clip_grad_value_([p], 0.5)
    np.testing.assert_array_equal(clipped, p.grad)
