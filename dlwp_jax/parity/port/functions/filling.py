"""New arrays, casts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port.functions.common import (
    Val,
    bound,
    dtype_text,
    handler,
    literal,
    together,
)
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


@handler("to", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "bool")
def cast(body: Body, node: Node) -> Val:
    """A change of dtype."""
    x, val = node.args[0], body.val(node.args[0])
    if x.value.dtype == node.value.dtype:
        return val
    name = dtype_text(node.value.dtype) or "float"
    return Val(f"{body.part(val, 0)}.astype({name})", val.last)


@handler("arange")
def _arange(body: Body, node: Node) -> Val:
    dtype = dtype_text(node.value.dtype)
    given = ", ".join(body.text(arg) for arg in node.args)
    behind = (
        ", dtype=float"
        if not dtype and not any(isinstance(a, float) for a in node.args)
        else ""
    )
    return Val(f"jnp.arange({given}{behind})")


_NEW = ("new_zeros", "new_ones", "new_full", "new_empty")


@handler("zeros", "ones", "full", "empty", "eye", *_NEW)
def _filled(body: Body, node: Node) -> Val:
    new = node.name.startswith("new_")
    args: Any = node.args[1:] if new else node.args
    name = node.name.removeprefix("new_")
    dtype = dtype_text(node.value.dtype)
    behind = f", {dtype}" if dtype else ""
    if name == "empty":  # whatever is in memory; a model overwrites it
        name = "zeros"
    if name == "eye":
        behind = f", dtype={dtype}" if dtype else ""
        return Val(f"jnp.eye({', '.join(body.text(a) for a in args)}{behind})")
    if not args:  # by keyword
        args = (node.kwargs["size"], node.kwargs.get("fill_value"))[: 1 + (name == "full")]
    sizes: Any = args
    value = ""
    if name == "full":
        sizes, value = (args[0], f", {body.text(args[1])}")
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return Val(f"jnp.{name}({body.text(tuple(sizes))}{value}{behind})")


@handler("linspace")
def _linspace(body: Body, node: Node) -> Val:
    return Val(f"jnp.linspace({', '.join(body.text(a) for a in node.args)})")


@handler("tril", "triu")
def _tril(body: Body, node: Node) -> Val:
    x, diagonal = bound(node, "input", "diagonal", diagonal=0)
    return Val(f"jnp.{node.name}({body.plain(x).text}{f', {diagonal}' if diagonal else ''})")


@handler("tensor", "as_tensor", "new_tensor")
def _tensor(body: Body, node: Node) -> Val:
    from dlwp_jax.parity.port.body import nodes_in

    values = node.args[1] if node.name == "new_tensor" else bound(node, "data")[0]
    if next(nodes_in(values), None) is not None:
        return Val(f"jnp.array({body.text(values)}, {dtype_text(node.value.dtype) or 'float'})")
    values = node.value.tolist()
    if node.value.dtype == torch.float32:  # 0.1 and not 0.10000000149
        values = json.loads(
            json.dumps(values), parse_float=lambda text: float(f"{float(text):.8g}")
        )
    return Val(f"jnp.array({literal(values)})")


@handler("meshgrid")
def _meshgrid(body: Body, node: Node) -> Val:
    parts = list(node.args[0]) if isinstance(node.args[0], list | tuple) else list(node.args)
    indexing = node.kwargs.get("indexing", "ij")
    given = ", ".join(body.plain(p).text for p in parts)
    return Val(f"jnp.meshgrid({given}, indexing={indexing!r})", [False] * len(parts))


@handler("full_like")
def _full_like(body: Body, node: Node) -> Val:
    x, value = bound(node, "input", "fill_value")
    val = body.val(x)
    return Val(f"jnp.full_like({val.text}, {body.text(value)})", val.last)


# Random numbers, from the module's own stream of keys.

_DRAWS = {"randn": "normal", "rand": "uniform"}


@handler("randn", "rand")
def _drawn(body: Body, node: Node) -> Val:
    sizes = node.args or (node.kwargs["size"],)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return Val(f"jax.random.{_DRAWS[node.name]}({body.draws()}, {body.text(tuple(sizes))})")


@handler("randn_like", "rand_like")
def _drawn_like(body: Body, node: Node) -> Val:
    val = body.val(node.args[0])
    name = _DRAWS[node.name.removesuffix("_like")]
    return Val(
        f"jax.random.{name}({body.draws()}, {val.text}.shape, {val.text}.dtype)", val.last
    )


@handler("bernoulli", "bernoulli_")
def _bernoulli(body: Body, node: Node) -> Val:
    default = 0.5 if node.name == "bernoulli_" else None
    x, p = bound(node, "input", "p", p=default)
    val = body.val(x)
    share = val.text if p is None else body.text(p)
    if isinstance(p, Node) and p.is_tensor:
        (val, shares), _ = together(body, (x, p), node.ndim)
        share = shares.text
    drawn = f"jax.random.bernoulli({body.draws()}, {share}, {val.text}.shape)"
    return Val(f"{drawn}.astype({val.text}.dtype)", val.last)


@handler("uniform_")
def _uniform_into(body: Body, node: Node) -> Val:
    x, low, high = bound(node, "input", "from", "to", **{"from": 0, "to": 1})
    val = body.val(x)
    limits = "" if _are(low, high, 0, 1) else f", {body.text(low)}, {body.text(high)}"
    drawn = f"{body.draws()}, {val.text}.shape, {val.text}.dtype{limits}"
    return Val(f"jax.random.uniform({drawn})", val.last)


@handler("normal_")
def _normal_into(body: Body, node: Node) -> Val:
    x, mean, std = bound(node, "input", "mean", "std", mean=0, std=1)
    val = body.val(x)
    drawn = f"jax.random.normal({body.draws()}, {val.text}.shape, {val.text}.dtype)"
    if _are(mean, std, 0, 1):
        return Val(drawn, val.last)
    drawn = f"{body.part(body.val(std), 3)} * {drawn}"
    if _are(mean, None, 0, None):
        return Val(drawn, val.last, 3)
    return Val(f"{body.part(body.val(mean), 4)} + {drawn}", val.last, 4)


def _are(a: Any, b: Any, first: Any, second: Any) -> bool:
    """Whether two arguments are these numbers, and not computed from sizes."""
    return not isinstance(a, Node) and not isinstance(b, Node) and (a, b) == (first, second)


@handler("normal")
def _normal(body: Body, node: Node) -> Val:
    raise Refused("torch.normal is not known; write mean + std * randn_like.")
