"""Pictures in the form that networks trained on ImageNet take, and the names of the classes
(chapter 2).
"""

from pathlib import Path

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data import image, text
from dlwp_jax.data.arrays import Scale
from dlwp_jax.data.files import BrokenFile

# Channel means and standard deviations of ImageNet's training pictures, of 1: torchvision's,
# rounded to three digits.
SCALE = Scale(
    np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
)


def preprocess(picture: np.ndarray) -> np.ndarray:
    """Shorter side to 256, the middle 224 x 224, standardized by ImageNet's moments (chapter
    2.1.4).

    torchvision's `Resize(256)`, `CenterCrop(224)`, `ToTensor()`, `Normalize(mean, std)` of the
    same picture as a Pillow image in RGB, channels last.

    Args:
      picture: `[height width 3]` uint8, as `image.read(path, channels=3)` gives it.

    Returns:
      `[224 224 3]` float32; `SCALE.undo` gives the pixels back, in 0..1.

    Raises:
      TypeError: if the picture is not uint8.
      ValueError: if it is not RGB.

    >>> x = preprocess(np.full((480, 640, 3), 124, np.uint8))
    >>> x.shape, x[0, 0].round(2).astype(str).tolist()
    ((224, 224, 3), ['0.01', '0.14', '0.36'])
    """
    picture = checks.on_host(picture, "picture")
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(
            f"the picture has shape {picture.shape}; [height width 3] is wanted (channels=3 of "
            "`read`)."
        )
    cropped = image.center_crop(image.resize(picture, 256), 224)
    return SCALE.apply(image.to_float(cropped))


def read_labels(path: str | Path, classes: int = 1000) -> list[str]:
    """The names of the classes, one in each line of a text file, in the order of the network's
    outputs.

    Args:
      path: the file, in UTF-8; empty lines at its end do not count.
      classes: the number of classes expected.

    Raises:
      BrokenFile: if there are more or fewer, one is empty, or the file is no text.

    >>> path = getfixture("tmp_path") / "labels.txt"
    >>> _ = path.write_text("tench, Tinca tinca\\ngoldfish\\n", "utf-8")
    >>> read_labels(path, classes=2)
    ['tench, Tinca tinca', 'goldfish']
    """
    classes = checks.whole(classes, "classes", 1)
    labels = [
        line.strip() for line in text.read(path, encoding="utf-8-sig").rstrip().split("\n")
    ]
    if len(labels) != classes or "" in labels:
        empty = f", {labels.count('')} of them empty" if "" in labels else ""
        raise BrokenFile(
            f"{path} has {len(labels)} lines{empty}; {classes} are wanted, the name of one "
            "class in each."
        )
    return labels
