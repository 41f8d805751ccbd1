"""Every optimizer against torch's own, step by step, with the state torch would have saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from dlwp_jax import optim
from tests.optim_steps import (
    STEPS,
    assert_trees_close,
    float64,  # noqa: F401 (a fixture)
    random_problem,
    scan,
    torch_run,
)

HALF = STEPS // 2
# (ours, torch's class, options). Each option of each class appears at least once.
TABLE = [
    (optim.sgd, "SGD", {}),
    (optim.sgd, "SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    (optim.sgd, "SGD", {"lr": 0.05, "momentum": 0.9}),
    (optim.sgd, "SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (optim.sgd, "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.adam, "Adam", {}),
    (optim.adam, "Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (optim.adam, "Adam", {"lr": 0.05, "amsgrad": True, "maximize": True}),
    (optim.adam, "Adam", {"lr": 0.05, "betas": (0.0, 0.9)}),
    (optim.adamw, "AdamW", {}),
    (
        optim.adamw,
        "AdamW",
        {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True},
    ),
    (optim.adamax, "Adamax", {}),
    (
        optim.adamax,
        "Adamax",
        {"lr": 0.05, "betas": (0.7, 0.9), "weight_decay": 0.1, "eps": 1e-2, "maximize": True},
    ),
    (optim.nadam, "NAdam", {}),
    (
        optim.nadam,
        "NAdam",
        {"lr": 0.05, "weight_decay": 0.1, "momentum_decay": 0.05, "maximize": True},
    ),
    (
        optim.nadam,
        "NAdam",
        {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3},
    ),
    (optim.radam, "RAdam", {}),
    (
        optim.radam,
        "RAdam",
        {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.95), "maximize": True},
    ),
    (
        optim.radam,
        "RAdam",
        {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3},
    ),
    (optim.rmsprop, "RMSprop", {}),
    (optim.rmsprop, "RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    (optim.rmsprop, "RMSprop", {"lr": 0.02, "momentum": 0.9, "maximize": True}),
    (optim.rmsprop, "RMSprop", {"lr": 0.02, "momentum": 0.5, "centered": True, "eps": 1e-2}),
    (optim.adagrad, "Adagrad", {}),
    (
        optim.adagrad,
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "maximize": True},
    ),
    (optim.adagrad, "Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-2}),
    (optim.adadelta, "Adadelta", {}),
    (
        optim.adadelta,
        "Adadelta",
        {"lr": 0.5, "rho": 0.7, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
    ),
    (optim.asgd, "ASGD", {}),
    (
        optim.asgd,
        "ASGD",
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 20, "weight_decay": 0.1},
    ),
    (optim.asgd, "ASGD", {"t0": 3, "maximize": True}),
    (optim.rprop, "Rprop", {}),
    (
        optim.rprop,
        "Rprop",
        {"lr": 0.1, "etas": (0.3, 1.7), "step_sizes": (1e-3, 0.2), "maximize": True},
    ),
    (optim.adafactor, "Adafactor", {}),
    (
        optim.adafactor,
        "Adafactor",
        {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "weight_decay": 0.1},
    ),
    (optim.adafactor, "Adafactor", {"d": 3.0, "maximize": True}),
]
IDS = [f"{name}-{'-'.join(options) or 'defaults'}" for _, name, options in TABLE]


def state_from_torch(state, torch_state, step):
    """Our state with every field read from torch's, by its own name: what a parity tool
    does.
    """
    fields = {"step": jnp.int32(step)}
    for name in state._fields[1:]:
        tree = getattr(state, name)
        if tree is not None:
            fields[name] = {
                key: jnp.asarray(torch_state[key][name].numpy()).astype(leaf.dtype)
                if leaf.size
                else leaf
                for key, leaf in tree.items()
            }
    return state._replace(**fields)


@pytest.mark.parametrize(("ours", "name", "options"), TABLE, ids=IDS)
def test_formula_is_torchs(float64, ours, name, options):
    """In double precision rounding is out of the way: 100 steps agree to 1e-11, the state
    included.
    """
    params, grads = random_problem(np.float64)
    first, second = ({k: g[i] for k, g in grads.items()} for i in np.split(np.arange(STEPS), 2))
    theirs = list(torch_run(name, options, params, first))
    tx = ours(**options)
    run = scan(tx)
    _, half_state, path = run(params, tx.init(params), first)
    # 1e-11: 100 steps each round by 1e-16, amplified if lr / eps is large.
    for step in (0, 1, 2, 10, HALF - 1):
        assert_trees_close(
            {k: p[step] for k, p in path.items()}, theirs[step][0], rtol=1e-11, atol=1e-12
        )
    expected = state_from_torch(half_state, theirs[-1][1], step=HALF)
    for field in half_state._fields[1:]:
        if getattr(half_state, field) is not None:
            assert_trees_close(
                getattr(half_state, field), getattr(expected, field), rtol=1e-10, atol=1e-12
            )
    assert half_state.step == HALF
    # Training goes on in JAX from torch's own parameters and state.
    carried, _, _ = run(theirs[-1][0], expected, second)
    *_, (final, _) = torch_run(name, options, params, grads)
    assert_trees_close(carried, final, rtol=1e-11, atol=1e-12)


DEFAULTS = [row for row in TABLE if not row[2]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "name", "options"), DEFAULTS, ids=[name for _, name, _ in DEFAULTS]
)
def test_float32(ours, name, options):
    """The same gradients in single precision; the options are compared in double precision."""
    params, grads = random_problem(np.float32)
    *_, (theirs, _) = torch_run(name, options, params, grads)
    tx = ours(**options)
    final, _, _ = scan(tx)(params, tx.init(params), grads)
    # 100 steps of 6e-8 each, less than 1e-5 if they all lean the same way.
    assert_trees_close(final, theirs, rtol=1e-5, atol=1e-5)


# With eps 1e-8 RMSprop divides rounding by rounding once the gradient is gone.
REAL = [
    (optim.adam, "Adam", {}),
    (optim.asgd, "ASGD", {}),
    (optim.rprop, "Rprop", {}),
    (optim.adafactor, "Adafactor", {}),
    (optim.rmsprop, "RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("ours", "name", "options"), REAL, ids=[name for _, name, _ in REAL])
def test_float32_with_a_real_loss(ours, name, options):
    """A small network trained 100 steps by both, each with its own gradients."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 3)).astype("f"), rng.standard_normal((16, 2)).astype("f")
    params = {
        "hidden": 0.5 * rng.standard_normal((3, 5)),
        "out": 0.5 * rng.standard_normal((5, 2)),
        "b": np.zeros(2),
    }
    params = {k: p.astype("f") for k, p in params.items()}

    def loss(p, tanh, x, y):
        return ((tanh(x @ p["hidden"]) @ p["out"] + p["b"] - y) ** 2).mean()

    tensors = {k: torch.nn.Parameter(torch.tensor(p)) for k, p in params.items()}
    opt = getattr(torch.optim, name)(list(tensors.values()), **options)
    for _ in range(STEPS):
        opt.zero_grad()
        loss(tensors, torch.tanh, torch.tensor(x), torch.tensor(y)).backward()
        opt.step()

    tx = ours(**options)

    @jax.jit
    def train(params):
        def body(_, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, jnp.tanh, x, y), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, STEPS, body, (params, tx.init(params)))[0]

    # Float32 rounds by 6e-8 a step; rules that divide by the gradient's size turn the rounding
    # of a tiny gradient into a step of another size, which the loss then pulls back.
    final = train({k: jnp.asarray(p) for k, p in params.items()})
    assert_trees_close(
        final, {k: t.detach().numpy() for k, t in tensors.items()}, rtol=1e-3, atol=2e-4
    )


@pytest.mark.parametrize(
    ("ours", "name", "options"), [REAL[0], REAL[3]], ids=["Adam", "Adafactor"]
)
def test_without_jit(ours, name, options):
    """Two eager steps, in float32, on a dictionary of one matrix."""
    params, grads = random_problem(np.float32)
    params, grads = {"w": params["w"]}, {"w": grads["w"][:2]}
    tx = ours(**options)
    state, current = tx.init(params), params
    for step, (theirs, _) in enumerate(torch_run(name, options, params, grads)):
        updates, state = tx.update({"w": jnp.asarray(grads["w"][step])}, state, current)
        current = optax.apply_updates(current, updates)
        # Two steps of float32, with roots and powers.
        assert_trees_close(current, theirs, rtol=2e-6, atol=1e-6)


SCHEDULED = [
    (optim.sgd, "SGD", {"momentum": 0.9, "dampening": 0.1}),
    (optim.adamw, "AdamW", {"weight_decay": 0.3}),
    (optim.adagrad, "Adagrad", {"lr_decay": 0.01}),
    (optim.asgd, "ASGD", {"lambd": 0.1}),
    (optim.rprop, "Rprop", {}),
    (optim.adafactor, "Adafactor", {}),
]


@pytest.mark.parametrize(
    ("ours", "name", "options"), SCHEDULED, ids=[name for _, name, _ in SCHEDULED]
)
def test_schedule_in_torchs_order(float64, ours, name, options):
    """A schedule as `lr` equals optimizer.step(); scheduler.step()."""
    params, grads = random_problem(np.float64)
    grads = {k: g[:20] for k, g in grads.items()}
    step_lr = lambda opt: torch.optim.lr_scheduler.StepLR(opt, step_size=7, gamma=0.5)  # noqa: E731
    *_, (theirs, _) = torch_run(name, {"lr": 0.1, **options}, params, grads, step_lr)
    tx = ours(lr=optim.step_lr(0.1, step_size=7, gamma=0.5), **options)
    final, _, _ = scan(tx)(params, tx.init(params), grads)
    assert_trees_close(final, theirs, rtol=1e-11, atol=1e-12)  # double precision, as above


def test_one_cycle_with_momentum(float64):
    """torch's OneCycleLR moves momentum too; `inject_hyperparams` does that here, with traced
    options.
    """
    params, grads = random_problem(np.float64)
    cycle = lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=STEPS + 1)  # noqa: E731
    *_, (theirs, _) = torch_run("SGD", {"lr": 0.1, "momentum": 0.9}, params, grads, cycle)
    tx = optax.inject_hyperparams(optim.sgd)(
        lr=optim.one_cycle_lr(0.1, STEPS + 1), momentum=optim.one_cycle_momentum(STEPS + 1)
    )
    final, _, _ = scan(tx)(params, tx.init(params), grads)
    assert_trees_close(final, theirs, rtol=1e-11, atol=1e-12)  # double precision, as above


@pytest.mark.parametrize("ours", [optim.adamw, optim.asgd, optim.rprop])
def test_learning_rates_under_vmap(ours):
    """A sweep: one compiled program, each member as if it were alone."""
    params, grads = random_problem(np.float32)
    grads = {k: g[:5] for k, g in grads.items()}
    rates = jnp.array([0.001, 0.1])

    def train(lr):
        tx = ours(lr=lr)
        return scan(tx)(params, tx.init(params), grads)[0]

    together, alone = jax.jit(jax.vmap(train))(rates), jax.jit(train)
    for i, lr in enumerate(rates):
        # The batched program may fuse multiply-adds another way: a few units in the last place.
        assert_trees_close(
            {k: v[i] for k, v in together.items()}, alone(lr), rtol=2e-6, atol=1e-6
        )


def test_half_precision_keeps_its_dtypes():
    tx, params = optim.adamw(0.1), {"w": jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    updates, new = tx.update({"w": jnp.ones(3, jnp.bfloat16)}, state, params)
    assert updates["w"].dtype == jnp.bfloat16
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    # lr + decay: 0.1 + 0.001, rounded to bfloat16's eight bits.
    np.testing.assert_allclose(updates["w"].astype(float), -0.101, rtol=2**-8)


WRONG = [
    (optim.sgd, {"lr": -1.0}, "lr=-1.0 must be >= 0"),
    (optim.sgd, {"nesterov": True}, "nesterov needs momentum > 0"),
    (optim.sgd, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening 0"),
    (optim.adam, {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
    (optim.adam, {"eps": -1e-8}, "eps"),
    (optim.adamw, {"weight_decay": -1.0}, "weight_decay=-1.0"),
    (optim.adadelta, {"rho": 1.5}, "rho=1.5"),
    (optim.rprop, {"etas": (1.2, 0.5)}, "etas"),
    (optim.adafactor, {"d": 0.5}, "d=0.5"),
    (optim.adafactor, {"beta2_decay": 0.8}, "beta2_decay=0.8"),
    (optim.muon, {"adjust_lr_fn": "none"}, "adjust_lr_fn='none'"),
    (optim.lbfgs, {"line_search_fn": "armijo"}, "armijo"),
    (optim.lbfgs, {"line_search_fn": "strong_wolfe", "lr": 0.1}, "must be 1"),
]


@pytest.mark.parametrize(("ours", "options", "message"), WRONG)
def test_wrong_options(ours, options, message):
    with pytest.raises(ValueError, match=message):
        ours(**options)


def test_wrong_parameters():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        optim.muon().init(jnp.ones(3))
    with pytest.raises(TypeError, match="int32"):
        optim.sgd().init(jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match="params is missing"):
        optim.sgd().update(jnp.ones(3), optim.sgd().init(jnp.ones(3)))
