"""Data sets by name: embedded in a dependency, or fetched once and kept.

One registry, `SOURCES`. `load("wine-quality")` reads the real data set from the data root (and
fetches it if its publisher gives a checksum); `load("wine-quality", embedded=True)` gives a
stand-in of the same form that needs neither network nor files.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax import checks
from dlwp_jax.data import audio as wav
from dlwp_jax.data import cifar, dicom, idx, image, synthetic, table, text
from dlwp_jax.data.fetch import FetchError, Remote, data_root, fetch
from dlwp_jax.data.files import needs


def thermometer() -> dict[str, jax.Array]:
    """Eleven readings of a thermometer with unknown units beside the truth (chapter 5.2.1).

    Returns:
      `{"t_u": [11], "t_c": [11]}`: the reading in unknown units, and degrees Celsius; float32.

    >>> thermometer()["t_u"].shape
    (11,)
    """
    return {
        "t_u": jnp.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4]),
        "t_c": jnp.array([0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0]),
    }


def digits() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels: 1437 to train on, 360 to test on,
    in their order.

    Returns:
      `(train, test)`, each `{"image": [n 8 8 1] uint8 in 0..255, "label": [n] int32}`: the form
      of CIFAR-10 and MNIST.

    >>> [side["image"].shape for side in digits()]
    [(1437, 8, 8, 1), (360, 8, 8, 1)]
    """
    with needs():
        from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = (bunch.images * 255 / 16).round().astype(np.uint8)[..., None]
    label = bunch.target.astype(np.int32)
    return {"image": pixels[:1437], "label": label[:1437]}, {
        "image": pixels[1437:],
        "label": label[1437:],
    }


def pydoc_topics() -> str:
    """Python's own help texts, about 465,000 characters of English.

    >>> "assert" in pydoc_topics()
    True
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def sklearn_wine() -> table.Table:
    """scikit-learn's 178 Italian wines with 13 measurements; the last column is the class, 0 to
    2.

    >>> sklearn_wine().values.shape
    (178, 14)
    """
    with needs():
        from sklearn.datasets import load_wine

    bunch: Any = load_wine()
    values = np.column_stack([bunch.data, bunch.target]).astype(np.float32)
    return table.Table((*bunch.feature_names, "class"), values)


def sample_photos() -> np.ndarray:
    """scikit-learn's two photographs, a temple in China and a flower, `[2 427 640 3]` uint8.

    >>> sample_photos().shape
    (2, 427, 640, 3)
    """
    with needs():
        from sklearn.datasets import load_sample_images

    bunch: Any = load_sample_images()
    return np.stack([image.read(path) for path in bunch.filenames])


def phantom_annotations() -> dict[str, np.ndarray]:
    """The nodules of the CT phantom in the columns of LUNA's annotations.

    >>> list(phantom_annotations())
    ['seriesuid', 'coordX', 'coordY', 'coordZ', 'diameter_mm']
    """
    centers = np.array([nodule.center for nodule in synthetic.NODULES])
    diameters = np.array([nodule.diameter for nodule in synthetic.NODULES])
    uid = np.array(["phantom"] * len(centers))
    return dict(
        zip(
            ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"),
            (uid, *centers.T, diameters),
            strict=True,
        )
    )


def phantom_candidates() -> dict[str, np.ndarray]:
    """The phantom's nodules and as many places without one, in the columns of LUNA's
    candidates.

    >>> phantom_candidates()["class"].tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    nodules = phantom_annotations()
    columns = {
        name: np.concatenate([nodules[name], nodules[name]])
        for name in ("seriesuid", "coordX", "coordY", "coordZ")
    }
    n = len(synthetic.NODULES)
    columns["coordY"][n:] += 30.0  # still in the lung, outside of every nodule
    columns["class"] = np.repeat([1.0, 0.0], n)
    return columns


def luna_scans(folder: Path) -> dict[str, Path]:
    """The `.mhd` files of LUNA's subsets by series uid; `volume.read_mhd` reads one.

    Raises:
      FileNotFoundError: if there is no such file.
    """
    checks.path(folder, "folder")
    scans = {path.stem: path for path in sorted(Path(folder).glob("subset*/*.mhd"))}
    if not scans:
        raise FileNotFoundError(
            f"{folder} has no subset*/*.mhd; LUNA's subsets are unpacked there by hand."
        )
    return scans


def _mnist(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    train, test = (
        idx.read_pair(
            folder / f"{side}-images-idx3-ubyte.gz", folder / f"{side}-labels-idx1-ubyte.gz"
        )
        for side in ("train", "t10k")
    )
    return train, test


def _bikes(path: Path) -> table.Table:
    return table.read(
        path, converters={"dteday": lambda date: float(date[8:10])}
    )  # the day of the month, as the book


def _video(path: Path) -> tuple[np.ndarray, float]:
    from dlwp_jax.data import video

    return video.read(path, step=10, size=(180, 320))


@dataclasses.dataclass(frozen=True)
class Source:
    """One named data set.

    Attributes:
      name: as `load` and the command line take it.
      what: a description in one sentence.
      size: examples or shape, and megabytes of the files.
      licence: under which it is published.
      address: its publisher.
      embedded: gives it, or its stand-in, without files.
      stand_in: a description of what `embedded` gives; empty if that is the data set itself.
      path: its path under the data root; empty if it is embedded.
      read: reads it from there.
      remotes: the files to fetch; empty if nobody published a checksum. Such files are placed
        by hand.
    """

    name: str
    what: str
    size: str
    licence: str
    address: str
    embedded: Callable[[], Any]
    stand_in: str = ""
    path: str = ""
    read: Callable[[Path], Any] | None = None
    remotes: tuple[Remote, ...] = ()


BOOK = "https://github.com/deep-learning-with-pytorch/dlwpt-code/tree/master/data/p1ch4"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
# The md5 sums that torchvision and others publish for the four official files.
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR10 = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5:c58f30108f718f92721af3b95e74349a",  # published on the page of the data set
    "cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
)

LUNA = "https://luna16.grand-challenge.org"

_ALL = (
    Source(
        name="thermometer",
        what="Readings of a thermometer in unknown units and in degrees Celsius",
        size="11 pairs",
        licence="the book's numbers",
        address="chapter 5.2.1",
        embedded=thermometer,
    ),
    Source(
        name="digits",
        what="Handwritten digits, grey, 8 x 8",
        size="1,797 images",
        licence="CC BY 4.0",
        address="scikit-learn (UCI 80)",
        embedded=digits,
    ),
    Source(
        name="pydoc-topics",
        what="Python's help texts",
        size="0.5 MB",
        licence="PSF",
        address="CPython's pydoc_data",
        embedded=pydoc_topics,
    ),
    Source(
        name="ct-phantom",
        what="A made-up chest CT with known nodules",
        size="48 x 128 x 128",
        licence="MIT",
        address="dlwp_jax.data.synthetic",
        embedded=synthetic.ct_phantom,
    ),
    Source(
        name="wine-quality",
        what="White wines: 11 measurements and a taster's mark",
        size="4,898 x 12, 0.3 MB",
        licence="CC BY 4.0",
        address="https://archive.ics.uci.edu/dataset/186/wine+quality",
        embedded=sklearn_wine,
        stand_in="scikit-learn's 178 wines",
        path="book/p1ch4/tabular-wine/winequality-white.csv",
        read=lambda path: table.read(path, delimiter=";"),
    ),
    Source(
        name="bike-sharing",
        what="Rented bikes and the weather by the hour, gaps filled but for 24 hours of Sandy",
        size="17,520 x 17, 1.1 MB",
        licence="CC BY 4.0",
        address=f"{BOOK}/bike-sharing-dataset (made by the book's authors from UCI 275)",
        embedded=synthetic.bike_counts,
        stand_in="made-up counts of four weeks",
        path="book/p1ch4/bike-sharing-dataset/hour-fixed.csv",
        read=_bikes,
    ),
    Source(
        name="pride-and-prejudice",
        what="Jane Austen's novel",
        size="0.7 MB",
        licence="public domain",
        address="https://www.gutenberg.org/ebooks/1342",
        embedded=pydoc_topics,
        stand_in="Python's help texts",
        path="book/p1ch4/jane-austen/1342-0.txt",
        read=text.read,
    ),
    Source(
        name="book-dog",
        what="The book's photograph of a dog",
        size="720 x 1280 x 3, 0.1 MB",
        licence="with the book's code",
        address=f"{BOOK}/image-dog",
        embedded=lambda: sample_photos()[0],
        stand_in="scikit-learn's temple",
        path="book/p1ch4/image-dog/bobby.jpg",
        read=image.read,
    ),
    Source(
        name="book-cats",
        what="Three cats",
        size="3 x 256 x 256 x 3, 0.3 MB",
        licence="with the book's code",
        address=f"{BOOK}/image-cats",
        embedded=sample_photos,
        stand_in="scikit-learn's two photographs",
        path="book/p1ch4/image-cats",
        read=lambda folder: image.read_folder(folder)[0],
    ),
    Source(
        name="book-audio",
        what="A chirping bird, 5 s (ESC-50)",
        size="220,500 samples, 0.4 MB",
        licence="CC BY-NC 3.0",
        address=f"{BOOK}/audio-chirp",
        embedded=synthetic.chirp,
        stand_in="a rising tone",
        path="book/p1ch4/audio-chirp/1-100038-A-14.wav",
        read=wav.read,
    ),
    Source(
        name="book-video",
        what="A cockatoo, 14 s; read as every tenth frame at 180 x 320",
        size="280 frames of 720 x 1280, 0.7 MB",
        licence="with the book's code",
        address=f"{BOOK}/video-cockatoo",
        embedded=synthetic.disc_video,
        stand_in="a disc that crosses the sky",
        path="book/p1ch4/video-cockatoo/cockatoo.mp4",
        read=_video,
    ),
    Source(
        name="book-ct",
        what="Slices of a chest CT in DICOM",
        size="24 to 99 slices of 512 x 512, 13 to 52 MB",
        licence="as its source in TCIA",
        address=f"{BOOK}/volumetric-dicom",
        embedded=lambda: synthetic.ct_phantom().scan,
        stand_in="the CT phantom",
        path="book/p1ch4/ct-series",
        read=dicom.read_series,
    ),
    Source(
        name="cifar10",
        what="Colour photographs of ten kinds of things, 32 x 32",
        size="50,000 + 10,000 images, 170 MB",
        licence="none stated (Krizhevsky, 2009)",
        address="https://www.cs.toronto.edu/~kriz/cifar.html",
        embedded=digits,
        stand_in="scikit-learn's digits, 8 x 8 and grey",
        path=CIFAR10.folder,
        read=cifar.read,
        remotes=(CIFAR10,),
    ),
    Source(
        name="mnist",
        what="Handwritten digits, grey, 28 x 28",
        size="60,000 + 10,000 images, 12 MB",
        licence="CC BY-SA 3.0",
        address=MNIST_URL,
        embedded=digits,
        stand_in="scikit-learn's digits, 8 x 8",
        path="mnist",
        read=_mnist,
        remotes=tuple(
            Remote(f"{MNIST_URL}/{name}", md5, f"mnist/{name}")
            for name, md5 in MNIST_FILES.items()
        ),
    ),
    Source(
        name="luna-annotations",
        what="LUNA16: centres (mm) and diameters of nodules",
        size="1,186 rows, 0.1 MB",
        licence="CC BY 4.0",
        address=LUNA,
        embedded=phantom_annotations,
        stand_in="the phantom's nodules",
        path="book/part2/luna/annotations.csv",
        read=table.read_columns,
    ),
    Source(
        name="luna-candidates",
        what="LUNA16: places that may be nodules, and whether they are",
        size="551,065 rows, 27 MB",
        licence="CC BY 4.0",
        address=LUNA,
        embedded=phantom_candidates,
        stand_in="the phantom's nodules and as many other places",
        path="book/part2/luna/candidates.csv",
        read=table.read_columns,
    ),
    Source(
        name="luna-ct",
        what="LUNA16: 888 chest CTs in MetaImage, each as its path (volume.read_mhd)",
        size="10 subsets, 66 GB",
        licence="CC BY 4.0",
        address=LUNA,
        embedded=lambda: {"phantom": synthetic.ct_phantom().scan},
        stand_in="the CT phantom itself",
        path="book/part2/luna",
        read=luna_scans,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def find(name: str) -> Source:
    """The registry's entry for a name.

    >>> find("digits").size
    '1,797 images'
    """
    checks.text(name, "name")
    if name not in SOURCES:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(SOURCES)}.")
    return SOURCES[name]


def place(name: str, *, root: Path | None = None, progress: bool = True) -> Path:
    """Make sure that a data set is on this machine; fetch it if that is possible.

    Args:
      name: see `SOURCES`.
      root: the data root; None is `fetch.data_root()`.
      progress: show a bar while downloading.

    Returns:
      The file or folder.

    Raises:
      FetchError: if it is not here and cannot be fetched; the message says what to do.
      ValueError: if the name is unknown, or the data set is embedded and has no file.
    """
    source = find(name)
    if root is not None:
        checks.path(root, "root")
    root = data_root() if root is None else Path(root)
    if not source.path:
        raise ValueError(f"{name} is embedded: it has no file and needs no fetching.")
    here = root / source.path
    for remote in source.remotes:
        fetch(remote, root, progress=progress)
    if not here.exists():
        raise FetchError(
            f"{name} is not at {here}, and nobody publishes a checksum to "
            f"fetch it by. Get it from {source.address} and put it there "
            "(DLWP_DATA chooses the root), or use the embedded default."
        )
    return here


def load(name: str, *, embedded: bool = False, root: Path | None = None) -> Any:
    """Load a data set by name.

    Args:
      name: see `SOURCES`, or `python -m dlwp_jax.data list`.
      embedded: True takes the stand-in, which has the same form but is other data.
      root: the data root; None is `fetch.data_root()`.

    Returns:
      What the source's reader gives: `(train, test)` of images and labels, a `Table`, a
      `Volume`, text, ...

    Raises:
      FetchError: if it is not here and cannot be fetched.

    >>> load("wine-quality", embedded=True).values.shape
    (178, 14)
    """
    source = find(name)
    if embedded or source.read is None:
        return source.embedded()
    return source.read(place(name, root=root))
