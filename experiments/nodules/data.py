"""Chapter 10: from scans and tables to boxes around candidates, each with its label.

Run:    python -m experiments nodules data                 a made-up cohort of 90 scans
        python -m experiments nodules data --luna DIR      LUNA16, unpacked by hand
        python -m experiments nodules data --series DIR    only show a folder of DICOM files
Writes: runs/nodules_data/{config.json,scan.png,candidates.png}, and chunks in runs/nodules
Expect: 50,000 candidates, 1 in 116 a nodule; 30 s of processor time for the cohort and 8 s for
        its chunks, once
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlwp_jax import data, runs
from dlwp_jax.data.volume import window
from experiments.nodules import luna
from experiments.nodules.candidates import Candidates, held_back
from experiments.nodules.source import Chunks, cut_chunks, open_source
from experiments.nodules.source import Config as Source


@dataclass(frozen=True)
class Config(Source):
    series: Path | None = None  # a folder of DICOM files to show instead


def show_counts(candidates: Candidates, is_held: np.ndarray) -> None:
    """Print how many candidates there are on both sides, and how large the nodules are."""
    print(f"{'':12s} {'scans':>7s} {'candidates':>11s} {'nodules':>8s} {'one in':>7s}")
    for name, rows in {"to learn": ~is_held, "to check": is_held}.items():
        side = candidates.take(rows)
        scans, nodules = len(np.unique(side.series)), int(side.is_nodule.sum())
        one_in = f"{len(side.series) / nodules:.0f}" if nodules else "-"
        print(f"{name:12s} {scans:7,d} {len(side.series):11,d} {nodules:8,d} {one_in:>7s}")
    measured = candidates.diameter[candidates.diameter > 0]
    unmeasured = int(candidates.is_nodule.sum()) - len(measured)
    if len(measured):
        quartiles = ", ".join(f"{q:.1f}" for q in np.percentile(measured, [0, 25, 50, 75, 100]))
        print(f"diameters (least, quartiles, largest): {quartiles} mm")
    print(f"nodules that no annotation fits: {unmeasured}")


def show_candidates(chunks: Chunks, each: int = 6):
    """Middle slices of the largest nodules, of small ones, and of other places."""
    candidates = chunks.candidates
    nodules = np.flatnonzero(candidates.is_nodule)
    by_size = nodules[np.argsort(-candidates.diameter[nodules])]
    others = np.flatnonzero(~candidates.is_nodule)
    chosen = {
        "large": by_size[:each],
        "small": by_size[len(by_size) // 2 :][:each],
        "other": others[:: max(len(others) // each, 1)][:each],
    }
    images, titles = [], []
    for kind, rows in chosen.items():
        for row in rows:
            box = chunks.voxels[row]
            images.append(window(box[len(box) // 2]))
            size = f", {candidates.diameter[row]:.0f} mm" if kind != "other" else ""
            titles.append(f"{kind}{size}")
    height = 2.2 * -(-len(images) // each)
    return data.pictures.grid(images, titles, columns=each, size=(2 * each, height))


def show_series(folder: Path, run_dir: runs.RunDirectory) -> None:
    """Print the size of one scan, and draw it."""
    scan = luna.read_scan(folder)
    size = " x ".join(
        f"{n * s:.0f}" for n, s in zip(scan.voxels.shape[::-1], scan.spacing, strict=True)
    )
    shape = " x ".join(map(str, scan.voxels.shape))
    print(f"{shape} voxels, {size} mm, mean {scan.voxels.mean():.1f} HU")
    run_dir.figure(data.pictures.planes(scan), "scan.png")


def main(config: Config):
    run_dir = runs.start("nodules_data", config, out=config.out)
    if config.series is not None:
        show_series(config.series, run_dir)
        return
    source = open_source(config)
    candidates = source.candidates
    print(f"{len(source.scans)} scans, {len(candidates.series):,} candidates")
    show_counts(candidates, held_back(candidates.series, config.stride))
    chunks = cut_chunks(config, source, candidates)
    largest = chunks.candidates.take(np.argmax(chunks.candidates.diameter))
    scan = luna.read_scan(source.scans[str(largest.series)])
    place = np.round(scan.irc(largest.center)).astype(int)
    run_dir.figure(data.pictures.planes(scan, place), "scan.png")
    run_dir.figure(show_candidates(chunks), "candidates.png")
