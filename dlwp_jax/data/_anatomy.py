"""The chest of a healthy patient, drawn in voxels: bodies, ribs, vessels and airways.

`data.chest` puts nodules into it. All bodies are given in millimetres, so the same chest can
be had in coarse and in fine voxels. A voxel at the edge of a body has the mean of both sides,
as a scanner's has.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dlwp_jax.data.files import needs

SIZE = (128.0, 224.0, 288.0)  # millimetres along index, row, column, of a patient of scale 1
# Hounsfield units.
AIR, LUNG, FAT, FLESH, BLOOD, BONE, MARROW = -1000, -850, -100, 45, 50, 700, 180
THINNEST = 0.45  # millimetres, the radius of a vessel


@dataclasses.dataclass(frozen=True)
class Patient:
    """What differs from one to the next; lengths are shares of the average."""

    scale: float
    fat: float  # millimetres under the skin
    lung: float  # width and depth of the lungs
    heart: float
    dome: float  # millimetres by which the diaphragm stands higher
    rib: float  # where the first rib is, as a share of their distance
    density: float  # HU of the lungs above the average

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        return cls(
            scale=rng.uniform(0.9, 1.1),
            fat=rng.uniform(4, 14),
            lung=rng.uniform(0.92, 1.04),
            heart=rng.uniform(0.85, 1.15),
            dome=rng.uniform(-15, 15),
            rib=rng.uniform(0, 1),
            density=rng.uniform(-30, 50),
        )


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Voxels to draw on, in the millimetres of a patient of scale 1.

    Attributes:
      hu: `[index row column]`.
      step: `[3]` the size of a voxel along z, y, x.
      z, y, x: places of the voxels, to be broadcast.
    """

    hu: np.ndarray
    step: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, int, int], scale: float) -> Canvas:
        step = np.array(SIZE) / shape
        z, y, x = (
            ((np.arange(n) + 0.5) * s - size / 2).astype(np.float32)
            for n, s, size in zip(shape, step, SIZE, strict=True)
        )
        hu = np.full(shape, AIR, np.float32)
        return cls(hu, step, z[:, None, None], y[None, :, None], x[None, None, :])

    def fill(self, depth: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        """Fill a body; `depth` is how far inside of it a voxel is, in millimetres.

        Returns:
          The share of each voxel that is in the body.
        """
        share = np.clip(depth / self.step[1] + 0.5, 0, 1)
        self.hu[...] += share * (value - self.hu)
        return share

    def box(self, center: np.ndarray, radius: float) -> Any:
        """The voxels within a distance of a point along each axis; None if there are none."""
        low, high = _range(center - radius, center + radius, self.step, self.hu.shape)
        return _slices(low, high)


def _range(low, high, step, shape):
    """First and last + 1 voxel from one corner to another, z y x in millimetres."""
    half = np.array(SIZE) / 2
    first = np.floor((low + half) / step).astype(int)
    last = np.ceil((high + half) / step).astype(int) + 1
    return np.maximum(first, 0), np.minimum(last, shape)


def _slices(low: np.ndarray, high: np.ndarray) -> Any:
    if (low >= high).any():
        return None
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def draw_bodies(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Draw all but vessels, airways and nodules; gives the share of each voxel in the lungs."""
    z, y, x = canvas.z, canvas.y, canvas.x
    # The chest: an ellipse with fat below the skin.
    skin = _ellipse(x / 136, y / 100, 115)
    canvas.fill(skin + 0 * z, FAT)
    canvas.fill(skin - patient.fat + 0 * z, FLESH)
    # Lungs: ellipses that are cut off by the mediastinum, the heart and the diaphragm. They
    # are narrower at the top.
    taper = 1 - 0.22 * ((z + 64) / 128) ** 2
    width, height = 60 * patient.lung * taper, 80 * patient.lung * taper
    middle = np.abs(x) - 10 - 9 * np.exp(-(((y - 30) / 45) ** 2))
    sides = np.minimum(_ellipse((np.abs(x) - 62) / width, y / height, 68), middle)
    dome = z + 52 - patient.dome + ((np.abs(x) - 60) ** 2 + y**2) / 160 - 14
    heart = _ellipse(
        (x - 22) / (50 * patient.heart), (y + 25) / (42 * patient.heart), 46, (z + 25) / 48
    )
    ring = np.hypot(x / 127, y / 89)
    wall = (0.88 - ring) * 108  # the ribs are outside
    depth = np.minimum(np.minimum(sides, wall), np.minimum(dome, -heart))
    tissue = LUNG + patient.density + 45 * (y / 80) + _clouds(rng, canvas.hu.shape, 18)
    lungs = canvas.fill(depth, tissue)
    canvas.fill(heart + 0 * z, BLOOD)
    aorta = 12 - np.hypot(x - 20, y - 48)
    canvas.fill(aorta + 0 * z, BLOOD)
    # Ribs: rings around the lungs, lower in front than behind, with a gap at the breastbone.
    turned = (z - 0.35 * y) / 26 + patient.rib
    across = (turned - np.floor(turned) - 0.5) * 26
    gap = np.where(y < 0, 30 - np.abs(x), -30)  # positive in front of the heart
    rib = 6 - np.hypot(across / 1.1, (ring - 0.93) * 125)
    rib = np.minimum(rib, -gap)
    canvas.fill(rib, BONE)
    canvas.fill(rib - 2.5, MARROW)
    sternum = 7 - np.hypot(np.maximum(np.abs(x) - 12, 0), y + 80)
    canvas.fill(sternum + 0 * z, MARROW)
    # The spine: a body with a hard shell, discs between, and the canal behind.
    vertebra = 17 - np.hypot(x, (y - 66) * 1.15)
    disc = (z / 24 - np.floor(z / 24)) < 0.22
    canvas.fill(vertebra + 0 * z, np.where(disc, 90, BONE))
    canvas.fill(vertebra - 3 + 0 * z, np.where(disc, 90, MARROW))
    arch = 13 - np.hypot(x, y - 88)
    canvas.fill(arch + 0 * z, BONE)
    canvas.fill(8 - np.hypot(x, y - 87) + 0 * z, 20)
    return lungs


def _ellipse(u: Any, v: Any, radius: float, w: Any = 0.0) -> Any:
    """How far inside of an ellipsoid of three ratios, roughly in millimetres."""
    return (1 - np.sqrt(u**2 + v**2 + w**2)) * radius


def _clouds(rng: np.random.Generator, shape: tuple[int, int, int], std: float) -> np.ndarray:
    """Smooth random numbers."""
    from scipy import ndimage

    coarse: Any = rng.standard_normal([n // 8 + 2 for n in shape], np.float32)
    for axis, n in enumerate(shape):
        coarse = ndimage.zoom(
            coarse, [n / coarse.shape[i] if i == axis else 1 for i in range(3)], order=1
        )
    return coarse * np.float32(std / coarse.std())


@dataclasses.dataclass(frozen=True)
class Inside:
    """How deep in the lungs a place is, on a coarse grid.

    Attributes:
      depth: `[z y x]` millimetres from the wall; 0 outside.
      step: the size of its voxels along z, y, x.
    """

    depth: np.ndarray
    step: np.ndarray

    @classmethod
    def of(cls, canvas: Canvas, lungs: np.ndarray) -> Inside:
        with needs():
            from scipy import ndimage

        stride = [max(round(4 / s), 1) for s in canvas.step]
        coarse = lungs[:: stride[0], :: stride[1], :: stride[2]] > 0.5
        step = canvas.step * stride
        depth: Any = ndimage.distance_transform_edt(coarse, sampling=step)
        return cls(depth, step)

    def at(self, zyx: np.ndarray) -> np.ndarray:
        """Millimetres from the wall of places `[... 3]`."""
        index = np.floor((zyx + np.array(SIZE) / 2) / self.step).astype(int)
        inside = np.clip(index, 0, np.array(self.depth.shape) - 1)
        depth = self.depth[tuple(np.moveaxis(inside, -1, 0))]
        return np.where((index == inside).all(axis=-1), depth, 0)

    def draw(self, rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
        """`[n 3]` places at this depth; the nearest there are, if none is."""
        voxels = np.argwhere((self.depth >= low) & (self.depth <= high))
        if not len(voxels):
            voxels = np.argwhere(self.depth == self.depth.max())
        chosen = voxels[rng.integers(len(voxels), size=n)]
        jitter = rng.uniform(0, 1, (n, 3))
        return within((chosen + jitter) * self.step - np.array(SIZE) / 2, 1.0)


# Where vessels and airways enter the right and the left lung, and in which direction; z y x.
HILA = (
    (np.array([5.0, 10.0, -24.0]), np.array([0.1, 0.1, -1.0])),
    (np.array([9.0, 14.0, 24.0]), np.array([0.1, 0.1, 1.0])),
)
# One row for each tube: both ends and the radius there.
TRACHEA = np.array(
    [
        [70.0, 12, 0, 22, 10, 0, 8.5, 8.0],
        [22, 10, 0, 5, 10, -24, 6.5, 5.0],
        [22, 10, 0, 9, 14, 24, 6.0, 4.8],
    ]
)


def tree(
    rng: np.random.Generator,
    inside: Inside,
    start: np.ndarray,
    direction: np.ndarray,
    radius: float,
    generations: int,
) -> np.ndarray:
    """A tree of tubes that grows into a lung, `[n 8]`: both ends and the radius at both.

    Each tube ends in two that are thinner and turn to both sides, towards places of the lung
    that are drawn at random, so that the tree fills it. One that leaves the lung ends there.
    """
    place = start + rng.normal(0, 3, (1, 3))
    heading = unit(direction + rng.normal(0, 0.3, (1, 3)))
    width = np.array([radius])
    side = np.sign(start[2])
    tubes = []
    for generation in range(generations):
        place, heading, width = (np.repeat(a, 2, axis=0) for a in (place, heading, width))
        n = len(place)
        aims = inside.draw(rng, n, 6, 200)
        aims[:, 2] = side * np.abs(aims[:, 2])
        turn = unit(np.cross(heading, rng.normal(size=(n, 3))))
        turn[1::2] = -turn[::2]
        heading = unit(
            heading + rng.uniform(0.2, 0.7, (n, 1)) * turn + 0.6 * unit(aims - place)
        )
        share = np.where(
            np.arange(n) % 2, rng.uniform(0.5, 0.78, n), rng.uniform(0.75, 0.92, n)
        )
        length = rng.uniform(0.7, 1.3, n) * (6 + 24 * 0.78**generation)
        end = place + length[:, None] * heading
        thin = np.maximum(width * share, THINNEST)
        grows = (inside.at(end) > 2) | (generation < 2)
        place, heading, width, end, thin, length = (
            a[grows] for a in (place, heading, width, end, thin, length)
        )
        bend = (place + end) / 2 + rng.normal(0, 0.07, place.shape) * length[:, None]
        middle = (width + thin) / 2
        tubes.append(np.column_stack([place, bend, width, middle]))
        tubes.append(np.column_stack([bend, end, middle, thin]))
        place, width = end, thin
    return np.concatenate(tubes)


def within(zyx: np.ndarray, margin: float | np.ndarray) -> np.ndarray:
    """Places moved into the scan, so far that they are `margin` millimetres from its border."""
    most = np.array(SIZE) / 2 - margin
    return np.clip(zyx, -most, most)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))


def tube_depth(canvas: Canvas, tube: np.ndarray, extra: float = 0.0):
    """A box around a tube, and how far inside of the tube its voxels are; None if outside."""
    a, b, radius = tube[:3], tube[3:6], max(tube[6], tube[7]) + extra
    reach = radius + canvas.step
    low, high = _range(
        np.minimum(a, b) - reach, np.maximum(a, b) + reach, canvas.step, canvas.hu.shape
    )
    box = _slices(low, high)
    if box is None:
        return None
    z, y, x = canvas.z[box[0]] - a[0], canvas.y[:, box[1]] - a[1], canvas.x[..., box[2]] - a[2]
    along = b - a
    t = np.clip((z * along[0] + y * along[1] + x * along[2]) / (along @ along), 0, 1)
    distance = np.sqrt(
        (z - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (x - t * along[2]) ** 2
    )
    return box, extra + tube[6] + t * (tube[7] - tube[6]) - distance


def tube_share(depth: np.ndarray, radius: float, step: float) -> np.ndarray:
    """The share of a voxel that is in a tube; a tube thinner than a voxel fills none."""
    return np.clip(depth / step + 0.5, 0, 1) * min(1.0, (2 * radius / step) ** 1.5)


def draw_vessels(canvas: Canvas, tubes: np.ndarray, lungs: np.ndarray) -> None:
    """Tubes of blood; outside of the lungs flesh hides them."""
    is_thin = tubes[:, 6] < 0.8 * canvas.step.max()
    share = _thin_tubes(canvas, tubes[is_thin])
    for tube in tubes[~is_thin]:
        found = tube_depth(canvas, tube)
        if found is None:
            continue
        box, depth = found
        filled = tube_share(depth, min(tube[6:]), canvas.step[1])
        np.maximum(share[box], filled, out=share[box])
    share *= lungs
    canvas.hu[...] += share * (BLOOD - canvas.hu)


def _thin_tubes(canvas: Canvas, tubes: np.ndarray) -> np.ndarray:
    """The share of every voxel that is in tubes thinner than a voxel, all drawn at once.

    Points along the tubes give their volume to the eight voxels around them.
    """
    shape = np.array(canvas.hu.shape)
    length = np.sqrt(((tubes[:, 3:6] - tubes[:, :3]) ** 2).sum(axis=1))
    points = np.maximum(np.ceil(length / (0.5 * canvas.step.min())), 1).astype(int)
    tube = np.repeat(np.arange(len(tubes)), points)
    first = np.repeat(np.cumsum(points) - points, points)
    t = ((np.arange(len(tube)) - first + 0.5) / points[tube])[:, None]
    place = tubes[tube, :3] + t * (tubes[tube, 3:6] - tubes[tube, :3])
    radius = tubes[tube, 6:7] + t * (tubes[tube, 7:8] - tubes[tube, 6:7])
    volume = np.pi * radius[:, 0] ** 2 * (length / points)[tube] / np.prod(canvas.step)
    index = (place + np.array(SIZE) / 2) / canvas.step - 0.5
    corner = np.floor(index).astype(int)
    part = index - corner
    share = np.zeros(canvas.hu.size)
    for offset in np.ndindex(2, 2, 2):
        voxel = corner + offset
        weight = np.where(offset, part, 1 - part).prod(axis=1) * volume
        inside = ((voxel >= 0) & (voxel < shape)).all(axis=1)
        flat = np.ravel_multi_index(tuple(voxel[inside].T), canvas.hu.shape)
        share += np.bincount(flat, weight[inside], minlength=share.size)
    return np.minimum(share, 1).astype(np.float32).reshape(canvas.hu.shape)


def draw_airways(canvas: Canvas, tubes: np.ndarray) -> None:
    """Walls first, then the air in them, so that branches open into each other."""
    for wall, value in ((1.0, FLESH - 100), (0.0, AIR + 20)):
        for tube in tubes:
            found = tube_depth(canvas, tube, wall)
            if found is None:
                continue
            box, depth = found
            share = tube_share(depth, min(tube[6:]) + wall, canvas.step[1])
            canvas.hu[box] += share * (value - canvas.hu[box])
