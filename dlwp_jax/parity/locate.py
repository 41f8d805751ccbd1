"""The first layer whose output differs, and what the difference looks like."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.core import Tracer

from dlwp_jax.parity.forward import outputs_of, whole_attention
from dlwp_jax.parity.leaves import dotted, to_numpy
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.report import Row, largest, rows_of


class Call(NamedTuple):
    """One call of a layer: its dotted name, its class, its first input and first output."""

    name: str
    kind: str
    input: np.ndarray | None
    output: np.ndarray


def first_layer(
    reference: torch.nn.Module,
    model: nnx.Module,
    torch_inputs: Sequence[torch.Tensor],
    jax_inputs: Sequence[jax.Array],
    entries: Sequence[Entry],
    train: bool,
    tolerance: float,
) -> tuple[list[Row], str]:
    """Run both models, and compare the output of every layer that has a counterpart.

    Layers are counterparts if their weights are matched, or if they have the same path; the n-th
    call of one is compared with the n-th call of the other.

    Args:
      reference: torch's model, in the mode to be compared.
      model: the NNX module.
      torch_inputs, jax_inputs: as each model takes them.
      entries: the map between the weights.
      train: whether the NNX module runs in train mode.
      tolerance: relative to the largest value of an output.

    Returns:
      The row of the first output that differs (none if no layer with a counterpart does), and a
      sentence.
    """
    ours = defaultdict(list)
    for call in _jax_calls(model, jax_inputs, train):
        ours[call.name].append(call)
    place = {_layer(entry.names[0]): dotted(entry.path[:-1]) for entry in entries}
    features_turned = {_layer(entry.names[0]) for entry in entries if _is_turned_array(entry)}
    last = ""
    for theirs in _torch_calls(reference, torch_inputs):
        counterparts = ours[place.get(theirs.name, theirs.name)]
        if not counterparts or theirs.name in features_turned:
            continue
        here = counterparts.pop(0)
        output = _as_torchs(here.output, theirs.output)
        name = theirs.name or "output of the model"
        shapes_differ = output is None and here.output.size != theirs.output.size
        if shapes_differ and _inputs_agree(here, theirs, tolerance):
            return [Row(None, "forward", name, np.inf, np.inf, np.inf, 0.0)], (
                f"first layer that differs: {name} ({theirs.kind}); its input agrees; its "
                f"output has shape {theirs.output.shape} in torch and {here.output.shape} "
                "here: stride, padding, or number of channels."
            )
        if output is None:  # another layout: [T N C] for [N T C]
            continue
        rows = rows_of("forward", {name: output}, {name: theirs.output}, tolerance=tolerance)
        if rows[0].ok:
            last = name
            continue
        if _inputs_agree(here, theirs, tolerance):
            looks = looks_like(output, theirs.output, tolerance)
            if "Norm" in theirs.kind:
                looks += " (a norm: compare eps, statistics and weights)"
            return rows, (
                f"first layer that differs: {name} ({theirs.kind} in torch, {here.kind} here); "
                f"its input agrees; its output {looks}."
            )
        ahead = f"right until the output of {last}; what" if last else "what"
        return rows, (
            f"first layer that differs: {name} ({theirs.kind}), and its input differs already; "
            f"{ahead} comes ahead of {name} differs (an activation, pooling, padding, reshape, "
            "or another order of layers)."
        )
    behind = f"behind {last} " if last else ""
    return [], f"every layer that both models have agrees; what comes {behind}differs."


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_turned_array(entry: Entry) -> bool:
    """Whether a layer computes on features in another order than torch's."""
    return len(entry.torch_shape) == 1 and entry.transform.name.startswith("rows turned")


def _torch_calls(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[Call]:
    calls: list[Call] = []

    def watch(name: str, layer: torch.nn.Module) -> Any:
        def hook(layer, args, result):
            found = [y for y in outputs_of(result) if isinstance(y, torch.Tensor)]
            if found and found[0].is_floating_point():
                given = args[0] if args and isinstance(args[0], torch.Tensor) else None
                x = None if given is None else to_numpy(given)
                calls.append(Call(name, type(layer).__name__, x, to_numpy(found[0])))

        return layer.register_forward_hook(hook)

    hooks = [watch(name, layer) for name, layer in module.named_modules()]
    try:
        with torch.no_grad(), whole_attention():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _jax_calls(model: nnx.Module, inputs: Sequence[jax.Array], train: bool) -> list[Call]:
    """The calls of all layers of a copy of the model, which runs without jit."""
    model = nnx.clone(model)
    (model.train if train else model.eval)()
    calls: list[Call] = []
    for name, layer in _named_modules(model):
        layer.__class__ = _recording(type(layer), name, calls)
    with jax.default_matmul_precision("highest"):
        model(*inputs)
    return calls


def _named_modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Every module by its path; the list inside of Flax's own Sequential has no name."""
    nodes = [
        (path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)
    ]
    for path, node in nodes:
        if callable(node):
            yield dotted(path), node


def _recording(kind: type, name: str, calls: list[Call]) -> type:
    """A subclass whose calls are recorded; layers inside of jax's loops are not."""

    run: Any = kind.__call__

    def call(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        found = jax.tree.leaves(result)
        seen = [y for y in found if isinstance(y, jax.Array) and not isinstance(y, Tracer)]
        if seen and jnp.issubdtype(seen[0].dtype, jnp.floating):
            given = args[0] if args and isinstance(args[0], jax.Array) else None
            x = None if given is None else np.asarray(given)
            calls.append(Call(name, kind.__name__, x, np.asarray(seen[0])))
        return result

    return type(kind)(kind.__name__, (kind,), {"__call__": call})


def _as_torchs(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """An output here in torch's layout: as it is, or channels first; None if neither fits."""
    ours = ours.astype(np.float64)
    forms = [ours, np.moveaxis(ours, -1, 1)] if ours.ndim > 2 else [ours]
    fitting = [form for form in forms if form.shape == theirs.shape]
    return min(fitting, key=lambda form: _error(form, theirs), default=None)


def _inputs_agree(here: Call, theirs: Call, tolerance: float) -> bool:
    if here.input is None or theirs.input is None:
        return False
    x = _as_torchs(here.input, theirs.input)
    return x is not None and _near(x, theirs.input, tolerance)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def _near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return _error(a, b) <= tolerance * largest(b)


def looks_like(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """What kind of difference there is between two outputs in torch's layout, `[N C ...]`.

    >>> y = np.array([[1.0, -2.0, 3.0]])
    >>> looks_like(2 * y, y, 1e-9)
    'is 2 times that of torch'
    >>> looks_like(y[:, ::-1], y, 1e-9)
    'is the same up to a permutation of channels'
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    factor = _fit(ours.ravel(), theirs.ravel())[0]
    if factor and _near(ours, factor * theirs, tolerance):
        return f"is {factor:.4g} times that of torch"
    if _near(ours - theirs, np.full_like(ours, np.mean(ours - theirs)), tolerance):
        return f"is that of torch plus {np.mean(ours - theirs):.4g}"
    if theirs.ndim > 1 and _channels_permuted(ours, theirs, tolerance):
        return "is the same up to a permutation of channels"
    border = _border(ours, theirs, tolerance) if theirs.ndim > 2 else 0
    if border:
        return f"agrees but for a border {border} wide: padding, or its mode"
    square = theirs.ndim == 4 and theirs.shape[2] == theirs.shape[3]
    if square and _near(np.swapaxes(ours, 2, 3), theirs, tolerance):
        return "is the same with height and width exchanged"
    away = np.abs(ours - theirs) > tolerance * largest(theirs)
    if not away[theirs > 0].any() and (theirs > 0).any():
        return "agrees where that of torch is positive: an activation's negative side"
    if (
        theirs.ndim > 1
        and theirs.size > 3 * theirs.shape[1]
        and _affine(ours, theirs, tolerance)
    ):
        return (
            "is a multiple of that of torch plus an offset, in each channel: the eps, the "
            "statistics or the weights of a norm"
        )
    return f"differs in {np.mean(away):.0%} of its values"


def _fit(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The factor of least squares, through zero, and the one with an offset."""
    square = float(np.vdot(theirs, theirs))
    factor = float(np.vdot(theirs, ours)) / square if square else 0.0
    centred = theirs - theirs.mean()
    square = float(np.vdot(centred, centred))
    return factor, float(np.vdot(centred, ours)) / square if square else 0.0


def _channels_permuted(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    left = list(range(ours.shape[1]))
    allowed = tolerance * largest(theirs)
    for channel in range(theirs.shape[1]):
        fits = [c for c in left if _error(ours[:, c], theirs[:, channel]) <= allowed]
        if not fits:
            return False
        left.remove(fits[0])
    return True


def _border(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> int:
    """How wide the border is outside of which two images agree; 0 if there is none."""
    allowed = tolerance * largest(theirs)
    for width in range(1, (min(theirs.shape[2:]) + 1) // 2):
        inside = (slice(None), slice(None)) + (slice(width, -width),) * (theirs.ndim - 2)
        if _error(ours[inside], theirs[inside]) <= allowed:
            return width
    return 0


def _affine(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    a = np.moveaxis(ours, 1, 0).reshape(ours.shape[1], -1)
    b = np.moveaxis(theirs, 1, 0).reshape(theirs.shape[1], -1)
    allowed = tolerance * largest(theirs)
    for mine, their in zip(a, b, strict=True):
        factor = _fit(mine, their)[1]
        offset = mine.mean() - factor * their.mean()
        if _error(mine, factor * their + offset) > allowed:
            return False
    return True


def statistics_notes(
    before: dict[str, np.ndarray],
    ours: dict[str, Any],
    theirs: dict[str, np.ndarray],
    rows: Sequence[Row],
) -> tuple[str, ...]:
    """A sentence for running statistics that moved by another share than torch's."""
    notes = []
    for row in rows:
        if row.ok or row.leaf not in before:
            continue
        moved = theirs[row.leaf] - before[row.leaf]
        factor = _fit(
            np.asarray(ours[row.leaf] - before[row.leaf], np.float64).ravel(), moved.ravel()
        )[0]
        if _near(np.asarray(ours[row.leaf] - before[row.leaf]), factor * moved, 1e-3):
            notes.append(
                f"{row.leaf} moved {factor:.4g} times as far as in torch: the momentum of the "
                "batch norm (Flax's is one minus torch's), or a variance divided by n, not n - "
                "1."
            )
            break
    return tuple(notes)
