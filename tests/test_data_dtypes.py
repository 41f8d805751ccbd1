"""Every public function of data that takes numbers, over eight types of numbers: the result is
NumPy's in double precision, or the function refuses the type by one sentence.

Files have types of their own, which their tests cover. The referees are NumPy, SciPy, pandas'
rules in table.categories, SimpleITK for places in a scan, and torch for grid_sample.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import SimpleITK
import torch

from dlwp_jax import data
from dlwp_jax.data import arrays, audio, augment, batches, image, series, table, text, volume

KEY = jax.random.key(0)
DTYPES = ("uint8", "int8", "int16", "int32", "bool", "float16", "bfloat16", "float64")
WHOLE = ("uint8", "int8", "int16", "int32")
FLOATS = ("float16", "bfloat16", "float64")
EXACT = (*WHOLE, "bool", "float64")
# Relative to the largest number: float64 comes out as float32 if JAX has no 64 bits.
PRECISION = {"float16": 2e-3, "bfloat16": 1.6e-2, "float64": 1e-6}


def numbers(dtype, shape):
    """Numbers that use the whole range of a type: its ends, and small ones."""
    count = int(np.prod(shape))
    if dtype == "bool":
        values = np.arange(count) % 3 == 0
    elif dtype in WHOLE:
        limits = np.iinfo(dtype)
        values = np.resize([limits.max, 1, limits.min, 2, limits.max - 1, 0, 3], count)
    else:
        values = np.resize([0.5, -3.0, 100.0, 7.25, 0.0, -64.0, 2.0], count)
    return (
        jnp.asarray(values.reshape(shape)).astype(dtype)
        if dtype == "bfloat16"
        else (values.reshape(shape).astype(dtype))
    )


def classes(dtype, count=12):
    """Labels 0, 1 and 2, or False and True."""
    return (np.arange(count) % (2 if dtype == "bool" else 3)).astype(
        jnp.bfloat16 if dtype == "bfloat16" else dtype
    )


def wide(x):
    """The numbers in double precision, by NumPy."""
    return np.asarray(x).astype(np.float64)


def standard(x):
    x = wide(x)
    return (x - x.mean(0)) / x.std(0, ddof=1)


def ranged(x):
    x = wide(x)
    return (x - x.min(0)) / np.ptp(x, axis=0)


def scans(x):
    return volume.Volume(np.zeros((300, 300, 300), bool), (0.5, 0.5, 2.0), (-3.0, 4.0, 5.0))


def simpleitk_places(x):
    scan = SimpleITK.Image([2, 2, 2], SimpleITK.sitkUInt8)
    scan.SetSpacing((0.5, 0.5, 2.0))
    scan.SetOrigin((-3.0, 4.0, 5.0))
    to_place = scan.TransformContinuousIndexToPhysicalPoint
    return np.array([to_place(place[::-1].tolist()) for place in wide(x)])


def simpleitk_voxels(x):
    scan = SimpleITK.Image([2, 2, 2], SimpleITK.sitkUInt8)
    scan.SetSpacing((0.5, 0.5, 2.0))
    scan.SetOrigin((-3.0, 4.0, 5.0))
    to_voxel = scan.TransformPhysicalPointToContinuousIndex
    return np.array([to_voxel(place.tolist())[::-1] for place in wide(x)])


def grid_sampled(matrix):
    x = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    theta = torch.tensor(wide(matrix))[None, :2]
    grid = torch.nn.functional.affine_grid(theta, [1, 1, 3, 4], align_corners=False)
    sampled = torch.nn.functional.grid_sample(
        x, grid, padding_mode="border", align_corners=False
    )
    return sampled.numpy()[0, 0, :, :, None]


def spectrum(x):
    return scipy.signal.spectrogram(wide(x), 100.0, nperseg=32)[2]


def eye(dtype):
    return np.eye(3).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)


def unit_of(x):
    """Whole numbers by their largest, as the readers of pictures give them."""
    return wide(x) / 255 if np.asarray(x).dtype == np.uint8 else wide(x)


def swing_of(x):
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return (wide(x) - 128) / 128
    return wide(x) / 2.0 ** (8 * x.itemsize - 1) if x.dtype.kind == "i" else wide(x)


SCALE = arrays.Scale(np.float32([1.0, -2.0, 3.0]), np.float32([2.0, 4.0, 0.5]))
TABLE = {
    # name: (what the function gives for x, what NumPy gives, how x is made, types taken)
    "take": (lambda x: data.take(x, [2, 0]), lambda x: wide(x)[[2, 0]], (4, 3), DTYPES),
    "rows of take": (
        lambda x: data.take(np.arange(300.0) if x.dtype != bool else np.arange(12.0), x),
        lambda x: np.arange(300.0)[: 12 if x.dtype == bool else None][np.asarray(x)],
        classes,
        (*WHOLE, "bool"),
    ),
    "split by labels": (
        lambda x: np.sort(data.split(x, val=0.5, key=KEY, labels=x)[1].astype(float)),
        lambda x: np.sort(wide(x))[1::2],
        lambda dtype: classes(dtype, 24),
        tuple(d for d in DTYPES if d != "bfloat16"),
    ),
    "groups of k_fold": (
        lambda x: sorted(len(h) for _, h in arrays.k_fold(12, 2, key=KEY, groups=x)),
        lambda x: [6, 6] if x.dtype == bool else [4, 8],
        classes,
        tuple(d for d in DTYPES if d != "bfloat16"),
    ),
    "standardize": (lambda x: data.standardize(x)[0], standard, (7, 3), (*WHOLE, *FLOATS)),
    "Scale.unit_range": (
        lambda x: arrays.Scale.unit_range(x).apply(x),
        ranged,
        (7, 3),
        (*WHOLE, *FLOATS),
    ),
    "Scale.apply": (
        SCALE.apply,
        lambda x: (wide(x) - SCALE.offset) / SCALE.unit,
        (4, 3),
        DTYPES,
    ),
    "Scale.undo": (SCALE.undo, lambda x: wide(x) * SCALE.unit + SCALE.offset, (4, 3), DTYPES),
    "audio.to_float": (audio.to_float, swing_of, (9,), ("uint8", "int16", "int32", *FLOATS)),
    "audio.spectrogram": (
        lambda x: audio.spectrogram(x, 100.0, nperseg=32).power,
        spectrum,
        (64,),
        DTYPES,
    ),
    "augment.warp": (
        lambda x: augment.warp(np.arange(12.0).reshape(3, 4, 1), x),
        grid_sampled,
        eye,
        DTYPES,
    ),
    "augment.warp of pictures": (
        lambda x: augment.warp(x, np.diag([-1.0, 1.0, 1.0])),
        lambda x: wide(x)[:, ::-1],
        (3, 4, 1),
        FLOATS,
    ),
    "augment.augment": (lambda x: augment.augment(KEY, x, flips=()), wide, (3, 4, 1), FLOATS),
    "augment.noise": (lambda x: augment.noise(KEY, x, 0.0), wide, (5,), FLOATS),
    "balanced_rows": (
        lambda x: batches.balanced_rows(x == 1, ratio=2, n=7),
        lambda x: batches.balanced_rows(wide(x) == 1, ratio=2, n=7),
        classes,
        DTYPES,
    ),
    "balanced": (
        lambda x: wide(x)[data.balanced(x, n=6, shuffle=False)(KEY, 0)],
        lambda x: [1, 0] * 3 if x.dtype == bool else [0, 1, 2] * 2,
        classes,
        tuple(d for d in DTYPES if d != "bfloat16"),
    ),
    "weighted": (
        lambda x: np.sort(data.weighted(x, n=8, replacement=False)(KEY, 0)),
        lambda x: np.flatnonzero(wide(x))[:8],
        lambda dtype: classes(dtype, 12 if dtype != "bool" else 16),
        DTYPES,
    ),
    "image.center_crop": (
        lambda x: image.center_crop(x, (1, 4)),
        lambda x: np.pad(wide(x)[1:2], ((0, 0), (0, 1), (0, 0))),
        (3, 3, 2),
        DTYPES,
    ),
    "image.to_float": (image.to_float, unit_of, (3, 4, 1), ("uint8", *FLOATS)),
    "image.normalize": (
        lambda x: image.normalize(x)[0],
        lambda x: standard(unit_of(x).reshape(-1, 1)).reshape(x.shape),
        (3, 4, 1),
        ("uint8", *FLOATS),
    ),
    "image.channels_first": (
        image.channels_first,
        lambda x: wide(x).transpose(2, 0, 1),
        (3, 4, 2),
        DTYPES,
    ),
    "series.days": (
        lambda x: series.days(x, hours=2).to_array(),
        lambda x: wide(x).reshape(3, 2, 2).transpose(0, 2, 1),
        (6, 2),
        DTYPES,
    ),
    "series.ordinal_one_hot": (
        lambda x: series.ordinal_one_hot(x, low=-1, high=2),
        lambda x: np.eye(4)[wide(x).astype(int) + 1],
        classes,
        DTYPES,
    ),
    "table.one_hot": (
        table.one_hot,
        lambda x: np.eye(2 if x.dtype == bool else 3)[wide(x).astype(int)],
        classes,
        DTYPES,
    ),
    "table.categories": (
        lambda x: table.categories(x)[0],
        lambda x: np.unique(wide(x), return_inverse=True)[1],
        (9,),
        tuple(d for d in DTYPES if d != "bfloat16"),
    ),
    "table.agreement": (lambda x: table.agreement(x, x).matches, np.sum, (9,), ("bool",)),
    "text.decode_characters": (
        lambda x: [ord(c) for c in text.decode_characters(x)],
        lambda x: wide(x).argmax(-1),
        (5, 7),
        DTYPES,
    ),
    "text.decode": (
        lambda x: [int(c) for c in text.decode(x, {"0": 0, "1": 1, "2": 2})],
        wide,
        classes,
        WHOLE,
    ),
    "numbers of text.embed": (
        lambda x: text.embed(np.arange(6.0).reshape(3, 2), x),
        lambda x: np.arange(6.0).reshape(3, 2)[np.asarray(x)],
        classes,
        WHOLE,
    ),
    "vectors of text.embed": (
        lambda x: text.embed(x, [2, 0]),
        lambda x: wide(x)[[2, 0]],
        (3, 2),
        FLOATS,
    ),
    "Volume.xyz": (lambda x: scans(x).xyz(x), simpleitk_places, (4, 3), DTYPES),
    "Volume.irc": (lambda x: scans(x).irc(x), simpleitk_voxels, (4, 3), DTYPES),
    "volume.window": (
        lambda x: volume.window(x, low=-100, high=100),
        lambda x: (np.clip(wide(x), -100, 100) + 100) / 200,
        (9,),
        DTYPES,
    ),
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_numbers_of_every_type(name, x64):
    call, reference, shape, taken = TABLE[name]
    with jax.enable_x64(x64):
        for dtype in DTYPES:
            x = shape(dtype) if callable(shape) else numbers(dtype, shape)
            if dtype not in taken:
                with pytest.raises((TypeError, ValueError), match=r"[a-z]"):
                    call(x)
                continue
            result = np.asarray(call(x))
            expected = np.asarray(reference(x), np.float64)
            largest = np.abs(expected).max()
            rough = PRECISION.get(dtype, 1e-6)
            np.testing.assert_allclose(
                result.astype(np.float64), expected, rtol=0, atol=rough * largest, err_msg=dtype
            )
