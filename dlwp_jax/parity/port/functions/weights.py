"""Functions that are given the weights of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlwp_jax.parity.port.functions.common import Val, bound, handler
from dlwp_jax.parity.port.nodes import Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.body import Body


@handler("linear")
def _linear(body: Body, node: Node) -> Val:
    x, weight, bias = bound(node, "input", "weight", "bias")
    behind = "" if bias is None else f", {body.val(bias).text}"
    return Val(f"nn.linear({body.plain(x).text}, {turned_weight(body, weight)}{behind})")


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
    return Val(f"nn.conv({body.last(x).text}, {kernel}{behind})", True)


@handler("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(body: Body, node: Node) -> Val:
    names = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    )
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    x, weight, bias, *options = bound(node, *names, **defaults)
    turned = (*range(2, weight.ndim), 1, 0)
    kernel = f"jnp.transpose({body.plain(weight).text}, {turned})"
    behind = "" if bias is None else f", {body.val(bias).text}"
    for (name, default), value in zip(defaults.items(), options, strict=True):
        if value not in (default, (default,) * (weight.ndim - 2)):
            behind += f", {name}={body.text(value)}"
    return Val(f"nn.conv_transpose({body.last(x).text}, {kernel}{behind})", True)


@handler("prelu")
def _prelu(body: Body, node: Node) -> Val:
    x, weight = bound(node, "input", "weight")
    return Val(f"nn.prelu({body.last(x).text}, {body.val(weight).text})", x.ndim > 2)


@handler("rms_norm")
def _rms_norm(body: Body, node: Node) -> Val:
    x, shape, weight, eps = bound(node, "input", "normalized_shape", "weight", "eps")
    size = body.text(shape[0]) if len(shape) == 1 else body.text(tuple(shape))
    behind = "" if weight is None else f", {body.val(weight).text}"
    behind += "" if eps is None else f", eps={body.number(eps, 'eps')}"
    return Val(f"nn.rms_norm({body.plain(x).text}, {size}{behind})")


@handler("group_norm")
def _group_norm(body: Body, node: Node) -> Val:
    names = ("input", "num_groups", "weight", "bias", "eps")
    x, groups, weight, bias, eps = bound(node, *names, eps=1e-5)
    behind = "".join("" if a is None else f", {body.val(a).text}" for a in (weight, bias))
    behind += "" if eps == 1e-5 else f", eps={body.number(eps, 'eps')}"
    return Val(f"nn.group_norm({body.last(x).text}, {body.text(groups)}{behind})", x.ndim > 2)


@handler("instance_norm")
def _instance_norm(body: Body, node: Node) -> Val:
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats")
    x, mean, var, weight, bias, own, _, eps = bound(
        node, *names, "momentum", "eps", use_input_stats=True, eps=1e-5
    )
    if mean is not None or var is not None or not own:
        raise Refused("F.instance_norm with running statistics: use nn.InstanceNorm2d.")
    behind = "" if weight is None else f", weight={body.val(weight).text}"
    behind += "" if bias is None else f", bias={body.val(bias).text}"
    behind += "" if eps == 1e-5 else f", eps={body.number(eps, 'eps')}"
    return Val(f"nn.instance_norm({body.last(x).text}{behind})", True)


@handler("bilinear")
def _bilinear(body: Body, node: Node) -> Val:
    a, b, weight, bias = bound(node, "input1", "input2", "weight", "bias")
    kernel = f"jnp.transpose({body.plain(weight).text}, (1, 0, 2))"
    behind = "" if bias is None else f", {body.val(bias).text}"
    return Val(f"nn.bilinear({body.plain(a).text}, {body.plain(b).text}, {kernel}{behind})")


@handler("embedding")
def _embedding(body: Body, node: Node) -> Val:
    x, weight, *others = bound(
        node, "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq"
    )
    if others[1] is not None or others[3]:
        raise Refused("embedding with max_norm or scale_grad_by_freq is not known to the port.")
    if others[0] is not None:
        given = f"{body.val(x).text}, {body.val(weight).text}, {body.text(others[0])}"
        return Val(f"nn.embedding({given})")
    return Val(f"{body.part(body.val(weight), 0)}[{body.val(x).text}]")


@handler("layer_norm")
def _layer_norm(body: Body, node: Node) -> Val:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    x, shape, weight, bias, eps = bound(node, *names, eps=1e-5)
    size = body.text(shape[0]) if len(shape) == 1 else body.text(tuple(shape))
    behind = "".join("" if a is None else f", {body.val(a).text}" for a in (weight, bias))
    if weight is None and bias is not None:
        behind = f", None{behind}"
    behind += "" if eps == 1e-5 else f", eps={body.number(eps, 'eps')}"
    return Val(f"nn.layer_norm({body.plain(x).text}, {size}{behind})")


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
    return Val(f"nn.batch_norm({body.last(x).text}, {given}{behind})", True)


def _share(body: Body, drop: float) -> str:
    """The attribute that holds the share an attention drops; one for every share."""
    text = body.number(float(drop), "dropout_p")
    known = [pair for pair in body.functional if pair[0].startswith("dropout_p")]
    for name, other in known:
        if body.classes.concrete(other) == body.classes.concrete(text):
            return name
    name = f"dropout_p_{len(known)}" if known else "dropout_p"
    if name in body.module._modules:
        name = f"functional_{name}"
    body.functional.append((name, text))
    return name


@handler("scaled_dot_product_attention")
def _attention(body: Body, node: Node) -> Val:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    q, k, v, mask, drop, causal, scale, groups = bound(
        node, *names, "enable_gqa", dropout_p=0.0, is_causal=False
    )
    if drop and not body.frame.training:
        raise Refused(
            "scaled_dot_product_attention drops in eval mode too; write "
            "dropout_p=p if self.training else 0.0."
        )
    behind = "" if mask is None else f", {body.plain(mask).text}"
    behind += ", is_causal=True" if causal else ""
    behind += "" if scale is None else f", scale={body.text(scale)}"
    behind += ", enable_gqa=True" if groups else ""
    if drop:
        behind += f", dropout_p=self.{_share(body, drop)}, dropout_key={body.draws()}"
    given = ", ".join(body.plain(n).text for n in (q, k, v))
    return Val(f"nn.scaled_dot_product_attention({given}{behind})")
