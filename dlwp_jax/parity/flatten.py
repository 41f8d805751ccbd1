"""What stands behind a flatten: torch numbers the features C H W, a model that reshapes numbers
them H W C.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.forward import (
    Layout,
    Watch,
    input_turns,
    jax_outputs,
    torch_outputs,
    unwrapped,
)
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.rules import KERNEL, SAME, flatten_rows

# Names in the state_dict -> [C *spatial] of the image that was flattened.
Chain = dict[str, tuple[int, ...]]


def flattened(module: torch.nn.Module, inputs: Sequence[Any]) -> list[Chain]:
    """The layers of a torch model that read a flattened image, each with the Linear that ends
    its order of features.

    A chain is a Linear and the layers ahead of it that have one number for each feature (batch
    norms, ...): they turn together or not at all.
    """
    images: list[tuple[int, ...]] = [tuple(np.shape(x)[1:]) for x in inputs if np.ndim(x) > 2]
    chains: list[Chain] = []
    waiting: dict[
        int, Chain
    ] = {}  # number of features -> layers that no Linear has followed yet

    def before(name, layer, args):
        x = args[0] if args else None
        if not isinstance(x, torch.Tensor):
            return
        image = _image_of(images, x.shape[1]) if x.ndim == 2 else None
        if image is None:
            return
        if isinstance(layer, torch.nn.Linear):
            chains.append({**waiting.pop(x.shape[1], {}), f"{name}.weight".lstrip("."): image})
        else:
            names = _arrays_by_feature(layer, x.shape[1])
            waiting.setdefault(x.shape[1], {}).update(
                {f"{name}.{n}".lstrip("."): image for n in names}
            )

    def seen(name, x, arguments, y):
        del name, x, arguments
        if isinstance(y, torch.Tensor) and y.ndim > 2:
            images.append(tuple(y.shape[1:]))

    hooks = [
        m.register_forward_pre_hook(functools.partial(before, name))
        for name, m in module.named_modules()
    ]
    try:
        with Watch(seen):
            torch_outputs(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [chain for chain in (*chains, *waiting.values()) if chain]


def _image_of(images: Sequence[tuple[int, ...]], features: int) -> tuple[int, ...] | None:
    """The last image with so many values, if its order of flattening matters."""
    image = next((s for s in reversed(images) if math.prod(s) == features), None)
    return image if image is not None and image[0] > 1 and math.prod(image[1:]) > 1 else None


def _arrays_by_feature(layer: torch.nn.Module, features: int) -> list[str]:
    """The arrays of a layer that has one number for each feature, and nothing that mixes
    them.
    """
    if isinstance(
        layer, torch.nn.GroupNorm
    ):  # a group of H W C's neighbours is another set of features
        return []
    own = {
        **dict(layer.named_parameters(recurse=False)),
        **dict(layer.named_buffers(recurse=False)),
    }
    arrays = {
        name: value for name, value in own.items() if value is not None and value.ndim > 0
    }
    return (
        list(arrays)
        if all(tuple(value.shape) == (features,) for value in arrays.values())
        else []
    )


def turned(entries: Sequence[Entry], chain: Chain) -> list[Entry]:
    """The entries of a chain, turned; none where a rule has said how one of them is to be
    turned.
    """
    own = [entry for entry in entries if entry.names[0] in chain]
    if any(entry.transform not in (KERNEL, SAME) for entry in own):
        return []
    return [
        dataclasses.replace(entry, transform=flatten_rows(*chain[entry.names[0]]))
        for entry in own
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
    layout: Layout,
    write: Callable[[Sequence[Entry]], None],
    judged: bool,
) -> tuple[tuple[Entry, ...], float]:
    """Turn those chains for which the outputs come nearest to torch's; the model is left so.

    Returns:
      The entries, and how far the outputs then lie from torch's, relative to the largest (0 if
      there was nothing to choose and they are not to be `judged`).
    """
    inputs, module = probe if isinstance(probe, tuple | list) else (probe,), unwrapped(module)
    candidates = [
        group for chain in flattened(module, inputs) if (group := turned(entries, chain))
    ]
    theirs, turns = torch_outputs(module, inputs), input_turns(module, inputs, layout)

    def together(chosen: Sequence[Sequence[Entry]]) -> tuple[Entry, ...]:
        return replace(entries, [entry for group in chosen for entry in group])

    def error(chosen: Sequence[Sequence[Entry]]) -> float:
        write(together(chosen))
        outputs = zip(jax_outputs(model, inputs, theirs, turns), theirs, strict=True)
        return max((float(np.max(np.abs(a - b), initial=0.0)) for a, b in outputs), default=0.0)

    subsets = [
        c for n in range(len(candidates) + 1) for c in itertools.combinations(candidates, n)
    ]
    if len(subsets) == 1 and not judged:
        write(entries)
        return entries, 0.0
    errors = [error(subset) for subset in subsets]
    least = errors.index(min(errors))  # the first of equals: as few turns as will do
    best = together(subsets[least])
    write(best)
    size = max((float(np.max(np.abs(y), initial=0.0)) for y in theirs), default=0.0)
    return best, errors[least] / (size or 1.0)


def flatten_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """A word about Linear layers that seem to read a flattened image, where no probe could
    tell.
    """
    channels, notes = 0, []
    for entry in entries:
        if entry.transform is not KERNEL:
            continue
        outputs, inputs, *window = entry.torch_shape
        if window:
            channels = outputs
        elif channels > 1 and inputs > channels and inputs % channels == 0:
            notes.append(
                f"note: {entry.names[0]} reads {inputs} = {channels} x {inputs // channels} "
                "values in torch's C H W order, which is that of dlwp_jax.nn.Flatten; if your "
                "model uses reshape, pass probe= or the rule flatten_rows."
            )
            channels = 0
    return tuple(notes)
