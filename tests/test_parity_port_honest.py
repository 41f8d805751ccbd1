"""What a proof of a port must see, and what must be said in a sentence; referee: torch."""

import random
import warnings
from random import uniform

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import parity


def run(source):
    """The classes of a written file, as a person would import them."""
    names = {}
    exec(source, names)
    return names


class Buffers(torch.nn.Module):
    """Buffers of all kinds, a table too large to write, and a scale of a millionth."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = torch.nn.Parameter(torch.full((8,), 1e-6))
        made = {
            "ids": torch.arange(40).unsqueeze(0),
            "order": torch.randperm(20),
            "blur": torch.outer(torch.hann_window(7), torch.hann_window(7)) - 0.2,
            "noise": torch.randn(5, 5),
            "keys": torch.tensor([3, 250], dtype=torch.uint8),
            "keep": torch.tensor([True, False, True]),
            "past": torch.tensor(0),
            "table": torch.randn(20, 20),
        }
        for name, value in made.items():
            self.register_buffer(name, value)

    def forward(self, x):
        y = x * self.scale * self.blur.sum() + self.ids[0, :8]
        return y[:, self.order[:8] % 8] * self.noise[0, 0] + self.table[0, :8]


def test_buffers_begin_as_torchs_do_and_one_of_zeros_is_named():
    theirs = Buffers()
    ported = parity.port(theirs, np.ones((2, 8), np.float32))
    assert ported.report.ok, ported.report
    ours = run(ported.source)["Buffers"](rngs=nnx.Rngs(0))
    for name, value in theirs.named_buffers():
        if name != "table":
            np.testing.assert_allclose(getattr(ours, name)[...], value, rtol=1e-6)
    assert "jnp.full((8,), 1e-06)" in ported.source
    assert "table: of zeros until" in str(ported.report)
    assert "table begins as zeros." in ported.source.split('"""')[1]


class Narrowed(torch.nn.Module):
    def forward(self, x):
        return torch.narrow(x, 1, -2, 2) + torch.narrow(x, -1, 1, 2)


def test_narrow_counts_from_the_end():
    assert parity.port(Narrowed(), np.arange(12, dtype=np.float32).reshape(3, 4)).report.ok


def test_a_dict_as_an_input_gives_one_sentence():
    with pytest.raises(TypeError, match="inputs must be arrays, not dict; wrap the model"):
        parity.port(Narrowed(), {"x": jnp.ones((3, 4))})


def positive(x: torch.Tensor):
    return (x > 0).float()


with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    scripted = torch.jit.script(positive)


class Weighted(torch.nn.Module):
    """A weight that a function makes of the input, by a way that a recorder does not see."""

    def __init__(self, weight, differs=False):
        super().__init__()
        self.lin, self.weight, self.differs = torch.nn.Linear(4, 3), weight, differs

    def forward(self, x, ids):
        y = self.lin(x) * (2 if self.training and self.differs else 1)
        return y * self.weight(x, ids)


WEIGHTS = [
    lambda x, ids: scripted(ids)[:, None],  # a mask
    lambda x, ids: scripted(ids).sum(),  # which the order of the numbers leaves alone
    lambda x, ids: scripted(x).sum(1, keepdim=True),
]


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("differs", [False, True])
def test_what_follows_the_values_of_the_input_is_no_constant(weight, differs):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    ported = parity.port(Weighted(weight, differs), x, np.array([0, 2, 5]))
    assert not ported.report.ok
    assert "something that follows the values of the input" in str(ported.report)
    assert f"constants that may be it: {__file__}:" in str(ported.report)
    assert "DIFFERS from torch" in ported.source


def test_vmap_is_refused_with_its_line():
    theirs = Weighted(lambda x, ids: torch.func.vmap(lambda v: (v > 0).sum())(x)[:, None])
    with pytest.raises(parity.Refused, match=r"inside of torch\.func\.vmap") as refusal:
        parity.port(theirs, np.ones((3, 4), np.float32), np.array([0, 2, 5]))
    assert f"{__file__}:" in str(refusal.value)


class Sorted(torch.nn.Module):
    """Takes lengths in falling order, and rows without negative numbers."""

    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(4, 3, batch_first=True)

    def forward(self, x, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x.sqrt(), lengths, batch_first=True)
        return self.gru(packed)[1]


def test_inputs_that_torch_refuses_are_left_out():
    x = np.random.default_rng(0).uniform(1, 2, (3, 5, 4)).astype(np.float32)
    ported = parity.port(Sorted(), x, np.array([5, 3, 1]))
    assert ported.report.ok, ported.report


class Hashed(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.table, self.factor = torch.nn.Embedding(11, 4), factor

    def forward(self, ids):
        return self.table((ids * self.factor * 31 + 7) % 11).sum(1)


@pytest.mark.parametrize(("factor", "ok"), [(1000003, False), (103, True)])
def test_whole_numbers_beyond_32_bits_are_seen(factor, ok):
    theirs, ids = Hashed(factor), np.array([[1, 20000, 3], [3, 77777, 9]])
    ported = parity.port(theirs, ids)
    assert ported.report.ok is ok
    assert ("differs in the 32 that JAX computes in" in str(ported.report)) is not ok
    found = np.asarray(ported.model(jnp.asarray(ids)))
    assert np.allclose(found, theirs(torch.from_numpy(ids)).detach(), rtol=1e-5) is ok


class Dropped(torch.nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.lin, self.draw = torch.nn.Linear(4, 4), draw

    def forward(self, x):
        if self.training and self.draw() < 0.5:
            return x
        return self.lin(x)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: random.random(),
        lambda: uniform(0, 1),
        lambda: np.random.uniform(),  # noqa: NPY002
    ],
)
def test_a_draw_outside_of_torch_is_refused_with_its_line(draw):
    with pytest.raises(parity.Refused, match="draws a number outside of torch") as refusal:
        parity.port(Dropped(draw), np.ones((2, 4), np.float32))
    assert f"{__file__}:" in str(refusal.value)


class Failing(torch.nn.Module):
    """Adds a number that has no room in JAX's whole numbers."""

    def forward(self, ids):
        return ids + 2**40 - 2**40


def test_source_that_fails_is_named_with_its_line():
    ported = parity.port(Failing(), np.array([[1, 2], [3, 4]]))
    assert not ported.report.ok
    assert "the written source fails at 'return ids + 1099511627776 -" in str(ported.report)


class Lengths(torch.nn.Module):
    """Vectors of zeros, as a padded window of SwinV2 has them."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x):
        y = self.a(x)
        apart = torch.cdist(y, y).sum(1)
        return (
            torch.nn.functional.normalize(y, dim=-1) + apart[:, None] + y.norm(dim=1)[:, None]
        )


def test_lengths_have_torchs_gradient_at_zero():
    x = np.array([[0, 0, 0, 0], [1, 2, 0, -1]], np.float32)
    ported = parity.port(Lengths(), x)
    assert ported.report.ok, ported.report
    assert "nn.normalize(y, dim=-1)" in ported.source
