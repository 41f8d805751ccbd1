"""Samplers: which rows an epoch trains on (chapter 12.5; torch's `WeightedRandomSampler`).

A sampler is a function of a PRNG key and the number of the epoch that gives row numbers `[n]`,
int32. It runs inside `jax.jit`, always gives the same number of rows, and is hashable: two
samplers made from the same arguments are equal. `train.fit(..., sampler=...)` cuts its rows
into minibatches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax import checks


@dataclasses.dataclass(frozen=True)
class Balanced:
    """Rows in a repeated order of classes; `balanced` and `epoch_of` make one.

    Attributes:
      rows: the rows of each class, in bytes of int32.
      pattern: the order of the classes, by their index in `rows`; it is repeated.
      n: rows in an epoch.
      shuffle: whether the rows of a class are shuffled, anew each time they are used up.
    """

    rows: tuple[bytes, ...]
    pattern: tuple[int, ...]
    n: int
    shuffle: bool

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows class by class, each class repeated as often as needed; the run of each row (one
        class gone through once); and the place in these that each row of the epoch takes.
        """
        turns = np.resize(np.array(self.pattern), self.n)
        place = np.empty(self.n, np.int32)
        rows: list[np.ndarray] = []
        runs: list[np.ndarray] = []
        start, run = 0, 0
        for i, members in enumerate(self.rows):
            mine = np.frombuffer(members, np.int32)
            wanted = np.flatnonzero(turns == i)
            times = math.ceil(len(wanted) / len(mine))
            place[wanted] = start + np.arange(len(wanted))
            rows.append(np.tile(mine, times))
            runs.append(run + np.repeat(np.arange(times, dtype=np.int32), len(mine)))
            start, run = start + times * len(mine), run + times
        return np.concatenate(rows), np.concatenate(runs), place

    def __call__(self, key: jax.Array, epoch: Any = 0) -> jax.Array:
        """The rows of one epoch, `[n]` int32; the key alone decides."""
        rows, runs, place = self._layout
        if not self.shuffle:
            return jnp.asarray(rows[place])
        # One sort shuffles all runs at once: by run first, by random bits within it.
        order = jnp.lexsort((jax.random.bits(key, rows.shape), jnp.asarray(runs)))
        return jnp.asarray(rows)[order[place]]


def balanced(
    labels: Any,
    ratio: int = 1,
    *,
    order: Sequence[Any] | None = None,
    n: int | None = None,
    shuffle: bool = True,
) -> Balanced:
    """A sampler that takes the classes in turn, so that a rare class repeats.

    Each class is gone through once before one of its rows comes again.

    Args:
      labels: `[examples]` numbers or names of the classes.
      ratio: with two classes, the negatives for each positive (the book's `ratio_int`); the
        positive class is the larger label, 1 of 0 and 1. The default alternates.
      order: instead of a ratio, the order of the classes, which is repeated: `(1, 2, 0, 2)`
        takes class 2 in every second place. None takes each class once, in sorted order, or
        one positive and `ratio` negatives.
      n: rows in an epoch; None takes as many as are needed to see every row once.
      shuffle: shuffle the rows of each class, anew each time they are used up; False keeps
        their order.

    Returns:
      A sampler: `sampler(key, epoch)` gives `[n]` int32 rows.

    Raises:
      ValueError: if there are fewer than two classes, or a ratio is given for more.

    >>> sampler = balanced([0, 0, 1, 0, 0], ratio=2, n=7, shuffle=False)
    >>> sampler(jax.random.key(0), 0).tolist()
    [2, 0, 1, 2, 3, 4, 2]
    """
    values = checks.names_of(labels, "labels")
    if values.ndim != 1 or (values.dtype.kind in "fMm" and _has_missing(values)):
        raise ValueError(
            f"labels must be one class for each example, none of them missing; got "
            f"{checks.describe(labels)}."
        )
    names, member = np.unique(values, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"labels hold {len(names)} classes; at least two can be balanced.")
    ratio = checks.whole(ratio, "ratio", 1)
    if order is None:
        if len(names) == 2:
            pattern = (1, *[0] * ratio)
        elif ratio == 1:
            pattern = tuple(range(len(names)))
        else:
            raise ValueError(
                f"ratio={ratio} needs two classes, and labels hold {len(names)}; give order=."
            )
    else:
        pattern = tuple(_index(name, names) for name in order)
        if not pattern:
            raise ValueError("order is empty; it must name at least one class.")
    return _cycle([np.flatnonzero(member == i) for i in range(len(names))], pattern, n, shuffle)


def epoch_of(rows: Any, n: int, *, shuffle: bool = True) -> Balanced:
    """A sampler whose epochs have n rows, however many examples there are.

    Args:
      rows: the number of examples, or the rows `[m]` to take from.
      n: rows in an epoch, such as `steps * batch_size`. Every row comes once before any comes
        again.
      shuffle: as in `balanced`.

    >>> sorted(epoch_of(3, 6)(jax.random.key(0), 0).tolist())
    [0, 0, 1, 1, 2, 2]
    """
    count = checks.as_int(rows)
    chosen = np.arange(count) if count is not None else checks.on_host(rows, "rows")
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"rows must be a number of examples, or row numbers; got {checks.describe(rows)}."
        )
    return _cycle([chosen], (0,), checks.whole(n, "n", 1), shuffle)


def _has_missing(values: np.ndarray) -> bool:
    return bool((values != values).any())  # NaN and NaT differ from themselves


def _index(name: Any, names: np.ndarray) -> int:
    found = np.flatnonzero(names == name)
    if len(found) != 1:
        raise ValueError(f"order has {name!r}, which is none of the labels {names.tolist()}.")
    return int(found[0])


def _cycle(
    groups: list[np.ndarray], pattern: tuple[int, ...], n: int | None, shuffle: bool
) -> Balanced:
    if n is None:
        uses = [pattern.count(i) for i in range(len(groups))]
        rounds = [
            math.ceil(len(rows) / use) for rows, use in zip(groups, uses, strict=True) if use
        ]
        n = max(rounds) * len(pattern)
    n = checks.whole(n, "n", 1)
    return Balanced(
        tuple(rows.astype(np.int32).tobytes() for rows in groups), pattern, n, bool(shuffle)
    )


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Rows drawn in proportion to weights; `weighted` makes one.

    Attributes:
      weights: in bytes of float64.
      n: rows in an epoch.
      replacement: whether a row may come again.
    """

    weights: bytes
    n: int
    replacement: bool

    @cached_property
    def _drawable(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows with a weight, and their probabilities."""
        weights = np.frombuffer(self.weights)
        rows = np.flatnonzero(weights)
        return rows.astype(np.int32), weights[rows] / weights.sum()

    def __call__(self, key: jax.Array, epoch: Any = 0) -> jax.Array:
        """The rows of one epoch, `[n]` int32; the key alone decides."""
        rows, share = self._drawable
        if self.replacement:
            # Edges in 32-bit whole numbers: sums in float32 would lose rows among a million.
            edges = np.minimum(np.cumsum(share)[:-1] * 2.0**32, 2**32 - 1).astype(np.uint32)
            drawn = jax.random.bits(key, (self.n,), jnp.uint32)
            chosen = jnp.searchsorted(jnp.asarray(edges), drawn, side="right")
        else:
            # The largest of log(weight) + Gumbel noise, in falling order, are draws without
            # replacement.
            noisy = jnp.log(jnp.asarray(share, jnp.float32)) + jax.random.gumbel(
                key, share.shape
            )
            chosen = jax.lax.top_k(noisy, self.n)[1]
        return jnp.asarray(rows)[chosen]


def weighted(weights: Any, n: int | None = None, *, replacement: bool = True) -> Weighted:
    """A sampler that draws rows in proportion to their weights (torch's
    `WeightedRandomSampler`).

    Args:
      weights: `[examples]`, 0 or more; they need not sum to 1. A row of weight 0 is never
        drawn.
      n: rows in an epoch; None is one for each example.
      replacement: whether a row may be drawn again. If not, n is at most the number of rows
        with a weight.

    Returns:
      A sampler: `sampler(key, epoch)` gives `[n]` int32 rows.

    Raises:
      ValueError: if a weight is negative or not finite, or all are 0; if there are fewer rows
        than n without replacement.

    >>> weighted([0, 3, 0, 1], n=2, replacement=False)(jax.random.key(0), 0).shape
    (2,)
    """
    values = checks.real_on_host(weights, "weights").astype(np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"weights must be finite numbers of 0 or more, one for each example; got "
            f"{checks.describe(weights)}."
        )
    drawable = np.count_nonzero(values)
    if not drawable:
        raise ValueError("weights are all 0: no row can be drawn.")
    n = checks.whole(len(values) if n is None else n, "n", 1)
    if not replacement and n > drawable:
        raise ValueError(
            f"n={n} rows without replacement, and {drawable} have a weight; give a smaller n."
        )
    return Weighted(values.tobytes(), n, bool(replacement))
