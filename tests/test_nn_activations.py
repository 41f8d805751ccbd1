"""Activations against torch: values, gradients, torch's derivatives at the kinks, extreme
inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import assert_close, check, random, unchanged

LAYERS = {
    "CELU": [{}, {"alpha": 2.0}],
    "ELU": [{}, {"alpha": 0.5}],
    "GELU": [{}, {"approximate": "tanh"}],
    "Hardshrink": [{}, {"lambd": 1.0}],
    "Hardsigmoid": [{}],
    "Hardswish": [{}],
    "Hardtanh": [{}, {"min_val": -0.5, "max_val": 3.0}],
    "LeakyReLU": [{}, {"negative_slope": 0.3}],
    "LogSigmoid": [{}],
    "Mish": [{}],
    "ReLU": [{}],
    "ReLU6": [{}],
    "SELU": [{}],
    "SiLU": [{}],
    "Sigmoid": [{}],
    "Softplus": [{}, {"beta": 2.0, "threshold": 3.0}],
    "Softshrink": [{}, {"lambd": 1.0}],
    "Softsign": [{}],
    "Tanh": [{}],
    "Tanhshrink": [{}],
    "Threshold": [{"threshold": 0.5, "value": 7.0}],
}
CASES = [(name, options) for name, many in LAYERS.items() for options in many]
# exp, tanh and erf of the two libraries differ by a few units in the last place (1.2e-7);
# derivatives of GELU and Mish multiply that by x and cancel: 3.6e-6 at most was seen.
LAST_PLACES = 5e-6
KINKS = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0, 6.0]
EXTREMES = [-np.inf, -1e30, -200.0, -100.0, -20.0, 20.0, 100.0, 200.0, 1e30, np.inf, np.nan]


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_values_and_derivatives_with_torchs_choice_at_every_kink(name, options):
    # torch in float64: in float32 its GELU is oneDNN's, which gives nan at inf on machines with
    # AVX-512 only.
    x = np.array([*np.linspace(-8, 8, 65), *KINKS, *EXTREMES], np.float32)
    theirs, ours = getattr(torch.nn, name)(**options), getattr(nn, name)(**options)
    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = theirs(tx)
    want.sum().backward()
    slope = tx.grad.numpy()

    @jax.jit
    def run(x):
        y, pull = jax.vjp(ours, x)
        return y, pull(jnp.ones_like(y))[0]

    y, dy = run(x)
    close = {"rtol": 1e-6, "atol": LAST_PLACES}
    np.testing.assert_allclose(y, want.detach(), **close)
    known = np.isfinite(slope) & np.isfinite(x)  # a derivative at infinity or NaN means nothing
    np.testing.assert_allclose(dy[known], slope[known], **close)


SOFT = [
    ("Softmax", {"dim": 1}),
    ("Softmin", {"dim": 2}),
    ("LogSoftmax", {"dim": 0}),
    ("GLU", {"dim": 1}),
    ("GLU", {}),
]


@pytest.mark.parametrize(("name", "options"), SOFT, ids=str)
def test_along_an_axis(name, options):
    axis = {"dim": options.get("dim", -1)}
    check(
        getattr(torch.nn, name)(**axis),
        getattr(nn, name)(**options),
        random(4, 6, 2),
        turn=unchanged,
        modes=("jit",),
    )


def test_the_default_axis_is_the_channels():
    x = random(2, 3, 4, 5)
    for name in ("Softmax", "Softmin", "LogSoftmax"):
        check(getattr(torch.nn, name)(dim=1), getattr(nn, name)(), x, modes=("jit",))
    check(torch.nn.Softmax2d(), nn.Softmax2d(), x, modes=("jit",))


@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu(slopes):
    theirs = torch.nn.PReLU(slopes, init=0.4)
    x = random(2, 3, 4, 5)
    x[0, :, 0, 0] = 0
    check(theirs, nn.PReLU(slopes, init=0.1), x)


def test_rrelu_draws_in_train_mode_and_takes_the_mean_in_eval_mode():
    layer = nn.RReLU(0.2, 0.4, rngs=nnx.Rngs(0))
    x = -jnp.ones(10_000)
    slopes = -layer(x)
    assert 0.2 <= slopes.min() < 0.201
    assert 0.399 < slopes.max() <= 0.4
    assert abs(slopes.mean() - 0.3) < 0.002  # 3 standard errors of U(0.2, 0.4): 0.058 / 100 * 3
    assert not jnp.array_equal(layer(x), -slopes)
    layer.eval()
    theirs = torch.nn.RReLU(0.2, 0.4).eval()
    y = random(4, 5)
    assert_close(layer(jnp.asarray(y)), theirs(torch.tensor(y)).numpy())


ERRORS = [
    (lambda: nn.GELU("erf")(jnp.ones(2)), RuntimeError, "approximate='erf' is unknown"),
    (lambda: nn.GLU()(jnp.ones((2, 3))), RuntimeError, "must have an even size"),
    (lambda: nn.CELU(0)(jnp.ones(2)), RuntimeError, "alpha must not be 0"),
    (lambda: nn.Softshrink(-1.0)(jnp.ones(2)), RuntimeError, "must not be negative"),
    (lambda: nn.PReLU(3)(jnp.ones((2, 4))), RuntimeError, "PReLU has 3 slopes"),
    (lambda: nn.Softmax2d()(jnp.ones(4)), RuntimeError, r"Softmax2d takes \[N H W C\]"),
]


@pytest.mark.parametrize(("use", "error", "match"), ERRORS, ids=[case[2] for case in ERRORS])
def test_wrong_use(use, error, match):
    with pytest.raises(error, match=match):
        use()


def test_hardsigmoids_slope_in_float64_is_torchs():
    tx = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.hardsigmoid(tx).sum().backward()
    with jax.enable_x64(True):
        slope = jax.grad(lambda x: nn.hardsigmoid(x).sum())(jnp.asarray(tx.detach().numpy()))
    np.testing.assert_array_equal(slope, tx.grad.numpy())
