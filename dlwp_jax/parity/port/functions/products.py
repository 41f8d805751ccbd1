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
    x, dim = bound(node, "input", "dim")
    return Val(f"jax.nn.logsumexp({body.plain(x).text}, {dim})")


@handler("norm")
def _norm(body: Body, node: Node) -> Val:
    x, p, dim, keep = bound(node, "input", "p", "dim", "keepdim", p=2, keepdim=False)
    if p not in (2, "fro"):
        raise Refused("only norms with p=2 are known to the port.")
    kept = ", keepdims=True" if keep else ""
    return Val(f"jnp.linalg.norm({body.plain(x).text}, axis={dim}{kept})")


@handler("normalize")
def _normalize(body: Body, node: Node) -> Val:
    x, p, dim, eps = bound(node, "input", "p", "dim", "eps", p=2.0, dim=1, eps=1e-12)
    if p != 2:
        raise Refused("only F.normalize with p=2 is known to the port.")
    val = body.val(x)
    length = f"jnp.linalg.norm({val.text}, axis={body.axis(x, dim)}, keepdims=True)"
    return Val(f"{body.part(val, 3)} / jnp.maximum({length}, {eps})", val.last, 3)


@handler("matmul", "bmm", "mm", "rmatmul")
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


@handler("outer")
def _outer(body: Body, node: Node) -> Val:
    a, b = (body.plain(arg) for arg in node.args)
    return Val(f"jnp.outer({a.text}, {b.text})")


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
    return Val(f"jnp.linalg.norm({gap}, axis=-1)")


# Values at places.


@handler("gather", "take_along_dim")
def _gather(body: Body, node: Node) -> Val:
    names = ("input", "indices", "dim") if node.name != "gather" else ("input", "dim", "index")
    x, *rest = bound(node, *names)
    dim, index = rest if node.name == "gather" else rest[::-1]
    own = (*x.shape[: dim % x.ndim], 0, *x.shape[dim % x.ndim + 1 :])
    other = (*index.shape[: dim % x.ndim], 0, *index.shape[dim % x.ndim + 1 :])
    if own != other:
        raise Refused("gather with an index smaller than its input is not known; cut it first.")
    given = f"{body.plain(x).text}, {body.plain(index).text}, {dim}"
    return Val(f"jnp.take_along_axis({given})")


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


# Losses, whose classes are the last axis here.

_LOSSES = {
    "cross_entropy": ("weight", "ignore_index", "reduction", "label_smoothing"),
    "nll_loss": ("weight", "ignore_index", "reduction"),
    "mse_loss": ("reduction",),
    "l1_loss": ("reduction",),
    "smooth_l1_loss": ("reduction", "beta"),
    "huber_loss": ("reduction", "delta"),
    "binary_cross_entropy": ("weight", "reduction"),
    "binary_cross_entropy_with_logits": ("weight", "reduction", "pos_weight"),
    "kl_div": ("reduction", "log_target"),
}
_UNLIKE = {
    "reduction": "mean",
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "beta": 1.0,
    "delta": 1.0,
    "log_target": False,
}


@handler(*_LOSSES)
def _loss(body: Body, node: Node) -> Val:
    places = {"cross_entropy": ("weight", "size_average", "ignore_index", "reduce")}
    if len(node.args) > 2 + bool(node.name in places):
        raise Refused(f"{node.name}: give its options by keyword.")
    x, y, *given = bound(node, "input", "target", *_LOSSES[node.name])
    options = ""
    for name, value in zip(_LOSSES[node.name], given, strict=True):
        if value is not None and value != _UNLIKE.get(name):
            text = repr(value) if isinstance(value, str | bool) else body.text(value)
            options += f", {name}={text}"
    if node.name in ("cross_entropy", "nll_loss"):
        left, right = body.last(x), body.last(y) if y.ndim == x.ndim else body.plain(y)
    else:
        (left, right), _ = together(body, (x, y), x.ndim)
    return Val(f"losses.{node.name}({left.text}, {right.text}{options})")
