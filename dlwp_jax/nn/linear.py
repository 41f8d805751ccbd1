"""Fully connected layers, and the map as a function (chapter 6)."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dlwp_jax.nn import init
from dlwp_jax.nn.shapes import promote

T = TypeVar("T")

__all__ = ["Bilinear", "Identity", "Linear", "bilinear", "linear"]


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias` over the last axis: torch.nn.functional.linear.

    Args:
      x: `[... in]`.
      kernel: `[in out]`, torch's weight transposed.
      bias: `[out]` or None.

    Returns:
      `[... out]`, in the dtype to which the arguments promote.

    Raises:
      RuntimeError: if the last axis of the input is not that of the kernel.

    >>> linear(jnp.ones((5, 3)), jnp.ones((3, 2))).shape
    (5, 2)
    """
    in_features = jnp.shape(kernel)[0]
    if jnp.ndim(x) == 0 or jnp.shape(x)[-1] != in_features:
        raise RuntimeError(
            f"Linear takes [... {in_features}]; the input has shape {jnp.shape(x)}."
        )
    x, kernel, bias = promote(x, kernel, bias)
    y = x @ kernel
    return y if bias is None else y + bias


class Linear(nnx.Module):
    """`y = x @ kernel + bias` over the last axis, initialised as torch.nn.Linear.

    Args:
      in_features: size of the input's last axis.
      out_features: size of the output's last axis.
      bias: whether to add a bias.
      rngs: its `params` stream draws kernel and bias.
      dtype: dtype of the computation; None takes the one to which input and parameters
        promote.
      param_dtype: dtype of the parameters.
      kernel_init, bias_init: initialisers; None takes torch's U(-1/sqrt(in), 1/sqrt(in)).

    Parameters: `kernel [in_features, out_features]` (torch's weight, transposed), `bias
    [out_features]`.

    Raises:
      RuntimeError: if the last axis of the input is not `in_features`.

    >>> layer = Linear(3, 2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: init.Initializer | None = None,
        bias_init: init.Initializer | None = None,
    ):
        kernel_init = kernel_init or init.torch_kernel
        bias_init = bias_init or init.torch_bias(in_features)
        self.in_features = in_features
        self.out_features = out_features
        self.dtype: DTypeLike | None = dtype
        self.kernel: nnx.Param[jax.Array] = nnx.Param(
            kernel_init(rngs.params(), (in_features, out_features), param_dtype)
        )
        self.bias: nnx.Param[jax.Array] | None = (
            nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype)) if bias else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:  # [... in_features] -> [... out_features]
        """Apply the layer to the last axis of `x`."""
        bias = None if self.bias is None else self.bias[...]
        return linear(*promote(x, self.kernel[...], bias, dtype=self.dtype))


def bilinear(
    x1: jax.Array, x2: jax.Array, kernel: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """`sum_ij x1[i] kernel[j, i, o] x2[j] + bias[o]`: torch.nn.functional.bilinear.

    Args:
      x1: `[... in1]`.
      x2: `[... in2]`.
      kernel: `[in2 in1 out]`, torch's weight with its axes reversed.
      bias: `[out]` or None.

    Returns:
      `[... out]`.

    >>> bilinear(jnp.array([2.0]), jnp.array([3.0]), jnp.ones((1, 1, 1))).tolist()
    [6.0]
    """
    x1, x2, kernel, bias = promote(x1, x2, kernel, bias)
    y = jnp.einsum("...i,...j,jio->...o", x1, x2, kernel)
    return y if bias is None else y + bias


class Bilinear(nnx.Module):
    """A product of two inputs, `x1 W x2 + b`, initialised as torch.nn.Bilinear.

    Args:
      in1_features, in2_features: sizes of the inputs' last axes.
      out_features: size of the output's last axis.
      bias: whether to add a bias.
      rngs: its `params` stream draws kernel and bias, from U(-1/sqrt(in1), 1/sqrt(in1)).
      dtype: dtype of the computation; None promotes.
      param_dtype: dtype of the parameters.

    Parameters: `kernel [in2_features, in1_features, out_features]`, `bias [out_features]`.

    >>> Bilinear(3, 4, 2, rngs=nnx.Rngs(0))(jnp.ones((5, 3)), jnp.ones((5, 4))).shape
    (5, 2)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.dtype: DTypeLike | None = dtype
        draw = init.torch_bias(in1_features)
        shape = in2_features, in1_features, out_features
        self.kernel: nnx.Param[jax.Array] = nnx.Param(draw(rngs.params(), shape, param_dtype))
        self.bias: nnx.Param[jax.Array] | None = (
            nnx.Param(draw(rngs.params(), (out_features,), param_dtype)) if bias else None
        )

    def __call__(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        """The product over the last axes of both inputs."""
        bias = None if self.bias is None else self.bias[...]
        return bilinear(*promote(x1, x2, self.kernel[...], bias, dtype=self.dtype))


class Identity(nnx.Module):
    """The input itself, whatever arguments (`args`, `kwargs`) the layer was given;
    torch.nn.Identity.

    >>> Identity(54)(3.0)
    3.0
    """

    def __init__(self, *args: object, **kwargs: object):
        del args, kwargs

    def __call__(self, x: T) -> T:
        """`x`."""
        return x
