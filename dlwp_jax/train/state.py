"""A `Learner` (static: graph, loss, optimizer) and a `TrainState` (arrays)."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlwp_jax import filters
from dlwp_jax.checks import describe, whole
from dlwp_jax.devices.placement import Placement
from dlwp_jax.leaves import strongly
from dlwp_jax.train import checks, metrics, modes, precision
from dlwp_jax.train.metrics import Metric

PyTree = Any
LossFn = Callable[[Any, PyTree], tuple[jax.Array, Mapping[str, Metric]]]

# The logs that each word of `make_learner(record=...)` adds to a step.
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
      key: one PRNG key, constant. Epoch `e` and step `i` use the key that is folded in from
        `(key, e, i)`, so 3 + 4 epochs give the bits of 7.
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
      train_def, eval_def: the model's graph if `train`, and after `model.eval()`.
      loss_fn: `loss_fn(model, batch) -> (loss, metrics)`.
      tx: the optax transformation.
      trainable: the NNX filter that chose `TrainState.params`.
      record: further logs of a training step, names of RECORDS.
      accumulate: the number of parts in which a step computes the gradient of its batch.
      placement: the devices of state and batches if they are several; found anew in every call.
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
    ) -> tuple[jax.Array, tuple[Mapping[str, Metric], PyTree]]:
        """`loss_fn` at `params`, the model's random streams seeded by `key`.

        Returns:
          `(loss, (metrics, extra))`, with the state that the forward pass leaves in `extra`.
        """
        if self.placement is not None:
            params = self.placement.gather_params(params)
            batch = self.placement.split_batch(batch)
        model = self._merge(state, params, _seeded(state.rngs, key), train)
        outcome = self.loss_fn(model, batch)
        metrics.check(outcome)
        loss, logs = outcome
        nnx.pop(model, nnx.Intermediate)  # values that the forward pass sowed are no state
        _, _, _, extra = nnx.split(model, nnx.RngState, self.trainable, ...)
        extra = nnx.to_pure_dict(extra)
        if train:
            checks.kept(extra, state.extra)
        return loss, (logs, extra)

    def placed(self, state: TrainState, **data: PyTree) -> "Learner":
        """This learner for programs over the devices of state and data.

        On one device it is the same object, by which compiled programs are found again.
        """
        placement = Placement.from_arrays(state, data)
        if placement == self.placement:
            return self
        return dataclasses.replace(self, placement=placement)

    @property
    def unplaced(self) -> "Learner":
        """This learner without devices, on which the numbers of a step do not depend."""
        return self if self.placement is None else dataclasses.replace(self, placement=None)

    def constrain(self, tree: PyTree) -> PyTree:
        """A tree with its states placed as the state came in, all else on every device."""
        if self.placement is None:
            return tree
        placement = self.placement

        def placed(node):
            if isinstance(node, TrainState):
                return placement.constrain_state(node)
            return placement.replicate(node)

        return jax.tree.map(placed, tree, is_leaf=lambda node: isinstance(node, TrainState))

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
    """Split a model into the arrays that training changes and all that it does not.

    Args:
      model: any Flax NNX module; it is copied, not changed.
      loss_fn: `loss_fn(model, batch) -> (loss, metrics)`: a scalar to minimise, and a dict of
        metrics to record. A metric is a scalar, of which the history holds the mean over the
        epoch's steps, or a `Ratio`, of which it holds the quotient of the sums.
      tx: any optax transformation.
      key: a PRNG key for shuffling and for the model's own random streams (dropout).
      trainable: an NNX filter. Leaves that it does not choose are frozen: they get no gradient,
        no optimizer state and no change but the one that the forward pass itself makes. For
        example `nnx.All(nnx.Param, nnx.PathContains("head"))` trains the head alone, as the
        book does when it fine-tunes its nodule classifier (chapter 14). In the forward pass the
        running statistics of batch norm move, as in torch, unless that part is in eval mode:
        after `model.backbone.eval()` the backbone stays in it, its statistics as they are and
        its dropout off. A model that is in eval mode as a whole is put into training mode,
        except for its frozen parts.
      record: further logs, as means over the epoch's steps. "norms": `train/grad_norm`,
        `train/param_norm` and `train/update_norm`, the Euclidean norms over all trained leaves
        of the loss's gradient, of the parameters before the step, and of the update that the
        optimizer adds to them. "dead_units": `train/dead_units`, the share of units that no
        gradient reaches on a batch (rectifiers that are never active, sigmoids at their limit;
        a penalty inside the loss hides them). "eval_loss": `train/eval_loss`, the loss of the
        same batches and parameters in eval mode, which can be compared with `val/loss` if the
        model has dropout or batch norm; it costs one more forward pass.
      accumulate: compute the gradient of a batch in this many parts, one after the other, as
        equal in rows as they can be. The memory is that of a part, and the step is that of the
        whole batch, up to rounding, if the loss is a mean over its rows. Two things differ:
        batch norm normalises by each part's own moments (and moves its running ones part by
        part), as in torch, and each part draws its own dropout. Metrics are means over parts,
        weighted by rows.
      compute_dtype: `jnp.bfloat16` or `jnp.float16`: the call `model(...)` casts parameters and
        inputs to it, and its outputs to float32; all else (other methods of the model, the
        loss, gradients, updates, statistics of batch norm) stays in float32. float16 scales the
        loss, as `torch.amp.GradScaler` does: a step whose gradient overflows is left out and
        counted in `Run.skipped`, and the scale is halved; it is a failure only if the scale has
        come down to 1. The scale is `state.opt_state.scale`, the optimizer's own state is
        `.inner`.

    Returns:
      `(learner, state)`.

    Raises:
      TypeError: if `model` is not an NNX module, `tx` is no optax transformation, `key` is no
        PRNG key, or `trainable` chooses leaves that are not floating point, or statistics.
      ValueError: if `trainable` chooses nothing or holds a name that the model does not have,
        `record` or `compute_dtype` is not known, or `accumulate` is below 1.

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
    key = checks.key(key)
    compute_dtype = precision.dtype_of(compute_dtype)
    trainable = filters.checked(trainable, model)
    model = nnx.clone(model)
    in_eval = modes.kept_in_eval(model, trainable)
    if compute_dtype is not None:
        model = precision.compute_in(model, compute_dtype)
    model.eval()
    eval_def = nnx.graphdef(model)
    model.train()
    for module, name in in_eval:
        setattr(module, name, True)
    train_def, *parts = nnx.split(model, nnx.RngState, trainable, ...)
    checks.no_statistics(parts[1], trainable)
    rngs, params, extra = (nnx.to_pure_dict(part) for part in parts)
    params = jax.tree.map(jnp.asarray, params)
    checks.trainable(params, trainable, model)
    accumulate = whole(accumulate, "accumulate", 1)
    record = _known(record)
    learner = Learner(train_def, eval_def, loss_fn, tx, trainable, record, accumulate)
    checks.hashable(learner)
    opt_state = precision.scaled(tx.init(params), compute_dtype)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(params, extra, rngs, opt_state, key, zero, zero)
    return learner, jax.tree.map(strongly, state)


def check_pair(learner: Any, state: Any) -> None:
    """Refuse a learner and a state that are not of `make_learner`, or in the other order."""
    if not isinstance(learner, Learner) or not isinstance(state, TrainState):
        raise TypeError(
            "learner and state must be what make_learner returns, in this order; got "
            f"{describe(learner)} and {describe(state)}."
        )


def check_state(state: Any) -> None:
    """Refuse a value that is no state of a training."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a TrainState, as make_learner gives it; got {describe(state)}."
        )


def _known(record: Collection[str]) -> tuple[str, ...]:
    """The words of `record` in the order of RECORDS; a str is not read as its letters."""
    is_collection = isinstance(record, tuple | list | set | frozenset | dict)
    if not is_collection or not all(kind in list(RECORDS) for kind in record):
        raise ValueError(
            f"record must be a collection of {', '.join(map(repr, RECORDS))}; "
            f"got {describe(record)}."
        )
    return tuple(kind for kind in RECORDS if kind in record)


def _seeded(rngs: PyTree, key: jax.Array) -> PyTree:
    """The random streams started anew: stream `i` gets `fold_in(key, i)`, counters get 0."""
    leaves, structure = jax.tree.flatten(rngs)

    def fresh(i, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros_like(leaf)
        own = jax.random.fold_in(key, i)
        # A layer stacked by nnx.vmap has a stack of keys.
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.unflatten(structure, [fresh(i, leaf) for i, leaf in enumerate(leaves)])
