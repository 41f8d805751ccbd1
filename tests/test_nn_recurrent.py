"""Recurrent layers against torch's in float64: every option, lengths against packed sequences,
gradients, and whole models from a file to training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.nn.utils import rnn as packing

from dlwp_jax import losses, nn, optim, parity, train

T, N, IN, HIDDEN = 5, 3, 2, 4
LENGTHS = [3, 5, 1]
KINDS = {
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
    "LSTM": {},
    "GRU": {},
}
# name -> options of the layer, and whether there are lengths and a state before the first step
OPTIONS = {
    "plain": ({}, False, False),
    "no bias": ({"bias": False}, False, True),
    "two layers": ({"num_layers": 2}, False, True),
    "batch first": ({"batch_first": True}, False, True),
    "bidirectional": ({"bidirectional": True}, False, True),
    "lengths": ({}, True, True),
    "all": ({"num_layers": 2, "bidirectional": True, "batch_first": True}, True, True),
    "projected": ({"proj_size": 3}, False, True),
    "projected, all": ({"proj_size": 3, "num_layers": 2, "bidirectional": True}, True, True),
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name, (options, *_) in OPTIONS.items()
    if kind == "LSTM" or "proj_size" not in options
]


def pair(kind, **options):
    """Torch's layer and ours, in float64, with the same parameters."""
    name = kind.split()[0]
    options = {**KINDS[kind], **options}
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(IN, HIDDEN, **options).double()
    with jax.enable_x64(True):
        ours = getattr(nn, name)(IN, HIDDEN, **options, rngs=nnx.Rngs(0), param_dtype=float)
        parity.load_torch(ours, theirs)
    return theirs, ours


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def inputs(kind, name):
    options, some, given = OPTIONS[name]
    batch = (N, T) if options.get("batch_first") else (T, N)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = drawn((count, N, options.get("proj_size", HIDDEN)), 1)
    hx = (h, drawn((count, N, HIDDEN), 2)) if kind == "LSTM" else h
    return drawn((*batch, IN)), hx if given else None, LENGTHS if some else None


def torchs(layer, x, hx, lengths):
    """Outputs, and the gradients of a weighted sum of them by inputs and parameters."""
    x = torch.tensor(x, requires_grad=True)
    hx = jax.tree.map(lambda value: torch.tensor(value, requires_grad=True), hx)
    given = x
    if lengths is not None:
        given = packing.pack_padded_sequence(x, lengths, layer.batch_first, False)
    y, last = layer(given, hx)
    if lengths is not None:
        y, _ = packing.pad_packed_sequence(y, layer.batch_first, total_length=T)
    outputs = jax.tree.leaves((y, last))
    cotangents = [drawn(tuple(value.shape), 3 + i) for i, value in enumerate(outputs)]
    torch.autograd.backward(outputs, list(map(torch.tensor, cotangents)))
    by_inputs = [value.grad.numpy() for value in (x, *jax.tree.leaves(hx))]
    by_parameters = {name: p.grad.numpy() for name, p in layer.named_parameters()}
    return [value.detach().numpy() for value in outputs], by_inputs, by_parameters, cotangents


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_states_and_gradients_with_every_option(kind):
    with jax.enable_x64(True):
        want, calls, given = {}, {}, {}
        for case, name in CASES:
            if case != kind:
                continue
            theirs, ours = pair(kind, **OPTIONS[name][0])
            x, hx, lengths = inputs(kind, name)
            want[name] = torchs(theirs, x, hx, lengths)
            graph, params, rest = nnx.split(ours, nnx.Param, ...)
            calls[name] = graph, rest, lengths
            given[name] = params, x, hx, want[name][-1]

        @jax.jit  # one program for all of them
        def run(given):
            def one(name):
                graph, rest, lengths = calls[name]
                params, x, hx, cotangents = given[name]

                def outputs(params, x, hx):
                    layer = nnx.merge(graph, params, rest, copy=True)
                    return jax.tree.leaves(layer(x, hx, lengths=lengths))

                y, pull = jax.vjp(outputs, params, x, hx)
                return y, pull(cotangents)

            return {name: one(name) for name in given}

        results = run(given)
    for name, (outputs, by_inputs, by_parameters, _) in want.items():
        y, (params, x, hx) = results[name]
        gradients = [x, *jax.tree.leaves(hx)]
        named = {path[-1]: value[...] for path, value in nnx.to_flat_state(params)}
        assert named.keys() == by_parameters.keys()
        pairs = [*zip(y, outputs, strict=True), *zip(gradients, by_inputs, strict=True)]
        pairs += [(named[key], by_parameters[key]) for key in named]
        for got, right in pairs:
            np.testing.assert_allclose(got, right, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells_over_time_and_one_sequence_are_torchs(kind):
    theirs = getattr(torch.nn, f"{kind}Cell")(IN, HIDDEN)
    ours = getattr(nn, f"{kind}Cell")(IN, HIDDEN, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    x = drawn((T, N, IN)).astype(np.float32)
    h = hs = None
    for row in torch.tensor(x):
        h = theirs(row, h)

    def step(hs, row):
        return ours(row, hs), None

    hs = jax.lax.scan(step, ours(x[0]), x[1:])[0]
    for got, right in zip(jax.tree.leaves(hs), jax.tree.leaves(h), strict=True):
        np.testing.assert_allclose(got, right.detach(), atol=1e-6)
    theirs, ours = pair(kind)  # one sequence without a batch axis
    y, last = theirs(torch.tensor(drawn((T, IN))))
    with jax.enable_x64(True):
        got = jax.tree.leaves(ours(drawn((T, IN))))
    for value, right in zip(got, jax.tree.leaves((y, last)), strict=True):
        np.testing.assert_allclose(value, right.detach(), atol=1e-9)


def test_many_models_at_once_and_second_derivatives():
    # Under vmap over weights, and the derivative of a gradient, which is plain AD of the rule.
    theirs, ours = pair("GRU")
    x = drawn((T, N, IN))
    graph, params, rest = nnx.split(ours, nnx.Param, ...)
    given = torch.tensor(x, requires_grad=True)
    (by_x,) = torch.autograd.grad(theirs(given)[0].square().sum(), given, create_graph=True)
    want = torch.autograd.grad(by_x.square().sum(), list(theirs.parameters()))

    def loss(params, x):
        y, _ = nnx.merge(graph, params, rest, copy=True)(x, lengths=[T] * N)
        return jnp.sum(y**2)

    def of_gradient(params):
        return jnp.sum(jax.grad(loss, 1)(params, x) ** 2)

    with jax.enable_x64(True):
        several = jax.tree.map(lambda value: jnp.stack([value, value]), params)
        found = jax.jit(jax.vmap(jax.grad(of_gradient)))(several)
    named = {path[-1]: value[...][1] for path, value in nnx.to_flat_state(found)}
    for (name, _), right in zip(theirs.named_parameters(), want, strict=True):
        np.testing.assert_allclose(named[name], right, atol=1e-9)


def test_dropout_between_layers_is_on_in_train_mode_only():
    theirs, _ = pair("LSTM", num_layers=2)
    x = drawn((T, N, IN))
    with jax.enable_x64(True):
        dropped = nn.LSTM(IN, HIDDEN, 2, dropout=1.0, rngs=nnx.Rngs(0), param_dtype=float)
        parity.load_torch(dropped, theirs)
        theirs.dropout = 1.0
        for training in (True, False):
            theirs.train(training)
            _ = dropped.train() if training else dropped.eval()
            want = theirs(torch.tensor(x))[0].detach()
            np.testing.assert_allclose(dropped(x)[0], want, atol=1e-9)


def test_parameters_are_drawn_as_torch_draws_them():
    layer = nn.LSTM(30, 16, bidirectional=True, proj_size=8, rngs=nnx.Rngs(0))
    theirs = torch.nn.LSTM(30, 16, bidirectional=True, proj_size=8)
    state = parity.to_torch(layer)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    for value in state.values():
        assert value.abs().max() <= 0.25
        assert value.abs().max() > 0.2
        assert abs(value.std() - 0.25 / np.sqrt(3)) < 0.02


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_pad_sequence(batch_first, side):
    rows = [drawn((n, 2)).astype(np.float32) for n in (3, 1, 2)]
    options = {"batch_first": batch_first, "padding_value": -1.0, "padding_side": side}
    want = packing.pad_sequence(list(map(torch.tensor, rows)), **options)
    np.testing.assert_array_equal(nn.pad_sequence(rows, **options), want)


def test_wrong_lengths_and_states_are_refused():
    layer = nn.GRU(IN, HIDDEN, rngs=nnx.Rngs(0))
    x = jnp.zeros((T, N, IN))
    for lengths in ([T + 1, 1, 1], [0, 1, 1], [1, 2]):
        with pytest.raises(ValueError, match="lengths"):
            layer(x, lengths=lengths)
    with pytest.raises(RuntimeError, match=r"state of shape \(1, 3, 4\)"):
        layer(x, jnp.zeros((1, 1, HIDDEN)))
    with pytest.raises(ValueError, match="proj_size"):
        nn.LSTM(IN, 4, proj_size=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(IN, 4, nonlinearity="gelu", rngs=nnx.Rngs(0))


# --- whole models, from a file to training


class TorchClassifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.lstm = torch.nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.out = torch.nn.Linear(12, 3)

    def forward(self, x):
        return self.out(self.lstm(self.embed(x))[0].mean(1))


class Classifier(nnx.Module):
    def __init__(self, *, rngs):
        self.embed = nn.Embedding(20, 8, rngs=rngs)
        self.lstm = nn.LSTM(8, 6, bidirectional=True, batch_first=True, rngs=rngs)
        self.out = nn.Linear(12, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.lstm(self.embed(x))[0].mean(1))


class TorchForecaster(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(2, 8, batch_first=True)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.gru(x)[1][-1])


class Forecaster(nnx.Module):
    def __init__(self, *, rngs):
        self.gru = nn.GRU(2, 8, batch_first=True, rngs=rngs)
        self.out = nn.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.gru(x)[1][-1])


def test_a_classifier_goes_from_a_file_to_training(tmp_path):
    torch.save(TorchClassifier().state_dict(), tmp_path / "weights.pt")
    rng = np.random.default_rng(0)
    data = {"x": rng.integers(0, 20, (4, 7)), "y": rng.integers(0, 3, 4)}

    theirs, ours = TorchClassifier(), Classifier(rngs=nnx.Rngs(0))
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt"))
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, data["x"], loaded=loaded).raise_if_different()
    opt = torch.optim.Adam(theirs.parameters(), lr=0.01)
    torch_loss = lambda m, b: torch.nn.functional.cross_entropy(m(b["x"]), b["y"])  # noqa: E731
    torch_loss(theirs, jax.tree.map(torch.tensor, data)).backward()
    opt.step()
    loaded = parity.load_torch(ours, theirs)
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    loss = lambda m, b: (losses.cross_entropy(m(b["x"]), b["y"]), {})  # noqa: E731
    learner, state = train.make_learner(ours, loss, tx, key=jax.random.key(0))
    state = state.__class__(**{**vars(state), "opt_state": opt_state})
    report = parity.compare_steps(theirs, opt, learner, state, [data] * 2, torch_loss)
    report.raise_if_different()
    state, _ = train.train_epoch(learner, state, data, batch_size=4)
    back = parity.to_torch(learner.model(state), loaded)
    theirs.load_state_dict(back)
    parity.to_torch_optimizer(opt, state.opt_state, loaded)
    steps = {int(kept["step"]) for kept in opt.state.values()}
    assert steps == {2}


def test_a_forecaster_goes_from_a_file_to_training(tmp_path):
    torch.save(TorchForecaster().state_dict(), tmp_path / "weights.pt")
    x = drawn((4, 6, 2)).astype(np.float32)
    data = {"x": x[:, :-1], "y": x[:, -1]}

    theirs, ours = TorchForecaster(), Forecaster(rngs=nnx.Rngs(0))
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt"))
    loaded = parity.load_torch(ours, tmp_path / "weights.pt")
    parity.compare(theirs, ours, data["x"], loaded=loaded, double=True).raise_if_different()
    learner, state = train.make_learner(
        ours,
        lambda m, b: (losses.mse_loss(m(b["x"]), b["y"]), {}),
        optax.chain(optim.clip_grad_norm(1e9), optim.sgd(0.1)),
        key=jax.random.key(0),
    )
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    loss = lambda m, b: torch.nn.functional.mse_loss(m(b["x"]), b["y"])  # noqa: E731
    parity.compare_steps(
        theirs, opt, learner, state, [data] * 3, loss, layout="as_is"
    ).raise_if_different()
