"""Torch's elementwise activations and softmax family as functions; `activation_layers` has them
as layers.

If a function has a kink, its derivative there is torch's choice (relu'(0) = 0, leaky_relu'(0) =
slope, ...): real data does hit kinks, after a ReLU or in 8-bit images. A branch that could
overflow is fed a safe value, so that gradients stay finite. Whole numbers and booleans become
floating point first (relu keeps them): `-x` of a uint8 would wrap around.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp

from dlwp_jax.nn.shapes import floating

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]

Function = TypeVar("Function", bound=Callable[..., jax.Array])


def _of_floats(function: Function) -> Function:
    """`function` of `x` in floating point."""

    @functools.wraps(function)
    def activation(x, *args, **kwargs):
        return function(floating(x), *args, **kwargs)

    return activation  # pyright: ignore[reportReturnType]


@_of_floats
def tanh(x: jax.Array) -> jax.Array:
    """`(exp(x) - exp(-x)) / (exp(x) + exp(-x))`; torch.nn.functional.tanh.

    >>> tanh(jnp.array([0.0])).tolist()
    [0.0]
    """
    return jnp.tanh(x)


@_of_floats
def sigmoid(x: jax.Array) -> jax.Array:
    """`1 / (1 + exp(-x))`; torch.nn.functional.sigmoid.

    >>> sigmoid(jnp.array([0.0])).tolist()
    [0.5]
    """
    return jax.nn.sigmoid(x)


@_of_floats
def log_sigmoid(x: jax.Array) -> jax.Array:
    """`log(sigmoid(x))`, computed without the quotient; torch.nn.functional.logsigmoid.

    >>> print(log_sigmoid(jnp.array([0.0])).round(4))
    [-0.6931]
    """
    return jax.nn.log_sigmoid(x)


@_of_floats
def silu(x: jax.Array) -> jax.Array:
    """`x sigmoid(x)`; torch.nn.functional.silu.

    >>> silu(jnp.array([0.0])).tolist()
    [0.0]
    """
    return jax.nn.silu(x)


def relu(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, with derivative 0 at 0; torch.nn.functional.relu.

    >>> relu(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


@_of_floats
def hardtanh(x: jax.Array, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """`x` cut to [min_val, max_val], with derivative 0 at both ends;
    torch.nn.functional.hardtanh.

    >>> hardtanh(jnp.array([-3.0, 0.5])).tolist()
    [-1.0, 0.5]
    """
    low, high = jnp.asarray(min_val, x.dtype), jnp.asarray(max_val, x.dtype)
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def relu6(x: jax.Array) -> jax.Array:
    """`min(max(x, 0), 6)`; torch.nn.functional.relu6.

    >>> relu6(jnp.array([-1.0, 2.0, 9.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return hardtanh(x, 0.0, 6.0)


@_of_floats
def leaky_relu(x: jax.Array, negative_slope: float | jax.Array = 0.01) -> jax.Array:
    """`x` if positive, else `negative_slope * x`; torch.nn.functional.leaky_relu.

    >>> leaky_relu(jnp.array([-1.0, 2.0]), 0.5).tolist()
    [-0.5, 2.0]
    """
    return jnp.where(x > 0, x, negative_slope * x)


def prelu(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`leaky_relu` with a learned slope `weight`, `[1]` or one per channel `[C]`;
    torch.nn.functional.prelu.

    >>> prelu(jnp.array([-1.0, 2.0]), jnp.array([0.5])).tolist()
    [-0.5, 2.0]
    """
    return leaky_relu(x, weight)


@_of_floats
def rrelu(
    x: jax.Array, lower: float = 1 / 8, upper: float = 1 / 3, key: jax.Array | None = None
) -> jax.Array:
    """`leaky_relu` with a slope drawn for each value from U(lower, upper), or their mean
    without a key.

    torch.nn.functional.rrelu: training is `key=...`, evaluation `key=None`.

    >>> rrelu(jnp.array([-1.0, 2.0]), 0.25, 0.75).tolist()
    [-0.5, 2.0]
    """
    slope = (
        (lower + upper) / 2
        if key is None
        else jax.random.uniform(key, x.shape, x.dtype, lower, upper)
    )
    return leaky_relu(x, slope)


@_of_floats
def gumbel_softmax(
    logits: jax.Array, tau: float = 1.0, hard: bool = False, dim: int = -1, *, key: jax.Array
) -> jax.Array:
    """A sample of the classes with a gradient; torch.nn.functional.gumbel_softmax.

    Args:
      logits: log-probabilities, up to a constant.
      tau: temperature; the smaller, the nearer is a sample to a single class.
      hard: one class, 0 or 1, with the gradient of the soft sample.
      dim: the axis of the classes.
      key: a PRNG key.

    >>> sample = gumbel_softmax(jnp.zeros(3), hard=True, key=jax.random.key(0))
    >>> sorted(sample.tolist())
    [0.0, 0.0, 1.0]
    """
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = jax.nn.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    one = jax.nn.one_hot(soft.argmax(dim), soft.shape[dim], dtype=soft.dtype, axis=dim)
    # Exactly 0 or 1: one + (soft - soft) would round.
    return jnp.where(
        one == 1, 1 + (soft - jax.lax.stop_gradient(soft)), soft - jax.lax.stop_gradient(soft)
    )


@_of_floats
def elu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """`x` if positive, else `alpha (exp(x) - 1)`; torch.nn.functional.elu.

    >>> elu(jnp.array([0.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


@_of_floats
def celu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """`x` if positive, else `alpha (exp(x / alpha) - 1)`; torch.nn.functional.celu.

    >>> celu(jnp.array([0.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    if alpha == 0:
        raise RuntimeError("celu: alpha must not be 0.")
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / alpha))


@_of_floats
def selu(x: jax.Array) -> jax.Array:
    """`1.0507 elu(x, alpha=1.6733)`, which keeps mean 0 and variance 1;
    torch.nn.functional.selu.

    >>> print(selu(jnp.array([0.0, 1.0])).round(4))
    [0.     1.0507]
    """
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@_of_floats
def gelu(x: jax.Array, approximate: Literal["none", "tanh"] = "none") -> jax.Array:
    """`x Phi(x)` with the exact normal distribution, or approximate='tanh';
    torch.nn.functional.gelu.

    >>> print(gelu(jnp.array([1.0])).round(4))
    [0.84129995]
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(
            f"gelu: approximate={approximate!r} is unknown; take 'none' or 'tanh'."
        )
    if approximate == "none":
        return jax.nn.gelu(x, approximate=False)
    inside = jnp.clip(
        x, -10, 10
    )  # the tanh is 1 long before; a cube that overflows would make the gradient nan
    return x * (0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (inside + 0.044715 * inside**3))))


@_of_floats
def hardsigmoid(x: jax.Array) -> jax.Array:
    """`x / 6 + 1 / 2` cut to [0, 1]; torch.nn.functional.hardsigmoid.

    >>> hardsigmoid(jnp.array([-4.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return _hardsigmoid(x)


def _ramp(x: jax.Array) -> jax.Array:
    return hardtanh(x / 6 + 0.5, 0.0, 1.0)


_hardsigmoid = jax.custom_jvp(_ramp)


@_hardsigmoid.defjvp
def _hardsigmoid_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    # Torch's slope is 1 / 6 in float32, for float64 too.
    slope = jnp.where(jnp.abs(x) < 3, jnp.float32(1 / 6), 0)
    return _hardsigmoid(x), (tangent * slope).astype(x.dtype)


@_of_floats
def hardswish(x: jax.Array) -> jax.Array:
    """`x hardsigmoid(x)`; torch.nn.functional.hardswish.

    >>> hardswish(jnp.array([-4.0, 3.0])).tolist()
    [-0.0, 3.0]
    """
    return x * _ramp(x)  # whose slope is exact in torch too


@_of_floats
def mish(x: jax.Array) -> jax.Array:
    """`x tanh(softplus(x))`; torch.nn.functional.mish.

    >>> print(mish(jnp.array([0.0, 1.0])).round(4))
    [0.         0.86509997]
    """
    return x * jnp.tanh(softplus(x))


@_of_floats
def softplus(x: jax.Array, beta: float = 1.0, threshold: float = 20.0) -> jax.Array:
    """`log(1 + exp(beta x)) / beta`, and `x` itself if `beta x > threshold`;
    torch.nn.functional.softplus.

    >>> print(softplus(jnp.array([0.0, 30.0])).round(4))
    [ 0.6931 30.    ]
    """
    linear = beta * x > threshold
    safe = jnp.where(linear, 0, beta * x)
    return jnp.where(linear, x, jax.nn.softplus(safe) / beta)


@_of_floats
def softsign(x: jax.Array) -> jax.Array:
    """`x / (1 + |x|)`; torch.nn.functional.softsign.

    >>> softsign(jnp.array([-1.0, 3.0])).tolist()
    [-0.5, 0.75]
    """
    return x / (1 + jnp.abs(x))


@_of_floats
def tanhshrink(x: jax.Array) -> jax.Array:
    """`x - tanh(x)`; torch.nn.functional.tanhshrink.

    >>> tanhshrink(jnp.array([0.0])).tolist()
    [0.0]
    """
    return x - jnp.tanh(x)


@_of_floats
def hardshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    """0 if `|x| <= lambd`, else `x`; torch.nn.functional.hardshrink.

    >>> hardshrink(jnp.array([0.5, 1.0])).tolist()
    [0.0, 1.0]
    """
    return jnp.where((x >= -lambd) & (x <= lambd), jnp.zeros((), x.dtype), x)


@_of_floats
def softshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    """`x` moved towards 0 by `lambd`, stopping at 0; torch.nn.functional.softshrink.

    >>> softshrink(jnp.array([0.25, 1.0, -1.0])).tolist()
    [0.0, 0.5, -0.5]
    """
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambd must not be negative; it is {lambd}.")
    return jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0 * x))


@_of_floats
def threshold(x: jax.Array, threshold: float, value: float) -> jax.Array:
    """`x` if above the threshold, else `value`; torch.nn.functional.threshold.

    >>> threshold(jnp.array([0.5, 2.0]), 1.0, 7.0).tolist()
    [7.0, 2.0]
    """
    return jnp.where(x <= threshold, jnp.asarray(value, x.dtype), x)


@_of_floats
def glu(x: jax.Array, dim: int = -1) -> jax.Array:
    """First half of axis `dim` of `x` times the sigmoid of the second; torch.nn.functional.glu.

    >>> glu(jnp.array([4.0, 0.0])).tolist()
    [2.0]
    """
    if x.shape[dim] % 2:
        raise RuntimeError(
            f"glu: axis {dim} must have an even size; the input has shape {x.shape}."
        )
    value, gate = jnp.split(x, 2, axis=dim)
    return value * jax.nn.sigmoid(gate)


@_of_floats
def softmax(x: jax.Array, dim: int = -1) -> jax.Array:
    """`exp(x) / sum(exp(x))` along axis `dim`, by default the channels;
    torch.nn.functional.softmax.

    >>> softmax(jnp.array([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    return jax.nn.softmax(x, axis=dim)


@_of_floats
def softmin(x: jax.Array, dim: int = -1) -> jax.Array:
    """`softmax(-x)` along axis `dim`; torch.nn.functional.softmin.

    >>> softmin(jnp.array([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    return jax.nn.softmax(-x, axis=dim)


@_of_floats
def log_softmax(x: jax.Array, dim: int = -1) -> jax.Array:
    """`log(softmax(x))` along axis `dim`, without the quotient;
    torch.nn.functional.log_softmax.

    >>> print(log_softmax(jnp.array([1.0, 1.0])).round(4))
    [-0.6931 -0.6931]
    """
    return jax.nn.log_softmax(x, axis=dim)
