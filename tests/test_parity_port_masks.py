"""Masks, and `int` as a dtype, which stands in a file of its own: a file that names it so is
read otherwise; the referee is torch.
"""

import numpy as np
import torch
from torch import nn

from dlwp_jax import parity


class Masks(nn.Module):
    """Logical functions of whole numbers, a mask of truths, and int as a dtype."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.places, self.layer = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x, a, b):
        places = torch.arange(x.shape[1], dtype=int).unsqueeze(0)
        kept = torch.logical_xor(a, b) | (torch.logical_and(a, b) & torch.logical_or(a, b))
        own = torch.eye(x.shape[1], dtype=torch.bool)
        x = (x + self.places(places)) * kept[..., None]
        return self.layer(x), torch.diag_embed(x[..., 0]).masked_fill(own, -1.0)


def test_logical_functions_of_whole_numbers_and_int_as_a_dtype():
    theirs = Masks()
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (2, 3, 5))
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    ported = parity.port(theirs, x, a % 2, b % 2)
    assert ported.report.ok, ported.report
    expected = theirs(*map(torch.from_numpy, (x, a, b)))[0].detach()
    np.testing.assert_allclose(ported.model(x, a, b)[0], expected, rtol=1e-5, atol=1e-6)
