"""Images: picture files to arrays, channels last (chapter 4.1)."""

import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.arrays import Scale
from dlwp_jax.data.files import BrokenFile, files_in, needs, reading
from dlwp_jax.storage import StridedTensor

A = TypeVar("A", np.ndarray, jax.Array)

# Pillow's names for the ways to store a pixel, and the number of channels of each here.
CHANNELS = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}
# Other ways, and the one that they are converted to.
CONVERTED = {
    "1": "L",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "La": "LA",
}
# Pillow's other formats are vectors, documents or films that other programs have to draw.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "JPEG2000",
    "TIFF",
    "GIF",
    "BMP",
    "DIB",
    "PPM",
    "TGA",
    "PCX",
    "SGI",
    "ICO",
    "QOI",
    "DDS",
)
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".tif", ".tiff", ".gif", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".sgi", ".rgb", ".ico", ".qoi", ".dds"),
)
MOST_ROWS = 2**16  # or columns, of a picture that is asked for


def read(path: str | Path, *, channels: int | None = None) -> np.ndarray:
    """Read one picture as it is meant to be seen (chapter 4.1.2; `imageio.imread` in the book).

    The formats are PNG, JPEG, WebP, TIFF, GIF, BMP and others that Pillow decodes (`FORMATS`).
    A picture that its camera marked as turned (EXIF) is turned upright. Of several pictures in
    one file, such as an animated GIF, the first is read.

    Args:
      path: the file.
      channels: None keeps the file's: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). 3 drops
        alpha, as the book's `img_t[:3]` does, and repeats grey; 1, 2 or 4 is accepted only if
        the file has just that.

    Returns:
      `[height width channels]` uint8 in 0..255; 16-bit grey as uint16 in 0..65535. Palette
      images become RGB or RGBA, CMYK becomes RGB. JPEG 2000 and AVIF of more bits are read with
      8 in a channel.

    Raises:
      BrokenFile: if the bytes are damaged, truncated or no picture. (PNG carries checksums and
        any damage is found; the others have none, so damage inside their compressed data can
        pass as other pixels.)

    >>> from sklearn.datasets import load_sample_images
    >>> read(Path(load_sample_images().filenames[0])).shape
    (427, 640, 3)
    """
    with needs():
        from PIL import Image, ImageOps

    if channels is not None:
        checks.whole(channels, "channels", 1, 4)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # older ones lack some
    failures = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    with reading(path, "a picture", *failures, UserWarning), warnings.catch_warnings():
        warnings.filterwarnings("error", "Truncated File Read", UserWarning)  # of a TIFF
        with Image.open(path, formats=formats) as image:
            image.verify()  # checks every chunk's checksum, but leaves the image unusable
        with Image.open(path, formats=formats) as image:
            _refuse_lost_pixels(image, path)
            pixels = _pixels(ImageOps.exif_transpose(image), path)
    return pixels if channels is None else _with_channels(pixels, channels, path)


def _refuse_lost_pixels(image: Any, path: str | Path) -> None:
    """Refuse a file without pixels, and one of which Pillow would keep 8 of 16 bits."""
    if not image.tile:
        if image.format in ("PNG", "JPEG"):
            raise BrokenFile(f"{path} is truncated: it ends before its pixels.")
        return  # WebP and others are decoded already
    stored = image.tile[0][3]  # how the file stores the pixels that `mode` names in memory
    is_deep = ";16" in str(stored)
    if image.format == "PPM" and isinstance(stored, tuple):
        is_deep = stored[-1] > 255  # the largest value
    if is_deep and not image.mode.startswith("I"):
        raise BrokenFile(
            f"{path} has 16 bits in each of several channels; "
            "Pillow would keep only 8. Convert it first."
        )


def _pixels(image: Any, path: str | Path) -> np.ndarray:
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in CONVERTED:
        image = image.convert(CONVERTED[image.mode])
    pixels = np.array(image)
    if image.mode.startswith("I"):  # 16 bits in either byte order, or in 32
        if pixels.min() < 0 or pixels.max() >= 2**16:
            raise BrokenFile(f"{path} has grey values that do not fit 16 bits.")
        return pixels.astype(np.uint16)[..., None]
    if image.mode not in CHANNELS:
        raise BrokenFile(
            f"{path} has pixels of kind {image.mode!r}; "
            f"{', '.join((*CHANNELS, *CONVERTED))} can be read."
        )
    return pixels.reshape(image.height, image.width, CHANNELS[image.mode])


def _with_channels(pixels: np.ndarray, channels: int, path) -> np.ndarray:
    have = pixels.shape[-1]
    if channels == have:
        return pixels
    if channels == 3 and have == 4:
        return pixels[..., :3]
    if channels == 3:
        return np.repeat(pixels[..., :1], 3, axis=-1)
    raise ValueError(
        f"channels={channels}, but {path} has {have}; ask for {have}, for 3, or for None."
    )


def read_folder(
    folder: str | Path, *, size: tuple[int, int] | None = None, channels: int = 3
) -> tuple[np.ndarray, list[str]]:
    """Read all images of a folder into one batch (the three cats of chapter 4.1.4).

    Args:
      folder: the folder; files with other suffixes than `SUFFIXES` are left out.
      size: `(height, width)` to resize to (bilinear, as Pillow does it); None expects that all
        have one size.
      channels: as in `read`.

    Returns:
      `[n height width channels]` uint8, and the n file names, sorted.

    Raises:
      ValueError: if the images differ in size and `size` is None.

    >>> from sklearn.datasets import load_sample_images
    >>> folder = Path(load_sample_images().filenames[0]).parent
    >>> batch, names = read_folder(folder, size=(32, 48))
    >>> batch.shape, names
    ((2, 32, 48, 3), ['china.jpg', 'flower.jpg'])
    """
    paths = files_in(folder, *SUFFIXES)
    return _batch(paths, folder, size, channels), [path.name for path in paths]


def _batch(
    paths: list[Path], folder: str | Path, size: tuple[int, int] | None, channels: int
) -> np.ndarray:
    """Images of one size as one array."""
    if size is not None:
        size = checks.wholes(size, "size", 2, 1, MOST_ROWS)
    images = [read(path, channels=channels) for path in paths]
    if size is not None:
        images = [resize(image, size) for image in images]
    kinds = {(image.shape, str(image.dtype)) for image in images}
    if len(kinds) > 1:
        raise ValueError(
            f"size=None, but the images of {folder} differ: {sorted(kinds)[:4]}; give "
            "size=(height, width)."
        )
    return np.stack(images)


def read_classes(
    folder: str | Path, *, size: tuple[int, int] | None = None, channels: int = 3
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a folder that holds one folder of images for each class (torchvision's
    `ImageFolder`).

    Args:
      folder: the outer folder. Each folder in it is a class, whose images may lie in further
        folders; hidden folders are left out.
      size: as in `read_folder`.
      channels: as in `read`.

    Returns:
      `[n height width channels]` uint8; `[n]` int32 labels; and the names of the classes in
      sorted order: label i is `names[i]`.

    Raises:
      FileNotFoundError: if there is no folder of a class, or one without an image.
      ValueError: if the images differ in size and `size` is None.

    >>> from PIL import Image
    >>> root = getfixture("tmp_path")
    >>> for name in ("bird", "airplane"):
    ...     (root / name).mkdir()
    ...     Image.new("RGB", (4, 3)).save(root / name / "1.png")
    >>> images, labels, names = read_classes(root)
    >>> images.shape, labels.tolist(), names
    ((2, 3, 4, 3), [0, 1], ['airplane', 'bird'])
    """
    checks.path(folder, "folder")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    inner = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    classes = [path for path in inner if not path.name.startswith(".")]
    if not classes:
        raise FileNotFoundError(f"{folder} holds no folder; one for each class is needed.")
    found = [_images_below(path) for path in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(paths) for paths in found])
    images = _batch([path for paths in found for path in paths], folder, size, channels)
    return images, labels, [path.name for path in classes]


def _images_below(folder: Path) -> list[Path]:
    """The images of a folder and of the folders in it, in torchvision's order."""
    below = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = sorted((path.parent, path.name) for path in below if path.name[0] != ".")
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image; the folder of a class needs one.")
    return [Path(parent, name) for parent, name in paths]


def resize(image: np.ndarray, size: tuple[int, int] | int) -> np.ndarray:
    """Resize a uint8 image `[h w c]`: bilinear, with averaging if it shrinks, as Pillow and
    torchvision's `Resize` do.

    Args:
      image: channels are resized one by one; alpha does not weigh the colours.
      size: `(height, width)`, or an int: the shorter side gets it and the longer one keeps in
        proportion, rounded down.

    >>> resize(np.full((4, 6, 3), 7, np.uint8), (2, 3)).shape
    (2, 3, 3)
    >>> resize(np.full((427, 640, 3), 7, np.uint8), 256).shape  # 256 / 427 * 640 = 383.7
    (256, 383, 3)
    """
    with needs():
        from PIL import Image

    image = _checked(image)
    if image.dtype != np.uint8:
        raise TypeError(f"image is {image.dtype}; only uint8 can be resized.")
    shorter = checks.as_int(size)
    both = (
        size
        if shorter is None
        else _in_proportion(image.shape[:2], checks.whole(shorter, "size", 1, MOST_ROWS))
    )
    height, width = checks.wholes(both, "size", 2, 1, MOST_ROWS)
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _checked(image: np.ndarray) -> np.ndarray:
    image = checks.on_host(image, "image")
    if image.ndim != 3 or not image.size:
        raise ValueError(
            f"image has shape {image.shape}; [h w c] is needed, a grey picture with c = 1."
        )
    return image


def _in_proportion(sizes: tuple[int, ...], shorter: int) -> tuple[int, ...]:
    return tuple(int(shorter * size / min(sizes)) for size in sizes)


def center_crop(image: np.ndarray, size: tuple[int, int] | int) -> np.ndarray:
    """The middle of an image `[h w c]`, in a frame of zeros if it is too small;
    torchvision's `CenterCrop`.

    If the middle lies between two pixels, torchvision rounds to the even one: 2.5 rows above
    become 2, 3.5 become 4. A frame that cannot be even is wider at the bottom and at the right.

    Args:
      image: any type of numbers.
      size: `(height, width)`, or an int for a square.

    >>> center_crop(np.arange(7).reshape(1, 7, 1), (1, 4)).ravel().tolist()  # 1.5 becomes 2
    [2, 3, 4, 5]
    >>> center_crop(np.ones((1, 2, 1), int), (1, 5)).ravel().tolist()
    [0, 1, 1, 0, 0]
    """
    image = _checked(image)
    wanted = checks.wholes(
        (size, size) if checks.as_int(size) is not None else size, "size", 2, 1, MOST_ROWS
    )
    missing = [max(want - have, 0) for want, have in zip(wanted, image.shape, strict=False)]
    framed = np.pad(image, [*((n // 2, n - n // 2) for n in missing), (0, 0)])
    top, left = (
        round((have - want) / 2) for want, have in zip(wanted, framed.shape, strict=False)
    )
    return framed[top : top + wanted[0], left : left + wanted[1]]


def normalize(images: np.ndarray, scale: Scale | None = None) -> tuple[np.ndarray, Scale]:
    """Bring images to mean 0 and standard deviation 1 in each channel (chapters 4.1.5 and
    7.1.4).

    z = (x / max - mean) / std; max is 255 or 65535 by the integer type, and float images are
    not divided. torchvision's `ToTensor` and `Normalize` in one, on channels-last
    arrays.

    Args:
      images: `[... h w c]`.
      scale: mean and std to use (those of the training images, on validation images); None
        measures them here.

    Returns:
      The float32 images, and the `Scale` whose `undo` gives `x / max` back; `scale.offset` and
      `scale.unit` are the channel means and standard deviations, `[c]`.

    >>> batch = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    >>> z, scale = normalize(batch)
    >>> z.shape, scale.offset.shape, bool(np.allclose(scale.undo(z) * 255, batch, atol=1e-4))
    ((4, 8, 8, 3), (3,), True)
    """
    x = to_float(images)
    if scale is not None and not isinstance(scale, Scale):
        raise TypeError(
            f"scale must be a data.Scale, or None to measure one; got {checks.describe(scale)}."
        )
    scale = scale or Scale.standard(x, axis=tuple(range(x.ndim - 1)))
    return scale.apply(x), scale


def to_float(images: np.ndarray) -> np.ndarray:
    """Images as float32 in 0..1 (torchvision's `ToTensor` without the turn of axes); floats
    stay as they are.

    >>> to_float(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    images = checks.on_host(images, "images")
    if images.dtype in (np.uint8, np.uint16):
        return images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)
    if jnp.issubdtype(images.dtype, jnp.floating):  # bfloat16 too
        if (
            images.dtype.itemsize > 4
            and (np.abs(images) > np.finfo(np.float32).max)[np.isfinite(images)].any()
        ):
            raise ValueError(
                f"images hold numbers up to {np.nanmax(np.abs(images)):.3g}, beyond float32."
            )
        return images.astype(np.float32)
    raise TypeError(f"images are {images.dtype}; uint8, uint16 or floating is wanted.")


def channels_first(images: A, *, spatial: int = 2) -> A:
    """`[... H W C]` to torch's `[... C H W]` (or D H W with `spatial=3`); NumPy and JAX arrays
    alike.

    >>> channels_first(np.zeros((5, 32, 48, 3))).shape
    (5, 3, 32, 48)
    """
    spatial = checks.whole(spatial, "spatial", 1)
    return _move_axis(images, -1, -1 - spatial, spatial)


def channels_last(images: A, *, spatial: int = 2) -> A:
    """Torch's `[... C H W]` to `[... H W C]`: the inverse of `channels_first`.

    >>> channels_last(np.zeros((3, 720, 1280))).shape
    (720, 1280, 3)
    """
    spatial = checks.whole(spatial, "spatial", 1)
    return _move_axis(images, -1 - spatial, -1, spatial)


def _move_axis(images: Any, source: int, target: int, spatial: int) -> Any:
    images = (
        images if isinstance(images, StridedTensor) else checks.numbers_of(images, "images")
    )
    if images.ndim < spatial + 1:
        raise ValueError(
            f"images have shape {images.shape}; {spatial} spatial axes and one of channels are "
            "needed."
        )
    axes = list(range(images.ndim))
    axes.insert(images.ndim + target, axes.pop(source))
    return images.permute(axes) if isinstance(images, StridedTensor) else images.transpose(axes)
