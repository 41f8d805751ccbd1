"""Padding, interpolation, pixel shuffling, affine grids and grid sampling against torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dlwp_jax import nn
from tests.nn_parity import assert_close, check, last, random

PADS = [
    (f"{kind}Pad{n}d", padding)
    for kind, paddings in {
        "Reflection": {1: (2, 3), 2: (1, 2, 0, 3), 3: (1, 0, 2, 1, 0, 1)},
        "Replication": {1: (6, 1), 2: 3, 3: (1, 4, 2, 0, 3, 1)},
        "Circular": {1: (5, 2), 2: (1, 4, 3, 0), 3: 2},
        "Constant": {1: (3, 0), 2: (1, -2, -1, 2), 3: (1, 2, 0, 3, -1, 1)},
        "Zero": {1: 2, 2: (-1, 0, 2, 1), 3: (0, 1, 2, 3, 1, 0)},
    }.items()
    for n, padding in paddings.items()
]


@pytest.mark.parametrize(("name", "padding"), PADS, ids=str)
def test_padding(name, padding):
    value = (7.5,) if name.startswith("Constant") else ()
    theirs, ours = getattr(torch.nn, name)(padding, *value), getattr(nn, name)(padding, *value)
    x = random(2, 3, *(4, 5, 6)[-int(name[-2]) :])
    check(
        theirs, ours, x, modes=("jit",)
    )  # values are copied, and gradients added where a value was copied twice
    np.testing.assert_array_equal(ours(jnp.asarray(last(x)[0])), ours(jnp.asarray(last(x)))[0])


UPSAMPLES = [
    ((4, 5), {"scale_factor": 2}),
    ((4, 5), {"scale_factor": (2.5, 0.6)}),
    ((4, 5), {"size": (7, 3)}),
    ((4, 5), {"size": 8, "mode": "nearest-exact"}),
    ((7, 5), {"size": (4, 10), "mode": "nearest-exact"}),
    ((7,), {"size": 18}),
    ((3, 4, 2), {"scale_factor": (2, 1.5, 3)}),
    ((7,), {"size": 10, "mode": "linear"}),
    ((7,), {"size": 4, "mode": "linear", "align_corners": True}),
    ((4, 5), {"scale_factor": 2, "mode": "bilinear"}),
    ((4, 5), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}),
    ((4, 5), {"size": (9, 1), "mode": "bilinear", "align_corners": True}),
    ((8, 9), {"scale_factor": (0.4, 0.7), "mode": "bilinear"}),
    ((8, 9), {"scale_factor": (0.4, 0.7), "mode": "bilinear", "recompute_scale_factor": True}),
    ((4, 5), {"scale_factor": (2.3, 1.7), "mode": "bicubic"}),
    ((4, 5), {"size": (9, 3), "mode": "bicubic", "align_corners": True}),
    ((8, 9), {"size": (3, 4), "mode": "bicubic"}),
    ((3, 4, 2), {"scale_factor": 2, "mode": "trilinear"}),
    ((3, 4, 2), {"size": (2, 7, 5), "mode": "trilinear", "align_corners": True}),
    ((8, 9), {"size": (3, 4), "mode": "area"}),
    # The size of an axis stays, or doubles, though the factor says a little more.
    ((4, 5), {"scale_factor": (1.2, 1.15)}),
    ((4, 5), {"scale_factor": (2.2, 1.15)}),
    ((4, 5), {"scale_factor": (1.2, 2.0), "mode": "nearest-exact"}),
    ((4, 5), {"scale_factor": (1.2, 2.0), "mode": "bilinear"}),
    ((3, 4, 2), {"scale_factor": (1.3, 2.0, 1.4), "mode": "trilinear"}),
    ((2, 3), {"size": (31, 40), "mode": "bilinear"}),  # one place is read by many
]


@pytest.mark.parametrize(("spatial", "options"), UPSAMPLES, ids=str)
def test_upsample(spatial, options):
    check(
        torch.nn.Upsample(**options),
        nn.Upsample(**options),
        random(2, 3, *spatial),
        modes=("jit",),
    )


@pytest.mark.parametrize(("spatial", "mode"), [((5,), "nearest"), ((4, 5), "bicubic")])
def test_a_size_that_stays_is_read_by_the_factor(spatial, mode):
    """Only the values: torch's own gradient is that of a copy here, and not of its values."""
    x, options = random(1, 2, *spatial), {"scale_factor": 1.15, "mode": mode}
    want = torch.nn.functional.interpolate(torch.tensor(x), **options)
    assert want.shape == x.shape
    assert_close(nn.interpolate(jnp.asarray(last(x)), **options), last(want))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_reads_torchs_place_at_every_pair_of_sizes(mode):
    sizes = [1, 2, 3, 5, 7, 8, 11, 13]
    for old in sizes:
        x = np.arange(old, dtype=np.float32)
        every = jax.jit(
            lambda x: [nn.interpolate(x, size=new, mode=mode)[0, :, 0] for new in sizes]
        )
        for new, ours in zip(sizes, every(x.reshape(1, old, 1)), strict=True):
            want = torch.nn.functional.interpolate(
                torch.tensor(x)[None, None], size=new, mode=mode
            )[0, 0]
            np.testing.assert_array_equal(ours, want, f"{old} to {new}")


def test_the_two_named_upsamplings():
    x = random(2, 3, 4, 5)
    check(
        torch.nn.UpsamplingNearest2d(scale_factor=2),
        nn.UpsamplingNearest2d(scale_factor=2),
        x,
        modes=("jit",),
    )
    check(
        torch.nn.UpsamplingBilinear2d(size=(7, 8)),
        nn.UpsamplingBilinear2d(size=(7, 8)),
        x,
        modes=("jit",),
    )


def test_pixel_shuffle_and_back():
    x = random(2, 12, 3, 4)
    check(torch.nn.PixelShuffle(2), nn.PixelShuffle(2), x, modes=("jit",))
    check(torch.nn.PixelUnshuffle(3), nn.PixelUnshuffle(3), random(2, 2, 6, 9), modes=("jit",))
    y = jnp.asarray(last(x))
    np.testing.assert_array_equal(nn.pixel_unshuffle(nn.pixel_shuffle(y, 2), 2), y)


SIZES = {2: (2, 3, 5, 4), 3: (2, 3, 4, 3, 5)}  # torch's order


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_affine_grid(n, align_corners):
    theta = torch.tensor(random(2, n, n + 1), requires_grad=True)
    want = torch.nn.functional.affine_grid(theta, list(SIZES[n]), align_corners=align_corners)
    weight = random(*want.shape, seed=1)
    want.backward(torch.tensor(weight))
    size = (*SIZES[n][:1], *SIZES[n][2:], 3)
    got, pull = jax.vjp(
        lambda theta: nn.affine_grid(theta, size, align_corners),
        jnp.asarray(theta.detach().numpy()),
    )
    assert_close(got, want.detach())
    assert_close(pull(jnp.asarray(weight))[0], theta.grad)


SAMPLES = [
    (n, mode, padding_mode, align_corners)
    for n in (2, 3)
    for mode in ("bilinear", "nearest")
    for padding_mode in ("zeros", "border", "reflection")
    for align_corners in (False, True)
    # The two readings of -1 and 1 are one line of code, whatever is read: once is enough for
    # volumes, and for the nearest place.
    if (n, mode) == (2, "bilinear") or align_corners == (padding_mode == "border")
]


@pytest.mark.parametrize(("n", "mode", "padding_mode", "align_corners"), SAMPLES)
def test_grid_sample(n, mode, padding_mode, align_corners):
    x = random(*SIZES[n])
    grid = 1.3 * random(2, *(3, 6, 2)[:n], n, seed=2)  # a good part of it lies outside
    grid[0, 0, 0] = 5.2  # far outside: several reflections
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    tx, tgrid = torch.tensor(x, requires_grad=True), torch.tensor(grid, requires_grad=True)
    want = torch.nn.functional.grid_sample(tx, tgrid, **options)
    weight = random(*want.shape, seed=3)
    want.backward(torch.tensor(weight))

    @jax.jit
    def run(x, grid, weight):
        y, pull = jax.vjp(lambda *a: nn.grid_sample(*a, **options), x, grid)
        return y, *pull(weight)

    y, dx, dgrid = run(last(x), grid, last(weight))
    # Coordinates up to 12 places outside carry 1e-6 of rounding, times differences of values up
    # to 5.
    assert_close(y, last(want.detach()), 1e-5)
    assert_close(dx, last(tx.grad), 1e-5)
    assert_close(dgrid, tgrid.grad, 2e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_grid_sample_at_nan_and_infinity(n):
    """torch's answers, which are not the same in images and in volumes."""
    shape = SIZES[n]
    x = random(1, *shape[1:])
    odd = (np.nan, np.inf, -np.inf, 0.3, -0.9, 1e30)
    places = np.array(list(itertools.product(odd, repeat=n)), np.float32)
    grid = places.reshape(1, *(1,) * (n - 1), -1, n)
    huge = (np.abs(places) > 1e9).any(1)  # torch promises no reflection of these
    pairs = itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"))
    cases = [{"mode": mode, "padding_mode": padding} for mode, padding in pairs]

    @jax.jit
    def every(x, grid):
        return [nn.grid_sample(x, grid, **case, align_corners=False) for case in cases]

    for case, got in zip(cases, every(last(x), grid), strict=True):
        want = torch.nn.functional.grid_sample(
            torch.tensor(x), torch.tensor(grid), **case, align_corners=False
        )
        asked = ~huge if case["padding_mode"] == "reflection" else np.full(len(huge), True)
        got, want = (np.asarray(a).reshape(-1, 3)[asked] for a in (got, last(want)))
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(case))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_four_times_the_pixels_cost_four_times_the_work(mode):
    """Forwards and backwards, as the compiler counts it; it was eight times."""

    def work(side):
        x = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
        size = side * 3 // 2 if mode != "area" else side * 2 // 3
        loss = jax.grad(lambda x: (nn.interpolate(x, size=size, mode=mode) ** 2).sum())
        return jax.jit(loss).lower(x).compile().cost_analysis()["flops"]

    assert work(120) < 4.5 * work(60)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_identity_grid_and_the_edges(padding_mode):
    x = random(1, 2, 4, 5)

    def sampled(x):
        for align_corners in (False, True):
            grid = nn.affine_grid(jnp.eye(2, 3)[None], (1, 4, 5, 2), align_corners)
            for mode in ("bilinear", "nearest"):
                yield nn.grid_sample(x, grid, mode, padding_mode, align_corners)

    for got in jax.jit(lambda x: list(sampled(x)))(last(x)):
        assert_close(got, last(x))
    one = jnp.full((1, 1, 1, 1), 3.0)  # an axis of one place reflects onto itself
    assert (
        nn.grid_sample(
            one, jnp.zeros((1, 1, 1, 2)), padding_mode=padding_mode, align_corners=True
        ).item()
        == 3
    )


ERRORS = [
    (lambda x: nn.interpolate(x), ValueError, "either size or scale_factor"),
    (lambda x: nn.interpolate(x, 3, 2.0), ValueError, "either size or scale_factor"),
    (lambda x: nn.interpolate(x, 3, mode="cubic"), ValueError, "mode='cubic' is unknown"),
    (lambda x: nn.interpolate(x, 3, mode="trilinear"), ValueError, r"takes \[N D H W C\]"),
    (lambda x: nn.interpolate(x, 3, align_corners=True), ValueError, "align_corners goes with"),
    (lambda x: nn.interpolate(x, (3, 3, 3)), ValueError, "size=(.*)or 2 of them"),
    (lambda x: nn.pixel_shuffle(x, 2), RuntimeError, r"takes \[... H W C\*2\*2\]"),
    (lambda x: nn.pixel_unshuffle(x, 3), RuntimeError, r"takes \[... H\*3 W\*3 C\]"),
    (lambda x: nn.ReflectionPad2d(4)(x), RuntimeError, "asks for more than an axis of 4 holds"),
    (lambda x: nn.CircularPad2d(5)(x), RuntimeError, "asks for more than an axis of 4 holds"),
    (lambda x: nn.ZeroPad2d(-3)(x), RuntimeError, "cuts more than"),
    (lambda x: nn.ZeroPad2d((1, 2, 3))(x), ValueError, "has 3 entries"),
    (
        lambda x: nn.grid_sample(x, jnp.zeros((2, 3, 3, 3))),
        ValueError,
        r"takes \[N H W C\] with a grid",
    ),
    (
        lambda x: nn.grid_sample(x, jnp.zeros((2, 3, 3, 2)), "bicubic"),
        ValueError,
        "'bicubic' is not supported",
    ),
    (
        lambda x: nn.grid_sample(x, jnp.zeros((2, 3, 3, 2)), padding_mode="wrap"),
        ValueError,
        "'wrap' is unknown",
    ),
    (
        lambda x: nn.affine_grid(jnp.zeros((1, 2, 3)), x.shape),
        ValueError,
        r"takes theta \[N 2 3\]",
    ),
]


@pytest.mark.parametrize(("use", "error", "match"), ERRORS, ids=[case[2] for case in ERRORS])
def test_wrong_use(use, error, match):
    with pytest.raises(error, match=match):
        use(jnp.ones((2, 4, 4, 3)))
