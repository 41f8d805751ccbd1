"""Training that begins in torch and goes on here, and the way back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity, train

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=0.01
    ),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "Adam amsgrad": lambda p: torch.optim.Adam(
        p, lr=torch.tensor(0.01), betas=(0.8, 0.99), amsgrad=True
    ),
    "Adam decoupled": lambda p: torch.optim.Adam(
        p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05, t0=3),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
}


def models():
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 2), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    )
    rngs = nnx.Rngs(0)
    ours = nn.Sequential(
        nn.Conv2d(2, 4, 2, rngs=rngs), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3, rngs=rngs)
    )
    return theirs, ours


RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal(shape).astype(np.float32) for shape in ((6, 2, 3, 3), (6, 3)))


def torch_loss(model, batch):
    return torch.mean((model(batch["x"]) - batch["y"]) ** 2)


def loss_fn(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}


def train_torch(model, opt, steps):
    for _ in range(steps):
        opt.zero_grad()
        torch_loss(model, {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}).backward()
        opt.step()


def handed_over(theirs, ours, opt):
    loaded = parity.load_torch(ours, theirs)
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    learner, state = train.make_learner(ours, loss_fn, tx, key=jax.random.key(0))
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(opt_state)
    return loaded, learner, dataclasses.replace(state, opt_state=opt_state)


DATA = {"x": np.moveaxis(X, 1, -1), "y": Y}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_where_torch_stopped_and_back(kind):
    theirs, ours = models()
    opt = OPTIMIZERS[kind](theirs.parameters())
    train_torch(theirs, opt, 5)
    loaded, learner, state = handed_over(theirs, ours, opt)
    for _ in range(5):
        state, _ = train.train_epoch(learner, state, DATA, batch_size=6)
    fresh, _ = (
        models()
    )  # the way back: 2 more steps in torch from our state, against 7 in torch
    fresh.load_state_dict(parity.to_torch(learner.model(state), loaded))
    again = OPTIMIZERS[kind](fresh.parameters())
    again.load_state_dict(opt.state_dict())
    parity.to_torch_optimizer(
        again,
        state.opt_state,
        dataclasses.replace(loaded, state=dict(fresh.named_parameters())),
    )

    train_torch(theirs, opt, 5)
    train_torch(theirs, opt, 2)
    train_torch(fresh, again, 2)
    # 5 + 2 steps of up to 0.05 in weights below 1: some ulp (6e-8) a step, which the division
    # by small roots in
    # the adaptive rules enlarges.
    for a, b in zip(fresh.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", ["SGD momentum", "AdamW"])
def test_a_state_that_is_not_handed_over_shows(kind):
    theirs, ours = models()
    opt = OPTIMIZERS[kind](theirs.parameters())
    train_torch(theirs, opt, 5)
    loaded, learner, state = handed_over(theirs, ours, opt)
    good = parity.compare_steps(
        theirs, opt, learner, state, [{"x": X, "y": Y}] * 3, torch_loss, loaded=loaded
    )
    good.raise_if_different()
    fresh = dataclasses.replace(state, opt_state=learner.tx.init(state.params))
    bad = parity.compare_steps(
        theirs, opt, learner, fresh, [{"x": X, "y": Y}] * 3, torch_loss, loaded=loaded
    )
    assert (bad.first_difference.step, bad.first_difference.stage) == (0, "update")


def test_parameter_groups_become_groups_by_path():
    theirs, ours = models()
    opt = torch.optim.SGD(
        [
            {"params": theirs[0].parameters(), "lr": 0.1},
            {"params": theirs[3].parameters(), "weight_decay": 0.1},
        ],
        lr=0.01,
        momentum=0.9,
    )
    train_torch(theirs, opt, 3)
    loaded, learner, state = handed_over(theirs, ours, opt)
    report = parity.compare_steps(
        theirs, opt, learner, state, [{"x": X, "y": Y}] * 3, torch_loss, loaded=loaded
    )
    assert report.raise_if_different().rows[-1].step == 2


@pytest.mark.parametrize("kind", ["Adam", "Adafactor"])
def test_without_a_report_the_state_fits_torch_s_list_of_parameters(kind):
    theirs, _ = models()
    opt = OPTIMIZERS[kind](theirs.parameters())
    train_torch(theirs, opt, 2)
    tx, state = parity.torch_optimizer(opt)
    params = [jnp.asarray(p.detach().numpy()) for p in theirs.parameters()]
    grads = [jnp.ones_like(p) for p in params]
    updates, _ = tx.update(grads, state, params)
    for p in theirs.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    for ours, p in zip(optax.apply_updates(params, updates), theirs.parameters(), strict=True):
        np.testing.assert_allclose(
            ours, p.detach(), rtol=0, atol=1e-7
        )  # one ulp of weights below 1


def test_muon_goes_on_too():
    theirs, ours = (
        torch.nn.Linear(4, 3, bias=False),
        nn.Linear(4, 3, bias=False, rngs=nnx.Rngs(0)),
    )
    opt = torch.optim.Muon(theirs.parameters(), lr=0.1)
    opt.zero_grad()
    theirs(torch.ones(2, 4)).square().sum().backward()
    opt.step()
    _, state = parity.torch_optimizer(opt, parity.load_torch(ours, theirs))
    buffer = jax.tree.leaves(state.momentum_buffer)[0]
    np.testing.assert_array_equal(buffer, opt.state[theirs.weight]["momentum_buffer"])


class Reshaped(nnx.Module):
    """A flatten in H W C order, and a Linear that is a bare array in torch's layout."""

    def __init__(self, *, rngs):
        self.conv, self.middle = nn.Conv2d(2, 4, 2, rngs=rngs), nn.Linear(16, 5, rngs=rngs)
        self.last = nnx.Param(jnp.zeros((3, 5)))

    def __call__(self, x):
        return self.middle(jnp.tanh(self.conv(x)).reshape(len(x), -1)) @ self.last[...].T


class TorchReshaped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.middle = torch.nn.Conv2d(2, 4, 2), torch.nn.Linear(16, 5)
        self.last = torch.nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return self.middle(torch.tanh(self.conv(x)).flatten(1)) @ self.last.T


@pytest.mark.parametrize("cls", [torch.optim.Adafactor, torch.optim.Muon])
def test_rules_of_rows_and_columns_see_torchs_layout_behind_a_turned_flatten_too(cls):
    torch.manual_seed(0)
    theirs, ours = TorchReshaped(), Reshaped(rngs=nnx.Rngs(0))
    matrices = [
        theirs.middle.weight,
        theirs.last,
    ]  # the convolution is then in no group, but not frozen either
    opt = cls(matrices if cls is torch.optim.Muon else theirs.parameters(), lr=0.05)
    train_torch(theirs, opt, 2)
    loaded = parity.load_torch(ours, theirs, probe=X)
    assert "rows turned from 4 2 2" in str(loaded)
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    learner, state = train.make_learner(ours, loss_fn, tx, key=jax.random.key(0))
    state = dataclasses.replace(state, opt_state=opt_state)
    batches = [{"x": X, "y": Y}] * 2
    report = parity.compare_steps(
        theirs, opt, learner, state, batches, torch_loss, loaded=loaded
    )
    report.raise_if_different()


def test_what_is_not_carried_over_is_refused_by_name():
    theirs, ours = models()
    with pytest.raises(
        NotImplementedError, match="LBFGS is not carried over; these are: SGD, Adam"
    ):
        parity.torch_optimizer(torch.optim.LBFGS(theirs.parameters()))
    from_state = parity.load_torch(ours, theirs.state_dict())
    with pytest.raises(ValueError, match="parameters that were not loaded"):
        parity.torch_optimizer(torch.optim.SGD(theirs.parameters()), from_state)
    opt = torch.optim.Adam(theirs.parameters())
    train_torch(theirs, opt, 2)
    next(iter(opt.state.values()))["step"] += 1
    with pytest.raises(ValueError, match=r"different numbers of steps, \[2, 3\]"):
        parity.torch_optimizer(opt)
    untouched = torch.optim.Adam(theirs.parameters())
    _, state = parity.torch_optimizer(untouched)
    with pytest.raises(ValueError, match="let it make one step first"):
        parity.to_torch_optimizer(untouched, state)


def freeze_first_bias(model):
    model[0].bias.requires_grad_(False)
    return model.parameters()


PARTIAL = {
    "SGD momentum 0.9 and 0": lambda m: torch.optim.SGD(
        [{"params": m[0].parameters(), "momentum": 0.9}, {"params": m[3].parameters()}], lr=0.05
    ),
    "Adam, one frozen": lambda m: torch.optim.Adam(
        freeze_first_bias(m), lr=0.01, weight_decay=0.1
    ),
    "Adam on the head": lambda m: torch.optim.Adam(m[3].parameters(), lr=0.01),
    "two groups on the head": lambda m: torch.optim.Adam(
        [{"params": [m[3].weight]}, {"params": [m[3].bias], "lr": 0.1}], lr=0.01
    ),
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_what_torch_does_not_train_stays_as_it_is(kind):
    theirs, ours = models()
    opt = PARTIAL[kind](theirs)
    train_torch(theirs, opt, 3)
    loaded, learner, state = handed_over(theirs, ours, opt)
    for _ in range(3):
        state, _ = train.train_epoch(learner, state, DATA, batch_size=6)
    train_torch(theirs, opt, 3)
    result = parity.to_torch(learner.model(state), loaded)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(result[name], value, atol=1e-5, err_msg=name)
