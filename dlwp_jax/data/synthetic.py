"""Data made up here, with the truth known: stand-ins for what nobody ships (CT, sound, video,
hourly counts).
"""

from typing import NamedTuple

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.chest import Chest, Lesion, chest_ct, malignancy
from dlwp_jax.data.table import Table
from dlwp_jax.data.volume import Volume

__all__ = [
    "BIKE_COLUMNS",
    "NODULES",
    "Chest",
    "Lesion",
    "Nodule",
    "Phantom",
    "bike_counts",
    "chest_ct",
    "chirp",
    "ct_phantom",
    "disc_video",
    "malignancy",
]


class Nodule(NamedTuple):
    """A ball in the lung: where its centre is (mm) and how wide it is (mm), as LUNA's
    annotations say.
    """

    center: tuple[float, float, float]
    diameter: float


class Phantom(NamedTuple):
    """A made-up chest and the nodules in it."""

    scan: Volume
    nodules: tuple[Nodule, ...]


NODULES = (
    Nodule((-60.0, -10.0, -100.0), 12.0),
    Nodule((70.0, 20.0, -130.0), 20.0),
    Nodule((55.0, -30.0, -80.0), 6.0),
)


def ct_phantom(
    shape: tuple[int, int, int] = (48, 128, 128),
    *,
    nodules: tuple[Nodule, ...] = NODULES,
    noise: float = 20.0,
    seed: int = 0,
) -> Phantom:
    """A chest of simple bodies: air, muscle, two lungs, a spine and nodules, in Hounsfield
    units.

    Args:
      shape: voxels along index, row, column; the chest is always 360 x 360 x 144 mm.
      nodules: balls of -50 HU; a voxel counts as inside by its centre.
      noise: standard deviation of the normal noise on every voxel, HU.
      seed: of that noise.

    >>> scan, nodules = ct_phantom((12, 32, 32), noise=0)
    >>> i, r, c = scan.irc(nodules[1].center).round().astype(int)
    >>> scan.voxels.shape, scan.voxels[i, r, c].item()
    ((12, 32, 32), -50.0)
    """
    shape, noise = checks.wholes(shape, "shape", 3), checks.real(noise, "noise", 0)
    seed = checks.whole(seed, "seed", 0, 2**63)
    for nodule in nodules:
        if not isinstance(nodule, tuple) or len(nodule) != 2 or np.shape(nodule[0]) != (3,):
            raise TypeError(
                "nodules must be Nodules, a centre and a diameter each; got "
                f"{checks.describe(nodule)}."
            )
    spacing = np.array([360.0, 360.0, 144.0]) / shape[::-1]
    scan = Volume(
        np.full(shape, -1000.0, np.float32),
        spacing,
        origin=(-180 + spacing[0] / 2, -180 + spacing[1] / 2, -180.0),
    )
    x, y, z = np.moveaxis(scan.xyz(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    hu = scan.voxels
    hu[(x / 165) ** 2 + (y / 120) ** 2 < 1] = 40
    for side in (-1, 1):
        hu[
            ((x - side * 75) / 60) ** 2 + ((y + 5) / 85) ** 2 + ((z + 108) / 140) ** 2 < 1
        ] = -850
    hu[x**2 + (y - 85) ** 2 < 18**2] = 400
    for (cx, cy, cz), diameter in nodules:
        hu[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < (diameter / 2) ** 2] = -50
    hu += np.random.default_rng(seed).normal(0, noise, shape) if noise else 0
    return Phantom(scan, nodules)


def chirp(
    seconds: float = 2.0, rate: int = 22050, *, low: float = 500.0, high: float = 8000.0
) -> tuple[np.ndarray, int]:
    """A tone that rises steadily: f(t) = low + (high - low) t / seconds hertz, as 16-bit mono.

    >>> samples, rate = chirp()
    >>> samples.shape, samples.dtype.name, rate
    ((44100, 1), 'int16', 22050)
    """
    seconds, rate = checks.real(seconds, "seconds", above=0), checks.whole(rate, "rate", 1)
    low, high = checks.real(low, "low"), checks.real(high, "high")
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds))
    return (20000 * np.sin(phase)).astype(np.int16)[:, None], rate


def disc_video(
    frames: int = 40, height: int = 72, width: int = 128, *, radius: float = 10.0
) -> tuple[np.ndarray, float]:
    """A white disc that crosses a blue sky from left to right in an arc.

    Returns:
      `[frames height width 3]` uint8, and 20 frames per second.

    >>> video, fps = disc_video(4)
    >>> video.shape, fps
    ((4, 72, 128, 3), 20.0)
    """
    frames, height, width = checks.wholes(
        (frames, height, width), "frames, height and width", 3
    )
    radius = checks.real(radius, "radius", 0)
    s = np.linspace(0, 1, frames)[:, None, None]
    row, column = np.mgrid[:height, :width]
    center_row, center_column = height * (0.75 - 2 * s * (1 - s)), width * s
    inside = (row - center_row) ** 2 + (column - center_column) ** 2 < radius**2
    return np.where(inside[..., None], np.uint8(255), np.array([60, 120, 200], np.uint8)), 20.0


BIKE_COLUMNS = [
    "instant",
    "dteday",
    "season",
    "yr",
    "mnth",
    "hr",
    "holiday",
    "weekday",
    "workingday",
    "weathersit",
    "temp",
    "atemp",
    "hum",
    "windspeed",
    "casual",
    "registered",
    "cnt",
]


def bike_counts(days: int = 28, *, seed: int = 0) -> Table:
    """Hourly counts of rented bikes like the real table's: two peaks on working days, one hump
    at weekends.

    The expected count of an hour is the day's shape times 1, 0.9, 0.6 or 0.3 by the weather 1
    to 4; the count is Poisson.

    Args:
      days: how many, from Monday, 3 January 2011, 24 rows each.
      seed: of weather and counts.

    >>> bike_counts(2).values.shape
    (48, 17)
    """
    days, rng = (
        checks.whole(days, "days", 1),
        np.random.default_rng(checks.whole(seed, "seed", 0, 2**63)),
    )
    hour, day = np.tile(np.arange(24), days), np.repeat(np.arange(days), 24)
    date = np.datetime64("2011-01-03") + day
    month = date.astype("datetime64[M]").astype(int) % 12 + 1
    working = day % 7 < 5
    rush = (
        5 + 180 * np.exp(-(((hour - 8) / 1.5) ** 2)) + 200 * np.exp(-(((hour - 17.5) / 2) ** 2))
    )
    leisure = 5 + 150 * np.exp(-(((hour - 14) / 4) ** 2))
    weather = np.repeat(rng.choice(4, size=days * 4, p=[0.6, 0.25, 0.12, 0.03]) + 1, 6)
    expected = np.where(working, rush, leisure) * np.array([1.0, 0.9, 0.6, 0.3])[weather - 1]
    count = rng.poisson(expected)
    casual = rng.binomial(count, np.where(working, 0.1, 0.4))
    warmth = (
        0.5
        - 0.3 * np.cos(2 * np.pi * (month - 1) / 12)
        + 0.1 * np.sin(2 * np.pi * (hour - 9) / 24)
    )
    columns = {
        **{
            "instant": np.arange(len(hour)) + 1,
            "dteday": (date - date.astype("datetime64[M]")).astype(int) + 1,
        },
        **{
            "season": (month % 12) // 3 + 1,
            "yr": date.astype("datetime64[Y]").astype(int) - 41,
            "mnth": month,
            "hr": hour,
        },
        **{
            "holiday": 0 * hour,
            "weekday": (day + 1) % 7,
            "workingday": working,
            "weathersit": weather,
        },
        **{
            "temp": warmth,
            "atemp": warmth,
            "hum": 0.5 + 0.1 * (weather - 1),
            "windspeed": rng.uniform(0, 0.4, len(hour)),
        },
        **{"casual": casual, "registered": count - casual, "cnt": count},
    }
    return Table(
        tuple(BIKE_COLUMNS),
        np.stack([columns[name] for name in BIKE_COLUMNS], axis=1).astype(np.float32),
    )
