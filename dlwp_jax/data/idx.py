"""MNIST from its official idx files, plain or gzipped (Yann LeCun's format)."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from dlwp_jax.data.files import BrokenFile, reading


def read(path: str | Path) -> np.ndarray:
    """Read one idx file of unsigned bytes.

    The format: two zero bytes, a type (8 is uint8), the number of axes, each axis as a
    big-endian 32-bit number, then the values.

    Returns:
      The array, uint8, of the axes that the file says: `[n 28 28]` for images, `[n]` for
        labels.

    Raises:
      BrokenFile: if the header is another, or if there are fewer or more values than it says.

    >>> path = getfixture("tmp_path") / "labels"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    >>> read(path).tolist()
    [7, 9]
    """
    with reading(path, "an idx file", gzip.BadGzipFile, EOFError, zlib.error):
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != bytes([0, 0, 8]) or not 1 <= content[3] <= 4:
        raise BrokenFile(
            f"{path} is no idx file of unsigned bytes: it begins with {content[:4].hex(' ')}."
        )
    begin = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, begin, 4))
    expected = begin + int(np.prod([float(n) for n in shape]))
    if len(content) != expected:
        raise BrokenFile(
            f"{path} has {len(content)} bytes; {expected} are needed for values of shape "
            f"{shape}."
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy()


def read_pair(images: str | Path, labels: str | Path) -> dict[str, np.ndarray]:
    """Read the images and labels of one side of MNIST.

    Returns:
      `{"image": [n 28 28 1] uint8, "label": [n] int32}`.

    Raises:
      BrokenFile: as `read`; and if their numbers differ, or a label is not 0 to 9.
    """
    image, label = read(images), read(labels)
    if image.ndim != 3 or label.ndim != 1 or len(image) != len(label) or not (label < 10).all():
        raise BrokenFile(
            f"{images} holds {image.shape} and {labels} {label.shape}; images and their labels "
            "0 to 9 are wanted."
        )
    return {"image": image[..., None], "label": label.astype(np.int32)}
