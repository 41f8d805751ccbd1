"""L-BFGS and Muon against torch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dlwp_jax import optim
from tests.optim_steps import STEPS, float64, scan, torch_run  # noqa: F401 (a fixture)

MUON = [
    ({}, (4, 6)),
    ({"lr": 0.02, "nesterov": False, "weight_decay": 0.0}, (6, 4)),
    ({"adjust_lr_fn": "match_rms_adamw", "momentum": 0.8, "ns_steps": 3, "eps": 1e-3}, (6, 4)),
    ({"adjust_lr_fn": "original", "ns_coefficients": (2.0, -1.5, 0.5)}, (5, 5)),
]


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize(("options", "shape"), MUON)
def test_muon_rounds_where_torch_rounds(options, shape):
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal(shape).astype("f")}
    grads = {"w": rng.standard_normal((STEPS, *shape)).astype("f")}
    *_, (theirs, state) = torch_run("Muon", options, params, grads)
    tx = optim.muon(**options)
    final, ours, _ = scan(tx)(params, tx.init(params), grads)
    # Float32 sums over 100 steps; one bfloat16 rounding the other way would show as lr * 2^-8 =
    # 4e-6 to 8e-5.
    np.testing.assert_allclose(final["w"], theirs["w"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        ours.momentum_buffer["w"], state["w"]["momentum_buffer"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_lbfgs_finds_torchs_minimum(float64, line_search_fn):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 4)), rng.standard_normal(12)

    def loss(p, log):
        return (log(1 + (a @ p - b) ** 2)).mean() + 0.1 * (p**2).sum()

    p = torch.zeros(4, requires_grad=True)
    ta, tb = torch.tensor(a), torch.tensor(b)
    lr = 0.5 if line_search_fn is None else 1.0
    exact = {"max_iter": 500, "tolerance_grad": 1e-10, "tolerance_change": 1e-15}
    opt = torch.optim.LBFGS([p], lr, line_search_fn=line_search_fn, **exact)

    def closure():
        opt.zero_grad()
        value = torch.log(1 + (ta @ p - tb) ** 2).mean() + 0.1 * (p**2).sum()
        value.backward()
        return value

    opt.step(closure)
    tx = optim.lbfgs(lr, line_search_fn=line_search_fn, history_size=10)
    value_fn = lambda p: loss(p, jnp.log)  # noqa: E731

    def body(_, carry):
        params, state = carry
        value, grads = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        return params + updates, state

    params = jnp.zeros(4)
    final, _ = jax.jit(lambda c: jax.lax.fori_loop(0, 60, body, c))((params, tx.init(params)))
    # torch stops once the loss changes by less than 1e-15, which is 3e-8 in the parameters.
    np.testing.assert_allclose(final, p.detach(), rtol=0, atol=2e-7)
