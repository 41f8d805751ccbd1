"""Every optimizer against torch's own, step by step, with the state torch would have saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import optim

STEPS = 100
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


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "name", "options"), TABLE, ids=IDS)
def test_float32(ours, name, options):
    """The same gradients in single precision."""
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


MUON = [
    ({}, (4, 6)),
    ({"lr": 0.02, "nesterov": False, "weight_decay": 0.0}, (6, 4)),
    ({"adjust_lr_fn": "match_rms_adamw", "momentum": 0.8, "ns_steps": 3, "eps": 1e-3}, (6, 4)),
    ({"adjust_lr_fn": "original", "ns_coefficients": (2.0, -1.5, 0.5)}, (5, 5)),
]


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
