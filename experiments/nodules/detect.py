"""Chapter 14: find nodules in one CT, and write a page about them.

Run:    python -m experiments nodules detect --series DIR --weights DIR
        python -m experiments nodules detect --series scan.mhd --weights DIR -o page.html
Writes: report.html, complete in itself; no more than a browser is needed to look at it
Expect: 2 minutes of processor time for 99 slices of 512 x 512 pixels, 1 GB of memory

It is a teaching example and no medical device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy import ndimage

from dlwp_jax.data.volume import Volume
from dlwp_jax.files import whole
from experiments.nodules import detector, luna, report
from experiments.nodules.detector import Detector, Findings

LEAST_LUNG = 0.2  # litres in the part of the chest that was scanned
COARSE_MM = 3.0  # lungs are looked for in voxels of about this size


@dataclass(frozen=True)
class Config:
    series: Path  # a folder with one DICOM series, or a .mhd file
    weights: Path  # a folder that `nodules convert` or a training has written
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    threshold: float = 0.5  # list findings that are nodules with at least this probability
    most: int = 50  # list no more findings than this, the most probable ones first

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold {self.threshold} must be between 0 and 1.")
        if self.most < 1:
            raise ValueError(f"--most {self.most} must be at least 1.")
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise ValueError(f"{self.out} cannot be written: name a file in a folder.")


def lung_litres(scan: Volume) -> float:
    """The volume of air inside of the body, in litres.

    Air that reaches a side of the slices is around the body.
    """
    step = [max(round(COARSE_MM / mm), 1) for mm in scan.spacing[::-1]]
    air = scan.voxels[:: step[0], :: step[1], :: step[2]] < -400
    labels = np.empty(air.shape, np.int32)
    ndimage.label(air, output=labels)
    count = int(labels.max())
    edges = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    outside = np.unique(np.concatenate([edge.ravel() for edge in edges]))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    inside = np.setdiff1d(np.arange(1, count + 1), outside)
    return float(sizes[inside].sum() * np.prod(scan.spacing) * np.prod(step) / 1e6)


def read(path: Path) -> Volume:
    """The scan, if it is one of a chest.

    Raises:
      FileNotFoundError, ValueError: in one sentence, if it is missing, damaged, in another unit
        or without a lung.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_file() and path.suffix.lower() not in (".mhd", ".mha"):
        raise ValueError(
            f"{path}: give the folder of a DICOM series, or a .mhd file; other files are not "
            "read."
        )
    scan = luna.read_scan(path)
    litres = lung_litres(scan)
    if litres < LEAST_LUNG:
        raise ValueError(
            f"{path} shows {litres:.2f} litres of air inside of the body, so no lung; a CT of "
            "the chest is needed."
        )
    return scan


def rows_of(findings: Findings, scan: Volume, numbers) -> list[report.Row]:
    """Findings as the page lists them.

    Erosion took the outermost voxels away. They are given back here: of the voxels around a
    group, those that were segmented too.
    """
    boxes = ndimage.find_objects(findings.groups.labels)
    shape = scan.voxels.shape
    rows = []
    for number in numbers:
        sides = zip(boxes[number], shape, strict=True)
        box = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in sides)
        own = findings.groups.labels[box] == number + 1
        own = ndimage.binary_dilation(own, np.ones((3, 3, 3))) & findings.segmented[box]
        volume = float(own.sum() * np.prod(scan.spacing))
        center = findings.groups.centers[number]
        malignancy = findings.malignancy
        rows.append(
            report.Row(
                irc=tuple(np.round(center).astype(int).tolist()),
                xyz=tuple(scan.xyz(center).tolist()),
                diameter=(6 * volume / np.pi) ** (1 / 3),
                volume=volume,
                probability=float(findings.probability[number]),
                malignancy=None if malignancy is None else float(malignancy[number]),
                mask=own,
                corner=(box[0].start, box[1].start, box[2].start),
            )
        )
    return rows


def detect(config: Config, scan: Volume, networks: Detector) -> list[report.Row]:
    """The findings that are listed, the most probable first."""
    start = time.perf_counter()
    findings = detector.find(networks, scan, show=True)
    order = np.argsort(-findings.probability, kind="stable")
    probable = order[findings.probability[order] >= config.threshold]
    rows = rows_of(findings, scan, probable[: config.most])
    groups, seconds = len(order), time.perf_counter() - start
    facts = {
        "scan": "{} slices of {} x {} pixels".format(*scan.voxels.shape),
        "voxel": "{:.2f} x {:.2f} x {:.2f} mm (x, y, z)".format(*scan.spacing),
        "groups": f"{groups} groups of voxels were segmented and classified",
        "listed": f"{len(rows)} with a probability of at least {config.threshold:g}",
    }
    if len(probable) > len(rows):
        facts["listed"] += f" (of {len(probable)}; --most {config.most})"
    title = f"Findings in {config.series.resolve().name}"
    with whole(config.out) as partial:
        partial.write_text(report.page(title, facts, scan, rows), encoding="utf-8")
    print(f"{groups} groups, {len(rows)} listed, {seconds:.0f} s")
    return rows


def main(config: Config):
    networks = detector.load(config.weights)
    scan = read(config.series)
    for number, row in enumerate(detect(config, scan, networks)[:10], 1):
        x, y, z = row.xyz
        chances = f"nodule {row.probability:.3f}"
        if row.malignancy is not None:
            chances += f", malignant {row.malignancy:.3f}"
        print(f"{number:3d}  {x:7.1f} {y:7.1f} {z:7.1f} mm  {row.diameter:5.1f} mm  {chances}")
    print(f"wrote {config.out}; a teaching example, no medical device")
