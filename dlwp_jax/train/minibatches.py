"""Minibatches: their keys, their order, and the loop over them."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import whole
from dlwp_jax.train import checks
from dlwp_jax.train.state import TrainState

PyTree = Any
Carry = TypeVar("Carry")
Sampler = Callable[[jax.Array, jax.Array], jax.Array]


def n_rows(data: PyTree) -> int:
    """The number of examples."""
    return jax.tree.leaves(data)[0].shape[0]


def rows(data: PyTree, index: jax.Array) -> PyTree:
    """The examples at `index`."""
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), data)


def rows_or_nan(data: PyTree, index: jax.Array) -> PyTree:
    """The examples at `index`; NaN (of integers the smallest) for rows beyond the last.

    >>> rows_or_nan(jnp.array([1.0, 2.0]), jnp.array([1, 2])).tolist()
    [2.0, nan]
    """
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="fill"), data)


def batch_shape(data: PyTree, batch_size: int) -> PyTree:
    """The shapes and dtypes of a minibatch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), data
    )


def minibatch_shape(
    state: TrainState,
    data: PyTree,
    batch_size: int,
    sampler: Sampler | None,
    drop_last: bool = False,
) -> PyTree:
    """The shapes and dtypes of a minibatch of an epoch, whose settings are checked."""
    size = whole(batch_size, "batch_size", 1)
    length = n_rows(data)
    if sampler is not None:
        length = checks.sampler(sampler, order_key(state), state.epoch, length)
    if drop_last and size > length:
        raise ValueError(
            f"drop_last=True leaves nothing to train on: batch_size={size} is more than the "
            f"{length} examples of an epoch. Take a smaller batch, or leave drop_last out."
        )
    return batch_shape(data, min(size, length))


# Keys: one a state, into which epoch and step fold their numbers.


def epoch_key(state: TrainState) -> jax.Array:
    """The key of the current epoch."""
    return jax.random.fold_in(state.key, state.epoch)


def order_key(state: TrainState) -> jax.Array:
    """The key of the current epoch's order."""
    return jax.random.split(epoch_key(state))[0]


def steps_key(state: TrainState) -> jax.Array:
    """The key into which each step of the current epoch folds its number."""
    return jax.random.split(epoch_key(state))[1]


# Order: the rows that an epoch trains on, one batch after the other.


def epoch_length(n: int, batch_size: int, sampler: Sampler | None, drop_last: bool) -> int:
    """The number of rows that an epoch trains on, those counted twice that come twice."""
    if sampler is not None:
        key, epoch = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
        n = jax.eval_shape(sampler, key, epoch).shape[0]
    if drop_last:
        n -= n % min(batch_size, n)
    return n


def epoch_order(
    state: TrainState,
    n: int,
    batch_size: int,
    sampler: Sampler | None = None,
    drop_last: bool = False,
) -> jax.Array:
    """The rows of the current epoch in their order, int32 `[length]`.

    It is empty if one batch holds all examples: these are summed in the order in which they
    were given. A sampler's row that does not exist is n, for `rows_or_nan`.
    """
    length = epoch_length(n, batch_size, sampler, drop_last)
    if sampler is not None:
        order = jnp.asarray(sampler(order_key(state), state.epoch))[:length]
        exists = (order >= 0) & (order < np.int32(n))
        return jnp.where(exists, order.astype(jnp.int32), n)
    if batch_size >= n:
        return jnp.zeros(0, jnp.int32)
    # A permutation is int64 in x64 mode.
    return jax.random.permutation(order_key(state), n)[:length].astype(jnp.int32)


def steps_of(length: int, batch_size: int) -> int:
    """The number of minibatches that hold so many rows, the last short one counted."""
    return -(-length // batch_size)


def fold(
    step: Callable[[Any, Carry, PyTree], Carry],
    carry: Carry,
    data: PyTree,
    order: jax.Array,
    batch_size: int,
    begin: Any,
    end: Any,
    fetch: Callable[[PyTree, jax.Array], PyTree] = rows,
) -> Carry:
    """Fold minibatches `begin` to `end` of an epoch into a carry.

    With Python integers for `begin` and `end` this is a scan, which reverse mode
    differentiates; with traced ones it is a while loop: one program for all lengths.

    Args:
      step: `step(i, carry, batch) -> carry`.
      carry: a pytree of arrays.
      data: pytree of arrays `[n ...]`.
      order: rows of `data`, `[length]`; empty for one batch of all data as they are.
      batch_size: rows of a batch; the last one may be shorter.
      fetch: `rows`, or `rows_or_nan` if the order may hold rows that do not exist.

    >>> data, order = jnp.arange(5.0), jnp.array([4, 3, 2, 1, 0])
    >>> float(fold(lambda i, total, batch: total + batch.sum(), 0.0, data, order, 2, 0, 3))
    10.0
    """
    is_whole = order.size == 0
    full = 1 if is_whole else order.size // batch_size
    has_rest = order.size > full * batch_size

    def full_step(i, carry):
        if is_whole:
            return step(i, carry, data)
        index = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
        return step(i, carry, fetch(data, index))

    def last_step(carry):
        return step(full, carry, fetch(data, order[full * batch_size :]))

    if isinstance(end, int):
        carry = jax.lax.fori_loop(begin, min(end, full), full_step, carry)
        return last_step(carry) if end > full else carry
    carry = jax.lax.fori_loop(begin, jnp.minimum(end, full), full_step, carry)
    if not has_rest:
        return carry
    return jax.lax.cond(end > full, last_step, lambda carry: carry, carry)
