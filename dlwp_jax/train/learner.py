"""What is trained: a Learner (static: graph, loss, optimizer) and a TrainState (arrays
only).
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlwp_jax.devices import joint
from dlwp_jax.devices.placement import Placement
from dlwp_jax.train import checks, precision

PyTree = Any
LossFn = Callable[[Any, PyTree], tuple[jax.Array, dict[str, jax.Array]]]
RECORDS: dict[str, tuple[str, ...]] = {
    "norms": ("grad_norm", "param_norm", "update_norm"),
    "dead_units": ("dead_units",),
    "eval_loss": ("eval_loss",),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and nothing else: a pytree of arrays.

    Attributes:
      params: the trained leaves, nested dicts as in the model.
      extra: every other array of the model: batch statistics, buffers, frozen parameters.
      rngs: the model's random streams. Each step seeds them anew from `key`, so they carry no
        history.
      opt_state: the optimizer's state.
      key: one PRNG key, constant. Epoch `e` and step `i` use what is folded in from `(key, e,
        i)`, so 3 + 4 epochs give the bits of 7.
      epoch: int32, epochs finished since `make_learner`.
      step: int32, optimizer steps taken since `make_learner`.
    """

    params: PyTree
    extra: PyTree
    rngs: PyTree
    opt_state: PyTree
    key: jax.Array
    epoch: jax.Array
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class Learner:
    """All that training does not change: hashable, so a program compiled for it is found again.

    Attributes:
      train_def, eval_def: the model's graph after `model.train()` and after `model.eval()`.
      loss_fn: `loss_fn(model, batch) -> (loss, metrics)`.
      tx: the optax transformation.
      trainable: the NNX filter that chose `TrainState.params`.
      record: what each step logs besides loss and metrics, names of RECORDS.
      accumulate: in how many parts a step computes the gradient of its batch.
      placement: where state and batches lie, where that is more than one device; found anew in
        every call.
    """

    train_def: nnx.GraphDef[Any]
    eval_def: nnx.GraphDef[Any]
    loss_fn: LossFn
    tx: optax.GradientTransformation
    trainable: Any
    record: tuple[str, ...] = ()
    accumulate: int = 1
    placement: Placement | None = None

    @property
    def step_logs(self) -> tuple[str, ...]:
        """The names of the logs that only a training step has."""
        return tuple(name for kind in self.record for name in RECORDS[kind])

    def model(self, state: TrainState, *, train: bool = False) -> Any:
        """The NNX module with the parameters of `state`, in eval mode unless `train`."""
        return self._merge(state, state.params, state.rngs, train)

    def loss(
        self, state: TrainState, params: PyTree, batch: PyTree, key: jax.Array, *, train: bool
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
        """`loss_fn` at `params`, with random streams seeded by `key`: loss, (metrics, the new
        `extra`).
        """
        if self.placement is not None:
            params = self.placement.gather_params(params)
            batch = self.placement.split_batch(batch)
        model = self._merge(state, params, _seeded(state.rngs, key), train)
        outcome = self.loss_fn(model, batch)
        checks.outcome(outcome)
        loss, metrics = outcome
        nnx.pop(model, nnx.Intermediate)  # what the forward pass sowed is not state
        _, _, _, extra = nnx.split(model, nnx.RngState, self.trainable, ...)
        extra = nnx.to_pure_dict(extra)
        if train:
            checks.kept(extra, state.extra)
        return loss, (metrics, extra)

    def placed(self, state: TrainState, **data: PyTree) -> "Learner":
        """This learner, for programs over the devices on which state and data lie."""
        placement = Placement.from_arrays(state, data)
        if placement == self.placement:
            return self  # the same object, by which what is known of its steps is found
        return dataclasses.replace(self, placement=placement)

    @property
    def unplaced(self) -> "Learner":
        """This learner wherever arrays lie: what a step computes does not depend on it."""
        return self if self.placement is None else dataclasses.replace(self, placement=None)

    def laid(self, tree: PyTree) -> PyTree:
        """A tree with its states where the state lay, and all else on every device."""
        if self.placement is None:
            return tree
        lay, is_state = self.placement, lambda node: isinstance(node, TrainState)
        return jax.tree.map(
            lambda n: lay.constrain_state(n) if is_state(n) else lay.replicate(n),
            tree,
            is_leaf=is_state,
        )

    def _merge(self, state: TrainState, params: PyTree, rngs: PyTree, train: bool) -> Any:
        graph = self.train_def if train else self.eval_def
        # copy=True: the arrays of a merged module are its own, so batch norm may write to them
        # under jax.grad.
        return nnx.merge(graph, params, rngs, state.extra, copy=True)


def make_learner(
    model: nnx.Module,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    key: jax.Array,
    trainable: Any = nnx.Param,
    record: Collection[str] = (),
    accumulate: int = 1,
    compute_dtype: Any = None,
) -> tuple[Learner, TrainState]:
    """Take a model apart into what training changes and what it does not.

    Args:
      model: any Flax NNX module; it is copied, not changed.
      loss_fn: `loss_fn(model, batch) -> (loss, metrics)`: a scalar to minimise, and a dict of
        scalars to record.
      tx: any optax transformation.
      key: a PRNG key for shuffling and for the model's own random streams (dropout).
      trainable: an NNX filter. Leaves it does not choose are frozen: no gradient, no optimizer
        state, and no change but what the model itself makes in its forward pass (running
        statistics of batch norm move, as in torch). For example `nnx.All(nnx.Param,
        nnx.PathContains("head"))` trains the head alone, as the book does when it fine-tunes
        its nodule classifier (chapter 14).
      record: more to log, as means over the epoch's steps. "norms": `train/grad_norm`,
        `train/param_norm` and `train/update_norm`, the Euclidean norms over all trained leaves
        of the loss's gradient, of the parameters before the step, and of what the optimizer
        adds to them. "dead_units": `train/dead_units`, the share of units that no gradient
        reaches on a batch (rectifiers never active, sigmoids at their limit; a penalty inside
        the loss hides them). "eval_loss": `train/eval_loss`, the loss of the same batches and
        parameters in eval mode, which is what `val/loss` can be compared with where there is
        dropout or batch norm; it costs one more forward pass.
      accumulate: compute the gradient of a batch in so many parts, one after the other, as
        equal in rows as they can be: memory is that of a part, and the step is that of the
        whole batch, to rounding, where the loss is a mean over its rows. What is not: batch
        norm normalises by each part's own moments (and moves its running ones part by part), as
        in torch, and each part draws its own dropout. Metrics are means over parts, weighted by
        rows.
      compute_dtype: `jnp.bfloat16` or `jnp.float16`: the call `model(...)` casts parameters and
        inputs to it, and its outputs to float32; all else (other methods of the model, the
        loss, gradients, updates, statistics of batch norm) stays in float32. float16 scales the
        loss, as `torch.amp.GradScaler` does: a step whose gradient overflows is left out and
        counted in `Run.skipped`, and the scale halved; it is a failure only where the scale has
        come down to 1. The scale is `state.opt_state.scale`, the optimizer's own state is
        `.inner`.

    Returns:
      `(learner, state)`.

    Raises:
      TypeError: where `model` is not an NNX module, `tx` is no optax transformation, `key` is
        no PRNG key, or `trainable` chooses leaves that are not floating point.
      ValueError: where `trainable` chooses nothing, `record` or `compute_dtype` is not known,
        or `accumulate` is below 1.

    >>> import optax
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> learner, state = make_learner(model, loss_fn, optax.sgd(1e-2), key=jax.random.key(0))
    >>> jax.tree.map(jnp.shape, state.params)
    {'bias': (1,), 'kernel': (1, 1)}
    """
    checks.model(model)
    checks.loss_fn(loss_fn)
    checks.optimizer(tx)
    key, compute_dtype = checks.key(key), precision.dtype_of(compute_dtype)
    model = nnx.clone(model)
    if compute_dtype is not None:
        model = precision.compute_in(model, compute_dtype)
    model.eval()
    eval_def = nnx.graphdef(model)
    model.train()
    train_def, *parts = nnx.split(model, nnx.RngState, trainable, ...)
    rngs, params, extra = (nnx.to_pure_dict(part) for part in parts)
    params = jax.tree.map(jnp.asarray, params)
    checks.trainable(params, trainable)
    accumulate = checks.count(accumulate, "accumulate")
    learner = Learner(train_def, eval_def, loss_fn, tx, trainable, _known(record), accumulate)
    checks.hashable(learner)
    zero = jnp.zeros((), jnp.int32)
    opt_state = precision.scaled(tx.init(params), compute_dtype)
    return learner, TrainState(params, extra, rngs, opt_state, key, zero, zero)


def _known(record: Collection[str]) -> tuple[str, ...]:
    """What is to be recorded, in the order of RECORDS; a single word is refused before it is
    read as letters.
    """
    known = isinstance(record, tuple | list | set | frozenset | dict) and all(
        kind in [*RECORDS] for kind in record
    )
    if not known:
        told = checks.describe(record)
        raise ValueError(
            f"record must be a collection of {', '.join(map(repr, RECORDS))}; got {told}."
        )
    return tuple(kind for kind in RECORDS if kind in record)


def predict(
    learner: Learner, state: TrainState, inputs: PyTree, *, batch_size: int | None = None
) -> PyTree:
    """The model's outputs in eval mode, compiled.

    Args:
      learner, state: from `make_learner`, or a `Run`'s `state` or `best`.
      inputs: what the model is called with, arrays `[n ...]`.
      batch_size: at most this many rows at a time (None: all at once).

    Returns:
      `model(inputs)`, `[n ...]`.
    """
    checks.pair(learner, state)
    call = joint.enter("predict", state, {"inputs": inputs}, {"batch_size": batch_size})
    state, inputs = call.state, checks.arrays(call.data[0], "inputs")
    learner = learner.placed(state)
    if batch_size is None:
        return call.leave(_predict(learner, state, inputs))
    n, size = checks.rows(inputs, "inputs"), checks.count(batch_size, "batch_size")
    parts = [
        _predict(learner, state, jax.tree.map(lambda leaf, i=i: leaf[i : i + size], inputs))
        for i in range(0, n, size)
    ]
    return call.leave(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))


@functools.partial(jax.jit, static_argnums=0)
def _predict(learner: Learner, state: TrainState, inputs: PyTree) -> PyTree:
    if learner.placement is not None:
        state = dataclasses.replace(state, params=learner.placement.gather_params(state.params))
        inputs = learner.placement.split_batch(inputs)
    return learner.model(state)(inputs)


def _seeded(rngs: PyTree, key: jax.Array) -> PyTree:
    """The random streams started anew: stream `i` gets `fold_in(key, i)`, counters get 0."""
    leaves, structure = jax.tree.flatten(rngs)

    def fresh(i, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros_like(leaf)
        own = jax.random.fold_in(key, i)
        return (
            jax.random.split(own, leaf.shape) if leaf.shape else own
        )  # a stacked layer has a stack of keys

    return jax.tree.unflatten(structure, [fresh(i, leaf) for i, leaf in enumerate(leaves)])
