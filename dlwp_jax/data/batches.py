"""Plans of the rows that each step sees, made on the host, so that the data need not move."""

from typing import Any, NamedTuple

import jax
import numpy as np

from dlwp_jax import checks


class Plan(NamedTuple):
    """The rows of one epoch: `full` is `[steps batch_size]`, `rest` the `[n % batch_size]` rows
    left over.

    Torch's `DataLoader` gives the same batches: all of `full`, then `rest` (`drop_last=False`).
    """

    full: np.ndarray
    rest: np.ndarray

    def steps(self) -> list[np.ndarray]:
        """Every batch of the epoch in order, the short one last.

        >>> [len(rows) for rows in batch_plan(11, 4).steps()]
        [4, 4, 3]
        """
        return [*self.full, *([self.rest] if len(self.rest) else [])]


def batch_plan(n: int, batch_size: int, *, key: jax.Array | None = None) -> Plan:
    """Cut n rows into batches, shuffled by a key or in order (torch's
    `DataLoader(shuffle=...)`).

    Args:
      n: the number of examples.
      batch_size: rows in a batch; more than n gives one short batch.
      key: a PRNG key to shuffle by, None for the order of the data.

    >>> plan = batch_plan(11, 4, key=jax.random.key(0))
    >>> plan.full.shape, plan.rest.shape
    ((2, 4), (3,))
    """
    n, batch_size = checks.whole(n, "n", 1), checks.whole(batch_size, "batch_size", 1)
    rows = (
        np.arange(n) if key is None else np.asarray(jax.random.permutation(checks.key(key), n))
    )
    cut = n - n % batch_size
    return Plan(rows[:cut].reshape(-1, batch_size), rows[cut:])


def balanced_rows(
    labels: Any, *, ratio: int, n: int, key: jax.Array | None = None
) -> np.ndarray:
    """Rows in which `ratio` negatives follow every positive (chapter 12.5; the book's
    `ratio_int`).

    Each class begins again when it is used up, so a rare class repeats. `sampling.balanced`
    does the same inside a compiled program.

    Args:
      labels: `[examples]`, 1 or True for positives.
      ratio: negatives for each positive, at least 1.
      n: the number of rows (the book's LUNA data set takes 200,000 an epoch).
      key: shuffles both classes first, as the book does before each epoch; None keeps their
        order.

    Returns:
      `[n]` rows: positive, ratio negatives, positive, ...

    Raises:
      ValueError: if one of the classes has no example.

    >>> balanced_rows([0, 0, 1, 0, 0], ratio=2, n=7).tolist()
    [2, 0, 1, 2, 3, 4, 2]
    """
    labels, key = checks.on_host(labels, "labels"), None if key is None else checks.key(key)
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"labels of shape {labels.shape} must be one-dimensional, 0 and 1 only."
        )
    ratio, n = checks.whole(ratio, "ratio", 1), checks.whole(n, "n", 0)
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    if not len(positive) or not len(negative):
        raise ValueError(
            f"labels hold {len(positive)} positives and {len(negative)} negatives; both are "
            "needed."
        )
    if key is not None:
        keys = jax.random.split(key)
        positive, negative = (
            rows[np.asarray(jax.random.permutation(k, len(rows)))]
            for rows, k in zip((positive, negative), keys, strict=True)
        )
    i = np.arange(n)
    turn, place = np.divmod(i, ratio + 1)
    return np.where(
        place == 0, positive[turn % len(positive)], negative[(i - 1 - turn) % len(negative)]
    )
