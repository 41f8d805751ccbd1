"""Pooling against torch, option by option, ties and NaN included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dlwp_jax import nn
from tests.nn_parity import assert_close, check, last, random

POOLS = {
    "max": ("MaxPool", (6, 8), {"kernel_size": 2}),
    "max leaves an end": ("MaxPool", (7, 9), {"kernel_size": (2, 3)}),
    "max gaps": ("MaxPool", (9, 8), {"kernel_size": 2, "stride": 3}),
    "max overlap": ("MaxPool", (7, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "max overlap all": (
        "MaxPool",
        (7, 9),
        {"kernel_size": (3, 2), "stride": 1, "padding": (1, 0)},
    ),
    "max dilation": (
        "MaxPool",
        (9, 10),
        {"kernel_size": (2, 3), "dilation": (3, 2), "stride": 2, "padding": 1},
    ),
    "max ceil": ("MaxPool", (7, 8), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "max ceil padding": (
        "MaxPool",
        (6, 5),
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    ),
    "max 1d": ("MaxPool", (9,), {"kernel_size": 4, "stride": 2, "padding": 2}),
    "max 3d": ("MaxPool", (5, 6, 4), {"kernel_size": 2}),
    "max 3d overlap": (
        "MaxPool",
        (5, 6, 4),
        {"kernel_size": 3, "stride": (2, 1, 2), "padding": 1, "ceil_mode": True},
    ),
    "avg": ("AvgPool", (6, 8), {"kernel_size": 2}),
    "avg leaves an end": ("AvgPool", (7, 9), {"kernel_size": (2, 3)}),
    "avg overlap": ("AvgPool", (7, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "avg not pad": (
        "AvgPool",
        (7, 9),
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    ),
    "avg ceil": (
        "AvgPool",
        (6, 5),
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    ),
    "avg ceil not pad": (
        "AvgPool",
        (6, 5),
        {
            "kernel_size": 2,
            "stride": 3,
            "padding": 1,
            "ceil_mode": True,
            "count_include_pad": False,
        },
    ),
    "avg divisor": ("AvgPool", (6, 8), {"kernel_size": 2, "padding": 1, "divisor_override": 3}),
    "avg 1d": ("AvgPool", (9,), {"kernel_size": 4, "stride": 3, "padding": 2}),
    "avg 3d": (
        "AvgPool",
        (5, 6, 4),
        {"kernel_size": 2, "stride": (2, 1, 3), "padding": 1, "ceil_mode": True},
    ),
    "lp": ("LPPool", (6, 8), {"norm_type": 2, "kernel_size": 2}),
    "lp ceil": ("LPPool", (7,), {"norm_type": 4, "kernel_size": 3, "ceil_mode": True}),
    "lp infinite": ("LPPool", (6, 8), {"norm_type": float("inf"), "kernel_size": 2}),
    "adaptive avg": ("AdaptiveAvgPool", (7, 9), {"output_size": (3, 4)}),
    "adaptive avg divides": ("AdaptiveAvgPool", (6, 8), {"output_size": (1, 4)}),
    "adaptive avg grows": ("AdaptiveAvgPool", (3, 4), {"output_size": (5, None)}),
    "adaptive avg 1d": ("AdaptiveAvgPool", (7,), {"output_size": 3}),
    "adaptive avg 3d": ("AdaptiveAvgPool", (5, 4, 6), {"output_size": (2, 3, 4)}),
    "adaptive max": ("AdaptiveMaxPool", (7, 9), {"output_size": (3, 4)}),
    "adaptive max divides": ("AdaptiveMaxPool", (6, 8), {"output_size": (1, 4)}),
    "adaptive max grows": ("AdaptiveMaxPool", (3, 4), {"output_size": (5, None)}),
    "adaptive max 1d": ("AdaptiveMaxPool", (7,), {"output_size": 3}),
    "adaptive max 3d": ("AdaptiveMaxPool", (5, 4, 6), {"output_size": (2, 3, 4)}),
}


EAGER = ["max", "avg overlap"]


def build(name):
    kind, spatial, options = POOLS[name]
    layer = f"{kind}{len(spatial)}d"
    return getattr(torch.nn, layer)(**options), getattr(nn, layer)(**options), spatial


@pytest.mark.parametrize("name", POOLS)
def test_output_and_gradient(name):
    theirs, ours, spatial = build(name)
    # positive for LPPool, whose root has no gradient below 0
    x = np.abs(random(2, 3, *spatial)) if "lp" in name else random(2, 3, *spatial)
    # A maximum is selected, and a gradient added up from few terms: only sums of overlaps are
    # rounded.
    check(
        theirs, ours, x, tolerance=1e-6, modes=("jit", "eager") if name in EAGER else ("jit",)
    )


@pytest.mark.parametrize("name", [name for name in POOLS if "max" in name])
def test_ties_give_their_gradient_to_the_first_place(name):
    theirs, ours, spatial = build(name)
    # as 8-bit images have them
    x = np.random.default_rng(0).integers(0, 3, (2, 2, *spatial)).astype(np.float32)
    check(theirs, ours, x, tolerance=1e-6, modes=("jit",))


@pytest.mark.parametrize("name", ["max", "max overlap", "max 3d overlap", "adaptive max"])
def test_nan_wins(name):
    theirs, ours, spatial = build(name)
    x = random(2, 2, *spatial)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    check(theirs, ours, x, tolerance=1e-6, modes=("jit",))


@pytest.mark.parametrize("name", ["max", "max overlap", "avg overlap"])
def test_inside_scan(name):
    _, ours, spatial = build(name)
    x = jnp.asarray(last(random(2, 3, *spatial)))
    gradient = jax.grad(lambda x: (ours(x) ** 2).sum())
    in_scan = jax.jit(lambda xs: jax.lax.scan(lambda c, x: (c, gradient(x)), None, xs)[1])(
        jnp.stack([x, -x])
    )
    for i, one in enumerate((x, -x)):
        assert_close(in_scan[i], jax.jit(gradient)(one), 1e-6)


def test_integers_are_pooled_too():
    x = jnp.arange(-8, 8).reshape(1, 4, 4, 1)
    assert nn.max_pool(x, 3, 2, 1)[0, :, :, 0].tolist() == [[-3, -1], [5, 7]]


LARGE = [
    {"kernel_size": 140, "stride": 140},  # the place in the window does not fit into int8
    {"kernel_size": 140, "stride": 10},
    {"kernel_size": 11, "stride": 13, "padding": 5, "ceil_mode": True},
    {"kernel_size": 9, "stride": 3, "dilation": 4, "padding": 4},
]


@pytest.mark.parametrize("options", LARGE, ids=str)
@pytest.mark.parametrize("kind", ["ties", "NaN"])
def test_large_windows_of_ties_and_nan(options, kind):
    x = np.random.default_rng(0).integers(0, 3, (2, 2, 300)).astype(np.float32)
    if kind == "NaN":
        x[np.random.default_rng(1).random(x.shape) < 0.03] = np.nan
    check(
        torch.nn.MaxPool1d(**options),
        nn.MaxPool1d(**options),
        x,
        tolerance=1e-6,
        modes=("jit",),
    )


@pytest.mark.parametrize("stride", [1, 50, 100])
def test_the_program_does_not_grow_with_the_window(stride):
    """Neither forwards nor backwards; it did, and a window of 100 compiled for 45 s."""

    def length(window):
        x = jax.ShapeDtypeStruct((1, 1000, 1), jnp.float32)
        gradient = jax.grad(lambda x: nn.max_pool(x, window, stride).sum())
        return len(jax.jit(gradient).lower(x).as_text())

    assert length(100) < 2.5 * length(10)


def test_the_pooling_of_other_platforms(monkeypatch):
    """Their program is XLA's own; run here, it gives torch's numbers too, ties included."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = np.random.default_rng(0).integers(0, 3, (2, 2, 7, 8)).astype(np.float32)
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    theirs, ours = torch.nn.MaxPool2d(**options), nn.MaxPool2d(**options)
    check(theirs, ours, x, tolerance=1e-6, modes=("jit",))
    program = jax.jit(jax.grad(lambda x: ours(x).sum())).lower(jnp.asarray(last(x)))
    assert "select_and_scatter" in program.as_text()


ERRORS = [
    (lambda x: nn.MaxPool2d(2, padding=2)(x), RuntimeError, "between 0 and half of the window"),
    (lambda x: nn.MaxPool2d(9)(x), RuntimeError, "does not fit"),
    (lambda x: nn.MaxPool3d(2)(x[0]), RuntimeError, r"MaxPool3d takes \[N D H W C\]"),
    (lambda x: nn.MaxPool2d(0), ValueError, "must be positive"),
    (lambda x: nn.max_pool(x, (2, 2, 2, 2)), RuntimeError, "1 to 3 spatial axes"),
    (lambda x: nn.avg_pool(x, 2, divisor_override=0), ValueError, "must not be zero"),
    (lambda x: nn.AdaptiveAvgPool2d((1, 2, 3)), ValueError, "positive int, or 2 of them"),
    (lambda x: nn.AdaptiveAvgPool2d(0), ValueError, "positive int, or 2 of them"),
]


@pytest.mark.parametrize(("use", "error", "match"), ERRORS, ids=[case[2] for case in ERRORS])
def test_wrong_use(use, error, match):
    with pytest.raises(error, match=match):
        use(jnp.ones((2, 6, 6, 3)))


@pytest.mark.parametrize(
    "options",
    [(2, None, 0, 1), (3, 2, 1, 2), (6, None, 0, 1), (5, 1, 2, 1)],
    ids=["apart", "overlapping", "large apart", "large overlapping"],
)
def test_max_pool_in_forward_mode_and_twice(options):
    x, v = random(2, 3, 7, 8), random(2, 3, 7, 8, seed=1)

    def theirs(x):
        return (torch.nn.functional.max_pool2d(x, *options) ** 3).sum()

    def ours(x):
        return (nn.max_pool(x, *options) ** 3).sum()

    images, along = jnp.asarray(last(x)), jnp.asarray(last(v))
    want = torch.autograd.functional.hvp(theirs, torch.tensor(x), torch.tensor(v))[1]
    slope = torch.autograd.functional.jvp(theirs, torch.tensor(x), torch.tensor(v))[1]

    @jax.jit
    def derivatives(x, along):
        forward = jax.jvp(ours, (x,), (along,))[1]
        forward_over_reverse = jax.jvp(jax.grad(ours), (x,), (along,))[1]
        twice_reverse = jax.grad(lambda x: (jax.grad(ours)(x) * along).sum())(x)
        return forward, forward_over_reverse, twice_reverse

    forward, forward_over_reverse, twice_reverse = derivatives(images, along)
    assert_close(forward, slope.numpy())
    assert_close(forward_over_reverse, last(want.numpy()))
    assert_close(twice_reverse, last(want.numpy()))
