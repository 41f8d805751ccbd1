"""Random changes that keep the meaning: flip, shift, scale, rotate, noise (chapter 12.6).

Pure functions of a key, jittable and `vmap`-able over examples. Images `[H W C]` and volumes
`[D H W C]` alike: the geometry is one affine matrix in torch's `affine_grid` coordinates (x, y
and z go from -1 to 1 over columns, rows and slices), so all changes cost one resampling.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.ndimage import map_coordinates

from dlwp_jax import checks

TURN = 2 * jnp.pi


def flip(key: jax.Array, dims: int, *, axes: Sequence[int] | None = None) -> jax.Array:
    """A matrix that mirrors each axis with probability one half.

    Args:
      key: a PRNG key.
      dims: 2 for images, 3 for volumes.
      axes: the axes of x, y, z (0, 1, 2) that may be mirrored; None means all.

    Returns:
      `[dims + 1, dims + 1]`, as all matrices here.

    >>> jnp.abs(flip(jax.random.key(0), 2)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    key, dims = checks.key(key), _dims(dims)
    if axes is not None:
        axes = _axes(axes, dims)
    allowed = jnp.isin(jnp.arange(dims), jnp.array(range(dims) if axes is None else axes, int))
    signs = jnp.where(jax.random.bernoulli(key, shape=(dims,)) & allowed, -1.0, 1.0)
    return jnp.diag(jnp.append(signs, 1.0))


def shift(key: jax.Array, dims: int, amount: float) -> jax.Array:
    """A matrix that moves along each axis by up to `amount` halves of its length, evenly
    spread.

    >>> bool((jnp.abs(shift(jax.random.key(0), 3, 0.1)[:3, 3]) <= 0.1).all())
    True
    """
    key, dims, amount = checks.key(key), _dims(dims), _amount(amount, "amount")
    offsets = amount * jax.random.uniform(key, (dims,), minval=-1.0, maxval=1.0)
    return jnp.eye(dims + 1).at[:dims, dims].set(offsets)


def scale(key: jax.Array, dims: int, amount: float) -> jax.Array:
    """A matrix that stretches each axis by its own factor in 1 - amount .. 1 + amount.

    >>> bool((jnp.abs(jnp.diag(scale(jax.random.key(0), 2, 0.2)) - 1) <= 0.2).all())
    True
    """
    key, dims, amount = checks.key(key), _dims(dims), _amount(amount, "amount")
    factors = 1 + amount * jax.random.uniform(key, (dims,), minval=-1.0, maxval=1.0)
    return jnp.diag(jnp.append(factors, 1.0))


def rotate(key: jax.Array, dims: int, *, most: float = TURN) -> jax.Array:
    """A matrix that turns by an angle in 0 .. `most` radians in the plane of x and y.

    A volume turns about its z axis only: slices are farther apart than pixels, so any other
    turn would deform.

    >>> rotate(jax.random.key(0), 3).shape
    (4, 4)
    """
    key, dims, most = checks.key(key), _dims(dims), _amount(most, "most")
    angle = jax.random.uniform(key, maxval=most)
    s, c = jnp.sin(angle), jnp.cos(angle)
    return jnp.eye(dims + 1).at[:2, :2].set(jnp.array([[c, -s], [s, c]]))


def noise(key: jax.Array, x: jax.Array, amount: float | jax.Array) -> jax.Array:
    """x with normal noise of standard deviation `amount` on every value.

    >>> noise(jax.random.key(0), jnp.zeros((4, 4, 1)), 0.5).shape
    (4, 4, 1)
    """
    key, x, amount = checks.key(key), _floating(x), checks.on_device(amount, "amount")
    fits = amount.ndim <= x.ndim and all(
        m in (1, n) for m, n in zip(amount.shape[::-1], x.shape[::-1], strict=False)
    )
    if jnp.iscomplexobj(amount) or not fits:
        raise ValueError(
            f"amount must be one real number, or fit x of shape {x.shape}; got "
            f"{checks.describe(amount)}."
        )
    return x + amount.astype(x.dtype) * jax.random.normal(key, x.shape, x.dtype)


def warp(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Resample by an affine matrix: output at p is the input at matrix @ p, linear, the border
    value beyond the border.

    Equals torch's `grid_sample(x, affine_grid(matrix[:-1]), padding_mode="border",
    align_corners=False)`.

    Args:
      x: `[H W C]` or `[D H W C]`, floating.
      matrix: `[3 3]` or `[4 4]`, homogeneous, in x, y(, z) from -1 to 1.

    Returns:
      An array like x.

    >>> x = jnp.arange(6.0).reshape(2, 3, 1)
    >>> warp(x, jnp.diag(jnp.array([-1.0, 1.0, 1.0])))[..., 0].tolist()
    [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
    """
    x, matrix = _to_warp(x, matrix)
    sizes = x.shape[:-1]
    dims = len(sizes)
    axes = map(_centres, sizes)
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij")[::-1])  # [x y (z)] at every place
    source = jnp.tensordot(matrix[:dims, :dims], grid, 1) + matrix[:dims, dims].reshape(
        -1, *[1] * dims
    )
    place = [((source[dims - 1 - i] + 1) * n - 1) / 2 for i, n in enumerate(sizes)]

    def one_channel(plane: jax.Array) -> jax.Array:
        return map_coordinates(plane, place, order=1, mode="nearest")

    return jax.vmap(one_channel, in_axes=-1, out_axes=-1)(x).astype(x.dtype)


def warp_in_planes(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`warp` of a volume by a matrix that does not mix z with x and y, as the matrices of this
    module do not.

    Every plane is then resampled at the same places, and a place is read from all planes at
    once: on a CPU that takes a fifth of the time of `warp`.

    Args:
      x: `[D H W C]`, floating.
      matrix: `[4 4]`; its entries between z and x or y are taken for zeros.

    Returns:
      An array like x.

    Raises:
      ValueError: if those entries are not zeros (not checked under jit), or x is no volume.

    >>> x = jnp.arange(6.0).reshape(2, 1, 3, 1)
    >>> warp_in_planes(x, jnp.diag(jnp.array([-1.0, 1.0, -1.0, 1.0])))[..., 0].tolist()
    [[[5.0, 4.0, 3.0]], [[2.0, 1.0, 0.0]]]
    """
    x, matrix = _to_warp(x, matrix)
    if x.ndim != 4:
        raise ValueError(f"x of shape {x.shape} is no volume [D H W C]; take warp.")
    mixed = (matrix[2, :2], matrix[:2, 2])
    if not isinstance(matrix, Tracer) and jnp.any(jnp.stack(mixed)):
        raise ValueError("matrix mixes z with x and y; take warp.")
    d, h, w, c = x.shape
    below, above, share = _neighbours(matrix[2, 2] * _centres(d) + matrix[2, 3], d)
    share = share[:, None, None, None]
    planes = x[below] * (1 - share) + x[above] * share
    rows = jnp.moveaxis(planes, 0, 2).reshape(h * w, d * c)
    plane = jnp.stack(jnp.meshgrid(_centres(w), _centres(h)))  # [x y] at every place
    source = jnp.tensordot(matrix[:2, :2], plane, 1) + matrix[:2, 3].reshape(2, 1, 1)
    left, right, to_right = _neighbours(source[0].reshape(h * w, 1), w)
    upper, lower, to_lower = _neighbours(source[1].reshape(h * w, 1), h)

    def between(row):
        first, second = (rows[(row * w + column)[:, 0]] for column in (left, right))
        return first * (1 - to_right) + second * to_right

    warped = between(upper) * (1 - to_lower) + between(lower) * to_lower
    return jnp.moveaxis(warped.reshape(h, w, d, c), 2, 0).astype(x.dtype)


def _to_warp(x, matrix):
    """Both as arrays, if they fit."""
    x, matrix = checks.on_device(x, "x"), checks.on_device(matrix, "matrix")
    dims = x.ndim - 1
    if dims not in (2, 3) or matrix.shape != (dims + 1, dims + 1):
        raise ValueError(
            f"x of shape {x.shape} and matrix of {matrix.shape}: [H W C] needs (3, 3), [D H W "
            "C] (4, 4)."
        )
    x = _floating(x)
    if not x.size or jnp.iscomplexobj(matrix):
        raise ValueError(
            f"x of shape {x.shape} is empty, or matrix of dtype {matrix.dtype} is not real."
        )
    return x, matrix


def _centres(n):
    """The places of an axis, from -1 to 1."""
    return (2 * jnp.arange(n) + 1) / n - 1


def _neighbours(coordinate, n):
    """The two places beside a coordinate from -1 to 1, and the share of the second."""
    place = jnp.clip(((coordinate + 1) * n - 1) / 2, 0, n - 1)
    first = jnp.floor(place).astype(jnp.int32)
    return first, jnp.minimum(first + 1, n - 1), place - first


def augment(
    key: jax.Array,
    x: jax.Array,
    *,
    flips: bool | Sequence[int] = False,
    offset: float = 0.0,
    stretch: float = 0.0,
    turn: float = 0.0,
    std: float = 0.0,
) -> jax.Array:
    """All of the above at once, as the book's `getCtAugmentedCandidate`: flip, scale, shift,
    rotate, then noise.

    Args:
      key: a PRNG key; the same key gives the same change. Use `jax.random.split` and `jax.vmap`
        for a batch.
      x: `[H W C]` or `[D H W C]`, floating.
      flips: True for every axis, or those of x, y, z (0, 1, 2) that may be mirrored.
      offset: the largest shift, in halves of the length of an axis (the book: 0.1).
      stretch: the largest change of size, as a fraction (the book: 0.2).
      turn: the largest angle in radians (the book: 2 pi).
      std: standard deviation of the noise (the book: 25 Hounsfield units).

    Returns:
      An array like x.

    Raises:
      TypeError, ValueError: if x is not floating, of another number of axes, or an amount is
        no finite number.

    >>> augment(jax.random.key(0), jnp.ones((8, 8, 1)), flips=True, offset=0.1, turn=TURN).shape
    (8, 8, 1)
    """
    key, x = checks.key(key), _floating(x)
    dims = _dims(x.ndim - 1)
    if not isinstance(flips, bool) and flips is not None:
        flips = _axes(flips, dims)
    amounts = {"offset": offset, "stretch": stretch, "turn": turn, "std": std}
    offset, stretch, turn, std = (_amount(value, name) for name, value in amounts.items())
    keys = jax.random.split(key, 5)
    matrix = jnp.eye(dims + 1)
    if flips:
        matrix = flip(keys[0], dims, axes=None if flips is True else flips)
    # As in the book the shift is added to the scaled axes, not scaled with them: shift @ (scale
    # @ flip) @ rotation.
    matrix = (
        shift(keys[1], dims, offset)
        @ scale(keys[2], dims, stretch)
        @ matrix
        @ rotate(keys[3], dims, most=turn)
    )
    if flips or offset or stretch or turn:
        x = warp_in_planes(x, matrix) if dims == 3 else warp(x, matrix)
    return noise(keys[4], x, std) if std else x


@dataclasses.dataclass(frozen=True)
class Augment:
    """`augment` for every example of a batch, each by its own key: a `transform=` of
    `train.fit`.

    It runs on the device, inside the program that trains. Whole numbers become float32 there,
    in training and in evaluation, so a data set can stay in int16 or uint8; evaluation changes
    nothing else.

    Attributes:
      name: of the images in the batch, `[n H W C]` or `[n D H W C]`.
      flips, offset, stretch, turn, std: as in `augment`.

    >>> batch = {"image": jnp.ones((2, 4, 8, 8, 1), jnp.int16), "label": jnp.zeros(2)}
    >>> changed = Augment(flips=True, std=25.0)(jax.random.key(0), batch)
    >>> changed["image"].dtype.name, changed["image"].shape
    ('float32', (2, 4, 8, 8, 1))
    """

    name: str = "image"
    flips: bool | tuple[int, ...] = False
    offset: float = 0.0
    stretch: float = 0.0
    turn: float = 0.0
    std: float = 0.0

    def __call__(self, key: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as training sees it."""
        images = _as_floating(batch[self.name])
        amounts = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)[1:]
        }
        keys = jax.random.split(checks.key(key), len(images))
        changed = jax.vmap(functools.partial(augment, **amounts))(keys, images)
        return {**batch, self.name: changed}

    def evaluate(self, key: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as evaluation sees it."""
        del key
        return {**batch, self.name: _as_floating(batch[self.name])}


def _as_floating(x: jax.Array) -> jax.Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def _dims(dims: int) -> int:
    """2 or 3."""
    if checks.as_int(dims) not in (2, 3):
        raise ValueError(
            f"dims must be 2, of x [H W C], or 3, of x [D H W C]; got {checks.describe(dims)}."
        )
    return int(dims)


def _axes(axes: Sequence[int], dims: int) -> tuple[int, ...]:
    """Which of x, y, z."""
    if not isinstance(axes, Sequence) or any(
        checks.as_int(axis) not in range(dims) for axis in axes
    ):
        raise ValueError(
            f"the axes of flips must be of 0 (x) to {dims - 1}; got {checks.describe(axes)}."
        )
    return tuple(axes)


def _amount(value: Any, name: str) -> Any:
    """A finite number; a traced one is not checked."""
    if (
        isinstance(value, Tracer)
        and value.ndim == 0
        and jnp.issubdtype(value.dtype, jnp.number)
    ):
        return value
    return checks.real(value, name)


def _floating(x: jax.Array) -> jax.Array:
    x = checks.on_device(x, "x")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x is {x.dtype}; floating numbers are needed, see image.to_float.")
    return x
