"""What a proof of a port must see, and what must be said in a sentence; the referee is torch."""

import random
import warnings
from random import uniform

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import parity


class Narrowed(torch.nn.Module):
    def forward(self, x):
        return torch.narrow(x, 1, -2, 2) + torch.narrow(x, -1, 1, 2)


def test_narrow_counts_from_the_end():
    assert parity.port(Narrowed(), np.arange(12, dtype=np.float32).reshape(3, 4)).report.ok


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


def test_a_dict_as_an_input_gives_one_sentence():
    with pytest.raises(TypeError, match="inputs must be arrays, not dict; wrap the model"):
        parity.port(Narrowed(), {"x": jnp.ones((3, 4))})


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
