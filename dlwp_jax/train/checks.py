"""Checks of the arguments of a training: one sentence, before anything is compiled."""

import difflib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer

from dlwp_jax.checks import describe, is_array, is_numeric, key, numbers_of, on_device, whole
from dlwp_jax.filters import shown

__all__ = ["describe", "is_array", "key"]

PyTree = Any


def model(value: Any) -> None:
    """Refuse a model that is not an NNX module."""
    if isinstance(value, nnx.Module):
        return
    hint = ""
    if "linen" in str(type(value).__mro__):
        hint = " Write it with flax.nnx; linen modules can be wrapped by flax.nnx.bridge.ToNNX."
    elif isinstance(value, type):
        hint = " Call it first, with its sizes and rngs."
    raise TypeError(f"model must be a flax.nnx.Module; got {describe(value)}.{hint}")


def loss_fn(value: Any) -> None:
    """Refuse a loss that cannot be called."""
    if not callable(value):
        raise TypeError(
            "loss_fn must be a function (model, batch) -> (loss, metrics); "
            f"got {describe(value)}."
        )


def optimizer(value: Any) -> None:
    """Refuse an optimizer that is not an optax transformation."""
    if isinstance(value, optax.GradientTransformation):
        return
    hint = ""
    if isinstance(value, optax.MultiSteps):
        hint = " Call its .gradient_transformation()."
    raise TypeError(
        "tx must be an optax.GradientTransformation such as optax.adam(1e-3); "
        f"got {describe(value)}.{hint}"
    )


def trainable(params: PyTree, filter: Any, model: nnx.Module) -> None:
    """Refuse a filter that chooses no leaf of the model, or leaves without a gradient."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        parameters = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
        known = f"parameters are {shown(parameters)}" if parameters else "model has none"
        raise ValueError(
            f"trainable={filter!r} chooses no leaf of the model, so there is nothing to train. "
            f"The {known}."
        )
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"trainable={filter!r} chooses {name(path)} of dtype {leaf.dtype}, which has "
                "no gradient; narrow the filter, for example to nnx.Param."
            )


def no_statistics(chosen: nnx.State, filter: Any) -> None:
    """Refuse a filter that chooses running statistics, which would then never move."""
    for path, variable in nnx.to_flat_state(chosen):
        if isinstance(variable, nnx.BatchStat):
            raise TypeError(
                f"trainable={filter!r} chooses {'.'.join(map(str, path))}, a statistic, which "
                "the forward pass moves and not a gradient; narrow the filter: "
                f"nnx.All(nnx.Param, {filter!r})."
            )


def hashable(learner: Any) -> None:
    """Refuse a learner that jit could not look up."""
    try:
        hash(learner)
    except TypeError as error:
        raise TypeError(
            "the model, loss_fn and tx must be hashable to be compiled, and one is not "
            f"({error}); keep arrays of a module in nnx.Variable (or nnx.data) and lists of "
            "modules in nnx.List."
        ) from error


def count(value: Any, argument: str) -> int:
    """A whole number of at least 1."""
    return whole(value, argument, 1)


def sampler(value: Any, key: jax.Array, epoch: jax.Array, n: int) -> int:
    """The number of rows that a sampler gives; refuse one that gives no rows of n examples.

    The values are looked at in this epoch only, and not if the key is traced.
    """
    if not callable(value):
        raise TypeError(
            f"sampler must be a function (key, epoch) -> row numbers; got {describe(value)}."
        )
    rows = jax.eval_shape(value, key, epoch)
    is_row = is_array(rows) and len(rows.shape) == 1 and rows.shape[0] > 0
    if not is_row or not jnp.issubdtype(rows.dtype, jnp.integer):
        raise ValueError(
            "sampler(key, epoch) must give row numbers, a row of at least one integer; it gave "
            f"{describe(rows)}."
        )
    if not any(isinstance(leaf, Tracer) for leaf in (key, epoch)):
        with jax.ensure_compile_time_eval():
            given = np.asarray(value(key, epoch))
        wrong = given[(given < 0) | (given >= n)]
        if wrong.size:
            raise ValueError(
                f"sampler(key, {int(epoch)}) gave row {wrong[0]}, and the {n} "
                f"examples are rows 0 to {n - 1}."
            )
    return rows.shape[0]


def arrays(data: PyTree, argument: str) -> PyTree:
    """A pytree of numbers as device arrays.

    They come in native byte order; masked arrays and integers that would be cut are refused.
    """
    readable_again(data, argument)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: on_device(leaf, argument + name(path)), data
    )


def readable_again(data: Any, argument: str) -> None:
    """Refuse data that are used up by reading them."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"{argument} must be a pytree of arrays; got {describe(data)}, which can be read "
            "only once."
        )


def rows(data: PyTree, argument: str) -> int:
    """The common leading axis of a pytree of arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError(
            f"{argument} holds no array; it must be a pytree of arrays with a common leading "
            "axis."
        )
    lengths = {}
    for path, leaf in leaves:
        if not is_array(leaf) or np.ndim(leaf) == 0:
            raise TypeError(
                f"{argument} must be a pytree of arrays with a common leading axis, one "
                f"example a row; {argument}{name(path)} is {describe(leaf)}."
            )
        if not is_numeric(leaf.dtype):
            raise TypeError(
                f"{argument}{name(path)} has dtype {leaf.dtype}, which JAX cannot hold; encode "
                "it as numbers."
            )
        lengths[name(path)] = leaf.shape[0]
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{argument}{path} has {length}" for path, length in lengths.items())
        raise ValueError(
            f"the arrays of {argument} must agree in their leading axis (one example a row); "
            f"{each}."
        )
    n = next(iter(lengths.values()))
    if n == 0:
        raise ValueError(
            f"{argument} is empty: its arrays have no rows. Leave it out (None), or give at "
            "least one example."
        )
    return n


def dataset(data: PyTree, argument: str) -> PyTree:
    """A data set as device arrays with a common leading axis and without NaN.

    The values of traced arrays are not looked at.
    """
    readable_again(data, argument)
    data = jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(leaf, argument + name(path)), data
    )
    rows(data, argument)
    data = arrays(data, argument)
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        # Data that a jitted function closes over are looked at too.
        with jax.ensure_compile_time_eval():
            has_nan = bool(jnp.isnan(leaf).any())
        if has_nan:
            places = np.argwhere(np.isnan(np.asarray(leaf)))
            raise ValueError(
                f"{argument}{name(path)} holds {len(places)} NaN, the first at row "
                f"{places[0][0]}; drop or fill those examples before training."
            )
    return data


def row_kinds(tree: PyTree) -> dict[str, list[Any]]:
    """Path -> [dtype, shape] of a row, of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): [str(leaf.dtype), list(leaf.shape[1:])] for path, leaf in leaves}


def form(tree: PyTree) -> str:
    """The arrays of a pytree in words: names, dtypes and shapes of a row."""
    kinds = row_kinds(tree)
    return ", ".join(
        f"{path or 'an array'} {dtype}{shape}" for path, (dtype, shape) in kinds.items()
    )


def kept(extra: PyTree, before: PyTree) -> None:
    """Refuse a forward pass that changes the kind of the model's other state.

    A compiled loop could not carry it.
    """

    def kind(leaf):
        return leaf.shape, leaf.dtype

    if jax.tree.map(kind, extra) != jax.tree.map(kind, before):
        raise ValueError(
            "the forward pass adds, drops, reshapes or retypes state of the model (training "
            f"must keep the structure of {sorted(before) or 'no extra state'}; it leaves "
            f"{sorted(extra)}); create every nnx.Variable in __init__."
        )


def monitor(wanted: str, names: list[str], *, has_val: bool) -> None:
    """Refuse to monitor a value that is not recorded."""
    if wanted not in names:
        last = wanted.rpartition("/")[2]
        near = [name for name in reversed(names) if name.rpartition("/")[2] == last]
        near = near or difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
        hint = ""
        if wanted.startswith("val/") and not has_val:
            hint = " Give val, or monitor a train/ value."
        elif near:
            hint = f" Did you mean {near[0]!r}?"
        elif wanted.startswith(("train/", "val/")):
            hint = f" If loss_fn returns {last!r} among its metrics, it is recorded."
        raise ValueError(
            f"monitor={wanted!r} is not recorded; there are {', '.join(names)}.{hint}"
        )


def as_array(leaf: Any, argument: str) -> Any:
    """A leaf that offers itself as an array (a torch tensor, a data frame) as NumPy's; any
    other as it is.
    """
    is_known = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    if is_known or not hasattr(leaf, "__array__"):
        return leaf
    return numbers_of(leaf, argument)


def name(path: tuple[Any, ...]) -> str:
    """A leaf's path as it is written in Python: ['x'][0]."""
    return jax.tree_util.keystr(path)
