"""The trainings of a sweep, and the error for values that cannot be traced."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np

from dlwp_jax import checks
from dlwp_jax.train import Learner, TrainState

PyTree = Any
# A function of the values of a member, by name.
Make = Callable[..., tuple[Learner, TrainState]]
# The errors of JAX, NNX and `make_learner` if a traced value is used as a Python number.
NOT_TRACEABLE = (jax.errors.ConcretizationTypeError, TypeError, ValueError)


def expand(
    over: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
) -> dict[str, np.ndarray]:
    """The members of a sweep, `name -> [members]`: all combinations of a mapping, or the
    mappings of a list.

    >>> columns = expand({"lr": [0.1, 0.2], "key": [0, 1]})
    >>> columns["lr"].tolist(), columns["key"].tolist()
    ([0.1, 0.1, 0.2, 0.2], [0, 1, 0, 1])
    """
    if isinstance(over, Mapping):
        columns = {name: _numbers(name, values) for name, values in over.items()}
        grid = list(itertools.product(*(range(len(column)) for column in columns.values())))
        index = np.array(grid, int).reshape(len(grid), len(columns))
        return {name: column[index[:, i]] for i, (name, column) in enumerate(columns.items())}
    members = list(over) if isinstance(over, Sequence) else []
    if not members or not all(isinstance(member, Mapping) for member in members):
        raise TypeError(
            "over must be {name: values}, of which every combination is trained, or a list of "
            f"{{name: value}}, one for each member; got {checks.describe(over)}."
        )
    if len({frozenset(member) for member in members}) > 1:
        raise ValueError(
            "the members in over must name the same values; got "
            f"{[sorted(m) for m in members]}."
        )
    return {name: _numbers(name, [member[name] for member in members]) for name in members[0]}


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        column = checks.real_on_host(values, f"over[{name!r}]")
    except (TypeError, ValueError):
        column = np.empty(0)
    if column.ndim != 1 or column.size == 0 or column.dtype.kind not in "biuf":
        raise TypeError(
            f"over[{name!r}] must be a list of numbers, since all members are one program; got "
            f"{checks.describe(values)}. Anything else (a class, a function, a word) is for a "
            "Python loop of sweeps."
        )
    if name == "fold":
        raise ValueError("the name 'fold' is taken by folds=; take another name.")
    if name == "key" and column.dtype.kind not in "iu":
        raise TypeError(
            "over['key'] must be whole numbers, the seeds of PRNG keys; got "
            f"{checks.describe(values)}."
        )
    return column


def as_arguments(values: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The members' values as JAX arrays `[members]`; the seeds under `key` as PRNG keys.

    Raises:
      OverflowError: for whole numbers beyond 32 bits, which JAX would cut to other ones.
    """
    arrays = {}
    for name, column in values.items():
        is_key = name == "key"
        arrays[name] = _keys(column) if is_key else checks.on_device(column, f"over[{name!r}]")
    return arrays


def _keys(seeds: np.ndarray) -> jax.Array:
    dtype = np.dtype(np.uint32 if seeds.min() >= 0 else np.int32)
    checks.refuse_too_large(seeds, dtype, "over['key']")
    return jax.vmap(jax.random.key)(seeds.astype(dtype))


def made(make: Make, *args: Any, **values: Any) -> tuple[Learner, TrainState]:
    """The result of `make`, checked."""
    if not callable(make):
        raise TypeError(
            "make must be a function that returns (learner, state); got "
            f"{checks.describe(make)}."
        )
    pair = make(*args, **values)
    if not (isinstance(pair, tuple) and [*map(type, pair)] == [Learner, TrainState]):
        raise TypeError(
            "make must return (learner, state), as train.make_learner does; got "
            f"{checks.describe(pair)}."
        )
    return pair


@dataclasses.dataclass(frozen=True, eq=False)  # a key of jit's cache, as the function it is
class Program:
    """A traced function of one member, and the shapes of its result."""

    jaxpr: Any
    shapes: PyTree

    def __call__(self, *args: PyTree) -> PyTree:
        """Call it, without tracing it once more."""
        leaves = jax.extend.core.jaxpr_as_fun(self.jaxpr)(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(self.shapes), leaves)


def trace(member: Callable[..., Any], values: dict[str, jax.Array], *rest: PyTree) -> Program:
    """The program of one member.

    Args:
      member: a function of values and further arguments.
      values: of all members, the first of which is traced with.
      rest: the further arguments, or their shapes.

    Raises:
      TypeError: naming the values that cannot be traced, and what to do instead.
    """
    first = {name: column[0] for name, column in values.items()}
    try:
        return Program(*jax.make_jaxpr(member, return_shape=True)(first, *rest))
    except NOT_TRACEABLE as error:
        culprits = [name for name in first if not _traceable(member, first, name, rest)]
        if not culprits:
            raise
        names = " and ".join(map(repr, culprits))
        reason = str(error).splitlines()[0][:200]
        raise TypeError(
            f"{names} cannot be swept: make or the loss takes it as a Python number, in a "
            "shape, a branch or a static option, and in a sweep it is a traced array "
            f"({reason}). Sizes are for search_capacity; the height of an optax schedule is "
            "swept as a factor, lambda step: lr * schedule(step), of a schedule made for 1; "
            "dropout rates need dlwp_jax.nn.Dropout, not Flax's; random seeds are swept as "
            "over={'key': [0, 1]}; anything else by a Python loop of sweeps."
        ) from error


def _traceable(
    member: Callable[..., Any], first: dict[str, jax.Array], name: str, rest: tuple
) -> bool:
    """Whether a member can be traced in one of its values, the others being Python numbers.

    True as well if it cannot be traced without that value either: then another one is at fault.
    """
    fixed = {k: v if k == "key" else v.item() for k, v in first.items()}

    def works(values):
        try:
            jax.eval_shape(lambda values, rest: member(fixed | values, *rest), values, rest)
        except NOT_TRACEABLE:
            return False
        return True

    return works({name: first[name]}) or not works({})
