"""Judge float64 by how far torch's own numbers move if its parameters move by an ulp.

Some networks have gradients that rounding decides in float64 too. Batch norm over two values,
as behind maps of 1 x 1 pixels with two examples, gives -1 and 1 whatever the values are: what
flows back is a difference of nearly equal numbers. After a few such layers in a row torch and a
right port differ by 1e-7, and so do torch and torch with parameters that lie one ulp aside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dlwp_jax.parity.report import Row, largest

# Torch runs again this many times: one distance may be small by chance.
DRAWS = 3
# A difference may be so many times torch's own.
TIMES = 10
# A larger one, relative to an array's size, is never called rounding.
MOST = 1e-5
NOTE = "rounding"

# What a model computed, by kind ("forward", "statistics", "gradient") and leaf.
Numbers = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass
class OwnDistances:
    """How far torch's numbers move; nothing is computed before a difference asks for it.

    Args:
      before: makes a copy of the model as it was before the run, in float64.
      run: what such a model computes.
    """

    before: Callable[[], torch.nn.Module]
    run: Callable[[torch.nn.Module], Numbers]

    @functools.cached_property
    def moved(self) -> list[Numbers]:
        """The numbers of models whose parameters lie an ulp aside."""
        return [self.run(an_ulp_aside(self.before(), seed)) for seed in range(DRAWS)]

    def judged(
        self, kind: str, rows: Sequence[Row], theirs: Mapping[str, Any], tolerance: float
    ) -> list[Row]:
        """The rows, with more allowed if torch's own numbers move that far.

        Args:
          kind: of the numbers that the rows compare.
          rows: of this kind.
          theirs: the numbers of the model that was not moved, by leaf.
          tolerance: that the rows were made with.
        """
        return [self._judged(kind, row, theirs[row.leaf], tolerance) for row in rows]

    def _judged(self, kind: str, row: Row, value: Any, tolerance: float) -> Row:
        if row.ok or not tolerance or not row.max_abs <= row.allowed * MOST / tolerance:
            return row
        again = [numbers[kind][row.leaf] for numbers in self.moved]
        own = max(largest(other - np.asarray(value)) for other in again)
        if row.max_abs > TIMES * own:
            return row
        return dataclasses.replace(row, allowed=TIMES * own, note=NOTE)


def an_ulp_aside(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module, with every parameter moved to the next number above or below; zeros stay."""
    rng = np.random.default_rng(seed)  # a proof makes torch's random numbers constants
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.is_floating_point():
                continue
            up = torch.from_numpy(rng.random(tuple(parameter.shape)) < 0.5)
            to = torch.where(up, torch.inf, -torch.inf).to(parameter)
            parameter.copy_(torch.where(parameter == 0, 0.0, parameter.nextafter(to)))
    module.zero_grad()
    return module


def rounding_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What the report says about rows that pass because torch's own numbers move."""
    passed = [row for row in rows if row.note == NOTE]
    if not passed:
        return ()
    far = max(min(row.max_rel, row.max_abs) for row in passed)
    own = max(min(row.max_rel / row.max_abs, 1.0) * row.allowed / TIMES for row in passed)
    return (
        f"rounding: arrays that differ by up to {far:.1e} in float64: {len(passed)}; torch's "
        f"own move by up to {own:.1e} if its parameters move by one ulp.",
    )
