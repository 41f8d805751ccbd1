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
