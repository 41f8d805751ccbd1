"""Which array of torch's goes where: by rules, then by names, then by order among layers of the
same shapes.
"""

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.leaves import (
    Layer,
    Leaf,
    Path,
    dotted,
    jax_layers,
    same_storage,
    to_numpy,
    torch_layers,
)
from dlwp_jax.parity.prefixes import common_prefixes, is_counter
from dlwp_jax.parity.rules import Rule, Transform, as_transform, compiled
from dlwp_jax.parity.table import listed


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of the JAX model and the entries of torch's state_dict (several where tied)
    that fill it.

    Attributes:
      names: of torch's entries.
      path: where the array is in the JAX model.
      transform: how torch's array becomes ours.
      torch_shape, shape: of the array there and here.
      found_by: the rule that brought the two together.
    """

    names: tuple[str, ...]
    path: Path
    transform: Transform
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    found_by: str


@dataclasses.dataclass(frozen=True)
class Exchangeable:
    """Layers of the same shapes whose names do not say which is which.

    Attributes:
      theirs, ours: the layers on each side, in the order of their making.
      why: what the names say.
    """

    theirs: tuple[Layer, ...]
    ours: tuple[Layer, ...]
    why: str

    def rules(self, order: Sequence[int]) -> list[Rule]:
        """Rules that bring torch's n-th layer to ours number `order[n]`."""
        found: list[Rule] = []
        for layer, number in zip(self.theirs, order, strict=True):
            leaves = self.ours[number].leaves
            for leaf_name, name in layer.leaves.items():
                if leaf_name in leaves:
                    found.append((re.escape(name), dotted(leaves[leaf_name].path)))
        return found

    def example(self) -> str:
        """A rule for the first layer, as one would write it."""
        name = next(iter(self.theirs[0].leaves.values()))
        layer = name.rpartition(".")[0].replace(".", r"\.")
        return rf"(r'{layer}\..*', '{self.ours[0].names[0]}')"


@dataclasses.dataclass(frozen=True)
class Mapped:
    """The map between two models: what fits, what is dropped on purpose, and what is left over
    on each side.

    Attributes:
      entries: what fits.
      dropped: names of torch's that have no counterpart, on purpose.
      unexpected: names of torch's for which there is no place here.
      missing: paths here for which torch has nothing.
      undecided: groups of layers of the same shapes that could be exchanged.
    """

    entries: tuple[Entry, ...]
    dropped: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: tuple[Path, ...]
    undecided: tuple["Exchangeable", ...] = ()

    def by_name(self) -> dict[str, Entry]:
        """torch's name -> entry."""
        return {name: entry for entry in self.entries for name in entry.names}

    def raise_if_undecided(self) -> None:
        """Refuse layers that could be exchanged without a word of torch's or of ours."""
        if not self.undecided:
            return
        group = self.undecided[0]
        theirs = [layer.names[0] or "the model" for layer in group.theirs]
        ours = [layer.names[0] or "the model" for layer in group.ours]
        raise ValueError(
            f"{listed(theirs)} in torch and {listed(ours)} in the JAX model have the same "
            f"shapes, and {group.why}; say which is meant by rules=[(regex, path)], as "
            f"{group.example()}, or pass probe=, an input, with the torch module."
        )

    def raise_if_incomplete(self) -> None:
        """Refuse what is left over on either side."""
        if self.unexpected or self.missing:
            raise ValueError(
                "the models do not fit together. "
                f"Left over in torch: {listed(self.unexpected)}. "
                "Not filled in the JAX model: "
                f"{listed([dotted(path) for path in self.missing])}. "
                "Name the pairs by rules=[(regex, path)], or drop an entry of torch's by "
                "(regex, None)."
            )


def make_map(
    state: Mapping[str, torch.Tensor], model: nnx.Module, rules: Sequence[Rule] = ()
) -> Mapped:
    """Find the place of every entry of a state_dict in an NNX model; nothing is written.

    Raises:
      ValueError: where a rule fits nothing, names and order contradict each other, shapes
        differ, or the two models tie different weights.
    """
    ours = jax_layers(model)
    pairs, dropped = _by_rules(state, ours, rules)
    taken = {*pairs, *dropped}
    filled = {leaf.path for leaf, _, _ in pairs.values()}
    left = _rest(torch_layers(state), lambda name: name in taken)
    places = _rest(ours, lambda leaf: leaf.path in filled)
    prefix = _align(left, places)
    left = _rest(left, lambda name: is_counter(name, state[name], prefix))
    matches, undecided = _match(left, places, state)
    for theirs, layer, how in matches:
        own = {leaf.own_name: leaf for leaf in layer.leaves.values()}
        for leaf_name, name in theirs.leaves.items():
            leaf = layer.leaves.get(leaf_name) or own.get(leaf_name)
            if leaf is not None:
                pairs[name] = (leaf, None, how)
    _add_aliases(state, pairs)
    entries = _entries(state, pairs)
    dropped += [
        n
        for n in state
        if n not in pairs
        and n not in dropped
        and (n.endswith("num_batches_tracked") or is_counter(n, state[n], prefix))
    ]
    filled = {entry.path for entry in entries}
    every = {leaf.path: None for layer in ours for leaf in layer.leaves.values()}
    return Mapped(
        entries,
        tuple(dropped),
        tuple(name for name in state if name not in pairs and name not in dropped),
        # A count of batches that torch's side lacks (before torch 0.4.1, or untracked) keeps
        # its value.
        tuple(
            path for path in every if path not in filled and path[-1] != "num_batches_tracked"
        ),
        tuple(undecided),
    )


def own_names(model: nnx.Module) -> list[str]:
    """The names that torch would give to the arrays of an NNX model."""
    return _names_here(jax_layers(model))


def _names_here(layers: list[Layer]) -> list[str]:
    return [
        f"{name}.{leaf}".lstrip(".")
        for layer in layers
        for name in layer.names
        for leaf in layer.leaves
    ]


def _align(theirs: list[Layer], ours: list[Layer]) -> str:
    """Take a wrapper's prefix off the layers' names, on either side; torch's is returned."""
    names = [name for layer in theirs for name in layer.leaves.values()]
    prefixes = common_prefixes(names, _names_here(ours))
    for layers, prefix in zip((theirs, ours), prefixes, strict=True):
        for layer in layers:
            layer.names = [f"{name}.".removeprefix(prefix)[:-1] for name in layer.names]
    return prefixes[0]


def _rest(layers: list[Layer], gone) -> list[Layer]:
    rest = [
        Layer(layer.names, {n: leaf for n, leaf in layer.leaves.items() if not gone(leaf)})
        for layer in layers
    ]
    return [layer for layer in rest if layer.leaves]


def _by_rules(state, ours: list[Layer], rules: Sequence[Rule]):
    pairs: dict[str, tuple[Leaf, Transform | None, str]] = {}
    dropped: list[str] = []
    for pattern, target, *transform in rules:
        regex = compiled(pattern)
        hits = [
            (name, match)
            for name in state
            if (match := regex.fullmatch(name)) and name not in pairs
        ]
        if not hits:
            raise ValueError(
                f"the rule {pattern!r} fits no entry of torch's; there are: {', '.join(state)}."
            )
        for name, match in hits:
            if target is None:
                dropped.append(name)
            else:
                leaf = _leaf_at(ours, match.expand(target), name)
                pairs[name] = (leaf, as_transform(*transform) if transform else None, "rule")
    return pairs, dropped


def _leaf_at(ours: list[Layer], path: str, name: str) -> Leaf:
    """The leaf a rule points to, by its own path or by that of its layer."""
    for layer in ours:
        for leaf_name, leaf in layer.leaves.items():
            here = {
                dotted(leaf.path),
                *(f"{n}.{leaf.path[-1]}".lstrip(".") for n in layer.names),
            }
            if path in here:
                return leaf
            # `in_proj_weight` and `weight_ih_l0` go to the weight of a layer, too.
            if path in layer.names and leaf_name in _words(name):
                return leaf
    known = [dotted(leaf.path) for layer in ours for leaf in layer.leaves.values()]
    raise ValueError(
        f"a rule sends {name} to {path!r}, which the JAX model has not; it has: "
        f"{', '.join(known)}."
    )


def _words(name: str) -> list[str]:
    leaf = name.rpartition(".")[2]
    return [leaf, *leaf.split("_")]


def _match(theirs: list[Layer], ours: list[Layer], state):
    """Pairs of layers, and the groups for which neither names nor shapes decide."""
    by_name = [(a, b) for a in theirs for b in ours if set(a.names) & set(b.names)]
    for (a, b), (other, c) in itertools.pairwise(by_name):
        if a is other:
            _refuse_tie(b.names[0], c.names[0], b.names[0], c.names[0])
    named = [(a, b, "name") for a, b in by_name]
    if len(by_name) in (len(theirs), len(ours)):  # the names account for one side completely
        return named, []
    undecided = []
    for left, right in _same_shapes(theirs, ours, state):
        pairs = list(zip(left, right, strict=True))
        by_order = [(a, b) for a, b in pairs if not _named(by_name, a)]
        against = [(a, b) for a, b in by_name if _stands_elsewhere(pairs, a, b)]
        if by_order and against:
            named = [pair for pair in named if pair[:2] not in against]
            by_order = [(a, b) for a, b in pairs if (a, b, "name") not in named]
            why = (
                f"{against[0][0].names[0]} is called {against[0][1].names[0]} in the JAX model "
                "too, but stands elsewhere in the order"
            )
            undecided.append(Exchangeable(tuple(left), tuple(right), why))
        elif len(by_order) > 1:
            unnamed, places = zip(*by_order, strict=True)
            undecided.append(Exchangeable(unnamed, places, "their names do not agree"))
        named += [(a, b, "order") for a, b in by_order]
    return named, undecided


def _named(by_name: list[tuple[Layer, Layer]], layer: Layer) -> bool:
    return any(layer is a for a, _ in by_name)


def _stands_elsewhere(pairs: list[tuple[Layer, Layer]], theirs: Layer, ours: Layer) -> bool:
    """Whether the order gives torch's layer to another one than its name does."""
    return any(theirs is a and ours is not b for a, b in pairs)


def _same_shapes(theirs: list[Layer], ours: list[Layer], state):
    """Groups of layers of the same shapes, as many in torch as here."""
    groups: dict[frozenset, tuple[list[Layer], list[Layer]]] = defaultdict(lambda: ([], []))
    for layer in theirs:
        groups[layer.signature(lambda name: state[name].shape)][0].append(layer)
    for layer in ours:
        groups[layer.signature(lambda leaf: leaf.expected_shape)][1].append(layer)
    return [group for group in groups.values() if len(group[0]) == len(group[1])]


def _add_aliases(state, pairs) -> None:
    """Names that torch gives to a tensor that already has its place go to the same place."""
    places = {same_storage(state[name], name): pair for name, pair in pairs.items()}
    for name, tensor in state.items():
        if name not in pairs and same_storage(tensor, name) in places:
            pairs[name] = places[same_storage(tensor, name)]


def _entries(state, pairs) -> tuple[Entry, ...]:
    grouped: dict[Path, list[str]] = defaultdict(list)
    for name in state:
        if name in pairs:
            grouped[pairs[name][0].path].append(name)
    entries = tuple(_entry(state, names, *pairs[names[0]]) for names in grouped.values())
    _check_ties(state, entries)
    return entries


def _entry(state, names: list[str], leaf: Leaf, transform: Transform | None, how: str) -> Entry:
    tensor = state[names[0]]
    for other in names[1:]:
        same = same_storage(state[other], other) == same_storage(tensor, names[0])
        if not same and not np.array_equal(
            to_numpy(state[other]), to_numpy(tensor), equal_nan=True
        ):
            raise ValueError(
                f"{dotted(leaf.path)} is one array in the JAX model; {' and '.join(names)} "
                "differ."
            )
    turn = transform or leaf.transform(tuple(tensor.shape))
    shape = tuple(leaf.variable.shape)
    try:
        turned = turn.apply(np.broadcast_to(np.float32(0), tuple(tensor.shape))).shape
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{names[0]} {tuple(tensor.shape)} does not fit {dotted(leaf.path)} {shape}: "
            f"{error}"
        ) from error
    if turned != shape:
        raise ValueError(
            f"{names[0]} {tuple(tensor.shape)} becomes {turned}, but {dotted(leaf.path)} has "
            f"shape {shape}."
        )
    return Entry(tuple(names), leaf.path, turn, tuple(tensor.shape), shape, how)


def _check_ties(state, entries: tuple[Entry, ...]) -> None:
    seen: dict[tuple, Entry] = {}
    for entry in entries:
        key = same_storage(state[entry.names[0]], entry.names[0])
        if key in seen:
            _refuse_tie(
                seen[key].names[0], entry.names[0], dotted(seen[key].path), dotted(entry.path)
            )
        seen[key] = entry


def _refuse_tie(name: str, other_name: str, path: str, other_path: str) -> NoReturn:
    raise ValueError(
        f"torch ties {name} and {other_name}; in the JAX model {path} and {other_path} are "
        "apart, and would drift apart. Use one layer twice."
    )
