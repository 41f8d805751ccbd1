"""Torch's own database of module cases, for the layers we have; what is left out is named with
a reason.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.testing._internal.common_modules import module_db

from dlwp_jax import nn
from tests.nn_parity import load, parameter_map, takes_rngs

RECURRENT = "recurrent layers are refused by name"
LAZY = "Flax layers are given their sizes"
NOT_OURS = "not among the layers of this library"
# Everything of the database that is left out: modules, options of single cases, inputs. Losses
# are in test_losses.py.
EXCEPTIONS = {
    **dict.fromkeys(["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"], RECURRENT),
    **dict.fromkeys(
        [f"LazyConv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)], LAZY
    ),
    **dict.fromkeys(
        ["FractionalMaxPool2d", "FractionalMaxPool3d"],
        "draws its windows from torch's generator",
    ),
    **dict.fromkeys(["Bilinear", "LocalResponseNorm"], NOT_OURS),
    "option return_indices": "max pooling returns values only",
    "option max_norm": "renormalises the table in place while reading it",
    "option device": "arrays are put on a device by JAX's own means",
    "option dtype": "always float32 here",
    "scalar to Softmax": "a scalar has no axis",
    "scalar to LogSoftmax": "a scalar has no axis",
    "scalar to Softmin": "a scalar has no axis",
    "scalar to PReLU": "a scalar has no axis",
}
# Layers of several inputs and masks: tests/test_nn_attention.py.
ATTENTION = {"MultiheadAttention", "Transformer", "TransformerDecoderLayer"}
ATTENTION |= {"TransformerEncoder", "TransformerEncoderLayer"}
# Float32 sums of up to some thousand products in another order; the worst case seen is 6e-6 of
# values of about 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
# Layers that treat every axis alike, or the last one: their inputs need no turning over.
ANY_LAYOUT = {
    "Linear",
    "Embedding",
    "LayerNorm",
    "RMSNorm",
    "Softmax",
    "LogSoftmax",
    "Softmin",
    "GLU",
    "SELU",
    "CELU",
}
ANY_LAYOUT |= {
    "ELU",
    "GELU",
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "SiLU",
    "Mish",
    "Sigmoid",
    "LogSigmoid",
    "Tanh",
}
ANY_LAYOUT |= {
    "Hardshrink",
    "Hardswish",
    "Hardtanh",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanhshrink",
    "Threshold",
}


def name_of(info):
    return info.name.removeprefix("nn.")


def takes_part(info):
    left_out = {*EXCEPTIONS, *ATTENTION}
    return name_of(info) not in left_out and not info.name.endswith("Loss")


def channel_axis(name, x):
    """Where torch has the channels of an input: 1, or 0 without a batch axis; None where axes
    are alike.
    """
    if name in ANY_LAYOUT:
        return None
    if name[-1] == "d" and name[-2].isdigit() and not name.startswith("BatchNorm"):
        return 1 if x.ndim == int(name[-2]) + 2 else 0
    return 1 if x.ndim > 1 else 0


def turn(array, axis):
    return np.asarray(array) if axis is None else np.moveaxis(np.asarray(array), axis, -1)


def inputs_of(case):
    return [*case.forward_input.args, *case.forward_input.kwargs.values()]


def refused(name, case) -> str | None:
    """Why this case is left out, if it is."""
    found = [
        f"option {name}"
        for name in ("return_indices", "max_norm")
        if case.constructor_input.kwargs.get(name)
    ]
    found += [f"scalar to {name}"] * any(value.ndim == 0 for value in inputs_of(case))
    return next((EXCEPTIONS[what] for what in found if what in EXCEPTIONS), None)


def pair(info, case, training):
    """Torch's layer and ours, by the case's arguments, with the same parameters."""
    args, options = case.constructor_input.args, case.constructor_input.kwargs
    torch.manual_seed(0)
    theirs = info.module_cls(*args, **options).train(training)
    cls = getattr(nn, name_of(info))
    options = {
        name: value for name, value in options.items() if f"option {name}" not in EXCEPTIONS
    }
    ours = cls(*args, **options, **({"rngs": nnx.Rngs(0)} if takes_rngs(cls) else {}))
    load(ours, theirs)
    _ = ours.train() if training else ours.eval()
    return theirs, ours


def compare(info, case, training):
    theirs, ours = pair(info, case, training)
    (x,) = (value.detach().clone() for value in inputs_of(case))
    differentiable = x.is_floating_point()
    axis = channel_axis(name_of(info), x)
    want = theirs(x.requires_grad_(differentiable))
    cotangent = torch.randn_like(want)
    want.backward(cotangent)
    graphdef, params, rest = nnx.split(ours, nnx.Param, ...)

    def step(_, x):  # output and gradients, in a loop body
        by = (params, x) if differentiable else (params,)
        y, pull = jax.vjp(
            lambda params, x=x: nnx.merge(graphdef, params, rest, copy=True)(x), *by
        )
        return None, (y, pull(jnp.asarray(turn(cotangent, axis))))

    x_here = turn(x.detach(), axis)
    _, looped = jax.jit(lambda xs: jax.lax.scan(step, None, xs))(np.stack([x_here, x_here]))
    for round in (0, 1):
        y, (dparams, *dx) = jax.tree.map(lambda value, round=round: value[round], looped)
        np.testing.assert_allclose(y, turn(want.detach(), axis), **CLOSE)
        if differentiable:
            np.testing.assert_allclose(dx[0], turn(x.grad, axis), **CLOSE)
        for parameter, (attribute, _) in parameter_map(theirs).items():
            gradient = getattr(theirs, parameter).grad.numpy()
            gradient = (
                np.moveaxis(gradient, (0, 1), (-1, -2)) if attribute == "kernel" else gradient
            )
            np.testing.assert_allclose(dparams[attribute][...], gradient, **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # torch about the speed of 'same' padding with even windows
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", [info for info in module_db if takes_part(info)], ids=name_of)
def test_cases_of(info, training):
    options = {
        "device": "cpu",
        "dtype": torch.float32,
        "requires_grad": True,
        "training": training,
    }
    compared = 0
    for i, case in enumerate(info.module_inputs_func(info, **options)):
        if refused(name_of(info), case) is None:
            print(
                f"case {i}: {case.constructor_input.args} {case.constructor_input.kwargs}"
            )  # shown on failure
            compare(info, case, training)
            compared += 1
    assert compared > 0


def test_every_layer_of_the_database_is_here_or_named():
    names = {name_of(info) for info in module_db if not info.name.endswith("Loss")}
    assert {name for name in names if not hasattr(nn, name)} == {
        name for name in EXCEPTIONS if " " not in name
    }
