"""One step, one epoch, one evaluation: pure functions of (state, data)."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import optax

from dlwp_jax.devices import joint
from dlwp_jax.optim.clip import grad_norm
from dlwp_jax.train import checks, precision
from dlwp_jax.train.accumulate import in_parts
from dlwp_jax.train.learner import Learner, TrainState
from dlwp_jax.train.units import dead_share

PyTree = Any
Logs = dict[str, jax.Array]


def train_epoch(
    learner: Learner, state: TrainState, data: PyTree, *, batch_size: int
) -> tuple[TrainState, Logs]:
    """Train on every example once, in shuffled minibatches.

    The last short batch is trained on, as torch's `drop_last=False` does. A step whose loss or
    new parameters are not finite is not taken, nor is any after it; the logs of those after it
    are NaN and `state.epoch` stays. In float16 a step whose gradient overflowed is left out,
    its logs NaN, and training goes on.

    Args:
      learner, state: from `make_learner`.
      data: pytree of arrays `[n ...]`.
      batch_size: examples a step; n or more is the full batch, in the order given.

    Returns:
      The state after the epoch, and `{"loss": [steps], metric: [steps], ...}` with `steps =
      ceil(n / batch_size)`.
    """
    checks.pair(learner, state)
    call = joint.enter("train_epoch", state, {"data": data}, {"batch_size": batch_size})
    state, data = call.state, checks.dataset(call.data[0], "data")
    batch_size = min(checks.count(batch_size, "batch_size"), n_rows(data))
    placed = learner.placed(state, data=data)
    return call.leave(_train_epoch(placed, state, data, batch_size))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _train_epoch(
    learner: Learner, state: TrainState, data: PyTree, batch_size: int
) -> tuple[TrainState, Logs]:
    steps = steps_per_epoch(data, batch_size)

    def record(logs, i, values, _alive, counts):
        return {k: logs[k].at[i].set(jnp.where(counts, values[k], jnp.nan)) for k in logs}

    shapes = all_logs(learner, state, batch_shape(data, batch_size))
    logs = {k: jnp.full(steps, jnp.nan, log.dtype) for k, log in shapes.items()}
    order = epoch_order(state, data, batch_size)
    state, alive, logs = train_steps(
        learner, state, jnp.array(True), logs, record, data, order, batch_size, 0, steps
    )
    return learner.laid((replace(state, epoch=state.epoch + alive), logs))


def evaluate(
    learner: Learner, state: TrainState, data: PyTree, *, batch_size: int | None = None
) -> Logs:
    """Loss and metrics over a data set: eval mode, no gradient, every example weighted alike.

    Args:
      learner, state: from `make_learner`.
      data: pytree of arrays `[n ...]`.
      batch_size: at most this many examples at a time (None: all at once).

    Returns:
      `{"loss": scalar, metric: scalar, ...}`: means over the n examples, where `loss_fn`
      returns means over its batch.
    """
    checks.pair(learner, state)
    call = joint.enter("evaluate", state, {"data": data}, {"batch_size": batch_size})
    state, data = call.state, checks.dataset(call.data[0], "data")
    batch_size = (
        n_rows(data)
        if batch_size is None
        else min(checks.count(batch_size, "batch_size"), n_rows(data))
    )
    return call.leave(mean_logs(learner.placed(state, data=data), state, data, batch_size))


@functools.partial(jax.jit, static_argnums=(0, 3))
def mean_logs(learner: Learner, state: TrainState, data: PyTree, batch_size: int) -> Logs:
    """`evaluate` without its checks; `batch_size` is at most n."""
    n = n_rows(data)
    full, rest = divmod(n, batch_size)
    whole = data
    by_number = learner.placement is not None and batch_size < n
    if (
        by_number
    ):  # a part cut out of arrays that are split over devices would travel through all of them
        data = jnp.arange(n)

    def total(batch):
        batch = rows(whole, batch) if by_number else batch
        return {
            k: n_rows(batch) * value for k, value in eval_step(learner, state, batch).items()
        }

    if full == 1:  # no loop around a single batch: XLA fuses across it
        sums = total(jax.tree.map(lambda a: a[:batch_size], data))
    else:
        batches = jax.tree.map(
            lambda a: a[: n - rest].reshape(full, batch_size, *a.shape[1:]), data
        )
        sums = jax.tree.map(lambda a: a.sum(axis=0), jax.lax.map(total, batches))
    if rest:
        sums = jax.tree.map(jnp.add, sums, total(jax.tree.map(lambda a: a[n - rest :], data)))
    return {k: value / n for k, value in sums.items()}


def eval_step(learner: Learner, state: TrainState, batch: PyTree) -> Logs:
    """Loss and metrics of one batch in eval mode, as float32 or wider."""
    loss, (metrics, _) = learner.loss(state, state.params, batch, epoch_key(state), train=False)
    return as_logs(loss, metrics)


def train_step(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    alive: jax.Array,
    *,
    skip: bool = False,
) -> tuple[TrainState, jax.Array, jax.Array, Logs]:
    """One optimizer step, taken only where `alive` and where the loss and the new parameters
    are finite.

    Returns:
      The new state (or the old one, bit for bit); whether training goes on: with `skip` also
      after a step that was not finite; whether the step counts in the history; and the logs of
      the batch.
    """
    new, loss, logs, grads = attempt(learner, state, batch, key)
    if isinstance(state.opt_state, precision.Scaled):
        taken = alive & all_finite((loss, grads, new.params))
        overflowed = alive & ~taken & (state.opt_state.scale > precision.FLOOR)
        smaller = replace(state, opt_state=state.opt_state.after_overflow())
        state = choose_state(taken, new, choose_state(overflowed, smaller, state))
        goes_on, counts = taken | overflowed, alive & ~overflowed
    else:
        taken = alive & all_finite((loss, new.params))
        state, goes_on, counts = choose_state(taken, new, state), taken, alive
    return learner.laid(state), alive if skip else goes_on, taken if skip else counts, logs


def attempt(
    learner: Learner, state: TrainState, batch: PyTree, key: jax.Array
) -> tuple[TrainState, jax.Array, Logs, PyTree]:
    """The state after an optimizer step, finite or not; the loss, the logs and the gradient
    that led there.
    """

    def forward(params, part, key, extra):
        return learner.loss(replace(state, extra=extra), params, part, key, train=True)

    def gradient(part, key, extra):
        differentiated = precision.value_and_grad(forward, state.opt_state)
        (loss, (metrics, extra)), grads = differentiated(state.params, part, key, extra)
        return (loss, metrics, grads), extra

    def value_at(params):
        def value(part, key, extra):
            loss, (_, extra) = forward(params, part, key, extra)
            return loss, extra

        return in_parts(value, batch, key, state.extra, learner.accumulate)[0]

    (loss, metrics, grads), extra = in_parts(
        gradient, batch, key, state.extra, learner.accumulate
    )
    if learner.placement is not None:
        grads = learner.placement.constrain_params(grads)
    # Transformations that ask for more than the gradient (line searches, reduce_on_plateau)
    # find it here.
    more = {"value": loss, "grad": grads, "value_fn": value_at}
    inner = precision.inner(state.opt_state)
    updates, inner = learner.tx.update(
        grads, inner, state.params, **understood(learner.tx.update, more)
    )
    opt_state = precision.after_step(state.opt_state, inner)
    params = optax.apply_updates(state.params, updates)
    new = replace(state, params=params, extra=extra, opt_state=opt_state, step=state.step + 1)
    return (
        new,
        loss,
        as_logs(loss, metrics) | recorded(learner, state, batch, key, metrics, grads, updates),
        grads,
    )


def recorded(
    learner: Learner,
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    metrics: Logs,
    grads: PyTree,
    updates: PyTree,
) -> Logs:
    """What `make_learner(record=...)` asked for of a step from `state`, float32 or wider."""
    logs = {}
    if "norms" in learner.record:
        logs |= {
            "grad_norm": norm(grads),
            "param_norm": norm(state.params),
            "update_norm": norm(updates),
        }
    if "dead_units" in learner.record:
        logs["dead_units"] = dead_share(grads)
    if "eval_loss" in learner.record:

        def value(part, key, _):
            return learner.loss(state, state.params, part, key, train=False)[0], None

        loss, _ = in_parts(value, batch, key, None, learner.accumulate)
        logs["eval_loss"] = as_logs(loss, {})["loss"]
    if taken := sorted(set(logs) & set(metrics)):
        raise ValueError(
            f"a metric may not be called {taken[0]!r} where record={learner.record}; rename it."
        )
    return logs


def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves, summed in float32 or wider; without a gradient, as at
    0 there is none.
    """
    wide = jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )
    return grad_norm(jax.lax.stop_gradient(wide))


def understood(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function takes."""
    parameters = inspect.signature(function).parameters
    takes_all = any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    return {name: value for name, value in keywords.items() if takes_all or name in parameters}


def train_steps(
    learner: Learner,
    state: TrainState,
    alive: jax.Array,
    logs: PyTree,
    record: Callable[[PyTree, Any, Logs, jax.Array, jax.Array], PyTree],
    data: PyTree,
    order: jax.Array,
    batch_size: int,
    start: Any,
    stop: Any,
    *,
    skip: bool = False,
) -> tuple[TrainState, jax.Array, PyTree]:
    """Steps `start` to `stop` of the state's current epoch, over its examples in `order`
    (`epoch_order`).

    With Python integers this is a scan (which reverse-mode differentiates), with traced ones a
    while loop (one program for chunks of every length). `record(logs, i, values, alive,
    counts)` folds the logs of step `i` into `logs`, `alive` telling whether training was still
    going when the step began, `counts` whether it is one for the history. With `skip` training
    goes on after a step that was not finite.
    """
    steps, full = steps_per_epoch(data, batch_size), n_rows(data) // batch_size
    _, steps_key = epoch_keys(state)

    def examples(index):
        return rows(
            data, learner.laid(index)
        )  # each device has the whole index, and looks up its own rows

    def step(i, carry, batch):
        state, alive, logs = carry
        key = jax.random.fold_in(steps_key, i)
        state, goes_on, counts, values = train_step(
            learner, state, batch, key, alive, skip=skip
        )
        return state, goes_on, record(logs, i, values, alive, counts)

    def full_step(i, carry):
        if steps == 1:
            return step(i, carry, data)
        return step(
            i, carry, examples(jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size))
        )

    def last_step(carry):
        return step(steps - 1, carry, examples(order[full * batch_size :]))

    carry = (state, alive, logs)
    if isinstance(stop, int):
        carry = jax.lax.fori_loop(start, min(stop, full), full_step, carry)
        return last_step(carry) if stop > full else carry
    carry = jax.lax.fori_loop(start, jnp.minimum(stop, full), full_step, carry)
    return (
        jax.lax.cond(stop > full, last_step, lambda carry: carry, carry)
        if steps > full
        else carry
    )


def all_logs(
    learner: Learner, state: TrainState, batch: PyTree
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and dtypes of the logs of a step on such a batch, by tracing it once.

    What is found is kept as long as the learner lives: names and dtypes only, so a loss that
    closes over the arrays of an outer `vmap` or `grad` leaves nothing of them behind.
    """
    learner = learner.unplaced
    known = _logs.setdefault(learner, {})
    leaves, structure = jax.tree.flatten((state, batch))
    shapes = (
        structure,
        tuple((leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves),
    )
    if shapes not in known:
        if len(known) == 32:  # shapes of one learner's batches, each a compiled program too
            known.clear()
        step = functools.partial(train_step, learner)
        known[shapes] = jax.eval_shape(step, state, batch, state.key, jnp.array(True))[3]
    return known[shapes]


_logs: WeakKeyDictionary[Learner, dict[Any, dict[str, jax.ShapeDtypeStruct]]] = (
    WeakKeyDictionary()
)


def batch_shape(data: PyTree, batch_size: int) -> PyTree:
    """The shapes and dtypes of a minibatch."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), data
    )


def epoch_key(state: TrainState) -> jax.Array:
    """The key of the epoch that is going on."""
    return jax.random.fold_in(state.key, state.epoch)


def epoch_order(state: TrainState, data: PyTree, batch_size: int) -> jax.Array:
    """The order in which the current epoch takes the examples, `[n]`.

    The full batch needs none, and unshuffled it is summed in the order in which it was given:
    `[0]` then.
    """
    if steps_per_epoch(data, batch_size) == 1:
        return jnp.zeros(0, jnp.int32)
    return jax.random.permutation(epoch_keys(state)[0], n_rows(data)).astype(
        jnp.int32
    )  # int64 in x64 mode


def epoch_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """The keys of the epoch that is going on: one for its order, one into which each step folds
    its number.
    """
    shuffle_key, steps_key = jax.random.split(epoch_key(state))
    return shuffle_key, steps_key


def n_rows(data: PyTree) -> int:
    """The number of examples."""
    return jax.tree.leaves(data)[0].shape[0]


def steps_per_epoch(data: PyTree, batch_size: int) -> int:
    """How many minibatches hold all examples, the last short one counted."""
    return -(-n_rows(data) // batch_size)


def rows(data: PyTree, index: jax.Array) -> PyTree:
    """The examples at `index`."""
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), data)


def as_logs(loss: jax.Array, metrics: dict[str, jax.Array]) -> Logs:
    """Loss and metrics under their names, float32 or wider so that means over many steps stay
    exact.
    """
    values = {"loss": loss, **metrics}
    return {
        k: jnp.asarray(v).astype(jnp.promote_types(jnp.result_type(v), jnp.float32))
        for k, v in values.items()
    }


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a tree is finite."""
    return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(tree)]).all()


def finite(leaf: jax.Array) -> jax.Array:
    """Whether every number of an array is finite."""
    is_split = any(
        jax.typeof(leaf).sharding.spec
    )  # over an explicit mesh, whose axes a reshape may not mix
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
    return replace(
        new,
        **{
            name: choose(condition, getattr(new, name), getattr(old, name)) for name in changing
        },
    )


def choose(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where the condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
