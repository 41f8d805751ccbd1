"""Networks whose numbers rounding decides in float64 too; the referee is torch, with parameters
that lie an ulp aside.
"""

import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import parity
from dlwp_jax.parity.forward import copied
from dlwp_jax.parity.port.prove import no_draws, prove
from dlwp_jax.parity.ulps import an_ulp_aside


class Shifted(torch.nn.Module):
    """Batch norm takes a mean of 3e7 away, and eight digits with it, in train mode only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(5, 8)
        self.norm = torch.nn.BatchNorm1d(8, momentum=0.03)
        self.last = torch.nn.Linear(8, 3)
        torch.nn.init.uniform_(self.first.bias, 2e7, 3e7)
        self.norm.get_buffer("running_mean").copy_(self.first.bias.detach())

    def forward(self, x):
        return self.last(torch.nn.functional.silu(self.norm(self.first(x))))


@pytest.fixture(scope="module")
def shifted():
    theirs = Shifted()
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    return theirs, x, parity.port(theirs, x)


def test_a_right_port_may_differ_as_far_as_torch_itself(shifted):
    ported = shifted[2]
    assert ported.report.ok, ported.report
    assert any(row.note == "rounding" for row in ported.report.rows)
    assert "if its parameters move by one ulp" in str(ported.report)
    assert "if its parameters move by one ulp" in ported.source


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("momentum=0.03", "momentum=0.03"),  # the right one
        ("momentum=0.03", "momentum=0.031"),
        ("momentum=0.03", "momentum=0.03, eps=1.1e-5"),
        ("nn.silu(", "nn.gelu("),
        ("self.norm(self.first(x))", "self.norm(self.first(x)) * (1 + 1e-6)"),
    ],
)
def test_a_wrong_port_is_found_beside_the_right_one(shifted, right, wrong):
    theirs, x, ported = shifted
    assert right in ported.source
    names = {}
    exec(ported.source.replace(right, wrong), names)
    ours = names["Shifted"](rngs=nnx.Rngs(0))
    assert prove(theirs, ours, (x,), ["as_is"], "same").ok == (right == wrong)


def test_every_draw_moves_parameters_in_a_way_of_its_own():
    theirs = torch.nn.Linear(20, 20).double()
    with no_draws():  # as in a proof
        moved = [an_ulp_aside(copied(theirs), seed).weight.detach() for seed in (0, 1)]
    for weight in moved:
        assert 0 < (weight > theirs.weight).sum() < theirs.weight.numel()
    assert not torch.equal(*moved)
