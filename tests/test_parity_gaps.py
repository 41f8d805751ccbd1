"""What a comparison leaves out is named, and then its report is not ok. Referee: torch, of
which each port here keeps the outputs and drops something else.
"""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, optim, parity, train

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_by_one():
    """Operations of such models cost less than their compilation."""
    with jax.disable_jit():
        yield


class TorchParts(torch.nn.Module):
    """A network that returns a dict, has a buffer, a norm, and layers in a list and a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("offset", torch.randn(4))
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.heads = torch.nn.ModuleDict(
            {"b": torch.nn.Linear(4, 3), "a": torch.nn.Linear(4, 3)}
        )
        self.norm = torch.nn.BatchNorm1d(4)
        self.small = torch.nn.Parameter(torch.full((4,), 1e-8))

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x + self.offset))
        x = self.norm(x) + self.small * x.detach()
        found = OrderedDict(second=self.heads["b"](x), first=self.heads["a"](x))
        found["choice"] = found["first"].argmax(-1)
        return found


class Parts(nnx.Module):
    def __init__(self, wrong=""):
        rngs = nnx.Rngs(0)
        kind = nnx.Param if wrong == "a trained buffer" else nnx.BatchStat
        self.offset = kind(jnp.zeros(4))
        self.blocks = nnx.List([nn.Linear(4, 4, rngs=rngs) for _ in range(2)])
        heads = {"b": nn.Linear(4, 3, rngs=rngs), "a": nn.Linear(4, 3, rngs=rngs)}
        self.heads, self.norm, self.wrong = nnx.Dict(heads), nn.BatchNorm1d(4), wrong
        if wrong == "fixed statistics":
            self.norm.mean = nnx.Param(self.norm.mean[...])
        self.small = nnx.Param(jnp.zeros(4))
        if wrong == "an untrained parameter":
            self.small = nnx.Variable(jnp.zeros(4))

    def __call__(self, x):
        for block in self.blocks:
            x = jnp.tanh(block(x + self.offset[...]))
        small = self.small[...]
        if self.wrong == "a stopped gradient":
            small = jax.lax.stop_gradient(small)
        x = self.norm(x) + small * jax.lax.stop_gradient(x)
        found = {"first": self.heads["a"](x), "second": self.heads["b"](x)}
        if self.wrong == "exchanged outputs":
            found = {"first": found["second"], "second": found["first"]}
        first = found["first"]
        found["choice"] = (
            first.argmin(-1) if self.wrong == "a whole number" else first.argmax(-1)
        )
        return found


WRONG = {
    "a trained buffer": (False, "gradients of offset: buffers in torch"),
    "an untrained parameter": (False, "gradients of small: torch trains them"),
    "a stopped gradient": (False, "zero here and not in torch: small"),
    "exchanged outputs": (False, "DIFFERENT"),
    "a whole number": (False, "(whole numbers)"),
    "fixed statistics": (True, "not compared: torch's norm.running_mean, which training moves"),
}


@pytest.mark.parametrize("mode", [False, True])
def test_a_port_without_a_gap_is_called_equal(mode):
    theirs, ours = TorchParts(), Parts()
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, X, loaded=loaded, train=mode).raise_if_different()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_gap_is_named_and_the_report_is_not_ok(wrong):
    mode, words = WRONG[wrong]
    theirs, ours = TorchParts(), Parts(wrong)
    rules = [("norm.running_mean", "norm.mean")] if wrong == "fixed statistics" else []
    loaded = parity.load_torch(ours, theirs, rules=rules)
    report = parity.compare(theirs, ours, X, loaded=loaded, train=mode)
    assert not report.ok
    assert words in str(report)


class TorchReturns(torch.nn.Module):
    def __init__(self, made):
        super().__init__()
        self.a, self.made = torch.nn.Linear(4, 4), made

    def forward(self, x):
        return self.made(self.a(x))


class Returns(nnx.Module):
    def __init__(self, made):
        self.a, self.made = linear(), made

    def __call__(self, x):
        return self.made(self.a(x))


class Named(NamedTuple):
    logits: Any
    half: Any


@dataclasses.dataclass
class Found:
    logits: Any
    half: Any


def returned(theirs_make, ours_make):
    theirs, ours = TorchReturns(theirs_make), Returns(ours_make)
    return parity.compare(theirs, ours, X, loaded=parity.load_torch(ours, theirs))


@pytest.mark.parametrize("kind", [Named, Found])
def test_outputs_are_compared_key_by_key(kind):
    report = returned(
        lambda y: {"half": y / 2, "logits": [y, 7, True]}, lambda y: kind((y, 7, True), y / 2)
    )
    assert report.raise_if_different().ok
    assert [row.leaf for row in report.rows if row.stage == "forward"] == [
        "output 0",
        "output 1",
        "output 2 (a Python number)",
        "output 3 (a Python number)",
    ]
    exchanged = lambda y: kind(y / 2, y)  # noqa: E731
    assert not returned(lambda y: {"logits": y, "half": y / 2}, exchanged).ok


def test_other_keys_are_refused():
    with pytest.raises(ValueError, match=r"2 outputs \(logits, prob\), .* 2 outputs \(a, b\)"):
        returned(lambda y: {"logits": y, "prob": y}, lambda y: {"a": y, "b": y})
    with pytest.raises(ValueError, match=r"2 outputs \(half, logits\), .* 1 output \(half\)"):
        returned(lambda y: {"logits": y, "half": y}, lambda y: {"half": y})


@pytest.mark.parametrize(
    ("theirs", "ours"), [(3.1, 4.1), (3, 4), (2**40, 0), (3.1, 3.1 + 1e-6)]
)
def test_python_numbers_are_outputs(theirs, ours):
    for made in (lambda y, n: (y, n), lambda y, n: n):
        right = returned(lambda y: made(y, theirs), lambda y: made(y, theirs))  # noqa: B023
        assert right.ok, right
        wrong = returned(lambda y: made(y, theirs), lambda y: made(y, ours))  # noqa: B023
        assert not wrong.ok, wrong


def test_no_output_at_all_is_refused():
    with pytest.raises(ValueError, match="neither an array nor a number"):
        returned(lambda y: "text", lambda y: None)


def test_the_note_of_float64_names_the_stage_that_differs():
    whole = returned(lambda y: (y, y.argmax(1)), lambda y: (y, y.argmin(1)))
    assert "the outputs of whole numbers differ by up to" in str(whole)
    gradient = returned(lambda y: y + y, lambda y: y + jax.lax.stop_gradient(y))
    assert "these are: the gradients differ by up to" in str(gradient)


def test_dropped_statistics_are_named_in_train_mode():
    class Normed(nnx.Module):
        def __init__(self):
            self.scale, self.bias = nnx.Param(jnp.ones(4)), nnx.Param(jnp.zeros(4))

        def __call__(self, x):
            centred = x - x.mean(0)
            return centred / jnp.sqrt(x.var(0) + 1e-5) * self.scale[...] + self.bias[...]

    theirs, ours = torch.nn.BatchNorm1d(4), Normed()
    loaded = parity.load_torch(ours, theirs, rules=[("running_.*", None)])
    report = parity.compare(theirs, ours, X, loaded=loaded, train=True)
    assert {row.leaf for row in report.rows if not row.ok} == {"running_mean", "running_var"}


def linear(bias=True):
    return nn.Linear(4, 4, bias=bias, rngs=nnx.Rngs(0))


def test_arrays_of_nan_prove_nothing():
    theirs, ours = torch.nn.Linear(4, 4), linear()
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, np.nan * X, loaded=loaded)
    assert not report.ok
    assert "ALL NAN" in str(report)


def test_gradients_that_are_zero_in_both_are_named():
    class Silent(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    class Ours(nn.Linear):
        def __call__(self, x):
            return jax.lax.stop_gradient(super().__call__(x))

    theirs, ours = Silent(4, 4), Ours(4, 4, rngs=nnx.Rngs(0))
    report = parity.compare(theirs, ours, X, loaded=parity.load_torch(ours, theirs))
    assert "gradients of kernel, bias" in str(report)


def test_a_report_of_another_model_is_refused():
    theirs, ours = torch.nn.Linear(4, 4), linear()
    loaded = parity.load_torch(ours, theirs)
    with pytest.raises(ValueError, match="has no bias, which load_torch filled"):
        parity.compare(theirs, linear(bias=False), X, loaded=loaded)


def test_a_dropped_parameter_that_torch_trains_is_named_by_compare_steps():
    theirs, ours = torch.nn.Linear(4, 4), linear(bias=False)
    torch.nn.init.zeros_(theirs.bias)
    loaded = parity.load_torch(ours, theirs, rules=[("bias", None)])

    def loss(model, batch):
        return (model(batch) ** 2).mean(), {}

    learner, state = train.make_learner(ours, loss, optim.sgd(0.1), key=jax.random.key(0))
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    theirs_loss = lambda model, batch: (model(batch) ** 2).mean()  # noqa: E731
    report = parity.compare_steps(theirs, opt, learner, state, [X], theirs_loss, loaded=loaded)
    assert not report.ok
    assert "not compared: torch's bias" in str(report)


class TorchBranch(torch.nn.Module):
    """With a branch that counts little, as layers scaled by 1e-6 do."""

    def __init__(self):
        super().__init__()
        self.main, self.norm = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)

    def forward(self, x):
        return self.main(x) + 1e-6 * self.norm(x)


class Branch(nnx.Module):
    def __init__(self, wrong):
        self.main, self.wrong = linear(), wrong
        self.norm = nn.LayerNorm(4, eps=1e-3 if wrong == "eps" else 1e-5)

    def __call__(self, x):
        y = self.norm(x)
        return self.main(x) + 1e-6 * (
            jax.lax.stop_gradient(y) if self.wrong == "stopped" else y
        )


@pytest.mark.parametrize("wrong", ["nothing", "eps", "stopped"])
def test_gradients_that_count_little_are_judged_in_float64(wrong):
    theirs, ours = TorchBranch(), Branch(wrong)
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, X, loaded=loaded)
    assert report.ok == (wrong == "nothing"), report


def test_a_small_eps_is_found_in_float32():
    """Below the tolerance, and above what torch's own rounding explains."""
    theirs, ours = torch.nn.LayerNorm(4), nn.LayerNorm(4, eps=1e-6)
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, X, loaded=loaded)
    assert not report.ok
    assert "eps is 1e-05 in torch and 1e-06 here" in str(report)
