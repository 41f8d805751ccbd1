"""Functions that move, cut and join axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port.functions.common import (
    Val,
    bound,
    handler,
    physical,
    sizes_behind,
    together,
)
from dlwp_jax.parity.port.functions.filling import cast
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


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
        return Val(f"jnp.swapaxes({val.text}, {moved[0]}, {moved[1]})")
    return Val(f"jnp.transpose({val.text}, ({', '.join(map(str, here))}))")


@handler("reshape", "view", "unflatten_sizes")
def _reshape(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "shape")
    if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
        return cast(body, node)
    shape, val = node.shape, body.val(x)
    if val.last is True and len(shape) == 2 and shape[0] == x.shape[0]:
        return Val(f"nn.flatten({val.text})")
    if x.ndim == 2 and len(shape) > 2 and shape[:2] == x.shape and set(shape[2:]) == {1}:
        return Val(f"{body.part(val, 0)}[:, {', '.join(['None'] * (len(shape) - 2))}]", True)
    return Val(f"{body.part(body.plain(x), 0)}.reshape({_sizes(body, sizes)})")


def _sizes(body: Body, sizes: tuple[Any, ...]) -> str:
    return ", ".join(
        repr(s) if s in (-1, 1) and not isinstance(s, Node) else body.text(s) for s in sizes
    )


@handler("view_as", "reshape_as")
def _view_as(body: Body, node: Node) -> Val:
    x, other = node.args
    return Val(f"{body.part(body.plain(x), 0)}.reshape({body.plain(other).text}.shape)")


@handler("flatten", "ravel")
def _flatten(body: Body, node: Node) -> Val:
    x, start, end = bound(node, "input", "start_dim", "end_dim", start_dim=0, end_dim=-1)
    start, end = start % x.ndim, end % x.ndim
    val = body.val(x)
    if start == end:
        return val
    if start == 1 and end == x.ndim - 1:
        if val.last is True:
            return Val(f"nn.flatten({val.text})")
        return Val(f"{body.part(val, 0)}.reshape({val.text}.shape[0], -1)")
    if val.last is True and start == 2 and end == x.ndim - 1:
        return Val(
            f"{body.part(val, 0)}.reshape({val.text}.shape[0], -1, {val.text}.shape[-1])",
            True,
        )
    if start == 0 and end == x.ndim - 1:
        return Val(f"{body.part(body.plain(x), 0)}.reshape(-1)")
    return Val(f"jax.lax.collapse({body.plain(x).text}, {start}, {end + 1})")


@handler("unflatten")
def _unflatten(body: Body, node: Node) -> Val:
    x, dim, sizes = bound(node, "input", "dim", "sizes")
    dim %= x.ndim
    shape = [str(s) for s in x.shape]
    val = body.plain(x)
    before = [f"{val.text}.shape[{d}]" for d in range(dim)]
    after = [f"{val.text}.shape[{d}]" for d in range(dim + 1, len(shape))]
    base = body.part(val, 0)
    written = ", ".join([*before, _sizes(body, tuple(sizes)), *after])
    return Val(f"{base}.reshape({written})")


@handler("unsqueeze")
def _unsqueeze(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    return Val(f"jnp.expand_dims({body.plain(x).text}, {dim})")


@handler("squeeze")
def _squeeze(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim")
    val = body.val(x)
    if dim is not None and val.last is True and node.ndim == 2 and x.ndim == 3 and dim % 3 == 2:
        return Val(f"jnp.squeeze({val.text}, 1)")
    if (
        dim is not None
        and val.last is True
        and node.ndim > 2
        and isinstance(dim, int)
        and dim % x.ndim > 1
    ):
        return Val(f"jnp.squeeze({val.text}, {body.axis(x, dim)})", True)
    where = "" if dim is None else f", {dim}"
    if dim is not None and node.ndim == x.ndim and isinstance(dim, int):
        return val
    return Val(f"jnp.squeeze({body.plain(x).text}{where})")


@handler("expand", "broadcast_to")
def _expand(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "size")
    new = len(sizes) - x.ndim
    written = []
    for axis, size in enumerate(sizes):
        if size == -1 and not isinstance(size, Node):
            size = _size(x, axis - new)
        written.append(body.text(size))
    val = body.plain(x)
    comma = "," if len(written) == 1 else ""
    return Val(f"jnp.broadcast_to({val.text}, ({', '.join(written)}{comma}))")


def _size(x: Node, axis: int) -> Any:
    """A size as it is written: that of a parameter as a number."""
    if x.kind == "array":
        return x.shape[axis]
    return Node("size", "shape", (x, axis), value=x.shape[axis])


@handler("expand_as")
def _expand_as(body: Body, node: Node) -> Val:
    x, other = node.args
    parts, last = together(body, (x, other), node.ndim)
    return Val(f"jnp.broadcast_to({parts[0].text}, {parts[1].text}.shape)", last)


@handler("repeat", "tile")
def _repeat(body: Body, node: Node) -> Val:
    x, sizes = node.args[0], sizes_behind(node, "repeats")
    return Val(f"jnp.tile({body.plain(x).text}, ({', '.join(body.text(s) for s in sizes)}))")


@handler("repeat_interleave")
def _repeat_interleave(body: Body, node: Node) -> Val:
    x, times, dim = bound(node, "input", "repeats", "dim")
    if isinstance(times, torch.Tensor) or (isinstance(times, Node) and times.is_tensor):
        raise Refused("repeat_interleave with a tensor of repeats is not known to the port.")
    return Val(f"jnp.repeat({body.plain(x).text}, {body.text(times)}, {dim})")


@handler("cat", "concat", "concatenate")
def _cat(body: Body, node: Node) -> Val:
    parts, dim = bound(node, "tensors", "dim", dim=0)
    dim = node.kwargs.get("axis", dim)
    whole = body.whole_list(parts)
    last = node.ndim > 2 and any(body.val(p).last is True for p in parts)
    axis = dim
    if last:
        axis = physical(dim, node.ndim)
    texts = [(body.last(p) if last else body.plain(p)).text for p in parts]
    if whole and all(body.val(p).last is last for p in parts):
        return Val(f"jnp.concatenate({whole}, {axis})", last)
    return Val(f"jnp.concatenate([{', '.join(texts)}], {axis})", last)


@handler("stack")
def _stack(body: Body, node: Node) -> Val:
    parts, dim = bound(node, "tensors", "dim", dim=0)
    whole = body.whole_list(parts)
    if whole and not any(body.val(p).last for p in parts):
        return Val(f"jnp.stack({whole}, {dim})")
    return Val(f"jnp.stack([{', '.join(body.plain(p).text for p in parts)}], {dim})")


@handler("hstack", "vstack", "dstack", "column_stack", "row_stack")
def _stacked(body: Body, node: Node) -> Val:
    parts = ", ".join(body.plain(part).text for part in node.args[0])
    name = "vstack" if node.name == "row_stack" else node.name
    return Val(f"jnp.{name}([{parts}])")


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
    return Val(
        f"jnp.split({val.text}, {where}, {body.axis(x, dim)})", [val.last is True] * len(sizes)
    )


@handler("unbind")
def _unbind(body: Body, node: Node) -> Val:
    x, dim = bound(node, "input", "dim", dim=0)
    val = body.plain(x)
    text = val.text if dim == 0 else f"jnp.moveaxis({val.text}, {dim}, 0)"
    return Val(text, [False] * len(node.value))


@handler("getitem", "select", "narrow")
def _getitem(body: Body, node: Node) -> Val:
    if node.name == "select":
        x, dim, at = bound(node, "input", "dim", "index")
        index: Any = (*[slice(None)] * (dim % x.ndim), at)
    elif node.name == "narrow":
        x, dim, start, length = bound(node, "input", "dim", "start", "length")
        if isinstance(start, Node) and start.is_tensor:
            raise Refused("narrow from a tensor is not known to the port; write x[:, a:b].")
        first, size = (n.value if isinstance(n, Node) else n for n in (start, length))
        is_last = first < 0 and first + size == 0  # up to the end: x[-2:], and not x[-2:0]
        if isinstance(start, Node) or isinstance(length, Node):
            begin = body.text(start)
            end = "" if is_last else f" {begin} + {body.text(length)}"
            cut = f"{':, ' * (dim % x.ndim)}{begin} :{end}"
            return Val(f"{body.part(body.plain(x), 0)}[{cut}]")
        cut = slice(start, None if is_last else start + length)
        index = (*[slice(None)] * (dim % x.ndim), cut)
    else:
        x, index = node.args
    index = index if isinstance(index, tuple) else (index,)
    val = body.val(x)
    whole = _every_axis(index, x.ndim)
    if x.ndim == 2 and index[:2] == (slice(None),) * 2 and set(index[2:]) == {None}:
        return Val(f"{body.part(val, 0)}[:, {', '.join(['None'] * (len(index) - 2))}]", True)
    if val.last is True and whole is not None and not isinstance(whole[0], int):
        turned = (whole[0], *whole[2:], whole[1])
        gone = isinstance(whole[1], int | Node)
        left = sum(not isinstance(i, int | Node) for i in whole)
        while turned and turned[-1] == slice(None):
            turned = turned[:-1]
        text = ", ".join(body.text(i) for i in turned)
        return Val(f"{body.part(val, 0)}[{text}]" if text else val.text, not gone and left > 2)
    val = body.plain(x)
    base = body.part(val, 0)
    text = ", ".join(body.text(i) if i is not None else "None" for i in index)
    return Val(f"{base}[{text}]")


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
    return Val(f"{body.part(body.plain(x), 0)}.at[{text}].set({body.text(value)})")


@handler("roll")
def _roll(body: Body, node: Node) -> Val:
    x, shifts, dims = bound(node, "input", "shifts", "dims")
    val = body.val(x)
    axes = [body.axis(x, d) for d in ((dims,) if isinstance(dims, int) else dims)]
    where = str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
    return Val(f"jnp.roll({val.text}, {body.text(shifts)}, {where})", val.last)


@handler("flip")
def _flip(body: Body, node: Node) -> Val:
    x, dims = node.args[0], sizes_behind(node, "dims")
    val = body.val(x)
    return Val(f"jnp.flip({val.text}, {tuple(body.axis(x, d) for d in dims)})", val.last)


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
    return Val(f"jnp.pad({val.text}, [{text}]{options})", last)


@handler("packed", "padded")
def _packed(body: Body, node: Node) -> Val:
    """Sequences of several lengths lie here as they did ahead of the packing."""
    x = node.args[0]
    return body.plain(x) if node.name == "packed" else body.val(x)


@handler("index_add")
def _index_add(body: Body, node: Node) -> Val:
    x, dim, index, source = bound(node, "input", "dim", "index", "source")
    if node.kwargs.get("alpha", 1) != 1:
        raise Refused("index_add with alpha is not known to the port; multiply first.")
    val, at, added = (body.plain(arg).text for arg in (x, index, source))
    return Val(f"{val}.at[{':, ' * (dim % x.ndim)}{at}].add({added})")


@handler("diag")
def _diag(body: Body, node: Node) -> Val:
    x, offset = bound(node, "input", "diagonal", diagonal=0)
    return Val(f"jnp.diag({body.plain(x).text}{f', {offset}' if offset else ''})")


@handler("broadcast_tensors")
def _broadcast_tensors(body: Body, node: Node) -> Val:
    parts = node.args[0] if isinstance(node.args[0], list | tuple) else node.args
    given = ", ".join(body.plain(part).text for part in parts)
    return Val(f"jnp.broadcast_arrays({given})", [False] * len(parts))
