"""Initialisers with torch.nn.init's distributions, in Flax's calling form `initializer(key,
shape, dtype)`.

Shapes are Flax's: the last axis of a kernel counts the outputs, so `[in, out]` and `[*spatial,
in, out]` give torch's fan-in (product of all other axes) and fan-out (spatial axes times
outputs). A transposed convolution's `[*spatial, out, in]` gives torch's own reading of its
`[in, out, *spatial]` weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]

_LINEAR = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
_GAINS = {
    **dict.fromkeys((*_LINEAR, "sigmoid"), 1.0),
    "tanh": 5 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps variance through a nonlinearity; torch.nn.init.calculate_gain.

    Args:
      nonlinearity: 'linear', 'conv1d' .. 'conv_transpose3d', 'sigmoid', 'tanh', 'relu',
        'leaky_relu' or 'selu'.
      param: the negative slope of 'leaky_relu' (0.01 if None).

    >>> round(calculate_gain("tanh"), 4)
    1.6667
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            f"nonlinearity={nonlinearity!r} is unknown; take one of {[*_GAINS, 'leaky_relu']}."
        )
    return _GAINS[nonlinearity]


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Fan-in and fan-out of a kernel `[*spatial, in, out]`.

    >>> fans((3, 3, 16, 8))
    (144, 72)
    """
    if len(shape) < 2:
        raise ValueError(
            f"fan-in and fan-out need a kernel of 2 axes or more; the shape is {tuple(shape)}."
        )
    return math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]


def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """U(a, b); torch.nn.init.uniform_.

    >>> uniform(2.0, 3.0)(jax.random.key(0), (4,)).shape
    (4,)
    """
    return lambda key, shape, dtype=jnp.float32: _draw(
        jax.random.uniform, key, shape, dtype, minval=a, maxval=b
    )


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """N(mean, std^2); torch.nn.init.normal_.

    >>> normal(std=0.02)(jax.random.key(0), (4,)).shape
    (4,)
    """
    return lambda key, shape, dtype=jnp.float32: (
        mean + std * _draw(jax.random.normal, key, shape, dtype)
    )


def trunc_normal(
    mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Initializer:
    """N(mean, std^2) cut to [a, b], which are values and not multiples of std;
    torch.nn.init.trunc_normal_.

    >>> trunc_normal(std=0.02)(jax.random.key(0), (4,)).shape
    (4,)
    """

    def initializer(key, shape, dtype=jnp.float32):
        low, high = (a - mean) / std, (b - mean) / std
        drawn = _draw(jax.random.truncated_normal, key, shape, dtype, lower=low, upper=high)
        return mean + std * drawn

    return initializer


def constant(value: float) -> Initializer:
    """The same value everywhere; torch.nn.init.constant_.

    >>> constant(0.5)(None, (2,)).tolist()
    [0.5, 0.5]
    """
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, value, dtype)


def zeros() -> Initializer:
    """All zero; torch.nn.init.zeros_.

    >>> zeros()(None, (2,)).tolist()
    [0.0, 0.0]
    """
    return constant(0.0)


def ones() -> Initializer:
    """All one; torch.nn.init.ones_.

    >>> ones()(None, (2,)).tolist()
    [1.0, 1.0]
    """
    return constant(1.0)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """U(-l, l) with l = gain sqrt(6 / (fan_in + fan_out)); torch.nn.init.xavier_uniform_.

    >>> bool(abs(xavier_uniform()(jax.random.key(0), (3, 3))).max() <= 1)
    True
    """
    return _uniform_of_std(lambda shape: gain * math.sqrt(2 / sum(fans(shape))))


def xavier_normal(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 2 / (fan_in + fan_out)); torch.nn.init.xavier_normal_.

    >>> xavier_normal()(jax.random.key(0), (3, 3)).shape
    (3, 3)
    """
    return _normal_of_std(lambda shape: gain * math.sqrt(2 / sum(fans(shape))))


def kaiming_uniform(
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> Initializer:
    """U(-l, l) with l = gain sqrt(3 / fan); torch.nn.init.kaiming_uniform_.

    Args:
      a: the negative slope that `calculate_gain` takes, for 'leaky_relu'.
      mode: 'fan_in' keeps the variance of the forward pass, 'fan_out' that of the backward
        pass.
      nonlinearity: as in `calculate_gain`.

    >>> bool(abs(kaiming_uniform()(jax.random.key(0), (6, 3))).max() <= 1)
    True
    """
    return _uniform_of_std(_kaiming_std(a, mode, nonlinearity))


def kaiming_normal(
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> Initializer:
    """N(0, gain^2 / fan); torch.nn.init.kaiming_normal_. Arguments as for `kaiming_uniform`.

    >>> kaiming_normal(nonlinearity="relu")(jax.random.key(0), (6, 3)).shape
    (6, 3)
    """
    return _normal_of_std(_kaiming_std(a, mode, nonlinearity))


def orthogonal(gain: float = 1.0) -> Initializer:
    """A (semi-)orthogonal matrix `[product of the other axes, out]`, times gain;
    torch.nn.init.orthogonal_.

    >>> w = orthogonal()(jax.random.key(0), (4, 2))
    >>> bool(jnp.allclose(w.T @ w, jnp.eye(2), atol=1e-6))
    True
    """
    return jax.nn.initializers.orthogonal(gain)


def torch_bias(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the bias of torch's Linear and Conv layers.

    >>> bool(abs(torch_bias(4)(jax.random.key(0), (8,))).max() <= 0.5)
    True
    """
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    return uniform(-bound, bound)


def _kaiming_std(a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode={mode!r} is unknown; take 'fan_in' or 'fan_out'.")
    gain = calculate_gain(nonlinearity, a)
    return lambda shape: gain / math.sqrt(fans(shape)[mode == "fan_out"])


def _uniform_of_std(std_of) -> Initializer:
    def initializer(key, shape, dtype=jnp.float32):
        bound = math.sqrt(3.0) * std_of(shape)
        return _draw(jax.random.uniform, key, shape, dtype, minval=-bound, maxval=bound)

    return initializer


def _normal_of_std(std_of) -> Initializer:
    return lambda key, shape, dtype=jnp.float32: (
        std_of(shape) * _draw(jax.random.normal, key, shape, dtype)
    )


# Up to this size an array is cut from one of the next power of 2: few programs make all.
_CUT = 2**16


def _draw(draw, key, shape, dtype, **bounds):
    """The numbers of `draw(key, shape=shape)`, made as one axis and then given their shape.

    XLA compiles a random array of five axes in 1.4 s and one of one axis in 0.2 s. Number i
    of an array depends on the key and on i alone.
    """
    size = math.prod(shape)
    drawn = 1 << (size - 1).bit_length() if 0 < size <= _CUT else size
    return draw(key, shape=(drawn,), dtype=dtype, **bounds)[:size].reshape(shape)


# The weight of torch's Linear and Conv layers: the same bound, 1/sqrt(fan_in), as their bias.
torch_kernel: Initializer = kaiming_uniform(a=math.sqrt(5))
