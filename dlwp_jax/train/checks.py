"""Wrong use, told in one sentence before anything is compiled."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer

from dlwp_jax.checks import describe, is_array, is_numeric, key, numbers_of, on_device, on_host  # noqa: F401

MOST = 2**31 - 1  # steps and epochs are counted in int32

PyTree = Any


def model(value: Any) -> None:
    """Refuse what is not an NNX module."""
    if not isinstance(value, nnx.Module):
        hint = (
            " Write it with flax.nnx; linen modules can be wrapped by flax.nnx.bridge.ToNNX."
            * ("linen" in str(type(value).__mro__))
        )
        hint += " Call it first, with its sizes and rngs." * isinstance(value, type)
        raise TypeError(f"model must be a flax.nnx.Module; got {describe(value)}.{hint}")


def loss_fn(value: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(
            f"loss_fn must be a function (model, batch) -> (loss, metrics); got {describe(value)}."
        )


def optimizer(value: Any) -> None:
    """Refuse what is not an optax transformation."""
    if not isinstance(value, optax.GradientTransformation):
        hint = " Call its .gradient_transformation()." * isinstance(value, optax.MultiSteps)
        raise TypeError(
            f"tx must be an optax.GradientTransformation such as optax.adam(1e-3); got {describe(value)}.{hint}"
        )


def trainable(params: PyTree, chosen_by: Any) -> None:
    """Refuse an empty choice and leaves without gradient."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(
            f"trainable={chosen_by!r} chooses no leaf of the model, so there is nothing to train."
        )
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"trainable={chosen_by!r} chooses {name(path)} of dtype {leaf.dtype}, which has no gradient; "
                "narrow the filter, for example to nnx.Param."
            )


def hashable(learner: Any) -> None:
    """Refuse a learner that jit could not look up."""
    try:
        hash(learner)
    except TypeError as error:
        raise TypeError(
            f"the model, loss_fn and tx must be hashable to be compiled, and one is not ({error}); keep arrays of a "
            "module in nnx.Variable (or nnx.data) and lists of modules in nnx.List."
        ) from error


def count(value: Any, argument: str) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        told = repr(value) if isinstance(value, int | float) else describe(value)
        raise ValueError(f"{argument} must be a whole number of at least 1; got {told}.")
    if value > MOST:
        raise ValueError(
            f"{argument} must be at most {MOST}, which the counters hold; got {value}."
        )
    return int(value)


def pair(learner: Any, state: Any) -> None:
    """Refuse what `make_learner` did not give, or in the other order."""
    from dlwp_jax.train.learner import Learner, TrainState

    if not isinstance(learner, Learner) or not isinstance(state, TrainState):
        raise TypeError(
            f"learner and state must be what make_learner returns, in this order; got {describe(learner)} and "
            f"{describe(state)}."
        )


def state(value: Any) -> None:
    """Refuse what is no state of a training."""
    from dlwp_jax.train.learner import TrainState

    if not isinstance(value, TrainState):
        raise TypeError(
            f"state must be a TrainState, as make_learner gives it; got {describe(value)}."
        )


def stopping(stop: Any, skip_nonfinite: Any) -> None:
    """Refuse what is no early stopping, and no yes or no."""
    from dlwp_jax.train.loop import EarlyStopping

    if stop is not None and not isinstance(stop, EarlyStopping):
        raise TypeError(f"stop must be a train.EarlyStopping, or None; got {describe(stop)}.")
    if not isinstance(skip_nonfinite, bool | np.bool_):
        raise TypeError(
            f"skip_nonfinite must be True or False; got {describe(skip_nonfinite)}."
        )


def arrays(data: PyTree, argument: str) -> PyTree:
    """A pytree of numbers as device arrays: native byte order, nothing masked, no integer that
    would be cut.
    """
    again(data, argument)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: on_device(leaf, argument + name(path)), data
    )


def again(data: Any, argument: str) -> None:
    """Refuse what is used up by reading it."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"{argument} must be a pytree of arrays; got {describe(data)}, which can be read only once."
        )


def rows(data: PyTree, argument: str) -> int:
    """The common leading axis of a pytree of arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError(
            f"{argument} holds no array; it must be a pytree of arrays with a common leading axis."
        )
    lengths = {}
    for path, leaf in leaves:
        if not is_array(leaf) or np.ndim(leaf) == 0:
            raise TypeError(
                f"{argument} must be a pytree of arrays with a common leading axis, one example a row; "
                f"{argument}{name(path)} is {describe(leaf)}."
            )
        if not is_numeric(leaf.dtype):
            raise TypeError(
                f"{argument}{name(path)} has dtype {leaf.dtype}, which JAX cannot hold; encode it as numbers."
            )
        lengths[name(path)] = leaf.shape[0]
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{argument}{path} has {length}" for path, length in lengths.items())
        raise ValueError(
            f"the arrays of {argument} must agree in their leading axis (one example a row); {told}."
        )
    n = next(iter(lengths.values()))
    if n == 0:
        raise ValueError(
            f"{argument} is empty: its arrays have no rows. Leave it out (None), or give at least one example."
        )
    return n


def dataset(data: PyTree, argument: str) -> PyTree:
    """A data set as device arrays: common leading axis, no NaN. Tracers pass unlooked at."""
    again(data, argument)
    data = jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(leaf, argument + name(path)), data
    )
    rows(data, argument)
    data = arrays(data, argument)
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        with (
            jax.ensure_compile_time_eval()
        ):  # data that a jitted function closes over is looked at all the same
            has_nan = bool(jnp.isnan(leaf).any())
        if has_nan:
            where = np.argwhere(np.isnan(np.asarray(leaf)))
            raise ValueError(
                f"{argument}{name(path)} holds {len(where)} NaN, the first at row {where[0][0]}; "
                "drop or fill those examples before training."
            )
    return data


def row_kinds(tree: PyTree) -> dict[str, list[Any]]:
    """Path -> [dtype, shape] of a row, of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): [str(leaf.dtype), list(leaf.shape[1:])] for path, leaf in leaves}


def outcome(value: Any) -> None:
    """Refuse what is not a scalar loss with a dict of scalar metrics. Called while the loss is
    traced.
    """
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)):
        raise TypeError(
            f"loss_fn must return (loss, metrics), metrics a dict of scalars and maybe empty; "
            f"it returned {describe(value)}."
        )
    loss, metrics = value
    if np.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(
            f"the loss must be one real number; loss_fn returned shape {np.shape(loss)} of {jnp.result_type(loss)}. "
            "Reduce it, for example by jnp.mean."
        )
    for metric, scalar in metrics.items():
        is_scalar = isinstance(scalar, int | float) or getattr(scalar, "shape", None) == ()
        if not isinstance(metric, str) or not is_scalar:
            raise ValueError(
                f"metrics must be scalars under names; loss_fn returned {metric!r}: {describe(scalar)}."
            )
    if "loss" in metrics:
        raise ValueError(
            "a metric may not be called 'loss': that name is the loss itself; rename it."
        )


def kept(extra: PyTree, before: PyTree) -> None:
    """Refuse a forward pass that changes what state there is, which a compiled loop could not
    carry.
    """
    if jax.tree.map(kind, extra) != jax.tree.map(kind, before):
        raise ValueError(
            "the forward pass adds, drops, reshapes or retypes state of the model (training must keep the structure of "
            f"{sorted(before) or 'no extra state'}; it leaves {sorted(extra)}); create every nnx.Variable in "
            "__init__."
        )


def kind(leaf: Any) -> tuple[Any, ...]:
    """What a compiled loop must keep of a leaf."""
    return leaf.shape, leaf.dtype


def monitor(wanted: str, names: list[str]) -> None:
    """Refuse to watch what is not recorded."""
    if wanted not in names:
        hint = " Give val, or monitor a train/ value." * wanted.startswith("val/")
        raise ValueError(
            f"monitor={wanted!r} is not recorded; there are {', '.join(names)}.{hint}"
        )


def as_array(leaf: Any, argument: str) -> Any:
    """A leaf that offers itself as an array (a torch tensor, a data frame) as NumPy's; any
    other as it is.
    """
    is_foreign = hasattr(leaf, "__array__") and not isinstance(
        leaf, jax.Array | np.ndarray | np.generic
    )
    return numbers_of(leaf, argument) if is_foreign else leaf


def name(path: tuple[Any, ...]) -> str:
    """A leaf's path as it is written in Python: ['x'][0]."""
    return jax.tree_util.keystr(path)
