"""CIFAR-10 from its official Python files, without running what is in them (chapter 7.1).

The files are pickles, and a pickle is a program. These are read with everything callable taken
away: the three names that describe a NumPy array become inert records, any other name is
refused. What is left to a hostile file is to make Python reserve much memory, by a memo slot
with a huge number.
"""

import io
import mmap
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, reading

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
ROW = 3 * 32 * 32
CHUNK = 200  # images turned to channels-last at a time: 600 kB stay in the cache


def read(
    folder: str | Path, *, classes: tuple[str, ...] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read the official folder `cifar-10-batches-py`.

    Args:
      folder: the folder of `data_batch_1` to `_5` and `test_batch`.
      classes: the names out of `CLASSES` to keep, relabelled in this order, such as
        `("airplane", "bird")`; None keeps all ten.

    Returns:
      `(train, test)`, each `{"image": [n 32 32 3] uint8, "label": [n] int32}`: 50,000 and
      10,000 of all ten.

    Raises:
      BrokenFile: if a file is damaged or wants to do more than describe an array and its
        labels.
    """
    wanted = CLASSES if classes is None else classes
    if not wanted or len(set(wanted)) < len(wanted) or set(wanted) - set(CLASSES):
        raise ValueError(
            f"classes must be different names of {', '.join(CLASSES)}; got "
            f"{checks.describe(classes)}."
        )
    checks.path(folder, "folder")
    image, label, ends = _read([Path(folder, name) for name in (*TRAIN, *TEST)])
    sides = np.split(image, ends[-2:-1]), np.split(label, ends[-2:-1])
    train, test = (
        {"image": images, "label": labels} for images, labels in zip(*sides, strict=True)
    )
    return (train, test) if classes is None else (_only(train, classes), _only(test, classes))


def _only(data: dict[str, np.ndarray], classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    new_label = np.full(len(CLASSES), -1, np.int32)
    new_label[[CLASSES.index(name) for name in classes]] = np.arange(len(classes))
    label = new_label[data["label"]]
    return {"image": data["image"][label >= 0], "label": label[label >= 0]}


def read_batches(paths: Any) -> dict[str, np.ndarray]:
    """Read some batch files, two at a time, into one array.

    Args:
      paths: the files, in the order that the examples shall have.

    Returns:
      `{"image": [n 32 32 3] uint8, "label": [n] int32}`.
    """
    if isinstance(paths, str) or not isinstance(paths, Sequence) or not len(paths):
        raise TypeError(
            f"paths must be a list of files, one at least; got {checks.describe(paths)}."
        )
    image, label, _ = _read(list(paths))
    return {"image": image, "label": label}


def _read(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All images, all labels, and the row after the last one of each file."""
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(_describe, paths))
        ends = np.cumsum([len(labels) for labels, _ in parts])
        image = np.empty((ends[-1], 32, 32, 3), np.uint8)
        outs = np.split(image, ends[:-1])
        list(pool.map(_fill, outs, paths, [pixels for _, pixels in parts]))
    return image, np.concatenate([labels for labels, _ in parts]), ends


class _Record:
    """Stands in for the array and its type: keeps its arguments and does nothing."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """An unpickler that can make records, containers, numbers and strings only."""

    def find_class(self, module, name):
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return _Record
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, and nothing in it may be run"
        )


# The errors of the unpickler itself for damaged or hostile bytes, found by trying.
FAILURES = (
    *(
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ),
    *(OverflowError, MemoryError, RecursionError),
)


def _describe(path: Path) -> tuple[np.ndarray, int | bytes]:
    """The labels of a batch file, and its pixels: their offset in the file, or the bytes
    themselves.

    The pixels of an official file are cut out before unpickling, which would copy them twice
    into memory; a file of another length takes that slower way.
    """
    # The opcode of a long string, and its length.
    official = b"T" + (10_000 * ROW).to_bytes(4, "little")
    with reading(path, "a CIFAR-10 batch", *FAILURES):
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            cut = content.find(official)
            begin = cut + len(official)
            if cut < 0 or begin + 10_000 * ROW > len(content):
                program, begin = content[:], None
            else:
                # An empty string instead.
                program = content[:cut] + b"U\x00" + content[begin + 10_000 * ROW :]
        batch = _Unpickler(io.BytesIO(program), encoding="bytes").load()
        (_, shape, dtype, fortran_order, pixels), labels = (
            batch[b"data"].state,
            batch[b"labels"],
        )
        label = np.array(labels, np.int32)
        kind = dtype.args[0] in (b"u1", "u1") and not fortran_order
        if (
            not kind
            or shape != (len(label), ROW)
            or not all(type(v) is int and 0 <= v < 10 for v in labels)
        ):
            raise BrokenFile(
                f"{path} does not hold rows of {ROW} bytes with a label from 0 to 9 for each."
            )
        if not isinstance(pixels, bytes) or len(pixels) != (0 if begin else len(label) * ROW):
            raise BrokenFile(
                f"{path} has {len(label)} labels, and pixels for another number of images."
            )
    return label, begin or pixels


def _fill(image: np.ndarray, path: Path, pixels: int | bytes) -> None:
    """Turn planes of red, green and blue into `[n 32 32 3]`, a few images at a time."""
    planes = np.empty((CHUNK, 3, 32, 32), np.uint8)
    with (
        io.BytesIO(pixels)
        if isinstance(pixels, bytes)
        else open(path, "rb", buffering=0) as file
    ):
        file.seek(0 if isinstance(pixels, bytes) else pixels)
        for first in range(0, len(image), CHUNK):
            out = image[first : first + CHUNK]
            part = planes[: len(out)]
            if file.readinto(part.data) != part.nbytes:
                raise BrokenFile(f"{path} became shorter while it was read.")
            # Three copies with one stride each are three times faster than a transpose.
            for channel in range(3):
                out[..., channel] = part[:, channel]
