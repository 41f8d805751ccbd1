"""Training `LunaModel` on chunks (chapters 11 and 12): what both commands share."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, losses, train
from dlwp_jax.data import augment, table
from dlwp_jax.models import LunaModel
from experiments.nodules import detector
from experiments.nodules.source import Chunks, Config

BATCH = 16  # candidates in a step
NONE = augment.Augment()
# The book's amounts (chapter 12.6): flips, shifts by a tenth, sizes within a fifth, any angle
# about the patient's long axis, and noise of 25 Hounsfield units.
ALL = augment.Augment(flips=True, offset=0.1, stretch=0.2, turn=2 * np.pi, std=25.0)


def changes(config: Config) -> augment.Augment:
    """The book's augmentation, with the noise that fits the size of the voxels."""
    return dataclasses.replace(ALL, std=config.noise)


def loss_fn(model: LunaModel, batch: dict[str, jax.Array]):
    """Cross entropy of (not a nodule, nodule), and what is found.

    Precision, recall and F1 are ratios of sums over the epoch: a batch may hold no nodule.
    """
    logits, _ = model(batch["image"])
    if "log_odds" in batch:
        logits = logits.at[:, 1].add(batch["log_odds"])
    label = batch["label"]
    guess = logits.argmax(axis=-1)
    found = jnp.sum((guess == 1) & (label == 1))
    guessed, there = jnp.sum(guess == 1), jnp.sum(label == 1)
    metrics = {
        "accuracy": jnp.mean(guess == label),
        "precision": train.Ratio(found, guessed),
        "recall": train.Ratio(found, there),
        "f1": train.Ratio(2 * found, guessed + there),
    }
    return losses.cross_entropy(logits, label), metrics


def log_odds(labels: np.ndarray, ratio: int) -> float:
    """How much more often a balanced training shows nodules than the scans do: a logarithm.

    Args:
      labels: `[n]` 0 and 1 of the scans' candidates.
      ratio: candidates without a nodule for each nodule, in the training.

    >>> round(float(np.exp(log_odds(np.array([1, 0, 0, 0]), 1))), 3)
    3.0
    """
    nodules = int(labels.sum())
    return float(np.log((len(labels) - nodules) / nodules / ratio))


@dataclasses.dataclass(frozen=True)
class Oftener:
    """The `transform=` of a training in which nodules are more frequent than in the scans.

    The loss adds `log_odds` to the logit of a nodule, in training alone. So the network itself
    gives the probabilities of the scans, where one candidate in a hundred is a nodule, and 0.5
    means that a nodule is as likely as none.

    Attributes:
      change: the transform of the images.
      log_odds: from `log_odds`.
    """

    change: Any
    log_odds: float

    def __call__(self, key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        shift = jnp.full(len(batch["label"]), self.log_odds)
        return self.change(key, batch) | {"log_odds": shift}

    def evaluate(self, key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return NONE.evaluate(key, batch)


def examples(
    chunks: Chunks, rows: np.ndarray, amounts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`{"image": [n d h w 1] int16, "label": [n] int32}` of some rows; `amounts` for each."""
    label = chunks.candidates.is_nodule[rows].astype(np.int32)
    batch = {"image": chunks.voxels[rows][..., None], "label": label}
    if amounts is not None:
        batch["amounts"] = np.broadcast_to(amounts, (*label.shape, *amounts.shape))
    return batch


class Stream:
    """Batches that are read from the disk ahead of the device, for chunks larger than memory.

    `train.fit` iterates it anew for every epoch; the number of the epoch is its state, so that
    a training that was interrupted goes on with the same candidates.
    """

    def __init__(self, read, rows: np.ndarray, sampler, batch_size: int, seed: int):
        self.read, self.rows, self.sampler = read, rows, sampler
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __iter__(self):
        key = jax.random.fold_in(jax.random.key(self.seed), self.epoch)
        rows = self.rows[np.asarray(self.sampler(key, self.epoch))]
        self.epoch += 1
        return iter(data.stream.stream(rows.tolist(), self.read, batch_size=self.batch_size))

    def get_state(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def set_state(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


class Trained(NamedTuple):
    learner: train.Learner
    state: train.TrainState
    history: dict[str, Any]


def beginner(
    width: tuple[int, int, int],
    *,
    steps: int,
    learning_rate: float = 2e-3,
    channels: int = 8,
    log_odds: float = 0.0,
    seed: int = 0,
) -> tuple[train.Learner, train.TrainState]:
    """A classifier of chunks of this many voxels that has learned nothing yet.

    The learning rate rises over the first steps and then falls to zero. A network of ReLUs
    whose first steps are large can die: all its answers are then the same, for ever.

    Args:
      width: voxels of a chunk.
      steps: of the training.
      log_odds: as in `Oftener`; the network begins with the probability of the scans.
    """
    model = LunaModel(channels=channels, size=width, rngs=nnx.Rngs(seed))
    bias = model.head_linear.bias
    assert bias is not None
    bias[...] = bias[...].at[1].add(-log_odds)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps=max(steps // 5, 1), decay_steps=max(steps, 2)
    )
    return train.make_learner(model, loss_fn, optax.adam(schedule), key=jax.random.key(seed))


def learn(
    chunks: Chunks,
    learner: train.Learner,
    state: train.TrainState,
    *,
    sampler,
    transform,
    epochs: int,
    amounts: np.ndarray | None = None,
    others: int = 1,
    batch_size: int = BATCH,
    seed: int = 0,
    memory: float = 4.0,
    checkpoint: Path | None = None,
) -> Trained:
    """Train on the scans that are not held back, and validate on those that are.

    Args:
      learner, state: from `beginner`.
      sampler: which rows an epoch trains on.
      transform: the augmentation.
      amounts: for a transform that reads them from the batch.
      others: validate on every so many of the candidates that are no nodules.
      memory: gigabytes; chunks that are larger are streamed from the disk.
      checkpoint: where the training is saved as it goes, and taken up again.
    """
    known, held = np.flatnonzero(~chunks.is_held), np.flatnonzero(chunks.is_held)
    is_nodule = chunks.candidates.is_nodule[held]
    held = np.sort(np.concatenate([held[is_nodule], held[~is_nodule][::others]]))
    options: dict[str, Any] = {
        "epochs": epochs,
        "transform": transform,
        "checkpoint": checkpoint,
    }
    read = functools.partial(examples, chunks, amounts=amounts)
    if chunks.voxels.nbytes <= memory * 1e9:
        sides = read(known), read(held)
        options |= {"batch_size": batch_size, "val_batch_size": 256, "sampler": sampler}
    else:
        sides = (
            Stream(read, known, sampler, batch_size, seed),
            data.stream.stream(held.tolist(), read, batch_size=256),
        )
    result = train.fit(learner, state, sides[0], sides[1], **options)
    return Trained(learner, result.state, result.history)


class Scores(NamedTuple):
    label: np.ndarray  # [n] 0 or 1
    probability: np.ndarray  # [n] of a nodule

    def at(self, threshold: float = 0.5) -> dict[str, float]:
        """Precision, recall, F1, accuracy; a probability of exactly the threshold is a no."""
        guess, is_nodule = self.probability > threshold, self.label == 1
        found = table.agreement(guess, is_nodule)
        both = found.predicted + found.actual
        return {
            "accuracy": float((guess == is_nodule).mean()),
            "precision": found.precision,
            "recall": found.recall,
            "f1": 2 * found.matches / both if both else 0.0,
        }

    @property
    def roc(self) -> table.Roc:
        return table.roc(self.label, self.probability)


def score(
    trained: Trained, chunks: Chunks, rows: np.ndarray, *, mirrored: bool = False
) -> Scores:
    """Probabilities of some rows, in evaluation mode.

    Args:
      mirrored: as in `detector.probabilities`.
    """
    numbers = np.arange(len(chunks.voxels))[rows]
    chances = detector.probabilities(
        (trained.learner, trained.state),
        lambda some: chunks.voxels[numbers[some]],
        len(numbers),
        mirrored=mirrored,
    )
    return Scores(chunks.candidates.is_nodule[numbers].astype(np.int32), chances)
