"""Batch normalisation (chapter 8), with torch's statistics."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.nn.shapes import floating, layout

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "batch_norm"]

# A plain array, or a variable that training moves.
Running = jax.Array | nnx.Variable[jax.Array]


def batch_norm(
    x: jax.Array,
    running_mean: Running | None,
    running_var: Running | None,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """Batch normalisation of every channel: torch.nn.functional.batch_norm, channels last.

    Args:
      x: `[N *spatial C]`.
      running_mean, running_var: `[C]`, by which evaluation normalises. Training moves them in
        place, so there they are None or NNX variables (`self.mean`, not `self.mean[...]`).
      weight, bias: `[C]` or None.
      training: normalise by the moments of the batch instead.
      momentum: the weight of the batch's moments in the running ones.
      eps: added to the variance.

    Raises:
      TypeError: for running arrays in training, which cannot be moved.
      ValueError: for one value per channel in training, or no running values in evaluation.

    >>> x = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> mean, var = nnx.BatchStat(jnp.zeros(2)), nnx.BatchStat(jnp.ones(2))
    >>> batch_norm(x, mean, var, training=True).round(2).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> print(mean[...], var[...])
    [0.1 0.2] [1.1 1.1]
    """
    x = floating(x)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm takes both of running_mean and running_var, or neither.")
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm needs running_mean and running_var in evaluation.")
        return normalize(x, running_mean[...], running_var[...], eps, weight, bias)
    count = _values_per_channel(x)
    y, mean, var = _by_moments_of_batch(x, weight, bias, eps)
    if running_mean is None or running_var is None:
        return y
    if not isinstance(running_mean, nnx.Variable) or not isinstance(running_var, nnx.Variable):
        raise TypeError(
            "batch_norm moves running_mean and running_var in training, and an array cannot "
            "be changed: give the NNX variables (self.mean, not self.mean[...]), or None."
        )
    _move(running_mean, mean, momentum)
    _move(running_var, var * (count / (count - 1)), momentum)
    return y


def _values_per_channel(x: jax.Array) -> int:
    """The number of values that a moment in train mode is taken over; refuse a single one."""
    count = math.prod(x.shape[:-1])
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape}."
        )
    return count


def _by_moments_of_batch(x, scale, bias, eps):
    """`x` normalised by the moments of the batch, and these moments `[C]`."""
    channels = x.shape[-1]
    scale = jnp.ones(channels, jnp.float32) if scale is None else scale
    bias = jnp.zeros(channels, jnp.float32) if bias is None else bias
    axes = tuple(range(x.ndim - 1))
    y, mean, var = normalize_by_moments(x, scale, bias, eps, axes)
    return y, mean.reshape(-1), var.reshape(-1)


def _move(running: nnx.Variable[jax.Array], new: jax.Array, weight: ArrayLike) -> None:
    """Move a running value by `weight` towards `new`, in its own dtype."""
    old = running[...]
    moved = (1 - weight) * old + weight * jax.lax.stop_gradient(new)
    running[...] = moved.astype(old.dtype)


def moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over `axes`, kept, in at least float32 and in two passes.

    Two passes because E[x^2] - E[x]^2 loses everything if the mean is large: at a mean of
    1000, as in CT data, its error is 0.28.

    >>> mean, var = moments(jnp.array([[1000.0, 1002.0]]), (1,))
    >>> mean.item(), var.item()
    (1001.0, 1.0)
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def normalize(
    x: jax.Array,
    mean: ArrayLike,
    var: ArrayLike,
    eps: float,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * scale + bias` in the dtype of `x`.

    The computation is in at least float32.

    >>> normalize(jnp.array([3.0]), 1.0, 4.0, 0.0).tolist()
    [1.0]
    """
    factor = jax.lax.rsqrt(var + eps)
    y = (x - mean) * (factor if scale is None else factor * scale)
    return (y if bias is None else y + bias).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalize_by_moments(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`normalize` by the moments over `axes`; returns (y, mean, var).

    The derivative is written so that its transpose reads the cotangent in two sums, that of the
    cotangent and that of its product with the normalised input, which give the gradients of
    bias, scale and input alike; JAX's own takes more passes over the array (`scripts/bench
    layers` has both).

    >>> x = jnp.array([[1.0], [3.0]])
    >>> y, mean, var = normalize_by_moments(x, jnp.ones(1), jnp.zeros(1), 0.0, (0,))
    >>> y.tolist(), mean.item(), var.item()
    ([[-1.0], [1.0]], 2.0, 1.0)
    """
    mean, var = moments(x, axes)
    return normalize(x, mean, var, eps, scale, bias), mean, var


@normalize_by_moments.defjvp
def _normalize_by_moments_jvp(eps, axes, primals, tangents):
    x, scale, bias = primals
    y, mean, var = normalize_by_moments(x, scale, bias, eps, axes)
    deviation = jax.lax.rsqrt(var + eps)
    unit = (x - mean) * deviation
    dx, dscale, dbias = tangents
    dx = dx.astype(mean.dtype)
    dmean, along = dx.mean(axes, keepdims=True), (dx * unit).mean(axes, keepdims=True)
    slope = scale * deviation
    dy = slope * dx + (dbias - slope * dmean) + unit * (dscale - slope * along)
    return (y, mean, var), (dy.astype(y.dtype), dmean, 2 * along / deviation)


class Affine(nnx.Module):
    """The scale and the bias that a normalisation may end with."""

    def _make_affine(self, shape, scale: bool, bias: bool, param_dtype):
        self.scale: nnx.Param[jax.Array] | None = (
            nnx.Param(jnp.ones(shape, param_dtype)) if scale else None
        )
        self.bias: nnx.Param[jax.Array] | None = (
            nnx.Param(jnp.zeros(shape, param_dtype)) if scale and bias else None
        )

    def _affine(self):
        """Scale and bias, or None in their places."""
        return tuple(
            None if parameter is None else parameter[...]
            for parameter in (self.scale, self.bias)
        )


class RunningMoments(Affine):
    """Scale, bias and running moments per channel, for BatchNorm and InstanceNorm.

    Parameters: `scale [C]`, `bias [C]` (None without `affine`). Statistics (`nnx.BatchStat`):
      `mean [C]`, `var [C]` and `num_batches_tracked []` (None without `track_running_stats`).
    """

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        param_dtype: DTypeLike,
    ):
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.use_running_average = False  # nnx's model.train() and model.eval() set it
        self._make_affine(num_features, affine, bias, param_dtype)
        tracked = track_running_stats
        self.mean: nnx.BatchStat[jax.Array] | None = (
            nnx.BatchStat(jnp.zeros(num_features, jnp.float32)) if tracked else None
        )
        self.var: nnx.BatchStat[jax.Array] | None = (
            nnx.BatchStat(jnp.ones(num_features, jnp.float32)) if tracked else None
        )
        self.num_batches_tracked: nnx.BatchStat[jax.Array] | None = (
            nnx.BatchStat(jnp.zeros((), jnp.int32)) if tracked else None
        )

    def _normalize(self, x, mean, var):
        return normalize(floating(x), mean, var, self.eps, *self._affine())

    def _running(self):
        """The running (mean, var) if eval mode uses them, else None."""
        if not self.use_running_average or self.mean is None or self.var is None:
            return None
        return self.mean[...], self.var[...]

    def _track(self, mean, var, count: int, weight):
        """In train mode, move the running values by `weight` towards `mean` and the unbiased
        `var` `[C]`.
        """
        if self.use_running_average or self.mean is None or self.var is None or count == 0:
            return
        _move(self.mean, mean, weight)
        _move(self.var, var * (count / (count - 1)), weight)


class _BatchNorm(RunningMoments):
    _ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
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
        """Normalise every channel by the batch's moments, or by the running ones in eval
        mode.
        """
        if x.ndim not in self._ranks or x.shape[-1] != self.num_features:
            takes = " or ".join(
                layout(rank - 2, self.num_features) if rank > 2 else f"[N {self.num_features}]"
                for rank in self._ranks
            )
            first = x.ndim > 2 and x.shape[1] == self.num_features
            hint = (
                " (torch's channels first? Turn it over with jnp.moveaxis(x, 1, -1))"
                if first
                else ""
            )
            raise ValueError(
                f"{type(self).__name__} takes {takes}, channels last; the input has shape "
                f"{x.shape}{hint}."
            )
        running = self._running()
        if running is not None:
            return self._normalize(x, *running)
        count = 0 if self.use_running_average else _values_per_channel(x)
        scale, bias = self._affine()
        y, mean, var = _by_moments_of_batch(floating(x), scale, bias, self.eps)
        self._track(mean, var, count, self._next_weight())
        return y

    def _next_weight(self):
        """Count the batch in train mode; the weight of its moments."""
        if self.use_running_average or self.num_batches_tracked is None or self.mean is None:
            return self.momentum
        self.num_batches_tracked[...] += 1
        if self.momentum is not None:
            return self.momentum
        return 1 / self.num_batches_tracked[...].astype(self.mean[...].dtype)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of `[N C]` or `[N L C]`; torch.nn.BatchNorm1d.

    `y = (x - mean) / sqrt(var + eps) * scale + bias` with the moments of the batch in train
    mode and the running ones in eval mode. Running values move by `new = (1 - momentum) * old +
    momentum * batch`, with the unbiased variance; `momentum=None` takes the plain average over
    all batches. nnx's `model.train()` and `model.eval()` switch.

    Args:
      num_features: channels, the size of the last axis.
      eps: added to the variance.
      momentum: the weight of the new value (Flax's is the weight of the old one), or None.
      affine: whether there are `scale` and `bias`.
      bias: whether there is a `bias` beside the scale.
      track_running_stats: whether there are running values; without them, eval mode uses the
        batch's moments too.

    Parameters: `scale [C]`, `bias [C]`; statistics (`nnx.BatchStat`): `mean [C]`, `var [C]`,
      `num_batches_tracked []`.

    Raises:
      ValueError: for the wrong rank or channels, or one value per channel in train mode.

    >>> norm = BatchNorm1d(3, momentum=0.5)
    >>> norm(jnp.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])).round(2).tolist()
    [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    >>> print(norm.mean[...], norm.var[...])
    [0.5 1.  1.5] [1.5 1.5 1.5]
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of `[N H W C]`; torch.nn.BatchNorm2d. See `BatchNorm1d`.

    >>> BatchNorm2d(3)(jnp.ones((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of `[N D H W C]`; torch.nn.BatchNorm3d. See `BatchNorm1d`.

    >>> BatchNorm3d(3)(jnp.ones((2, 4, 4, 4, 3))).shape
    (2, 4, 4, 4, 3)
    """

    _ranks = (5,)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of `[N ... C]` over all devices; torch.nn.SyncBatchNorm.

    Every BatchNorm here is one by nature: on a sharded batch a mean is that of the whole batch,
    and XLA adds the exchange between devices. See `BatchNorm1d`.

    >>> SyncBatchNorm(3)(jnp.ones((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    _ranks = (2, 3, 4, 5)
