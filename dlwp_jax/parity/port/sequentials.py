"""Containers of layers: how they begin, and their calls one after the other."""

from __future__ import annotations

from typing import Any

import torch

from dlwp_jax.parity.port.body import access
from dlwp_jax.parity.port.constructors import children_of
from dlwp_jax.parity.port.layers import LAYERS, layer_name


def begins_with_images(module: Any) -> bool:
    """Whether a Sequential begins with a layer that reads images."""
    while type(module).forward is torch.nn.Sequential.forward and len(module):
        module = next(iter(module._modules.values()))
    kind = layer_name(module)
    return kind in LAYERS and LAYERS[kind].kind == "last" and not kind.startswith("GroupNorm")


def chained(module: torch.nn.Module, argument: str) -> str:
    """`self[1](self[0](argument))` for a Sequential."""
    text, first = argument, {}
    for key, child in children_of(module):
        text = f"{access(module, first.setdefault(id(child), key))}({text})"
    return text


def with_super(line: str, module: torch.nn.Module) -> str:
    """`super().__call__(x)` for `self[1](self[0](x))`, if these are all layers."""
    opened = chained(module, "").removesuffix(")" * len(children_of(module)))
    before, found, behind = line.partition(opened)
    if not found or len(children_of(module)) < 2:
        return line
    depth = 1
    end = 0
    while depth and end < len(behind):
        depth += {"(": 1, ")": -1}.get(behind[end], 0)
        end += 1
    end -= 1
    closed = ")" * len(children_of(module))
    if not behind[end:].startswith(closed):
        return line
    return f"{before}super().__call__({behind[:end]}){behind[end + len(closed) :]}"


def lengths_of(module: torch.nn.Module) -> dict[str, int]:
    """How many layers are in each list below a module, by its text."""
    found = {}
    for name, child in module.named_modules():
        if name and isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
            found[access(module, name)] = len(child)
    return found
