"""Pooling, resizing, dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlwp_jax.parity.port.functions.common import Val, bound, handler
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


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
    return Val(
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
    return Val(f"nn.{node.name[:-2]}({body.last(x).text}, {body.text(_tuple(size))})", True)


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
    return Val(f"nn.interpolate({body.last(x).text}{''.join(options)})", True)


@handler("unfold")
def _unfold(body: Body, node: Node) -> Val:
    names = ("input", "kernel_size", "dilation", "padding", "stride")
    x, window, *given = bound(node, *names, dilation=1, padding=0, stride=1)
    if node.ndim > x.ndim:
        return _windows(body, node)
    options = _options(body, names[2:], given, (1, 0, 1))
    return Val(f"nn.unfold({body.last(x).text}, {body.text(_tuple(window))}{options})", True)


def _windows(body: Body, node: Node) -> Val:
    """Tensor.unfold: windows along an axis, as a last axis."""
    x, dim, size, step = bound(node, "input", "dimension", "size", "step")
    dim %= x.ndim
    places = f"jnp.arange({body.text(node.value.shape[dim])})[:, None] * {body.text(step)}"
    taken = f"{body.plain(x).text}[{':, ' * dim}{places} + jnp.arange({body.text(size)})]"
    if dim == x.ndim - 1:
        return Val(taken)
    return Val(f"jnp.moveaxis({taken}, {dim + 1}, -1)")


@handler("fold", "col2im")
def _fold(body: Body, node: Node) -> Val:
    names = ("input", "output_size", "kernel_size", "dilation", "padding", "stride")
    x, size, window, *given = bound(node, *names, dilation=1, padding=0, stride=1)
    options = _options(body, names[3:], given, (1, 0, 1))
    sizes = f"{body.text(_tuple(size))}, {body.text(_tuple(window))}"
    return Val(f"nn.fold({body.last(x).text}, {sizes}{options})", True)


def _options(body: Body, names: Any, given: Any, defaults: Any) -> str:
    return "".join(
        f", {name}={body.text(_tuple(value))}"
        for name, value, default in zip(names, given, defaults, strict=True)
        if value != default
    )


@handler("lp_pool1d", "lp_pool2d", "lp_pool3d")
def _lp_pool(body: Body, node: Node) -> Val:
    names = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
    x, p, window, *given = bound(node, *names, ceil_mode=False)
    options = _options(body, names[3:], given, (None, False))
    sizes = f"{body.text(p)}, {body.text(_tuple(window))}"
    return Val(f"nn.lp_pool({body.last(x).text}, {sizes}{options})", True)


@handler("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(body: Body, node: Node) -> Val:
    x, groups = bound(node, "input", "groups")
    return Val(f"nn.channel_shuffle({body.last(x).text}, {body.text(groups)})", True)


@handler("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(body: Body, node: Node) -> Val:
    x, factor = node.args
    return Val(f"nn.{node.name}({body.last(x).text}, {body.text(factor)})", True)


@handler("grid_sample")
def _grid_sample(body: Body, node: Node) -> Val:
    names = ("input", "grid", "mode", "padding_mode", "align_corners")
    x, grid, mode, padding, align = bound(
        node, *names, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    options = f", mode={mode!r}, padding_mode={padding!r}, align_corners={bool(align)}"
    return Val(f"nn.grid_sample({body.last(x).text}, {body.plain(grid).text}{options})", True)


@handler("affine_grid")
def _affine_grid(body: Body, node: Node) -> Val:
    theta, size, align = bound(node, "theta", "size", "align_corners", align_corners=False)
    first, channels, *spatial = size
    turned = (first, *spatial, channels)
    return Val(
        f"nn.affine_grid({body.plain(theta).text}, {body.text(turned)}, "
        f"align_corners={bool(align)})"
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
    number = sum(name.startswith("dropout") for name, _ in body.functional)
    name = f"dropout_{number}" if number else "dropout"
    if name in body.module._modules:
        name = f"functional_{name}"
    body.functional.append((name, f"nn.{kind}({body.number(float(p), 'p')}, rngs=rngs)"))
    val = body.last(x) if kind != "Dropout" else body.val(x)
    return Val(f"self.{name}({val.text})", val.last)
