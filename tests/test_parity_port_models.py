"""Habits of people's models, one of each kind; referee: torch, by the port's own proof."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlwp_jax import parity
from dlwp_jax.parity.port import Refused

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


class Squeeze(nn.Sequential):
    """A Sequential with a forward of its own."""

    def __init__(self, channels):
        super().__init__(nn.Linear(channels, 2), nn.ReLU(), nn.Linear(2, channels))

    def forward(self, x):
        return x * torch.sigmoid(super().forward(x))


class Stack(nn.ModuleList):
    """A ModuleList with a forward of its own; each block has a table, drawn anew."""

    def __init__(self):
        super().__init__([Biased() for _ in range(3)])

    def forward(self, x):
        for block in self:
            x = x + 0.5 * block(x)
        return x


class Biased(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(4, 5))
        self.squeeze = Squeeze(4)

    def forward(self, x):
        return self.squeeze(x) + self.table.sum(1) * 0.1


class Patches(nn.Module):
    """A layer whose result's shape is read, and sizes that expand keeps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.BatchNorm2d(4))
        self.stack = Stack()

    def forward(self, x):
        x = self.stack(self.patch(x).flatten(2).transpose(1, 2))
        rows = x.unsqueeze(2).expand(-1, -1, 2, -1)
        return rows.mean(2), rows.amax((1, 2))


def test_containers_with_a_forward_keep_their_kind_and_their_loops():
    ported = parity.port(Patches(), normal(2, 3, 6, 6))
    assert ported.report.ok, ported.report
    assert "class Squeeze(nn.Sequential)" in ported.source
    assert "return x * nn.sigmoid(super().__call__(x))" in ported.source
    assert "super().__init__(Biased(rngs=rngs) for _ in range(3))" in ported.source
    assert "for i in range(3):\n            x = x + self[i](x) * 0.5" in ported.source
    assert ported.source.count("self.patch(x)") == 1  # its statistics move once


class Frames(nn.Module):
    """Reads frames of [batch, time, features], and takes every other one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        batch, time, features = x.shape
        half = int(time / 2) if isinstance(time, int) else 0
        return self.layer(x.reshape(batch, half, 2 * features))


def test_sequences_are_given_as_torch_has_them():
    theirs = Frames()
    ported = parity.port(theirs, normal(2, 4, 3))
    assert ported.report.ok, ported.report
    assert "half = int(time / 2)" in ported.source
    other = normal(3, 8, 3)
    expected = theirs(torch.from_numpy(other)).detach()
    np.testing.assert_allclose(ported.model(other), expected, rtol=1e-5, atol=1e-6)


class Spectral(nn.Module):
    """Fourier transforms, complex weights, rotations and buckets of distances."""

    angles: torch.Tensor

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 2, 6, 2))
        self.register_buffer("angles", torch.rand(12, 3))

    def forward(self, x):
        grid = x.view(-1, 4, 3, 6)
        waves = torch.fft.rfft2(grid, dim=(1, 2), norm="ortho")
        waves = waves * torch.view_as_complex(self.weight)
        x = torch.fft.irfft2(waves, s=(4, 3), dim=(1, 2), norm="ortho").view_as(x)
        turn = torch.polar(torch.ones_like(self.angles), self.angles)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        turned = pairs * turn
        far = torch.arange(x.size(1))[None, :] - torch.arange(x.size(1))[:, None]
        bucket = torch.bucketize(far.float(), torch.tensor([-3.0, 0.0, 2.0]))
        y = torch.view_as_real(turned).flatten(2) + bucket.float().mean(1, keepdim=True)
        return y, turned.real, turned.imag, torch.diag_embed(y[:, 0]), y.diff(dim=1)


def test_complex_numbers_and_fourier_transforms_are_proved():
    ported = parity.port(Spectral(), normal(2, 12, 6))
    assert ported.report.ok, ported.report


class Pooled(nn.Module):
    """Sums and maxima of a graph's nodes, and functions that few models use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.drop = nn.AlphaDropout(0.1)
        self.bag = nn.EmbeddingBag(5, 4, mode="sum")

    def forward(self, x, graph):
        x = self.drop(F.threshold(self.layer(x), 0.1, 0.5))
        count = torch.bincount(graph, minlength=3).clamp(min=1)
        at = graph[:, None].expand(-1, x.size(1))
        most = x.new_full((3, 4), -9.0).scatter_reduce(0, at, x, reduce="amax")
        total = x.new_zeros(3, 4).index_put((graph,), x, accumulate=True) / count[:, None]
        bags = self.bag(graph.view(1, -1))
        return most, total, bags, torch.logical_xor(x > 0, most[0] > 1), x.frac()


def test_graphs_are_pooled():
    graph = np.array([0, 0, 2, 1, 1])
    ported = parity.port(Pooled(), normal(5, 4), graph)
    assert ported.report.ok, ported.report
    assert "jnp.bincount(graph, length=3)" in ported.source


class Steep(nn.Module):
    """Torch's own training overflows with a usual learning rate."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.exp(9 * self.layer(x))


def test_steps_are_shorter_if_torchs_training_overflows():
    ported = parity.port(Steep(), normal(2, 3))
    assert ported.report.ok, ported.report
    assert {row.step for row in ported.report.rows} == {None, *range(5)}


class Own(nn.Module):
    """Parameters drawn in several ways, or set to values in order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.few = nn.Parameter(torch.randn(2, 4))
        self.shares = nn.Parameter(torch.rand(40, 5))
        self.order = nn.Parameter(torch.log(torch.arange(1.0, 9.0)))

    def forward(self, x):
        return x + self.few.sum() + self.shares.mean() * self.order[0] + self.order[5]


def test_parameters_of_ones_own_begin_as_they_were_drawn():
    ported = parity.port(Own(), normal(2, 3))
    assert ported.report.ok, ported.report
    assert "self.few = nnx.Param(nn.init.normal(" in ported.source
    assert "0.6931472" in ported.source
    bounds = ported.source.split("self.shares = nnx.Param(nn.init.uniform(")[1].split(")")[0]
    np.testing.assert_allclose([float(x) for x in bounds.split(",")], [0, 1], atol=0.05)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, width), 1e-2))

    def forward(self, x):
        return x * self.gamma


class Widths(nn.Module):
    """One class in two widths, a sum that begins with 0, and a table of complex numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scales = nn.ModuleList([Scale(4), Scale(6), Scale(6)])
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 4)])
        self.turns = torch.polar(torch.ones(4), torch.tensor([0.0, 0.1, -0.2, 0.3]))

    def forward(self, x):
        total = 0
        for scale, layer in zip(self.scales, self.layers, strict=True):
            x = layer(scale(x))
            total = total + x.sum(1)
        return total, (x * self.turns).abs()


def test_sizes_of_parameters_are_arguments():
    ported = parity.port(Widths(), normal(2, 4))
    assert ported.report.ok, ported.report
    assert "jnp.full((1, size), 0.01)" in ported.source
    assert ported.source.count("class ") == 2
    assert "+ 0\n" not in ported.source
    assert "1 + 0j" in ported.source


class Frozen(nn.Module):
    """A layer that torch does not train, as a pretrained one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.first.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_frozen_parameters_are_compared_and_named():
    theirs = Frozen()
    ported = parity.port(theirs, normal(3, 4))
    assert ported.report.ok, ported.report
    assert "frozen in torch, and not in the port: first.weight, first.bias" in str(
        ported.report
    )
    assert "first.kernel" in [r.leaf for r in ported.report.rows if r.stage == "gradient"]
    assert not theirs.first.weight.requires_grad


class OverTime(nn.Module):
    """Reads [batch, time, features]; on eight steps of eight features both orders would fit."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(x.mean(1))


def test_an_input_of_three_axes_stays_as_torch_has_it_if_both_orders_fit():
    theirs, x = OverTime(), normal(3, 8, 8)
    ported = parity.port(theirs, x)
    assert ported.report.ok, ported.report
    expected = theirs(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(ported.model(x), expected, rtol=1e-5, atol=1e-6)


class Inverse(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.pinverse(self.layer(x), 1e-2)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.turns = nn.Parameter(torch.ones(4, dtype=torch.cfloat))

    def forward(self, x):
        return (x * self.turns).abs()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Inverse, "pinverse with 2 arguments is not known"),
        (Complex, "turns is a complex parameter"),
    ],
)
def test_what_would_be_left_out_is_refused(kind, words):
    with pytest.raises(Refused, match=words):
        parity.port(kind(), normal(5, 4))
