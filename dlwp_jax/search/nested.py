"""Small networks inside a large one: all sizes of a family as members of one program.

The arrays of a small network, put into the corner of the large one's and surrounded by zeros,
compute the same function, since a hidden unit without outgoing weights has no effect. Its
outgoing weights stay zero if they are not trained, and then its incoming ones have no gradient.
So `make` itself draws the small network, from the distribution for its own fan-in, and only the
optimizer needs a mask. The shapes that `make` gives tell which entries belong to which size.
Some families do not nest (those with a layer norm over the hidden units): this is found out by
computing loss, gradient and update both ways.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlwp_jax.search import members
from dlwp_jax.search.members import Make
from dlwp_jax.train import Learner, TrainState, precision
from dlwp_jax.train.step import accepted

PyTree = Any
# Weights are drawn once, which is not worth optimizing: this halves the compile time.
QUICKLY = {"xla_backend_optimization_level": 0}
# Float32 sums in another order differ by 1e-6 of the largest entry of all leaves; a leaf whose
# gradient is 0 but for that may be anything. Otherwise: a share of the largest entry of a leaf.
ROUNDING, RTOL = 1e-6, 1e-3


class NotNested(ValueError):
    """The sizes of a family do not fit into its largest member; the message says why."""


class MaskedState(NamedTuple):
    """The state of the wrapped optimizer, and a mask of the trained entries."""

    inner: optax.OptState
    mask: PyTree


def masked(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`tx` for the entries of the mask in its state: the others have no gradient and do not
    move.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return MaskedState(
            tx.init(params), jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
        )

    def update(updates, state, params=None, **more):
        grads = _where(state.mask, updates)
        more = more | ({"grad": grads} if "grad" in more else {})
        updates, inner = tx.update(grads, state.inner, params, **more)
        return _where(state.mask, updates), MaskedState(inner, state.mask)

    return optax.GradientTransformationExtraArgs(init, update)


def _where(mask: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), mask, tree)


def nest(
    make: Make, sizes: Sequence[Any], keys: jax.Array, batch: PyTree
) -> tuple[Learner, TrainState]:
    """Every size with every key as a state of the largest size's learner.

    Args:
      make: `make(size, key) -> (learner, state)`.
      sizes: the last one is the largest.
      keys: PRNG keys `[seeds]`.
      batch: a few examples, on which the smallest network is compared with its copy in the
        large one.

    Returns:
      The learner, and states with a leading axis of `len(sizes) * seeds` members, sizes first.

    Raises:
      NotNested: if the family does not nest.
    """
    large, _ = members.made(make, sizes[-1], keys[0])
    if counted := sorted({"norms", "dead_units"} & set(large.record)):
        raise NotNested(
            f"record={counted} would count units that size {sizes[-1]} has and size {sizes[0]} "
            "does not have"
        )
    learner = dataclasses.replace(large, tx=masked(large.tx))
    shapes = [
        jax.eval_shape(lambda key, size=size: make(size, key)[1], keys[0]) for size in sizes
    ]
    for size, shape in zip(sizes, shapes, strict=True):
        _check_shapes(size, shape, sizes[-1], shapes[-1])

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def states(keys, batch):
        each = [
            jax.vmap(lambda key, size=size: _inside(make(size, key)[1], shapes[-1], learner))(
                keys
            )
            for size in sizes
        ]
        together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)
        first = jax.tree.map(lambda a: a[0], together)
        small_learner, small = make(sizes[0], keys[0])
        return together, _compared(small_learner, small, learner, first, batch)

    together, compared = states(keys, batch)
    for quantity, pairs in compared.items():
        largest = [float(np.max(np.abs(expected))) for expected, _ in pairs]
        for (expected, got), size in zip(pairs, largest, strict=True):
            tolerance = max(RTOL * size, ROUNDING * max(largest))
            if not np.all(np.abs(expected - got) <= tolerance):
                raise NotNested(
                    f"size {sizes[0]} has another {quantity} inside size {sizes[-1]} than on "
                    "its own"
                )
    return learner, together


def cut(state: TrainState, small: TrainState) -> TrainState:
    """The small network in the corner of a large one's state, as a state of its own with a new
    optimizer state.
    """

    def corner(leaf, like):
        return leaf[tuple(slice(n) for n in like.shape)]

    params, extra = (
        jax.tree.map(corner, getattr(state, k), getattr(small, k)) for k in ("params", "extra")
    )
    return dataclasses.replace(
        small, params=params, extra=extra, epoch=state.epoch, step=state.step
    )


def _inside(small: TrainState, large: TrainState, learner: Learner) -> TrainState:
    params, extra = (
        jax.tree.map(_pad, getattr(small, k), getattr(large, k)) for k in ("params", "extra")
    )
    mask = jax.tree.map(
        lambda leaf, like: _pad(jnp.ones(leaf.shape, bool), like), small.params, large.params
    )
    inner: Any = learner.tx.init(params)
    opt_state = precision.around(small.opt_state, inner._replace(mask=mask))
    return dataclasses.replace(small, params=params, extra=extra, opt_state=opt_state)


def _pad(leaf: jax.Array, like: Any) -> jax.Array:
    """`leaf` with zeros at the end of every axis, in the shape of `like`."""
    width = [(0, big - n) for n, big in zip(leaf.shape, like.shape, strict=True)]
    return jnp.pad(leaf, width) if width else leaf


def _check_shapes(size: Any, small: TrainState, largest: Any, large: TrainState) -> None:
    parts = [(state.params, state.extra) for state in (small, large)]
    if jax.tree.structure(parts[0]) != jax.tree.structure(parts[1]):
        raise NotNested(
            f"sizes {size} and {largest} have different parameters, not only different shapes"
        )
    for a, b in zip(*map(jax.tree.leaves, parts), strict=True):
        if len(a.shape) != len(b.shape) or any(
            n > big for n, big in zip(a.shape, b.shape, strict=True)
        ):
            raise NotNested(
                f"an array of shape {a.shape} at size {size} does not fit into {b.shape} at "
                f"size {largest}"
            )
        if a.shape != b.shape and not (jnp.issubdtype(b.dtype, jnp.number) or b.dtype == bool):
            raise NotNested(f"an array of dtype {b.dtype} changes its shape with the size")


def _compared(
    small_learner: Learner,
    small: TrainState,
    learner: Learner,
    state: TrainState,
    batch: PyTree,
) -> dict[str, list[tuple[jax.Array, jax.Array]]]:
    """Loss, gradient and update of a small network, and of its copy in the large one, in eval
    mode.
    """
    loss, grads = _value_and_grad(small_learner, small, batch)
    large_loss, large_grads = _value_and_grad(learner, state, batch)
    padded = jax.tree.map(_pad, grads, state.params)
    updates = jax.tree.map(_pad, _update(small_learner, small, grads), state.params)
    return {
        "loss": [(loss, large_loss)],
        "gradient": _pairs(padded, _where(precision.inner(state.opt_state).mask, large_grads)),
        "update": _pairs(updates, _update(learner, state, padded)),
    }


def _pairs(a: PyTree, b: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _value_and_grad(
    learner: Learner, state: TrainState, batch: PyTree
) -> tuple[jax.Array, PyTree]:
    return jax.value_and_grad(
        lambda p: learner.loss(state, p, batch, state.key, train=False)[0]
    )(state.params)


def _update(learner: Learner, state: TrainState, grads: PyTree) -> PyTree:
    more = {"value": jnp.ones(()), "grad": grads}
    inner = precision.inner(state.opt_state)
    return learner.tx.update(grads, inner, state.params, **accepted(learner.tx.update, more))[0]
