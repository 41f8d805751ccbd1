"""How each function of torch is written in JAX: one handler for each name, or a row of a table.

A handler takes the `Body` and the node, and returns a `Val`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port.record import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body, Val

Handler = Callable[["Body", Node], "Val"]
HANDLERS: dict[str, Handler] = {}

# One value at a time; the layout stays.
_OF_NN = """relu relu6 silu hardswish hardsigmoid sigmoid tanh mish selu softsign tanhshrink
log_sigmoid"""
_OF_JNP = """exp log log2 log10 log1p expm1 sqrt abs sin cos tan sinh cosh square floor ceil round
sign isnan isfinite logical_not reciprocal zeros_like ones_like"""
ELEMENTWISE = {
    **{name: f"nn.{name}" for name in _OF_NN.split()},
    **{name: f"jnp.{name}" for name in _OF_JNP.split()},
    "logsigmoid": "nn.log_sigmoid",
    "arctan": "jnp.arctan",
    "atan": "jnp.arctan",
    "acos": "jnp.arccos",
    "asin": "jnp.arcsin",
    "absolute": "jnp.abs",
    "rsqrt": "jax.lax.rsqrt",
    "erf": "jax.scipy.special.erf",
    "detach": "jax.lax.stop_gradient",
}
# Functions with numbers behind the array, by name and default.
WITH_NUMBERS: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {
    "gelu": ("nn.gelu", (("approximate", "none"),)),
    "leaky_relu": ("nn.leaky_relu", (("negative_slope", 0.01),)),
    "elu": ("nn.elu", (("alpha", 1.0),)),
    "celu": ("nn.celu", (("alpha", 1.0),)),
    "softplus": ("nn.softplus", (("beta", 1), ("threshold", 20))),
    "hardtanh": ("nn.hardtanh", (("min_val", -1.0), ("max_val", 1.0))),
    "hardshrink": ("nn.hardshrink", (("lambd", 0.5),)),
    "softshrink": ("nn.softshrink", (("lambd", 0.5),)),
}
# What changes nothing here.
PASSED_ON = {"contiguous", "clone", "requires_grad", "cpu", "cuda", "alias", "view_as_self"}
_SIGN_ROWS = {
    "+": ("add", "iadd", "radd"),
    "-": ("sub", "isub", "subtract"),
    "*": ("mul", "imul", "rmul", "multiply"),
    "/": ("div", "truediv", "itruediv", "true_divide", "divide", "idiv"),
    "//": ("floordiv", "floor_divide", "ifloordiv"),
    "%": ("mod", "remainder", "imod"),
    "**": ("pow", "ipow"),
    "<": ("lt", "less"),
    "<=": ("le",),
    ">": ("gt", "greater"),
    ">=": ("ge",),
    "==": ("eq",),
    "!=": ("ne",),
    "&": ("and", "logical_and", "iand"),
    "|": ("or", "logical_or"),
}
_BINDS = {"**": 1, "*": 3, "/": 3, "//": 3, "%": 3, "+": 4, "-": 4}
SIGNS = {name: (sign, _BINDS.get(sign, 5)) for sign, row in _SIGN_ROWS.items() for name in row}
TURNED = {
    "rsub": "sub",
    "rtruediv": "div",
    "rdiv": "div",
    "rpow": "pow",
    "rfloordiv": "floordiv",
}
REDUCTIONS = {name: name for name in ("mean", "sum", "var", "std", "prod", "any", "all")}
REDUCTIONS |= {"amax": "max", "amin": "min"}


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
        return _val(f"{ELEMENTWISE[name]}({x.text})", x.last)
    if name in WITH_NUMBERS:
        return _with_numbers(body, node)
    if name in SIGNS or name in TURNED:
        return _binary(body, node)
    return _reduce(body, node)


def _val(text: str, last: Any = False, binds: int = 0) -> Val:
    from dlwp_jax.parity.port.body import Val

    return Val(text, last, binds)


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
    return re.sub(r"\b(inf|nan)\b", r"jnp.\1", repr(value))


def bound(node: Node, *names: str, **defaults: Any) -> list[Any]:
    """The arguments by name, as they were given."""
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return [given.get(name, defaults.get(name)) for name in names]


def sizes_behind(node: Node, name: str) -> tuple[Any, ...]:
    """view(2, 3) and view((2, 3))."""
    first = node.args[1] if len(node.args) > 1 else node.kwargs.get(name)
    return tuple(first) if isinstance(first, tuple | list) else tuple(node.args[1:])


def _with_numbers(body: Body, node: Node) -> Val:
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
    return _val(f"{call}({val.text}{''.join(text)})", val.last)


def _binary(body: Body, node: Node) -> Val:
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
    sign, binds = SIGNS[name]
    if not node.is_tensor:
        left, right = body.val(a), body.val(b)
        return _val(
            f"{body.part(left, binds)} {sign} {body.part(right, binds, True)}", False, binds
        )
    (left, right), last = together(body, (a, b), node.ndim)
    return _val(f"{body.part(left, binds)} {sign} {body.part(right, binds, True)}", last, binds)


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
        return _val(f"jnp.moveaxis({val.text}, 1, -1)", True)
    if missing == 1:
        if arg.shape[1:] == (1,) * (ndim - 2) and arg.kind == "array":
            return _val(f"{val.text}.ravel()")
        return _val(f"jnp.moveaxis({val.text}, 0, -1)", True)
    return _val(f"{body.part(val, 0)}[..., None]", True)


def _reduce(body: Body, node: Node) -> Val:
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
        return _val(f"jnp.{call}({val.text}{options})")
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
    return _val(f"jnp.{call}({val.text}, {text}{options}{kept})", last)


@handler("max", "min")
def _max(body: Body, node: Node) -> Val:
    if len(node.args) > 1 and isinstance(node.args[1], Node):
        return _maximum(body, node)
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    if dim is None:
        return _val(f"jnp.{node.name}({body.val(x).text})")
    val = body.plain(x)
    kept = ", keepdims=True" if keep else ""
    both = (
        f"jnp.{node.name}({val.text}, {dim}{kept}), jnp.arg{node.name}({val.text}, {dim}{kept})"
    )
    return _val(f"({both})", [False, False])


@handler("argmax", "argmin")
def _argmax(body: Body, node: Node) -> Val:
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    kept = ", keepdims=True" if keep else ""
    where = "" if dim is None else f", {dim}"
    return _val(f"jnp.{node.name}({body.plain(x).text}{where}{kept})")


@handler("maximum", "minimum")
def _maximum(body: Body, node: Node) -> Val:
    pair, last = together(body, node.args[:2], node.ndim)
    name = node.name if node.name.endswith("imum") else f"{node.name}imum"
    return _val(f"jnp.{name}({pair[0].text}, {pair[1].text})", last)


@handler("where")
def _where(body: Body, node: Node) -> Val:
    if len(node.args) != 3:
        raise Refused(
            "torch.where of a condition alone gives as many rows as are true; not known to the port."
        )
    parts, last = together(body, node.args, node.ndim)
    return _val(f"jnp.where({', '.join(p.text for p in parts)})", last)


@handler("masked_fill")
def _masked_fill(body: Body, node: Node) -> Val:
    x, mask, value = bound(node, "input", "mask", "value")
    (left, right), last = together(body, (x, mask), node.ndim)
    fill = "-jnp.inf" if value == -math.inf else body.text(value)
    return _val(f"jnp.where({right.text}, {fill}, {left.text})", last)


@handler("neg", "negative")
def _neg(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    return _val(f"-{body.part(x, 2)}", x.last, 2)


@handler("zero", "fill")
def _fill(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    if node.name == "zero":
        return _val(f"jnp.zeros_like({x.text})", x.last)
    return _val(f"jnp.full_like({x.text}, {body.text(node.args[1])})", x.last)


@handler("invert", "bitwise_not")
def _invert(body: Body, node: Node) -> Val:
    x = body.val(node.args[0])
    return _val(f"~{body.part(x, 2)}", x.last, 2)


@handler("clamp", "clip", "clamp_min")
def _clip(body: Body, node: Node) -> Val:
    x, low, high = bound(node, "input", "min", "max")
    val = body.val(x)
    return _val(f"jnp.clip({val.text}, {body.text(low)}, {body.text(high)})", val.last)


# Layout.


@handler("permute")
def _permute(body: Body, node: Node) -> Val:
    return permuted(body, node.args[0], sizes_behind(node, "dims"))


@handler("transpose", "swapaxes", "swapdims")
def _transpose(body: Body, node: Node) -> Val:
    x, a, b = bound(node, "input", "dim0", "dim1")
    dims = list(range(x.ndim))
    dims[a], dims[b] = dims[b], dims[a]
    return permuted(body, x, tuple(dims))


@handler("t")
def _t(body: Body, node: Node) -> Val:
    x = node.args[0]
    return permuted(body, x, (1, 0)) if x.ndim == 2 else body.val(x)


@handler("movedim", "moveaxis")
def _movedim(body: Body, node: Node) -> Val:
    x, a, b = bound(node, "input", "source", "destination")
    dims = torch.arange(x.ndim).reshape(-1).tolist()
    moved = torch.empty(tuple(range(1, x.ndim + 1))).movedim(a, b).shape
    return permuted(body, x, tuple(dims[size - 1] for size in moved))


def permuted(body: Body, x: Node, dims: tuple[int, ...]) -> Val:
    """A permutation, which may only change what is called the channels."""
    dims, val, ndim = tuple(d % x.ndim for d in dims), body.val(x), x.ndim
    here = [body.axis(x, d) % ndim for d in dims]
    if here == list(range(ndim)):
        return val._replace(last=False)
    if ndim > 2 and [here[0], *here[2:], here[1]] == list(range(ndim)):
        return val._replace(last=True)
    moved = [i for i, d in enumerate(here) if i != d]
    if len(moved) == 2:
        return _val(f"jnp.swapaxes({val.text}, {moved[0]}, {moved[1]})")
    return _val(f"jnp.transpose({val.text}, ({', '.join(map(str, here))}))")


@handler("reshape", "view", "unflatten_sizes")
def _reshape(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "shape")
    if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
        return _cast(body, node)
    shape, val = node.shape, body.val(x)
    if val.last is True and len(shape) == 2 and shape[0] == x.shape[0]:
        return _val(f"nn.flatten({val.text})")
    if x.ndim == 2 and len(shape) > 2 and shape[:2] == x.shape and set(shape[2:]) == {1}:
        return _val(f"{body.part(val, 0)}[:, {', '.join(['None'] * (len(shape) - 2))}]", True)
    return _val(f"{body.part(body.plain(x), 0)}.reshape({_sizes(body, sizes)})")


def _sizes(body: Body, sizes: tuple[Any, ...]) -> str:
    return ", ".join(
        repr(s) if s in (-1, 1) and not isinstance(s, Node) else body.text(s) for s in sizes
    )


@handler("view_as", "reshape_as")
def _view_as(body: Body, node: Node) -> Val:
    x, other = node.args
    return _val(f"{body.part(body.plain(x), 0)}.reshape({body.plain(other).text}.shape)")


@handler("flatten", "ravel")
def _flatten(body: Body, node: Node) -> Val:
    x, start, end = bound(node, "input", "start_dim", "end_dim", start_dim=0, end_dim=-1)
    start, end = start % x.ndim, end % x.ndim
    val = body.val(x)
    if start == end:
        return val
    if start == 1 and end == x.ndim - 1:
        if val.last is True:
            return _val(f"nn.flatten({val.text})")
        return _val(f"{body.part(val, 0)}.reshape({val.text}.shape[0], -1)")
    if val.last is True and start == 2 and end == x.ndim - 1:
        return _val(
            f"{body.part(val, 0)}.reshape({val.text}.shape[0], -1, {val.text}.shape[-1])",
            True,
        )
    if start == 0 and end == x.ndim - 1:
        return _val(f"{body.part(body.plain(x), 0)}.reshape(-1)")
    return _val(f"jax.lax.collapse({body.plain(x).text}, {start}, {end + 1})")


@handler("unflatten")
def _unflatten(body: Body, node: Node) -> Val:
    x, dim, sizes = bound(node, "input", "dim", "sizes")
    dim %= x.ndim
    shape = [str(s) for s in x.shape]
    val = body.plain(x)
    before = [f"{val.text}.shape[{d}]" for d in range(dim)]
    after = [f"{val.text}.shape[{d}]" for d in range(dim + 1, len(shape))]
    return _val(
        f"{body.part(val, 0)}.reshape({', '.join([*before, _sizes(body, tuple(sizes)), *after])})"
    )


@handler("unsqueeze")
def _unsqueeze(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    return _val(f"jnp.expand_dims({body.plain(x).text}, {dim})")


@handler("squeeze")
def _squeeze(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    val = body.val(x)
    if dim is not None and val.last is True and node.ndim == 2 and x.ndim == 3 and dim % 3 == 2:
        return _val(f"jnp.squeeze({val.text}, 1)")
    if (
        dim is not None
        and val.last is True
        and node.ndim > 2
        and isinstance(dim, int)
        and dim % x.ndim > 1
    ):
        return _val(f"jnp.squeeze({val.text}, {body.axis(x, dim)})", True)
    where = "" if dim is None else f", {dim}"
    if dim is not None and node.ndim == x.ndim and isinstance(dim, int):
        return val
    return _val(f"jnp.squeeze({body.plain(x).text}{where})")


@handler("expand", "broadcast_to")
def _expand(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "size")
    own = [1] * (len(sizes) - x.ndim) + list(x.shape)
    val = body.plain(x)
    written = [
        body.text(o if s == -1 and not isinstance(s, Node) else s)
        for s, o in zip(sizes, own, strict=True)
    ]
    return _val(
        f"jnp.broadcast_to({val.text}, ({', '.join(written)}{',' if len(written) == 1 else ''}))"
    )


@handler("expand_as")
def _expand_as(body: Body, node: Node) -> Val:
    x, other = node.args
    parts, last = together(body, (x, other), node.ndim)
    return _val(f"jnp.broadcast_to({parts[0].text}, {parts[1].text}.shape)", last)


@handler("repeat", "tile")
def _repeat(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "repeats")
    return _val(f"jnp.tile({body.plain(x).text}, ({', '.join(body.text(s) for s in sizes)}))")


@handler("repeat_interleave")
def _repeat_interleave(body: Body, node: Node) -> Val:
    x, times, dim = bound(node, "input", "repeats", "dim")
    if not isinstance(times, int):
        raise Refused("repeat_interleave with a tensor of repeats is not known to the port.")
    return _val(f"jnp.repeat({body.plain(x).text}, {body.text(times)}, {dim})")


@handler("cat", "concat", "concatenate")
def _cat(body: Body, node: Node) -> Val:
    parts, dim = bound(node, "tensors", "dim", dim=0)
    dim = node.kwargs.get("axis", dim)
    whole = body.whole_list(parts)
    last = node.ndim > 2 and any(body.val(p).last is True for p in parts)
    axis = dim
    if last:
        from dlwp_jax.parity.port.body import physical

        axis = physical(dim, node.ndim)
    texts = [(body.last(p) if last else body.plain(p)).text for p in parts]
    if whole and all(body.val(p).last is last for p in parts):
        return _val(f"jnp.concatenate({whole}, {axis})", last)
    return _val(f"jnp.concatenate([{', '.join(texts)}], {axis})", last)


@handler("stack")
def _stack(body: Body, node: Node) -> Val:
    parts, dim = bound(node, "tensors", "dim", dim=0)
    whole = body.whole_list(parts)
    if whole and not any(body.val(p).last for p in parts):
        return _val(f"jnp.stack({whole}, {dim})")
    return _val(f"jnp.stack([{', '.join(body.plain(p).text for p in parts)}], {dim})")


@handler("chunk", "split", "tensor_split")
def _split(body: Body, node: Node) -> Val:
    x, _, dim = bound(node, "input", "sizes", "dim", dim=0)
    sizes = [part.shape[dim] for part in node.value]
    where = (
        str(len(sizes))
        if len(set(sizes)) == 1
        else str([sum(sizes[:i]) for i in range(1, len(sizes))])
    )
    val = body.val(x)
    return _val(
        f"jnp.split({val.text}, {where}, {body.axis(x, dim)})", [val.last is True] * len(sizes)
    )


@handler("unbind")
def _unbind(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim", dim=0)
    val = body.plain(x)
    text = val.text if dim == 0 else f"jnp.moveaxis({val.text}, {dim}, 0)"
    return _val(text, [False] * len(node.value))


@handler("getitem", "select", "narrow")
def _getitem(body: Body, node: Node) -> Val:
    if node.name == "select":
        x, dim, at = bound(node, "input", "dim", "index")
        index: Any = (*[slice(None)] * (dim % x.ndim), at)
    elif node.name == "narrow":
        x, dim, start, length = bound(node, "input", "dim", "start", "length")
        if isinstance(start, Node) or isinstance(length, Node):
            raise Refused(
                "narrow with computed bounds is not known to the port; write x[:, a:b]."
            )
        index = (*[slice(None)] * (dim % x.ndim), slice(start, start + length))
    else:
        x, index = node.args
    index = index if isinstance(index, tuple) else (index,)
    val = body.val(x)
    whole = _every_axis(index, x.ndim)
    if x.ndim == 2 and index[:2] == (slice(None),) * 2 and set(index[2:]) == {None}:
        return _val(f"{body.part(val, 0)}[:, {', '.join(['None'] * (len(index) - 2))}]", True)
    if val.last is True and whole is not None and not isinstance(whole[0], int):
        turned = (whole[0], *whole[2:], whole[1])
        gone = isinstance(whole[1], int | Node)
        left = sum(not isinstance(i, int | Node) for i in whole)
        while turned and turned[-1] == slice(None):
            turned = turned[:-1]
        text = ", ".join(body.text(i) for i in turned)
        return _val(f"{body.part(val, 0)}[{text}]" if text else val.text, not gone and left > 2)
    val = body.plain(x)
    return _val(
        f"{body.part(val, 0)}[{', '.join(body.text(i) if i is not None else 'None' for i in index)}]"
    )


def _every_axis(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...] | None:
    """One entry for every axis, of slices and whole numbers; None for other indexing."""
    if any(i is None or isinstance(i, list | tuple | bool) for i in index):
        return None
    if any(isinstance(i, Node) and i.is_tensor for i in index):
        return None
    if Ellipsis in [i for i in index if not isinstance(i, Node)]:
        at = [i is Ellipsis for i in index].index(True)
        filled = (slice(None),) * (ndim - len(index) + 1)
        index = (*index[:at], *filled, *index[at + 1 :])
    return (*index, *(slice(None),) * (ndim - len(index)))


@handler("setitem")
def _setitem(body: Body, node: Node) -> Val:
    x, index, value = node.args
    index = index if isinstance(index, tuple) else (index,)
    text = ", ".join(body.text(i) if i is not None else "None" for i in index)
    return _val(f"{body.part(body.plain(x), 0)}.at[{text}].set({body.text(value)})")


@handler("roll")
def _roll(body: Body, node: Node) -> Val:
    x, shifts, dims = bound(node, "input", "shifts", "dims")
    val = body.val(x)
    axes = [body.axis(x, d) for d in ((dims,) if isinstance(dims, int) else dims)]
    where = str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
    return _val(f"jnp.roll({val.text}, {body.text(shifts)}, {where})", val.last)


@handler("flip")
def _flip(body: Body, node: Node) -> Val:
    x, dims = node.args[0], sizes_behind(node, "dims")
    val = body.val(x)
    return _val(f"jnp.flip({val.text}, {tuple(body.axis(x, d) for d in dims)})", val.last)


@handler("pad")
def _pad(body: Body, node: Node) -> Val:
    x, amounts, mode, value = bound(node, "input", "pad", "mode", "value", mode="constant")
    if any(a < 0 for a in amounts if not isinstance(a, Node)):
        raise Refused("a negative padding is not known to the port; cut by a slice.")
    amounts = [body.val(a).text if isinstance(a, Node) else str(a) for a in amounts]
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][::-1]
    pairs = [("0", "0")] * (x.ndim - len(pairs)) + pairs
    val, last = body.val(x), False
    if val.last is True:
        pairs, last = [pairs[0], *pairs[2:], pairs[1]], True
    numpys = {
        "constant": "constant",
        "reflect": "reflect",
        "replicate": "edge",
        "circular": "wrap",
    }
    options = "" if mode == "constant" else f", mode={numpys[mode]!r}"
    options += f", constant_values={body.text(value)}" if value else ""
    text = ", ".join(f"({a}, {b})" for a, b in pairs)
    return _val(f"jnp.pad({val.text}, [{text}]{options})", last)


# Numbers over an axis, products.


@handler("softmax", "log_softmax", "softmin", "glu")
def _softmax(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim", dim=-1)
    if dim is None:
        raise Refused(f"{node.name} without dim guesses the axis; say which.")
    val = body.val(x)
    axis = body.axis(x, dim)
    where = "" if axis in (-1, x.ndim - 1) else f", {axis}"
    return _val(f"nn.{node.name}({val.text}{where})", val.last)


@handler("cumsum", "cumprod")
def _cumsum(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    val = body.val(x)
    return _val(f"jnp.{node.name}({val.text}, {body.axis(x, dim)})", val.last)


@handler("logsumexp")
def _logsumexp(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    return _val(f"jax.nn.logsumexp({body.plain(x).text}, {dim})")


@handler("norm")
def _norm(body: Body, node: Node) -> Val:
    x, p, dim, keep = bound(node, "input", "p", "dim", "keepdim", p=2, keepdim=False)
    if p not in (2, "fro"):
        raise Refused("only norms with p=2 are known to the port.")
    kept = ", keepdims=True" if keep else ""
    return _val(f"jnp.linalg.norm({body.plain(x).text}, axis={dim}{kept})")


@handler("normalize")
def _normalize(body: Body, node: Node) -> Val:
    x, p, dim, eps = bound(node, "input", "p", "dim", "eps", p=2.0, dim=1, eps=1e-12)
    if p != 2:
        raise Refused("only F.normalize with p=2 is known to the port.")
    val = body.val(x)
    length = f"jnp.linalg.norm({val.text}, axis={body.axis(x, dim)}, keepdims=True)"
    return _val(f"{body.part(val, 3)} / jnp.maximum({length}, {eps})", val.last, 3)


@handler("matmul", "bmm", "mm", "rmatmul")
def _matmul(body: Body, node: Node) -> Val:
    a, b = node.args[:2] if len(node.args) > 1 else bound(node, "input", "other")
    if node.name == "rmatmul":
        a, b = b, a
    left, right = body.plain(a), body.plain(b)
    return _val(f"{body.part(left, 3)} @ {body.part(right, 3, True)}", False, 3)


@handler("addmm", "baddbmm")
def _addmm(body: Body, node: Node) -> Val:
    bias, a, b = (body.plain(arg) for arg in node.args)
    if node.kwargs:
        raise Refused("addmm with alpha or beta is not known to the port.")
    return _val(f"{body.part(bias, 4)} + {body.part(a, 3)} @ {body.part(b, 3, True)}", False, 4)


@handler("einsum")
def _einsum(body: Body, node: Node) -> Val:
    equation, *parts = node.args
    parts = list(parts[0]) if isinstance(parts[0], list | tuple) else parts
    return _val(f"jnp.einsum({equation!r}, {', '.join(body.plain(p).text for p in parts)})")


@handler("outer")
def _outer(body: Body, node: Node) -> Val:
    a, b = (body.plain(arg) for arg in node.args)
    return _val(f"jnp.outer({a.text}, {b.text})")


@handler("linear")
def _linear(body: Body, node: Node) -> Val:
    x, weight, bias = bound(node, "input", "weight", "bias")
    behind = "" if bias is None else f", {body.val(bias).text}"
    return _val(f"nn.linear({body.plain(x).text}, {turned_weight(body, weight)}{behind})")


def turned_weight(body: Body, weight: Node) -> str:
    """W of torch's [out, in] as [in, out]."""
    text = body.part(body.plain(weight), 0)
    return text.removesuffix(".T") if text.endswith(".T") else f"{text}.T"


@handler("conv1d", "conv2d", "conv3d")
def _conv(body: Body, node: Node) -> Val:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias, *options = bound(node, *names, stride=1, padding=0, dilation=1, groups=1)
    turned = (*range(2, weight.ndim), 1, 0)
    kernel = f"jnp.transpose({body.plain(weight).text}, {turned})"
    behind = "" if bias is None else f", {body.val(bias).text}"
    defaults = (1, 0, 1, 1)
    for name, value, default in zip(names[3:], options, defaults, strict=True):
        behind += (
            ""
            if value in (default, (default,) * (weight.ndim - 2))
            else f", {name}={body.text(value)}"
        )
    return _val(f"nn.conv({body.last(x).text}, {kernel}{behind})", True)


@handler("embedding")
def _embedding(body: Body, node: Node) -> Val:
    x, weight, *others = bound(
        node, "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq"
    )
    if others[0] is not None or others[1] is not None or others[3]:
        raise Refused(
            "embedding with padding_idx, max_norm or scale_grad_by_freq is not carried over as a "
            "function; use torch.nn.Embedding(..., padding_idx=...)."
        )
    return _val(f"{body.part(body.val(weight), 0)}[{body.val(x).text}]")


@handler("one_hot")
def _one_hot(body: Body, node: Node) -> Val:
    x, count = bound(node, "tensor", "num_classes", num_classes=-1)
    if count == -1:
        raise Refused("one_hot without num_classes depends on the values; say how many.")
    return _val(f"jax.nn.one_hot({body.plain(x).text}, {body.text(count)}, dtype=jnp.int32)")


@handler("layer_norm")
def _layer_norm(body: Body, node: Node) -> Val:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    x, shape, weight, bias, eps = bound(node, *names, eps=1e-5)
    size = body.text(shape[0]) if len(shape) == 1 else body.text(tuple(shape))
    behind = "".join("" if a is None else f", {body.val(a).text}" for a in (weight, bias))
    if weight is None and bias is not None:
        behind = f", None{behind}"
    behind += "" if eps == 1e-5 else f", eps={body.number(eps, 'eps')}"
    return _val(f"nn.layer_norm({body.plain(x).text}, {size}{behind})")


@handler("batch_norm")
def _batch_norm(body: Body, node: Node) -> Val:
    names = (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    )
    x, mean, var, weight, bias, training, _, eps = bound(node, *names, momentum=0.1, eps=1e-5)
    if training:
        raise Refused(
            "F.batch_norm in training mode is not known to the port; use nn.BatchNorm2d."
        )
    given = ", ".join(
        "None" if a is None else body.val(a).text for a in (mean, var, weight, bias)
    )
    behind = "" if eps == 1e-5 else f", eps={body.number(eps, 'eps')}"
    return _val(f"nn.batch_norm({body.last(x).text}, {given}{behind})", True)


@handler("scaled_dot_product_attention")
def _attention(body: Body, node: Node) -> Val:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    q, k, v, mask, drop, causal, scale = bound(node, *names, dropout_p=0.0, is_causal=False)
    if drop:
        raise Refused("scaled_dot_product_attention with dropout is not known to the port.")
    behind = "" if mask is None else f", {body.plain(mask).text}"
    behind += ", is_causal=True" if causal else ""
    behind += "" if scale is None else f", scale={body.text(scale)}"
    given = ", ".join(body.plain(n).text for n in (q, k, v))
    return _val(f"nn.scaled_dot_product_attention({given}{behind})")


# Pooling, resizing, dropout.


def _pool(
    body: Body, node: Node, name: str, names: tuple[str, ...], defaults: dict[str, Any]
) -> Val:
    x, window, *given = bound(node, "input", "kernel_size", *names, **defaults)
    options = [
        f", {n}={body.text(_tuple(value))}"
        for n, value in zip(names, given, strict=True)
        if value not in (defaults.get(n), None, []) and n != "return_indices"
    ]
    if node.kwargs.get("return_indices"):
        raise Refused("pooling with return_indices is not known to the port.")
    return _val(
        f"nn.{name}({body.last(x).text}, {body.text(_tuple(window))}{''.join(options)})", True
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@handler("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(body: Body, node: Node) -> Val:
    defaults = {"padding": 0, "dilation": 1, "ceil_mode": False}
    return _pool(
        body, node, "max_pool", ("stride", "padding", "dilation", "ceil_mode"), defaults
    )


@handler("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(body: Body, node: Node) -> Val:
    defaults = {"padding": 0, "ceil_mode": False, "count_include_pad": True}
    names = ("stride", "padding", "ceil_mode", "count_include_pad")
    return _pool(body, node, "avg_pool", names, defaults)


@handler(*(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)))
def _adaptive(body: Body, node: Node) -> Val:
    x, size = bound(node, "input", "output_size")
    return _val(f"nn.{node.name[:-2]}({body.last(x).text}, {body.text(_tuple(size))})", True)


@handler("interpolate")
def _interpolate(body: Body, node: Node) -> Val:
    names = (
        "input",
        "size",
        "scale_factor",
        "mode",
        "align_corners",
        "recompute_scale_factor",
        "antialias",
    )
    x, size, scale, mode, align, _, antialias = bound(node, *names, mode="nearest")
    if antialias:
        raise Refused("interpolate with antialias is not known to the port.")
    given = {"size": size, "scale_factor": scale}
    options = [f", {n}={body.text(_tuple(v))}" for n, v in given.items() if v is not None]
    options += [f", mode={mode!r}"] if mode != "nearest" else []
    options += [f", align_corners={align}"] if align else []
    return _val(f"nn.interpolate({body.last(x).text}{''.join(options)})", True)


@handler("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(body: Body, node: Node) -> Val:
    x, factor = node.args
    return _val(f"nn.{node.name}({body.last(x).text}, {body.text(factor)})", True)


@handler("grid_sample")
def _grid_sample(body: Body, node: Node) -> Val:
    names = ("input", "grid", "mode", "padding_mode", "align_corners")
    x, grid, mode, padding, align = bound(
        node, *names, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    options = f", mode={mode!r}, padding_mode={padding!r}, align_corners={bool(align)}"
    return _val(f"nn.grid_sample({body.last(x).text}, {body.plain(grid).text}{options})", True)


@handler("affine_grid")
def _affine_grid(body: Body, node: Node) -> Val:
    theta, size, align = bound(node, "theta", "size", "align_corners", align_corners=False)
    first, channels, *spatial = size
    turned = (first, *spatial, channels)
    return _val(
        f"nn.affine_grid({body.plain(theta).text}, {body.text(turned)}, align_corners={bool(align)})"
    )


@handler("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout")
def _dropout(body: Body, node: Node) -> Val:
    x, p, training = bound(node, "input", "p", "training", p=0.5, training=True)
    if training and not body.frame.training:
        raise Refused(
            f"F.{node.name} draws in eval mode too; write F.{node.name}(x, p, self.training)."
        )
    kind = {"dropout": "Dropout", "feature_dropout": "Dropout2d"}.get(
        node.name, node.name.capitalize()
    )
    name = f"dropout_{len(body.functional)}" if body.functional else "dropout"
    if name in body.module._modules:
        name = f"functional_{name}"
    body.functional.append((name, f"nn.{kind}({body.number(float(p), 'p')}, rngs=rngs)"))
    val = body.last(x) if kind != "Dropout" else body.val(x)
    return _val(f"self.{name}({val.text})", val.last)


# New arrays, casts.


def dtype_text(dtype: torch.dtype | None) -> str:
    """jnp.int32 for torch.int64, which JAX computes in."""
    if dtype is None or (dtype.is_floating_point and dtype in (torch.float32, torch.float64)):
        return ""
    if dtype in (torch.int64, torch.int32):
        return "jnp.int32"
    return "bool" if dtype == torch.bool else f"jnp.{str(dtype).removeprefix('torch.')}"


@handler("to", "type", "type_as", "float", "double", "half", "long", "int_cast")
def _cast(body: Body, node: Node) -> Val:
    x, val = node.args[0], body.val(node.args[0])
    if x.value.dtype == node.value.dtype:
        return val
    name = dtype_text(node.value.dtype) or "float"
    return _val(f"{body.part(val, 0)}.astype({name})", val.last)


@handler("arange")
def _arange(body: Body, node: Node) -> Val:
    dtype = dtype_text(node.value.dtype)
    given = ", ".join(body.text(arg) for arg in node.args)
    behind = (
        ", dtype=float"
        if not dtype and not any(isinstance(a, float) for a in node.args)
        else ""
    )
    return _val(f"jnp.arange({given}{behind})")


@handler("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "eye")
def _filled(body: Body, node: Node) -> Val:
    new = node.name.startswith("new_")
    args = node.args[1:] if new else node.args
    name = node.name.removeprefix("new_")
    dtype = dtype_text(node.value.dtype)
    behind = f", {dtype}" if dtype else ""
    if name == "empty":
        raise Refused("torch.empty holds whatever was in memory; use torch.zeros.")
    if name == "eye":
        return _val(f"jnp.eye({', '.join(body.text(a) for a in args)}{behind})")
    sizes, value = (args[0], f", {body.text(args[1])}") if name == "full" else (args, "")
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return _val(f"jnp.{name}({body.text(tuple(sizes))}{value}{behind})")


@handler("linspace")
def _linspace(body: Body, node: Node) -> Val:
    return _val(f"jnp.linspace({', '.join(body.text(a) for a in node.args)})")


@handler("tril", "triu")
def _tril(body: Body, node: Node) -> Val:
    x, diagonal = bound(node, "input", "diagonal", diagonal=0)
    return _val(f"jnp.{node.name}({body.plain(x).text}{f', {diagonal}' if diagonal else ''})")


@handler("tensor", "as_tensor")
def _tensor(body: Body, node: Node) -> Val:
    return _val(f"jnp.array({node.value.tolist()})")


@handler("meshgrid")
def _meshgrid(body: Body, node: Node) -> Val:
    parts = list(node.args[0]) if isinstance(node.args[0], list | tuple) else list(node.args)
    indexing = node.kwargs.get("indexing", "ij")
    given = ", ".join(body.plain(p).text for p in parts)
    return _val(f"jnp.meshgrid({given}, indexing={indexing!r})", [False] * len(parts))


@handler("addcmul")
def _addcmul(body: Body, node: Node) -> Val:
    (x, a, b), last = together(body, node.args[:3], node.ndim)
    return _val(f"{body.part(x, 4)} + {body.part(a, 3)} * {body.part(b, 3, True)}", last, 4)
