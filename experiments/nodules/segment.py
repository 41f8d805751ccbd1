"""Chapter 13: train a U-Net to mark the voxels of nodules.

Run:    python -m experiments nodules segment
        python -m experiments nodules segment --luna DIR
Writes: runs/nodules_segment/{config.json,history.jsonl,segmentation.safetensors,losses.png,
        slices_006.png,...}
Expect: seed 0, made-up cohort: of the voxels in whole slices .88 are found at a precision of
        .33. About 150 s of processor time, of which 40 s to compile

Training sees small crops around nodules, changed at random on the device. Validation sees whole
slices. The weights with the best recall are kept (of the made-up cohort the last ones):
the classifier of chapter 12 can take away a false alarm, but nothing brings back a nodule
that was missed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from dlwp_jax import losses, plots, runs, train, weights
from dlwp_jax.data import BrokenFile, augment, mapped
from dlwp_jax.data.volume import Volume, window
from experiments.nodules import detector, luna, source
from experiments.nodules.candidates import Candidates, held_back
from experiments.nodules.detector import CONTEXT, MULTIPLE
from experiments.nodules.luna import Luna
from experiments.nodules.masks import MARGIN, annotation_mask

RARE = -3.0  # the logit of a voxel before anything is learned
SHOWN = 4  # validation slices in a picture


@dataclass(frozen=True)
class Config(source.Config):
    epochs: int = 10
    batch_size: int = 16
    lr: float = 3e-3
    missed: float | None = None  # the weight of missed voxels; None: 8, or 0.3 (see `weight`)
    around: int = 1  # slices above and below a nodule's middle that are trained on too
    others: int = 2  # crops around other candidates, for each nodule
    elsewhere: int = 3  # crops anywhere in the scan, for each nodule
    most_slices: int = 32  # whole slices to validate on, at most
    every: int = 6  # epochs between two pictures
    checkpoint: Path | None = None  # save the training there, and continue it if interrupted

    @property
    def weight(self) -> float:
        """The weight of missed voxels, against that of the overlap: the book's 8.

        In the coarse cohort (`CoarseLoss`) fewer nodules were marked with 0.5, and with 1 all
        that is dense.
        """
        if self.missed is not None:
            return self.missed
        return 0.3 if self.is_coarse else 8.0

    @property
    def crop(self) -> tuple[int, int]:
        """Pixels of a side, as cut out of the scan and as trained on."""
        return (48, 32) if self.is_coarse else (96, 64)  # the book's


# Crops and slices: eight planes, the seven slices and the mask of the one in the middle


def planes_of(scan: Volume, mask: np.ndarray, numbers) -> np.ndarray:
    """Slices with their context and their mask, `[n 8 row column]` int16."""
    hu = np.moveaxis(detector.with_context(scan.voxels, numbers), -1, 1)
    return np.concatenate([hu, mask[numbers][:, None]], axis=1).round().astype(np.int16)


def nodules_in(scans: Luna) -> Candidates:
    """The annotated nodules, scan by scan."""
    nodules = scans.nodules.take(scans.nodules.is_nodule)
    return nodules.take(np.argsort(nodules.series, kind="stable"))


def is_held(config: source.Config, scans: Luna, series: np.ndarray) -> np.ndarray:
    """`[n]` bool: which of these scans are held back; the same ones for every network."""
    names = np.array(list(scans.scans))
    return np.isin(series, names[held_back(names, config.stride)])


def cut_crops(config: Config, scans: Luna, nodules: Candidates) -> np.ndarray:
    """Crops around nodules and other candidates, `[n 8 side side]` int16, kept on the disk as
    the chunks of chapter 10 are.

    The book trains around nodules only, on a hundred times as many steps; its network finds
    many false places in parts of the body that it has never seen.
    """
    side = config.crop[0]
    per_nodule = 2 * config.around + 1 + config.others + config.elsewhere
    kinds = f"{config.around}-{config.others}-{config.elsewhere}-{MARGIN}-{config.seed}"
    names, counts = np.unique(nodules.series, return_counts=True)
    # Of these scans all candidates, since crops lie around others too.
    there = scans.nodules.take(np.isin(scans.nodules.series, names))
    crops = mapped.build(
        config.cache / f"crops-{side}-{kinds}-{source.digest_of(scans, there)}.npy",
        dict(zip(names.tolist(), (counts * per_nodule).tolist(), strict=True)),
        lambda name: _crops(config, scans, nodules.take(nodules.series == name), name),
        shape=(2 * CONTEXT + 2, side, side),
        dtype=np.int16,
        leave_out=config.skip_unreadable,
    )
    for why in crops.left_out.values():
        print(f"left out: {why}")
    is_there = np.repeat(~np.isin(nodules.series, list(crops.left_out)), per_nodule)
    return crops.array[is_there]


def _crops(config: Config, scans: Luna, nodules: Candidates, name: str) -> np.ndarray:
    """The crops of one scan."""
    scan = luna.read_scan(scans.scans[name])
    mask = mask_of(scan, nodules)
    side, shape = config.crop[0], np.array(scan.voxels.shape)
    if (shape[1:] < side).any():
        raise BrokenFile(
            f"{scans.scans[name]} has slices of {shape[1:].tolist()}, below {side} pixels."
        )
    steps = np.arange(-config.around, config.around + 1)
    places = np.round(scan.irc(nodules.center)).astype(int)
    places = np.repeat(places, len(steps), axis=0)
    places[:, 0] += np.tile(steps, len(nodules.center))
    others = scans.nodules.center[(scans.nodules.series == name) & ~scans.nodules.is_nodule]
    if not len(others):
        others = nodules.center
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(others), size=config.others * len(nodules.center))
    elsewhere = rng.integers(0, shape, (config.elsewhere * len(nodules.center), 3))
    places = np.concatenate([places, np.round(scan.irc(others[rows])).astype(int), elsewhere])
    crops = []
    for index, *middle in np.clip(places, 0, shape - 1):
        row, column = np.clip(np.array(middle) - side // 2, 0, shape[1:] - side)
        planes = planes_of(scan, mask, np.array([index]))
        crops.append(planes[..., row : row + side, column : column + side])
    return np.concatenate(crops)


def mask_of(scan: Volume, nodules: Candidates) -> np.ndarray:
    """The voxels of the nodules of one scan."""
    try:
        return annotation_mask(scan, nodules.center, diameters=nodules.diameter)
    except ValueError as error:
        raise BrokenFile(f"{nodules.series[0]}: {error}") from error


def read_or_skip(config: source.Config, path: Path) -> Volume | None:
    """A scan; None if it cannot be read and such scans are to be left out."""
    return or_skip(config, lambda: luna.read_scan(path))


def or_skip(config: source.Config, make: Callable[[], Any]) -> Any:
    """What `make()` returns; None if a file is damaged, and such scans are to be left out."""
    try:
        return make()
    except BrokenFile as error:
        if not config.skip_unreadable:
            raise
        print(f"left out: {error}")
        return None


def cut_slices(config: Config, scans: Luna, nodules: Candidates) -> np.ndarray:
    """Whole slices that show a nodule, `[n 8 row column]` int16.

    Slices of other sizes are filled up with air.
    """
    names = np.unique(nodules.series)
    share = max(config.most_slices // len(names), 1)
    found = []
    for name in names.tolist():
        scan = read_or_skip(config, scans.scans[name])
        if scan is None:
            continue
        there = nodules.take(nodules.series == name)
        mask = or_skip(config, functools.partial(mask_of, scan, there))
        if mask is None:
            continue
        numbers = np.flatnonzero(mask.any(axis=(1, 2)))
        # The first and the last slice show the edge of a nodule only.
        count = min(share, len(numbers))
        spread = ((np.arange(count) + 0.5) * len(numbers) / count).astype(int)
        found.append(planes_of(scan, mask, numbers[spread]))
    sizes = np.max([planes.shape[2:] for planes in found], axis=0)
    rows, columns = sizes + -sizes % MULTIPLE
    return np.concatenate([_filled_up(planes, rows, columns) for planes in found])


def _filled_up(planes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    room = [(0, 0), (0, 0), (0, rows - planes.shape[2]), (0, columns - planes.shape[3])]
    filled = np.pad(planes, room, constant_values=-1000)
    np.maximum(filled[:, -1], 0, out=filled[:, -1])  # the mask has no -1000
    return filled


@dataclass(frozen=True)
class Crops:
    """The `transform=` of the training: a random square of a crop, flipped, stretched, turned,
    moved and with noise; each example in its own way.

    The book draws one change for a whole batch, and its shift has no effect (it is written
    into the wrong place of the matrix).

    Attributes:
      side: pixels of the square.
      offset, stretch, turn, std: as in `augment.augment`, with the book's amounts.
    """

    side: int
    offset: float = 0.03
    stretch: float = 0.2
    turn: float = 2 * np.pi
    std: float = 25.0

    def __call__(self, key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """A batch as training sees it."""
        planes = batch["planes"]
        hu, label = jax.vmap(self._one)(jax.random.split(key, len(planes)), planes)
        return {"hu": hu, "label": label}

    def _one(self, key: jax.Array, planes: jax.Array):  # [8 h w] -> [side side 7], [.. 1]
        where, change, grain = jax.random.split(key, 3)
        planes = jnp.moveaxis(planes, 0, -1).astype(jnp.float32)
        room = jnp.array(planes.shape[:2]) - self.side + 1
        row, column = jax.random.randint(where, (2,), 0, room)
        size = (self.side, self.side, planes.shape[-1])
        square = jax.lax.dynamic_slice(planes, (row, column, 0), size)
        changed = augment.augment(
            change,
            square,
            flips=True,
            offset=self.offset,
            stretch=self.stretch,
            turn=self.turn,
        )
        hu, label = changed[..., :-1], changed[..., -1:] > 0.5
        return augment.noise(grain, hu, self.std), label

    def evaluate(self, key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """A batch as validation sees it: whole slices, unchanged."""
        del key
        planes = jnp.moveaxis(batch["planes"], 1, -1).astype(jnp.float32)
        return {"hu": planes[..., :-1], "label": planes[..., -1:] > 0.5}


# Training


@dataclass(frozen=True)
class Loss:
    """The book's: the overlap, and `missed` times the overlap within the truth, each the mean
    over the examples. So a missed voxel costs more than a false one.

    Attributes:
      missed: the weight.
      sure: the probability above which a voxel is counted as found.
    """

    missed: float
    sure: float = detector.SURE

    def __call__(self, model, batch):
        """The loss of a batch, and its recall, precision and F1."""
        prediction, label = model(batch["hu"]), batch["label"]
        is_true = label.astype(prediction.dtype)
        missed = losses.dice_loss(prediction * is_true, is_true)
        overlap = losses.dice_loss(prediction, is_true)
        return overlap + self.missed * missed, ratios(prediction > self.sure, label)


@dataclass(frozen=True)
class CoarseLoss:
    """The overlap of the whole batch, and `missed` times the cross entropy within the truth.

    The book's mean of the overlaps hardly changes with the number of false voxels of an
    example that shows no nodule, as soon as there are some. And its overlap within the truth
    has hardly a slope where a nodule is missed for sure; the cross entropy has.

    Attributes:
      missed, sure: as in `Loss`.
    """

    missed: float
    sure: float = detector.SURE

    def __call__(self, model, batch):
        """The loss of a batch, and its recall, precision and F1."""
        prediction, label = model(batch["hu"]), batch["label"]
        is_true = label.astype(prediction.dtype)
        overlap = losses.dice_loss(prediction.reshape(1, -1), is_true.reshape(1, -1))
        axes = tuple(range(1, label.ndim))
        surprise = losses.binary_cross_entropy(
            prediction, is_true, weight=is_true, reduction="none"
        )
        missed = jnp.sum(surprise, axes) / jnp.maximum(jnp.sum(is_true, axes), 1)
        return overlap + self.missed * jnp.mean(missed), ratios(prediction > self.sure, label)


def ratios(found: jax.Array, label: jax.Array) -> dict[str, train.Ratio]:
    """Recall, precision and F1 of voxels, as ratios of sums over the epoch."""
    both, guessed, there = (
        jnp.sum(x, dtype=jnp.float32) for x in (found & label, found, label)
    )
    return {
        "recall": train.Ratio(both, there),
        "precision": train.Ratio(both, guessed),
        "f1": train.Ratio(2 * both, guessed + there),
    }


class Sets(NamedTuple):
    train: dict[str, np.ndarray]  # {"planes": [n 8 side side] int16}
    val: dict[str, np.ndarray]  # {"planes": [m 8 row column] int16}


def load(config: Config, scans: Luna) -> Sets:
    """Crops of the scans to learn from, slices of those that are held back."""
    nodules = nodules_in(scans)
    held = is_held(config, scans, nodules.series)
    if held.all() or not held.any():
        raise ValueError(
            f"{len(scans.scans)} scans give {np.sum(~held)} nodules to learn from and "
            f"{np.sum(held)} to validate on; both are needed, so take more scans."
        )
    crops = cut_crops(config, scans, nodules.take(~held))
    slices = cut_slices(config, scans, nodules.take(held))
    print(
        f"{np.sum(~held)} nodules in {len(crops)} crops to learn from, "
        f"{np.sum(held)} nodules in {len(slices)} whole slices to validate on"
    )
    return Sets({"planes": crops}, {"planes": slices})


def learn(config: Config, sets: Sets, show=None) -> tuple[train.Learner, train.Run]:
    """Train; `Run.best` has the weights with the best recall in validation.

    Args:
      show: called with learner and `train.Progress` every few epochs.
    """
    model = detector.new_segmentation(config.seed)
    if config.is_coarse:  # nodules are rare, and the network begins with that
        bias = model.unet.last.bias
        assert bias is not None
        bias[...] = jnp.full(1, RARE)
    steps = config.epochs * max(len(sets.train["planes"]) // config.batch_size, 1)
    schedule = optax.cosine_decay_schedule(config.lr, steps)
    learner, state = train.make_learner(
        model,
        (CoarseLoss if config.is_coarse else Loss)(config.weight, config.sure),
        optax.adam(schedule),
        key=jax.random.key(config.seed),
    )
    best = train.EarlyStopping(config.epochs, monitor="val/recall", mode="max")
    callbacks = []
    if show is not None:
        callbacks.append(train.every(config.every, lambda progress: show(learner, progress)))
    result = train.fit(
        learner,
        state,
        *sets,
        epochs=config.epochs,
        batch_size=config.batch_size,
        val_batch_size=config.batch_size,
        drop_last=len(sets.train["planes"]) >= config.batch_size,
        transform=Crops(config.crop[1]),
        stop=best,
        checkpoint=config.checkpoint,
        callbacks=callbacks,
    )
    return learner, result


# Pictures


def shown_slices(sets: Sets) -> np.ndarray:
    """The validation slices with the largest masks, evenly chosen from the largest half."""
    planes = sets.val["planes"]
    order = np.argsort(-planes[:, -1].sum(axis=(1, 2)), kind="stable")
    chosen = np.linspace(0, len(order) // 2, min(SHOWN, len(order))).round().astype(int)
    return planes[order[chosen]]


def painted(planes: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Slices in grey with found voxels in green, missed ones in orange, false ones in red.

    Args:
      planes: `[n 8 row column]`.
      found: `[n row column]` bool.

    Returns:
      `[n row column 3]`, 0 to 1.

    >>> planes = np.full((1, 8, 1, 1), -1000)
    >>> painted(planes, np.ones((1, 1, 1), bool))[0, 0, 0].tolist()
    [0.5, 0.0, 0.0]
    """
    grey = window(planes[:, CONTEXT], low=-1000, high=1000) / 2
    is_true = planes[:, -1] > 0
    picture = np.stack([grey] * 3, axis=-1)
    picture[..., 0] += 0.5 * (found != is_true)
    picture[..., 1] += 0.5 * (found & is_true) + 0.25 * (~found & is_true)
    return picture


def draw(learner, state, planes: np.ndarray, title: str, sure: float) -> Any:
    """The picture of chapter 13: slices of validation, and what is found in them."""
    x = np.moveaxis(planes[:, :-1], 1, -1).astype(np.float32)
    found = np.asarray(train.predict(learner, state, x))[..., 0] > sure
    figure, axes = plt.subplots(
        1, len(planes), figsize=(3.4 * len(planes), 3.2), squeeze=False, layout="constrained"
    )
    for axis, picture in zip(axes[0], painted(planes, found), strict=True):
        axis.imshow(picture)
        axis.axis("off")
    figure.suptitle(f"{title}: found green, missed orange, false red")
    return figure


def main(config: Config):
    scans = source.open_source(config)
    run = runs.start("nodules_segment", config, out=config.out)
    sets = load(config, scans)
    shown = shown_slices(sets)

    def show(learner, progress):
        title = f"after epoch {progress.epoch}"
        figure = draw(learner, progress.state, shown, title, config.sure)
        run.figure(figure, f"slices_{progress.epoch:03d}.png")

    _, result = learn(config, sets, show)
    history = {name: np.asarray(values) for name, values in result.history.items()}
    run.history(history)
    run.figure(plots.loss_curves(result), "losses.png")
    # A short training begins with calling everything a nodule, which has the best recall.
    kept = result.state if config.is_coarse else result.best
    weights.save_weights(run.path / detector.FILES["segmentation"], kept)
    recall = history["val/recall"]
    epoch = len(recall) - 1 if config.is_coarse else int(np.nanargmax(recall))
    numbers = [
        f"{name} {history[f'val/{name}'][epoch]:.3f}" for name in ("recall", "precision", "f1")
    ]
    print(f"kept epoch {epoch + 1} of {len(recall)}: {', '.join(numbers)} of voxels")
