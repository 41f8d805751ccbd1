"""Evaluation and prediction: eval mode, no gradient."""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.checks import whole
from dlwp_jax.devices import joint
from dlwp_jax.train import checks
from dlwp_jax.train.metrics import Sums, add, as_sums, quotients
from dlwp_jax.train.minibatches import epoch_key, n_rows, rows
from dlwp_jax.train.state import Learner, TrainState, check_pair
from dlwp_jax.train.transform import Transform, evaluation_half, transform_pair

PyTree = Any


def evaluate(
    learner: Learner,
    state: TrainState,
    data: PyTree,
    *,
    batch_size: int | None = None,
    transform: Any = None,
) -> dict[str, jax.Array]:
    """Loss and metrics over a data set: eval mode, no gradient, every example weighted alike.

    Args:
      learner, state: from `make_learner`.
      data: pytree of arrays `[n ...]`.
      batch_size: at most this many examples at a time (None: all at once).
      transform: as for `run`; its half for evaluation is applied.

    Returns:
      `{"loss": scalar, metric: scalar, ...}`: means over the n examples, if `loss_fn` returns
      means over its batch; of a `Ratio`, the quotient of its sums.
    """
    check_pair(learner, state)
    call = joint.enter("evaluate", state, {"data": data}, {"batch_size": batch_size})
    state, data = call.state, checks.dataset(call.data[0], "data")
    size = n_rows(data)
    if batch_size is not None:
        size = min(whole(batch_size, "batch_size", 1), size)
    learner = learner.placed(state, data=data)
    return call.leave(_evaluate(learner, state, data, size, transform_pair(transform)))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _evaluate(
    learner: Learner, state: TrainState, data: PyTree, batch_size: int, transform: Transform
) -> dict[str, jax.Array]:
    return quotients(mean_sums(learner, state, data, batch_size, transform))


def mean_sums(
    learner: Learner, state: TrainState, data: PyTree, batch_size: int, transform: Transform
) -> Sums:
    """The sums whose quotients are the means over a data set; `batch_size` is at most n."""
    n = n_rows(data)
    full, rest = divmod(n, batch_size)
    # A part cut out of arrays that are split over devices would travel through all of them, so
    # rows are looked up by their numbers then.
    by_number = learner.placement is not None and batch_size < n
    parts = jnp.arange(n) if by_number else data

    def sums_of(part):
        batch = rows(data, part) if by_number else part
        return eval_step(learner, state, batch, transform)

    if full == 1:  # no loop around a single batch: XLA fuses across it
        sums = sums_of(jax.tree.map(lambda leaf: leaf[:batch_size], parts))
    else:
        batches = jax.tree.map(
            lambda leaf: leaf[: n - rest].reshape(full, batch_size, *leaf.shape[1:]), parts
        )
        each = jax.lax.map(sums_of, batches)
        sums = jax.tree.map(lambda leaf: leaf.sum(axis=0, dtype=leaf.dtype), each)
    if rest:
        last = jax.tree.map(lambda leaf: leaf[n - rest :], parts)
        sums = add(sums, sums_of(last))
    return sums


def eval_step(learner: Learner, state: TrainState, batch: PyTree, transform: Transform) -> Sums:
    """Loss and metrics of one batch in eval mode, as sums over its rows."""
    key = epoch_key(state)
    seen = evaluation_half(transform, key, batch)
    loss, (metrics, _) = learner.loss(state, state.params, seen, key, train=False)
    return as_sums(loss, metrics, weight=n_rows(batch))


# The errors of a user's function that is given a batch of another form.
OF_FORM = (TypeError, ValueError, LookupError, AttributeError)


def check_form(
    learner: Learner, state: TrainState, train: PyTree, val: PyTree, transform: Transform
) -> None:
    """Refuse validation data of another form than the training data, if the loss fails on them.

    Args:
      train: shapes and dtypes of a minibatch.
      val: arrays, or a batch of a stream.
    """
    are_alike = jax.tree.structure(train) == jax.tree.structure(val)
    if are_alike and checks.row_kinds(train) == checks.row_kinds(val):
        return
    some = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), val)
    try:
        jax.eval_shape(lambda batch: eval_step(learner, state, batch, transform), some)
    except OF_FORM as error:
        raise ValueError(
            f"val has another form than train, and loss_fn, which is given batches of both, "
            f"fails on it ({type(error).__name__}: {str(error)[:120].partition(chr(10))[0]}). "
            f"A row of train is {checks.form(train)}; of val: {checks.form(val)}."
        ) from error


def predict(
    learner: Learner, state: TrainState, inputs: PyTree, *, batch_size: int | None = None
) -> PyTree:
    """The model's outputs in eval mode, compiled.

    Args:
      learner, state: from `make_learner`, or a `Run`'s `state` or `best`.
      inputs: the model's input, arrays `[n ...]`. A tuple is given to a model that takes as
        many arguments as `model(*inputs)`; any other pytree is one argument.
      batch_size: at most this many rows at a time (None: all at once).

    Returns:
      `model(inputs)`, `[n ...]`.
    """
    check_pair(learner, state)
    call = joint.enter("predict", state, {"inputs": inputs}, {"batch_size": batch_size})
    state, inputs = call.state, checks.arrays(call.data[0], "inputs")
    learner = learner.placed(state)
    size = None if batch_size is None else whole(batch_size, "batch_size", 1)
    try:
        return call.leave(_predict_parts(learner, state, inputs, size))
    except OF_FORM as error:
        if isinstance(inputs, dict):
            names = " and ".join(map(repr, inputs))
            error.add_note(
                "predict gives the model all of its inputs, here a dict "
                f"with {names}; of a batch give that which the model "
                f"takes, such as batch[{next(iter(inputs), 'x')!r}]."
            )
        raise


def _predict_parts(
    learner: Learner, state: TrainState, inputs: PyTree, size: int | None
) -> PyTree:
    if size is None:
        return _predict(learner, state, inputs)
    n = checks.rows(inputs, "inputs")
    outputs = []
    for begin in range(0, n, size):
        part = jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + size], inputs)
        outputs.append(_predict(learner, state, part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)


@functools.partial(jax.jit, static_argnums=0)
def _predict(learner: Learner, state: TrainState, inputs: PyTree) -> PyTree:
    if learner.placement is not None:
        params = learner.placement.gather_params(state.params)
        state = dataclasses.replace(state, params=params)
        inputs = learner.placement.split_batch(inputs)
    model = learner.model(state)
    return model(*inputs) if _takes_each(model, inputs) else model(inputs)


def _takes_each(model: Any, inputs: PyTree) -> bool:
    """Whether `inputs` is a tuple of the model's arguments."""
    if type(inputs) is not tuple:
        return False
    try:
        inspect.signature(model).bind(*inputs)
    except TypeError:
        return False
    return True
