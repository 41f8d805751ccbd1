"""Normalisation layers against torch: outputs, gradients and running statistics, in train and
eval mode.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import assert_close, check, last, load, random, unchanged

SHAPES = {0: (6, 3), 1: (4, 3, 5), 2: (3, 3, 4, 5), 3: (2, 3, 3, 4, 2)}
NORMS = {
    "batch rows": ("BatchNorm1d", 0, {}),
    "batch 1d": ("BatchNorm1d", 1, {"eps": 1e-3}),
    "batch 2d": ("BatchNorm2d", 2, {}),
    "batch 2d momentum": ("BatchNorm2d", 2, {"momentum": 0.3}),
    "batch 2d average": ("BatchNorm2d", 2, {"momentum": None}),
    "batch 2d plain": ("BatchNorm2d", 2, {"affine": False}),
    "batch 2d no bias": ("BatchNorm2d", 2, {"bias": False}),
    "batch 2d untracked": ("BatchNorm2d", 2, {"track_running_stats": False}),
    "batch 3d": ("BatchNorm3d", 3, {}),
    "instance 1d": ("InstanceNorm1d", 1, {}),
    "instance 2d": ("InstanceNorm2d", 2, {"affine": True}),
    "instance 2d tracked": ("InstanceNorm2d", 2, {"affine": True, "track_running_stats": True}),
    "instance 2d no momentum": (
        "InstanceNorm2d",
        2,
        {"track_running_stats": True, "momentum": None},
    ),
    "instance 3d": ("InstanceNorm3d", 3, {"track_running_stats": True}),
}


def build(name):
    kind, n, options = NORMS[name]
    theirs, ours = getattr(torch.nn, kind)(3, **options), getattr(nn, kind)(3, **options)
    generator = np.random.default_rng(0)
    for parameter in theirs.parameters():  # not the ones and zeros they start as
        parameter.data = torch.tensor(
            generator.normal(1, 0.5, parameter.shape).astype(np.float32)
        )
    return theirs, ours, SHAPES[n]


@pytest.mark.parametrize("name", NORMS)
def test_train_mode_output_and_gradients(name):
    theirs, ours, shape = build(name)
    # the gradient subtracts two means from the cotangent: what is left carries the rounding of
    # all of it
    check(theirs, ours, 2 + 3 * random(*shape), tolerance=1e-5, modes=("jit",))


@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_over_steps_then_eval_mode(name):
    theirs, ours, shape = build(name)
    load(ours, theirs)
    run = nnx.jit(lambda layer, x: layer(x))
    for step in range(3):
        x = 2 + 3 * random(*shape, seed=step)
        assert_close(run(ours, last(x)), last(theirs(torch.tensor(x)).detach()), 1e-5)
    for attribute in ("running_mean", "running_var", "num_batches_tracked"):
        want, got = (
            getattr(theirs, attribute),
            getattr(ours, attribute.removeprefix("running_")),
        )
        assert (want is None) == (got is None)
        if want is not None:
            assert_close(got[...], want.numpy())
    theirs.eval()
    ours.eval()
    before = nnx.to_pure_dict(nnx.state(ours))
    assert_close(run(ours, last(x)), last(theirs(torch.tensor(x)).detach()), 1e-5)
    jax.tree.map(
        np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(ours))
    )  # eval changes nothing
    check(theirs, ours, x, tolerance=1e-5, modes=("jit",))
    ours.train()
    assert ours.use_running_average is False


def test_two_pass_variance_at_a_mean_of_1000():
    x = 1000 + random(8, 3, 6, 6)
    theirs, ours = torch.nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    got = ours(jnp.asarray(last(x)))
    exact = torch.nn.BatchNorm2d(3).double()(torch.tensor(x).double()).detach().numpy()
    # The mean itself is rounded to 1000 * 6e-8 = 6e-5; E[x^2] - E[x]^2 would be wrong by 0.28.
    assert_close(got, last(exact), 2e-4)
    assert_close(got, last(theirs(torch.tensor(x)).detach()), 2e-4)


def test_one_value_per_channel_is_refused_in_train_mode_only():
    for norm in (nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)):
        x = torch.ones(1, 3) if isinstance(norm, torch.nn.Module) else jnp.ones((1, 3))
        with pytest.raises(
            ValueError, match="Expected more than 1 value per channel when training"
        ):
            norm(x)
        norm.eval()
        assert norm(x).shape == (1, 3)
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        nn.InstanceNorm2d(3)(jnp.ones((2, 1, 1, 3)))


def test_batch_norm_under_grad_as_train_uses_it():
    _, ours, shape = build("batch 2d")
    graphdef, params, extra = nnx.split(ours, nnx.Param, ...)

    @jax.jit
    def step(params, extra, x):
        def loss(params):
            model = nnx.merge(graphdef, params, extra, copy=True)
            return (model(x) ** 2).mean(), nnx.state(model, nnx.Not(nnx.Param))

        return jax.grad(loss, has_aux=True)(params)

    _, extra = step(params, extra, jnp.asarray(last(random(*shape))))
    _, extra = step(params, extra, jnp.asarray(last(random(*shape))))
    assert extra["num_batches_tracked"][...] == 2


WITHIN = {
    "layer": (lambda m, r: m.LayerNorm(5, **r), (4, 3, 5), unchanged, {}),
    "layer two axes": (
        lambda m, r: m.LayerNorm((3, 5), **r),
        (4, 3, 5),
        unchanged,
        {"eps": 1e-3},
    ),
    "layer no bias": (lambda m, r: m.LayerNorm(5, **r), (4, 5), unchanged, {"bias": False}),
    "layer plain": (
        lambda m, r: m.LayerNorm(5, **r),
        (4, 5),
        unchanged,
        {"elementwise_affine": False},
    ),
    "rms": (lambda m, r: m.RMSNorm(5, **r), (4, 3, 5), unchanged, {}),
    "rms eps": (lambda m, r: m.RMSNorm((3, 5), **r), (4, 3, 5), unchanged, {"eps": 0.1}),
    "group": (lambda m, r: m.GroupNorm(2, 6, **r), (3, 6, 4, 5), last, {}),
    "group no bias": (lambda m, r: m.GroupNorm(2, 6, **r), (3, 6, 4), last, {"bias": False}),
    "group rows": (lambda m, r: m.GroupNorm(3, 6, **r), (3, 6), last, {"eps": 1e-3}),
    "group one": (lambda m, r: m.GroupNorm(1, 6, **r), (3, 6, 4), last, {"affine": False}),
    "group 3d": (lambda m, r: m.GroupNorm(6, 6, **r), (2, 6, 3, 2, 2), last, {}),
}


@pytest.mark.parametrize("name", WITHIN)
def test_norms_within_an_example(name):
    make, shape, turn, options = WITHIN[name]
    theirs, ours = make(torch.nn, options), make(nn, options)
    for parameter in theirs.parameters():
        parameter.data = torch.tensor(random(*parameter.shape))
    check(theirs, ours, 2 + 3 * random(*shape), turn=turn, tolerance=1e-5, modes=("jit",))


ERRORS = [
    (lambda: nn.BatchNorm2d(3)(jnp.ones((2, 3, 4, 4))), ValueError, "channels first"),
    (
        lambda: nn.BatchNorm2d(3)(jnp.ones((2, 4, 3))),
        ValueError,
        r"BatchNorm2d takes \[N H W 3\]",
    ),
    (
        lambda: nn.BatchNorm1d(3)(jnp.ones((2, 4, 4, 3))),
        ValueError,
        r"takes \[N 3\] or \[N L 3\]",
    ),
    (
        lambda: nn.InstanceNorm2d(3)(jnp.ones((2, 3, 4, 4))),
        ValueError,
        r"InstanceNorm2d takes \[N H W 3\]",
    ),
    (lambda: nn.GroupNorm(4, 6), ValueError, "divisible by num_groups=4"),
    (lambda: nn.GroupNorm(2, 6)(jnp.ones((2, 6, 4))), RuntimeError, r"takes \[N ... 6\]"),
    (lambda: nn.LayerNorm((3, 5))(jnp.ones((2, 5, 3))), RuntimeError, r"takes \[... 3 5\]"),
]


@pytest.mark.parametrize(("use", "error", "match"), ERRORS, ids=[case[2] for case in ERRORS])
def test_wrong_use(use, error, match):
    with pytest.raises(error, match=match):
        use()
