"""The layers that have a twin of the same name in `dlwp_jax.nn`: how each is made, and which
axis it reads.

A new layer is one row. A kind says where a layer wants the channels of its first input: "last"
(`[N *spatial C]`, as a convolution), "as_is" (`[N T C]`, as Linear), "any" (one value at a
time), "flatten", "axis" (one over which it works), or "sequences" (several arguments, all of
them as torch has them).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from dlwp_jax import nn
from dlwp_jax.parity.port.refuse import Refused


@dataclasses.dataclass(frozen=True)
class Made:
    """How a layer is made.

    Attributes:
      positional: attributes of torch's layer that are given by position.
      options: attributes that are given by keyword if they are not the default.
      rngs: whether it takes rngs.
      kind: where it wants the channels.
      paths: where torch's layer keeps an argument, if it is no attribute of that name.
    """

    positional: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    rngs: bool = False
    kind: str = "any"
    paths: dict[str, str] = dataclasses.field(default_factory=dict)


_CONV = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "bias": True,
    "padding_mode": "zeros",
}
_CONV_T = {
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "bias": True,
    "dilation": 1,
}
_BATCH = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
_INSTANCE = _BATCH | {"affine": False, "track_running_stats": False}
_MAX = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
_AVG = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True}
_SIZES = ("in_channels", "out_channels", "kernel_size")

LAYERS: dict[str, Made] = {
    "Linear": Made(("in_features", "out_features"), {"bias": True}, True, "as_is"),
    "Embedding": Made(
        ("num_embeddings", "embedding_dim"), {"padding_idx": None}, True, "as_is"
    ),
    "EmbeddingBag": Made(
        ("num_embeddings", "embedding_dim"),
        {"mode": "mean", "padding_idx": None, "include_last_offset": False},
        True,
        "sequences",
    ),
    "LayerNorm": Made(
        ("normalized_shape",),
        {"eps": 1e-5, "elementwise_affine": True, "bias": True},
        False,
        "as_is",
    ),
    "RMSNorm": Made(
        ("normalized_shape",), {"eps": None, "elementwise_affine": True}, False, "as_is"
    ),
    "GroupNorm": Made(
        ("num_groups", "num_channels"), {"eps": 1e-5, "affine": True}, False, "last"
    ),
    "Flatten": Made((), {"start_dim": 1, "end_dim": -1}, False, "flatten"),
    "Unflatten": Made(("dim", "unflattened_size"), {}, False, "last"),
    "Fold": Made(
        ("output_size", "kernel_size"),
        {"dilation": 1, "padding": 0, "stride": 1},
        False,
        "last",
    ),
    "Unfold": Made(("kernel_size",), {"dilation": 1, "padding": 0, "stride": 1}, False, "last"),
    "ChannelShuffle": Made(("groups",), {}, False, "last"),
    "LocalResponseNorm": Made(
        ("size",), {"alpha": 1e-4, "beta": 0.75, "k": 1.0}, False, "last"
    ),
    "Softmax2d": Made((), {}, False, "last"),
    "Bilinear": Made(
        ("in1_features", "in2_features", "out_features"), {"bias": True}, True, "sequences"
    ),
    "CosineSimilarity": Made((), {"dim": 1, "eps": 1e-8}, False, "sequences"),
    "PairwiseDistance": Made(
        (), {"p": 2.0, "eps": 1e-6, "keepdim": False}, False, "sequences", {"p": "norm"}
    ),
    "Upsample": Made(
        (),
        {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None},
        False,
        "last",
    ),
    "PixelShuffle": Made(("upscale_factor",), {}, False, "last"),
    "PixelUnshuffle": Made(("downscale_factor",), {}, False, "last"),
    "Dropout": Made((), {"p": 0.5}, True),
    "AlphaDropout": Made((), {"p": 0.5}, True),
    "FeatureAlphaDropout": Made((), {"p": 0.5}, True, "last"),
    "Identity": Made(),
    "CELU": Made((), {"alpha": 1.0}),
    "ELU": Made((), {"alpha": 1.0}),
    "GELU": Made((), {"approximate": "none"}),
    "Hardshrink": Made((), {"lambd": 0.5}),
    "Softshrink": Made((), {"lambd": 0.5}),
    "Hardtanh": Made((), {"min_val": -1.0, "max_val": 1.0}),
    "LeakyReLU": Made((), {"negative_slope": 0.01}),
    "Softplus": Made((), {"beta": 1.0, "threshold": 20.0}),
    "Threshold": Made(("threshold", "value")),
    "PReLU": Made((), {"num_parameters": 1}, False, "last"),
}
_PLAIN = """ReLU ReLU6 SELU SiLU Sigmoid Softsign Tanh Tanhshrink Mish LogSigmoid Hardswish
Hardsigmoid"""
for _name in _PLAIN.split():
    LAYERS[_name] = Made()
for _name in ("Softmax", "LogSoftmax", "Softmin", "GLU"):
    LAYERS[_name] = Made((), {"dim": -1}, False, "axis")
for _n in (1, 2, 3):
    LAYERS |= {
        f"Conv{_n}d": Made(_SIZES, _CONV, True, "last"),
        f"ConvTranspose{_n}d": Made(_SIZES, _CONV_T, True, "last"),
        f"BatchNorm{_n}d": Made(("num_features",), _BATCH, False, "last"),
        f"InstanceNorm{_n}d": Made(("num_features",), _INSTANCE, False, "last"),
        f"MaxPool{_n}d": Made(("kernel_size",), _MAX, False, "last"),
        f"AvgPool{_n}d": Made(("kernel_size",), _AVG, False, "last"),
        f"LPPool{_n}d": Made(
            ("norm_type", "kernel_size"), {"stride": None, "ceil_mode": False}, False, "last"
        ),
        f"AdaptiveAvgPool{_n}d": Made(("output_size",), {}, False, "last"),
        f"AdaptiveMaxPool{_n}d": Made(("output_size",), {}, False, "last"),
        f"Dropout{_n}d": Made((), {"p": 0.5}, True, "last"),
        f"ReflectionPad{_n}d": Made(("padding",), {}, False, "last"),
        f"ReplicationPad{_n}d": Made(("padding",), {}, False, "last"),
        f"ZeroPad{_n}d": Made(("padding",), {}, False, "last"),
        f"CircularPad{_n}d": Made(("padding",), {}, False, "last"),
        f"ConstantPad{_n}d": Made(("padding", "value"), {}, False, "last"),
    }

_RECURRENT = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
}
_STATES = ("input_size", "hidden_size")
LAYERS |= {
    "RNN": Made(_STATES, _RECURRENT | {"nonlinearity": "tanh"}, True, "sequences"),
    "LSTM": Made(_STATES, _RECURRENT | {"proj_size": 0}, True, "sequences"),
    "GRU": Made(_STATES, _RECURRENT, True, "sequences"),
    "RNNCell": Made(_STATES, {"bias": True, "nonlinearity": "tanh"}, True, "sequences"),
    "LSTMCell": Made(_STATES, {"bias": True}, True, "sequences"),
    "GRUCell": Made(_STATES, {"bias": True}, True, "sequences"),
    "MultiheadAttention": Made(
        ("embed_dim", "num_heads"),
        {
            "dropout": 0.0,
            "bias": True,
            "add_bias_kv": False,
            "add_zero_attn": False,
            "kdim": None,
            "vdim": None,
            "batch_first": False,
        },
        True,
        "sequences",
        {"bias": "in_proj_bias", "add_bias_kv": "bias_k"},
    ),
}
_BLOCK = {
    "dim_feedforward": 2048,
    "dropout": 0.1,
    "activation": "relu",
    "layer_norm_eps": 1e-5,
    "batch_first": False,
    "norm_first": False,
    "bias": True,
}
_BLOCK_PATHS = {
    "d_model": "self_attn.embed_dim",
    "nhead": "self_attn.num_heads",
    "dim_feedforward": "linear1.out_features",
    "dropout": "dropout.p",
    "layer_norm_eps": "norm1.eps",
    "batch_first": "self_attn.batch_first",
    "bias": "linear1.bias",
}
for _name in ("TransformerEncoderLayer", "TransformerDecoderLayer"):
    LAYERS[_name] = Made(("d_model", "nhead"), _BLOCK, True, "sequences", _BLOCK_PATHS)
_FIRST = "encoder.layers.0."
_WHOLE_PATHS = {name: _FIRST + path for name, path in _BLOCK_PATHS.items()}
_WHOLE_PATHS |= {
    "num_encoder_layers": "encoder.num_layers",
    "num_decoder_layers": "decoder.num_layers",
    "activation": f"{_FIRST}activation",
    "norm_first": f"{_FIRST}norm_first",
}
LAYERS["Transformer"] = Made(
    ("d_model", "nhead"),
    {"num_encoder_layers": 6, "num_decoder_layers": 6} | _BLOCK,
    True,
    "sequences",
    _WHOLE_PATHS,
)
# Stacks of one layer, which is given first.
STACKS = ("TransformerEncoder", "TransformerDecoder")
for _name in STACKS:
    LAYERS[_name] = Made((), {}, True, "sequences")

# Classes of other libraries that are `nn.StochasticDepth` here, by name: the attribute that
# holds the probability.
DROP_PATHS = {"StochasticDepth": "p", "DropPath": "drop_prob"}


def layer_name(module: torch.nn.Module) -> str:
    """The name of the twin of a layer, or "" if the port must look into the module.

    A subclass counts as its parent if it computes the same.
    """
    for kind in type(module).__mro__:
        known = kind.__module__.startswith("torch.nn.") and kind.__name__ in LAYERS
        if known and hasattr(nn, kind.__name__):
            same = type(module).forward is kind.forward
            return kind.__name__ if same else ""
    return type(module).__name__ if type(module).__name__ in DROP_PATHS else ""


def value_of(module: torch.nn.Module, name: str, attribute: str, default: Any) -> Any:
    """What the constructor was given for an argument."""
    value = found_at(module, LAYERS[name].paths.get(attribute, attribute), default)
    if attribute == "activation":
        return _activation(value)
    if attribute in ("kdim", "vdim"):
        return None if value == module.embed_dim else value
    if attribute in ("bias", "add_bias_kv") and not isinstance(value, bool):
        value = value is not None
    if attribute == "bias" and name == "LayerNorm" and not module.elementwise_affine:
        value = True
    if attribute == "stride" and default is None and short(value) == short(module.kernel_size):
        return None
    return short(value)


def found_at(module: torch.nn.Module, path: str, default: Any = None) -> Any:
    """The attribute at a dotted path."""
    value: Any = module
    for step in path.split("."):
        value = getattr(value, step, default)
    return value


def _activation(value: Any) -> str:
    name = getattr(value, "__name__", type(value).__name__).lower()
    if name not in ("relu", "gelu"):
        raise Refused(f"the activation {name} of a transformer is not known to the port.")
    return name


def short(value: Any) -> Any:
    """(3, 3) as 3."""
    if isinstance(value, torch.Size):
        value = tuple(value)
    if isinstance(value, tuple | list) and len(set(value)) == 1:
        return value[0]
    return tuple(value) if isinstance(value, list) else value
