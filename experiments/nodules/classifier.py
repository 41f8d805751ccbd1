"""Training `LunaModel` on chunks (chapters 11 and 12): what both commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import losses, train
from dlwp_jax.data import augment, table
from dlwp_jax.models import LunaModel
from experiments.nodules.source import Chunks

# The book's amounts (chapter 12.6): flips, shifts by a tenth, sizes within a fifth, any angle
# about the patient's long axis, and noise of 25 Hounsfield units.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "flip": {"flips": True},
    "shift": {"offset": 0.1},
    "scale": {"stretch": 0.2},
    "rotate": {"turn": 2 * np.pi},
    "noise": {"std": 25.0},
}
NONE = augment.Augment()
ALL = augment.Augment(
    **{name: value for amounts in AUGMENTATIONS.values() for name, value in amounts.items()}
)


def loss_fn(model: LunaModel, batch: dict[str, jax.Array]):
    """Cross entropy of (not a nodule, nodule), and what is found.

    Precision, recall and F1 are ratios of sums over the epoch: a batch may hold no nodule.
    """
    logits, _ = model(batch["image"])
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


def examples(chunks: Chunks, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`{"image": [n d h w 1] int16, "label": [n] int32}` of some rows."""
    label = chunks.candidates.is_nodule[rows].astype(np.int32)
    return {"image": chunks.voxels[rows][..., None], "label": label}


class Trained(NamedTuple):
    learner: train.Learner
    state: train.TrainState
    history: Mapping[str, Any]


def learn(
    chunks: Chunks,
    *,
    sampler,
    transform: augment.Augment,
    epochs: int,
    validate: bool = True,
    learning_rate: float = 1e-3,
    channels: int = 8,
    batch_size: int = 32,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Trained:
    """Train on the scans that are not held back, and validate on those that are.

    Args:
      sampler: which rows an epoch trains on.
      transform: the augmentation.
      validate: after every epoch.
      checkpoint: where the training is saved as it goes, and taken up again.
    """
    width = chunks.voxels.shape[1:]
    model = LunaModel(channels=channels, size=width, rngs=nnx.Rngs(seed))
    learner, state = train.make_learner(
        model, loss_fn, optax.adam(learning_rate), key=jax.random.key(seed)
    )
    known, held = examples(chunks, ~chunks.is_held), examples(chunks, chunks.is_held)
    result = train.fit(
        learner,
        state,
        known,
        held if validate else None,
        epochs=epochs,
        batch_size=batch_size,
        val_batch_size=256,
        sampler=sampler,
        transform=transform,
        checkpoint=checkpoint,
    )
    return Trained(learner, result.state, result.history)


class Scores(NamedTuple):
    label: np.ndarray  # [n] 0 or 1
    probability: np.ndarray  # [n] of a nodule
    loss: float

    def at(self, threshold: float = 0.5) -> dict[str, float]:
        """Precision, recall, F1 and accuracy; a probability of exactly the threshold is a no."""
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


def score(trained: Trained, chunks: Chunks, rows: np.ndarray) -> Scores:
    """Probabilities of some rows, in evaluation mode."""
    batch = examples(chunks, rows)
    model = trained.learner.model(trained.state)
    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def logits_of(state, image):
        return nnx.merge(graph, state)(image[...].astype(jnp.float32))[0]

    logits = []
    for first in range(0, len(batch["label"]), 256):
        logits.append(logits_of(state, batch["image"][first : first + 256]))
    logits = np.concatenate(logits)
    probability = np.asarray(jax.nn.softmax(logits, axis=-1))[:, 1]
    loss = float(losses.cross_entropy(logits, batch["label"]))
    return Scores(batch["label"], probability, loss)
