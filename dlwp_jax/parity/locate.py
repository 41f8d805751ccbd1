"""The first layer whose output differs, and what the difference looks like."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.core import Tracer

from dlwp_jax.parity.forward import outputs_of, whole_attention
from dlwp_jax.parity.leaves import Path, dotted, to_numpy
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.operations import first_operation, is_seen
from dlwp_jax.parity.report import Row, rows_of
from dlwp_jax.parity.symptoms import applied, as_torchs, compared, near, options_that_differ
from dlwp_jax.parity.table import listed


class Call(NamedTuple):
    """One call of a layer: its dotted name, its class, its first input and first output.

    Arrays are None if the layer was called inside of one of JAX's loops.
    """

    name: str
    layer: Any
    input: np.ndarray | None
    output: np.ndarray | None

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.layer).__name__


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

    Layers are counterparts if their weights are matched, or if they have the same path; the
    n-th call of one is compared with the n-th call of the other.

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
    ours = _jax_calls(model, jax_inputs, train)
    walk = _Walk(reference, entries, ours, tolerance)
    for number, theirs in enumerate(_torch_calls(reference, torch_inputs)):
        found = walk.difference(number, theirs)
        if found is not None:
            break
    else:
        if walk.last and not walk.last.name:
            differs = "the first output of the model agrees, another one differs"
        elif walk.last:
            differs = f"what comes behind {walk.last.name} differs"
        else:
            differs = "what comes behind the input differs"
        return [], f"{FIRST}: none of those that both models have; {differs}."
    rows, words, between, outside = found
    if between:
        graph, state = nnx.split(model)
        model = nnx.merge(graph, state, copy=True)
        (model.train if train else model.eval)()
        arguments = reference, torch_inputs, model, jax_inputs
        operation = ""
        # The sentence does without it if the model cannot run without jit.
        with contextlib.suppress(TypeError, ValueError, RuntimeError, LookupError):
            operation = first_operation(*arguments, between, outside, tolerance)
        if operation:
            words.append(f"the port has no array with the values of torch's {operation}")
        elif len(words) < 3:
            words.append("look for a reshape, an axis, or another order of layers")
    return rows, "; ".join(word for word in words if word) + "."


# How the sentence begins.
FIRST = "first layer that differs"


class _Found(NamedTuple):
    """The first difference.

    Attributes:
      rows: the row of the output.
      words: parts of the sentence.
      between: how many of torch's calls had ended before and after the cause, if it is one of
        torch's functions.
      outside: a layer in which the cause is not.
    """

    rows: list[Row]
    words: list[str]
    between: tuple[int, int] | None
    outside: str | None


class _Walk:
    """A walk along torch's calls, until an output differs.

    Attributes:
      last: torch's last call whose output agrees.
      paired: the JAX model's layers of which a call has had a counterpart.
    """

    def __init__(
        self,
        reference: torch.nn.Module,
        entries: Sequence[Entry],
        ours: Sequence[Call],
        tolerance: float,
    ):
        self.place = _places(entries)
        self.turned = {_layer(entry.names[0]) for entry in entries if _is_turned_array(entry)}
        self.leaves = {n for n, m in reference.named_modules() if not any(m.children())}
        self.tolerance = tolerance
        self.left = list(ours)
        self.last: Call | None = None
        self.paired: set[str] = set()
        self.number = -1
        self.alone: list[str] = []

    def difference(self, number: int, theirs: Call) -> _Found | None:
        """Compare torch's call of that number; None if it agrees or has no counterpart."""
        own = self.place.get(theirs.name, theirs.name)
        here = next((call for call in self.left if call.name == own), None)
        if here is None and theirs.name in self.place:
            self.alone.append(theirs.name)
        if here is None or theirs.name in self.turned:
            return None
        ahead = [call.name for call in self.left[: self.left.index(here)]]
        self.left.remove(here)
        self.paired.add(own)
        if here.output is None or theirs.output is None:
            return None
        name = theirs.name or "output of the model"
        output = as_torchs(here.output, theirs.output)
        if output is not None:
            rows = rows_of(
                "forward", {name: output}, {name: theirs.output}, tolerance=self.tolerance
            )
            if rows[0].ok:
                self.last, self.number, self.alone = theirs, number, []
                return None
        elif here.output.size == theirs.output.size:
            return None  # a layout of its own
        else:
            rows = [Row(None, "forward", name, np.inf, np.inf, np.inf, 0.0)]
        if _inputs_agree(here, theirs, self.tolerance):
            words, known = self._inside(name, theirs, here)
            leaf = not any(theirs.layer.children())
            outside = None
        else:
            words, known = self._ahead(name, theirs, here)
            leaf, outside = False, theirs.name
        words += self._other_calls(ahead)
        between = None if leaf or known or self.alone else (self.number + 1, number + 1)
        return _Found(rows, words, between, outside)

    def _inside(self, name: str, theirs: Call, here: Call) -> tuple[list[str], bool]:
        """Words for a layer whose input agrees, and whether they say the cause."""
        assert theirs.output is not None
        assert here.output is not None
        words = [
            f"{FIRST}: {name} ({theirs.kind} in torch, {here.kind} here)",
            "its input agrees",
            f"its output {compared(here.output, theirs.output, self.tolerance)}",
        ]
        if not any(theirs.layer.children()):
            options = options_that_differ(theirs.layer, here.layer)
            given, place = theirs.input, f"in {name}"
        else:
            options = ""
            given, place = self.last and self.last.output, f"behind {self._last_name()}"
            words.append((self.last and f"right until the output of {self.last.name}") or "")
        both, said = applied(given, theirs.output, here.output, place, self.tolerance)
        return [*words, options or said], both

    def _ahead(self, name: str, theirs: Call, here: Call) -> tuple[list[str], bool]:
        """Words for a layer whose input differs already, and whether they say the cause."""
        if here.input is None or theirs.input is None:
            return [f"{FIRST}: {name} ({theirs.kind}), and already its input differs"], False
        looks = compared(here.input, theirs.input, self.tolerance)
        words = [f"{FIRST}: {name} ({theirs.kind}), and already its input {looks}"]
        if self.last is None:
            return words, False
        words.append(f"right until the output of {self.last.name}")
        given, place = self.last.output, f"behind {self.last.name}"
        both, said = applied(given, theirs.input, here.input, place, self.tolerance)
        return [*words, said], both

    def _last_name(self) -> str:
        return self.last.name if self.last else "the input"

    def _other_calls(self, ahead: Sequence[str]) -> list[str]:
        known = {*self.place.values(), *self.leaves}
        more = [name for name in dict.fromkeys(ahead) if name in known and name]
        again = [name for name in more if name in self.paired]
        more = [name for name in more if name not in self.paired]
        torchs_again = [name for name in self.alone if self.place[name] in self.paired]
        alone = [name for name in self.alone if name not in torchs_again]
        words = []
        if again:
            words.append(f"the port calls {listed(again)} once more, torch does not")
        if more:
            words.append(f"the port calls {listed(more)} ahead of it, torch does not")
        if torchs_again:
            words.append(f"torch calls {listed(torchs_again)} once more, the port does not")
        if alone:
            words.append(f"torch calls {listed(alone)} ahead of it, the port does not")
        return words


def _places(entries: Sequence[Entry]) -> dict[str, str]:
    """torch's layers -> the JAX model's; without those of which one is several of the other."""
    found: dict[str, set[Path]] = {}
    for entry in entries:
        found.setdefault(_layer(entry.names[0]), set()).add(entry.path[:-1])
    places = {}
    for name, paths in found.items():
        first, *others = paths
        same = [
            i
            for i, key in enumerate(first)
            if all(p[: i + 1] == first[: i + 1] for p in others)
        ]
        path = first[: len(same)]
        if name and (path or not others):
            places[name] = dotted(path)
    several = [place for place, n in Counter(places.values()).items() if n > 1]
    return {name: place for name, place in places.items() if place not in several}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_turned_array(entry: Entry) -> bool:
    """Whether a layer computes on features in another order than torch's."""
    return len(entry.torch_shape) == 1 and entry.transform.name.startswith("rows turned")


def _torch_calls(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[Call]:
    calls: list[Call] = []

    def watch(name: str, layer: torch.nn.Module) -> Any:
        def hook(layer, args, result):
            if is_seen(result):
                given = args[0] if args and isinstance(args[0], torch.Tensor) else None
                x = None if given is None else to_numpy(given)
                calls.append(Call(name, layer, x, to_numpy(outputs_of(result)[0])))

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
    """A subclass whose calls are recorded; the arrays of layers in jax's loops are not."""

    run: Any = kind.__call__

    def call(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        seen = [y for y in outputs_of(result) if isinstance(y, jax.Array)]
        if seen and jnp.issubdtype(seen[0].dtype, jnp.floating):
            given = args[0] if args and isinstance(args[0], jax.Array) else None
            calls.append(Call(name, self, _values(given), _values(seen[0])))
        return result

    return type(kind)(kind.__name__, (kind,), {"__call__": call})


def _values(array: jax.Array | None) -> np.ndarray | None:
    return None if array is None or isinstance(array, Tracer) else np.asarray(array)


def _inputs_agree(here: Call, theirs: Call, tolerance: float) -> bool:
    if here.input is None or theirs.input is None:
        return False
    x = as_torchs(here.input, theirs.input)
    return x is not None and near(x, theirs.input, tolerance)
