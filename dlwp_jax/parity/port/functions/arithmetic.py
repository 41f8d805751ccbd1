"""Numbers one at a time, and over axes: signs, reductions, comparisons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port.functions.common import Val, bound, handler, together
from dlwp_jax.parity.port.functions.tables import REDUCTIONS, SIGNS, TURNED, WITH_NUMBERS
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


def with_numbers(body: Body, node: Node) -> Val:
    """A function of WITH_NUMBERS."""
    call, options = WITH_NUMBERS[node.name]
    x, *given = bound(node, "input", *(name for name, _ in options))
    given = [
        node.kwargs.get(name, value) for (name, _), value in zip(options, given, strict=True)
    ]
    text = [
        f", {name}={body.number(v, name) if not isinstance(v, str) else repr(v)}"
        for (name, default), v in zip(options, given, strict=True)
        if v is not None and v != default
    ]
    val = body.val(x)
    return Val(f"{call}({val.text}{''.join(text)})", val.last)


def binary(body: Body, node: Node) -> Val:
    """An operator between two values."""
    names = ("input", "other")
    a, b = bound(node, *names)
    name = node.name
    if name in TURNED:
        a, b, name = b, a, TURNED[name]
    if node.kwargs.get("alpha", 1) != 1:
        raise Refused(f"{name} with alpha is not known to the port; multiply first.")
    if node.kwargs.get("rounding_mode") is not None:
        if node.kwargs["rounding_mode"] != "floor":
            raise Refused("a division with rounding_mode='trunc' is not known to the port.")
        name = "floordiv"
    if name.startswith("logical_") and not all(map(_is_bool, (a, b))):
        (left, right), last = together(body, (a, b), node.ndim)
        return Val(f"jnp.{name}({left.text}, {right.text})", last)
    sign, binds = SIGNS[name]
    if sign == "+" and node.is_tensor:  # total = 0, and then total = total + x
        for number, x in ((a, b), (b, a)):
            if type(number) is int and number == 0 and x.value.dtype == node.value.dtype:
                return body.val(x)
    if not node.is_tensor:
        left, right = body.val(a), body.val(b)
        return Val(
            f"{body.part(left, binds)} {sign} {body.part(right, binds, True)}", False, binds
        )
    (left, right), last = together(body, (a, b), node.ndim)
    return Val(f"{body.part(left, binds)} {sign} {body.part(right, binds, True)}", last, binds)


def _is_bool(value: Any) -> bool:
    return isinstance(value, Node) and value.is_tensor and value.value.dtype == torch.bool


def reduce(body: Body, node: Node) -> Val:
    """A reduction over some axes or all."""
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    name = node.name
    if isinstance(dim, bool):  # var(unbiased)
        raise Refused(f"{name}(unbiased) is not known to the port; write correction=.")
    options = ""
    if name in ("var", "std"):
        ddof = node.kwargs.get("correction", 1)
        ddof = int(node.kwargs["unbiased"]) if "unbiased" in node.kwargs else ddof
        options = f", ddof={ddof}" if ddof else ""
    call = REDUCTIONS[name]
    val = body.val(x)
    if dim is None:
        return Val(f"jnp.{call}({val.text}{options})")
    dims = [d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)]
    rest = [d for d in range(x.ndim) if d not in dims]
    last = val.last is True and (keep or (len(rest) > 2 and rest[:2] == [0, 1]))
    if (
        val.last is True
        and not keep
        and not last
        and len(rest) > 1
        and rest != [0, 1]
        and 1 in rest
    ):
        val = body.plain(x)
        axes = sorted(dims)
    else:
        axes = sorted(body.axis(x, d) for d in dims)
    text = str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
    kept = ", keepdims=True" if keep else ""
    return Val(f"jnp.{call}({val.text}, {text}{options}{kept})", last)


@handler("max", "min")
def _max(body: Body, node: Node) -> Val:
    if len(node.args) > 1 and isinstance(node.args[1], Node):
        return _maximum(body, node)
    x, dim = bound(node, "input", "dim")
    if dim is None:
        return Val(f"jnp.{node.name}({body.val(x).text})")
    both = f"{largest(body, node, 0).text}, {largest(body, node, 1).text}"
    return Val(f"({both})", [False, False])


def largest(body: Body, node: Node, part: int) -> Val:
    """The values (part 0) or the places (1) of a maximum or minimum along an axis."""
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    name = node.name if part == 0 else f"arg{node.name}"
    kept = ", keepdims=True" if keep else ""
    return Val(f"jnp.{name}({body.plain(x).text}, {dim}{kept})")


@handler("argmax", "argmin")
def _argmax(body: Body, node: Node) -> Val:
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    kept = ", keepdims=True" if keep else ""
    where = "" if dim is None else f", {dim}"
    return Val(f"jnp.{node.name}({body.plain(x).text}{where}{kept})")


@handler("maximum", "minimum")
def _maximum(body: Body, node: Node) -> Val:
    pair, last = together(body, node.args[:2], node.ndim)
    name = node.name if node.name.endswith("imum") else f"{node.name}imum"
    return Val(f"jnp.{name}({pair[0].text}, {pair[1].text})", last)


@handler("where")
def _where(body: Body, node: Node) -> Val:
    if len(node.args) != 3:
        raise Refused(
            "torch.where of a condition alone gives as many rows as are true; "
            "not known to the port."
        )
    parts, last = together(body, node.args, node.ndim)
    return Val(f"jnp.where({', '.join(p.text for p in parts)})", last)


@handler("masked_fill")
def _masked_fill(body: Body, node: Node) -> Val:
    x, mask, value = bound(node, "input", "mask", "value")
    (left, right), last = together(body, (x, mask), node.ndim)
    fill = "-jnp.inf" if value == -math.inf else body.text(value)
    return Val(f"jnp.where({right.text}, {fill}, {left.text})", last)


@handler("neg", "negative")
def _neg(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    return Val(f"-{body.part(x, 2)}", x.last, 2)


@handler("zero", "fill")
def _fill(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    if node.name == "zero":
        return Val(f"jnp.zeros_like({x.text})", x.last)
    return Val(f"jnp.full_like({x.text}, {body.text(node.args[1])})", x.last)


@handler("invert", "bitwise_not")
def _invert(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    return Val(f"~{body.part(x, 2)}", x.last, 2)


@handler("clamp", "clip", "clamp_min", "clamp_max")
def _clip(body: Body, node: Node) -> Val:
    x, low, high = bound(node, "input", "min", "max")
    if node.name == "clamp_max":
        low, high = None, low if high is None else high
    val = body.val(x)
    return Val(f"jnp.clip({val.text}, {body.text(low)}, {body.text(high)})", val.last)


@handler("addcmul")
def _addcmul(body: Body, node: Node) -> Val:
    (x, a, b), last = together(body, node.args[:3], node.ndim)
    return Val(f"{body.part(x, 4)} + {body.part(a, 3)} * {body.part(b, 3, True)}", last, 4)


@handler("addcdiv")
def _addcdiv(body: Body, node: Node) -> Val:
    (x, a, b), last = together(body, node.args[:3], node.ndim)
    return Val(f"{body.part(x, 4)} + {body.part(a, 3)} / {body.part(b, 3, True)}", last, 4)


@handler("lerp")
def _lerp(body: Body, node: Node) -> Val:
    (x, y, w), last = together(body, tuple(bound(node, "input", "end", "weight")), node.ndim)
    step = f"{body.part(w, 3)} * ({body.part(y, 4)} - {body.part(x, 4, True)})"
    return Val(f"{body.part(x, 4)} + {step}", last, 4)


@handler("atan2", "arctan2", "fmod", "hypot", "logaddexp")
def _of_two(body: Body, node: Node) -> Val:
    (x, y), last = together(body, node.args[:2], node.ndim)
    name = "arctan2" if "tan2" in node.name else node.name
    return Val(f"jnp.{name}({x.text}, {y.text})", last)


@handler("nan_to_num")
def _nan_to_num(body: Body, node: Node) -> Val:
    x, nan = bound(node, "input", "nan", nan=0.0)
    val = body.val(x)
    return Val(f"jnp.nan_to_num({val.text}, nan={body.text(nan)})", val.last)


@handler("var_mean", "std_mean")
def _var_mean(body: Body, node: Node) -> Val:
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    first = node.name.partition("_")[0]
    ddof = int(node.kwargs.get("unbiased", node.kwargs.get("correction", 1)))
    behind = (
        "" if dim is None else f", {body.text(tuple(dim) if isinstance(dim, list) else dim)}"
    )
    kept = ", keepdims=True" if keep else ""
    options = f", ddof={ddof}" if ddof else ""
    text = body.plain(x).text
    both = f"jnp.{first}({text}{behind}{options}{kept}), jnp.mean({text}{behind}{kept})"
    return Val(f"({both})", [False, False])
