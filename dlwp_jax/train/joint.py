"""One training in many processes: the same call in each, its arrays on the devices of all, its
result in each.

Nothing here does anything where there is one process.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlwp_jax import hosts
from dlwp_jax.checks import as_held
from dlwp_jax.leaves import is_key, lay, weakly
from dlwp_jax.saving.store import differing, fingerprint
from dlwp_jax.train import checks
from dlwp_jax.train.placement import AXIS, mesh_of
from dlwp_jax.train.streams import is_stream

PyTree = Any
P = ParamSpec("P")
R = TypeVar("R")
DATA = ("train", "val", "data", "inputs")  # the arguments that hold examples
SETTINGS = (
    "epochs",
    "batch_size",
    "stop",
    "val_batch_size",
    "skip_nonfinite",
)  # those that decide what is computed


def joint(function: Callable[P, R]) -> Callable[P, R]:
    """A function of (learner, state, data) that all processes call alike computes on the
    devices of all of them.

    State and data that lie on no device in particular must be the same in every process, which
    is looked at. They are put on all devices (those where the state lies, if it lies on a
    mesh), and the result is given back in every process; a state that came on a mesh stays
    there. A state that is committed to devices of this process, and what is traced, is this
    process's own affair.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not hosts.many():
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        trees = {name: given[name] for name in ("state", *DATA) if given.get(name) is not None}
        trees = {
            name: jax.tree.map(functools.partial(_held, name), tree)
            for name, tree in trees.items()
            if not is_stream(tree)
        }
        state, leaves = trees.get("state"), jax.tree.leaves(trees)
        is_wrong = not all(checks.is_array(leaf) for leaf in leaves)  # the function says so
        if is_wrong or any(isinstance(leaf, Tracer) for leaf in leaves) or _is_own(state):
            return function(*args, **kwargs)
        on_mesh = mesh_of(state)
        mesh = on_mesh or Mesh(np.array(jax.devices()), (AXIS,))
        with hosts.together():
            _compared(function.__name__, trees, {k: given[k] for k in SETTINGS if k in given})
            given.update(
                {
                    name: jax.tree.map(functools.partial(_placed, mesh), tree)
                    for name, tree in trees.items()
                }
            )
            result = function(*bound.args, **bound.kwargs)
            return _given_back(result, type(state) if on_mesh else ())

    return call


def _held(argument: str, leaf: Any) -> Any:
    """A leaf that is not JAX's yet, in a dtype that JAX holds; what is no array is left to the
    function's own word.
    """
    leaf = checks.as_array(leaf, argument)
    return as_held(leaf, argument) if isinstance(leaf, np.ndarray | np.generic) else leaf


def _is_own(state: PyTree) -> bool:
    """Whether a state was put on devices of this process."""
    return any(
        isinstance(leaf, jax.Array) and leaf.committed and leaf.is_fully_addressable
        for leaf in _leaves(state)
    )


def _leaves(tree: PyTree) -> list[Any]:
    return [
        jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)
    ]


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _placed(mesh: Mesh, leaf: Any) -> jax.Array:
    return (
        lay(jnp.asarray(leaf), NamedSharding(mesh, PartitionSpec()))
        if _is_local(leaf)
        else leaf
    )


def _compared(name: str, trees: dict[str, PyTree], settings: dict[str, Any]) -> None:
    """Refuse a call that is not the same in all processes."""
    local = jax.tree.map(lambda leaf: leaf if _is_local(leaf) else None, trees)
    same(
        name,
        {f"{name}={value!r}": "" for name, value in settings.items()} | fingerprint(local),
        "the call",
    )


def same(what: str, mine: dict[str, Any], told: str) -> None:
    """Refuse what differs between processes.

    Raises:
      ValueError: in all of them; it names the first entry that differs.
    """

    def compare():
        for i, other in enumerate(said):
            if name := differing(other, said[0]):
                raise ValueError(
                    f"processes 0 and {i} differ in {told} of {what}: {name} is not the same in both. Each must be "
                    "given the same; streams may differ."
                )

    said = hosts.agree(what, mine)
    hosts.attempt(what, compare)


def given_back(tree: PyTree) -> PyTree:
    """Arrays of all processes' devices, as arrays of this process, which compute with any
    other.
    """
    return _given_back(tree, ())


def _given_back(tree: PyTree, kept: type | tuple) -> PyTree:
    return jax.tree.map(
        lambda node: node if kept and isinstance(node, kept) else _home(node),
        tree,
        is_leaf=lambda node: bool(kept) and isinstance(node, kept),
    )


def _home(leaf: Any) -> Any:
    if _is_local(leaf):
        return leaf
    if is_key(leaf):
        return jax.random.wrap_key_data(
            _home(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
        )
    local = jnp.asarray(_gathered(leaf))
    return weakly(local) if leaf.weak_type else local


def gathered(tree: PyTree) -> PyTree:
    """NumPy arrays of what lies on devices of other processes too; the rest as it is. All
    processes must call it.
    """
    return jax.tree.map(lambda leaf: leaf if _is_local(leaf) else _gathered(leaf), tree)


def _gathered(leaf: jax.Array) -> Any:
    from jax.experimental import multihost_utils

    if is_key(leaf):
        return jax.random.wrap_key_data(
            _gathered(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
        )
    return np.asarray(
        leaf
        if leaf.is_fully_replicated
        else multihost_utils.process_allgather(leaf, tiled=True)
    )


def from_writer(
    arrays: dict[str, Any] | None, like: dict[str, jax.Array]
) -> dict[str, np.ndarray]:
    """Arrays that process 0 has, bit for bit, in all; `like` tells their names, shapes and
    dtypes.
    """
    from jax.experimental import multihost_utils

    sizes = [leaf.dtype.itemsize * leaf.size for leaf in like.values()]
    packed = np.zeros(-(-sum(sizes) // 4) * 4, np.uint8)
    if arrays is not None:
        parts = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in like]
        packed[: sum(sizes)] = np.concatenate(parts)
    # As whole numbers: a sum with the others' zeros would make +0 of a float -0.
    packed = np.asarray(multihost_utils.broadcast_one_to_all(packed.view(np.uint32))).view(
        np.uint8
    )
    cut = np.split(packed, np.cumsum(sizes))
    return {
        name: part.view(leaf.dtype).reshape(leaf.shape)
        for (name, leaf), part in zip(like.items(), cut[:-1], strict=True)
    }


# Streams: each process's gives a part of every batch.


def whole_shape(peek: Callable[[], PyTree]) -> PyTree:
    """Shapes and dtypes of the first batch that all processes' parts make up."""
    part = None

    def look():
        nonlocal part
        part = peek()
        return [_rows(part), checks.row_kinds(part)]

    rows, _ = _agreed(hosts.attempt("the first batch", look))
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((sum(rows), *a.shape[1:]), a.dtype), part
    )


def batches(parts: Iterator[PyTree], like: PyTree, learner: Any) -> Iterator[PyTree]:
    """The batches that all processes' parts make up, on the devices of the state; until no
    process has any left.

    A process whose stream has ended gives no rows to the batches that are left, so none of the
    others' is lost.
    """
    if not hosts.many() or learner.placement is None:
        yield from map(learner.spread, parts)
        return
    mesh, part, last = learner.placement.mesh, None, like

    def take():
        nonlocal part, last
        part = next(parts, None)
        last = last if part is None else part
        return [0 if part is None else _rows(part), checks.row_kinds(last)]

    while any((said := _agreed(hosts.attempt("a batch of the stream", take)))[0]):
        rows, kinds = said
        mine = _no_rows(last, kinds) if part is None else part
        yield jax.tree.map(functools.partial(_joined, mesh, rows), mine)


def _no_rows(like: PyTree, kinds: dict[str, Any]) -> PyTree:
    """No rows, of the kinds that the other processes have some of."""

    def empty(path, _leaf):
        dtype, shape = kinds[checks.name(path)]
        return np.zeros((0, *shape), dtype)

    return jax.tree_util.tree_map_with_path(empty, like)


def _joined(mesh: Mesh, rows: list[int], leaf: Any) -> jax.Array:
    """The rows of all processes, one after the other."""
    from jax.experimental import multihost_utils

    leaf, shape = np.asarray(leaf), (sum(rows), *leaf.shape[1:])
    if (
        len(set(rows)) == 1
        and rows[0] % jax.local_device_count() == 0
        and mesh.shape[AXIS] == jax.device_count()
    ):
        return jax.make_array_from_process_local_data(
            NamedSharding(mesh, PartitionSpec(AXIS)), leaf, shape
        )
    padded = np.zeros((max(rows), *leaf.shape[1:]), leaf.dtype)
    padded[: len(leaf)] = leaf
    everyones = multihost_utils.process_allgather(padded)
    whole = np.concatenate([theirs[:n] for theirs, n in zip(everyones, rows, strict=True)])
    return lay(whole, NamedSharding(mesh, PartitionSpec()))


def _agreed(said: list[Any]) -> tuple[list[int], dict[str, Any]]:
    """The rows of each process's part, and their kinds; of one that has none left the leaves'
    names must agree.
    """
    kinds = next((kind for rows, kind in said if rows), {})
    for rows, other in said:
        if kinds and (other != kinds if rows else other.keys() != kinds.keys()):
            raise ValueError(
                f"the streams of the processes give different kinds of rows: {kinds} and {other}."
            )
    return [rows for rows, _ in said], kinds


def _rows(batch: PyTree) -> int:
    return jax.tree.leaves(batch)[0].shape[0]
