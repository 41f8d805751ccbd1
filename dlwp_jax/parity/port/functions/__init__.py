"""How each function of torch is written in JAX: one handler for each name, or a row of a table.

A handler takes the `Body` and the node, and returns a `Val`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlwp_jax.parity.port.functions import (
    axes,
    calls,
    filling,
    losses,
    pooling,
    products,
    weights,
)
from dlwp_jax.parity.port.functions.arithmetic import binary, reduce, with_numbers
from dlwp_jax.parity.port.functions.common import HANDLERS, Val
from dlwp_jax.parity.port.functions.tables import (
    ELEMENTWISE,
    PASSED_ON,
    REDUCTIONS,
    SIGNS,
    TURNED,
    WITH_NUMBERS,
)
from dlwp_jax.parity.port.nodes import Node

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body

__all__ = [
    "axes",
    "calls",
    "filling",
    "is_known",
    "losses",
    "pooling",
    "products",
    "weights",
    "write",
]


def is_known(name: str) -> bool:
    """Whether a function of that name can be written."""
    tables = (HANDLERS, ELEMENTWISE, WITH_NUMBERS, PASSED_ON, SIGNS, TURNED, REDUCTIONS)
    return any(name in table for table in tables)


def write(body: Body, node: Node) -> Val:
    """The expression of a function's call."""
    name = node.name
    if name in HANDLERS:
        return HANDLERS[name](body, node)
    if name in PASSED_ON:
        return body.val(node.args[0])
    if name in ELEMENTWISE:
        x = body.val(node.args[0])
        return Val(f"{ELEMENTWISE[name]}({x.text})", x.last)
    if name in WITH_NUMBERS:
        return with_numbers(body, node)
    if name in SIGNS or name in TURNED:
        return binary(body, node)
    return reduce(body, node)
