"""Padding of the spatial axes, by torch's amounts in torch's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn.shapes import Sizes, check_input, over_batch, to_tuple

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
    "pad",
]

PadMode = Literal["constant", "reflect", "replicate", "circular"]
_NUMPY_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def pad(
    x: jax.Array,
    pairs: Sequence[tuple[int, int]],
    mode: PadMode = "constant",
    value: float = 0.0,
) -> jax.Array:
    """Pad the spatial axes of `[N *spatial C]`; negative amounts cut, as in torch.

    Args:
      x: `[N *spatial C]`.
      pairs: (before, after) for each spatial axis, in the order of the axes.
      mode: 'constant', 'reflect' (the edge is not repeated), 'replicate' or 'circular'.
      value: the value of mode 'constant'.

    Raises:
      RuntimeError: if 'reflect' or 'circular' asks for more than the axis holds.
      ValueError: if whole numbers are padded with a `value` that their dtype cannot hold.

    >>> pad(jnp.arange(3.0).reshape(1, 3, 1), [(1, 2)], "reflect")[0, :, 0].tolist()
    [1.0, 0.0, 1.0, 2.0, 1.0, 0.0]
    """
    limit = {"reflect": -1, "circular": 0}.get(mode)
    for size, pair in zip(x.shape[1:-1], pairs, strict=True):
        if limit is not None and max(pair) > size + limit:
            raise RuntimeError(
                f"padding {pair} by mode {mode!r} asks for more than an axis of {size} holds."
            )
        if size + sum(pair) < 0:
            raise RuntimeError(f"padding {pair} cuts more than an axis of {size} holds.")
    grow = [(0, 0), *((max(a, 0), max(b, 0)) for a, b in pairs), (0, 0)]
    filled = {}
    if mode == "constant":
        if not jnp.issubdtype(x.dtype, jnp.inexact) and value not in _range(x.dtype):
            raise ValueError(
                f"pad: the value {value} is none of {x.dtype}; pad x.astype(float) instead."
            )
        filled = {"constant_values": jnp.asarray(value, x.dtype)}
    padded = jnp.pad(x, grow, mode=_NUMPY_MODES[mode], **filled)
    cut = [
        slice(max(-a, 0), size - max(-b, 0))
        for (a, b), size in zip(pairs, padded.shape[1:-1], strict=True)
    ]
    return padded[(slice(None), *cut)]


def _range(dtype):
    """The whole numbers of a dtype."""
    if dtype.kind == "b":
        return range(2)
    limits = jnp.iinfo(dtype)
    return range(limits.min, limits.max + 1)


class _Pad(nnx.Module):
    """A padding layer; `padding` is an int or torch's (left, right, top, bottom, front, "
    "back)."""

    _spatial_axes: int
    _mode: PadMode = "constant"
    value: float = 0.0

    def __init__(self, padding: Sizes):
        self.padding: tuple[int, ...] = to_tuple(padding, 2 * self._spatial_axes, "padding")

    def __call__(self, x: jax.Array) -> jax.Array:  # [N *spatial C] -> [N *spatial + padding C]
        """Pad the spatial axes of `x`."""
        n = self._spatial_axes
        check_input(x, n, type(self).__name__)
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))
        pairs.reverse()  # torch has the last axis first
        return over_batch(lambda x: pad(x, pairs, self._mode, self.value), x, n)


class _ConstantPad(_Pad):
    def __init__(self, padding: Sizes, value: float):
        super().__init__(padding)
        self.value = value


class ReflectionPad1d(_Pad):
    """Pad `[N L C]` by reflection, the edge not repeated; torch.nn.ReflectionPad1d.

    `padding` is an int or (left, right).

    >>> ReflectionPad1d((1, 2))(jnp.ones((1, 4, 1))).shape
    (1, 7, 1)
    """

    _spatial_axes, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Pad `[N H W C]` by reflection, the edge not repeated; torch.nn.ReflectionPad2d.

    `padding` is an int or (left, right, top, bottom).

    >>> ReflectionPad2d(1)(jnp.ones((1, 4, 4, 1))).shape
    (1, 6, 6, 1)
    """

    _spatial_axes, _mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Pad `[N D H W C]` by reflection, the edge not repeated; torch.nn.ReflectionPad3d.

    `padding` is an int or (left, right, top, bottom, front, back).

    >>> ReflectionPad3d(1)(jnp.ones((1, 4, 4, 4, 1))).shape
    (1, 6, 6, 6, 1)
    """

    _spatial_axes, _mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Pad `[N L C]` by repeating the edge; torch.nn.ReplicationPad1d.

    `padding` is an int or (left, right).

    >>> ReplicationPad1d((1, 2))(jnp.ones((1, 4, 1))).shape
    (1, 7, 1)
    """

    _spatial_axes, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Pad `[N H W C]` by repeating the edge; torch.nn.ReplicationPad2d.

    `padding` is an int or (left, right, top, bottom).

    >>> ReplicationPad2d(1)(jnp.ones((1, 4, 4, 1))).shape
    (1, 6, 6, 1)
    """

    _spatial_axes, _mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Pad `[N D H W C]` by repeating the edge; torch.nn.ReplicationPad3d.

    `padding` is an int or (left, right, top, bottom, front, back).

    >>> ReplicationPad3d(1)(jnp.ones((1, 4, 4, 4, 1))).shape
    (1, 6, 6, 6, 1)
    """

    _spatial_axes, _mode = 3, "replicate"


class CircularPad1d(_Pad):
    """Pad `[N L C]` by the values of the other end; torch.nn.CircularPad1d.

    `padding` is an int or (left, right).

    >>> CircularPad1d((1, 2))(jnp.ones((1, 4, 1))).shape
    (1, 7, 1)
    """

    _spatial_axes, _mode = 1, "circular"


class CircularPad2d(_Pad):
    """Pad `[N H W C]` by the values of the other end; torch.nn.CircularPad2d.

    `padding` is an int or (left, right, top, bottom).

    >>> CircularPad2d(1)(jnp.ones((1, 4, 4, 1))).shape
    (1, 6, 6, 1)
    """

    _spatial_axes, _mode = 2, "circular"


class CircularPad3d(_Pad):
    """Pad `[N D H W C]` by the values of the other end; torch.nn.CircularPad3d.

    `padding` is an int or (left, right, top, bottom, front, back).

    >>> CircularPad3d(1)(jnp.ones((1, 4, 4, 4, 1))).shape
    (1, 6, 6, 6, 1)
    """

    _spatial_axes, _mode = 3, "circular"


class ConstantPad1d(_ConstantPad):
    """Pad `[N L C]` by the constant `value`; torch.nn.ConstantPad1d.

    `padding` is an int or (left, right).

    >>> ConstantPad1d((1, 2), 7.0)(jnp.ones((1, 4, 1))).shape
    (1, 7, 1)
    """

    _spatial_axes = 1


class ConstantPad2d(_ConstantPad):
    """Pad `[N H W C]` by the constant `value`; torch.nn.ConstantPad2d.

    `padding` is an int or (left, right, top, bottom).

    >>> ConstantPad2d(1, 7.0)(jnp.ones((1, 4, 4, 1))).shape
    (1, 6, 6, 1)
    """

    _spatial_axes = 2


class ConstantPad3d(_ConstantPad):
    """Pad `[N D H W C]` by the constant `value`; torch.nn.ConstantPad3d.

    `padding` is an int or (left, right, top, bottom, front, back).

    >>> ConstantPad3d(1, 7.0)(jnp.ones((1, 4, 4, 4, 1))).shape
    (1, 6, 6, 6, 1)
    """

    _spatial_axes = 3


class ZeroPad1d(_Pad):
    """Pad `[N L C]` by zeros; torch.nn.ZeroPad1d.

    `padding` is an int or (left, right).

    >>> ZeroPad1d((1, 2))(jnp.ones((1, 4, 1))).shape
    (1, 7, 1)
    """

    _spatial_axes = 1


class ZeroPad2d(_Pad):
    """Pad `[N H W C]` by zeros; torch.nn.ZeroPad2d.

    `padding` is an int or (left, right, top, bottom).

    >>> ZeroPad2d(1)(jnp.ones((1, 4, 4, 1))).shape
    (1, 6, 6, 1)
    """

    _spatial_axes = 2


class ZeroPad3d(_Pad):
    """Pad `[N D H W C]` by zeros; torch.nn.ZeroPad3d.

    `padding` is an int or (left, right, top, bottom, front, back).

    >>> ZeroPad3d(1)(jnp.ones((1, 4, 4, 4, 1))).shape
    (1, 6, 6, 6, 1)
    """

    _spatial_axes = 3
