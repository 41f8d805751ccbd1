"""Chapter 12: what each augmentation does for the classifier, alone and all together.

Run:    python -m experiments nodules augment                a made-up cohort of 90 scans
        python -m experiments nodules augment --luna DIR     LUNA16
Writes: runs/nodules_augment/{config.json,history_*.jsonl,examples.png,augmentations.png}
Expect: seven trainings of 4,800 candidates by one compiled program; some minutes of processor
        time. More --epochs show more
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax import data, runs
from dlwp_jax.data import augment
from dlwp_jax.data.volume import window
from experiments.nodules import _pictures
from experiments.nodules.classifier import ALL, NONE, examples, learn
from experiments.nodules.classify import Config as Classify
from experiments.nodules.classify import labels_to_learn, new_classifier
from experiments.nodules.source import Chunks, cut_chunks, open_source

# flip (0 or 1), shift, scale, angle, noise
AMOUNTS = np.array([1.0, ALL.offset, ALL.stretch, ALL.turn, ALL.std], np.float32)
KINDS = {
    "none": 0 * AMOUNTS,
    "flip": AMOUNTS * [1, 0, 0, 0, 0],
    "shift": AMOUNTS * [0, 1, 0, 0, 0],
    "scale": AMOUNTS * [0, 0, 1, 0, 0],
    "rotate": AMOUNTS * [0, 0, 0, 1, 0],
    "noise": AMOUNTS * [0, 0, 0, 0, 1],
    "all": AMOUNTS,
}


def change(key: jax.Array, image: jax.Array, amounts: jax.Array) -> jax.Array:
    """`data.augment.augment` of `[d h w 1]`, with amounts that are arrays."""
    mirrored, offset, stretch, turn, std = amounts
    keys = jax.random.split(key, 5)
    mirror = jnp.where(mirrored > 0, augment.flip(keys[0], 3), jnp.eye(4))
    matrix = augment.shift(keys[1], 3, offset) @ augment.scale(keys[2], 3, stretch) @ mirror
    matrix = matrix @ augment.rotate(keys[3], 3, most=turn)
    return augment.noise(keys[4], augment.warp_in_planes(image, matrix), std)


def change_batch(key: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Change each example by the amounts that stand beside it.

    As the amounts are data, one compiled program trains with every kind of augmentation.
    """
    images = batch["image"].astype(jnp.float32)
    keys = jax.random.split(key, len(images))
    return batch | {"image": jax.vmap(change)(keys, images, batch["amounts"])}


@dataclass(frozen=True)
class Config(Classify):
    epochs: int = 3
    samples: int = 1600
    channels: int = 4  # half of the book's: seven trainings
    learning_rate: float = 3e-3  # the largest
    others: int = 4  # validate on every fourth candidate that is no nodule


def show_examples(chunks: Chunks, draws: int = 3):
    """The middle slice of one nodule under each augmentation."""
    candidates = chunks.candidates
    row = np.flatnonzero(candidates.is_nodule)[:1]
    image = jnp.asarray(examples(chunks, row)["image"][0], jnp.float32)
    images = []
    for seed in range(draws):
        key = jax.random.key(seed)
        changed = [change(key, image, jnp.asarray(kind)) for kind in KINDS.values()]
        images.append([window(box[len(box) // 2, :, :, 0]) for box in changed])
    return _pictures.changed(images, list(KINDS))


def main(config: Config):
    run_dir = runs.start("nodules_augment", config, out=config.out)
    source = open_source(config)
    chunks = cut_chunks(config, source, source.candidates)
    run_dir.figure(show_examples(chunks), "examples.png")
    sampler = data.balanced(labels_to_learn(chunks), config.ratio, n=config.samples)
    learner, state = new_classifier(config, config.epochs * config.samples)
    histories, rows = {}, []
    for name, kind in KINDS.items():
        print(f"\n{name}", flush=True)
        fit = learn(
            chunks,
            learner,
            state,
            sampler=sampler,
            transform=(change_batch, NONE.evaluate),
            amounts=kind,
            others=config.others,
            epochs=config.epochs,
            seed=config.seed,
            memory=config.memory,
            checkpoint=config.checkpoint and config.checkpoint / f"augment-{name}",
        )
        histories[name] = fit.history
        run_dir.history(fit.history, f"history_{name}.jsonl")
        ends = [
            float(fit.history[f"{side}/{m}"][-1])
            for m in ("loss", "f1")
            for side in ("train", "val")
        ]
        rows.append(f"{name:8s} " + " ".join(f"{value:11.4f}" for value in ends))
    columns = ("train loss", "val loss", "train F1", "val F1")
    print(f"\n{'':8s} " + " ".join(f"{name:>11s}" for name in columns))
    print("\n".join(rows))
    run_dir.figure(_pictures.augmentations(histories), "augmentations.png")
