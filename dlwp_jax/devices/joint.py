"""One call of all processes: its arrays on the devices of all, its result in each of them."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr

from dlwp_jax.checks import as_held, is_array, numbers_of
from dlwp_jax.devices import processes
from dlwp_jax.devices.placement import AXIS, Placement, mesh_of
from dlwp_jax.leaves import differing, fingerprint, is_key, lay, weakly

PyTree = Any


@dataclass(frozen=True)
class Call:
    """The arguments of a call that all processes make.

    Attributes:
      state: a `TrainState`, or what the caller gave instead.
      data: the data sets, in the order in which they were given.
      is_joint: whether the result is to be copied back into each process.
      is_on_mesh: whether the state was on a mesh, where resulting states then stay.
    """

    state: PyTree
    data: tuple[PyTree, ...]
    is_joint: bool = False
    is_on_mesh: bool = False

    def leave(self, result: PyTree) -> PyTree:
        """The result as arrays of this process, which compute with any others."""
        if not self.is_joint:
            return result

        def stays(node: Any) -> bool:
            return self.is_on_mesh and isinstance(node, type(self.state))

        def leave(node: Any) -> Any:
            return node if stays(node) else _given_back(node)

        return jax.tree.map(leave, result, is_leaf=stays)


def enter(
    name: str, state: PyTree, data: dict[str, PyTree], settings: dict[str, Any] | None = None
) -> Call:
    """Begin a call that all processes make; a process that is alone changes nothing.

    State and data that are on no device in particular must be the same in every process, which
    is checked. They are put on the devices of all processes (or on the mesh of the state). A
    state that is committed to devices of this process, and anything traced, stays its own.

    Args:
      name: of the function that is called.
      state: a `TrainState`.
      data: data sets of arrays under the names of the arguments; None is skipped.
      settings: the other arguments that decide what is computed. Functions among them are not
        compared: they have no words of their own.

    Raises:
      ValueError: if the processes were given different arguments; it names the first.
    """
    trees = {"state": state} | data
    if not processes.many():
        return Call(state, tuple(data.values()))
    trees = {argument: _as_arrays(argument, tree) for argument, tree in trees.items()}
    leaves = jax.tree.leaves(trees)
    is_wrong = not all(is_array(leaf) for leaf in leaves)  # the function refuses it
    is_traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    if is_wrong or is_traced or _is_committed_here(trees["state"]):
        return Call(state, tuple(data.values()))
    mesh = mesh_of(trees["state"])
    words = {}
    for setting, value in (settings or {}).items():
        if not any(callable(leaf) for leaf in jax.tree.leaves(value)):
            words[f"{setting}={value!r}"] = ""
    local = jax.tree.map(lambda leaf: leaf if _is_local(leaf) else None, trees)
    same(name, words | fingerprint(local), "the call")
    everywhere = mesh or Mesh(np.array(jax.devices()), (AXIS,))
    state, *sets = jax.tree.map(functools.partial(_put, everywhere), tuple(trees.values()))
    return Call(state, tuple(sets), True, mesh is not None)


def same(what: str, mine: dict[str, Any], subject: str) -> None:
    """Refuse entries that differ between processes.

    Raises:
      ValueError: in all of them; it names the first entry that differs.
    """
    everyones = processes.agree(what, mine)
    for i, other in enumerate(everyones):
        name = differing(other, everyones[0])
        if name is not None:
            error = ValueError(
                f"processes 0 and {i} differ in {subject} of {what}: {name} is not the same in "
                "both. Each must be given the same; streams may differ."
            )
            processes.attempt(what, _throw, error)


def given_back(tree: PyTree) -> PyTree:
    """Arrays of all processes' devices, as arrays of this process."""
    return jax.tree.map(_given_back, tree)


def gathered(tree: PyTree) -> PyTree:
    """NumPy arrays of all that is on devices of other processes too; the rest as it is.

    All processes must call it.
    """
    return jax.tree.map(lambda leaf: leaf if _is_local(leaf) else _gathered(leaf), tree)


def from_writer(
    arrays: dict[str, Any] | None, like: dict[str, jax.Array]
) -> dict[str, np.ndarray]:
    """The arrays of process 0 in all processes, bit for bit.

    Args:
      arrays: in process 0, under the names of `like`.
      like: arrays of the same shapes and dtypes, in every process.
    """
    numbers = {}
    for name, leaf in like.items():
        # As whole numbers: a sum with the others' zeros would make +0 of a float -0.
        bits = np.zeros(leaf.dtype.itemsize * leaf.size, np.uint8)
        if arrays is not None:
            bits = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
        numbers[name] = np.pad(bits, (0, -len(bits) % 4)).view(np.uint32)
    numbers = multihost_utils.broadcast_one_to_all(numbers)
    read = {}
    for name, leaf in like.items():
        bits = np.asarray(numbers[name]).view(np.uint8)[: leaf.dtype.itemsize * leaf.size]
        read[name] = bits.view(leaf.dtype).reshape(leaf.shape)
    return read


# Streams: the stream of each process gives a part of every batch.


def whole_shape(peek: Callable[[], PyTree]) -> PyTree:
    """Shapes and dtypes of the first batch that the parts of all processes make up."""
    part = None

    def look() -> list[Any]:
        nonlocal part
        part = peek()
        return [_count(part), _kinds(part)]

    counts, _ = _check_kinds(processes.attempt("the first batch", look))
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((sum(counts), *a.shape[1:]), a.dtype), part
    )


def batches(
    parts: Iterator[PyTree], like: PyTree, placement: Placement | None
) -> Iterator[PyTree]:
    """The batches that the parts of all processes make up, until no process has any left.

    A process whose stream has ended gives no rows to the batches that are left, so no row of
    the others is lost.

    Args:
      parts: the stream of this process.
      like: a batch, or its shapes and dtypes.
      placement: where the state is. None: this process is alone with its stream.
    """
    if placement is None:
        yield from parts
        return
    if not processes.many():
        yield from map(placement.send_batch, parts)
        return
    part, last = None, like

    def take() -> list[Any]:
        nonlocal part, last
        part = next(parts, None)
        last = last if part is None else part
        return [0 if part is None else _count(part), _kinds(last)]

    while True:
        counts, kinds = _check_kinds(processes.attempt("a batch of the stream", take))
        if not any(counts):
            return
        mine = _no_rows(last, kinds) if part is None else part
        yield jax.tree.map(functools.partial(_joined, placement.mesh, counts), mine)


def _as_arrays(argument: str, tree: PyTree) -> PyTree:
    """A tree whose arrays are of dtypes that JAX holds; other leaves as they are."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__"):
            return leaf
        if not isinstance(leaf, np.ndarray | np.generic):
            leaf = numbers_of(leaf, argument)
        return as_held(leaf, argument)

    return jax.tree.map(convert, tree)


def _is_committed_here(state: PyTree) -> bool:
    for leaf in jax.tree.leaves(state):
        array = jax.random.key_data(leaf) if is_key(leaf) else leaf
        if isinstance(array, jax.Array) and array.committed and array.is_fully_addressable:
            return True
    return False


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _put(mesh: Mesh, leaf: Any) -> jax.Array:
    if not _is_local(leaf):
        return leaf
    return lay(jnp.asarray(leaf), NamedSharding(mesh, PartitionSpec()))


def _given_back(leaf: Any) -> Any:
    if _is_local(leaf):
        return leaf
    if is_key(leaf):
        return _as_key(_given_back(jax.random.key_data(leaf)), leaf)
    local = jnp.asarray(_gathered(leaf))
    return weakly(local) if leaf.weak_type else local


def _gathered(leaf: jax.Array) -> Any:
    if is_key(leaf):
        return _as_key(_gathered(jax.random.key_data(leaf)), leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _as_key(numbers: Any, like: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like))


def _throw(error: Exception) -> None:
    raise error


def _count(batch: PyTree) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _kinds(batch: PyTree) -> dict[str, list[Any]]:
    """Path -> [dtype, shape of a row] of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {keystr(path): [str(leaf.dtype), list(leaf.shape[1:])] for path, leaf in leaves}


def _check_kinds(answers: list[Any]) -> tuple[list[int], dict[str, Any]]:
    """The number of rows of each process's part, and their kinds.

    A process that has no rows left must have leaves of the same names.
    """
    kinds = next((kind for rows, kind in answers if rows), {})
    for rows, other in answers:
        differs = other != kinds if rows else other.keys() != kinds.keys()
        if kinds and differs:
            raise ValueError(
                f"the streams of the processes give different kinds of rows: {kinds} and "
                f"{other}."
            )
    return [rows for rows, _ in answers], kinds


def _no_rows(like: PyTree, kinds: dict[str, Any]) -> PyTree:
    def empty(path: Any, _leaf: Any) -> np.ndarray:
        dtype, shape = kinds[keystr(path)]
        return np.zeros((0, *shape), dtype)

    return jax.tree_util.tree_map_with_path(empty, like)


def _joined(mesh: Mesh | AbstractMesh, counts: list[int], leaf: Any) -> jax.Array:
    """The rows of all processes, one after the other."""
    leaf, shape = np.asarray(leaf), (sum(counts), *leaf.shape[1:])
    is_even = len(set(counts)) == 1 and counts[0] % jax.local_device_count() == 0
    if is_even and mesh.shape[AXIS] == jax.device_count():
        sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        return jax.make_array_from_process_local_data(sharding, leaf, shape)
    padded = np.zeros((max(counts), *leaf.shape[1:]), leaf.dtype)
    padded[: len(leaf)] = leaf
    parts = multihost_utils.process_allgather(padded)
    rows = [part[:n] for part, n in zip(parts, counts, strict=True)]
    return lay(np.concatenate(rows), NamedSharding(mesh, PartitionSpec()))
