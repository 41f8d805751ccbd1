"""Losses, whose names and arguments are torch's in `dlwp_jax.losses`; the classes are the last
axis there.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch.nn import functional

from dlwp_jax import losses
from dlwp_jax.parity.port.functions.common import Val, handler, together
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    import torch

    from dlwp_jax.parity.port.body import Body

# Torch's triplet_margin_with_distance_loss is given a function.
NAMES = [
    name
    for name in losses.__all__
    if hasattr(functional, name) and name != "triplet_margin_with_distance_loss"
]
_OF_CLASSES = ("cross_entropy", "nll_loss")


@handler(*NAMES)
def _loss(body: Body, node: Node) -> Val:
    given = inspect.signature(getattr(functional, node.name)).bind(*node.args, **node.kwargs)
    given = given.arguments
    for old in ("size_average", "reduce"):
        if given.pop(old, None) is not None:
            raise Refused(f"{node.name} with {old}, which is deprecated: give reduction.")
    options = inspect.signature(getattr(losses, node.name)).parameters
    places = [name for name, option in options.items() if option.kind != option.KEYWORD_ONLY]
    shown = {
        name: value
        for name, value in given.items()
        if name not in places and value != options[name].default
    }
    arrays = [given[name] for name in places]
    texts, last = _arrays(body, node, arrays, shown)
    for name, value in shown.items():
        if name not in texts:
            plain = isinstance(value, str | bool)
            texts[name] = repr(value) if plain else body.number(value, name)
    behind = "".join(f", {name}={texts[name]}" for name in shown)
    first = ", ".join(texts[name] for name in map(str, range(len(arrays))))
    return Val(f"losses.{node.name}({first}{behind})", last)


def _arrays(
    body: Body, node: Node, arrays: list[Any], options: dict[str, Any]
) -> tuple[dict[str, str], bool]:
    """The texts of the arrays, by their numbers, and of weights, by name; and whether a loss of
    every element lies channels last.
    """
    x = arrays[0]
    weights = {n: v for n, v in options.items() if isinstance(v, Node) and v.is_tensor}
    if node.name in _OF_CLASSES:
        y = arrays[1]
        vals = [body.last(x), body.last(y) if y.ndim == x.ndim else body.plain(y)]
        return _named([*vals, *map(body.plain, weights.values())], weights), False
    shapes = {array.shape for array in arrays if isinstance(array, Node) and array.is_tensor}
    if len(shapes) > 1 or node.name.endswith(("margin_loss", "embedding_loss", "ctc_loss")):
        texts = [Val(body.text(array)) for array in (*arrays, *weights.values())]
        return _named(texts, weights), False
    vals, last = together(body, (*arrays, *weights.values()), x.ndim)
    return _named(vals, weights), last and node.ndim == x.ndim


def _named(vals: list[Val], weights: dict[str, Any]) -> dict[str, str]:
    numbers = map(str, range(len(vals) - len(weights)))
    return {name: val.text for name, val in zip([*numbers, *weights], vals, strict=True)}


def is_loss(module: torch.nn.Module) -> bool:
    """Whether a module is one of torch's losses without arrays of its own: it is written as a
    function where it is called.
    """
    kind = type(module)
    holds = any(value is not None for value in module._buffers.values())
    return kind.__module__ == "torch.nn.modules.loss" and not holds


def in_place(body: Body, node: Node) -> Val:
    """The call of such a module as that of its function."""
    frame = node.frame
    assert frame is not None
    given = dict(zip(frame.inputs, node.args, strict=False)) | node.kwargs
    for name, value in frame.inputs.items():
        if isinstance(value, Node):
            body.vals[value] = body.val(given[name])
    return body.expression(frame.output)
