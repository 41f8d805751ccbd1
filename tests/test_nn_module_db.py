"""Torch's own database of module test cases, for every layer we have; what is left out is named with its reason."""

import itertools

import jax
import numpy as np
import pytest
import torch
from torch.testing._internal.common_modules import module_db

from dlwp_jax import nn
from tests.nn_parity import functional, load, parameter_map

RECURRENT = "recurrent layers are refused by name (issue 5)"
ATTENTION = "attention layers are refused by name (issue 5)"
LOSS = "a loss: tests/test_losses.py"
LAZY = "Flax layers are given their sizes"
NOT_OURS = "not among the layers of issue 5"
SKIPPED_MODULES = {
    **dict.fromkeys(["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"], RECURRENT),
    **dict.fromkeys(["TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoderLayer"], ATTENTION),
    **dict.fromkeys(["Transformer", "MultiheadAttention"], ATTENTION),
    **dict.fromkeys([f"LazyConv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)], LAZY),
    **dict.fromkeys(
        ["FractionalMaxPool2d", "FractionalMaxPool3d"], "draws its windows from torch's generator"
    ),
    **dict.fromkeys(["Bilinear", "LocalResponseNorm"], NOT_OURS),
}
# Options of single cases that have no counterpart here.
SKIPPED_OPTIONS = {
    "return_indices": "max pooling returns values only (issue 5: indices not needed)",
    "max_norm": "renormalises the table in place while reading it",
    "device": "arrays are placed by JAX",
    "dtype": "parameters are float32 here and there",
}
ANY_LAYOUT = ["Linear", "Embedding", "LayerNorm", "RMSNorm", "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardswish", "Hardtanh", "ReLU", "LeakyReLU", "ReLU6", "Sigmoid", "LogSigmoid", "SiLU", "Softmax", "LogSoftmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold", "Mish", "SELU"]


def name_of(info):
    return info.name.removeprefix("nn.")


def cases():
    for info in module_db:
        name = name_of(info)
        if name in SKIPPED_MODULES or name.endswith("Loss"):
            continue
        for training in (True, False):
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
            )
            for i, case in enumerate(inputs):
                yield pytest.param(info, case, training, id=f"{name}-{i}-{'train' if training else 'eval'}")


def channel_axis(name, x):
    """Where torch has the channels of this input: 1, or 0 without a batch axis; None where axes mean nothing."""
    if name in ANY_LAYOUT:
        return None
    if name[-1] == "d" and name[-2].isdigit() and not name.startswith("BatchNorm"):
        return 1 if x.ndim == int(name[-2]) + 2 else 0
    return 1 if x.ndim > 1 else 0


def turn(array, axis):
    return np.asarray(array) if axis is None else np.moveaxis(np.asarray(array), axis, -1)


def ours_like(name, case):
    """Our layer with the case's arguments."""
    args, options = case.constructor_input.args, dict(case.constructor_input.kwargs)
    for option, value in list(options.items()):
        if option in SKIPPED_OPTIONS:
            if option in ("device", "dtype") or not value:
                del options[option]
            else:
                pytest.skip(SKIPPED_OPTIONS[option])
    cls = getattr(nn, name)
    takes_rngs = any(
        "rngs" in base.__init__.__annotations__ for base in cls.__mro__ if "__init__" in vars(base)
    )
    return cls(*args, **options, **({"rngs": nn_rngs()} if takes_rngs else {}))


def nn_rngs():
    from flax import nnx

    return nnx.Rngs(0)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # torch about the speed of 'same' padding with even windows
@pytest.mark.parametrize(("info", "case", "training"), cases())
def test_case(info, case, training):
    name = name_of(info)
    ours = ours_like(name, case)
    torch.manual_seed(0)
    theirs = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs).train(training)
    load(ours, theirs)
    _ = ours.train() if training else ours.eval()
    assert len(case.forward_input.args) == 1, "a layer of one input"
    x = case.forward_input.args[0].detach().clone()
    differentiable = x.is_floating_point()
    axis = channel_axis(name, x)

    want = theirs(x.requires_grad_(differentiable))
    cotangent = torch.randn_like(want)
    params, run = functional(ours)
    # Up to some thousand float32 products are summed in another order; the worst case seen is 6e-6.
    close = {"rtol": 1e-5, "atol": 2e-5}
    if not differentiable:
        np.testing.assert_allclose(ours(x.numpy()), want.detach(), **close)
        return
    if want.requires_grad:
        want.backward(cotangent)
    y, dx, dparams = jax.jit(run)(params, turn(x.detach(), axis), turn(cotangent, axis))
    np.testing.assert_allclose(y, turn(want.detach(), axis), **close)
    np.testing.assert_allclose(dx, turn(x.grad, axis), **close)
    for parameter, (attribute, _) in parameter_map(theirs).items():
        gradient = getattr(theirs, parameter).grad.numpy()
        gradient = np.moveaxis(gradient, (0, 1), (-1, -2)) if attribute == "kernel" else gradient
        np.testing.assert_allclose(dparams[attribute][...], gradient, **close)


def test_every_layer_of_the_database_is_here_or_named():
    names = {name_of(info) for info in module_db}
    missing = {name for name in names if not hasattr(nn, name) and not name.endswith("Loss")}
    assert missing == names & set(SKIPPED_MODULES)
    assert set(SKIPPED_MODULES) <= names
    assert len(list(itertools.islice(cases(), 200))) == 200
