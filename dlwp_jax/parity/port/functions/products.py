"""Functions over an axis, and products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlwp_jax.parity.port.functions.common import (
    Val,
    bound,
    handler,
    physical,
    together,
)
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


@handler("softmax", "log_softmax", "softmin", "glu")
def _softmax(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim", dim=-1)
    if dim is None:
        raise Refused(f"{node.name} without dim guesses the axis; say which.")
    val = body.val(x)
    axis = body.axis(x, dim)
    where = "" if axis in (-1, x.ndim - 1) else f", {axis}"
    return Val(f"nn.{node.name}({val.text}{where})", val.last)


@handler("cumsum", "cumprod")
def _cumsum(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    val = body.val(x)
    return Val(f"jnp.{node.name}({val.text}, {body.axis(x, dim)})", val.last)


@handler("logsumexp")
def _logsumexp(body: Body, node: Node) -> Val:
    x, dim, keep = bound(node, "input", "dim", "keepdim", keepdim=False)
    axes = body.text(tuple(dim) if isinstance(dim, list) else dim)
    kept = ", keepdims=True" if keep else ""
    return Val(f"jax.nn.logsumexp({body.plain(x).text}, {axes}{kept})")


@handler("norm", "linalg_norm", "linalg_vector_norm")
def _norm(body: Body, node: Node) -> Val:
    names = ("input", "p", "dim", "keepdim") if node.name == "norm" else _LINALG
    x, p, dim, keep = bound(node, *names, keepdim=False)
    x = node.kwargs.get("x", x)
    one_axis = isinstance(dim, int) or (dim is not None and len(dim) == 1)
    spectral = node.name == "linalg_norm" and p is not None and not one_axis
    if spectral or (p not in (None, 2, "fro") and not one_axis):
        raise Refused(f"{node.name} over several axes is known to the port for p=2 alone.")
    options = "" if p in (None, 2, "fro") else f", {body.text(p)}"
    if dim is not None:
        axes = (dim,) if isinstance(dim, int) else tuple(dim)
        options += f", dim={body.text(axes[0] if one_axis else axes)}"
    options += ", keepdim=True" if keep else ""
    return Val(f"nn.vector_norm({body.plain(x).text}{options})")


_LINALG = ("A", "ord", "dim", "keepdim")


@handler("normalize")
def _normalize(body: Body, node: Node) -> Val:
    x, p, dim, eps = bound(node, "input", "p", "dim", "eps", p=2.0, dim=1, eps=1e-12)
    val = body.val(x)
    options = "" if p == 2 else f", {body.text(p)}"
    options += f", dim={body.axis(x, dim)}"
    options += "" if eps == 1e-12 else f", eps={body.text(eps)}"
    return Val(f"nn.normalize({val.text}{options})", val.last)


@handler("matmul", "bmm", "mm", "rmatmul", "dot", "mv", "vdot")
def _matmul(body: Body, node: Node) -> Val:
    a, b = node.args[:2] if len(node.args) > 1 else bound(node, "input", "other")
    if node.name == "rmatmul":
        a, b = b, a
    left, right = body.plain(a), body.plain(b)
    return Val(f"{body.part(left, 3)} @ {body.part(right, 3, True)}", False, 3)


@handler("addmm", "baddbmm")
def _addmm(body: Body, node: Node) -> Val:
    bias, a, b = (body.plain(arg) for arg in node.args)
    if node.kwargs:
        raise Refused("addmm with alpha or beta is not known to the port.")
    return Val(f"{body.part(bias, 4)} + {body.part(a, 3)} @ {body.part(b, 3, True)}", False, 4)


@handler("einsum")
def _einsum(body: Body, node: Node) -> Val:
    equation, *parts = node.args
    parts = list(parts[0]) if isinstance(parts[0], list | tuple) else parts
    return Val(f"jnp.einsum({equation!r}, {', '.join(body.plain(p).text for p in parts)})")


@handler("outer", "inner", "kron")
def _outer(body: Body, node: Node) -> Val:
    a, b = (body.plain(arg) for arg in node.args)
    return Val(f"jnp.{node.name}({a.text}, {b.text})")


@handler("tensordot")
def _tensordot(body: Body, node: Node) -> Val:
    a, b, dims = bound(node, "a", "b", "dims", dims=2)
    axes = dims if isinstance(dims, int) else tuple(map(tuple, dims))
    return Val(f"jnp.tensordot({body.plain(a).text}, {body.plain(b).text}, {body.text(axes)})")


@handler("one_hot")
def _one_hot(body: Body, node: Node) -> Val:
    x, count = bound(node, "tensor", "num_classes", num_classes=-1)
    if count == -1:
        raise Refused("one_hot without num_classes depends on the values; say how many.")
    return Val(f"jax.nn.one_hot({body.plain(x).text}, {body.text(count)}, dtype=jnp.int32)")


@handler("cosine_similarity")
def _cosine(body: Body, node: Node) -> Val:
    a, b, dim, eps = bound(node, "x1", "x2", "dim", "eps", dim=1, eps=1e-8)
    (left, right), last = together(body, (a, b), a.ndim)
    axis = physical(dim, a.ndim) if last else dim
    where = "" if axis == 1 else f", {axis}"
    where += "" if eps == 1e-8 else f", eps={body.text(eps)}"
    return Val(f"nn.cosine_similarity({left.text}, {right.text}{where})")


@handler("pairwise_distance")
def _pairwise(body: Body, node: Node) -> Val:
    a, b, p, eps, keep = bound(node, "x1", "x2", "p", "eps", "keepdim", p=2.0, eps=1e-6)
    behind = "" if p == 2 else f", p={body.text(p)}"
    behind += "" if eps == 1e-6 else f", eps={body.text(eps)}"
    behind += ", keepdim=True" if keep else ""
    given = f"{body.plain(a).text}, {body.plain(b).text}"
    return Val(f"nn.pairwise_distance({given}{behind})")


@handler("cdist")
def _cdist(body: Body, node: Node) -> Val:
    a, b, p = bound(node, "x1", "x2", "p", p=2.0)
    if p != 2:
        raise Refused("only cdist with p=2 is known to the port.")
    left, right = (body.part(body.plain(arg), 0) for arg in (a, b))
    gap = f"{left}[..., :, None, :] - {right}[..., None, :, :]"
    return Val(f"nn.vector_norm({gap}, dim=-1)")


# Values at places.


@handler("gather", "take_along_dim")
def _gather(body: Body, node: Node) -> Val:
    names = ("input", "indices", "dim") if node.name != "gather" else ("input", "dim", "index")
    x, *rest = bound(node, *names)
    dim, index = rest if node.name == "gather" else rest[::-1]
    if not meets_all(x, index, dim):
        return Val(f"{body.part(body.plain(x), 0)}[{places(body, index, dim)}]")
    given = f"{body.plain(x).text}, {body.plain(index).text}, {dim}"
    return Val(f"jnp.take_along_axis({given})")


def meets_all(x: Node, index: Node, dim: int) -> bool:
    """Whether an index has the sizes of its array on all axes but `dim`."""
    dim %= x.ndim
    pairs = enumerate(zip(x.shape, index.shape, strict=True))
    return all(own == other for axis, (own, other) in pairs if axis != dim)


def places(body: Body, index: Node, dim: int) -> str:
    """The index of every axis, for an index along one of them."""
    text, parts = body.plain(index).text, []
    for axis in range(index.ndim):
        behind = ", ".join([":", *["None"] * (index.ndim - 1 - axis)])
        turned = f"[{behind}]" if axis < index.ndim - 1 else ""
        size = f"{body.part(body.plain(index), 0)}.shape[{axis}]"
        parts.append(text if axis == dim % index.ndim else f"jnp.arange({size}){turned}")
    return ", ".join(parts)


@handler("scatter", "scatter_add")
def _scatter(body: Body, node: Node) -> Val:
    x, dim, index, source = bound(node, "input", "dim", "index", "src")
    source = node.kwargs.get("value", source)
    if node.kwargs.get("reduce") is not None:
        raise Refused("scatter with reduce is not known to the port; use scatter_add.")
    if isinstance(source, Node) and source.is_tensor and source.ndim:
        if source.shape != index.shape:
            raise Refused(f"{node.name} with an index smaller than its source: cut the source.")
        source = body.plain(source)
    else:
        source = body.val(source)
    if node.name == "scatter" and meets_all(x, index, dim):
        given = f"{body.plain(x).text}, {body.plain(index).text}, {source.text}, {dim}"
        return Val(f"jnp.put_along_axis({given}, inplace=False)")
    verb = "add" if node.name == "scatter_add" else "set"
    at = f"{body.part(body.plain(x), 0)}.at[{places(body, index, dim)}]"
    return Val(f"{at}.{verb}({source.text})")


@handler("index_select")
def _index_select(body: Body, node: Node) -> Val:
    x, dim, index = bound(node, "input", "dim", "index")
    val = body.val(x)
    at = f"{body.val(index).text}, {body.axis(x, dim)}"
    return Val(f"jnp.take({val.text}, {at})", val.last)


@handler("topk")
def _topk(body: Body, node: Node) -> Val:
    x, k, dim, largest = bound(node, "input", "k", "dim", "largest", dim=-1, largest=True)
    if dim % x.ndim != x.ndim - 1 or not largest:
        raise Refused("topk is known for the largest values of the last axis; transpose first.")
    return Val(f"jax.lax.top_k({body.plain(x).text}, {body.text(k)})", [False, False])


@handler("sort")
def _sort(body: Body, node: Node) -> Val:
    x, dim, down = bound(node, "input", "dim", "descending", dim=-1)
    val = body.plain(x)
    given = f"{val.text}, {dim}{', descending=True' if down else ''}"
    return Val(f"(jnp.sort({given}), jnp.argsort({given}))", [False, False])


@handler("argsort")
def _argsort(body: Body, node: Node) -> Val:
    x, dim, down = bound(node, "input", "dim", "descending", dim=-1)
    return Val(f"jnp.argsort({body.plain(x).text}, {dim}{', descending=True' if down else ''})")


@handler("diagonal")
def _diagonal(body: Body, node: Node) -> Val:
    x, offset, a, b = bound(node, "input", "offset", "dim1", "dim2", offset=0, dim1=0, dim2=1)
    return Val(f"jnp.diagonal({body.plain(x).text}, {offset}, {a}, {b})")
