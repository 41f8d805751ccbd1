"""A batch in parts: a mean over its rows, computed part by part if the whole does not fit into
memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.train.metrics import is_ratio, wide

PyTree = Any


def in_parts(
    function: Callable[[PyTree, jax.Array, PyTree], tuple[PyTree, PyTree]],
    batch: PyTree,
    key: jax.Array,
    carry: PyTree,
    k: int,
    rows: tuple[bool, ...] | None = None,
) -> tuple[PyTree, PyTree]:
    """The mean over the rows of a batch of a function that gives means over parts of it.

    Part i holds the rows whose number is i modulo the number of parts. Those of a batch that is
    split over devices are then split over the same ones, and the parts are the same on any
    number of devices.

    Args:
      function: `(part, key, carry) -> (means, carry)`; each part's key is folded in from `key`,
        and it is given the `carry` of the part before. A `Ratio` among the means is a pair of
        sums.
      batch: pytree of arrays `[n ...]`, and of others: see `rows`.
      k: the number of parts, as equal as `jnp.array_split` makes them; n if that is fewer. One
        part is the batch itself, with `key` itself.
      rows: whether each leaf holds rows, from `row_leaves`; None if all do. The others (a
        scalar, weights of classes) are not cut: each part has all of them.

    Returns:
      The means, summed in float32 or wider, and the last `carry`. The sums of a `Ratio` stay in
      that dtype: float16 ends at 65504.

    >>> means = lambda part, key, carry: (part.mean(), carry + 1)
    >>> mean, parts = in_parts(means, jnp.arange(7.0), jax.random.key(0), 0, 3)
    >>> float(mean), int(parts)
    (3.0, 3)
    """
    if k == 1:
        return function(batch, key, carry)
    leaves, structure = jax.tree.flatten(batch)
    rows = rows or (True,) * len(leaves)
    n = next(leaf.shape[0] for leaf, has in zip(leaves, rows, strict=True) if has)
    # Rows of another number (a second set of examples) stay whole too.
    cut_it = [has and leaf.shape[0] == n for leaf, has in zip(leaves, rows, strict=True)]
    cut_it = jax.tree.unflatten(structure, cut_it)
    shapes = jax.eval_shape(lambda: function(batch, key, carry)[0])
    sums = jax.tree.map(lambda leaf: wide(jnp.zeros(leaf.shape, leaf.dtype)), shapes)
    carry = jax.tree.map(jnp.asarray, carry)
    done = 0
    for begin, size, count in _sizes(n, k):

        def stacked(leaf, cut_it, begin=begin, size=size, count=count):
            if not cut_it:
                return leaf
            return leaf[begin:][: size * count].reshape(size, count, *leaf.shape[1:])

        stack = jax.tree.map(stacked, batch, cut_it)

        def add(i, sums_and_carry, stack=stack, done=done, rows=size):
            sums, carry = sums_and_carry

            def cut(leaf, cut_it):
                if not cut_it:
                    return leaf
                return jax.lax.dynamic_index_in_dim(leaf, i, axis=1, keepdims=False)

            part = jax.tree.map(cut, stack, cut_it)
            means, carry = function(part, jax.random.fold_in(key, done + i), carry)
            return _map(lambda total, mean: total + rows * mean, jnp.add, sums, means), carry

        sums, carry = jax.lax.fori_loop(0, count, add, (sums, carry))
        done += count
    return _map(lambda total, like: _as(total / n, like), _sum, sums, shapes), carry


def _map(of_mean: Callable, of_sum: Callable, a: PyTree, b: PyTree) -> PyTree:
    """Map over two trees, with another function for the two sums of each `Ratio`."""

    def mapped(x, y):
        return jax.tree.map(of_sum if is_ratio(x) else of_mean, x, y)

    return jax.tree.map(mapped, a, b, is_leaf=is_ratio)


def _sizes(n: int, k: int) -> list[tuple[int, int, int]]:
    """First row, rows of a part and number of such parts: of the longer parts, then of those
    that are one row shorter.
    """
    size, longer = divmod(n, k)
    sizes = [(0, size + 1, longer), (longer * (size + 1), size, k - longer)]
    return [(begin, rows, count) for begin, rows, count in sizes if rows and count]


def _sum(total: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    del like
    return total


def _as(total: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """A mean of reals in their dtype; the mean of integers or booleans is a real."""
    return total.astype(like.dtype) if jnp.issubdtype(like.dtype, jnp.inexact) else total
