"""How a layer is compared with torch's: the same parameters and input, then output and every
gradient, twice.

Once eager, once under jit. Arrays turn over from N C ... to N ... C on the way in and back on
the way out.
"""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

# Sums of up to a few hundred float32 products in another order: errors of some 1e-6 of the
# largest value.
ROUNDING = 3e-6


def last(array):
    """Channels first to channels last, `[N C ...]` (rows `[N C]` stay)."""
    return np.moveaxis(np.asarray(array), 1, -1)


def unchanged(array):
    """For layers that have no channels."""
    return np.asarray(array)


def takes_rngs(cls) -> bool:
    """Whether a layer is built with `rngs=`."""
    return "rngs" in inspect.signature(cls.__init__).parameters


def random(*shape, seed=0):
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pairwise(cases):
    """As few of the cases of torch's database of modules as show every two values of options
    together that occur together in some case; what kinds of inputs there are is an option too.
    A case with less than two of these is never among them.
    """
    cases = list(cases)

    def shows(case):
        made, given = case.constructor_input, case.forward_input
        options = dict(enumerate(made.args)) | made.kwargs
        for key, value in (*enumerate(given.args), *given.kwargs.items()):
            options["input", key] = getattr(value, "shape", type(value))
        options = [(str(key), str(value)) for key, value in options.items()]
        return set(itertools.combinations(options, 2))

    shown = [shows(case) for case in cases]
    chosen, missing = [], set().union(*shown)
    while missing:
        most = max(range(len(cases)), key=lambda i: len(shown[i] & missing))
        missing -= shown[most]
        chosen.append(most)
    return [cases[i] for i in sorted(chosen)]


def parameter_map(module: torch.nn.Module):
    """For each parameter of a torch layer: its attribute here, and the array in our layout."""
    kernels = (torch.nn.Linear, torch.nn.Bilinear, torch.nn.modules.conv._ConvNd)
    weight = "kernel" if isinstance(module, kernels) else "scale"
    weight = {torch.nn.Embedding: "embedding", torch.nn.PReLU: "weight"}.get(
        type(module), weight
    )

    def ours(name, value):
        value = value.detach().numpy()
        if name == "weight" and isinstance(module, kernels):
            return weight, np.moveaxis(value, (0, 1), (-1, -2))
        return (weight if name == "weight" else name), value

    return {name: ours(name, value) for name, value in module.named_parameters(recurse=False)}


def load(module: nnx.Module, torch_module: torch.nn.Module):
    """Give our layer the parameters and running moments of torch's."""
    for attribute, value in parameter_map(torch_module).values():
        assert getattr(module, attribute)[...].shape == value.shape
        getattr(module, attribute)[...] = jnp.asarray(value)
    for name, buffer in torch_module.named_buffers():
        statistic = getattr(module, name.removeprefix("running_"))
        statistic[...] = jnp.asarray(buffer.detach().numpy().astype(statistic[...].dtype))


def assert_close(ours, theirs, tolerance=ROUNDING, what=""):
    """Equal up to `tolerance` of the largest value (and of 1)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
    scale = max(1.0, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=what)


def output_and_gradients(torch_module, x, cotangent=None):
    """Torch's output, its gradient by the input, and those by the parameters in our names and
    layout.
    """
    x = torch.tensor(x, requires_grad=True)
    torch_module.zero_grad()
    y = torch_module(x)
    cotangent = torch.tensor(random(*y.shape, seed=1) if cotangent is None else cotangent)
    y.backward(cotangent)
    gradients = {}
    for name, parameter in torch_module.named_parameters(recurse=False):
        attribute, _ = parameter_map(torch_module)[name]
        value = parameter.grad.numpy()
        gradients[attribute] = (
            np.moveaxis(value, (0, 1), (-1, -2)) if attribute == "kernel" else value
        )
    return y.detach().numpy(), x.grad.numpy(), gradients, cotangent.numpy()


def functional(module: nnx.Module):
    """A layer as `f(params, x, cotangent) -> (y, dx, dparams)`, pure."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def run(params, x, cotangent):
        y, pull = jax.vjp(
            lambda params, x: nnx.merge(graphdef, params, rest, copy=True)(x), params, x
        )
        return (y, *pull(cotangent)[::-1])

    return params, run


def check(torch_module, module, x, *, turn=last, tolerance=ROUNDING, modes=("eager", "jit")):
    """Output, input gradient and parameter gradients of both, for a channels-first `x`."""
    load(module, torch_module)
    y, dx, dparams, cotangent = output_and_gradients(torch_module, x)
    params, run = functional(module)
    for mode in modes:
        compare = run if mode == "eager" else jax.jit(run)
        ours = compare(params, jnp.asarray(turn(x)), jnp.asarray(turn(cotangent)))
        assert_close(ours[0], turn(y), tolerance, f"{mode} output")
        assert_close(ours[1], turn(dx), tolerance, f"{mode} input gradient")
        flat = {path[-1]: value[...] for path, value in nnx.to_flat_state(ours[2])}
        assert flat.keys() == dparams.keys()
        for name, gradient in dparams.items():
            assert_close(flat[name], gradient, tolerance, f"{mode} gradient of {name}")
