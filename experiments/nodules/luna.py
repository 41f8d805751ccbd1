"""A folder in the form of LUNA16: scans, candidates and annotations (chapter 10)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlwp_jax.data import BrokenFile, dicom, volume
from dlwp_jax.data.volume import Volume
from experiments.nodules import candidates
from experiments.nodules.candidates import Candidates

CANDIDATES = "candidates.csv"
ANNOTATIONS = "annotations.csv"
MALIGNANCY = "annotations_with_malignancy.csv"
AIR = -1000.0  # Hounsfield units; below it the scanner writes filling
BONE = 1000.0  # denser things, such as metal, tell nothing about lungs


class Luna(NamedTuple):
    """What a folder holds."""

    folder: Path
    scans: dict[str, Path]  # name of a scan -> its .mhd file, or its folder of DICOM files
    candidates: Candidates  # of chapter 10: the table of candidates, joined with diameters
    nodules: Candidates  # of chapter 13: nodules judged benign or malignant, and the rest


def open_folder(folder: Path) -> Luna:
    """Read the tables of a folder, and find its scans.

    Candidates whose scan is not there are left out: LUNA16 comes in ten parts.

    Raises:
      FileNotFoundError, BrokenFile: in one sentence, if something is missing or damaged.
    """
    scans = find_scans(folder)
    rows = candidates.read(_table(folder, CANDIDATES), "class")
    sizes = candidates.read(_table(folder, ANNOTATIONS), "diameter_mm")
    judged = candidates.read(_table(folder, MALIGNANCY), "diameter_mm", "mal_bool")
    joined = candidates.join(rows, sizes)
    nodules = candidates.with_malignancy(rows, judged)
    names = np.array(list(scans))
    there = np.isin(joined.series, names)
    if not there.any():
        raise BrokenFile(
            f"{folder}: none of its {len(scans)} scans has a candidate in {CANDIDATES}."
        )
    return Luna(folder, scans, joined.take(there), nodules.take(np.isin(nodules.series, names)))


def find_scans(folder: Path) -> dict[str, Path]:
    """`subset*/NAME.mhd`, and `subset*/NAME/` with the DICOM files of one series."""
    found = {path.stem: path for path in folder.glob("subset*/*.mhd")}
    for path in folder.glob("subset*/*/"):
        found.setdefault(path.name, path)
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no subset*/*.mhd; unpack LUNA16's subsets there, or make a cohort "
            "by: python -m experiments nodules cohort -o DIR"
        )
    return dict(sorted(found.items()))


def _table(folder: Path, name: str) -> Path:
    """A table of the folder; some archives have them in a folder of their own."""
    for path in (folder / name, folder / "CSVFILES" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds no {name}.")


def read_scan(path: Path) -> Volume:
    """A scan in Hounsfield units, cut off at air and bone as in the book.

    Raises:
      BrokenFile: if it cannot be read, a slice is missing, or it has no air, so that its
        numbers are of another unit.
    """
    scan = dicom.read_series(path) if path.is_dir() else volume.read_mhd(path)
    lowest, highest = float(scan.voxels.min()), float(scan.voxels.max())
    if lowest > AIR / 2 or highest < 0:
        raise BrokenFile(
            f"{path} holds values from {lowest:g} to {highest:g}: these are no Hounsfield "
            "units, in which a chest has air at -1000 and flesh above 0."
        )
    np.clip(scan.voxels, AIR, BONE, out=scan.voxels)
    return scan
