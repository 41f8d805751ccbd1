"""Which array of one model is compared with which of the other, and what is left out."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.flatten import flattened, replace, turned
from dlwp_jax.parity.leaves import (
    dotted,
    jax_layers,
    refuse_hooked_weights,
    to_numpy,
    torch_layers,
)
from dlwp_jax.parity.mapping import Entry, make_map, own_names
from dlwp_jax.parity.prefixes import common_prefixes
from dlwp_jax.parity.report import Row
from dlwp_jax.parity.rules import Rule, compiled
from dlwp_jax.parity.sides import Run, gradient_of
from dlwp_jax.parity.table import listed
from dlwp_jax.parity.weights import LoadReport


def matched(
    torch_module: torch.nn.Module,
    model: nnx.Module,
    inputs: Sequence[Any],
    rules: Sequence[Rule],
) -> tuple[Entry, ...]:
    """The map between two models whose weights are loaded already: a flatten turned then is
    recognised.
    """
    state = dict(torch_module.state_dict(keep_vars=True))
    refuse_hooked_weights(state, rules, own_names(model))
    mapped = make_map(state, model, rules)
    mapped.raise_if_incomplete()
    here = leaf_values(model)
    plain = {entry.path: entry for entry in mapped.entries}

    def fits(group: Sequence[Entry]) -> bool:
        return all(
            np.array_equal(e.transform.apply(to_numpy(state[e.names[0]])), here[e.path])
            for e in group
        )

    chains = flattened(torch_module, inputs) if inputs else []
    groups = [turned(mapped.entries, chain) for chain in chains]
    turns = [
        e
        for group in groups
        if fits(group) and not fits([plain[e.path] for e in group])
        for e in group
    ]
    return replace(mapped.entries, turns)


def leaf_values(model: nnx.Module) -> dict[tuple[Any, ...], np.ndarray]:
    """Every array of a model by path."""
    return {
        leaf.path: np.asarray(leaf.variable[...])
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
    }


def aligned(module: torch.nn.Module, loaded: LoadReport) -> tuple[Entry, ...]:
    """The entries of a report under the names that the module itself gives to its arrays.

    The names may have come from a file under another prefix, or may have been changed by the
    user; then arrays of the same values are the same.
    """
    state = dict(module.state_dict(keep_vars=True))
    renamed = {name: name for name in loaded.state if name in state}
    theirs, own = common_prefixes(loaded.state, state)
    for name in loaded.state:
        if name not in renamed and own + name.removeprefix(theirs) in state:
            renamed[name] = own + name.removeprefix(theirs)
    taken = set(renamed.values())
    groups: dict[tuple, list[list[str]]] = defaultdict(list)
    for layer in torch_layers({n: v for n, v in state.items() if n not in taken}):
        names = _by_value(layer.leaves.values(), state)
        groups[tuple(_bytes(state[name]) for name in names)].append(names)
    for layer in torch_layers({n: v for n, v in loaded.state.items() if n not in renamed}):
        names = _by_value(layer.leaves.values(), loaded.state)
        same = groups.get(tuple(_bytes(loaded.state[name]) for name in names))
        if same:
            renamed.update(zip(names, same.pop(0), strict=True))
    return tuple(
        dataclasses.replace(entry, names=tuple(renamed.get(n, n) for n in entry.names))
        for entry in loaded.map.entries
    )


def _by_value(names: Iterable[str], state: Mapping[str, torch.Tensor]) -> list[str]:
    kept = [name for name in names if not name.endswith("num_batches_tracked")]
    return sorted(kept, key=lambda name: (_bytes(state[name]), name))


def _bytes(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    value = to_numpy(tensor)
    wide = value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
    return tuple(tensor.shape), wide.tobytes()


def uncompared(
    module: torch.nn.Module,
    model: nnx.Module,
    entries: Sequence[Entry],
    loaded: LoadReport | None,
    rules: Sequence[Rule],
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows for parameters on either side that have no counterpart, and a note that names them.

    What a rule dropped is only noted if it has no effect on the outputs (no gradient).
    """
    named = {name for entry in entries for name in entry.names}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    covered = {id(parameters[name]) for name in named if name in parameters}
    alone = {n: p for n, p in parameters.items() if id(p) not in covered}
    dropped = set(loaded.map.dropped) if loaded else set()
    patterns = [compiled(rule[0]) for rule in rules if rule[1] is None]
    dropped |= {n for n in alone if any(pattern.fullmatch(n) for pattern in patterns)}
    idle = [n for n, p in alone.items() if n in dropped and not gradient_of(p).any()]
    paths = {entry.path for entry in entries}
    variables = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    counts = ("num_batches_tracked",)
    here = [dotted(path) for path, _ in variables if path not in paths and path[-1:] != counts]
    away = [name for name in alone if name not in idle]
    rows = [not_compared("weights", name) for name in dict.fromkeys([*away, *here])]
    notes = []
    if away:
        notes.append(
            f"not compared: torch's {listed(away)}: the map has no place for them (load the "
            "module itself, or its own state_dict)."
        )
    if here:
        notes.append(f"not compared: {listed(here)} of the JAX model: nothing of torch's.")
    if idle:
        notes.append(
            f"not compared: torch's {listed(idle)}, dropped by a rule and without effect here."
        )
    return rows, tuple(notes)


def not_compared(stage: str, name: str) -> Row:
    """The row of an array that has no counterpart."""
    return Row(None, stage, name, math.nan, math.nan, math.nan, 0.0, "not compared")


def unlike_variables(
    entries: Sequence[Entry], buffers: Iterable[str], theirs: Run, ours: Run
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows and notes for arrays that are trained in one model and not in the other.

    Args:
      entries: the map between the weights.
      buffers: torch's names of what it does not train.
      theirs, ours: a run of each model.
    """
    fixed = [name for name in theirs.gradients if name not in ours.gradients]
    loose = set(buffers)
    trained = [
        dotted(entry.path)
        for entry in entries
        if loose & set(entry.names) and np.any(ours.gradients.get(dotted(entry.path), 0.0))
    ]
    notes = []
    if fixed:
        notes.append(
            f"not compared: the gradients of {listed(fixed)}: torch trains them, and the JAX "
            "model has no nnx.Param there."
        )
    if trained:
        notes.append(
            f"not compared: the gradients of {listed(trained)}: buffers in torch, which are "
            "not trained; make them an nnx.Variable of another kind, as nnx.BatchStat."
        )
    rows = [not_compared("gradient", name) for name in (*fixed, *trained)]
    return rows, tuple(notes)


def unlike_statistics(
    module: torch.nn.Module,
    entries: Sequence[Entry],
    before: Mapping[str, torch.Tensor],
    after: Iterable[str],
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows and a note for buffers that moved in torch and are compared with nothing.

    Args:
      module: torch's model after the run.
      entries: the map between the weights.
      before: its buffers before the run.
      after: the JAX model's variables that may move, by name.
    """
    known = set(after)
    compared = {n for e in entries if dotted(e.path) in known for n in e.names}
    moved = [
        name
        for name, value in module.named_buffers()
        if value.is_floating_point() and name not in compared and not value.equal(before[name])
    ]
    if not moved:
        return [], ()
    note = (
        f"not compared: torch's {listed(moved)}, which training moves: the JAX model has no "
        "variable for them that a call could move, as nnx.BatchStat."
    )
    return [not_compared("forward", name) for name in moved], (note,)


def silent_notes(theirs: Run, ours: Run) -> tuple[str, ...]:
    """A note on gradients that are zero in both models, about which nothing is proved."""
    silent = [
        name
        for name, value in theirs.gradients.items()
        if np.size(value) and not np.any(value) and not np.any(ours.gradients.get(name, 1.0))
    ]
    if not silent:
        return ()
    return (
        f"warning: zero in both models, which proves little: gradients of {listed(silent)}",
    )


def frozen_notes(module: torch.nn.Module, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Parameters whose gradients torch does not compute."""
    frozen = {
        n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    names = [dotted(entry.path) for entry in entries if frozen & set(entry.names)]
    return (f"gradients frozen in torch, not compared: {', '.join(names)}",) if names else ()
