"""The first function of torch's, between two layers, whose result the port does not compute."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.core import Tracer
from jax.extend import core

from dlwp_jax.parity.forward import Watch, outputs_of, whole_attention
from dlwp_jax.parity.leaves import to_numpy
from dlwp_jax.parity.report import largest

_LIBRARIES = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parent}/", "<")


class Operation(NamedTuple):
    """A call of one of torch's functions.

    Attributes:
      name: of the function.
      where: file and line of the model's source.
      results: its arrays of floats, the values of each in ascending order.
      before: the numbers of the operations that it takes its arrays from.
    """

    name: str
    where: str
    results: list[np.ndarray]
    before: set[int]


def first_operation(
    module: torch.nn.Module,
    torch_inputs: Sequence[torch.Tensor],
    model: nnx.Module,
    jax_inputs: Sequence[jax.Array],
    between: tuple[int, int],
    outside: str | None,
    tolerance: float,
) -> str:
    """Name torch's first function whose values, in any order, are nowhere in the JAX model.

    A function is passed over if a later one that uses its result is found: -inf and -1e30 mask
    alike.

    Args:
      module, model: in the mode that is compared.
      torch_inputs, jax_inputs: as each model takes them.
      between: how many calls of layers have ended before the first function and after the last.
      outside: a layer whose own functions are left out.
      tolerance: relative to the largest value of a result.

    Returns:
      The function with file and line; "" if all of them are found.
    """
    operations = _operations(module, torch_inputs, between, outside)
    missing = {number: list(operation.results) for number, operation in enumerate(operations)}
    sizes = {y.size for operation in operations for y in operation.results}

    def compare(array: jax.Array) -> None:
        if array.size in sizes:
            values = np.sort(np.asarray(array, np.float64), axis=None)
            for number, left in missing.items():
                missing[number] = [y for y in left if not _equal(values, y, tolerance)]

    _watch_intermediates(model, jax_inputs, compare)
    right = {number for number, left in missing.items() if not left}
    for number in range(len(operations) - 1, -1, -1):
        if number in right:
            right |= operations[number].before
    for number, operation in enumerate(operations):
        if number not in right:
            return f"{operation.name} ({operation.where})"
    return ""


def _equal(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays in ascending order agree; any large number does for an infinity."""
    if ours.shape != theirs.shape:
        return False
    known = np.isfinite(theirs)
    near = np.abs(ours - theirs, where=known, out=np.zeros_like(theirs))
    masked = np.all(ours[~known] * np.sign(theirs[~known]) > 1e4)
    return bool(masked and np.all(near <= tolerance * largest(theirs)))


def is_seen(result: Any) -> bool:
    """Whether the call of a layer counts: its first output is of floats."""
    found = [y for y in outputs_of(result) if isinstance(y, torch.Tensor)]
    return bool(found) and found[0].is_floating_point()


def _operations(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    between: tuple[int, int],
    outside: str | None,
) -> list[Operation]:
    found: list[Operation] = []
    makers: dict[int, int] = {}
    constants: set[int] = set()
    kept: list[Any] = []  # so that no id is given out twice
    entered: list[str] = []
    ended = 0

    def enter(name: str) -> Any:
        return lambda layer, args: entered.append(name)

    def leave(layer, args, result):
        nonlocal ended
        del layer, args
        entered.pop()
        ended += is_seen(result)

    def seen(name, first, rest, result):
        if not between[0] <= ended < between[1] or outside in entered:
            return
        results = [y for y in outputs_of(result) if isinstance(y, torch.Tensor)]
        given = [x for x in outputs_of((first, rest)) if isinstance(x, torch.Tensor)]
        kept.extend((given, results))
        if all(id(x) in constants for x in given):  # a mask, say
            constants.update(map(id, results))
            return
        floats = [to_numpy(y) for y in results if y.is_floating_point()]
        floats = [np.sort(y.astype(np.float64), axis=None) for y in floats]
        told = [y for y in floats if y.size > 1 and y[0] < y[-1]]
        if not told:
            return
        before = {makers[id(x)] for x in given if id(x) in makers}
        makers.update({id(y): len(found) for y in results})
        found.append(Operation(name.strip("_"), _line_of_model(), told, before))

    hooks = []
    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(enter(name)))
        hooks.append(layer.register_forward_hook(leave))
    try:
        with torch.no_grad(), whole_attention(), Watch(seen):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _line_of_model() -> str:
    """The innermost line that belongs neither to torch nor to this package."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "in torch"


def _watch_intermediates(
    model: nnx.Module, inputs: Sequence[jax.Array], seen: Callable[[jax.Array], None]
) -> None:
    """Run the model operation by operation, and show every floating array on the way."""
    bind = core.Primitive.bind

    def recording(self, *args, **options):
        made = bind(self, *args, **options)
        for y in made if isinstance(made, list | tuple) else [made]:
            known = isinstance(y, jax.Array) and not isinstance(y, Tracer)
            if known and jnp.issubdtype(y.dtype, jnp.floating):
                seen(y)
        return made

    with (
        jax.disable_jit(),
        jax.default_matmul_precision("highest"),
        patch.object(core.Primitive, "bind", recording),
    ):
        model(*inputs)
