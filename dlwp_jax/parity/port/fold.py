"""Weights that hooks or parametrizations compute, written as the arrays that they are."""

from typing import Any

import torch
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def fold(module: torch.nn.Module) -> list[str]:
    """Take weight_norm, spectral_norm and other parametrizations off, in place.

    Returns:
      The names of the arrays.

    >>> net = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    >>> fold(net), list(net.state_dict())
    (['weight'], ['bias', 'weight'])
    """
    names = []
    layers: list[tuple[str, Any]] = list(module.named_modules())
    for owner, layer in layers:
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, name)
                names.append(f"{owner}.{name}".lstrip("."))
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
            else:
                continue
            names.append(f"{owner}.{hook.name}".lstrip("."))
    return names
