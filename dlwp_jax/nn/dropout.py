"""Dropout of values, of whole channels (chapter 8), or of whole branches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn.shapes import check_input, layout

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "StochasticDepth",
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]


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
    return _applied(_drop, x, p, training, key, jnp.shape(x))


def _applied(drop, x, p, training, key, shape):
    """`drop` with a mask of `shape`, if anything is to be dropped."""
    _check_probability(p)
    if not training or (not isinstance(p, jax.Array) and p == 0):
        return x
    if key is None:
        raise ValueError(
            "dropout draws in training: give it a key (key=jax.random.key(0), or "
            "key=self.rngs.dropout() inside a module), or training=False."
        )
    return drop(x, p, key, shape)


def _of_channels(x, n: int, owner: str) -> tuple[int, ...]:
    """The shape of a mask with one entry for each channel of `[N *spatial C]`."""
    check_input(x, n, owner)
    return (*x.shape[: -n - 1], *(1,) * n, x.shape[-1])


def _of_axes(n: int):
    def function(
        x: jax.Array,
        p: float | jax.Array = 0.5,
        training: bool = True,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        return _applied(_drop, x, p, training, key, _of_channels(x, n, f"dropout{n}d"))

    shape = ", ".join(map(str, (2, *(4,) * n, 3)))
    function.__name__ = function.__qualname__ = f"dropout{n}d"
    function.__doc__ = f"""Zero whole channels of `{layout(n)}`:
    torch.nn.functional.dropout{n}d. Arguments as for `dropout`.

    >>> dropout{n}d(jnp.ones(({shape})), key=jax.random.key(0)).shape
    ({shape})
    """
    return function


dropout1d, dropout2d, dropout3d = map(_of_axes, (1, 2, 3))


def alpha_dropout(
    x: jax.Array,
    p: float | jax.Array = 0.5,
    training: bool = False,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """Dropout for SELU, which keeps mean 0 and variance 1: torch.nn.functional.alpha_dropout.

    A dropped value becomes SELU's lower limit, and all values are scaled and shifted.

    Args:
      x, p, key: as for `dropout`.
      training: whether to drop; false by default, as in torch.

    >>> x = jax.random.normal(jax.random.key(0), (10_000,))
    >>> y = alpha_dropout(x, 0.3, training=True, key=jax.random.key(1))
    >>> bool(abs(y.mean()) < 0.05), bool(abs(y.std() - 1) < 0.05)
    (True, True)
    """
    return _applied(_drop_to_limit, x, p, training, key, jnp.shape(x))


def feature_alpha_dropout(
    x: jax.Array,
    p: float | jax.Array = 0.5,
    training: bool = False,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """`alpha_dropout` of whole channels of `[N ... C]`:
    torch.nn.functional.feature_alpha_dropout.

    >>> y = feature_alpha_dropout(jnp.ones((2, 8, 3)), training=True, key=jax.random.key(0))
    >>> y.std(axis=1).max().item()
    0.0
    """
    return _applied(_drop_to_limit, x, p, training, key, _one_for_each_channel(x))


def _one_for_each_channel(x) -> tuple[int, ...]:
    if x.ndim < 2:
        raise RuntimeError(f"feature dropout takes [N ... C]; the input has shape {x.shape}.")
    return (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])


# Minus the limit of SELU: its scale times its alpha.
_LIMIT = 1.7580993408473766


def _drop_to_limit(x, p, key, shape):
    keep = jax.random.bernoulli(key, 1 - p, shape)
    # At p = 1 torch gives zeros.
    kept = jnp.where(p == 1, 1.0, 1 - p)
    scale = jnp.where(p == 1, 0.0, 1 / jnp.sqrt((_LIMIT**2 * p + 1) * kept))
    y = scale * (jnp.where(keep, x, -_LIMIT) + _LIMIT * p)
    return y.astype(jnp.result_type(x, 0.0))


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
        return self._drop(x, self.p, self.rngs(), shape)

    _drop = staticmethod(_drop)


class _ChannelDropout(Dropout):
    _spatial_axes: int

    def _mask_shape(self, x):
        return _of_channels(x, self._spatial_axes, type(self).__name__)


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


class AlphaDropout(Dropout):
    """Dropout for SELU, which keeps mean 0 and variance 1, in train mode;
    torch.nn.AlphaDropout. Arguments as for `Dropout`.

    >>> x = jax.random.normal(jax.random.key(0), (10_000,))
    >>> y = AlphaDropout(0.3, rngs=nnx.Rngs(0))(x)
    >>> bool(abs(y.mean()) < 0.05), bool(abs(y.std() - 1) < 0.05)
    (True, True)
    """

    _drop = staticmethod(_drop_to_limit)


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels of `[N ... C]`; torch.nn.FeatureAlphaDropout.

    >>> FeatureAlphaDropout(rngs=nnx.Rngs(0))(jnp.ones((2, 8, 3))).std(axis=1).max().item()
    0.0
    """

    def _mask_shape(self, x):
        return _one_for_each_channel(x)


class StochasticDepth(Dropout):
    """Drop the whole branch of an example with probability `p`, in train mode, so that only the
    shortcut beside it is left; torchvision.ops.StochasticDepth, and timm's DropPath.

    Huang et al., Deep networks with stochastic depth (2016), https://arxiv.org/abs/1603.09382.

    Args:
      p: the probability of zero; a number, or a traced scalar to be swept.
      mode: "row" draws for each example, the entries of the first axis; "batch" once for all.
      rngs: as for `Dropout`.

    Raises:
      ValueError: if p is not in [0, 1], or for another mode.

    >>> layer = StochasticDepth(0.5, rngs=nnx.Rngs(0))
    >>> y = layer(jnp.ones((8, 4, 4, 3)))
    >>> sorted(set(y.ravel().tolist())), y.std(axis=(1, 2, 3)).max().item()
    ([0.0, 2.0], 0.0)
    """

    def __init__(self, p: float | jax.Array, mode: str = "row", *, rngs: nnx.Rngs):
        super().__init__(p, rngs=rngs)
        if mode not in ("row", "batch"):
            raise ValueError(f"mode must be 'row' or 'batch'; got {mode!r}.")
        self.mode = mode

    def _mask_shape(self, x):
        return (x.shape[0] if self.mode == "row" else 1, *(1,) * (x.ndim - 1))
