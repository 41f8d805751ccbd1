"""Convolution and its transpose against torch, option by option, and what the compiler is given
in a loop.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import (
    ROUNDING,
    assert_close,
    check,
    functional,
    last,
    load,
    output_and_gradients,
    random,
)

# torch about the speed of its own 'same' padding
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel:UserWarning"
)

# (spatial size, in, out, options); the sizes are unequal so that no two axes can be mistaken
# for each other
CONVS = {
    "padding": ((7, 6), 3, 4, {"kernel_size": (3, 5), "padding": (1, 2)}),
    "stride": ((7, 6), 3, 4, {"kernel_size": 3, "stride": (2, 3), "padding": 1}),
    "stride leaves an end": ((8, 9), 3, 4, {"kernel_size": 2, "stride": (3, 4)}),
    "stride over window": ((9, 7), 2, 4, {"kernel_size": 1, "stride": 2}),
    "product": ((7, 6), 3, 16, {"kernel_size": 3, "padding": 1}),
    "product of single columns": ((6, 7), 2, 9, {"kernel_size": (4, 3), "padding": (0, 1)}),
    "product, wide window": (
        (4, 9),
        1,
        12,
        {"kernel_size": (2, 6), "padding": (3, 0), "bias": False},
    ),
    "product, 1d": ((12,), 2, 3, {"kernel_size": 4, "padding": "same"}),
    "product, 3d": ((4, 5, 6), 1, 8, {"kernel_size": (2, 3, 3), "padding": 1}),
    "two columns at once": ((5, 6), 9, 8, {"kernel_size": (2, 3), "padding": (0, 1)}),
    "four columns at once": ((5, 8), 9, 3, {"kernel_size": 3, "padding": 1}),
    "four columns at once, 1d": ((12,), 9, 4, {"kernel_size": 4, "padding": "same"}),
    "many channels": ((5, 6), 9, 20, {"kernel_size": 3, "padding": 1}),
    "dilation and stride": (
        (9, 8),
        3,
        4,
        {"kernel_size": 3, "dilation": 2, "stride": 3, "padding": 3},
    ),
    "groups": ((7, 6), 4, 6, {"kernel_size": 3, "groups": 2, "stride": 2}),
    "depthwise": ((7, 6), 4, 8, {"kernel_size": 3, "groups": 4, "padding": 1, "bias": False}),
    "same": ((7, 6), 3, 4, {"kernel_size": (3, 4), "padding": "same", "dilation": (2, 1)}),
    "padding over window": ((4, 5), 2, 3, {"kernel_size": 1, "padding": 2}),
    "reflect": ((7, 6), 3, 4, {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"}),
    "replicate": ((7, 6), 3, 4, {"kernel_size": 3, "padding": 3, "padding_mode": "replicate"}),
    "circular": (
        (7, 6),
        3,
        4,
        {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "stride": 2},
    ),
    "circular same": (
        (7, 6),
        3,
        4,
        {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
    ),
    "1d": ((11,), 3, 4, {"kernel_size": 4, "stride": 2, "padding": 1}),
    "1d dilated groups": ((11,), 4, 4, {"kernel_size": 3, "dilation": 2, "groups": 2}),
    "valid": ((7, 6), 3, 4, {"kernel_size": 3, "padding": "valid"}),
    "3d stride and dilation": (
        (7, 6, 5),
        3,
        4,
        {
            "kernel_size": (3, 2, 3),
            "stride": (2, 1, 3),
            "padding": (1, 2, 0),
            "dilation": (2, 3, 1),
        },
    ),
    "3d same, even": ((4, 5, 6), 9, 20, {"kernel_size": (2, 3, 4), "padding": "same"}),
    "3d all": (
        (7, 6, 5),
        2,
        4,
        {"kernel_size": (3, 2, 1), "stride": (2, 1, 3), "padding": (1, 0, 0), "groups": 2},
    ),
}
TRANSPOSED = {
    "plain": ((5, 4), 3, 4, {"kernel_size": 3}),
    "padding": ((5, 4), 3, 4, {"kernel_size": (3, 4), "stride": (2, 1), "padding": (1, 2)}),
    "padding over window": ((5, 4), 3, 4, {"kernel_size": 1, "stride": 2, "padding": 1}),
    "output padding": (
        (5, 4),
        3,
        4,
        {"kernel_size": 3, "stride": (2, 3), "padding": 1, "output_padding": (1, 2)},
    ),
    "output padding over stride": (
        (5, 4),
        3,
        4,
        {"kernel_size": 3, "dilation": 3, "output_padding": 2},
    ),
    "groups": ((5, 4), 4, 6, {"kernel_size": 3, "stride": 2, "groups": 2}),
    "dilation no bias": (
        (5, 4),
        3,
        4,
        {"kernel_size": 3, "dilation": (1, 2), "stride": 2, "bias": False},
    ),
    "1d": ((7,), 3, 4, {"kernel_size": 4, "stride": 3, "padding": 2, "output_padding": 1}),
    "3d output padding": (
        (3, 4, 2),
        2,
        4,
        {
            "kernel_size": (3, 2, 4),
            "stride": (3, 2, 1),
            "padding": (2, 0, 1),
            "output_padding": (2, 1, 0),
        },
    ),
    "3d groups": (
        (3, 4, 2),
        2,
        4,
        {"kernel_size": (3, 2, 1), "stride": (1, 2, 3), "groups": 2, "padding": (1, 0, 0)},
    ),
}
CASES = [("Conv", name, *case) for name, case in CONVS.items()]
CASES += [("ConvTranspose", name, *case) for name, case in TRANSPOSED.items()]


def build(kind, spatial, c_in, c_out, options):
    name = f"{kind}{len(spatial)}d"
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(c_in, c_out, **options)
    return (
        theirs,
        getattr(nn, name)(c_in, c_out, **options, rngs=nnx.Rngs(0)),
        random(2, c_in, *spatial),
    )


# Without jit the same operations run one by one, and each is compiled.
EAGER = [("Conv", "groups"), ("ConvTranspose", "output padding")]


@pytest.mark.parametrize(("kind", "name"), [case[:2] for case in CASES])
def test_output_and_gradients(kind, name):
    theirs, ours, x = build(kind, *(CONVS if kind == "Conv" else TRANSPOSED)[name])
    check(theirs, ours, x, modes=("jit", "eager") if (kind, name) in EAGER else ("jit",))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_depths_are_summed_before_they_are_rounded(dtype):
    x = jnp.asarray([60000, 60000, -60000], dtype).reshape(
        1, 3, 1, 1, 1
    )  # two of them are infinite in float16
    assert nn.conv(x, jnp.ones((3, 1, 1, 1, 1), dtype)).item() == x[0, 0].item()


@pytest.mark.parametrize(("n", "depth", "height"), [(0, 3, 3), (2, 3, 0), (2, 0, 3)])
def test_volumes_of_nothing(n, depth, height):
    @jax.jit
    def output_and_gradients(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: nn.conv(x, kernel, padding=2), x, kernel)
        return y, pull(y)

    x, kernel = jnp.ones((n, depth, height, 4, 1)), jnp.ones((3, 3, 3, 1, 4))
    y, gradients = output_and_gradients(x, kernel)
    assert y.shape == (n, depth + 2, height + 2, 6, 4)
    for gradient, primal in zip(gradients, (x, kernel), strict=True):
        assert gradient.shape == primal.shape
        assert not gradient.any()


def test_xla_does_not_abort_over_two_taps_of_stride_two(monkeypatch):
    monkeypatch.setenv("DLWP_NATIVE", "0")
    options = {"kernel_size": (3, 2), "stride": 2, "padding": (0, 1)}
    theirs, ours, x = build("Conv", (6, 8), 3, 4, options)
    check(theirs, ours, x, modes=("jit",))


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_one_example_without_a_batch_axis(kind):
    _, ours, x = build(kind, (5, 4), 3, 4, {"kernel_size": 3})
    x = jnp.asarray(last(x))
    assert_close(ours(x[0]), ours(x)[0])


# One case for each form that a convolution takes on the CPU.
IN_SCAN = [
    ("Conv", "dilation and stride"),
    ("Conv", "groups"),
    ("Conv", "product"),
    ("Conv", "many channels"),
    ("Conv", "3d stride and dilation"),
    ("ConvTranspose", "output padding"),
]


@pytest.mark.parametrize(("kind", "name"), IN_SCAN)
def test_gradients_inside_scan(kind, name):
    theirs, ours, x = build(kind, *(CONVS if kind == "Conv" else TRANSPOSED)[name])
    load(ours, theirs)
    _, dx, dparams, cotangent = output_and_gradients(theirs, x)
    params, run = functional(ours)

    @jax.jit
    def loop(params, xs, cotangent):
        return jax.lax.scan(lambda c, x: (c, run(params, x, cotangent)), None, xs)[1]

    _, ours_dx, ours_dparams = loop(
        params, jnp.asarray(np.stack([last(x), 2 * last(x)])), jnp.asarray(last(cotangent))
    )
    assert_close(ours_dx[0], last(dx))
    for i in (
        0,
        1,
    ):  # the kernel's gradient is linear in x: the second step gives twice the first
        assert_close(ours_dparams["kernel"][...][i], (1 + i) * dparams["kernel"])


def loop_text(layer, platform):
    """The program of a gradient inside a loop, as it is handed to the compiler of a
    platform.
    """
    params, run = functional(layer)
    x, cotangent = jnp.ones((2, 6, 6, 4)), jax.eval_shape(layer, jnp.ones((2, 6, 6, 4)))

    def loop(params, xs):
        return jax.lax.scan(
            lambda c, x: (c, run(params, x, jnp.ones(cotangent.shape))), None, xs
        )[1]

    return jax.jit(loop).trace(params, x[None]).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_cpu_gets_the_fast_layout_everywhere_and_other_platforms_get_what_jax_derives(
    layer, groups, monkeypatch
):
    monkeypatch.setenv("DLWP_NATIVE", "0")
    layer = layer(4, 4, 3, stride=2, padding=1, groups=groups, rngs=nnx.Rngs(0))
    layouts = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", loop_text(layer, "cpu"))
    assert len(layouts) >= 3
    assert set(layouts) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert "optimization_barrier" in loop_text(layer, "cpu")
    assert "optimization_barrier" not in loop_text(layer, "cuda")
    assert set(
        re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", loop_text(layer, "cuda"))
    ) != set(layouts)


def test_pictures_are_multiplied_on_the_cpu_and_convolved_elsewhere(monkeypatch):
    monkeypatch.setenv("DLWP_NATIVE", "0")
    layer = nn.Conv2d(3, 16, 3, padding=1, rngs=nnx.Rngs(0))
    x, params = jnp.ones((2, 6, 6, 3)), nnx.state(layer)

    def gradient(params, x):
        return jax.grad(lambda params: nnx.merge(nnx.graphdef(layer), params)(x).sum())(params)

    def text(platform):
        return (
            jax.jit(gradient).trace(params, x).lower(lowering_platforms=(platform,)).as_text()
        )

    assert "dot_general" in text("cpu")
    assert "convolution" not in text("cpu")
    assert "dot_general" not in text("cuda")
    assert "convolution" in text("cuda")


@pytest.mark.parametrize("shape", [(0, 6, 6, 3), (0, 6, 5, 3)])
def test_nothing_in_nothing_out(shape):
    layer = nn.Conv2d(3, 16, 3, padding=1, rngs=nnx.Rngs(0))

    @jax.jit
    def output_and_gradient(x):
        y, pull = jax.vjp(layer, x)
        return y, *pull(y)

    y, gradient = output_and_gradient(jnp.ones(shape))
    assert y.shape == (*shape[:-1], 16)
    assert gradient.shape == shape


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_second_derivatives_and_vmap(kind):
    theirs, ours, x = build(
        kind, (4, 5), 2, 4, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}
    )
    load(ours, theirs)
    weight = theirs.weight.detach().clone().requires_grad_()
    function = (
        torch.nn.functional.conv2d if kind == "Conv" else torch.nn.functional.conv_transpose2d
    )

    def f(w):
        return (function(torch.tensor(x), w, None, 2, 1, groups=2) ** 3).sum()

    vector = random(*weight.shape, seed=3)
    (gradient,) = torch.autograd.grad(f(weight), weight, create_graph=True)
    (product,) = torch.autograd.grad((gradient * torch.tensor(vector)).sum(), weight)
    ours_f = nn.conv if kind == "Conv" else nn.conv_transpose

    def g(w, x):
        return (ours_f(x, w, None, 2, 1, groups=2) ** 3).sum()

    kernel, x, vector = (
        ours.kernel[...],
        jnp.asarray(last(x)),
        np.moveaxis(vector, (0, 1), (-1, -2)),
    )
    ours_product = jax.jit(jax.grad(lambda w: (jax.grad(g)(w, x) * vector).sum()))(kernel)
    assert_close(
        ours_product, np.moveaxis(product.numpy(), (0, 1), (-1, -2)), 1e-5
    )  # two roundings deep
    both = jax.jit(jax.vmap(jax.grad(g), (0, None)))(jnp.stack([kernel, 2 * kernel]), x)
    assert_close(both[1], jax.jit(jax.grad(g))(2 * kernel, x), 1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_forward_mode_hessians_and_gradient_penalties(kind, groups):
    _, ours, x = build(
        kind, (4, 5), 2, 4, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": groups}
    )
    theirs = (
        torch.nn.functional.conv2d if kind == "Conv" else torch.nn.functional.conv_transpose2d
    )
    kernel, function = ours.kernel[...], nn.conv if kind == "Conv" else nn.conv_transpose
    weight = torch.tensor(np.moveaxis(np.asarray(kernel), (-1, -2), (0, 1)))

    def f(x, w):
        return (function(x, w, None, 2, 1, groups=groups) ** 3).sum()

    def torch_f(x, w):
        return (theirs(x, w, None, 2, 1, groups=groups) ** 3).sum()

    def turned(hessian):  # [kernel, kernel] in torch's layout to ours
        return np.moveaxis(np.asarray(hessian), (0, 1, 4, 5), (3, 2, 7, 6))

    images = jnp.asarray(last(x))
    referee, given = torch.autograd.functional, torch.tensor(x, requires_grad=True)
    slope = referee.jvp(torch_f, (given, weight), (2 * given, 3 * weight))[1]

    @jax.jit
    def derivatives(x, w):
        penalty = jax.grad(lambda w: (jax.grad(f)(x, w) ** 2).sum())(w)
        return jax.jvp(f, (x, w), (2 * x, 3 * w))[1], jax.hessian(f, 1)(x, w), penalty

    ours_slope, ours_hessian, ours_penalty = derivatives(images, kernel)
    assert_close(ours_slope, slope.detach().numpy(), 1e-5)
    hessian = referee.hessian(lambda w: torch_f(given, w), weight)
    assert_close(ours_hessian, turned(hessian.numpy()), 1e-5)
    weight.requires_grad_()
    (slope,) = torch.autograd.grad(torch_f(given, weight), given, create_graph=True)
    (penalty,) = torch.autograd.grad((slope**2).sum(), weight)
    assert_close(ours_penalty, np.moveaxis(penalty.numpy(), (0, 1), (-1, -2)), 1e-5)


def test_output_size_of_transposed_convolution():
    theirs, ours, x = build("ConvTranspose", (5, 4), 3, 4, {"kernel_size": 3, "stride": 3})
    load(ours, theirs)
    for size in ((15, 14), (17, 12)):
        want = theirs(torch.tensor(x), output_size=size).detach().numpy()
        assert_close(ours(jnp.asarray(last(x)), output_size=size), last(want))
    with pytest.raises(
        ValueError, match=r"output_size=\(18, 12\) must lie between \(15, 12\) and \(17, 14\)"
    ):
        ours(jnp.asarray(last(x)), output_size=(18, 12))


def test_conv_reads_its_axes_from_the_window():
    assert nn.Conv(3, 4, (3,), rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3))).shape == (2, 3, 4)
    assert nn.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))(jnp.ones((2, 5, 5, 3))).shape == (2, 3, 3, 4)
    with pytest.raises(ValueError, match="counts the spatial axes of kernel_size"):
        nn.Conv(3, 4, 3, rngs=nnx.Rngs(0))


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    layer = nn.Conv2d(3, 4, 3, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    y, pull = jax.vjp(layer, jnp.ones((2, 5, 5, 3), jnp.bfloat16))
    assert y.dtype == pull(y)[0].dtype == jnp.bfloat16
    assert layer.kernel[...].dtype == jnp.float32


ERRORS = [
    (
        lambda: nn.Conv2d(3, 4, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 3, 8, 8))),
        RuntimeError,
        "channels first: turn it over",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, rngs=nnx.Rngs(0))(jnp.ones((8, 8))),
        RuntimeError,
        r"takes \[N H W C\]",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 3), int)),
        RuntimeError,
        "floating input",
    ),
    (
        lambda: nn.Conv2d(3, 4, 9, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 3))),
        RuntimeError,
        "reaches over the padded",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, groups=2, rngs=nnx.Rngs(0)),
        ValueError,
        "groups=2 must divide in_channels=3",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, 2, "same", rngs=nnx.Rngs(0)),
        ValueError,
        "padding='same' needs stride 1",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, padding="full", rngs=nnx.Rngs(0)),
        ValueError,
        "padding='full' is unknown",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, padding=-1, rngs=nnx.Rngs(0)),
        ValueError,
        "must not be negative",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror", rngs=nnx.Rngs(0)),
        ValueError,
        "padding_mode='mirror'",
    ),
    (
        lambda: nn.Conv2d(3, 4, (3, 3, 3), rngs=nnx.Rngs(0)),
        ValueError,
        "has 3 entries; 2 spatial axes",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3, stride=0, rngs=nnx.Rngs(0)),
        ValueError,
        "stride=0 must be positive",
    ),
    (
        lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1, rngs=nnx.Rngs(0))(
            jnp.ones((1, 4, 4, 3))
        ),
        RuntimeError,
        "less than",
    ),
    (
        lambda: nn.ConvTranspose2d(3, 4, 3, padding=9, rngs=nnx.Rngs(0))(
            jnp.ones((1, 4, 4, 3))
        ),
        RuntimeError,
        "leaves nothing",
    ),
]


@pytest.mark.parametrize(("make", "error", "match"), ERRORS, ids=[case[2] for case in ERRORS])
def test_wrong_use(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_the_tolerance_would_catch_a_wrong_channel():
    theirs, ours, x = build("Conv", (5, 5), 3, 4, {"kernel_size": 3})
    load(ours, theirs)
    ours.kernel[...] = ours.kernel[...].at[0, 0, 0, 0].add(100 * ROUNDING)
    with pytest.raises(AssertionError):
        assert_close(ours(jnp.asarray(last(x))), last(theirs(torch.tensor(x)).detach().numpy()))
