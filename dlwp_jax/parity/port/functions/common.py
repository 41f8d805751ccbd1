"""What all handlers use: the table of them, arguments, layouts, numbers as source."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from dlwp_jax.parity.port.nodes import Node

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body

# How strongly an expression binds; its parts need parentheses if they bind less.
ATOM, POWER, UNARY, TIMES, PLUS, COMPARE = range(6)


class Val(NamedTuple):
    """A value in the written source: its text, whether it lies channels last (for a structure:
    that of each part), and how strongly the text binds.
    """

    text: str
    last: Any = False
    binds: int = ATOM


Handler = Callable[["Body", Node], Val]
HANDLERS: dict[str, Handler] = {}


def handler(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler under torch's names of a function."""

    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def literal(value: Any) -> str:
    """A number, or lists of them, as source: infinity and NaN by their names in `jnp`.

    >>> literal([1.0, -float("inf")])
    '[1.0, -jnp.inf]'
    """
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, np.generic):  # as np.sqrt(8) gives
        value = value.item()
    text = re.sub(r"\b(inf|nan)\b", r"jnp.\1", repr(value))
    return re.sub(r"\((-?[\d.]+(?:e-?\d+)?)([+-])(\S+?j)\)", r"\1 \2 \3", text)


def bound(node: Node, *names: str, **defaults: Any) -> list[Any]:
    """The arguments by name, as they were given."""
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return [given.get(name, defaults.get(name)) for name in names]


def sizes_behind(node: Node, name: str) -> tuple[Any, ...]:
    """view(2, 3) and view((2, 3))."""
    first = node.args[1] if len(node.args) > 1 else node.kwargs.get(name)
    return tuple(first) if isinstance(first, tuple | list) else tuple(node.args[1:])


def together(body: Body, args: tuple[Any, ...], ndim: int) -> tuple[list[Val], bool]:
    """Operands that are broadcast against each other, all in one layout."""
    tensors = [arg for arg in args if isinstance(arg, Node) and arg.is_tensor]
    last = any(body.val(arg).last is True and arg.ndim == ndim for arg in tensors)
    if not last or ndim < 3:
        return [body.plain(arg) if arg in tensors else body.val(arg) for arg in args], False
    return [
        _against_last(body, arg, ndim) if arg in tensors else body.val(arg) for arg in args
    ], True


def _against_last(body: Body, arg: Node, ndim: int) -> Val:
    val = body.val(arg)
    if (val.last is True and arg.ndim == ndim) or arg.ndim == 0:
        return val
    val, missing = body.plain(arg), ndim - arg.ndim
    if missing == 0:
        if arg.shape[2:] == (1,) * (ndim - 2) and arg.shape[1] == 1:
            return val
        return Val(f"jnp.moveaxis({val.text}, 1, -1)", True)
    if missing == 1:
        if arg.shape[1:] == (1,) * (ndim - 2) and arg.kind == "array":
            return Val(f"{val.text}.ravel()")
        return Val(f"jnp.moveaxis({val.text}, 0, -1)", True)
    return Val(f"{body.part(val, 0)}[..., None]", True)


def dtype_text(dtype: torch.dtype | None) -> str:
    """jnp.int32 for torch.int64, which JAX computes in."""
    if dtype is None or (dtype.is_floating_point and dtype in (torch.float32, torch.float64)):
        return ""
    if dtype in (torch.int64, torch.int32):
        return "jnp.int32"
    return "bool" if dtype == torch.bool else f"jnp.{str(dtype).removeprefix('torch.')}"


def physical(axis: int, ndim: int) -> int:
    """Torch's axis of `[N C *spatial]` in `[N *spatial C]`; the last is -1."""
    axis %= ndim
    if axis == 0:
        return 0
    return -1 if axis == 1 else axis - 1
