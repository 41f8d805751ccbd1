"""Groups of parameters, and kernels in torch's layout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import optim
from tests.optim_steps import assert_trees_close, scan, torch_run


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Linear(4, 2, rngs=rngs)


def test_groups_are_torchs_parameter_groups():
    """No decay for biases and norms, a frozen first layer, the rest as given: the usual
    fine-tuning.
    """
    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    is_vector = lambda path, variable: variable.get_value().ndim == 1  # noqa: E731
    tx = optim.groups(
        {
            nnx.PathContains("first"): optax.set_to_zero(),
            is_vector: optim.adamw(0.1, weight_decay=0.0),
        },
        default=optim.adamw(0.1, weight_decay=0.5),
    )
    grads = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    new, _ = step(params, tx.init(params))
    flat = {"/".join(k): v.get_value() for k, v in nnx.to_flat_state(new)}
    old = {
        "/".join(k): torch.nn.Parameter(torch.tensor(np.array(v.get_value())))
        for k, v in nnx.to_flat_state(params)
    }
    decayed = [p for k, p in old.items() if k == "second/kernel"]
    plain = [p for k, p in old.items() if k in ("second/bias", "norm/scale", "norm/bias")]
    opt = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=0.1, weight_decay=0.5
    )
    for p in decayed + plain:
        p.grad = torch.ones_like(p)
    opt.step()
    assert set(flat) == set(old) == {
        "first/kernel", "first/bias", "norm/scale", "norm/bias", "second/kernel", "second/bias",
    }  # fmt: skip
    # One float32 step.
    assert_trees_close(
        flat, {k: p.detach().numpy() for k, p in old.items()}, rtol=1e-6, atol=1e-7
    )


def test_groups_refuse_what_is_left_over():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="no group takes b"):
        optim.groups({nnx.PathContains("a"): optim.sgd()}).init(params)
    with pytest.raises(ValueError, match="is empty"):
        optim.groups({nnx.PathContains("c"): optim.sgd()}, default=optim.adam()).init(params)


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_torch_layout(name):
    """A Flax kernel under `torch_layout` moves as torch's transposed weight does."""
    rng = np.random.default_rng(0)
    shape, to_torch = ((2, 3), (1, 0)) if name == "Muon" else ((3, 2, 4, 5), (3, 2, 0, 1))
    params = {"kernel": rng.standard_normal(shape).astype("f")}
    grads = {"kernel": rng.standard_normal((10, *shape)).astype("f")}
    turned = {"kernel": np.transpose(params["kernel"], to_torch)}
    turned_grads = {"kernel": np.stack([np.transpose(g, to_torch) for g in grads["kernel"]])}
    *_, (theirs, _) = torch_run(name, {}, turned, turned_grads)
    tx = optim.torch_layout(getattr(optim, name.lower())())
    final, _, _ = scan(tx)(params, tx.init(params), grads)
    # Ten float32 steps.
    np.testing.assert_allclose(
        np.transpose(final["kernel"], to_torch), theirs["kernel"], rtol=1e-5, atol=1e-6
    )
