"""Affine grids and sampling from images and volumes: chapter 12 augments CT candidates with
them.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.nn.activations import hardtanh
from dlwp_jax.nn.shapes import floating, layout

__all__ = ["affine_grid", "grid_sample"]

_PADDING_MODES = ("zeros", "border", "reflection")


def affine_grid(
    theta: jax.Array, size: tuple[int, ...], align_corners: bool = False
) -> jax.Array:
    """The places at which an affine map reads the input, one for each place of the output;
    torch.nn.functional.affine_grid.

    Coordinates run from -1 to 1 over an axis: between the centres of the outer places with
    `align_corners`, between their outer edges without. The last axis holds (x, y) or (x, y, z):
    the last spatial axis first, as in torch.

    Args:
      theta: `[N 2 3]` or `[N 3 4]`; maps output coordinates to input coordinates.
      size: shape of the output, channels last: (N, H, W, C) or (N, D, H, W, C). C does not
        matter.
      align_corners: as above.

    Returns:
      `[N H W 2]` or `[N D H W 3]`: the same array as torch's.

    Raises:
      ValueError: if theta and size do not fit.

    >>> affine_grid(jnp.eye(2, 3)[None], (1, 1, 2, 1)).tolist()
    [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    n = len(size) - 2
    if n not in (2, 3) or theta.shape != (size[0], n, n + 1):
        raise ValueError(
            "affine_grid takes theta [N 2 3] with size (N, H, W, C), or [N 3 4] "
            f"with (N, D, H, W, C); they are {theta.shape} and {tuple(size)}."
        )
    theta = floating(theta)
    axes = [_centres(extent, align_corners) for extent in size[1:-1]]
    places = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(size[1:-1])], -1)
    return jnp.einsum(
        "...k,njk->n...j", jnp.asarray(places, theta.dtype), theta, precision="highest"
    )


def _centres(extent, align_corners):
    if extent <= 1:
        return np.zeros(extent)
    return np.linspace(-1, 1, extent) * (1 if align_corners else (extent - 1) / extent)


def grid_sample(
    x: jax.Array,
    grid: jax.Array,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
    align_corners: bool = False,
) -> jax.Array:
    """Read an image or a volume at the places of a grid; torch.nn.functional.grid_sample.

    Args:
      x: `[N H W C]` or `[N D H W C]`.
      grid: `[N *spatial' 2]` (x, y) or `[N *spatial' 3]` (x, y, z), as `affine_grid` gives it.
      mode: 'bilinear' (trilinear for volumes) or 'nearest' (halves to even).
      padding_mode: the values outside: 'zeros', 'border' (the nearest place) or 'reflection'.
      align_corners: whether -1 and 1 are the centres of the outer places, or their outer edges.

    Returns:
      `[N *spatial' C]`; differentiable with respect to `x` and, by mode 'bilinear', to `grid`.

    Raises:
      ValueError: if shapes do not fit or an option is unknown.

    >>> image = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> grid_sample(image, jnp.zeros((1, 1, 1, 2))).item()
    2.0
    """
    n = x.ndim - 2
    _check_sample(x, grid, n, mode, padding_mode)
    x, grid = floating(x), floating(grid)
    coordinates = []  # one array [N *spatial'] for each spatial axis, in places of x
    for axis, extent in enumerate(x.shape[1:-1]):
        place = _to_places(grid[..., n - 1 - axis], extent, align_corners)
        coordinates.append(_outside(place, extent, padding_mode, align_corners, n == 3))
    if mode == "nearest":
        return _read(x, [jnp.round(c) for c in coordinates])[0]
    lower = [jnp.floor(c) for c in coordinates]
    total = jnp.zeros((), x.dtype)
    for corner in itertools.product((0, 1), repeat=n):
        shares = [
            (c - low) if side else (low + 1 - c)
            for side, c, low in zip(corner, coordinates, lower, strict=True)
        ]
        values, inside = _read(x, [low + side for low, side in zip(lower, corner, strict=True)])
        share = functools.reduce(operator.mul, shares)[..., None]
        # In torch a place at infinity is NaN in an image and 0 in a volume.
        total = total + values * (share if n == 2 else jnp.where(inside, share, 0))
    return total


def _check_sample(x, grid, n, mode, padding_mode):
    if (
        n not in (2, 3)
        or grid.ndim != n + 2
        or grid.shape[-1] != n
        or grid.shape[0] != x.shape[0]
    ):
        raise ValueError(
            f"grid_sample takes {layout(2)} with a grid [N H' W' 2], or {layout(3)} "
            f"with [N D' H' W' 3]; input and grid have shapes {x.shape} and {grid.shape}."
        )
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode={mode!r} is not supported; take 'bilinear' or 'nearest'.")
    if padding_mode not in _PADDING_MODES:
        raise ValueError(
            f"padding_mode={padding_mode!r} is unknown; take one of {_PADDING_MODES}."
        )


def _to_places(coordinate, extent, align_corners):
    if align_corners:
        return (coordinate + 1) / 2 * (extent - 1)
    return ((coordinate + 1) * extent - 1) / 2


def _outside(place, extent, padding_mode, align_corners, volume):
    """Bring places outside the axis back in, except for 'zeros'. The derivative of a place that
    is cut is 0.
    """
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        low, span = (0.0, extent - 1) if align_corners else (-0.5, extent)
        place = _reflect(place, low, span) if span else jnp.zeros_like(place)
    # torch reads NaN as the first place of an image and as the last of a volume.
    place = jnp.where(jnp.isnan(place), extent - 1 if volume else 0.0, place)
    return hardtanh(place, 0.0, extent - 1)


def _reflect(place, low, span):
    distance = jnp.where(place < low, low - place, place - low)
    turns, rest = jnp.floor(distance / span), jnp.mod(distance, span)
    return low + jnp.where(turns % 2 == 0, rest, span - rest)


def _read(x, places):
    """`x` at whole places `[N *spatial']` per axis, 0 outside; and which are inside."""
    inside = jnp.ones((), bool)
    index = []
    for place, extent in zip(places, x.shape[1:-1], strict=True):
        inside = inside & (place >= 0) & (place <= extent - 1)
        index.append(jnp.clip(place, 0, extent - 1).astype(jnp.int32))
    example = jnp.arange(x.shape[0]).reshape(-1, *(1,) * (places[0].ndim - 1))
    inside = inside[..., None]
    return jnp.where(inside, x[(example, *index)], jnp.zeros((), x.dtype)), inside
