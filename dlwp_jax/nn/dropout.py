"""Dropout of values, or of whole channels (chapter 8)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn.shapes import check_input

__all__ = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "dropout"]


def dropout(
    x: jax.Array,
    p: float | jax.Array = 0.5,
    training: bool = True,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """Zero each value with probability `p`, scale the rest by 1 / (1 - p), if `training`:
    torch.nn.functional.dropout.

    Args:
      x: any shape.
      p: the probability of zero; a number, or a traced scalar to be swept.
      training: whether to drop; if not, `x` itself is returned.
      key: a PRNG key, which training needs.

    Raises:
      ValueError: if p is not in [0, 1], or there is no key in training.

    >>> sorted(set(dropout(jnp.ones(100), key=jax.random.key(0)).tolist()))
    [0.0, 2.0]
    """
    _check_probability(p)
    if not training or (not isinstance(p, jax.Array) and p == 0):
        return x
    if key is None:
        raise ValueError(
            "dropout draws in training: give it a key (key=jax.random.key(0), or "
            "key=self.rngs.dropout() inside a module), or training=False."
        )
    return _drop(x, p, key, jnp.shape(x))


def _check_probability(p) -> None:
    if not isinstance(p, jax.Array) and not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}.")


def _drop(x, p, key, shape):
    """`x` with each entry of a mask of `shape` zero with probability `p`."""
    keep = jax.random.bernoulli(key, 1 - p, shape)
    # At p = 1, 1 / (1 - p) would be infinite and its gradient NaN.
    kept = jnp.where(p == 1, 1.0, 1 - p)
    return jnp.where(keep, x / kept, 0.0).astype(jnp.result_type(x, 0.0))


class Dropout(nnx.Module):
    """Zero each value with probability `p`, scale the rest by 1 / (1 - p), in train mode;
    torch.nn.Dropout.

    Args:
      p: the probability of zero; a number, or a traced scalar to be swept.
      rngs: its `dropout` stream (or its default one) is forked: the layer holds an own stream
        of keys.

    Raises:
      ValueError: if p is not in [0, 1].

    >>> layer = Dropout(0.5, rngs=nnx.Rngs(0))
    >>> sorted(set(layer(jnp.ones(100)).tolist()))
    [0.0, 2.0]
    >>> layer.eval()
    >>> set(layer(jnp.ones(100)).tolist())
    {1.0}
    """

    def __init__(self, p: float | jax.Array = 0.5, *, rngs: nnx.Rngs):
        _check_probability(p)
        self.p: float | jax.Array = nnx.data(p) if isinstance(p, jax.Array) else p
        self.deterministic = False  # nnx's model.train() and model.eval() set it
        self.rngs: nnx.RngStream = rngs.dropout.fork()

    def _mask_shape(self, x) -> tuple[int, ...]:
        return x.shape

    def __call__(self, x: jax.Array) -> jax.Array:  # any shape -> the same
        """Drop values of `x` in train mode; `x` itself in eval mode."""
        shape = self._mask_shape(x)
        if self.deterministic or (not isinstance(self.p, jax.Array) and self.p == 0):
            return x
        return _drop(x, self.p, self.rngs(), shape)


class _ChannelDropout(Dropout):
    _spatial_axes: int

    def _mask_shape(self, x):
        n = self._spatial_axes
        check_input(x, n, type(self).__name__)
        return (*x.shape[: -n - 1], *(1,) * n, x.shape[-1])


class Dropout1d(_ChannelDropout):
    """Zero whole channels of `[N L C]` with probability `p`; torch.nn.Dropout1d. Otherwise as
    `Dropout`.

    >>> Dropout1d(0.5, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 3))).std(axis=1).max().item()
    0.0
    """

    _spatial_axes = 1


class Dropout2d(_ChannelDropout):
    """Zero whole channels of `[N H W C]` with probability `p`; torch.nn.Dropout2d. Otherwise as
    `Dropout`.

    >>> Dropout2d(0.5, rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 3))).std(axis=(1, 2)).max().item()
    0.0
    """

    _spatial_axes = 2


class Dropout3d(_ChannelDropout):
    """Zero whole channels of `[N D H W C]` with probability `p`; torch.nn.Dropout3d. Otherwise
    as `Dropout`.

    >>> y = Dropout3d(0.5, rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 4, 3)))
    >>> y.std(axis=(1, 2, 3)).max().item()
    0.0
    """

    _spatial_axes = 3
