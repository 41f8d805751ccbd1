"""Chapter 14: from a scan to findings. Segment, erode, group, classify.

A detector is a folder of weights: `segmentation.safetensors`, `classifier.safetensors`, and
`malignancy.safetensors` if there is a model of it. `nodules convert` makes one from the book's
torch files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import models, train, weights
from dlwp_jax.data.volume import Volume
from dlwp_jax.files import whole
from experiments.nodules.groups import Groups, erode, group

CONTEXT = 3  # slices above and below the one that is segmented
MULTIPLE = 4  # the U-Net halves rows and columns twice
SURE = 0.5  # a voxel with a higher probability belongs to the book's mask
BATCH = 16  # candidates that are classified at once
SECONDS = 10  # between two lines on the screen
BOOKS_WIDTH = (32, 48, 48)  # voxels that the classifier sees
# Axes of [n index row column] along which chunks are mirrored: none, rows, columns, both.
MIRRORS = ((), (2,), (3,), (2, 3))
SETTINGS = "detector.json"
FILES = {
    "segmentation": "segmentation.safetensors",
    "classifier": "classifier.safetensors",
    "malignancy": "malignancy.safetensors",
}

Trained = tuple[train.Learner, train.TrainState]


class Detector(NamedTuple):
    """Two networks or three, each as learner and state."""

    segmentation: Trained
    classifier: Trained
    malignancy: Trained | None = None
    width: tuple[int, int, int] = BOOKS_WIDTH  # voxels that the classifiers see
    erosions: int = 1  # of the mask, before it is grouped
    sure: float = SURE  # a voxel with a higher probability belongs to the mask
    mirrored: bool = False  # see `probabilities`; the book looks at each chunk once


class Findings(NamedTuple):
    """What was found in a scan, in the order of its groups."""

    segmented: np.ndarray  # [index row column] bool, before erosion
    groups: Groups
    probability: np.ndarray  # [findings], of a nodule
    malignancy: np.ndarray | None  # [findings], of a malignant one


# Networks and their weights


def new_segmentation(seed: int = 0) -> models.UNetWrapper:
    """The book's U-Net: seven slices, three sizes, 16 channels at first."""
    size = {"depth": 3, "wf": 4, "padding": True, "batch_norm": True}
    return models.UNetWrapper(2 * CONTEXT + 1, **size, rngs=nnx.Rngs(seed))


def new_classifier(width: tuple[int, int, int], seed: int = 0) -> nnx.Module:
    """The book's classifier, for chunks of this many voxels."""
    return models.LunaModel(size=width, rngs=nnx.Rngs(seed))


def ready(model: nnx.Module) -> Trained:
    """A model as learner and state, to predict with."""
    return train.make_learner(model, _no_loss, optax.identity(), key=jax.random.key(0))


def unfilled(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The model that `make()` returns, with zeros: weights that are read need not be drawn."""
    graph, state = nnx.split(nnx.eval_shape(make))

    def empty(array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):  # of dropout
            return jax.random.key(0)
        return jnp.asarray(np.zeros(array.shape, array.dtype))

    return nnx.merge(graph, jax.tree.map(empty, state))


def _no_loss(model, batch):
    raise NotImplementedError("this learner only predicts")


def save(folder: Path, detector: Detector) -> None:
    """Write a detector; its settings last, so that a folder with settings is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in FILES.items():
        trained = getattr(detector, name)
        if trained is not None:
            weights.save_weights(folder / file, trained[1])
    with whole(folder / SETTINGS) as partial:
        names = ("width", "erosions", "sure", "mirrored")
        settings = {name: getattr(detector, name) for name in names}
        partial.write_text(json.dumps(settings) + "\n")


def load(folder: Path) -> Detector:
    """Read a detector.

    Raises:
      FileNotFoundError, ValueError: in one sentence, if it is not there or damaged.
    """
    for file in (SETTINGS, FILES["segmentation"], FILES["classifier"]):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {file}; make a folder of weights by: "
                "python -m experiments nodules convert --segmentation FILE --classifier FILE "
                f"-o {folder}"
            )
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        width, erosions = tuple(settings["width"]), int(settings["erosions"])
        sure = float(settings.get("sure", SURE))
        mirrored = bool(settings.get("mirrored", False))
        classifier = unfilled(lambda: new_classifier(width))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged: {error}") from error
    malignancy = folder / FILES["malignancy"]
    return Detector(
        filled(folder / FILES["segmentation"], unfilled(new_segmentation)),
        filled(folder / FILES["classifier"], classifier),
        filled(malignancy, classifier) if malignancy.is_file() else None,
        width,
        erosions,
        sure,
        mirrored,
    )


def filled(path: Path, model: nnx.Module) -> Trained:
    """A model with the weights of a file, ready to predict."""
    learner, state = ready(model)
    return learner, weights.load_weights(path, state)


# From a scan to findings


def find(detector: Detector, scan: Volume, *, show: bool = False) -> Findings:
    """All groups of the segmentation, with their probabilities.

    Memory: the scan, two masks of it and the numbers of the groups; networks see one slice,
    or 16 candidates, at a time.

    Args:
      scan: in Hounsfield units, cut off at -1000 and 1000.
      show: whether to tell on standard error how far it is.
    """
    segmented = segment(detector.segmentation, scan, sure=detector.sure, show=show)
    groups = group(erode(segmented, detector.erosions), scan.voxels)
    places = np.round(groups.centers).astype(int)
    chances = [
        classify(trained, scan, places, detector.width, mirrored=detector.mirrored, show=show)
        for trained in (detector.classifier, detector.malignancy)
        if trained is not None
    ]
    return Findings(segmented, groups, chances[0], chances[1] if len(chances) > 1 else None)


def segment(
    trained: Trained, scan: Volume, *, sure: float = SURE, show: bool = False
) -> np.ndarray:
    """The voxels that may belong to a nodule, `[index row column]` bool; slice by slice."""
    shape = scan.voxels.shape
    rows, columns = shape[1:]
    room = [(0, 0), (0, -rows % MULTIPLE), (0, -columns % MULTIPLE), (0, 0)]
    mask = np.empty(shape, bool)
    for number in _told(range(len(mask)), "slices segmented", show):
        x = np.pad(with_context(scan.voxels, [number]), room, mode="edge")
        probability = train.predict(*trained, x)[0, :rows, :columns, 0]
        mask[number] = np.asarray(probability) > sure
    return mask


def with_context(voxels: np.ndarray, numbers) -> np.ndarray:
    """Slices with three above and below each, cut off at -1000 and 1000 Hounsfield units.

    Beyond the first and the last slice that slice is repeated.

    Args:
      voxels: `[index row column]`.
      numbers: `[n]`, of the slices.

    Returns:
      `[n row column 7]` float32.

    >>> with_context(np.arange(5.0).reshape(5, 1, 1), [1])[0, 0, 0].tolist()
    [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    """
    around = np.add.outer(np.asarray(numbers), np.arange(-CONTEXT, CONTEXT + 1))
    slices = voxels[np.clip(around, 0, len(voxels) - 1)]
    return np.moveaxis(np.clip(slices, -1000, 1000).astype(np.float32), 1, -1)


def classify(
    trained: Trained,
    scan: Volume,
    places: np.ndarray,
    width: tuple[int, int, int],
    *,
    mirrored: bool = False,
    show: bool = False,
) -> np.ndarray:
    """The probability of the second class at each place, `[n]`.

    Args:
      places: `[n 3]` whole index, row, column.
      width: voxels of the chunk around each.
      mirrored: as in `probabilities`.
    """
    scan = at_least(scan, width)

    def cut(rows: np.ndarray) -> np.ndarray:
        return np.stack([scan.chunk(center, width)[0] for center in scan.xyz(places[rows])])

    return probabilities(trained, cut, len(places), mirrored=mirrored, show=show)


def probabilities(
    trained: Trained,
    cut: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    mirrored: bool = False,
    show: bool = False,
) -> np.ndarray:
    """The probability of the second class of each chunk, `[n]`; 16 chunks are in memory.

    Args:
      cut: gives the chunks of some rows, `[rows *width]`.
      n: how many rows there are.
      mirrored: whether to take the mean over a chunk and its mirror images along rows, columns
        and both. A nodule is one in a mirror too; networks that were trained for minutes do
        not know that well.
      show: whether to tell on standard error how far it is.
    """
    images = MIRRORS if mirrored else MIRRORS[:1]
    chances = np.empty(n, np.float32)
    for first in _told(range(0, n, BATCH), "candidates classified", show):
        rows = np.arange(first, min(first + BATCH, n))
        chunks = cut(rows)
        looks = [_chances(trained, np.flip(chunks, axes)) for axes in images]
        chances[rows] = np.mean(looks, axis=0)
    return chances


def _chances(trained: Trained, chunks: np.ndarray) -> np.ndarray:
    """The probability of the second class of at most 16 chunks, `[n *width]` to `[n]`."""
    # A batch that is filled up needs no program of its own.
    filled_up = np.zeros((BATCH, *chunks.shape[1:], 1), np.float32)
    filled_up[: len(chunks), ..., 0] = chunks
    return np.asarray(train.predict(*trained, filled_up)[1])[: len(chunks), 1]


def at_least(scan: Volume, width: tuple[int, int, int]) -> Volume:
    """A scan that a chunk fits into: its last slices, rows and columns are repeated."""
    missing = np.maximum(np.subtract(width, scan.voxels.shape), 0)
    if not missing.any():
        return scan
    padded = np.pad(scan.voxels, [(0, n) for n in missing.tolist()], mode="edge")
    return Volume(padded, scan.spacing, scan.origin, scan.direction)


def _told(steps: range, what: str, show: bool) -> Iterator[int]:
    """The steps, with a line every ten seconds that tells how far they are."""
    last = time.monotonic()
    for step in steps:
        yield step
        if show and time.monotonic() - last > SECONDS:
            last = time.monotonic()
            print(f"{what}: {step + 1} of {steps.stop}", file=sys.stderr, flush=True)
