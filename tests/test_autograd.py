"""Gradients: numerical ones against exact ones and against torch, and the checker that compares
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import autograd, data

THERMOMETER = data.sources.thermometer()


def thermometer_loss(params):
    return jnp.mean(
        (params["w"] * 0.1 * THERMOMETER["t_u"] + params["b"] - THERMOMETER["t_c"]) ** 2
    )


def test_the_books_first_gradient():
    """Chapter 5: at w = 1, b = 0 the book prints the gradient [4517.2969, 82.6000] of the
    unscaled input.
    """
    t_u, t_c = (torch.tensor(np.array(THERMOMETER[k])) for k in ("t_u", "t_c"))
    params = torch.tensor([1.0, 0.0], requires_grad=True)
    ((params[0] * t_u + params[1] - t_c) ** 2).mean().backward()

    def loss(p):
        return jnp.mean((p[0] * THERMOMETER["t_u"] + p[1] - THERMOMETER["t_c"]) ** 2)

    np.testing.assert_allclose(
        jax.grad(loss)(jnp.array([1.0, 0.0])), [4517.2969, 82.6], rtol=1e-6
    )  # as printed
    # Central differences in float32: the loss is rounded by 1e-7 and divided by a step of 5e-3.
    np.testing.assert_allclose(
        autograd.numerical_gradient(loss, jnp.array([1.0, 0.0])), params.grad, rtol=2e-3
    )


def test_numerical_gradient_in_float64():
    """Any pytree; the error is that of the formula, eps^2 = 4e-11, with eps the cube root of
    2e-16.
    """
    with jax.enable_x64(True):
        x = {
            "a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3),
            "b": (jnp.array(0.3), jnp.zeros((0,))),
        }
        f = lambda x: jnp.sum(jnp.sin(x["a"]) * x["b"][0]) + jnp.exp(x["b"][0])  # noqa: E731
        numeric, exact = autograd.numerical_gradient(f, x), jax.grad(f)(x)
        jax.tree.map(lambda n, e: np.testing.assert_allclose(n, e, atol=1e-9), numeric, exact)
        assert jax.tree.map(np.shape, numeric) == jax.tree.map(np.shape, x)


@pytest.mark.parametrize("x64", [False, True])
def test_check_gradients_accepts_what_is_right(x64):
    with jax.enable_x64(x64):
        autograd.check_gradients(thermometer_loss, {"w": jnp.array(1.0), "b": jnp.array(0.5)})
        autograd.check_gradients(
            jnp.matmul, jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), jnp.ones((3, 2))
        )
        autograd.check_gradients(lambda x: jnp.tanh(x) * 1e-6, jnp.linspace(-1.0, 1.0, 3))


@jax.custom_jvp
def square(x):
    return x * x


@square.defjvp
def _(x, dx):
    wrong = jnp.zeros_like(x[0]).at[1, 0].set(0.5)
    return square(x[0]), (2 * x[0] + wrong) * dx[0]


@pytest.mark.parametrize("x64", [False, True])
def test_check_gradients_names_the_entry(x64):
    """One wrong entry out of nine, in the second argument, in a list, in a dictionary."""
    with jax.enable_x64(x64):
        args = jnp.ones(3), {"layers": [jnp.ones(2), jnp.ones((2, 3))]}
        f = lambda a, p: jnp.sum(a) + jnp.sum(p["layers"][0]) + square(p["layers"][1])  # noqa: E731
        with pytest.raises(
            AssertionError, match=r"at args\[1\]\['layers'\]\[1\]\[1, 0\]: jax.grad gives"
        ):
            autograd.check_gradients(f, *args)


def test_check_gradients_finds_nan():
    f = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)  # noqa: E731
    with pytest.raises(AssertionError, match=r"jax\.grad gives nan"):
        autograd.check_gradients(f, jnp.array([1.0, -1.0]))


def test_gradcheck_agrees():
    """torch's own checker says the same of the same functions."""
    x = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(torch.tanh, x)
    with jax.enable_x64(True):
        autograd.check_gradients(jnp.tanh, jnp.asarray(x.detach().numpy()))


def test_wrong_arguments():
    with pytest.raises(TypeError, match="int"):
        autograd.numerical_gradient(jnp.sum, jnp.arange(3))
    with pytest.raises(ValueError, match=r"returns shape \(3,\)"):
        autograd.numerical_gradient(jnp.tanh, jnp.ones(3))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.norm(self.body(x))))


def test_grad_where_trains_the_head_alone():
    """Gradients are those of the whole model where asked for, and torch's frozen body costs
    nothing.
    """
    model, x = Net(nnx.Rngs(0)), jnp.linspace(-1.0, 1.0, 15).reshape(5, 3)
    loss = lambda model, x: jnp.mean(model(x) ** 2)  # noqa: E731
    head = nnx.All(nnx.Param, nnx.PathContains("head"))
    value, grads = autograd.grad_where(loss, head)(model, x)
    whole_value, whole = autograd.grad_where(loss, nnx.Param)(model, x)
    assert set(grads) == {"head"}
    assert set(whole) == {"body", "norm", "head"}
    np.testing.assert_allclose(
        value, whole_value, rtol=1e-6
    )  # compiled alike, but nothing promises the same bits
    np.testing.assert_allclose(
        grads["head"]["kernel"][...], whole["head"]["kernel"][...], rtol=1e-6
    )

    def flops(trainable):
        graph, state = nnx.split(model)
        f = lambda state, x: autograd.grad_where(loss, trainable)(nnx.merge(graph, state), x)  # noqa: E731
        return jax.jit(f).lower(state, x).compile().cost_analysis()["flops"]

    assert flops(head) < flops(nnx.Param)


def test_accumulate_gradients_is_torchs_grad():
    """Three backward() without zero_grad() in between, then one step with the sum."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4, 2)).astype("f"), rng.standard_normal((3, 4)).astype("f")
    w = torch.tensor([0.5, -0.5], requires_grad=True)
    for xb, yb in zip(x, y, strict=True):
        ((torch.tensor(xb) @ w - torch.tensor(yb)) ** 2).mean().backward()

    def loss(w, batch):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

    w0 = jnp.array([0.5, -0.5])
    losses, grads = jax.jit(lambda w, b: autograd.accumulate_gradients(loss, w, b))(
        w0, {"x": x, "y": y}
    )
    assert losses.shape == (3,)
    np.testing.assert_allclose(grads, w.grad, rtol=1e-6)  # three float32 sums
