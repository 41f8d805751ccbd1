"""Subjects: images, volumes, sound, clocks, made-up data and their pictures, from
`dlwp_jax.data`.
"""

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from PIL import Image

from dlwp_jax import data
from dlwp_jax.data import audio, augment, image, imagenet, series, synthetic, volume
from tests.properties.data import integer, need_key, number, numbers
from tests.properties.hostile import recipes
from tests.properties.subject import same, subject

KEYS = st.sampled_from(recipes("jax.random.key(0)", "jax.random.PRNGKey(1)"))
PHOTOS = st.sampled_from(
    recipes("arange(60, dtype=np.uint8).reshape(4, 5, 3)", "ones((7, 2, 1), np.uint8)")
)
NOT_PHOTOS = st.sampled_from(
    recipes(
        "ones((4, 5))",
        "zeros((0, 4, 3), np.uint8)",
        "ones((4, 5, 3))",
        "ones((2, 2, 1), '>u2')",
    )
)
SIZES = st.sampled_from([3, (2, 3), [8, 8]])
NOT_SIZES = st.sampled_from(
    [0, (0, 2), (2,), (2, 3, 4), (-1, 2), (2.0, 3), 10**30, (10**9, 10**9), "33"]
)


def two(size):
    if isinstance(size, set | dict | str | bytes):
        raise TypeError("no size")
    height, width = (integer(n, 1, 2**16) for n in size)
    return height, width


def is_single(size):
    return (
        np.ndim(size) == 0
        and not isinstance(size, str | bytes | set | dict)
        and size is not None
    )


def photo(image, kinds="biufc"):
    image = numbers(image, kinds)
    if image.ndim != 3 or not image.size:
        raise ValueError("no image")
    return image


def resized(image, size):
    image = photo(image)
    if image.dtype != np.uint8:
        raise TypeError("no uint8")
    if is_single(size):
        size = tuple(
            int(integer(size, 1, 2**16) * n / min(image.shape[:2])) for n in image.shape[:2]
        )
    height, width = two(size)
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., i])).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for i in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


subject(
    "data.image.resize",
    image.resize,
    takes={"image": PHOTOS, "size": SIZES},
    reference=resized,
    near={"image": NOT_PHOTOS, "size": NOT_SIZES},
)


def cropped(image, size):
    image, (height, width) = photo(image), two((size, size) if is_single(size) else size)
    if height * width > 10**7:
        raise ValueError("too much for this test")
    out = image
    for axis, want in ((0, height), (1, width)):  # torchvision's rule, pixel by pixel
        have = out.shape[axis]
        first = round((have - want) / 2) if have >= want else -((want - have) // 2)
        rows = np.arange(first, first + want)
        inside = (rows >= 0) & (rows < have)
        out = np.take(out, np.where(inside, rows, 0), axis) * np.expand_dims(
            inside, [i for i in range(3) if i != axis]
        )
    return out


subject(
    "data.image.center_crop",
    image.center_crop,
    takes={"image": PHOTOS, "size": SIZES},
    reference=cropped,
    near={
        "image": NOT_PHOTOS,
        "size": st.sampled_from([0, (0, 2), (2,), (-1, 2), (2.0, 3), 10**30, "33"]),
    },
)


def unit(images):
    images = numbers(images)
    if images.dtype.kind == "f":
        if (np.abs(images[np.isfinite(images)]).astype(float) > 3.4e38).any():
            raise ValueError("too large")
        return images.astype(np.float32)
    if images.dtype not in (np.uint8, np.uint16):
        raise TypeError("no image")
    return (images / np.iinfo(images.dtype).max).astype(np.float32)


subject(
    "data.image.to_float",
    image.to_float,
    takes={"images": PHOTOS},
    reference=unit,
    near={"images": NOT_PHOTOS},
)


def moved(images, spatial, back=False):
    images = numbers(images, "biufc")
    spatial = integer(spatial, 1)
    if images.ndim < spatial + 1:
        raise ValueError("axes")
    return (
        np.moveaxis(images, -1 - spatial, -1) if back else np.moveaxis(images, -1, -1 - spatial)
    )


for _name in ("channels_first", "channels_last"):
    subject(
        f"data.image.{_name}",
        lambda images, spatial, name=_name: getattr(image, name)(images, spatial=spatial),
        takes={
            "images": st.sampled_from(
                recipes("ones((2, 3, 4, 5))", "jnp.arange(60).reshape(3, 4, 5)")
            ),
            "spatial": st.just(2),
        },
        reference=lambda images, spatial, back=_name == "channels_last": moved(
            images, spatial, back
        ),
        near={"spatial": st.sampled_from([0, -1, 3, 9])},
    )


def normalized(images, scale):
    images = unit(images)
    if not (scale is None or isinstance(scale, data.Scale)) or (
        scale is None and (not images.size or not np.isfinite(images).all())
    ):
        raise TypeError("no scale")
    axes = tuple(range(images.ndim - 1))
    if scale is not None:
        if np.broadcast_shapes(images.shape, scale.offset.shape) != images.shape:
            raise ValueError("shape")
        return (images - scale.offset) / scale.unit
    if np.prod([images.shape[i] for i in axes], dtype=int) < 2 or not axes:
        raise ValueError("one value")
    wide = images.astype(float)
    std = wide.std(axes, ddof=1)
    return (wide - wide.mean(axes)) / np.where(std > 1e-12 * np.abs(wide.mean(axes)), std, 1.0)


subject(
    "data.image.normalize",
    lambda images, scale: image.normalize(images, scale)[0],
    takes={"images": PHOTOS, "scale": st.none()},
    reference=normalized,
    agrees=lambda result, expected: same(result, expected, rtol=1e-3, atol=1e-4),
    near={"images": NOT_PHOTOS, "scale": st.sampled_from([imagenet.SCALE])},
)


def prepared(picture):
    picture = numbers(picture)
    if (
        picture.ndim != 3
        or picture.shape[-1] != 3
        or picture.dtype != np.uint8
        or not picture.size
    ):
        raise ValueError("no picture")
    return (
        unit(cropped(resized(picture, 256), 224)) - imagenet.SCALE.offset
    ) / imagenet.SCALE.unit


subject(
    "data.imagenet.preprocess",
    imagenet.preprocess,
    takes={"picture": st.sampled_from(recipes("arange(60, dtype=np.uint8).reshape(4, 5, 3)"))},
    reference=prepared,
    near={"picture": NOT_PHOTOS},
)

# Sound.


def floats(samples):
    samples = numbers(samples)
    if samples.dtype == np.uint8:
        return (samples.astype(float) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return samples / 2.0 ** (8 * samples.itemsize - 1)
    if samples.dtype.kind != "f":
        raise TypeError("no samples")
    with np.errstate(over="ignore"):
        return samples.astype(np.float32)


SAMPLES = st.sampled_from(
    recipes(
        "arange(600, dtype=np.int16)",
        "np.sin(arange(600.0))",
        "arange(5, dtype='>i2')",
        "ones((2, 300), float32)",
    )
)
subject("data.audio.to_float", audio.to_float, takes={"samples": SAMPLES}, reference=floats)


def spectrum(waveform, rate, nperseg, noverlap):
    waveform, rate, nperseg = numbers(waveform), number(rate, above=0), integer(nperseg, 1)
    noverlap = nperseg // 8 if noverlap is None else integer(noverlap, 0)
    if (
        not waveform.ndim
        or not nperseg <= waveform.shape[-1]
        or not noverlap < nperseg
        or not 1e-30 < rate < 1e30
    ):
        raise ValueError("no segments")
    return scipy.signal.spectrogram(
        waveform.astype(float), rate, nperseg=nperseg, noverlap=noverlap
    )[2]


subject(
    "data.audio.spectrogram",
    lambda waveform, rate, nperseg, noverlap: (
        audio.spectrogram(waveform, rate, nperseg=nperseg, noverlap=noverlap).power
    ),
    takes={
        "waveform": st.sampled_from(recipes("np.sin(arange(600.0))", "jnp.ones((2, 300))")),
        "rate": st.sampled_from([8000, 100.0]),
        "nperseg": st.just(256),
        "noverlap": st.sampled_from([None, 0]),
    },
    reference=spectrum,
    agrees=lambda result, expected: same(result, expected, rtol=1e-2, atol=1e-4),
    near={
        "nperseg": st.sampled_from([0, -1, 601, 2.0]),
        "noverlap": st.sampled_from([-1, 256]),
        "rate": st.sampled_from([0, -1]),
    },
    examples=(10, 40),
)

# Clocks.


def missing(times, step):
    times = [np.datetime64(time, "h") for time in times]
    return sorted(
        {
            times[0] + np.timedelta64(i, "h")
            for i in range(int((times[-1] - times[0]).astype(int)))
        }
        - set(times)
    )


HOURS = st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True).map(
    lambda hours: [f"2011-01-{1 + h // 24:02}T{h % 24:02}" for h in sorted(hours)]
)
subject(
    "data.series.missing_times",
    lambda times, step: list(series.missing_times(times, step)),
    takes={
        "times": HOURS,
        "step": st.sampled_from([(1, "h"), *recipes("timedelta64(1, 'h')")]),
    },
    reference=missing,
    near={
        "times": st.sampled_from(
            [
                ["2011-01-02", "2011-01-01"],
                ["x"],
                ["NaT"],
                [],
                ["0001-01-01T00", "9999-01-01T00"],
            ]
        ),
        "step": st.sampled_from([(0, "h"), (-1, "h"), (1, "x"), (7, "s", 1), "1h", (1, None)]),
    },
    fixed=(),
)
subject(
    "data.series.check_regular",
    lambda times, step: series.check_regular(times, step),
    takes={"times": st.just(["2011-01-01T00", "2011-01-01T01"]), "step": st.just((1, "h"))},
    reference=lambda times, step: (missing(times, step) and 1 / 0) or None,
    near={"times": HOURS},
)


def daily(x, hours):
    x, hours = numbers(x, "biufc"), integer(hours, 1)
    if x.ndim != 2 or not len(x) or len(x) % hours:
        raise ValueError("no days")
    return x.reshape(-1, hours, x.shape[1]).swapaxes(1, 2)


subject(
    "data.series.days",
    lambda x, hours: series.days(x, hours=hours).numpy(),
    takes={
        "x": st.sampled_from(recipes("ones((48, 3))", "arange(48).reshape(24, 2)")),
        "hours": st.sampled_from([24, 12]),
    },
    reference=daily,
    near={
        "x": st.sampled_from(recipes("ones((47, 3))", "ones(48)")),
        "hours": st.sampled_from([0, -1, 2.0]),
    },
)


def levels_of(levels, low, high):
    levels, low, high = numbers(levels), integer(low, -(2**31)), integer(high, -(2**31))
    wide = levels.astype(float)
    if (
        low > high
        or high - low > 10**4
        or (
            levels.size
            and (
                not np.isfinite(wide).all()
                or (wide != np.floor(wide)).any()
                or wide.min() < low
                or wide.max() > high
            )
        )
    ):
        raise ValueError("no level")
    return np.eye(high - low + 1, dtype=np.float32)[(wide - low).astype(int)]


subject(
    "data.series.ordinal_one_hot",
    lambda levels, low, high: series.ordinal_one_hot(levels, low=low, high=high),
    takes={
        "levels": st.sampled_from([[1, 1, 2], [[4]], *recipes("array([1, 2], np.uint8)")]),
        "low": st.just(1),
        "high": st.integers(4, 6),
    },
    reference=levels_of,
    near={
        "levels": st.sampled_from([[0], [1.5], [9]]),
        "low": st.sampled_from([0, -3, 2]),
        "high": st.sampled_from([0, 10**30]),
    },
)

# Volumes.

SCAN = volume.Volume(
    np.arange(60.0, dtype=np.float32).reshape(3, 4, 5), (0.5, 1.0, 2.0), (-1.0, 2.0, 3.0)
)
SPACING = np.array([0.5, 1.0, 2.0])


def places(value):
    value = numbers(value).astype(float)
    if not value.ndim or value.shape[-1] != 3:
        raise ValueError("no places")
    return value


PLACES = st.sampled_from([[0.0, 2.0, 3.0], [[1, 1, 1], [0, 3, 5]]])
subject(
    "data.volume.Volume.xyz",
    lambda irc: SCAN.xyz(irc),
    takes={"irc": PLACES},
    reference=lambda irc: SCAN.origin + places(irc)[..., ::-1] * SPACING,
)
subject(
    "data.volume.Volume.irc",
    lambda xyz: SCAN.irc(xyz),
    takes={"xyz": PLACES},
    reference=lambda xyz: ((places(xyz) - SCAN.origin) / SPACING)[..., ::-1],
)


def cut(center, width):
    center = places(center)
    if isinstance(width, set | dict | str | bytes):
        raise TypeError("no width")
    width = [integer(w, 1) for w in width]
    middle = np.round(((center - SCAN.origin) / SPACING)[::-1])
    shape = SCAN.voxels.shape
    if (
        center.shape != (3,)
        or not np.isfinite(center).all()
        or len(width) != 3
        or any(w > n for w, n in zip(width, shape, strict=True))
        or any(not 0 <= m < n for m, n in zip(middle, shape, strict=True))
    ):
        raise ValueError("no box")
    starts = [
        min(max(round(m - w / 2), 0), n - w)
        for m, w, n in zip(middle, width, shape, strict=True)
    ]
    return SCAN.voxels[tuple(slice(s, s + w) for s, w in zip(starts, width, strict=True))]


subject(
    "data.volume.Volume.chunk",
    lambda center, width: SCAN.chunk(center, width)[0],
    takes={
        "center": st.sampled_from([[0.0, 2.0, 3.0], [1.0, 5.0, 7.0]]),
        "width": st.sampled_from([(1, 2, 3), [3, 4, 5]]),
    },
    reference=cut,
    near={
        "center": st.sampled_from([[9, 9, 99], [np.nan] * 3, [1e300] * 3, [1, 2]]),
        "width": st.sampled_from([(0, 1, 1), (4, 1, 1), (1, 1), (1.0, 1, 1), 2]),
    },
)


def three_planes(irc):
    i, r, c = (
        (1, 2, 2)
        if irc is None
        else (integer(n, 0) for n in (irc if not isinstance(irc, set | dict) else 1 / 0))
    )
    return {
        "axial": SCAN.voxels[i],
        "coronal": SCAN.voxels[::-1, r],
        "sagittal": SCAN.voxels[::-1, :, c],
    }


subject(
    "data.volume.Volume.planes",
    lambda irc: SCAN.planes(irc),
    takes={"irc": st.sampled_from([None, (0, 1, 2)])},
    reference=three_planes,
    near={"irc": st.sampled_from([(-1, 0, 0), (3, 0, 0), (0, 0), (0.0, 1, 1)])},
)


def made(voxels, spacing, origin, direction):
    voxels, spacing, origin, direction = (
        numbers(voxels, "biufc"),
        *(numbers(v).astype(float) for v in (spacing, origin, direction)),
    )
    if (
        voxels.ndim != 3
        or spacing.shape != (3,)
        or origin.shape != (3,)
        or direction.shape != (3, 3)
        or not (spacing > 0).all()
        or not all(np.isfinite(v).all() for v in (spacing, origin, direction))
        or not np.allclose(direction @ direction.T, np.eye(3), atol=1e-3)
    ):
        raise ValueError("no volume")
    return [voxels, spacing, origin, direction]


subject(
    "data.volume.Volume",
    lambda voxels, spacing, origin, direction: list(
        vars(volume.Volume(voxels, spacing, origin, direction)).values()
    ),
    takes={
        "voxels": st.sampled_from(recipes("zeros((2, 3, 4))", "jnp.zeros((1, 1, 1))")),
        "spacing": st.just((1, 1, 2.5)),
        "origin": st.just([0, 0, 0]),
        "direction": st.sampled_from(recipes("np.eye(3)", "np.eye(3)[::-1]")),
    },
    reference=made,
    near={
        "voxels": st.sampled_from(recipes("zeros((2, 3))")),
        "spacing": st.sampled_from([(0, 1, 1), (-1, 1, 1), (1, 1)]),
        "direction": st.sampled_from(recipes("ones((3, 3))", "zeros((3, 3))")),
    },
)


def grey(hu, low, high):
    hu, low, high = numbers(hu), number(low), number(high)
    if not low < high:
        raise ValueError("no window")
    return (np.clip(hu.astype(float), low, high) - low) / (high - low)


subject(
    "data.volume.window",
    lambda hu, low, high: volume.window(hu, low=low, high=high),
    takes={
        "hu": st.sampled_from(
            [
                [-2000.0, 0, 3000],
                *recipes("arange(5, dtype=np.int16)", "array(7.0)", "ones(3, float16)"),
            ]
        ),
        "low": st.just(-1000.0),
        "high": st.just(400.0),
    },
    reference=grey,
    agrees=lambda result, expected: same(
        np.asarray(result, float), expected, rtol=1e-2, atol=1e-2
    ),
    near={"low": st.sampled_from([400, 1000, -np.inf])},
)

# Augmentation.

DIMS = st.sampled_from([2, 3])


def matrix_of(key, dims, **named):
    amounts = named.values()
    need_key(key)
    if isinstance(dims, bool | np.bool_) or dims not in (2, 3):
        raise ValueError("dims")
    return int(dims), *(abs(number(amount)) for amount in amounts)


def moves(result, expected):
    dims, amount = expected
    m = np.asarray(result)
    assert m.shape == (dims + 1, dims + 1)
    np.testing.assert_allclose(m[:dims, :dims], np.eye(dims))
    assert (np.abs(m[:dims, dims]) <= amount * (1 + 1e-6)).all() or not amount < 1e30


def stretches(result, expected):
    dims, amount = expected
    m = np.asarray(result)
    assert m.shape == (dims + 1, dims + 1)
    assert (
        np.abs(np.diag(m)[:dims] - 1) <= amount * (1 + 1e-5) + 1e-6
    ).all() or not amount < 1e30


def turns(result, expected):
    dims, _ = expected
    m = np.asarray(result)
    assert m.shape == (dims + 1, dims + 1)
    np.testing.assert_allclose(m @ m.T, np.eye(dims + 1), atol=1e-5)


for _name, _agrees in (("shift", moves), ("scale", stretches)):
    subject(
        f"data.augment.{_name}",
        lambda key, dims, amount, name=_name: getattr(augment, name)(key, dims, amount),
        takes={
            "key": KEYS,
            "dims": DIMS,
            "amount": st.sampled_from([0.0, 0.1, np.float32(0.5)]),
        },
        reference=matrix_of,
        agrees=_agrees,
    )
subject(
    "data.augment.rotate",
    lambda key, dims, most: augment.rotate(key, dims, most=most),
    takes={"key": KEYS, "dims": DIMS, "most": st.sampled_from([0.0, 1.0])},
    reference=matrix_of,
    agrees=turns,
)


def mirror(key, dims, axes):
    (dims,) = matrix_of(key, dims)
    if axes is not None and not (
        isinstance(axes, tuple | list | range) and all(integer(axis, 0) < dims for axis in axes)
    ):
        raise ValueError("axes")
    return dims, range(dims) if axes is None else axes


def mirrors(result, expected):
    dims, axes = expected
    diagonal = np.diag(np.asarray(result))
    assert np.asarray(result).shape == (dims + 1, dims + 1)
    assert all(sign == 1 or (sign == -1 and axis in axes) for axis, sign in enumerate(diagonal))


subject(
    "data.augment.flip",
    lambda key, dims, axes: augment.flip(key, dims, axes=axes),
    takes={"key": KEYS, "dims": DIMS, "axes": st.sampled_from([None, (0,), [1, 0], ()])},
    reference=mirror,
    agrees=mirrors,
    near={"axes": st.sampled_from([(3,), (-1,), "01", (0.0,)])},
)


def floating(x):
    x = numbers(x, "f")
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def warped(x, matrix):
    x, matrix = floating(x), numbers(matrix).astype(np.float32)
    dims = x.ndim - 1
    if dims not in (2, 3) or matrix.shape != (dims + 1, dims + 1) or not x.size:
        raise ValueError("no image")
    channels = torch.from_numpy(np.moveaxis(x, -1, 0).copy())[None]
    grid = F.affine_grid(
        torch.from_numpy(matrix[:-1])[None], list(channels.shape), align_corners=False
    )
    return np.moveaxis(
        F.grid_sample(channels, grid, padding_mode="border", align_corners=False)[0].numpy(),
        0,
        -1,
    )


subject(
    "data.augment.warp",
    augment.warp,
    takes={
        "x": st.sampled_from(
            recipes("ones((3, 4, 2))", "arange(24.0, dtype=float32).reshape(3, 4, 2)")
        ),
        "matrix": st.sampled_from(
            recipes(
                "np.eye(3)",
                "np.diag([-1.0, 1.0, 1.0])",
                "array([[0.5, 0, 0.1], [0, 2, 0], [0, 0, 1]])",
            )
        ),
    },
    reference=warped,
    agrees=lambda result, expected: same(result, expected, rtol=1e-3, atol=1e-3),
    near={
        "x": st.sampled_from(
            recipes("ones((4, 5), float32)", "ones((4, 5, 1), int8)", "zeros((0, 5, 1))")
        ),
        "matrix": st.sampled_from(recipes("np.eye(4)", "np.eye(2)")),
    },
    examples=(10, 40),
)


def warped_in_planes(x, matrix):
    matrix = numbers(matrix)
    if matrix.shape != (4, 4) or matrix[2, :2].any() or matrix[:2, 2].any():
        raise ValueError("z is mixed with x and y")
    return warped(x, matrix)


subject(
    "data.augment.warp_in_planes",
    augment.warp_in_planes,
    takes={
        "x": st.sampled_from(
            recipes("ones((2, 3, 4, 2))", "arange(48.0, dtype=float32).reshape(2, 3, 4, 2)")
        ),
        "matrix": st.sampled_from(
            recipes(
                "np.eye(4)",
                "np.diag([-1.0, 1.0, -1.0, 1.0])",
                "array([[0.5, 1, 0, 0.1], [0, 2, 0, 0], [0, 0, 0.7, 0.3], [0, 0, 0, 1]])",
            )
        ),
    },
    reference=warped_in_planes,
    agrees=lambda result, expected: same(result, expected, rtol=1e-3, atol=1e-3),
    near={
        "x": st.sampled_from(recipes("ones((4, 5, 2))", "ones((2, 3, 4, 1), int8)")),
        "matrix": st.sampled_from(recipes("np.eye(3)", "np.ones((4, 4))")),
    },
    examples=(10, 40),
)
subject(
    "data.augment.noise",
    lambda key, x, amount: augment.noise(key, x, amount),
    takes={
        "key": KEYS,
        "x": st.sampled_from(recipes("ones((4, 4, 1))", "jnp.zeros(9)")),
        "amount": st.sampled_from([0.0, 0.5, *recipes("jnp.float32(0.1)")]),
    },
    reference=lambda key, x, amount: (
        need_key(key),
        floating(x),
        np.broadcast_to(numbers(amount).astype(float), np.shape(x)),
    ),
    agrees=lambda result, expected: same(np.asarray(result).shape, expected[1].shape),
    examples=(8, 80),
)
subject(
    "data.augment.augment",
    lambda key, x, flips, offset, std: augment.augment(
        key, x, flips=flips, offset=offset, std=std
    ),
    takes={
        "key": KEYS,
        "x": st.sampled_from(recipes("ones((4, 5, 2))", "jnp.ones((3, 4, 4, 1))")),
        "flips": st.sampled_from([True, False, (0, 1)]),
        "offset": st.sampled_from([0.0, 0.1]),
        "std": st.just(0.0),
    },
    reference=lambda key, x, flips, offset, std: (
        mirror(
            key,
            floating(x).ndim - 1,
            None if isinstance(flips, bool) or flips is None else flips,
        ),
        number(offset),
        number(std),
        floating(x),
        floating(x).size or 1 / 0,
    )[3],
    agrees=lambda result, x: same(np.asarray(result).shape, x.shape),
    near={"x": st.sampled_from(recipes("ones(4)", "ones((4, 4, 1), int8)"))},
    examples=(6, 60),
)

# Made-up data.


def chirped(seconds, rate):
    seconds, rate = number(seconds, above=0), integer(rate, 1)
    if seconds * rate > 10**7:
        raise ValueError("long")
    t = np.arange(round(seconds * rate)) / rate
    return (20000 * np.sin(2 * np.pi * (500 * t + 7500 * t**2 / (2 * seconds)))).astype(
        np.int16
    )[:, None]


subject(
    "data.synthetic.chirp",
    lambda seconds, rate: synthetic.chirp(seconds, rate)[0],
    takes={"seconds": st.sampled_from([0.1, 1]), "rate": st.sampled_from([100, 8000])},
    reference=chirped,
    near={"seconds": st.sampled_from([0, -1]), "rate": st.sampled_from([0, -1])},
)
subject(
    "data.synthetic.disc_video",
    lambda frames, height, width: synthetic.disc_video(frames, height, width)[0].shape,
    takes={
        "frames": st.integers(1, 3),
        "height": st.integers(1, 9),
        "width": st.integers(1, 9),
    },
    reference=lambda frames, height, width: (
        integer(frames, 1),
        integer(height, 1),
        integer(width, 1),
        3,
    ),
    near={name: st.sampled_from([0, -1, 2.0]) for name in ("frames", "height", "width")},
)
subject(
    "data.synthetic.bike_counts",
    lambda days, seed: synthetic.bike_counts(days, seed=seed).values.shape,
    takes={"days": st.integers(1, 4), "seed": st.integers(0, 3)},
    reference=lambda days, seed: (
        24 * integer(days, 1, 10**4),
        17 + 0 * integer(seed, 0, 2**63),
    ),
    near={"days": st.sampled_from([0, -1])},
)
subject(
    "data.synthetic.ct_phantom",
    lambda shape, noise, seed: (
        synthetic.ct_phantom(shape, noise=noise, seed=seed).scan.voxels.shape
    ),
    takes={
        "shape": st.sampled_from([(2, 8, 8), [4, 4, 4]]),
        "noise": st.sampled_from([0, 20.0]),
        "seed": st.integers(0, 3),
    },
    reference=lambda shape, noise, seed: (
        tuple(
            integer(n, 1)
            for n in (shape if not isinstance(shape, set | dict) and len(shape) == 3 else 1)
        ),
        number(noise, 0),
        integer(seed, 0, 2**63),
    )[0],
    near={
        "shape": st.sampled_from([(0, 4, 4), (4, 4), (10**6, 10**6, 10**6)]),
        "noise": st.sampled_from([-1, np.nan]),
    },
)
