"""Normalisation within each example: LayerNorm, RMSNorm, GroupNorm, InstanceNorm, torch's
defaults.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dlwp_jax.nn import windows
from dlwp_jax.nn.batch_norm import Affine, RunningMoments, moments, normalize
from dlwp_jax.nn.shapes import check_input, floating, over_batch, wide

__all__ = [
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
]


def layer_norm(
    x: jax.Array,
    normalized_shape: int | Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the last axes:
    torch.nn.functional.layer_norm.

    Args:
      x: `[... *normalized_shape]`.
      normalized_shape: the shape of the last axes, or an int. Torch's (C, H, W) is (H, W, C)
        here.
      weight, bias: of shape `normalized_shape`, or None.
      eps: added to the variance.

    Raises:
      RuntimeError: if the last axes, the weight or the bias have another shape.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), 2).round(2).tolist()
    [[-1.0, 1.0]]
    """
    x, shape = floating(x), _shape(normalized_shape)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != shape:
            raise RuntimeError(f"layer_norm: {name} has shape {value.shape}, not {shape}.")
    axes = _last_axes(x, shape, "LayerNorm")
    return normalize(x, *moments(x, axes), eps, weight, bias)


def rms_norm(
    x: jax.Array,
    normalized_shape: int | Sequence[int],
    weight: jax.Array | None = None,
    eps: float | None = None,
) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axes; torch.nn.functional.rms_norm.

    Args:
      x, normalized_shape, weight: as for `layer_norm`.
      eps: None takes the smallest step of the input's dtype.

    >>> rms_norm(jnp.array([[3.0, 3.0]]), 2).round(3).tolist()
    [[1.0, 1.0]]
    """
    x = floating(x)
    axes = _last_axes(x, _shape(normalized_shape), "RMSNorm")
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    power = jnp.square(wide(x)).mean(axes, keepdims=True)
    return normalize(x, 0.0, power, eps, weight)


def group_norm(
    x: jax.Array,
    num_groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalise each example over all places and a group of channels;
    torch.nn.functional.group_norm.

    Args:
      x: `[N ... C]`.
      num_groups: how many groups the channels are split into.
      weight, bias: `[C]` or None.
      eps: added to the variance.

    >>> group_norm(jnp.array([[1.0, 3.0]]), 1).round(2).tolist()
    [[-1.0, 1.0]]
    """
    grouped = floating(x).reshape(*x.shape[:-1], num_groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    affine = (
        None if value is None else value.reshape(grouped.shape[-2:]) for value in (weight, bias)
    )
    return normalize(grouped, *moments(grouped, axes), eps, *affine).reshape(x.shape)


def instance_norm(
    x: jax.Array,
    running_mean: jax.Array | None = None,
    running_var: jax.Array | None = None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
) -> jax.Array:
    """Normalise each channel of each example over its places;
    torch.nn.functional.instance_norm.

    Nothing is moved: the layers `InstanceNorm1d` to `InstanceNorm3d` keep running values.

    Args:
      x: `[N *spatial C]`.
      running_mean, running_var: `[C]`, by which to normalise without `use_input_stats`.
      weight, bias: `[C]` or None.
      use_input_stats: normalise by the moments of each example.
      eps: added to the variance.

    Raises:
      ValueError: for a single place per channel, or no running values where they are needed.

    >>> instance_norm(jnp.array([[[1.0], [3.0]]])).round(2)[0, :, 0].tolist()
    [-1.0, 1.0]
    """
    x = floating(x)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("instance_norm needs running_mean and running_var here.")
        return normalize(x, running_mean, running_var, eps, weight, bias)
    if x[0, ..., 0].size == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {x.shape}."
        )
    return normalize(x, *moments(x, tuple(range(1, x.ndim - 1))), eps, weight, bias)


def local_response_norm(
    x: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """`x / (k + alpha * mean(x^2))^beta`, the mean over neighbouring channels, with zeros
    beyond the first and the last; torch.nn.functional.local_response_norm.

    Args:
      x: `[N ... C]`.
      size: how many channels.

    >>> local_response_norm(jnp.ones((1, 1, 2)), 2, alpha=2.0, beta=1.0).tolist()
    [[[0.5, 0.3333333432674408]]]
    """
    if x.ndim < 3:
        raise ValueError(f"local_response_norm takes [N ... C]; the input has shape {x.shape}.")
    x = floating(x)
    around = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
    squares = jnp.pad(jnp.square(wide(x)), around)
    total = sum(windows.places(squares, x.ndim - 1, size, 1, 1))
    return (x / (k + alpha / size * total) ** beta).astype(x.dtype)


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    one = isinstance(normalized_shape, int)
    return (normalized_shape,) if one else tuple(normalized_shape)


def _last_axes(x: jax.Array, shape: tuple[int, ...], owner: str) -> tuple[int, ...]:
    """The last axes of `x`, which must have that shape."""
    n = len(shape)
    if x.shape[-n:] != shape:
        wanted = " ".join(str(size) for size in shape)
        raise RuntimeError(
            f"{owner} takes [... {wanted}], channels last; the input has shape {x.shape}."
        )
    return tuple(range(-n, 0))


class _OverLastAxes(Affine):
    """A normalisation over the last axes, of shape `normalized_shape`."""

    def _set_shape(self, normalized_shape):
        self.normalized_shape: tuple[int, ...] = _shape(normalized_shape)


class LayerNorm(_OverLastAxes):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last axes; torch.nn.LayerNorm.

    Args:
      normalized_shape: an int, or the shape of the last axes. Torch's (C, H, W) is (H, W, C)
        here.
      eps: added to the variance.
      elementwise_affine: whether there are `scale` and `bias`.
      bias: whether there is a `bias` beside the scale.

    Parameters: `scale` and `bias`, of shape `normalized_shape`.

    Raises:
      RuntimeError: if the last axes have another shape.

    >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(2).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        del rngs  # nothing is drawn; accepted so that every layer is built the same way
        self._set_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make_affine(self.normalized_shape, elementwise_affine, bias, param_dtype)

    def __call__(self, x: jax.Array) -> jax.Array:  # [... *normalized_shape] -> the same
        """Normalise `x` over its last axes."""
        scale, bias = self._affine()
        return layer_norm(x, self.normalized_shape, scale, bias, self.eps)


class RMSNorm(_OverLastAxes):
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axes; torch.nn.RMSNorm.

    Args:
      normalized_shape: an int, or the shape of the last axes.
      eps: None takes the smallest step of the input's dtype.
      elementwise_affine: whether there is a `scale`.

    Parameters: `scale`, of shape `normalized_shape`.

    >>> RMSNorm(2)(jnp.array([[3.0, 3.0]])).round(3).tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        del rngs  # nothing is drawn; accepted so that every layer is built the same way
        self._set_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make_affine(self.normalized_shape, elementwise_affine, False, param_dtype)

    def __call__(self, x: jax.Array) -> jax.Array:  # [... *normalized_shape] -> the same
        """Normalise `x` over its last axes."""
        return rms_norm(x, self.normalized_shape, self._affine()[0], self.eps)


class GroupNorm(Affine):
    """Normalise each example over all places and a group of channels; torch.nn.GroupNorm.

    Args:
      num_groups: how many groups the channels are split into.
      num_channels: size of the last axis.
      eps: added to the variance.
      affine: whether there are `scale` and `bias`.
      bias: whether there is a `bias` beside the scale.

    Parameters: `scale [C]`, `bias [C]`.

    Raises:
      ValueError: if the groups do not divide the channels.
      RuntimeError: if the input has other channels.

    >>> GroupNorm(2, 6)(jnp.ones((3, 4, 4, 6))).shape
    (3, 4, 4, 6)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        rngs: nnx.Rngs | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        del rngs  # nothing is drawn; accepted so that every layer is built the same way
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_channels={num_channels} must be divisible by num_groups={num_groups}."
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._make_affine(num_channels, affine, bias, param_dtype)

    def __call__(self, x: jax.Array) -> jax.Array:  # [N ... C] -> the same
        """Normalise the groups of channels of `x`."""
        if x.ndim < 2 or x.shape[-1] != self.num_channels:
            raise RuntimeError(
                f"GroupNorm takes [N ... {self.num_channels}], channels last; the input "
                f"has shape {x.shape}."
            )
        return group_norm(x, self.num_groups, *self._affine(), eps=self.eps)


class _InstanceNorm(RunningMoments):
    _spatial_axes: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        rngs: nnx.Rngs | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        del rngs  # nothing is drawn; accepted so that every layer is built the same way
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias, param_dtype
        )

    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> the same
        """Normalise every channel of every example; in eval mode by the running moments, if
        there are any.
        """
        n = self._spatial_axes
        check_input(x, n, type(self).__name__, self.num_features, ValueError)
        return over_batch(self._batched, x, n)

    def _batched(self, x):
        x = floating(x)
        running = self._running()
        if running is not None:
            return self._normalize(x, *running)
        count = x[0, ..., 0].size
        if count == 1:
            raise ValueError(
                f"Expected more than 1 spatial element when training, got input size {x.shape}."
            )
        mean, var = moments(x, tuple(range(1, x.ndim - 1)))
        weight = (
            self.momentum or 0.0
        )  # torch: momentum=None leaves the running values of InstanceNorm as they are
        self._track(
            mean.reshape(x.shape[0], -1).mean(0),
            var.reshape(x.shape[0], -1).mean(0),
            count,
            weight,
        )
        return self._normalize(x, mean, var)


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each example of `[N L C]` over its places;
    torch.nn.InstanceNorm1d.

    Arguments, parameters and statistics as for `BatchNorm1d`, except that `affine` and
    `track_running_stats` are off by default. Tracked values move by the mean of the examples'
    moments; `num_batches_tracked` stays 0, as in torch.

    Raises:
      ValueError: for the wrong rank or channels, or a single place per channel.

    >>> InstanceNorm1d(1)(jnp.array([[[1.0], [3.0]]])).round(2)[0, :, 0].tolist()
    [-1.0, 1.0]
    """

    _spatial_axes = 1


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each example of `[N H W C]`; torch.nn.InstanceNorm2d. See
    `InstanceNorm1d`.

    >>> InstanceNorm2d(3)(jnp.ones((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    _spatial_axes = 2


class InstanceNorm3d(_InstanceNorm):
    """Normalise each channel of each example of `[N D H W C]`; torch.nn.InstanceNorm3d. See
    `InstanceNorm1d`.

    >>> InstanceNorm3d(3)(jnp.ones((2, 4, 4, 4, 3))).shape
    (2, 4, 4, 4, 3)
    """

    _spatial_axes = 3


class LocalResponseNorm(nnx.Module):
    """`local_response_norm` as a layer; torch.nn.LocalResponseNorm.

    >>> LocalResponseNorm(2)(jnp.ones((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def __call__(self, x: jax.Array) -> jax.Array:  # [N ... C] -> the same
        """`local_response_norm` of `x`."""
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)
