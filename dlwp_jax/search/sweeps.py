"""Many trainings as one compiled program."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import row_numbers
from dlwp_jax.search import members
from dlwp_jax.search.chunks import Member, Together, finished
from dlwp_jax.search.members import Make
from dlwp_jax.search.result import Sweep
from dlwp_jax.train import EarlyStopping, checks
from dlwp_jax.train.identity import jaxprs_in
from dlwp_jax.train.loop import Loop
from dlwp_jax.train.minibatches import n_rows
from dlwp_jax.train.progress import display
from dlwp_jax.train.signals import collected

PyTree = Any
Prepare = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
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
    prepare: Prepare | None = None,
    how: Literal["vmap", "map"] | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train a model under many settings: learning rates, penalties, noise, dropout rates,
    seeds, folds.

    All members share their compiled programs (once more if folds differ in length by an
    example). Each member is the training that `train.run` gives alone, to float32 rounding,
    early stopping included. Ctrl-C ends the sweep and returns the trainings so far.

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
      prepare: `prepare(train, val) -> (train, val)`, called on the host with the NumPy arrays
        of each fold: preprocessing that is fitted to the fold's own training rows, such as
        `data.Scale.standard`.
      how: "vmap" trains the members of a chunk side by side, "map" one after another with one
        program. None takes vmap, but on a CPU map for convolutions, which XLA runs slowly when
        each member has its own kernel.
      chunk: how many members are trained side by side at most; None keeps their arrays under
        about a gigabyte.
      progress: after a second, show how far the sweep is and the best monitored value, as
        `train.fit` does.

    Returns:
      A `Sweep`: a table, histories, the best member. After Ctrl-C its `interrupted` is True;
      trainings that were not begun have no finished epoch. Ctrl-C before the first step, and a
      second one, raise KeyboardInterrupt.

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
    if prepare is not None and (folds is None or not callable(prepare)):
        raise TypeError(
            "prepare must be a function (train, val) -> (train, val) of the data of a fold, "
            f"and goes with folds; got {checks.describe(prepare)}"
            f"{' without folds' if folds is None else ''}."
        )
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "prepare": prepare,
        "how": how,
        "chunk": chunk,
        "progress": progress,
    }
    return train_members(make, train, val, values, rows, **options)


def train_members(
    make: Make,
    train: PyTree,
    val: PyTree | None,
    values: dict[str, np.ndarray],
    rows: Sequence[tuple[np.ndarray, np.ndarray]] | None,
    *,
    prepare: Prepare | None = None,
    how: Literal["vmap", "map"] | None = None,
    chunk: int | None = None,
    stop: EarlyStopping | None = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """`sweep` of checked members and data.

    Args:
      values: `name -> [members]`.
      rows: the rows of `train` to train and validate on, for each member, or None.
      make, train, val, prepare, how, chunk, stop, progress, **options: as for `sweep`.
    """
    begun = time.perf_counter()
    count = len(next(iter(values.values())))
    monitor = "train/loss" if val is None and rows is None else "val/loss"
    mode = "min"
    if stop is not None:
        monitor, mode = stop.monitor, stop.mode
    arguments = {name: column for name, column in values.items() if name != "fold"}

    def show(bar, before, here, share, loop):
        done = options["epochs"] * (before + here * share)
        bar.update(done, _best(loop, monitor, mode))

    order: list[int] = []
    loops: list[Loop] = []
    compiling, way = 0.0, "vmap"
    with (
        display(options["epochs"] * count, shown=progress) as bar,
        contextlib.ExitStack() as stack,
    ):
        signals = None
        for group in _groups(train, val, rows, prepare, count):
            member = Member(make, group.select, stop=stop, **options)
            inputs = {name: column[group.members] for name, column in arguments.items()}
            together, way = _together(member, members.as_arguments(inputs), group, how, chunk)
            since = time.perf_counter()
            compiled = together.compile()
            compiling += time.perf_counter() - since
            if signals is None:  # until here there is nothing to give, and Ctrl-C is Python's
                signals = stack.enter_context(collected(signal.SIGINT))
            loops += together.train(
                compiled, signals, functools.partial(show, bar, len(order), len(group.members))
            )
            order += group.members
    run = finished(loops, np.argsort(order))
    seconds = time.perf_counter() - begun
    interrupted = signals is not None and bool(signals.here)
    return Sweep(values, run, monitor, mode, way, seconds, compiling, make, interrupted)


def _together(
    member: Member,
    values: dict[str, jax.Array],
    group: "_Group",
    how: Literal["vmap", "map"] | None,
    chunk: int | None,
) -> tuple[Together, Literal["vmap", "map"]]:
    """The members of a group, traced, and whether they are trained side by side."""
    first = jax.tree.map(lambda a: a[0], group.parts)
    begin = members.trace(member.begin, values, first, group.data)
    zero = np.int32(0)
    advance = members.trace(member.advance, values, first, group.data, begin.shapes, zero, zero)
    jaxpr = advance.jaxpr.jaxpr
    way = how or _faster(jaxpr)
    count, size = len(group.members), 1
    programs = (begin, advance)
    if way == "vmap":
        size = _chunk(jaxpr, advance.shapes, count, chunk)
        axes = (0, None if group.parts is None else 0, None)
        programs = (
            jax.vmap(begin, in_axes=axes),
            jax.vmap(advance, in_axes=(*axes, 0, None, None)),
        )
    together = Together(
        programs,
        values,
        group.parts,
        group.data,
        count,
        size,
        member.steps(group.n),
        is_mapped=way == "map",
    )
    return together, way


def _best(loop: Loop, monitor: str, mode: str) -> dict[str, float]:
    """The best monitored value of the members that are being trained, for the display."""
    values = np.atleast_1d(np.asarray(loop.best_value))
    done = np.atleast_1d(np.asarray(loop.done))
    if not done.any():
        return {}
    lowest = float(values[done > 0].min())
    return {f"best {monitor}": -lowest if mode == "max" else lowest}


@dataclasses.dataclass(frozen=True)
class _Group:
    """Members whose data have the same shapes, and so the same program.

    Attributes:
      members: their numbers.
      parts: of each of them, with a leading axis; None if all have the same data.
      data: the data of all.
      select: `select(part, data) -> (train, val)`.
      n: how many examples each trains on.
    """

    members: list[int]
    parts: PyTree
    data: PyTree
    select: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    n: int


def _groups(
    train: PyTree, val: PyTree, rows: Sequence | None, prepare: Prepare | None, count: int
) -> list[_Group]:
    if rows is None:
        return [_Group([*range(count)], None, (train, val), _all, n_rows(train))]
    groups = defaultdict(list)
    if prepare is None:
        for i, (ours, held) in enumerate(rows):
            groups[len(ours), len(held)].append(i)
        found = []
        for (n, _), its in groups.items():
            parts = tuple(np.stack([rows[i][side] for i in its]) for side in (0, 1))
            found.append(_Group(its, parts, train, _rows_of, n))
        return found
    prepared = _prepared(train, rows, prepare)
    for i, pair in enumerate(rows):
        groups[str(jax.tree.map(jnp.shape, prepared[id(pair)]))].append(i)
    found = []
    for its in groups.values():
        folds = list(dict.fromkeys(id(rows[i]) for i in its))
        data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[prepared[f] for f in folds])
        parts = np.array([folds.index(id(rows[i])) for i in its])
        found.append(_Group(its, parts, data, _fold_of, n_rows(prepared[folds[0]][0])))
    return found


def _all(part: None, data: PyTree) -> tuple[PyTree, PyTree]:
    del part
    return data


def _rows_of(part: tuple, data: PyTree) -> tuple[PyTree, PyTree]:
    train, val = (jax.tree.map(lambda a, side=side: a[side], data) for side in part)
    return train, val


def _fold_of(part: jax.Array, data: PyTree) -> tuple[PyTree, PyTree]:
    return jax.tree.map(lambda a: a[part], data)


def _prepared(train: PyTree, rows: Sequence, prepare: Prepare) -> dict[int, PyTree]:
    """The data of every fold as `prepare` leaves them, by the identity of its rows."""
    host = jax.tree.map(np.asarray, train)
    prepared = {}
    for pair in rows:
        if id(pair) in prepared:
            continue
        outcome = prepare(*(jax.tree.map(lambda a, s=side: a[s], host) for side in pair))
        if not (isinstance(outcome, tuple) and len(outcome) == 2):
            raise TypeError(
                "prepare must return (train, val) of a fold, as it is given them; got "
                f"{checks.describe(outcome)}."
            )
        names = ("prepare's train", "prepare's val")
        prepared[id(pair)] = tuple(map(checks.dataset, outcome, names))
    return prepared


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
