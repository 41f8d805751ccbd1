"""Many devices, one program: state and data on a mesh, and training as before.

    mesh = shard.mesh()                                                       # all devices
    state, train_set, val_set = shard.put(mesh, state, train_set, val_set)    # params="sharded": split them too
    result = train.fit(learner, state, train_set, val_set, epochs=20, batch_size=256)

`fit`, `run`, `train_epoch`, `evaluate` and `predict` see where their arrays lie, and their
programs then split every batch over the devices. What is computed is what one device computes:
the same shuffling, the same dropout, the mean of the loss and batch norm over the whole batch.
Only the order of sums differs, and so the rounding.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlwp_jax.checks import as_held, whole
from dlwp_jax.leaves import lay
from dlwp_jax.train import checks
from dlwp_jax.train.placement import AXIS, has_axis
from dlwp_jax.train.state import TrainState

__all__ = ["mesh", "put"]

PyTree = Any
MIN_SIZE = 2**14  # numbers; a smaller leaf takes longer to gather than it is worth


def mesh(devices: int | Sequence[Any] | None = None) -> Mesh:
    """Devices in a row, along one axis called "data".

    Args:
      devices: how many of `jax.devices()`, or which; None means all.

    Raises:
      ValueError: where there are not so many.

    >>> dict(mesh(1).shape)
    {'data': 1}
    """
    there = jax.devices()
    if devices is None:
        devices = there
    if isinstance(devices, int | np.integer):
        n = checks.count(devices, "devices")
        if n > len(there):
            hint = " JAX_NUM_CPU_DEVICES=8 NPROC=64 in the environment makes 8 of a CPU." * (
                there[0].platform == "cpu"
            )
            raise ValueError(
                f"devices={n} are more than the {len(there)} that JAX finds ({there[0].platform}).{hint}"
            )
        devices = there[:n]
    devices = list(devices) if isinstance(devices, Sequence | np.ndarray) else [devices]
    if not all(isinstance(device, jax.Device) for device in devices) or not 0 < len(
        set(devices)
    ) == len(devices):
        raise ValueError(
            f"devices must be how many, or one or more different ones of jax.devices(); got {devices}."
        )
    return Mesh(np.array(devices), (AXIS,))


def put(
    mesh: Mesh,
    *trees: PyTree,
    params: Literal["replicated", "sharded"] = "replicated",
    data: Literal["replicated", "rows"] = "replicated",
    min_size: int = MIN_SIZE,
) -> Any:
    """State and data on the devices of a mesh.

    Args:
      mesh: from `shard.mesh`, or any with an axis "data".
      trees: `TrainState`s, data sets `[n ...]`, or None, which stays None.
      params: "replicated": every device holds the whole state. "sharded": every array of at
        least `min_size` numbers in parameters, frozen parameters and optimizer state is split
        along its longest axis that the number of devices divides, and each device holds one
        part. A step gathers the parameters that it computes with.
      data: "replicated": every device holds all rows, and takes those of its share of a batch
        without asking another. "rows": each holds its share of the rows, and batches are
        fetched from where they are.
      min_size: arrays of fewer numbers stay whole.

    Returns:
      The trees in the order given; one tree by itself.

    Raises:
      TypeError: for what is no mesh, no `TrainState` and no numbers.
      ValueError: for a mesh without an axis "data", unknown words, and rows that cannot be
        split evenly.
      OverflowError: for an integer that does not fit JAX's 32 bits.

    >>> one = mesh(1)
    >>> train_set, val_set = put(one, {"x": np.zeros((4, 3))}, None, data="rows")
    >>> tuple(train_set["x"].sharding.spec), val_set
    (('data',), None)
    """
    has_axis(mesh)
    whole(min_size, "min_size", 0)
    mesh = Mesh(
        mesh.devices, mesh.axis_names
    )  # with axes that the compiler may use as it likes (Auto)
    _known(params, "params", ("replicated", "sharded"))
    _known(data, "data", ("replicated", "rows"))
    n = mesh.shape[AXIS]

    def laid(tree, number):
        if isinstance(tree, TrainState):
            return _state(mesh, tree, n, min_size if params == "sharded" else math.inf)
        if data == "rows" and tree is not None:
            _divisible(tree, n, number)
        sharding = NamedSharding(
            mesh, PartitionSpec(AXIS) if data == "rows" else PartitionSpec()
        )
        return jax.tree.map(lambda leaf: lay(as_held(leaf, f"tree {number}"), sharding), tree)

    done = tuple(laid(tree, number) for number, tree in enumerate(trees, 1))
    return done[0] if len(done) == 1 else done


def _state(mesh: Mesh, state: TrainState, n: int, min_size: float) -> TrainState:
    def put_leaf(path, leaf):
        is_split = path[0].name in ("params", "extra", "opt_state")
        return lay(
            leaf,
            NamedSharding(mesh, split_spec(leaf.shape, n, min_size if is_split else math.inf)),
        )

    return jax.tree_util.tree_map_with_path(put_leaf, state)


def split_spec(shape: tuple[int, ...], n: int, min_size: float) -> PartitionSpec:
    """How an array is split over n devices: along its longest axis that n divides, or not at
    all.

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


def _divisible(tree: PyTree, n: int, number: int) -> None:
    rows = checks.rows(tree, f"tree {number}")
    if rows % n:
        fewer = f"cut it to {rows // n * n} rows" if rows > n else "use fewer devices"
        raise ValueError(
            f"{rows} rows cannot be split evenly over {n} devices; {fewer}, or let data='replicated'."
        )


def _known(value: str, name: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{name} must be {' or '.join(map(repr, words))}; got {value!r}.")
