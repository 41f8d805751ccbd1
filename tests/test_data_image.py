import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from dlwp_jax.data import BrokenFile, image

RNG = np.random.default_rng(0)


def save(path, pixels, mode=None, **options):
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(squeezed).convert(mode or Image.fromarray(squeezed).mode).save(
        path, **options
    )
    return path


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(1, np.uint8), (1, np.uint16), (2, np.uint8), (3, np.uint8), (4, np.uint8)],
)
def test_png_comes_back_as_it_was_written(tmp_path, channels, dtype):
    pixels = RNG.integers(0, np.iinfo(dtype).max, (5, 7, channels), dtype, endpoint=True)
    read = image.read(save(tmp_path / "x.png", pixels))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


def test_palette_bilevel_and_jpeg(tmp_path):
    pixels = RNG.integers(0, 4, (6, 6, 3), np.uint8) * 80
    palette = Image.fromarray(pixels).quantize(64)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        image.read(tmp_path / "p.png"), np.asarray(palette.convert("RGB"))
    )
    palette.save(tmp_path / "t.png", transparency=0)
    assert image.read(tmp_path / "t.png").shape == (6, 6, 4)
    Image.fromarray(pixels[..., 0] > 80).save(tmp_path / "b.png")
    np.testing.assert_array_equal(
        image.read(tmp_path / "b.png")[..., 0], (pixels[..., 0] > 80) * np.uint8(255)
    )
    grey = np.full((16, 16, 1), 77, np.uint8)
    np.testing.assert_array_equal(
        image.read(save(tmp_path / "g.jpg", grey)), grey
    )  # constant: JPEG loses nothing


def test_channels_asked_for(tmp_path):
    rgba = save(tmp_path / "rgba.png", RNG.integers(0, 256, (3, 4, 4), np.uint8))
    grey = save(tmp_path / "grey.png", RNG.integers(0, 256, (3, 4, 1), np.uint8))
    np.testing.assert_array_equal(image.read(rgba, channels=3), image.read(rgba)[..., :3])
    assert (image.read(grey, channels=3) == image.read(grey)).all()
    with pytest.raises(ValueError, match=r"channels=1, but .*rgba.png has 4"):
        image.read(rgba, channels=1)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBX", "PA"])
def test_other_colours_are_pillows_rgb(tmp_path, mode):
    pixels = RNG.integers(0, 256, (8, 8, 4), np.uint8)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "tif"
    Image.fromarray(pixels, "RGBA").convert(mode).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as reference:
        wanted = np.asarray(reference.convert("RGB"))
    np.testing.assert_array_equal(image.read(tmp_path / f"x.{suffix}", channels=3), wanted)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_turned_picture_is_read_upright(tmp_path, turn, suffix):
    pixels = np.repeat(np.repeat(RNG.integers(0, 256, (2, 3, 3), np.uint8), 8, 0), 8, 1)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", exif=exif)
    with Image.open(tmp_path / f"x.{suffix}") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened))
    read = image.read(tmp_path / f"x.{suffix}")
    assert read.shape == ((16, 24, 3) if turn < 5 else (24, 16, 3))
    np.testing.assert_array_equal(read, wanted)


LOSSLESS = {name: {} for name in ("bmp", "tif", "ppm", "tga", "pcx", "sgi", "qoi", "dds")} | {
    "webp": {"lossless": True},
    "jp2": {"irreversible": False},
    "gif": {},  # 256 colours are enough for these pixels
}


@pytest.mark.parametrize(("suffix", "options"), LOSSLESS.items())
def test_formats_come_back_and_are_refused_if_they_are_truncated(tmp_path, suffix, options):
    pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path, **options)
    np.testing.assert_array_equal(image.read(path, channels=3), pixels)
    content = path.read_bytes()
    for kept in (0.3, 0.7):
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(BrokenFile):
            image.read(path)


def test_sixteen_bits_of_grey_come_back_from_tiff_and_ppm(tmp_path):
    grey = RNG.integers(0, 2**16, (5, 4), np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.tif")
    Image.fromarray(grey).save(tmp_path / "x.pgm")
    (tmp_path / "big.tif").write_bytes(b"")
    Image.frombytes("I;16B", (4, 5), grey.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    for name in ("x.tif", "x.pgm", "big.tif"):
        read = image.read(tmp_path / name)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read[..., 0], grey)
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(BrokenFile, match="do not fit 16 bits"):
        image.read(tmp_path / "wide.tif")
    header = b"P6 2 1 65535 "
    (tmp_path / "deep.ppm").write_bytes(header + bytes(range(12)))
    with pytest.raises(BrokenFile, match="16 bits in each"):
        image.read(tmp_path / "deep.ppm")


def test_sixteen_bit_colour_is_refused_not_halved(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\x00" + bytes(range(12)) for _ in range(2))  # 2 x 2 pixels of 3 x 16 bits
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    (tmp_path / "deep.png").write_bytes(
        png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(BrokenFile, match="16 bits in each"):
        image.read(tmp_path / "deep.png")


def test_other_files_and_absent_ones(tmp_path):
    (tmp_path / "x.png").write_text("not a picture")
    with pytest.raises(BrokenFile, match=r"x\.png cannot be read as a picture"):
        image.read(tmp_path / "x.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(BrokenFile, match="pixels of kind 'F'"):
        image.read(tmp_path / "x.tif")
    with pytest.raises(FileNotFoundError):
        image.read(tmp_path / "absent.png")


def test_folders_of_classes(tmp_path):
    names = ["cat/b.png", "cat/a.PNG", "ant/x/2.bmp", "ant/1.gif", "ant/3.jpg", "dog/1.webp"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 10 * i, np.uint8)).save(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    images, labels, classes = image.read_classes(tmp_path)
    # The order of torchvision's ImageFolder: classes, then folders, then files by name.
    assert classes == ["ant", "cat", "dog"]
    assert images[:, 0, 0, 0].tolist() == [30, 40, 20, 10, 0, 50]
    assert images.shape == (6, 4, 5, 3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert labels.dtype == np.int32
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no image"):
        image.read_classes(tmp_path)
    with pytest.raises(FileNotFoundError, match="one for each class"):
        image.read_classes(tmp_path / "cat")


def test_folder_to_batch(tmp_path):
    for name, size in (("b.png", 4), ("a.png", 4), ("C.JPG", 6)):
        save(
            tmp_path / name,
            np.full((size, size, 3), size, np.uint8),
            format="PNG" if "png" in name else "JPEG",
        )
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"size=None, but the images of .* differ"):
        image.read_folder(tmp_path)
    batch, names = image.read_folder(tmp_path, size=(4, 5))
    assert names == ["C.JPG", "a.png", "b.png"]
    np.testing.assert_array_equal(batch[:, 0, 0, 0], [6, 4, 4])
    assert batch.shape == (3, 4, 5, 3)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        image.read_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file"):
        image.read_folder(tmp_path / "empty")


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=5)))
def test_axes_turn_and_turn_back(batch):
    np.testing.assert_array_equal(
        image.channels_first(batch), torch.tensor(batch).permute(0, 3, 1, 2).numpy()
    )
    np.testing.assert_array_equal(image.channels_last(image.channels_first(batch)), batch)


def test_axes_of_volumes_and_too_few_axes():
    assert image.channels_first(np.zeros((2, 3, 4, 5, 1)), spatial=3).shape == (2, 1, 3, 4, 5)
    assert image.channels_last(np.zeros((2, 1, 3, 4, 5)), spatial=3).shape == (2, 3, 4, 5, 1)
    with pytest.raises(ValueError, match="2 spatial axes"):
        image.channels_first(np.zeros((2, 3)))


@given(hnp.arrays(np.uint8, (3, 4, 5, 3)))
def test_normalize_is_undone(batch):
    z, scale = image.normalize(batch)
    np.testing.assert_array_equal(np.round(scale.undo(z) * 255), batch)


def test_normalize_equals_torch():
    batch = RNG.integers(0, 256, (4, 6, 5, 3), np.uint8)
    planes = torch.tensor(batch).permute(3, 0, 1, 2).reshape(3, -1).double() / 255
    z, scale = image.normalize(batch)
    # torch in float64 is the truth; float32 keeps 7 digits.
    np.testing.assert_allclose(scale.offset, planes.mean(1), rtol=1e-6)
    np.testing.assert_allclose(scale.unit, planes.std(1), rtol=1e-6)
    other, _ = image.normalize(batch[:1], scale)
    np.testing.assert_array_equal(other, z[:1])


@given(st.sampled_from([np.int32, np.bool_]))
def test_unknown_pixel_types_are_refused(dtype):
    with pytest.raises(TypeError, match="uint8, uint16 or floating"):
        image.to_float(np.zeros(3, dtype))
    with pytest.raises(TypeError, match="only uint8"):
        image.resize(np.zeros((2, 2, 1), dtype), (1, 1))


def test_a_picture_without_channels_is_not_resized_column_by_column():
    with pytest.raises(ValueError, match="a grey picture with c = 1"):
        image.resize(np.zeros((4, 6), np.uint8), (2, 3))
