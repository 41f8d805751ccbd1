"""Chapter 12: what each augmentation does for the classifier, alone and all together.

Run:    python -m experiments nodules augment                a made-up cohort of 40 scans
        python -m experiments nodules augment --luna DIR     LUNA16
Writes: runs/nodules_augment/{config.json,history_*.jsonl,examples.png,augmentations.png}
Expect: EXPECT
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from dlwp_jax import data, runs
from dlwp_jax.data.augment import Augment
from dlwp_jax.data.volume import window
from experiments.nodules import _pictures
from experiments.nodules.classifier import ALL, AUGMENTATIONS, NONE, examples, learn, score
from experiments.nodules.classify import Config as Classify
from experiments.nodules.classify import labels_to_learn
from experiments.nodules.source import Chunks, cut_chunks, open_source

KINDS = {
    "none": NONE,
    **{name: Augment(**amounts) for name, amounts in AUGMENTATIONS.items()},
    "all": ALL,
}


@dataclass(frozen=True)
class Config(Classify):
    epochs: int = 2
    samples: int = 1600


def show_examples(chunks: Chunks, draws: int = 3):
    """The middle slice of one nodule under each augmentation."""
    candidates = chunks.candidates
    row = np.flatnonzero(candidates.is_nodule)[:1]
    batch = examples(chunks, row)
    images = []
    for seed in range(draws):
        changed = [kind(jax.random.key(seed), batch)["image"] for kind in KINDS.values()]
        images.append([window(box[0, box.shape[1] // 2, :, :, 0]) for box in changed])
    return _pictures.changed(images, list(KINDS))


def main(config: Config):
    run_dir = runs.start("nodules_augment", config, out=config.out)
    source = open_source(config)
    chunks = cut_chunks(config, source, source.candidates)
    run_dir.figure(show_examples(chunks), "examples.png")
    sampler = data.balanced(labels_to_learn(chunks), config.ratio, n=config.samples)
    histories, rows = {}, []
    for name, kind in KINDS.items():
        print(f"\n{name}", flush=True)
        fit = learn(
            chunks,
            sampler=sampler,
            transform=kind,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            channels=config.channels,
            seed=config.seed,
            memory=config.memory,
            checkpoint=config.checkpoint and config.checkpoint / f"augment-{name}",
        )
        histories[name] = fit.history
        run_dir.history(fit.history, f"history_{name}.jsonl")
        area = score(fit, chunks, chunks.is_held).roc.area
        ends = [
            float(fit.history[f"{side}/{m}"][-1])
            for m in ("loss", "f1")
            for side in ("train", "val")
        ]
        rows.append(f"{name:8s} " + " ".join(f"{value:11.4f}" for value in [*ends, area]))
    columns = ("train loss", "val loss", "train F1", "val F1", "val area")
    print(f"\n{'':8s} " + " ".join(f"{name:>11s}" for name in columns))
    print("\n".join(rows))
    run_dir.figure(_pictures.augmentations(histories), "augmentations.png")
