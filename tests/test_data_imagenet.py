"""ImageNet's preprocessing, held against torchvision's documented rules through Pillow and its
own results.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dlwp_jax.data import BrokenFile, image, imagenet

CHINA, FLOWER = map(Path, load_sample_images().filenames)


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def by_torchvisions_rules(pil):
    """Resize(256), CenterCrop(224), ToTensor, Normalize as torchvision's documentation and
    source describe them.
    """
    width, height = pil.size
    short, long = min(width, height), max(width, height)
    longer = int(256 * long / short)
    pil = pil.resize(
        (256, longer) if width <= height else (longer, 256), Image.Resampling.BILINEAR
    )
    left, top = (round((side - 224) / 2.0) for side in pil.size)
    x = np.asarray(pil.crop((left, top, left + 224, top + 224))).astype(
        np.float32
    ) / np.float32(255)
    return (x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    "size",
    [
        (427, 640),
        (640, 427),
        (256, 256),
        (257, 256),
        (255, 511),
        (33, 1000),
        (1001, 777),
        (1, 1),
        (5, 3),
    ],
)
def test_preprocess_follows_torchvisions_rules_to_the_bit(size):
    pixels = picture(*size)
    np.testing.assert_array_equal(
        imagenet.preprocess(pixels), by_torchvisions_rules(Image.fromarray(pixels))
    )


@pytest.mark.parametrize(
    ("channels", "mode"),
    [(1, "L"), (2, "LA"), (4, "RGBA"), (3, "P"), (1, "1")],
    ids=lambda value: str(value),
)
def test_files_of_every_kind_of_pixel_equal_pillows_rgb(channels, mode, tmp_path):
    pixels = picture(60, 47, channels)
    pil = Image.fromarray(pixels[..., 0] if channels == 1 else pixels).convert(mode)
    pil.save(tmp_path / "x.png")
    expected = by_torchvisions_rules(Image.open(tmp_path / "x.png").convert("RGB"))
    np.testing.assert_array_equal(
        imagenet.preprocess(image.read(tmp_path / "x.png", channels=3)), expected
    )


@pytest.mark.parametrize(
    ("path", "checksum"),
    [
        (CHINA, "f63cbb0af0fe1f191a4e7b3f9a47414fddcffd7db9a106cea0647ce9d7d94f9e"),
        (FLOWER, "5eb3707bda0f4afa1d3b63f9d165c74f201b778a54020589a1b85a94de851cbf"),
    ],
    ids=["china", "flower"],
)
def test_preprocess_equals_what_torchvision_itself_gives(path, checksum):
    # The checksums are torchvision 0.29.1's and Pillow 13.0.0's:
    #   from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
    #   moments = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    #   x = Compose([Resize(256), CenterCrop(224), ToTensor(),
    # Normalize(*moments)])(Image.open(path))
    #   back = (x.permute(1, 2, 0).numpy() * np.float32(moments[1]) + np.float32(moments[0])) *
    # 255
    #   hashlib.sha256(back.round().astype(np.uint8).tobytes()).hexdigest()
    # JPEG decoders may differ by one in a pixel; the one of Pillow's wheels is the same
    # everywhere.
    pixels = (
        (imagenet.SCALE.undo(imagenet.preprocess(image.read(path))) * 255)
        .round()
        .astype(np.uint8)
    )
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == checksum


@pytest.mark.parametrize("size", [(5, 7), (6, 7), (8, 8), (3, 9), (1, 10)])
@pytest.mark.parametrize("crop", [4, 5, (1, 3), (8, 2), (3, 12)])
def test_center_crop_cuts_and_frames_as_torchvision(size, crop):
    pixels = picture(*size)
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    pil, (rows, columns) = Image.fromarray(pixels), size
    # Pillow's crop fills with zeros beyond the edge; torchvision frames first, then cuts the
    # middle.
    left, top = max(width - columns, 0) // 2, max(height - rows, 0) // 2
    framed = pil.crop((-left, -top, max(columns, width) - left, max(rows, height) - top))
    left, top = round((framed.width - width) / 2.0), round((framed.height - height) / 2.0)
    expected = np.asarray(framed.crop((left, top, left + width, top + height)))
    np.testing.assert_array_equal(image.center_crop(pixels, crop), expected)


def test_the_shorter_side_is_exact_and_the_longer_one_rounded_down():
    assert image.resize(picture(427, 640), 256).shape == (256, 383, 3)  # 383.7
    assert image.resize(picture(7, 100, 1), 5).shape == (5, 71, 1)  # 71.4
    assert image.resize(picture(64, 64, 4), 64).shape == (64, 64, 4)


def test_wrong_pictures_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"\[height width 3\] is wanted"):
        imagenet.preprocess(picture(8, 8, 4))
    with pytest.raises(TypeError, match="only uint8"):
        imagenet.preprocess(picture(8, 8).astype(np.float32))
    with pytest.raises(ValueError, match=r"shape \(0, 4, 3\)"):
        imagenet.preprocess(picture(0, 4))
    with pytest.raises(ValueError, match="size must be at least 1"):
        image.center_crop(picture(4, 4), (0, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "has 2 lines; 3 are wanted"),
        ("a\n\nc\n", "1 of them empty"),
        ("", "has 1 lines, 1 of them empty"),
    ],
)
def test_labels_are_counted(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(BrokenFile, match=message):
        imagenet.read_labels(path, 3)


def test_labels_keep_their_words_whatever_the_line_ends(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufefftench, Tinca tinca\r\ngolden retriever\r\n\r\n".encode())
    assert imagenet.read_labels(path, 2) == ["tench, Tinca tinca", "golden retriever"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BrokenFile, match=r"labels\.txt cannot be read as text"):
        imagenet.read_labels(path, 2)
