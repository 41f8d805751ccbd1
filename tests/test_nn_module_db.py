"""Torch's own database of module cases, for the layers we have; what is left out is named with
a reason.
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.utils import rnn as packing
from torch.testing._internal.common_modules import module_db

from dlwp_jax import nn
from tests.nn_parity import load, pairwise, parameter_map, takes_rngs

LAZY = "Flax layers are given their sizes"
# Everything of the database that is left out: modules, options of single cases, inputs. Losses
# are in test_losses.py.
EXCEPTIONS = {
    **dict.fromkeys(
        [f"LazyConv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)], LAZY
    ),
    "option return_indices": "places are compared in tests/test_nn_rest.py",
    "option max_norm": "renormalises the table in place while reading it",
    "option device": "arrays are put on a device by JAX's own means",
    "option dtype": "always float32 here",
    "scalar to Softmax": "a scalar has no axis",
    "scalar to LogSoftmax": "a scalar has no axis",
    "scalar to Softmin": "a scalar has no axis",
    "scalar to PReLU": "a scalar has no axis",
}
DRAWN = ("FractionalMaxPool2d", "FractionalMaxPool3d")  # windows from torch's generator
# Layers of several inputs and masks: tests/test_nn_attention.py.
ATTENTION = {"MultiheadAttention", "Transformer", "TransformerDecoderLayer"}
ATTENTION |= {"TransformerEncoder", "TransformerEncoderLayer"}
# Layers of many options, of which the database has every combination; each is compared with
# each option in float64 in tests/test_nn_recurrent.py. In eval mode only the dropout between
# their layers is off, which the database leaves out, and those tests compare (LSTM's).
RECURRENT = {"RNN", "GRU", "LSTM"}
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
ANY_LAYOUT |= {"Bilinear", "RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"}


def name_of(info):
    return info.name.removeprefix("nn.")


def takes_part(info):
    name = name_of(info)
    left_out = {*EXCEPTIONS, *ATTENTION, *DRAWN}
    return name not in left_out and not name.endswith("Loss")


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
    found += [f"scalar to {name}"] * any(
        isinstance(value, torch.Tensor) and value.ndim == 0 for value in inputs_of(case)
    )
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
    first, *others = copied(inputs_of(case))
    x, lengths = first, {}
    if isinstance(first, packing.PackedSequence):
        x, lengths = packing.pad_packed_sequence(first, theirs.batch_first)
        x, lengths = x.detach(), {"lengths": lengths.numpy()}
    axis = channel_axis(name_of(info), x)
    given = jax.tree.map(lambda x: x.requires_grad_(x.is_floating_point()), (x, *others))
    if lengths:
        packed = packing.pack_padded_sequence(given[0], lengths["lengths"], theirs.batch_first)
        y, *rest = theirs(packed, *given[1:])
        want = [packing.pad_packed_sequence(y, theirs.batch_first)[0], *jax.tree.leaves(rest)]
    else:
        want = jax.tree.leaves(theirs(*given))
    cotangents = [torch.randn_like(value) for value in want]
    torch.autograd.backward(want, cotangents)
    differentiable = [x for x in jax.tree.leaves(given) if x.requires_grad]
    graphdef, params, rest = nnx.split(ours, nnx.Param, ...)
    tree = jax.tree.structure(given)

    def step(_, xs):  # outputs and gradients, in a loop body
        def outputs(params, *xs):
            layer = nnx.merge(graphdef, params, rest, copy=True)
            return jax.tree.leaves(layer(*jax.tree.unflatten(tree, xs), **lengths))

        if differentiable:
            y, pull = jax.vjp(outputs, params, *xs)
        else:
            y, pull = jax.vjp(lambda params: outputs(params, *xs), params)
        return None, (y, pull([turn(c, axis) for c in cotangents]))

    xs = [turn(x.detach(), axis) for x in jax.tree.leaves(given)]
    twice = [np.stack([x, x]) for x in xs]
    looped = jax.device_get(jax.jit(lambda xs: jax.lax.scan(step, None, xs))(twice)[1])
    for round in (0, 1):
        ys, (dparams, *dx) = jax.tree.map(lambda value, round=round: value[round], looped)
        for y, value in zip(ys, want, strict=True):
            np.testing.assert_allclose(y, turn(value.detach(), axis), **CLOSE)
        for gradient, x in zip(dx, differentiable, strict=True):
            np.testing.assert_allclose(gradient, turn(x.grad, axis), **CLOSE)
        for parameter, (attribute, _) in parameter_map(theirs).items():
            gradient = getattr(theirs, parameter).grad.numpy()
            gradient = (
                np.moveaxis(gradient, (0, 1), (-1, -2)) if attribute == "kernel" else gradient
            )
            # Torch's own float32 is 2e-7 of the largest entry away from its float64.
            atol = max(CLOSE["atol"], 1e-6 * np.abs(gradient).max(initial=0))
            np.testing.assert_allclose(dparams[attribute][...], gradient, 1e-5, atol)


def copied(inputs):
    """The inputs of a case, cut from its graph."""
    if isinstance(inputs, torch.Tensor):
        return inputs.detach().clone()
    whole = not isinstance(inputs, list | tuple) or isinstance(inputs, packing.PackedSequence)
    return inputs if whole else type(inputs)(map(copied, inputs))


def cases_of_layers():
    """Each layer in train mode, and in eval mode too if torch says that they differ (but for
    RECURRENT). That ours differ in no other layer is seen in tests/test_nn_basics.py.
    """
    for info in filter(takes_part, module_db):
        yield pytest.param(info, True, id=f"{name_of(info)}-train")
        if info.train_and_eval_differ and name_of(info) not in RECURRENT:
            yield pytest.param(info, False, id=f"{name_of(info)}-eval")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # torch about the speed of 'same' padding with even windows
@pytest.mark.parametrize(("info", "training"), list(cases_of_layers()))
def test_cases_of(info, training):
    options = {
        "device": "cpu",
        "dtype": torch.float32,
        "requires_grad": True,
        "training": training,
    }
    compared = 0
    cases = info.module_inputs_func(info, **options)
    if name_of(info) in RECURRENT:
        cases = pairwise(cases)
    for i, case in enumerate(cases):
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
