"""The activations as layers for `Sequential`: torch.nn's classes over the functions of
`activations`.

Torch's `inplace` has no counterpart: arrays here do not change. Axes are counted in our
channels-last arrays: torch's `dim=1` of an image, the channels, is -1 here, and the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, dataclass_transform

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


@dataclass_transform(eq_default=False)
class _Elementwise(nnx.Module):
    """A layer that is one function of its input; its fields are the function's options."""

    _function: ClassVar[Callable[..., jax.Array]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_function" in vars(cls):
            dataclasses.dataclass(cls, eq=False, repr=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function of `x`, with this layer's options."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return self._function(x, *(getattr(self, field.name) for field in fields))


class CELU(_Elementwise):
    """Continuously differentiable ELU; torch.nn.CELU.

    >>> print(CELU()(jnp.array([-1.0])).round(4))
    [-0.6321]
    """

    _function = staticmethod(activations.celu)
    alpha: float = 1.0


class ELU(_Elementwise):
    """Exponential linear unit; torch.nn.ELU.

    >>> print(ELU()(jnp.array([-1.0])).round(4))
    [-0.6321]
    """

    _function = staticmethod(activations.elu)
    alpha: float = 1.0


class GELU(_Elementwise):
    """Gaussian error linear unit, exact by default; torch.nn.GELU.

    >>> print(GELU()(jnp.array([1.0])).round(4))
    [0.84129995]
    """

    _function = staticmethod(activations.gelu)
    approximate: Literal["none", "tanh"] = "none"


class GLU(_Elementwise):
    """Gated linear unit; torch.nn.GLU.

    >>> print(GLU()(jnp.array([4.0, 0.0])).round(4))
    [2.]
    """

    _function = staticmethod(activations.glu)
    dim: int = -1


class Hardshrink(_Elementwise):
    """Zero between -lambd and lambd; torch.nn.Hardshrink.

    >>> print(Hardshrink()(jnp.array([0.4])).round(4))
    [0.]
    """

    _function = staticmethod(activations.hardshrink)
    lambd: float = 0.5


class Hardsigmoid(_Elementwise):
    """Piecewise linear sigmoid; torch.nn.Hardsigmoid.

    >>> print(Hardsigmoid()(jnp.array([0.0])).round(4))
    [0.5]
    """

    _function = staticmethod(activations.hardsigmoid)


class Hardswish(_Elementwise):
    """Piecewise quadratic SiLU; torch.nn.Hardswish.

    >>> print(Hardswish()(jnp.array([3.0])).round(4))
    [3.]
    """

    _function = staticmethod(activations.hardswish)


class Hardtanh(_Elementwise):
    """Cut to [min_val, max_val]; torch.nn.Hardtanh.

    >>> print(Hardtanh()(jnp.array([2.0])).round(4))
    [1.]
    """

    _function = staticmethod(activations.hardtanh)
    min_val: float = -1.0
    max_val: float = 1.0


class LeakyReLU(_Elementwise):
    """ReLU with a slope below 0; torch.nn.LeakyReLU.

    >>> print(LeakyReLU(0.5)(jnp.array([-1.0])).round(4))
    [-0.5]
    """

    _function = staticmethod(activations.leaky_relu)
    negative_slope: float = 0.01


class LogSigmoid(_Elementwise):
    """Logarithm of the sigmoid; torch.nn.LogSigmoid.

    >>> print(LogSigmoid()(jnp.array([0.0])).round(4))
    [-0.6931]
    """

    _function = staticmethod(activations.log_sigmoid)


class LogSoftmax(_Elementwise):
    """Logarithm of the softmax along an axis; torch.nn.LogSoftmax.

    >>> print(LogSoftmax()(jnp.array([1.0, 1.0])).round(4))
    [-0.6931 -0.6931]
    """

    _function = staticmethod(activations.log_softmax)
    dim: int = -1


class Mish(_Elementwise):
    """`x tanh(softplus(x))`; torch.nn.Mish.

    >>> print(Mish()(jnp.array([1.0])).round(4))
    [0.86509997]
    """

    _function = staticmethod(activations.mish)


class ReLU(_Elementwise):
    """Rectified linear unit; torch.nn.ReLU.

    >>> print(ReLU()(jnp.array([-1.0, 2.0])).round(4))
    [0. 2.]
    """

    _function = staticmethod(activations.relu)


class ReLU6(_Elementwise):
    """ReLU cut at 6; torch.nn.ReLU6.

    >>> print(ReLU6()(jnp.array([9.0])).round(4))
    [6.]
    """

    _function = staticmethod(activations.relu6)


class SELU(_Elementwise):
    """Self-normalising ELU; torch.nn.SELU.

    >>> print(SELU()(jnp.array([1.0])).round(4))
    [1.0507]
    """

    _function = staticmethod(activations.selu)


class SiLU(_Elementwise):
    """`x sigmoid(x)`; torch.nn.SiLU.

    >>> print(SiLU()(jnp.array([1.0])).round(4))
    [0.73109996]
    """

    _function = staticmethod(activations.silu)


class Sigmoid(_Elementwise):
    """`1 / (1 + exp(-x))`; torch.nn.Sigmoid.

    >>> print(Sigmoid()(jnp.array([0.0])).round(4))
    [0.5]
    """

    _function = staticmethod(activations.sigmoid)


class Softmax(_Elementwise):
    """Softmax along an axis; torch.nn.Softmax.

    >>> print(Softmax()(jnp.array([1.0, 1.0])).round(4))
    [0.5 0.5]
    """

    _function = staticmethod(activations.softmax)
    dim: int = -1


class Softmin(_Elementwise):
    """Softmax of the negative along an axis; torch.nn.Softmin.

    >>> print(Softmin()(jnp.array([1.0, 1.0])).round(4))
    [0.5 0.5]
    """

    _function = staticmethod(activations.softmin)
    dim: int = -1


class Softplus(_Elementwise):
    """Smooth ReLU, linear above `threshold / beta`; torch.nn.Softplus.

    >>> print(Softplus()(jnp.array([0.0])).round(4))
    [0.6931]
    """

    _function = staticmethod(activations.softplus)
    beta: float = 1.0
    threshold: float = 20.0


class Softshrink(_Elementwise):
    """Towards 0 by lambd; torch.nn.Softshrink.

    >>> print(Softshrink()(jnp.array([2.0])).round(4))
    [1.5]
    """

    _function = staticmethod(activations.softshrink)
    lambd: float = 0.5


class Softsign(_Elementwise):
    """`x / (1 + |x|)`; torch.nn.Softsign.

    >>> print(Softsign()(jnp.array([3.0])).round(4))
    [0.75]
    """

    _function = staticmethod(activations.softsign)


class Tanh(_Elementwise):
    """Hyperbolic tangent; torch.nn.Tanh.

    >>> print(Tanh()(jnp.array([0.0])).round(4))
    [0.]
    """

    _function = staticmethod(activations.tanh)


class Tanhshrink(_Elementwise):
    """`x - tanh(x)`; torch.nn.Tanhshrink.

    >>> print(Tanhshrink()(jnp.array([0.0])).round(4))
    [0.]
    """

    _function = staticmethod(activations.tanhshrink)


class Threshold(_Elementwise):
    """A value in place of all below a threshold; torch.nn.Threshold.

    >>> print(Threshold(1.0, 7.0)(jnp.array([0.5])).round(4))
    [7.]
    """

    _function = staticmethod(activations.threshold)
    threshold: float
    value: float


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
                f"PReLU has {self.num_parameters} slopes; the input has shape {x.shape}, "
                "channels last."
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
