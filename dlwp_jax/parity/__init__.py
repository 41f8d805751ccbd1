"""From torch to JAX, and proof that nothing changed on the way: weights, outputs, gradients,
optimizer steps.

The only part of the library that imports torch. `python -m dlwp_jax.parity check` does the same
from a shell.

>>> import numpy as np, torch
>>> from flax import nnx
>>> from dlwp_jax import nn, parity
>>> conv, head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(64, 2)
>>> theirs = torch.nn.Sequential(conv, torch.nn.Tanh(), torch.nn.Flatten(), head)
>>> rngs = nnx.Rngs(0)
>>> conv, head = nn.Conv2d(3, 4, 3, rngs=rngs), nn.Linear(64, 2, rngs=rngs)
>>> ours = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), head)
>>> loaded = parity.load_torch(ours, theirs)
>>> parity.compare(theirs, ours, np.ones((2, 3, 6, 6), np.float32)).raise_if_different().ok
True
"""

from dlwp_jax.files import needs

with needs("parity"):
    import torch as _torch  # noqa: F401

from dlwp_jax.parity.compare import compare
from dlwp_jax.parity.files import read
from dlwp_jax.parity.mapping import Entry, Mapped
from dlwp_jax.parity.optimizer import to_torch_optimizer, torch_optimizer
from dlwp_jax.parity.port import Ported, Refused, port
from dlwp_jax.parity.report import ParityReport, Row
from dlwp_jax.parity.rules import Transform, flatten_rows
from dlwp_jax.parity.steps import compare_steps
from dlwp_jax.parity.weights import LoadReport, load_torch, to_torch

__all__ = [
    "Entry",
    "LoadReport",
    "Mapped",
    "ParityReport",
    "Ported",
    "Refused",
    "Row",
    "Transform",
    "compare",
    "compare_steps",
    "flatten_rows",
    "load_torch",
    "port",
    "read",
    "to_torch",
    "to_torch_optimizer",
    "torch_optimizer",
]
