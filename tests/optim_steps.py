"""Steps of an optimizer and of torch's, side by side."""

import jax
import numpy as np
import optax
import pytest
import torch

STEPS = 100


def random_problem(dtype):
    """Parameters of two ranks, and a gradient for each step whose size varies over six
    decades.
    """
    rng = np.random.default_rng(0)
    shapes = {"b": (4,), "w": (2, 3, 4)}
    params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    scale = 10 ** rng.uniform(-4, 2, STEPS)
    grads = {
        name: (
            rng.standard_normal((STEPS, *p.shape)) * scale.reshape(-1, *[1] * p.ndim)
        ).astype(dtype)
        for name, p in params.items()
    }
    grads["w"][::7, 0] = 0.0  # sometimes there is no gradient at all
    return params, grads


def torch_run(name, options, params, grads, scheduler=None):
    """Yields (parameters, optimizer state by parameter name) after every step of torch's
    optimizer.
    """
    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    opt = getattr(torch.optim, name)(list(tensors.values()), **options)
    schedule = scheduler(opt) if scheduler else None
    for step in range(len(next(iter(grads.values())))):
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[key][step])
        opt.step()
        if schedule:
            schedule.step()
        yield (
            {k: t.detach().numpy().copy() for k, t in tensors.items()},
            {k: opt.state[t] for k, t in tensors.items()},
        )


def scan(tx):
    """A compiled function (params, state, grads) -> (params, state, the parameters after each
    step).
    """

    def body(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    def run(params, state, grads):
        (params, state), path = jax.lax.scan(body, (params, state), grads)
        return params, state, path

    return jax.jit(run)


def assert_trees_close(ours, theirs, **tolerance):
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], err_msg=key, **tolerance)


@pytest.fixture
def float64():
    """Both libraries in double precision; torch takes the dtype of its scalar state from the
    default.
    """
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)
