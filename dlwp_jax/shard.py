"""Many devices, one program: state and data on a mesh, and training as before.

mesh = shard.mesh()  # all devices
state, train_set, val_set = shard.put(mesh, state, train_set, val_set)
result = train.fit(learner, state, train_set, val_set, epochs=20, batch_size=256)
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlwp_jax.checks import as_held, whole
from dlwp_jax.devices.placement import AXIS, has_axis
from dlwp_jax.leaves import lay
from dlwp_jax.train import checks
from dlwp_jax.train.state import TrainState

__all__ = ["mesh", "put"]

PyTree = Any
MIN_SIZE = 2**14  # numbers; a smaller array takes longer to gather than it is worth


def mesh(devices: int | Sequence[Any] | None = None) -> Mesh:
    """Devices in a row, along one axis called "data".

    Args:
      devices: how many of `jax.devices()`, or which ones; None means all.

    Raises:
      ValueError: if there are not so many, or if they are not different devices.

    >>> dict(mesh(1).shape)
    {'data': 1}
    """
    known = jax.devices()
    if devices is None:
        devices = known
    if isinstance(devices, int | np.integer):
        n = checks.count(devices, "devices")
        if n > len(known):
            hint = ""
            if known[0].platform == "cpu":
                hint = " JAX_NUM_CPU_DEVICES=8 NPROC=64 in the environment makes 8 of a CPU."
            raise ValueError(
                f"devices={n} are more than the {len(known)} that JAX finds "
                f"({known[0].platform}).{hint}"
            )
        devices = known[:n]
    devices = list(devices) if isinstance(devices, Sequence | np.ndarray) else [devices]
    are_devices = all(isinstance(device, jax.Device) for device in devices)
    if not are_devices or not 0 < len(set(devices)) == len(devices):
        raise ValueError(
            "devices must be how many, or one or more different ones of jax.devices(); got "
            f"{devices}."
        )
    return Mesh(np.array(devices), (AXIS,))


def put(
    mesh: Mesh,
    *trees: PyTree,
    params: Literal["replicated", "sharded"] = "replicated",
    data: Literal["replicated", "rows"] = "replicated",
    min_size: int = MIN_SIZE,
) -> Any:
    """Put state and data on the devices of a mesh.

    Args:
      mesh: from `shard.mesh`, or any mesh with an axis "data".
      trees: `TrainState`s, data sets `[n ...]`, or None, which stays None.
      params: "replicated": every device has the whole state. "sharded": every array of at least
        `min_size` numbers in parameters, frozen parameters and optimizer state is split along
        its longest axis that the number of devices divides, and each device has one part. A
        step gathers the parameters that it computes with.
      data: "replicated": every device has all rows, and takes its share of a batch without
        asking another. "rows": each has its share of the rows, and a batch is fetched from
        where its rows are.
      min_size: arrays of fewer numbers are not split.

    Returns:
      The trees in the order given; one tree by itself.

    Raises:
      TypeError: if `mesh` is no mesh, or a tree is neither a `TrainState` nor numbers.
      ValueError: if the mesh has no axis "data", a word is unknown, or rows cannot be split
        evenly.
      OverflowError: if an integer does not fit JAX's 32 bits.

    >>> one = mesh(1)
    >>> train_set, val_set = put(one, {"x": np.zeros((4, 3))}, None, data="rows")
    >>> tuple(train_set["x"].sharding.spec), val_set
    (('data',), None)
    """
    has_axis(mesh)
    whole(min_size, "min_size", 0)
    _check_word(params, "params", ("replicated", "sharded"))
    _check_word(data, "data", ("replicated", "rows"))
    mesh = Mesh(mesh.devices, mesh.axis_names)  # its axes are Auto now
    n = mesh.shape[AXIS]
    rows = NamedSharding(mesh, PartitionSpec(AXIS) if data == "rows" else PartitionSpec())

    def put_tree(tree: PyTree, number: int) -> PyTree:
        if isinstance(tree, TrainState):
            return _put_state(mesh, tree, min_size if params == "sharded" else math.inf)
        if data == "rows" and tree is not None:
            _check_divisible(tree, n, number)
        return jax.tree.map(lambda leaf: lay(as_held(leaf, f"tree {number}"), rows), tree)

    done = tuple(put_tree(tree, number) for number, tree in enumerate(trees, 1))
    return done[0] if len(done) == 1 else done


def _put_state(mesh: Mesh, state: TrainState, min_size: float) -> TrainState:
    def put_leaf(path, leaf):
        is_large_part = path[0].name in ("params", "extra", "opt_state")
        spec = PartitionSpec()
        if is_large_part:
            spec = split_spec(leaf.shape, mesh.shape[AXIS], min_size)
        return lay(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(put_leaf, state)


def split_spec(shape: tuple[int, ...], n: int, min_size: float) -> PartitionSpec:
    """How an array is split over n devices: along its longest axis that n divides, if any.

    >>> tuple(split_spec((3, 3, 64, 128), 8, 1000))
    (None, None, None, 'data')
    >>> tuple(split_spec((10, 30), 8, 0)), tuple(split_spec((64,), 8, 1000))
    ((), ())
    """
    axes = [axis for axis, size in enumerate(shape) if size % n == 0]
    if not axes or math.prod(shape) < min_size:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)


def _check_divisible(tree: PyTree, n: int, number: int) -> None:
    rows = checks.rows(tree, f"tree {number}")
    if rows % n:
        fewer = f"cut it to {rows // n * n} rows" if rows > n else "use fewer devices"
        raise ValueError(
            f"{rows} rows cannot be split evenly over {n} devices; {fewer}, or let "
            "data='replicated'."
        )


def _check_word(value: str, name: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{name} must be {' or '.join(map(repr, words))}; got {value!r}.")
