"""Weights from torch into an NNX module, and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.files import state_dict_of
from dlwp_jax.parity.flatten import choose_flatten, flatten_notes
from dlwp_jax.parity.forward import Layout
from dlwp_jax.parity.leaves import dotted, jax_layers, refuse_unsupported, to_numpy
from dlwp_jax.parity.mapping import Entry, Mapped, make_map
from dlwp_jax.parity.rules import SAME, Rule
from dlwp_jax.parity.table import text_table


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

    Layers are found by rules, then by name (`features.0` is `features.0` here), else by their
    order among layers of the same shapes. Kernels are turned to channels last, and so are a
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
        behind a flatten, and batch norms between the two, are turned where the outputs show
        that the JAX model flattens place by place.
      layout: of the probe, as in `compare`.

    Returns:
      A `LoadReport`.

    Raises:
      ValueError: where the models do not fit; it names what is left over.
      NotImplementedError: for recurrent and attention layers.

    >>> from dlwp_jax import nn
    >>> theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    >>> ours = nn.Sequential(nn.Conv2d(1, 2, 3, rngs=nnx.Rngs(0)), nn.ReLU())
    >>> print(load_torch(ours, theirs))
    torch     shape         here      shape         turned    found by
    0.weight  [2, 1, 3, 3]  0.kernel  [3, 3, 1, 2]  kernel    name
    0.bias    [2]           0.bias    [2]           as it is  name
    """
    state = state_dict_of(source)
    refuse_unsupported(source, state)
    mapped = make_map(state, model, rules)
    if strict:
        mapped.raise_if_incomplete()
    write(model, mapped.entries, state)
    if probe is None:
        return LoadReport(mapped, state, flatten_notes(mapped.entries))
    if not isinstance(source, torch.nn.Module):
        raise TypeError(f"probe needs the torch module to run, not a {type(source).__name__}.")
    entries = choose_flatten(
        source,
        model,
        mapped.entries,
        probe,
        layout,
        lambda entries: write(model, entries, state),
    )
    return LoadReport(dataclasses.replace(mapped, entries=entries), state)


def write(
    model: nnx.Module, entries: Sequence[Entry], state: Mapping[str, torch.Tensor]
) -> None:
    """Put torch's values into the model's variables, in the model's dtypes."""
    variables = {
        leaf.path: leaf.variable
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
    }
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
    variables = {
        leaf.path: leaf.variable
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
    }
    by_name = mapped.by_name()
    result = {}
    for name, tensor in state.items():
        if name in by_name:
            entry = by_name[name]
            if entry.transform.undo is None:
                raise ValueError(
                    f"the transform of {name} has no way back; give its rule a Transform with undo."
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
                    f"{dotted(leaf.path)} has {value.ndim} axes; give like=, the layout is not known."
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
