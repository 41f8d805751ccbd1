"""Cures for overfitting: penalties, noise, weight averages, and the places of the other cures
(chapters 5 and 8).

A model that fits its training examples better than new ones has learned some of their noise.
The book names the cures; each has one place here:

| cure | here | how it helps |
| --- | --- | --- |
| more data, or changed copies | `data.augment.augment` | \
the one cure that adds knowledge: which changes do not matter |
| a smaller model | `search.search_capacity` | too few weights to learn examples by heart |
| stop in time | `train.EarlyStopping` | keep the weights from before the validation loss rose |
| L2, L1 penalty | `l2`, `l1` | small weights make slow functions; L1 makes many of them zero |
| weight decay | `optim.adamw`, `optim.sgd` | \
the same pull in the optimizer's update (`weight_decay=`) |
| smoothness penalty | `smoothness` | the output changes slowly around the examples |
| noise on the input | `InputNoise` | other copies each epoch: no single value can be learned |
| dropout | `nn.Dropout`, `nn.Dropout2d` | noise inside: no unit can rely on one other unit |
| label smoothing | `losses.cross_entropy` | \
logits stay finite, even for wrong labels (`label_smoothing=`) |
| batch normalisation | `nn.BatchNorm2d` | made for speed; a batch's moments are noise, too |
| weight averaging | `ema`, `swa`, `averaged`, `update_bn` | \
the mean of the last weights is quieter than any of them |

Strengths may be traced values, so that `jax.vmap` and `search.sweep` can try many in one
program:

    def loss_fn(model, batch):
        loss = losses.mse_loss(model(batch["x"]), batch["y"])
        return loss + strength * regularization.l2(model, biases=False), {}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlwp_jax.data import augment
from dlwp_jax.nn.batch_norm import RunningMoments
from dlwp_jax.nn.layer_norm import GroupNorm, LayerNorm, RMSNorm
from dlwp_jax.nn.signature import shown
from dlwp_jax.train import Learner, TrainState, checks

PyTree = Any
_RUNNING = (RunningMoments, nnx.BatchNorm)
_NORMS = (
    *_RUNNING,
    GroupNorm,
    LayerNorm,
    RMSNorm,
    nnx.GroupNorm,
    nnx.LayerNorm,
    nnx.RMSNorm,
    nnx.InstanceNorm,
)


def l2(
    model: nnx.Module, of: Any = nnx.Param, *, biases: bool = True, norms: bool = True
) -> jax.Array:
    """The sum of squared parameters, to be added to a loss: the book's `l2_lambda * l2_norm`
    (chapter 8.5.1).

    Small weights make functions that change slowly from one example to the next. Its gradient
    is `2 w`: with plain SGD, `strength * l2` is weight decay of `2 * strength`.

    Args:
      model: an NNX module.
      of: the NNX filter of the parameters that are penalised.
      biases: whether parameters called `bias` are included. A bias shifts a function and does
        not make it steeper.
      norms: whether scale and bias of normalisation layers are included. A penalty on them has
        little effect, since the layers before them can compensate for it.

    Returns:
      A scalar, float32 or wider.

    Raises:
      ValueError: if no parameter is left to penalise.

    >>> layer = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> layer.kernel[...], layer.bias[...] = jnp.array([[3.0]]), jnp.array([2.0])
    >>> l2(layer).item(), l2(layer, biases=False).item()
    (13.0, 9.0)
    """
    return _sum_of(jnp.square, model, of, biases, norms)


def l1(
    model: nnx.Module, of: Any = nnx.Param, *, biases: bool = True, norms: bool = True
) -> jax.Array:
    """The sum of absolute parameters: it pulls all of them equally, and needless ones to zero.

    Arguments, result and errors as for `l2`.

    >>> layer = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> layer.kernel[...], layer.bias[...] = jnp.array([[-3.0]]), jnp.array([2.0])
    >>> l1(layer).item()
    5.0
    """
    return _sum_of(_absolute, model, of, biases, norms)


def _absolute(w: jax.Array) -> jax.Array:
    """|w| with gradient 0 at 0, as torch has it (that of `jnp.abs` is 1 there)."""
    return w * jnp.sign(w)


def _sum_of(
    size: Callable[[jax.Array], jax.Array],
    model: nnx.Module,
    of: Any,
    biases: bool,
    norms: bool,
) -> jax.Array:
    checks.model(model)
    inside_norms = () if norms else _paths(model, _NORMS)
    chosen = [
        variable[...]
        for path, variable in nnx.to_flat_state(nnx.state(model, of))
        if (biases or not _is_bias(path[-1])) and path[:-1] not in inside_norms
    ]
    if not chosen:
        raise ValueError(
            f"no parameter is left to penalise: of={of!r}, biases={biases}, norms={norms}."
        )
    return jnp.sum(jnp.stack([jnp.sum(size(_wide(leaf))) for leaf in chosen]))


def _is_bias(name: Any) -> bool:
    """Whether a parameter is a bias by its name: `bias`, `in_proj_bias`."""
    return str(name).rpartition("_")[2] == "bias"


def _paths(model: nnx.Module, kinds: tuple[type, ...]) -> set[tuple]:
    """The paths of all modules of some kinds."""
    return {path for path, module in nnx.iter_modules(model) if isinstance(module, kinds)}


def smoothness(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, *, key: jax.Array | None = None
) -> jax.Array:
    """The mean over examples of |d output / d input|^2, to be added to a loss (the gradient
    penalty).

    L2 makes a function flat through small weights; this penalty does it directly, around the
    examples. It needs double backpropagation: a step takes two to three times as long.

    Args:
      function: an NNX module, or a function; `[n ...] -> [n ...]`, each example by itself. A
        module is copied: its batch statistics and random streams stay.
      x: `[n ...]`, floating: the inputs of a batch, or points between them.
      key: None takes the whole Jacobian, one backward pass for each output value of an example.
        With a key it is estimated without bias by one pass along a random direction, which is
        faster for many outputs.

    Returns:
      A scalar: the squared Frobenius norm of the Jacobian, averaged over the n examples.

    >>> smoothness(lambda x: 3 * x, jnp.array([[1.0], [2.0]])).item()
    9.0
    """
    if isinstance(function, nnx.Module):
        graph, variables = nnx.split(function)
        output, pull = jax.vjp(lambda x: nnx.merge(graph, variables, copy=True)(x), x)
    else:
        output, pull = jax.vjp(function, x)
    if output.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"function must give one output for each of the {len(x)} examples; it gives "
            f"{output.shape}."
        )
    if key is not None:
        (slopes,) = pull(jax.random.normal(key, output.shape, output.dtype))
    else:
        values = output[0].size
        one_hot = jnp.eye(values, dtype=output.dtype).reshape(values, 1, *output.shape[1:])
        (slopes,) = jax.vmap(pull)(jnp.broadcast_to(one_hot, (values, *output.shape)))
    return jnp.sum(jnp.square(slopes)) / x.shape[0]


@shown
class InputNoise(nnx.Module):
    """Normal noise on the input in train mode, nothing in eval mode.

    Args:
      std: standard deviation, in the unit of the input: a number, or a traced scalar in a
        sweep.
      rngs: its `noise` stream (or its default one) is forked: the layer has its own stream of
        keys.

    >>> layer = InputNoise(0.1, rngs=nnx.Rngs(0))
    >>> bool(0 < abs(layer(jnp.zeros(100))).max() < 1)
    True
    >>> layer.eval()
    >>> layer(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def __init__(self, std: float | jax.Array, *, rngs: nnx.Rngs):
        if not isinstance(std, jax.Array) and not 0 <= std < float("inf"):
            raise ValueError(f"std={std} must be finite, and 0 or more.")
        self.std: float | jax.Array = nnx.data(std) if isinstance(std, jax.Array) else std
        self.deterministic = False  # nnx's model.train() and model.eval() set it
        self.rngs: nnx.RngStream = rngs.noise.fork()

    def __call__(self, x: jax.Array) -> jax.Array:  # any shape -> the same
        """`x` with noise in train mode; `x` itself in eval mode."""
        return x if self.deterministic else augment.noise(self.rngs(), x, self.std)


# The optimizer keeps the average, so that it is jitted, mapped, saved and resumed with the rest
# of the training.


class AveragingState(NamedTuple):
    """State of `ema` and `swa`: the average, and the number of weights in it.

    `inner` is the state of the wrapped optimizer, `step` counts its updates.
    """

    inner: optax.OptState
    average: PyTree
    count: jax.Array
    step: jax.Array


def ema(
    tx: optax.GradientTransformation, decay: float | jax.Array = 0.999
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that also keeps an exponential moving average of the parameters, for
    `averaged`.

    average <- decay average + (1 - decay) params after every step, from the first step's
    parameters on; torch's `swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`. About
    the last 1 / (1 - decay) steps count.

    >>> from dlwp_jax import train
    >>> loss_fn = lambda model, batch: (jnp.mean(model(batch) ** 2), {})
    >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> tx, key = ema(optax.sgd(0.1), 0.9), jax.random.key(0)
    >>> learner, state = train.make_learner(model, loss_fn, tx, key=key)
    >>> result = train.run(learner, state, jnp.ones((4, 1)), epochs=20, batch_size=2)
    >>> quiet = averaged(result.state)
    >>> bool(train.evaluate(learner, quiet, jnp.ones((4, 1)))["loss"] > 0)
    True
    """
    if not isinstance(decay, jax.Array) and not 0 <= decay < 1:
        raise ValueError(f"decay={decay} must be in [0, 1).")
    return _averaging(tx, lambda count: 1 - decay, start=0, every=1)


def swa(
    tx: optax.GradientTransformation, *, start: int, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that also keeps the mean of the parameters of late steps, for `averaged`
    (stochastic weight averaging).

    The mean of steps `start + every`, `start + 2 every`, ...: torch's
    `swa_utils.AveragedModel`, updated at these steps. Before the first of them, `averaged`
    gives the newest parameters up to `start`. Train with a constant or cyclic learning rate
    while it averages, and call `update_bn` on the result if the model has batch norm.

    Args:
      tx: the optimizer.
      start: optimizer steps before the averaging begins (epochs times steps an epoch).
      every: steps from one member of the mean to the next; the usual choice is an epoch.
    """
    if not start >= 0:
        raise ValueError(f"start={start} must be 0 steps or more.")
    return _averaging(
        tx, lambda count: 1 / count, start=start, every=checks.count(every, "every")
    )


def _averaging(tx, weight, *, start, every) -> optax.GradientTransformationExtraArgs:
    """The newest of `count` members enters the average with `weight(count)`, the first one with
    1.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return AveragingState(tx.init(params), jax.tree.map(_wide, params), zero, zero)

    def update(updates, state, params=None, **more):
        if params is None:
            raise ValueError(
                "params is missing; call update(grads, state, params) to average parameters."
            )
        updates, inner = tx.update(updates, state.inner, params, **more)
        step = state.step + 1
        enters = (step > start) & ((step - start) % every == 0)
        count = state.count + enters
        share = jnp.where(count > 1, weight(jnp.maximum(count, 1)), 1)
        share = jnp.where(enters, share, step <= start).astype(jnp.float32)
        newest = jax.tree.map(_wide, optax.apply_updates(params, updates))
        average = optax.incremental_update(newest, state.average, share)
        return updates, AveragingState(inner, average, count, step)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide(leaf: jax.Array) -> jax.Array:
    """At least float32: in 16 bits the small steps of an average would be rounded away."""
    return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))


def averaged(state: TrainState) -> TrainState:
    """The state with the averaged parameters that `ema` or `swa` kept, for `evaluate` and
    `predict`.

    The rest (batch statistics, the optimizer's state) stays as it is.

    Raises:
      ValueError: if the optimizer keeps no average.
    """
    is_average = lambda node: isinstance(node, AveragingState)  # noqa: E731
    found = [
        node
        for node in jax.tree.leaves(state.opt_state, is_leaf=is_average)
        if is_average(node)
    ]
    if not found:
        raise ValueError(
            "the optimizer keeps no average; wrap it: ema(tx, decay) or swa(tx, start=...)."
        )
    params = jax.tree.map(
        lambda mean, param: mean.astype(param.dtype), found[0].average, state.params
    )
    return dataclasses.replace(state, params=params)


def update_bn(
    learner: Learner, state: TrainState, data: PyTree, *, batch_size: int
) -> TrainState:
    """The state with new statistics of batch norm; torch's `swa_utils.update_bn`.

    Running statistics belong to the weights of the training; averaged weights need new ones.
    They take one pass over the data in train mode, without a gradient: each layer's mean and
    variance become the average over the batches.

    Args:
      learner, state: from `make_learner`, usually with the parameters of `averaged`.
      data: pytree of arrays `[n ...]`, the training data.
      batch_size: as in training.

    Returns:
      The state with new `extra`; the same state if the model has no batch norm.
    """
    data = checks.dataset(data, "data")
    n, size = checks.rows(data, "data"), checks.count(batch_size, "batch_size")
    model = learner.model(state, train=True)
    layers = _paths(model, _RUNNING)
    # Each batch leaves its own moments, not a running mean. torch's momentum is the weight of
    # the new value, Flax's that of the old one.
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, RunningMoments):
            layer.momentum = 1.0
        elif isinstance(layer, nnx.BatchNorm):
            layer.momentum = 0.0
    probe = dataclasses.replace(learner, train_def=nnx.graphdef(model))
    paths = [
        path
        for path, _ in nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
        if path[:-1] in layers
    ]
    batches = [jax.tree.map(lambda a, i=i: a[i : i + size], data) for i in range(0, n, size)]
    passes = [
        _extra(probe, state, batch, jax.random.fold_in(state.key, i))
        for i, batch in enumerate(batches)
    ]
    measured = [nnx.traversals.flatten_mapping(extra) for extra in passes]
    extra = nnx.traversals.flatten_mapping(state.extra)
    for path in paths:
        values = jnp.stack([values[path] for values in measured])
        counts = jnp.issubdtype(values.dtype, jnp.integer)  # num_batches_tracked
        extra[path] = jnp.asarray(len(batches), values.dtype) if counts else values.mean(axis=0)
    return dataclasses.replace(state, extra=nnx.traversals.unflatten_mapping(extra))


@partial(jax.jit, static_argnums=0)
def _extra(learner: Learner, state: TrainState, batch: PyTree, key: jax.Array) -> PyTree:
    """`state.extra` after a forward pass in train mode."""
    return learner.loss(state, state.params, batch, key, train=True)[1][1]
