"""Chapter 14: the book's published torch checkpoints as a folder of weights for `detect`.

Run:    python -m experiments nodules convert --segmentation FILE --classifier FILE -o DIR
Writes: DIR/{segmentation,classifier,malignancy}.safetensors and DIR/detector.json

This is done once and needs torch (pip install 'dlwp-jax[parity]'); `nodules detect` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.nodules import detector


@dataclass(frozen=True)
class Config:
    segmentation: Path  # the U-Net of chapter 13, a .pt or .state file
    classifier: Path  # nodule or not, of chapter 12 or 14
    malignancy: Path | None = None  # benign or malignant, of chapter 14
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("weights")  # the folder to write


def main(config: Config):
    try:
        from dlwp_jax import parity
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ValueError(
            "convert needs torch to read the files: pip install 'dlwp-jax[parity]'."
        ) from None

    def filled(path, make):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist.")
        model = detector.unfilled(make)
        try:
            report = parity.load_torch(model, path)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} does not fit the book's network: {error}") from None
        print(f"{path}: {len(report.map.entries)} arrays")
        return detector.ready(model)

    def classifier():
        return detector.new_classifier(detector.BOOKS_WIDTH)

    whole = detector.Detector(
        filled(config.segmentation, detector.new_segmentation),
        filled(config.classifier, classifier),
        filled(config.malignancy, classifier) if config.malignancy else None,
    )
    detector.save(config.out, whole)
    print(f"wrote {config.out}")
    print(f"next: python -m experiments nodules detect --series DIR --weights {config.out}")
