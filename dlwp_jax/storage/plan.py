"""How to cut a view out of its storage with reshapes and slices only, so that XLA never needs a
gather.

Where dimensions nest, offset and strides are the digits of a mixed-radix number: folding the
storage into rows turns "every stride-th element from offset" into "some rows, some columns".
`plan` finds the folds, the outermost dimension first; each step can be run forwards (read) and
knows how to put a result back (write).
"""

import functools
import math
import operator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .layout import Layout
from .overlap import moving_dims, span


@dataclass(frozen=True)
class Reshape:
    """See the array in another shape."""

    shape: tuple[int, ...]

    def read(self, x: jax.Array) -> jax.Array:
        """The array after this step."""
        return x.reshape(self.shape)

    def write(self, x: jax.Array, part: jax.Array) -> jax.Array:
        """The array before this step whose result is `part`."""
        return part.reshape(x.shape)


@dataclass(frozen=True)
class Slice:
    """Keep start:limit:step of every axis."""

    start: tuple[int, ...]
    limit: tuple[int, ...]
    step: tuple[int, ...]

    def read(self, x: jax.Array) -> jax.Array:
        """The part that is kept."""
        return lax.slice(x, self.start, self.limit, self.step)

    def write(self, x: jax.Array, part: jax.Array) -> jax.Array:
        """`x` with `part` in the place that is kept (steps of 1 only)."""
        return lax.dynamic_update_slice(x, part, self.start)


@dataclass(frozen=True)
class Pad:
    """Lengthen the last axis, so that it divides into rows."""

    count: int

    def read(self, x: jax.Array) -> jax.Array:
        """`x` and zeros behind it; no view ever shows them."""
        return lax.pad(
            x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(0, self.count, 0)]
        )


Step = Reshape | Slice | Pad


class Plan(NamedTuple):
    """The steps, the dimensions that they leave (largest stride first), and which one had to be
    padded.
    """

    steps: tuple[Step, ...]
    dims: tuple[int, ...]
    padded: int | None

    @property
    def copied(self) -> int:
        """How many elements a write copies besides its own: all slices but the last go out and
        back.
        """
        slices = [step for step in self.steps if isinstance(step, Slice)]
        return sum(math.prod(map(operator.sub, s.limit, s.start)) for s in slices[:-1])


class _Axis(NamedTuple):
    """An axis of the folded storage and the part of it that the view uses."""

    length: int
    start: int
    count: int
    step: int = 1


class _Cutter:
    """The storage while it is folded: finished axes, and one open axis that still has to be
    divided.

    length: how long the open axis is. at: where on it the view begins.
    """

    def __init__(self, length: int, at: int):
        self.length, self.at = length, at
        self.finished: list[_Axis] = []
        self.steps: list[Step] = []

    def fold(self, row: int, used: _Axis) -> None:
        """Fold the open axis into rows; the axis that counts them is finished, a row is the new
        open axis.
        """
        if self.steps and isinstance(self.steps[-1], Reshape):
            self.steps.pop()
        self.steps.append(Reshape((*(axis.length for axis in self.finished), used.length, row)))
        self.finished.append(used)
        self.length = row
        self.at %= row

    def cut(self, start: int, stop: int) -> None:
        """Slice everything down to what is used, the open axis to start:stop."""
        axes = [*self.finished, _Axis(self.length, start, stop - start)]
        if any(axis.count != axis.length for axis in axes):
            self.steps.append(
                Slice(
                    start=tuple(axis.start for axis in axes),
                    limit=tuple(axis.start + (axis.count - 1) * axis.step + 1 for axis in axes),
                    step=tuple(axis.step for axis in axes),
                )
            )
        self.finished = [_Axis(axis.count, 0, axis.count) for axis in self.finished]
        self.length, self.at = stop - start, self.at - start

    def align(self, size: int, stride: int, reach: int) -> None:
        """Cut the open axis to `size` rows of `stride` such that the view begins and ends
        within its rows.
        """
        wanted = size * stride
        least, most = max(0, self.at + wanted - self.length), min(stride - reach, self.at)
        inside = self.at % stride if least <= self.at % stride <= most else least
        self.cut(self.at - inside, self.at - inside + wanted)

    def pad(self, length: int) -> None:
        """Lengthen the open axis."""
        self.cut(0, self.length)
        self.steps.append(Pad(length - self.length))
        self.length = length


@functools.lru_cache(maxsize=4096)
def plan(length: int, layout: Layout, whole_rows: bool = False) -> Plan:
    """The cutting plan of a view whose dimensions nest (`crossing_dim` is None), out of
    `length` elements.

    Args:
      length: of the storage.
      layout: the view.
      whole_rows: never keep every second row or the like, so that each slice can also be
        written to.

    A usual view of a contiguous tensor is one reshape and one slice:

    >>> for step in plan(12, Layout.contiguous((3, 4))[:, 1:3]).steps: print(step)
    Reshape(shape=(3, 4, 1))
    Slice(start=(0, 1, 0), limit=(3, 3, 1), step=(1, 1, 1))
    """
    dims, padded = moving_dims(layout), None
    cutter = _Cutter(length, layout.offset)
    for i, dim in enumerate(dims):
        size, stride = layout.size[dim], layout.stride[dim]
        reach = 1 + sum(
            span(layout, inner) for inner in dims[i + 1 :]
        )  # what lies inside one step of this dimension
        rows = [stride] if whole_rows else _divisors_down(stride)
        row = next((row for row in rows if _fits(cutter, row, reach)), None)
        if row is not None:
            cutter.fold(row, _Axis(cutter.length // row, cutter.at // row, size, stride // row))
            continue
        if size * stride <= cutter.length:
            cutter.align(size, stride, reach)
        else:
            cutter.pad(size * stride)
            padded = dim
        cutter.fold(stride, _Axis(size, 0, size))
    cutter.cut(cutter.at, cutter.at + 1)
    return Plan(tuple(cutter.steps), tuple(dims), padded)


def _fits(cutter: _Cutter, row: int, reach: int) -> bool:
    """Whether rows of this length divide the open axis and hold `reach` elements from `at` on
    unbroken.
    """
    return row >= reach and cutter.length % row == 0 and cutter.at % row + reach <= row


def _divisors_down(n: int) -> list[int]:
    """All divisors, the largest first."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return [n // d for d in small] + [d for d in reversed(small) if d * d != n]
