"""A made-up chest CT: lungs with vessels and airways, ribs, a spine, a heart, and nodules.

`data.synthetic.chest_ct` makes one: a healthy chest (`data._anatomy`), nodules, places that
look like one, and what a scanner makes of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data._anatomy import (
    HILA,
    TRACHEA,
    Canvas,
    Inside,
    Patient,
    draw_airways,
    draw_bodies,
    draw_vessels,
    tree,
    tube_depth,
    tube_share,
    unit,
    within,
)
from dlwp_jax.data.volume import Volume

GLASS = -550  # the hazy part of a part-solid nodule
SMALLEST, LARGEST = 3.0, 30.0  # millimetres, of nodules as LUNA16 has them
END = 16.0  # millimetres from the first and the last slice to the nearest place of interest
DENSE = -500  # HU; the lung is below
# The least and the largest share of a nodule that is surrounded by air, by its place.
SEEN = {"free": (0.9, 1.0), "vessel": (0.7, 1.0), "wall": (0.5, 0.9)}
RAY = (1.6, 0.8)  # millimetres, the radius of a spicule at both ends
MIDDLE = 9.0  # the median diameter; 6.4 in LUNA16, whose voxels are a third as wide


class Lesion(NamedTuple):
    """A nodule of `chest_ct`.

    Attributes:
      center: x, y, z in millimetres.
      diameter: millimetres.
      is_malignant: by the rule of `malignancy`.
      spicules: thin rays that grow out of it into the lung.
      solid: the share of its diameter that is solid; the rest is hazy. 1 for a solid nodule.
      place: "free" in the lung, or it touches a "vessel" or the "wall".
    """

    center: tuple[float, float, float]
    diameter: float
    is_malignant: bool
    spicules: int
    solid: float
    place: str


class Chest(NamedTuple):
    """A made-up scan, and the truth about it.

    Attributes:
      scan: `[index row column]` in whole Hounsfield units.
      nodules: all nodules in it.
      others: `[n 3]` x, y, z of places that are no nodules but look like one at a first glance.
      kinds: `[n]` which: "crossing" of vessels, "vessel", "rib", "airway" or "lung".
    """

    scan: Volume
    nodules: tuple[Lesion, ...]
    others: np.ndarray
    kinds: np.ndarray


def malignancy(diameter: float, spicules: int, solid: float) -> float:
    """A score; a nodule of `chest_ct` is malignant if it is positive.

    Large, spiculated and part-solid nodules are the suspicious ones. Spicules tell most, so
    that the diameter alone is not enough.

    >>> malignancy(6, 0, 1.0) < 0 < malignancy(6, 9, 1.0)
    True
    """
    return 1.3 * math.log(diameter / 13) + 0.19 * spicules + 0.8 * (solid < 1)


# The shares of the kinds of places that are no nodules.
SHARES = {"crossing": 0.35, "vessel": 0.3, "rib": 0.2, "airway": 0.05, "lung": 0.1}


def chest_ct(
    shape: tuple[int, int, int] = (64, 112, 144),
    *,
    nodules: int | None = None,
    others: int = 600,
    noise: float = 25.0,
    seed: int = 0,
) -> Chest:
    """A made-up chest CT of one patient; the seed decides on everything.

    The scan shows about 128 x 224 x 288 mm (the size of patients differs by a tenth).

    Args:
      shape: voxels along index, row, column.
      nodules: the number of nodules; None draws 2 to 6.
      others: the number of places that are no nodules (LUNA16 has 620 a scan).
      noise: standard deviation of the noise, HU.
      seed: of the patient.

    Returns:
      A `Chest`: scan, nodules and other places.

    >>> chest = chest_ct((16, 28, 36), nodules=2, others=5)
    >>> chest.scan.voxels.shape, len(chest.nodules), chest.others.shape
    ((16, 28, 36), 2, (5, 3))
    """
    shape, noise = checks.wholes(shape, "shape", 3, 8), checks.real(noise, "noise", 0)
    others = checks.whole(others, "others", 0)
    rng = np.random.default_rng(checks.whole(seed, "seed", 0, 2**63))
    count = int(rng.integers(2, 7)) if nodules is None else checks.whole(nodules, "nodules", 0)
    patient = Patient.draw(rng)
    canvas = Canvas.of(shape, patient.scale)
    lungs = draw_bodies(canvas, patient, rng)
    inside = Inside.of(canvas, lungs)
    vessels = [tree(rng, inside, *HILA[side], 4.2, 9) for side in (0, 0, 0, 1, 1, 1)]
    airways = [tree(rng, inside, *HILA[side], 3.8, 5) for side in (0, 1)]
    tubes = np.concatenate(vessels)
    draw_vessels(canvas, tubes, lungs)
    draw_airways(canvas, np.concatenate([TRACHEA, *airways]))
    lesions = []
    for _ in range(count):
        lesion = _place_nodule(rng, canvas, inside, tubes, lesions)
        _draw_nodule(canvas, lesion, rng)
        lesions.append(lesion)
    where, kinds = _others(rng, others, inside, tubes, np.concatenate(airways), lesions)
    scan = _scanned(canvas, rng, noise, patient.scale)
    lesions = [_rescaled(lesion, patient.scale) for lesion in lesions]
    return Chest(scan, tuple(lesions), where * patient.scale, kinds)


def _place_nodule(
    rng: np.random.Generator,
    canvas: Canvas,
    inside: Inside,
    tubes: np.ndarray,
    before: list[Lesion],
) -> Lesion:
    """Draw a nodule that can be seen, and touches none of those before it."""
    place = str(rng.choice(["free", "vessel", "wall"], p=[0.5, 0.25, 0.25]))
    low, high = SEEN[place]
    for _ in range(200):
        diameter = float(np.clip(MIDDLE * np.exp(rng.normal(0, 0.45)), SMALLEST, LARGEST))
        radius = diameter / 2
        if place == "wall":
            center = inside.draw(rng, 1, 0.6 * radius + 1, radius + 3)[0]
        elif place == "vessel":
            thin = tubes[tubes[:, 7] <= max(0.6 * radius, tubes[:, 7].min())]
            tube = thin[rng.integers(len(thin))]
            center = tube[3:6] + unit(rng.normal(size=3)) * (0.8 * radius + tube[7])
        else:
            center = inside.draw(rng, 1, radius + 2, 200)[0]
        center = within(center, np.array([END, radius + 2, radius + 2]))
        free = all(
            np.hypot(*(center - lesion.center)[:2]) > 15 + radius + lesion.diameter / 2
            for lesion in before
        )
        if free and low <= _share_in_air(canvas, center, radius) <= high:
            break
    is_spiculated, is_hazy = rng.random(2) < (0.4, 0.2)
    is_large = diameter > 5  # smaller ones are round dots in any scan
    spicules = int(rng.integers(5, 14)) if is_spiculated and is_large else 0
    solid = float(rng.uniform(0.4, 0.7)) if is_hazy and is_large else 1.0
    is_malignant = malignancy(diameter, spicules, solid) > 0
    return Lesion(tuple(center.tolist()), diameter, is_malignant, spicules, solid, place)


def _share_in_air(canvas: Canvas, center: np.ndarray, radius: float) -> float:
    """The share of a ball that is lung so far: flesh within flesh is not seen."""
    box = canvas.box(center, radius)
    if box is None:
        return 0.0
    z, y, x = (
        canvas.z[box[0]] - center[0],
        canvas.y[:, box[1]] - center[1],
        canvas.x[..., box[2]] - center[2],
    )
    ball = z**2 + y**2 + x**2 <= max(radius, canvas.step.max()) ** 2
    return float((canvas.hu[box][ball] < DENSE).mean()) if ball.any() else 0.0


def _draw_nodule(canvas: Canvas, lesion: Lesion, rng: np.random.Generator) -> None:
    """A ball with bumps; rays grow out of a spiculated one."""
    center, radius = np.array(lesion.center), lesion.diameter / 2
    box = canvas.box(center, 1.5 * radius + 2 * canvas.step.max())
    if box is None:
        return
    z, y, x = (
        canvas.z[box[0]] - center[0],
        canvas.y[:, box[1]] - center[1],
        canvas.x[..., box[2]] - center[2],
    )
    distance = np.sqrt(z**2 + y**2 + x**2) + 1e-6
    bumps = np.zeros_like(distance)
    for direction in rng.normal(size=(5, 3)):
        to = unit(direction)
        bumps += np.cos(3 * (z * to[0] + y * to[1] + x * to[2]) / distance + 6 * rng.random())
    surface = radius * (1 + 0.05 * bumps)
    step = canvas.step[1]
    view = canvas.hu[box]
    value = GLASS if lesion.solid < 1 else float(rng.uniform(-30, 60))
    share = np.clip((surface - distance) / step + 0.5, 0, 1)
    view += share * np.maximum(value - view, 0)
    if lesion.solid < 1:
        core = np.clip((lesion.solid * surface - distance) / step + 0.5, 0, 1)
        view += core * np.maximum(20 - view, 0)
    for _ in range(lesion.spicules):
        ray = unit(rng.normal(size=3))
        length = radius + rng.uniform(0.5, 0.9) * radius + 4
        tube = np.array([*(center + 0.7 * radius * ray), *(center + length * ray), *RAY])
        found = tube_depth(canvas, tube)
        if found is None:
            continue
        around, depth = found
        view = canvas.hu[around]
        view += tube_share(depth, RAY[0], step) * np.maximum(-50 - view, 0)


def _others(
    rng: np.random.Generator,
    n: int,
    inside: Inside,
    tubes: np.ndarray,
    airways: np.ndarray,
    lesions: list[Lesion],
) -> tuple[np.ndarray, np.ndarray]:
    """`[n 3]` x, y, z of places without a nodule, and the kind of each."""
    kinds = rng.choice(list(SHARES), size=n, p=list(SHARES.values()))
    depth = inside.at(tubes[:, 3:6])
    thick = tubes[depth > 0]
    candidates = {
        "crossing": thick[:, 3:6],
        "vessel": (thick[:, :3] + thick[:, 3:6]) / 2,
        "rib": inside.draw(rng, 4 * n + 1, 0.1, 4.5),
        "airway": airways[inside.at(airways[:, 3:6]) > 0][:, 3:6],
        "lung": inside.draw(rng, 4 * n + 1, 5, 200),
    }
    places = np.empty((n, 3))
    margin = np.array([END, 1.5, 1.5])
    for kind, there in candidates.items():
        mine = np.flatnonzero(kinds == kind)
        near = there + rng.normal(0, 0.7, there.shape)
        there = _away(near[(near == within(near, margin)).all(axis=1)], lesions)
        if not len(there):
            there = _away(within(candidates["lung"], margin), lesions)
        places[mine] = there[rng.integers(len(there), size=len(mine))]
    return places[:, ::-1], kinds


def _away(places: np.ndarray, lesions: list[Lesion]) -> np.ndarray:
    """The places that are clear of every nodule."""
    clear = np.ones(len(places), bool)
    for lesion in lesions:
        distance = np.sqrt(((places - lesion.center) ** 2).sum(axis=1))
        clear &= distance > lesion.diameter / 2 + 6
    return places[clear]


def _scanned(canvas: Canvas, rng: np.random.Generator, noise: float, scale: float) -> Volume:
    """What a scanner sees: blurred, with noise that is smooth along rows and columns."""
    from scipy import ndimage

    sigma = rng.uniform(0.45, 0.65) * np.minimum(2.0 / canvas.step, 2.0)
    hu = ndimage.gaussian_filter(canvas.hu, sigma, truncate=3)
    if noise:
        grain = rng.standard_normal(hu.shape, np.float32)
        grain = ndimage.uniform_filter1d(ndimage.uniform_filter1d(grain, 2, axis=1), 2, axis=2)
        hu += (
            rng.uniform(0.7, 1.4) * noise * 2 * grain
        )  # the means of 4 have half the deviation
    step = canvas.step[::-1] * scale
    origin = (canvas.x.flat[0] * scale, canvas.y.flat[0] * scale, canvas.z.flat[0] * scale)
    return Volume(np.clip(np.round(hu), -1024, 3071), step, origin)


def _rescaled(lesion: Lesion, scale: float) -> Lesion:
    """A nodule in x, y, z and in the millimetres of its patient."""
    z, y, x = (scale * value for value in lesion.center)
    diameter = scale * lesion.diameter
    is_malignant = malignancy(diameter, lesion.spicules, lesion.solid) > 0
    return lesion._replace(center=(x, y, z), diameter=diameter, is_malignant=is_malignant)
