"""Where each class of torch.nn and each function of torch.nn.functional is found here."""

import functools
import importlib
import inspect
import re
from typing import Any

import torch
import torch.nn.functional as F

from dlwp_jax import losses, nn

# Losses are functions here.
LOSSES = {
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "CTCLoss": "ctc_loss",
    "CosineEmbeddingLoss": "cosine_embedding_loss",
    "CrossEntropyLoss": "cross_entropy",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "HingeEmbeddingLoss": "hinge_embedding_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_div",
    "L1Loss": "l1_loss",
    "MSELoss": "mse_loss",
    "MarginRankingLoss": "margin_ranking_loss",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "NLLLoss": "nll_loss",
    "PoissonNLLLoss": "poisson_nll_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "SoftMarginLoss": "soft_margin_loss",
    "TripletMarginLoss": "triplet_margin_loss",
    "TripletMarginWithDistanceLoss": "triplet_margin_with_distance_loss",
}
# Names of torch that have another name here.
ELSEWHERE = {
    **{name: f"losses.{function}" for name, function in LOSSES.items()},
    "Module": "flax.nnx.Module",
    "logsigmoid": "nn.log_sigmoid",
    "one_hot": "jax.nn.one_hot",
    "unfold": "nn.unfold",
    "upsample": "nn.interpolate",
    "upsample_bilinear": "nn.interpolate",
    "upsample_nearest": "nn.interpolate",
}
LAZY = "a layer is given its sizes: [LazyLinear](#torch.nn.LazyLinear)"
IN_PLACE = "nothing changes in place"
LOW = "a product of one kind of GPU; XLA chooses its own"
# Names that have no counterpart, and why.
WITHOUT = {
    **{f"LazyBatchNorm{n}d": LAZY for n in (1, 2, 3)},
    **{f"LazyConv{n}d": LAZY for n in (1, 2, 3)},
    **{f"LazyConvTranspose{n}d": LAZY for n in (1, 2, 3)},
    **{f"LazyInstanceNorm{n}d": LAZY for n in (1, 2, 3)},
    "LazyLinear": LAZY,
    "Container": "torch has replaced it by Module",
    "CrossMapLRN2d": "an older LocalResponseNorm",
    "NLLLoss2d": "torch has replaced it by NLLLoss",
    "RNNBase": "torch's own base class of RNN, LSTM and GRU",
    "RNNCellBase": "torch's own base class of cells",
    "LinearCrossEntropyLoss": "`losses.cross_entropy` of a Linear's output",
    "LinearCrossEntropyOptions": "XLA needs no choice of chunks",
    "linear_cross_entropy": "`losses.cross_entropy` of `nn.linear`",
    "multi_head_attention_forward": "`nn.MultiheadAttention` is the layer, "
    "`nn.scaled_dot_product_attention` its function",
    **dict.fromkeys(
        ("celu_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "rrelu_", "selu_", "threshold_"),
        IN_PLACE,
    ),
    "conv_tbc": "`nn.conv` of the same axes in another order",
    "native_channel_shuffle": "`nn.channel_shuffle` in another implementation",
    **dict.fromkeys(("grouped_mm", "scaled_grouped_mm", "scaled_mm"), LOW),
}
# Helpers of torch's own that stand among its functions.
HELPERS = re.compile(
    r"has_torch_function.*|handle_torch_function|assert_int_or_pair|.*_dispatch"
)


def classes() -> list[str]:
    """The names of the layers of torch.nn."""
    return sorted(torch.nn.modules.__all__)


def functions() -> list[str]:
    """The names of the functions of torch.nn.functional."""
    return [
        name
        for name, value in sorted(vars(F).items())
        if callable(value)
        and not inspect.isclass(value)
        and name[0].islower()
        and not HELPERS.fullmatch(name)
        and (value.__module__ or "torch").startswith("torch")
    ]


def place(name: str) -> str | None:
    """Where a name of torch is found here; None if it is not."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    # max_pool2d and max_pool2d_with_indices are max_pool.
    for here in (name, re.sub(r"\d+d(_with_indices)?$", "", name)):
        for module in ("nn", "losses"):
            if hasattr({"nn": nn, "losses": losses}[module], here):
                return f"{module}.{here}"
    return None


def found(path: str) -> Any:
    """The object at a place."""
    package, *names = path.split(".")
    root = package if package in ("flax", "jax") else f"dlwp_jax.{package}"
    return functools.reduce(_attribute, names, importlib.import_module(root))


def _attribute(parent: Any, name: str) -> Any:
    if inspect.ismodule(parent) and not hasattr(parent, name):
        return importlib.import_module(f"{parent.__name__}.{name}")
    return getattr(parent, name)


def section() -> str:
    """The part of the page that counts them."""
    parts = ["\n## torch.nn, name by name\n"]
    for title, names in (("torch.nn", classes()), ("torch.nn.functional", functions())):
        here = {name: place(name) for name in names if place(name)}
        same = [name for name, where in here.items() if where == f"nn.{name}"]
        other = {name: where for name, where in here.items() if name not in same}
        reasons = {name: WITHOUT[name] for name in names if name not in here}
        parts += [
            f"**{len(here)} of the {len(names)}** names of `{title}` are here; how near each "
            "comes to torch's numbers: [parity](parity.md).\n",
            f"- under their own name in `dlwp_jax.nn`: {', '.join(f'`{n}`' for n in same)}",
            "- under another: " + ", ".join(f"`{n}` (`{where}`)" for n, where in other.items()),
        ]
        for reason in dict.fromkeys(reasons.values()):
            absent = [f"`{name}`" for name, why in reasons.items() if why == reason]
            parts.append(f"- not here ({reason}): {', '.join(absent)}")
        parts.append("")
    return "\n".join(parts)
