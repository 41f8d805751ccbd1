"""The activations as layers, for `Sequential`: torch.nn's classes, one line each over
`activations`.

Torch's `inplace` has no counterpart: arrays here do not change. Axes are counted in our
channels-last arrays, so torch's `dim=1` of an image, the channels, is -1 here; that is the
default.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn import activations
from dlwp_jax.nn.shapes import check_input

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class CELU(nnx.Module):
    """Continuously differentiable ELU; torch.nn.CELU. The function is `activations.celu`.

    >>> print(CELU()(jnp.array([-1.0])).round(4))
    [-0.6321]
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.celu` of `x`."""
        return activations.celu(x, self.alpha)


class ELU(nnx.Module):
    """Exponential linear unit; torch.nn.ELU. The function is `activations.elu`.

    >>> print(ELU()(jnp.array([-1.0])).round(4))
    [-0.6321]
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.elu` of `x`."""
        return activations.elu(x, self.alpha)


class GELU(nnx.Module):
    """Gaussian error linear unit, exact by default; torch.nn.GELU. The function is
    `activations.gelu`.

    >>> print(GELU()(jnp.array([1.0])).round(4))
    [0.84129995]
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none"):
        self.approximate: Literal["none", "tanh"] = approximate

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.gelu` of `x`."""
        return activations.gelu(x, self.approximate)


class GLU(nnx.Module):
    """Gated linear unit; torch.nn.GLU. The function is `activations.glu`.

    >>> print(GLU()(jnp.array([4.0, 0.0])).round(4))
    [2.]
    """

    def __init__(self, dim: int = -1):
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.glu` of `x`."""
        return activations.glu(x, self.dim)


class Hardshrink(nnx.Module):
    """Zero between -lambd and lambd; torch.nn.Hardshrink. The function is
    `activations.hardshrink`.

    >>> print(Hardshrink()(jnp.array([0.4])).round(4))
    [0.]
    """

    def __init__(self, lambd: float = 0.5):
        self.lambd = lambd

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.hardshrink` of `x`."""
        return activations.hardshrink(x, self.lambd)


class Hardsigmoid(nnx.Module):
    """Piecewise linear sigmoid; torch.nn.Hardsigmoid. The function is
    `activations.hardsigmoid`.

    >>> print(Hardsigmoid()(jnp.array([0.0])).round(4))
    [0.5]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.hardsigmoid` of `x`."""
        return activations.hardsigmoid(x)


class Hardswish(nnx.Module):
    """Piecewise quadratic SiLU; torch.nn.Hardswish. The function is `activations.hardswish`.

    >>> print(Hardswish()(jnp.array([3.0])).round(4))
    [3.]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.hardswish` of `x`."""
        return activations.hardswish(x)


class Hardtanh(nnx.Module):
    """Cut to [min_val, max_val]; torch.nn.Hardtanh. The function is `activations.hardtanh`.

    >>> print(Hardtanh()(jnp.array([2.0])).round(4))
    [1.]
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        self.min_val = min_val
        self.max_val = max_val

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.hardtanh` of `x`."""
        return activations.hardtanh(x, self.min_val, self.max_val)


class LeakyReLU(nnx.Module):
    """ReLU with a slope below 0; torch.nn.LeakyReLU. The function is `activations.leaky_relu`.

    >>> print(LeakyReLU(0.5)(jnp.array([-1.0])).round(4))
    [-0.5]
    """

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.leaky_relu` of `x`."""
        return activations.leaky_relu(x, self.negative_slope)


class LogSigmoid(nnx.Module):
    """Logarithm of the sigmoid; torch.nn.LogSigmoid. The function is `activations.log_sigmoid`.

    >>> print(LogSigmoid()(jnp.array([0.0])).round(4))
    [-0.6931]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.log_sigmoid` of `x`."""
        return activations.log_sigmoid(x)


class LogSoftmax(nnx.Module):
    """Logarithm of the softmax along an axis; torch.nn.LogSoftmax. The function is
    `activations.log_softmax`.

    >>> print(LogSoftmax()(jnp.array([1.0, 1.0])).round(4))
    [-0.6931 -0.6931]
    """

    def __init__(self, dim: int = -1):
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.log_softmax` of `x`."""
        return activations.log_softmax(x, self.dim)


class Mish(nnx.Module):
    """`x tanh(softplus(x))`; torch.nn.Mish. The function is `activations.mish`.

    >>> print(Mish()(jnp.array([1.0])).round(4))
    [0.86509997]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.mish` of `x`."""
        return activations.mish(x)


class ReLU(nnx.Module):
    """Rectified linear unit; torch.nn.ReLU. The function is `activations.relu`.

    >>> print(ReLU()(jnp.array([-1.0, 2.0])).round(4))
    [0. 2.]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.relu` of `x`."""
        return activations.relu(x)


class ReLU6(nnx.Module):
    """ReLU cut at 6; torch.nn.ReLU6. The function is `activations.relu6`.

    >>> print(ReLU6()(jnp.array([9.0])).round(4))
    [6.]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.relu6` of `x`."""
        return activations.relu6(x)


class SELU(nnx.Module):
    """Self-normalising ELU; torch.nn.SELU. The function is `activations.selu`.

    >>> print(SELU()(jnp.array([1.0])).round(4))
    [1.0507]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.selu` of `x`."""
        return activations.selu(x)


class SiLU(nnx.Module):
    """`x sigmoid(x)`; torch.nn.SiLU. The function is `activations.silu`.

    >>> print(SiLU()(jnp.array([1.0])).round(4))
    [0.73109996]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.silu` of `x`."""
        return activations.silu(x)


class Sigmoid(nnx.Module):
    """`1 / (1 + exp(-x))`; torch.nn.Sigmoid. The function is `activations.sigmoid`.

    >>> print(Sigmoid()(jnp.array([0.0])).round(4))
    [0.5]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.sigmoid` of `x`."""
        return activations.sigmoid(x)


class Softmax(nnx.Module):
    """Softmax along an axis; torch.nn.Softmax. The function is `activations.softmax`.

    >>> print(Softmax()(jnp.array([1.0, 1.0])).round(4))
    [0.5 0.5]
    """

    def __init__(self, dim: int = -1):
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softmax` of `x`."""
        return activations.softmax(x, self.dim)


class Softmin(nnx.Module):
    """Softmax of the negative along an axis; torch.nn.Softmin. The function is
    `activations.softmin`.

    >>> print(Softmin()(jnp.array([1.0, 1.0])).round(4))
    [0.5 0.5]
    """

    def __init__(self, dim: int = -1):
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softmin` of `x`."""
        return activations.softmin(x, self.dim)


class Softplus(nnx.Module):
    """Smooth ReLU, linear above `threshold / beta`; torch.nn.Softplus. The function is
    `activations.softplus`.

    >>> print(Softplus()(jnp.array([0.0])).round(4))
    [0.6931]
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta = beta
        self.threshold = threshold

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softplus` of `x`."""
        return activations.softplus(x, self.beta, self.threshold)


class Softshrink(nnx.Module):
    """Towards 0 by lambd; torch.nn.Softshrink. The function is `activations.softshrink`.

    >>> print(Softshrink()(jnp.array([2.0])).round(4))
    [1.5]
    """

    def __init__(self, lambd: float = 0.5):
        self.lambd = lambd

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softshrink` of `x`."""
        return activations.softshrink(x, self.lambd)


class Softsign(nnx.Module):
    """`x / (1 + |x|)`; torch.nn.Softsign. The function is `activations.softsign`.

    >>> print(Softsign()(jnp.array([3.0])).round(4))
    [0.75]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softsign` of `x`."""
        return activations.softsign(x)


class Tanh(nnx.Module):
    """Hyperbolic tangent; torch.nn.Tanh. The function is `activations.tanh`.

    >>> print(Tanh()(jnp.array([0.0])).round(4))
    [0.]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.tanh` of `x`."""
        return activations.tanh(x)


class Tanhshrink(nnx.Module):
    """`x - tanh(x)`; torch.nn.Tanhshrink. The function is `activations.tanhshrink`.

    >>> print(Tanhshrink()(jnp.array([0.0])).round(4))
    [0.]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.tanhshrink` of `x`."""
        return activations.tanhshrink(x)


class Threshold(nnx.Module):
    """A value in place of all below a threshold; torch.nn.Threshold. The function is
    `activations.threshold`.

    >>> print(Threshold(1.0, 7.0)(jnp.array([0.5])).round(4))
    [7.]
    """

    def __init__(self, threshold: float, value: float):
        self.threshold = threshold
        self.value = value

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.threshold` of `x`."""
        return activations.threshold(x, self.threshold, self.value)


class Softmax2d(nnx.Module):
    """Softmax over the channels of `[N H W C]`; torch.nn.Softmax2d.

    >>> Softmax2d()(jnp.ones((1, 2, 2, 4))).max().item()
    0.25
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.softmax` of `x` over its last axis."""
        check_input(x, 2, "Softmax2d")
        return activations.softmax(x)


class PReLU(nnx.Module):
    """ReLU with a learned slope below 0; torch.nn.PReLU.

    Args:
      num_parameters: 1, or the number of channels.
      init: the slope at the start.

    Parameters: `weight [num_parameters]`, torch's own name: Flax's PReLU has a scalar.

    >>> PReLU()(jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, rngs: nnx.Rngs | None = None
    ):
        del rngs  # nothing is drawn; accepted so that every layer is built the same way
        self.num_parameters = num_parameters
        self.init = init
        self.weight: nnx.Param[jax.Array] = nnx.Param(jnp.full(num_parameters, init))

    def __call__(self, x: jax.Array) -> jax.Array:  # [... C] -> the same
        """`activations.prelu` of `x` with the learned slope."""
        if self.num_parameters not in (1, x.shape[-1]):
            raise RuntimeError(
                f"PReLU has {self.num_parameters} slopes; the input has shape {x.shape}, channels last."
            )
        return activations.prelu(x, self.weight[...])


class RReLU(nnx.Module):
    """ReLU with a slope below 0 drawn from U(lower, upper), their mean in eval mode;
    torch.nn.RReLU.

    The draw uses a fork of the `dropout` stream of `rngs`.

    >>> layer = RReLU(0.25, 0.75, rngs=nnx.Rngs(0))
    >>> layer.eval()
    >>> layer(jnp.array([-1.0, 2.0])).tolist()
    [-0.5, 2.0]
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, *, rngs: nnx.Rngs):
        self.lower = lower
        self.upper = upper
        self.deterministic = False  # nnx's model.train() and model.eval() set it
        self.rngs: nnx.RngStream = rngs.dropout.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """`activations.rrelu` of `x`, with this layer's keys in train mode."""
        return activations.rrelu(
            x, self.lower, self.upper, None if self.deterministic else self.rngs()
        )
