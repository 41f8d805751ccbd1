"""Weights from torch into an NNX module, and back."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.files import state_dict_of
from dlwp_jax.parity.flatten import choose_flatten, flatten_notes
from dlwp_jax.parity.forward import HALF_TOLERANCES, TOLERANCE, Layout, dtype_of
from dlwp_jax.parity.leaves import dotted, jax_layers, refuse_hooked_weights, to_numpy
from dlwp_jax.parity.mapping import Entry, Mapped, make_map, own_names
from dlwp_jax.parity.prefixes import common_prefixes, without_prefix
from dlwp_jax.parity.rules import SAME, Rule, compiled
from dlwp_jax.parity.table import listed, text_table


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What `load_torch` did; prints as a table.

    Attributes:
      map: the pairs (`map.entries`), what was dropped on purpose, and what was left over
        (without `strict`).
      state: torch's state_dict as it was read (of a module: its own Parameters).
        `torch_optimizer` needs it.
      notes: what to look at.
    """

    map: Mapped
    state: Mapping[str, torch.Tensor] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            (
                " = ".join(e.names),
                list(e.torch_shape),
                dotted(e.path),
                list(e.shape),
                e.transform.name,
                e.found_by,
            )
            for e in self.map.entries
        ]
        lines = [text_table(["torch", "shape", "here", "shape", "turned", "found by"], rows)]
        for title, names in (
            ("dropped", self.map.dropped),
            ("left over in torch", self.map.unexpected),
            ("not filled here", [dotted(path) for path in self.map.missing]),
        ):
            if names:
                lines.append(f"{title}: {', '.join(names)}")
        return "\n".join([*lines, *self.notes])


def load_torch(
    model: nnx.Module,
    source: Any,
    *,
    rules: Sequence[Rule] = (),
    strict: bool = True,
    probe: Any = None,
    layout: Layout = "auto",
) -> LoadReport:
    """Fill an NNX module with the weights of a torch model, in place.

    Layers are found by rules, then by name (`features.0` is `features.0` here; a prefix that a
    wrapper puts ahead of all names is taken off). Layers without a name in common are found by
    their shapes, which the report notes; if several have the same shapes, only a rule or the
    outputs for a probe decide which is which. Kernels are turned to channels last, and so are a
    model's own arrays of three axes or more (`[1 C H W]`) where their shapes ask for it;
    `num_batches_tracked` is dropped where the model does not count batches; weights that torch
    ties must be tied here. Nothing is written unless all fits.

    Args:
      model: a Flax NNX module: of `dlwp_jax.nn`, of Flax's own layers, or both.
      source: a torch module, a state_dict, a checkpoint's dict with one state_dict in it, or a
        file's path.
      rules: `(regex, path)` or `(regex, path, transform)`: entries of the state_dict whose
        whole name fits go to that leaf or layer (`\\1` stands for the regex's first group); a
        path of None drops them.
      strict: refuse anything left over, on either side.
      probe: an input in torch's layout. With it (and a torch module) the columns of a Linear
        behind a flatten, and batch norms between the two, are turned if the outputs show that
        the JAX model flattens place by place; and layers of the same shapes are put in the
        order that gives torch's outputs.
      layout: of the probe, as in `compare`.

    Returns:
      A `LoadReport`.

    Raises:
      ValueError: if the models do not fit (it names what is left over), or if layers of the
        same shapes could be exchanged and neither a rule nor the probe decides.
      NotImplementedError: if hooks or parametrizations compute a weight, unless rules place it.

    >>> from dlwp_jax import nn
    >>> theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    >>> ours = nn.Sequential(nn.Conv2d(1, 2, 3, rngs=nnx.Rngs(0)), nn.ReLU())
    >>> print(load_torch(ours, theirs))
    torch     shape         here      shape         turned    found by
    0.weight  [2, 1, 3, 3]  0.kernel  [3, 3, 1, 2]  kernel    name
    0.bias    [2]           0.bias    [2]           as it is  name
    """
    state, notes = state_dict_of(source), ()
    refuse_hooked_weights(state, rules, own_names(model))
    if not isinstance(source, torch.nn.Module):
        state, notes = _without_wrapper(state, model, rules)
    mapped = make_map(state, model, rules)
    if strict:
        mapped.raise_if_incomplete()
    if probe is None:
        mapped.raise_if_undecided()
        write(model, mapped.entries, state)
        notes += (*order_notes(mapped.entries), *flatten_notes(mapped.entries))
        return LoadReport(mapped, state, notes)
    if not isinstance(source, torch.nn.Module):
        raise TypeError(f"probe needs the torch module to run, not a {type(source).__name__}.")
    mapped = _probed(model, source, state, mapped, rules, probe, layout)
    return LoadReport(mapped, state, order_notes(mapped.entries))


def _without_wrapper(
    state: Mapping[str, torch.Tensor], model: nnx.Module, rules: Sequence[Rule]
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The entries without a prefix that they share and the model has not."""
    fitting = [compiled(pattern) for pattern, *_ in rules]
    prefix, _ = common_prefixes(state, own_names(model))
    bare = without_prefix(state, prefix)
    if not prefix or not all(any(map(rule.fullmatch, bare)) for rule in fitting):
        return dict(state), ()
    return bare, (f"note: the prefix {prefix!r} of all names was taken off.",)


def order_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Which layers were matched without a name in common."""
    notes = []
    for how, why in (("order", "their shapes and order"), ("probe", "the probe's outputs")):
        pairs = {
            f"{entry.names[0].rpartition('.')[0]} -> {dotted(entry.path[:-1])}": None
            for entry in entries
            if entry.found_by == how
        }
        if pairs:
            notes.append(f"note: matched by {why}, not by name: {listed(list(pairs))}.")
    return tuple(notes)


# Every one is a run of the JAX model; five layers of the same shapes have so many orders.
MOST_ORDERS = 120


def _probed(model, source, state, mapped: Mapped, rules, probe, layout) -> Mapped:
    """The map under which the outputs are torch's; the model's weights are written."""
    before = [(variable, variable[...]) for variable in _variables(model).values()]
    orders = [itertools.permutations(range(len(g.ours))) for g in mapped.undecided]
    tried = itertools.islice(itertools.product(*orders), MOST_ORDERS)
    agreement = HALF_TOLERANCES.get(dtype_of(source) or torch.float32, TOLERANCE)
    for number, order in enumerate(tried):
        candidate = mapped if number == 0 else _reordered(state, model, rules, mapped, order)
        entries, error = choose_flatten(
            source,
            model,
            candidate.entries,
            probe,
            layout,
            lambda entries: write(model, entries, state),
            judged=bool(mapped.undecided),
        )
        if error <= agreement or not mapped.undecided:
            found = dataclasses.replace(candidate, entries=entries, undecided=())
            return _found_by_probe(found, mapped)
    for variable, value in before:
        variable[...] = value
    group = mapped.undecided[0]
    why = f"{group.why}, and no order of them gives torch's outputs for the probe"
    undecided = (dataclasses.replace(group, why=why),)
    dataclasses.replace(mapped, undecided=undecided).raise_if_undecided()
    return mapped


def _reordered(state, model, rules, mapped: Mapped, order) -> Mapped:
    more = [
        rule
        for group, numbers in zip(mapped.undecided, order, strict=True)
        for rule in group.rules(numbers)
    ]
    return make_map(state, model, [*rules, *more])


def _found_by_probe(found: Mapped, mapped: Mapped) -> Mapped:
    names = {
        name
        for group in mapped.undecided
        for layer in group.theirs
        for name in layer.leaves.values()
    }
    entries = tuple(
        dataclasses.replace(entry, found_by="probe") if entry.names[0] in names else entry
        for entry in found.entries
    )
    return dataclasses.replace(found, entries=entries)


def _variables(model: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable[Any]]:
    return {
        leaf.path: leaf.variable
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
    }


def write(
    model: nnx.Module, entries: Sequence[Entry], state: Mapping[str, torch.Tensor]
) -> None:
    """Put torch's values into the model's variables, in the model's dtypes."""
    variables = _variables(model)
    values = {
        entry.path: _cast(
            entry.names[0],
            entry.transform.apply(to_numpy(state[entry.names[0]])),
            variables[entry.path],
        )
        for entry in entries
    }
    for path, value in values.items():
        variables[path][...] = value


def _cast(name: str, value: np.ndarray, variable: nnx.Variable) -> Any:
    """A value in the variable's dtype; refused where that loses its kind or its range."""
    with np.errstate(over="ignore"):
        cast = jnp.asarray(value, variable.dtype)
    if not jnp.issubdtype(variable.dtype, jnp.floating):
        return cast
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} holds {value.dtype} in torch, where the model here has {variable.dtype}."
        )
    if np.any(
        np.isfinite(np.asarray(value, np.float64)) & ~np.isfinite(np.asarray(cast, np.float64))
    ):
        raise ValueError(f"{name} has values too large for {variable.dtype}.")
    return cast


def to_torch(
    model: nnx.Module, like: Any = None, *, rules: Sequence[Rule] = ()
) -> dict[str, torch.Tensor]:
    """The state_dict of a torch twin: torch's names, layouts and dtypes, for `load_state_dict`.

    Args:
      model: the NNX module.
      like: what names the entries: the `LoadReport` the weights came with, or a torch module, a
        state_dict or a file of one (matched as `load_torch` does, with `rules`). Without it the
        names are the module's own, with torch's for the leaves (`kernel` and `scale` are
        `weight`, ...).

    Returns:
      A dict of CPU tensors. Tied weights stand under all their names. What was dropped at
      loading is 0 if it is a `num_batches_tracked`, and left out else.

    >>> from dlwp_jax import nn
    >>> state = to_torch(nn.Sequential(nn.Linear(3, 2, rngs=nnx.Rngs(0))))
    >>> {name: list(tensor.shape) for name, tensor in state.items()}
    {'0.weight': [2, 3], '0.bias': [2]}
    """
    if like is None:
        return _own_names(model)
    if isinstance(like, LoadReport):
        mapped, state = like.map, like.state
    else:
        state = state_dict_of(like)
        mapped = make_map(state, model, rules)
        mapped.raise_if_incomplete()
        mapped.raise_if_undecided()
    variables = _variables(model)
    by_name = mapped.by_name()
    result = {}
    for name, tensor in state.items():
        if name in by_name:
            entry = by_name[name]
            if entry.transform.undo is None:
                raise ValueError(
                    f"the transform of {name} has no way back; give its rule a Transform with "
                    "undo."
                )
            result[name] = _tensor(
                entry.transform.undo(np.asarray(variables[entry.path][...])), tensor.dtype
            )
        elif name in mapped.dropped and name.endswith("num_batches_tracked"):
            result[name] = torch.zeros_like(tensor)
    return result


def _own_names(model: nnx.Module) -> dict[str, torch.Tensor]:
    result = {}
    for layer in jax_layers(model):
        for leaf_name, leaf in layer.leaves.items():
            value, turn = np.asarray(leaf.variable[...]), leaf.transform(())
            if turn is SAME and value.ndim > 1 and leaf.path[-1] in ("scale", "bias"):
                raise ValueError(
                    f"{dotted(leaf.path)} has {value.ndim} axes; give like=, the layout is not "
                    "known."
                )
            assert turn.undo is not None  # the turns of layers all have a way back
            tensor = _tensor(
                turn.undo(value), torch.int64 if leaf_name == "num_batches_tracked" else None
            )
            result.update({f"{name}.{leaf_name}".lstrip("."): tensor for name in layer.names})
    return result


def _tensor(value: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(value, order="C"))
    return tensor if dtype is None else tensor.to(dtype)
