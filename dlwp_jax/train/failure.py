"""Why a step was not finite: told after the fact, from the last finite state and the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.train import checks
from dlwp_jax.train.epoch import PyTree, attempt
from dlwp_jax.train.learner import Learner, TrainState


def blame(learner: Learner, state: TrainState, batch: PyTree, key: jax.Array) -> str:
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
    the loss was 0, the gradient of ['bias'] has 1 of 1 numbers that are not finite (and so has 1 other leaf)
    """
    loss, grads, params = _recomputed(learner, state, batch, key)
    what = _first("the gradient of", grads) or _first("the new value of", params)
    told = f"the loss was {float(loss):.6g}" + (f", {what}" if what else "")
    is_finite = what is None and bool(np.isfinite(loss))
    return f"computed again by itself the step is finite: {told}" if is_finite else told


@functools.partial(jax.jit, static_argnames="learner")
def _recomputed(
    learner: Learner, state: TrainState, batch: PyTree, key: jax.Array
) -> tuple[jax.Array, PyTree, PyTree]:
    """The loss of a step, and how many numbers of each leaf of its gradient and new parameters
    are not finite.
    """
    new, loss, _, grads = attempt(learner, state, batch, key)
    counts = jax.tree.map(lambda leaf: jnp.sum(~jnp.isfinite(leaf)), (grads, new.params))
    sizes = jax.tree.map(jnp.size, grads)
    return loss, *(
        jax.tree.map(lambda n, size: jnp.stack([n, jnp.int32(size)]), part, sizes)
        for part in counts
    )


def _first(what: str, counts: PyTree) -> str | None:
    wrong = [
        (checks.name(path), n)
        for path, n in jax.tree_util.tree_leaves_with_path(counts)
        if n[0]
    ]
    if not wrong:
        return None
    (name, (n, size)), more = wrong[0], len(wrong) - 1
    others = (
        f" (and so has {more} other leaf)"
        if more == 1
        else f" (and so have {more} other leaves)"
        if more
        else ""
    )
    return f"{what} {name} has {n} of {size} numbers that are not finite{others}"
