"""The Linear behind a flatten: torch numbers its columns C H W, a model that reshapes numbers them H W C."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.forward import jax_outputs, torch_outputs
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.rules import KERNEL, flatten_rows


def flattened_shapes(module: torch.nn.Module, inputs: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """For each Linear of a torch model that reads a flattened image: its weight's name -> the image's [C *spatial]."""
    last: list[tuple[int, ...]] = []
    found: dict[str, tuple[int, ...]] = {}

    def watch(name):
        def before(layer, args):
            x = args[0] if args else None
            if not isinstance(x, torch.Tensor):
                return
            if isinstance(layer, torch.nn.Linear) and x.ndim == 2:
                image = next((s for s in reversed(last) if math.prod(s) == x.shape[1]), None)
                if image is not None and image[0] > 1 and math.prod(image[1:]) > 1:
                    found[f"{name}.weight".lstrip(".")] = image
            elif x.ndim > 2:
                last.append(tuple(x.shape[1:]))

        return before

    def after(layer, args, y):
        del layer, args
        if isinstance(y, torch.Tensor) and y.ndim > 2:
            last.append(tuple(y.shape[1:]))

    hooks = [m.register_forward_pre_hook(watch(name)) for name, m in module.named_modules()]
    hooks += [m.register_forward_hook(after) for m in module.modules()]
    last += [tuple(np.shape(x)[1:]) for x in inputs if np.ndim(x) > 2]
    try:
        torch_outputs(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def turned(entries: Sequence[Entry], shapes: dict[str, tuple[int, ...]]) -> list[Entry]:
    """The entries of these Linear weights, with their rows turned."""
    return [
        dataclasses.replace(entry, transform=flatten_rows(*shapes[entry.names[0]]))
        for entry in entries
        if entry.names[0] in shapes and entry.transform is KERNEL
    ]


def replace(entries: Sequence[Entry], new: Sequence[Entry]) -> tuple[Entry, ...]:
    """`entries` with those of the same path exchanged."""
    by_path = {entry.path: entry for entry in new}
    return tuple(by_path.get(entry.path, entry) for entry in entries)


def choose_flatten(
    module: torch.nn.Module,
    model: nnx.Module,
    entries: tuple[Entry, ...],
    probe: Any,
    write: Callable[[Sequence[Entry]], None],
) -> tuple[Entry, ...]:
    """Turn the rows of those Linear layers for which the outputs come nearest to torch's; the model is left so."""
    inputs = probe if isinstance(probe, tuple | list) else (probe,)
    candidates = turned(entries, flattened_shapes(module, inputs))
    theirs = torch_outputs(module, inputs)

    def error(chosen: Sequence[Entry]) -> float:
        write(replace(entries, chosen))
        outputs = zip(jax_outputs(model, inputs, theirs), theirs, strict=True)
        return max((float(np.max(np.abs(a - b), initial=0.0)) for a, b in outputs), default=0.0)

    subsets = [c for n in range(len(candidates) + 1) for c in itertools.combinations(candidates, n)]
    best = min(subsets, key=error) if len(subsets) > 1 else ()  # the first of equals: as few turns as will do
    write(replace(entries, best))
    return replace(entries, best)


def flatten_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """A word about Linear layers that seem to read a flattened image, where no probe could tell."""
    channels, notes = 0, []
    for entry in entries:
        if entry.transform is not KERNEL:
            continue
        outputs, inputs, *window = entry.torch_shape
        if window:
            channels = outputs
        elif channels > 1 and inputs > channels and inputs % channels == 0:
            notes.append(
                f"note: {entry.names[0]} reads {inputs} = {channels} x "
                f"{inputs // channels} values in torch's C H W order, which is that of "
                "dlwp_jax.nn.Flatten; if your model uses reshape, pass probe= or the rule flatten_rows."
            )
            channels = 0
    return tuple(notes)
