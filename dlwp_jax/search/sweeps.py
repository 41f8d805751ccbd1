"""Many trainings as one compiled program."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import row_numbers
from dlwp_jax.saving.identity import jaxprs_in
from dlwp_jax.search import members
from dlwp_jax.search.members import Make
from dlwp_jax.search.result import Sweep
from dlwp_jax.train import EarlyStopping, Run, checks, run

PyTree = Any
MEMORY = 2**30  # bytes for all members of a chunk together, by the estimate of `_chunk`


def sweep(
    make: Make,
    train: PyTree,
    val: PyTree | None = None,
    *,
    over: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    epochs: int,
    batch_size: int,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    folds: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    how: Literal["vmap", "map"] | None = None,
    chunk: int | None = None,
) -> Sweep:
    """Train a model under many settings: learning rates, penalties, noise, dropout rates,
    seeds, folds.

    One program is compiled for all members (two if folds differ in length by an example). Each
    member is the training that `train.run` gives alone, to float32 rounding, early stopping
    included.

    Args:
      make: `make(**values) -> (learner, state)`, a function that ends in `train.make_learner`.
        Its values come as traced scalars: they may go into an optimizer (`optax.adam(lr)`),
        into the loss, into `nn.Dropout` and `regularization.InputNoise`; not into a shape.
      train, val: pytrees of arrays `[n ...]`, as for `run`.
      over: `{name: values}`, of which every combination is trained; or a list of `{name:
        value}`, the members themselves (random search). Under the name `key` whole numbers
        are the seeds of PRNG keys.
      epochs, batch_size, stop, val_batch_size: as for `run`; each member stops by itself.
      folds: pairs of training and validation rows of `train`, from `data.k_fold`: every setting
        is trained on every fold, and `val` is left out.
      how: "vmap" trains the members of a chunk side by side, "map" one after another with one
        program. None takes vmap, but on a CPU map for convolutions, which XLA runs slowly when
        each member has its own kernel.
      chunk: how many members are trained side by side at most; None keeps their arrays under
        about a gigabyte.

    Returns:
      A `Sweep`: a table, histories, the best member.

    Raises:
      TypeError: for a value that cannot be traced, with its name and what to do instead.
      ValueError: as `run`.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> def make(lr):
    ...     model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    ...     return make_learner(model, loss_fn, optax.sgd(lr), key=jax.random.key(0))
    >>> data = {"x": jnp.ones((8, 1)), "y": jnp.zeros((8, 1))}
    >>> result = sweep(make, data, data, over={"lr": [1e-3, 1e-1]}, epochs=5, batch_size=4)
    >>> result.history["val/loss"].shape, result.values["lr"][result.best].item()
    ((2, 5), 0.1)
    """
    if how is not None and not (isinstance(how, str) and how in ("vmap", "map")):
        raise ValueError(f"how must be 'vmap', 'map' or None; got {checks.describe(how)}.")
    if not callable(make):
        raise TypeError(
            "make must be a function that returns (learner, state); got "
            f"{checks.describe(make)}."
        )
    if chunk is not None:
        checks.count(chunk, "chunk")
    if stop is not None and not isinstance(stop, EarlyStopping):
        raise TypeError(
            f"stop must be a train.EarlyStopping, or None; got {checks.describe(stop)}."
        )
    epochs, batch_size = checks.count(epochs, "epochs"), checks.count(batch_size, "batch_size")
    train = checks.dataset(train, "train")
    val = None if val is None else checks.dataset(val, "val")
    values, rows = _with_folds(members.expand(over), folds, val, checks.rows(train, "train"))
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "stop": stop,
        "val_batch_size": val_batch_size,
    }
    return train_members(make, train, val, values, rows, how=how, chunk=chunk, **options)


def train_members(
    make: Make,
    train: PyTree,
    val: PyTree | None,
    values: dict[str, np.ndarray],
    rows: Sequence[tuple[np.ndarray, np.ndarray]] | None,
    *,
    how: Literal["vmap", "map"] | None = None,
    chunk: int | None = None,
    stop: EarlyStopping | None = None,
    **options: Any,
) -> Sweep:
    """`sweep` of checked members and data.

    Args:
      values: `name -> [members]`.
      rows: the rows of `train` to train and validate on, for each member, or None.
      make, train, val, how, chunk, stop, **options: as for `sweep`.
    """
    begun = time.perf_counter()

    def member(values, rows, train, val):
        learner, state = members.made(make, **values)
        if rows is not None:
            train, val = (jax.tree.map(lambda a, side=side: a[side], train) for side in rows)
        return run(learner, state, train, val, stop=stop, **options)

    arguments = {name: column for name, column in values.items() if name != "fold"}
    order, parts, compiling = [], [], 0.0
    for group in _same_shapes(rows, len(next(iter(values.values())))):
        inputs = members.as_arguments(
            {name: column[group] for name, column in arguments.items()}
        )
        its_rows = (
            None
            if rows is None
            else tuple(np.stack([rows[i][side] for i in group]) for side in (0, 1))
        )
        first_rows = None if its_rows is None else tuple(side[0] for side in its_rows)
        jaxpr, shapes = members.trace(member, inputs, first_rows, train, val)
        way = how or _faster(jaxpr.jaxpr)
        size = _chunk(jaxpr.jaxpr, shapes, len(group), chunk) if way == "vmap" else 1
        results, seconds = _train(member, inputs, its_rows, train, val, len(group), size, way)
        order, parts, compiling = [*order, *group], [*parts, *results], compiling + seconds
    # The work may only be queued: the clock stops when it is done.
    together = jax.block_until_ready(_in_order(parts, order))
    seconds = time.perf_counter() - begun
    monitor = "train/loss" if val is None and rows is None else "val/loss"
    mode = "min"
    if stop is not None:
        monitor, mode = stop.monitor, stop.mode
    return Sweep(values, together, monitor, mode, way, seconds, compiling, make)


def _in_order(parts: list[Run], order: list[int]) -> Run:
    """All members in one `Run`, in the order in which they were asked for."""
    if len(parts) == 1 and order == sorted(order):
        return parts[0]
    place = np.argsort(order)
    return jax.jit(
        lambda parts: jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *parts)
    )(parts)


def _with_folds(values, folds, val, n) -> tuple[dict[str, np.ndarray], list | None]:
    """Every setting on every fold: the members' values, and the rows of each."""
    members_ = len(next(iter(values.values()))) if values else 1
    if folds is None:
        if not values:
            raise ValueError(
                "over is empty and there are no folds, so there is nothing to sweep; use "
                "train.run."
            )
        return values, None
    if val is not None:
        raise ValueError("folds take their validation examples from train; leave val out.")
    pairs = list(folds) if np.iterable(folds) else []
    if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "folds must be pairs of row numbers (training, validation), as data.k_fold gives "
            "them."
        )
    folds = [
        tuple(row_numbers(side, "each side of folds", n) for side in pair) for pair in pairs
    ]
    if not all(side.size for fold in folds for side in fold):
        raise ValueError("each side of folds must hold at least one row.")
    values = {name: np.repeat(column, len(folds)) for name, column in values.items()}
    return values | {"fold": np.tile(np.arange(len(folds)), members_)}, folds * members_


def _same_shapes(rows: Sequence | None, count: int) -> list[list[int]]:
    """The members whose data have the same shapes, and so the same program."""
    groups = defaultdict(list)
    for i in range(count):
        groups[None if rows is None else tuple(len(side) for side in rows[i])].append(i)
    return list(groups.values())


def _train(member, inputs, rows, train, val, count, size, how) -> tuple[list[Run], float]:
    """The runs of the members, chunk by chunk through one program, and the seconds of its
    compilation.
    """
    axes = (0, None if rows is None else 0, None, None)
    program = jax.jit(jax.vmap(member, in_axes=axes) if how == "vmap" else member)

    def chunk(begin):
        # One program serves all chunks: the last one repeats its last member.
        index = np.minimum(np.arange(begin, begin + size), count - 1)
        index = index if how == "vmap" else index[0]
        return jax.tree.map(lambda a: a[index], (inputs, rows))

    begun = time.perf_counter()
    compiled = program.lower(*chunk(0), train, val).compile()
    compiling = time.perf_counter() - begun
    results = []
    for begin in range(0, count, size):
        result = compiled(*chunk(begin), train, val)
        if how == "map" or count - begin < size:
            kept = None if how == "map" else slice(0, count - begin)
            result = jax.tree.map(lambda a, kept=kept: a[kept], result)
        results.append(result)
    return results, compiling


def _faster(jaxpr: Any) -> Literal["vmap", "map"]:
    """vmap, except for convolutions on a CPU: with a kernel for each member they become grouped
    convolutions, which are slow there.
    """
    convolves = any(
        equation.primitive.name == "conv_general_dilated" for equation in _equations(jaxpr)
    )
    return "map" if convolves and jax.default_backend() == "cpu" else "vmap"


def _chunk(jaxpr: Any, shapes: PyTree, count: int, wanted: int | None) -> int:
    """How many members fit into MEMORY, in chunks of about equal size.

    The estimate for a member is three times its result (the carry of a loop, and a copy before
    and after it) and four times its largest intermediate value (forward, backward, and the
    operations that are fused with them).
    """
    if wanted is None:
        largest = max(
            (_bytes(v.aval) for equation in _equations(jaxpr) for v in equation.outvars),
            default=0,
        )
        each = 3 * sum(map(_bytes, jax.tree.leaves(shapes))) + 4 * largest
        wanted = max(1, MEMORY // max(each, 1))
    chunks = -(-count // checks.count(wanted, "chunk"))
    return -(-count // chunks)


def _equations(jaxpr: Any):
    """Every equation of a jaxpr, those of its loops and branches too."""
    return (equation for inner in jaxprs_in(jaxpr) for equation in inner.eqns)


def _bytes(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ())) * getattr(
        getattr(aval, "dtype", None), "itemsize", 4
    )
