"""Chapters 11 and 12: classify candidates; why 99 % accuracy is nothing, and what balance does.

Run:    python -m experiments nodules classify                a made-up cohort of 90 scans
        python -m experiments nodules classify --luna DIR     LUNA16
Writes: runs/nodules_classify/{config.json,history_*.jsonl,training.png,roc.png,
        classifier.safetensors}
Expect: seed 0, unbalanced: accuracy .992, recall 0; balanced: ROC area .999, F1 .92 (of seeds 1
        and 2: see docs/nodules.md). About 230 s of processor time
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlwp_jax import data, runs, weights
from experiments.nodules import _pictures
from experiments.nodules.classifier import (
    BATCH,
    NONE,
    Oftener,
    Scores,
    Trained,
    beginner,
    changes,
    learn,
    log_odds,
    score,
)
from experiments.nodules.source import Chunks, cut_chunks, open_source
from experiments.nodules.source import Config as Source


@dataclass(frozen=True)
class Config(Source):
    epochs: int = 3  # of the balanced training
    samples: int = 20_000  # candidates in an epoch (the book: 200,000)
    unbalanced: int = 3200  # candidates of the unbalanced training, in one epoch
    ratio: int = 1  # false candidates for each nodule
    learning_rate: float = 3e-3  # the largest
    channels: int = 8  # of the first block
    memory: float = 4.0  # gigabytes; more than that is read from the disk while training runs
    checkpoint: Path | None = None  # a folder to save trainings in, and to take them up from

    def __post_init__(self):
        if min(self.epochs, self.samples, self.unbalanced, self.ratio) < 1:
            raise ValueError(
                "--epochs, --samples, --unbalanced and --ratio must be at least 1."
            )


def labels_to_learn(chunks: Chunks) -> np.ndarray:
    """`[n]` 0 and 1 of the candidates that are not held back."""
    return chunks.candidates.is_nodule[~chunks.is_held].astype(np.int32)


def new_classifier(config: Config, samples: int, log_odds: float = 0.0):
    """Learner and state of a classifier that has learned nothing yet, and will see so many
    candidates, with nodules more often by these odds.
    """
    return beginner(
        config.width,
        steps=samples // BATCH,
        learning_rate=config.learning_rate,
        channels=config.channels,
        log_odds=log_odds,
        seed=config.seed,
    )


def train_unbalanced(config: Config, chunks: Chunks) -> Trained:
    """Chapter 11: candidates as they come, one nodule among a hundred."""
    n = len(labels_to_learn(chunks))
    sampler = data.epoch_of(n, min(config.unbalanced, n))
    return _learn(config, chunks, "unbalanced", sampler, NONE, 1, 0.0)


def train_balanced(config: Config, chunks: Chunks) -> Trained:
    """Chapter 12: as many nodules as others, each time changed in another way."""
    labels = labels_to_learn(chunks)
    sampler = data.balanced(labels, config.ratio, n=config.samples)
    odds = log_odds(labels, config.ratio)
    transform = Oftener(changes(config), odds)
    return _learn(config, chunks, "balanced", sampler, transform, config.epochs, odds)


def _learn(
    config: Config, chunks: Chunks, name: str, sampler, transform, epochs: int, odds: float
) -> Trained:
    epochs_of = "an epoch of" if epochs == 1 else f"{epochs} epochs of"
    print(f"\n{name}: {epochs_of} {sampler.n:,} candidates", flush=True)
    return learn(
        chunks,
        *new_classifier(config, epochs * sampler.n, odds),
        sampler=sampler,
        transform=transform,
        epochs=epochs,
        memory=config.memory,
        seed=config.seed,
        checkpoint=config.checkpoint and config.checkpoint / name,
    )


def show_scores(name: str, scores: Scores) -> None:
    """Print what a classifier finds among the candidates that are held back."""
    n, nodules = len(scores.label), int(scores.label.sum())
    print(f"{name}, {nodules} nodules among {n:,}: ROC area {scores.roc.area:.3f}")
    # A probability as large as the share of nodules would be one half if every second candidate
    # were one, as in the balanced training.
    for threshold in (0.5, nodules / n):
        found = scores.at(threshold)
        words = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"  above {threshold:.2f}: {words}")


def show_missed(chunks: Chunks, scores: Scores) -> None:
    """Print how large the nodules are that were found and missed."""
    held = chunks.candidates.take(chunks.is_held)
    diameter = held.diameter[held.is_nodule]
    is_found = scores.probability[held.is_nodule] > 0.5
    for low, high in ((0, 5), (5, 10), (10, 40)):
        rows = (diameter >= low) & (diameter < high)
        print(
            f"  {low:2d} to {high:2d} mm: "
            f"{int(is_found[rows].sum())} of {int(rows.sum())} found"
        )


def main(config: Config):
    run_dir = runs.start("nodules_classify", config, out=config.out)
    source = open_source(config)
    chunks = cut_chunks(config, source, source.candidates)
    trained = {
        "unbalanced": train_unbalanced(config, chunks),
        "balanced": train_balanced(config, chunks),
    }
    print()
    scores = {}
    for name, fit in trained.items():
        # The unbalanced one finds nothing, in mirror images neither.
        mirrored = name == "balanced"
        scores[name] = score(fit, chunks, chunks.is_held, mirrored=mirrored)
        run_dir.history(fit.history, f"history_{name}.jsonl")
        show_scores(name, scores[name])
    show_missed(chunks, scores["balanced"])
    run_dir.figure(_pictures.training(trained["balanced"].history), "training.png")
    run_dir.figure(_pictures.roc(scores), "roc.png")
    path = run_dir.path / "classifier.safetensors"
    weights.save_weights(path, trained["balanced"].state)
    print(f"wrote {path}")
