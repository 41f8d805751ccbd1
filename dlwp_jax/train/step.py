"""One optimizer step: a pure function of (state, batch, key)."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import optax

from dlwp_jax.optim.clip import grad_norm
from dlwp_jax.train import precision
from dlwp_jax.train.accumulate import in_parts
from dlwp_jax.train.metrics import Metric, Sums, as_sums, wide
from dlwp_jax.train.state import Learner, TrainState
from dlwp_jax.train.units import dead_share

PyTree = Any


class Outcome(NamedTuple):
    """The outcome of a step.

    Attributes:
      state: the state after the step, or the one before it, bit for bit, if it was not taken.
      logs: loss, metrics and records of the batch.
      counted: bool, whether the logs belong into the history.
      goes_on: bool, whether training goes on after this step.
    """

    state: TrainState
    logs: Sums
    counted: jax.Array
    goes_on: jax.Array


class Gradient(NamedTuple):
    """The gradient of the loss on a batch, with all else that the forward pass gives."""

    loss: jax.Array
    metrics: Mapping[str, Metric]
    grads: PyTree
    extra: PyTree  # the model's other state after the forward pass


def step(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    going: jax.Array,
    *,
    skip: bool = False,
    rows: tuple[bool, ...] | None = None,
) -> Outcome:
    """One optimizer step, taken if `going` and if the loss and the new parameters are finite.

    Args:
      learner, state: from `make_learner`.
      batch: pytree of arrays `[n ...]`.
      key: seeds the model's random streams.
      going: bool, False after a failure: then nothing changes any more.
      skip: whether training goes on after a step that was not finite.
      rows: which leaves of the batch hold rows, if a transform may have added others.
    """
    gradient = gradient_of(learner, state, batch, key, rows)
    new, updates = update(learner, state, gradient, batch, key, rows)
    logs = as_sums(gradient.loss, gradient.metrics)
    logs |= recorded(learner, state, batch, key, gradient, updates, rows)
    if isinstance(state.opt_state, precision.Scaled):
        taken = going & all_finite((gradient.loss, gradient.grads, new.params))
        overflowed = going & ~taken & (state.opt_state.scale > precision.FLOOR)
        smaller = replace(state, opt_state=state.opt_state.after_overflow())
        state = choose_state(taken, new, choose_state(overflowed, smaller, state))
        goes_on = taken | overflowed
        counted = going & ~overflowed
    else:
        taken = going & all_finite((gradient.loss, new.params))
        state = choose_state(taken, new, state)
        goes_on = taken
        counted = going
    if skip:
        goes_on = going
        counted = taken
    return Outcome(learner.constrain(state), logs, counted, goes_on)


def gradient_of(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    rows: tuple[bool, ...] | None = None,
) -> Gradient:
    """Loss, metrics and gradient of a batch in training mode."""
    if learner.accumulate > 1:
        return _gradient_in_parts(learner, state, batch, key, rows)
    differentiate = precision.value_and_grad(learner.loss, state.opt_state, argnums=1)
    (loss, (metrics, extra)), grads = differentiate(state, state.params, batch, key, train=True)
    return Gradient(loss, metrics, _as_params(learner, grads), extra)


def _gradient_in_parts(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    rows: tuple[bool, ...] | None,
) -> Gradient:
    differentiate = precision.value_and_grad(learner.loss, state.opt_state, argnums=1)

    def of_part(part, key, extra):
        before = replace(state, extra=extra)
        (loss, (metrics, extra)), grads = differentiate(
            before, state.params, part, key, train=True
        )
        return (loss, metrics, grads), extra

    means, extra = in_parts(of_part, batch, key, state.extra, learner.accumulate, rows)
    loss, metrics, grads = means
    return Gradient(loss, metrics, _as_params(learner, grads), extra)


def _as_params(learner: Learner, grads: PyTree) -> PyTree:
    return grads if learner.placement is None else learner.placement.constrain_params(grads)


def update(
    learner: Learner,
    state: TrainState,
    gradient: Gradient,
    batch: PyTree,
    key: jax.Array,
    rows: tuple[bool, ...] | None = None,
) -> tuple[TrainState, PyTree]:
    """The state after the optimizer's update, finite or not, and the update itself."""

    def value_at(params):
        def of_part(part, key, extra):
            before = replace(state, extra=extra)
            loss, (_, extra) = learner.loss(before, params, part, key, train=True)
            return loss, extra

        return in_parts(of_part, batch, key, state.extra, learner.accumulate, rows)[0]

    # Transformations that need more than the gradient (line searches, reduce_on_plateau) find
    # it under optax's names.
    more = {"value": gradient.loss, "grad": gradient.grads, "value_fn": value_at}
    more = accepted(learner.tx.update, more)
    inner = precision.inner(state.opt_state)
    updates, inner = learner.tx.update(gradient.grads, inner, state.params, **more)
    new = replace(
        state,
        params=optax.apply_updates(state.params, updates),
        extra=gradient.extra,
        opt_state=precision.after_step(state.opt_state, inner),
        step=state.step + 1,
    )
    return new, updates


def recorded(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    gradient: Gradient,
    updates: PyTree,
    rows: tuple[bool, ...] | None = None,
) -> Sums:
    """The logs that `make_learner(record=...)` adds to those of a step from `state`."""
    logs = {}
    if "norms" in learner.record:
        logs["grad_norm"] = norm(gradient.grads)
        logs["param_norm"] = norm(state.params)
        logs["update_norm"] = norm(updates)
    if "dead_units" in learner.record:
        logs["dead_units"] = dead_share(gradient.grads)
    if "eval_loss" in learner.record:

        def of_part(part, key, _):
            return learner.loss(state, state.params, part, key, train=False)[0], None

        loss, _ = in_parts(of_part, batch, key, None, learner.accumulate, rows)
        logs["eval_loss"] = wide(loss)
    if taken := sorted(set(logs) & set(gradient.metrics)):
        raise ValueError(
            f"a metric may not be called {taken[0]!r} where record={learner.record}; rename it."
        )
    sums = as_sums(gradient.loss, logs)
    del sums["loss"]
    return sums


def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves, summed in float32 or wider.

    It has no derivative: at 0 there is none.
    """
    return grad_norm(jax.lax.stop_gradient(jax.tree.map(wide, tree)))


def accepted(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function accepts."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def log_shapes(
    learner: Learner, state: TrainState, batch: PyTree, rows: tuple[bool, ...] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and dtypes of the logs of a step on such a batch, by tracing it once.

    The result is kept as long as the learner lives: names and dtypes only, so a loss that
    closes over the arrays of an outer `vmap` or `grad` leaves nothing of them behind.
    """
    learner = learner.unplaced
    known = _log_shapes.setdefault(learner, {})
    leaves, structure = jax.tree.flatten((state, batch))
    kinds = [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves]
    shapes = (structure, tuple(kinds), rows)
    if shapes not in known:
        if len(known) == 32:  # shapes of one learner's batches, each a compiled program too
            known.clear()
        outcome = jax.eval_shape(
            functools.partial(step, learner, rows=rows),
            state,
            batch,
            state.key,
            jnp.array(True),
        )
        known[shapes] = outcome.logs
    return known[shapes]


_log_shapes: WeakKeyDictionary[Learner, dict[Any, Any]] = WeakKeyDictionary()


# Finite or not.


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a tree is finite."""
    return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(tree)]).all()


def finite(leaf: jax.Array) -> jax.Array:
    """Whether every number of an array is finite."""
    # An array split over an explicit mesh has axes that a reshape may not mix.
    is_split = any(jax.typeof(leaf).sharding.spec)
    if leaf.size < 4096 or is_split:
        return jnp.isfinite(leaf).all()
    return jax.lax.platform_dependent(
        leaf, cpu=finite_folded, default=lambda leaf: jnp.isfinite(leaf).all()
    )


def finite_folded(leaf: jax.Array, parts: int = 8) -> jax.Array:
    """`finite` for XLA:CPU, which would write a flag for every number and reduce the flags on
    one core.

    Parts of the array are combined number by number first: one pass, on all cores, that leaves
    an eighth of the flags.
    """
    numbers = leaf.reshape(-1)
    rest = leaf.size % parts
    first, *others = jnp.split(numbers[rest:], parts)
    flags = functools.reduce(jnp.logical_and, map(jnp.isfinite, others), jnp.isfinite(first))
    return flags.all() & jnp.isfinite(numbers[:rest]).all()


def choose_state(condition: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """`choose` for two states of one training, whose keys are the same."""
    changing = ("params", "extra", "opt_state", "epoch", "step")
    chosen = {
        name: choose(condition, getattr(new, name), getattr(old, name)) for name in changing
    }
    return replace(new, **chosen)


def choose(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` if the condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
