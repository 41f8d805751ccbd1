"""The expressions that make layers, and the lists and chains of them."""

from __future__ import annotations

import re
from typing import Any

import torch

from dlwp_jax.parity.port.arrays import initial_text
from dlwp_jax.parity.port.layers import (
    DROP_PATHS,
    LAYERS,
    STACKS,
    found_at,
    layer_name,
    short,
    value_of,
)
from dlwp_jax.parity.port.marks import Marks
from dlwp_jax.parity.port.refuse import Refused


class Constructors(Marks):
    """What a line of `__init__` assigns; see the module.

    Args:
      root: the model.
    """

    def __init__(self, root: torch.nn.Module):
        super().__init__()
        self.canonical: dict[int, str] = {}
        for name, parameter in root.named_parameters(remove_duplicate=False):
            self.canonical.setdefault(id(parameter), name)
        self.first_layout: dict[int, tuple[Any, int]] = {}
        self.axes: dict[int, int] = {}  # over which a softmax works
        self.loops = 0

    def layer(self, module: Any, kind: str, name: str) -> str:
        """The expression that makes a known layer; "" if another one makes it."""
        if kind in DROP_PATHS:
            p = getattr(module, DROP_PATHS[kind], None) or 0.0
            if not hasattr(module, DROP_PATHS[kind]) or not getattr(
                module, "scale_by_keep", True
            ):
                raise Refused(
                    f"{name}: of a {kind} the port knows {DROP_PATHS[kind]} and mode, with "
                    "what is kept divided by its probability."
                )
            mode = ', "batch"' if getattr(module, "mode", "row") == "batch" else ""
            return f"nn.StochasticDepth({self.slot('drop_prob', float(p))}{mode}, rngs=rngs)"
        weight = getattr(module, "weight", None)
        if (
            isinstance(weight, torch.Tensor)
            and self.canonical.get(id(weight), "") != f"{name}.weight"
            and id(weight) in self.canonical
        ):
            if getattr(module, "bias", None) is None:
                return ""
            return f"nnx.Dict({{'bias': nnx.Param({initial_text(module.bias, 'bias')})}})"
        if kind.startswith("Transformer"):
            _refuse_two_shares(module, name)
        if kind in STACKS:
            return self._stack(module, kind, name)
        row = LAYERS[kind]
        positional, options = [], []
        stem = re.sub(r"\W|^(?=\d)", "_", name.rpartition(".")[2]).strip("_")
        for attribute in row.positional:
            value = found_at(module, row.paths.get(attribute, attribute))
            if attribute == "normalized_shape":
                value = value[0] if len(value) == 1 else tuple(value)
                if self.first_layout.get(id(module), ("", 0))[0] == "turned":
                    value = (*value[1:], value[0])
                positional.append(self.slot(f"{stem}_{attribute}", value))
                continue
            value = tuple(value) if attribute == "unflattened_size" else short(value)
            positional.append(self.slot(_argument_name(stem, attribute), value))
        for attribute, default in row.options.items():
            value = value_of(module, kind, attribute, default)
            value = self.axes.get(id(module), value)
            if isinstance(default, bool) or (
                isinstance(default, str) and isinstance(value, str)
            ):
                options.append("" if value == default else f", {attribute}={value!r}")
            else:
                options.append(
                    self.slot(_argument_name(stem, attribute), value, attribute, default)
                )
        end = ", rngs=rngs" if row.rngs else ""
        return f"nn.{kind}({', '.join(positional)}{''.join(options)}{end})"

    def _stack(self, module: Any, kind: str, name: str) -> str:
        """A stack of copies of one layer, with a norm behind them or without."""
        layer = self.layer(module.layers[0], layer_name(module.layers[0]), f"{name}.layers.0")
        norm = ""
        if module.norm is not None:
            norm = f", {self.layer(module.norm, layer_name(module.norm), f'{name}.norm')}"
        count = self.slot("num_layers", len(module.layers))
        return f"nn.{kind}({layer}, {count}{norm}, rngs=rngs)"

    def listed(
        self,
        module: torch.nn.Module,
        children: list[tuple[str, str]],
        maker: str = "nn.ModuleList",
    ) -> str:
        """A list of modules: `maker([a, b])`, or a loop for equal ones."""
        children = [(key, text or "None") for key, text in children]
        runs = self._runs([text for _, text in children])
        if len(runs) == 1 and runs[0][1] > 1:
            return f"{maker}({runs[0][0]} for _ in range({self.slot('depth', runs[0][1])}))"
        return f"{maker}([{', '.join(self._spread(runs))}])"

    def _spread(self, runs: list[tuple[str, int]]) -> list[str]:
        parts = []
        for text, times in runs:
            parts += (
                [text]
                if times == 1
                else [f"*({text} for _ in range({self.slot('depth', times)}))"]
            )
        return parts

    def _runs(self, texts: list[str]) -> list[tuple[str, int]]:
        """Equal neighbours, counted; only those that are worth a loop."""
        runs: list[tuple[str, int]] = []
        for text in texts:
            if runs and self.concrete(runs[-1][0]) == self.concrete(text):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((text, 1))
        self.loops += sum(times > 1 for _, times in runs)
        return runs

    def chain(
        self,
        module: torch.nn.Module,
        children: list[tuple[str, str]],
        maker: str = "nn.Sequential",
    ) -> str:
        """A Sequential of children, under the names that they have in torch."""
        if any(not text for _, text in children):
            children = [(key, text or "nn.Identity()") for key, text in children]
        keys = [key for key, _ in children_of(module)]
        if keys == [*map(str, range(len(keys)))]:  # a slice of a Sequential keeps its old ones
            texts = self._spread(self._runs([text for _, text in children]))
            return f"{maker}({', '.join(texts)})"
        if all(key.isidentifier() for key, _ in children):
            return f"{maker}({', '.join(f'{key}={text}' for key, text in children)})"
        return f"{maker}({{{', '.join(f'{key!r}: {text}' for key, text in children)}}})"


def base_of(module: torch.nn.Module) -> str:
    """The class that a written class inherits from."""
    if isinstance(module, torch.nn.Sequential):
        return "nn.Sequential"
    return "nn.ModuleList" if isinstance(module, torch.nn.ModuleList) else "nnx.Module"


def _refuse_two_shares(module: torch.nn.Module, name: str) -> None:
    """Torch's transformers have one share of dropout, unless somebody set another one later."""
    layers = list(module.modules())
    shares = {layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)}
    attentions = [m for m in layers if isinstance(m, torch.nn.MultiheadAttention)]
    shares |= {attention.dropout for attention in attentions}
    if len(shares) > 1:
        raise Refused(
            f"{name} ({type(module).__name__}) drops with several probabilities, "
            f"{sorted(shares)}; the port gives it one: set them alike."
        )


def _argument_name(stem: str, attribute: str) -> str:
    known = {"in_channels", "out_channels", "stride", "dilation", "groups", "padding"}
    return attribute if attribute in known else f"{stem}_{attribute}"


def children_of(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Children under all their names."""
    return [(key, child) for key, child in module._modules.items() if child is not None]
