"""Why a step was not finite, found afterwards from the last finite state and the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.train import checks
from dlwp_jax.train.state import Learner, TrainState
from dlwp_jax.train.step import PyTree, gradient_of, update


def blame(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    rows: tuple[bool, ...] | None = None,
) -> str:
    """The loss, and the first leaf of gradient or parameters that is not finite in the step
    from `state`.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.sqrt(model(batch)).sum(), {}
    >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> learner, state = make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    >>> print(blame(learner, state, jnp.zeros((1, 1)), state.key))
    the loss was 0, the gradient of ['bias'] has 1 of 1 numbers that are not finite
    (and so has 1 other leaf)
    """
    loss, grads, params = _recomputed(learner, state, batch, key, rows)
    first = _first("the gradient of", grads) or _first("the new value of", params)
    sentence = f"the loss was {float(loss):.6g}"
    if first is not None:
        return f"{sentence}, {first}"
    if bool(np.isfinite(loss)):
        return f"computed again by itself the step is finite: {sentence}"
    return sentence


@functools.partial(jax.jit, static_argnames=("learner", "rows"))
def _recomputed(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    rows: tuple[bool, ...] | None,
) -> tuple[jax.Array, PyTree, PyTree]:
    """The loss of a step, and for each leaf of its gradient and new parameters the count of
    numbers that are not finite, and its size.
    """
    gradient = gradient_of(learner, state, batch, key, rows)
    new, _ = update(learner, state, gradient, batch, key, rows)

    def counts(leaf):
        return jnp.stack([jnp.sum(~jnp.isfinite(leaf)), jnp.int32(leaf.size)])

    grads, params = jax.tree.map(counts, (gradient.grads, new.params))
    return gradient.loss, grads, params


def _first(subject: str, counts: PyTree) -> str | None:
    """A phrase about the first leaf with numbers that are not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(counts)
    wrong = [(checks.name(path), n) for path, n in leaves if n[0]]
    if not wrong:
        return None
    name, (n, size) = wrong[0]
    more = len(wrong) - 1
    others = ""
    if more == 1:
        others = " (and so has 1 other leaf)"
    elif more:
        others = f" (and so have {more} other leaves)"
    return f"{subject} {name} has {n} of {size} numbers that are not finite{others}"
