"""Chapter 9: made-up chest CTs with known nodules, written in LUNA16's own files.

Run:    python -m experiments nodules cohort -o DIR
        python -m experiments nodules cohort -o DIR --full    512 x 512 pixels a slice
Writes: DIR/subset0/*.mhd and .raw, and LUNA16's three tables; every other command then takes
        --luna DIR. Nothing is downloaded, and the same seed writes the same files.
Expect: 90 scans of 64 x 112 x 144 voxels, 186 MB, 30 s of processor time
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dlwp_jax.data import synthetic, volume
from experiments.nodules import luna

SMALL = (64, 112, 144)  # voxels of about 2 mm
MOST = 10_000  # scans of a cohort
FULL = (96, 512, 512)  # of 1.3 x 0.4 x 0.6 mm
TABLES = (luna.CANDIDATES, luna.ANNOTATIONS, luna.MALIGNANCY)


@dataclass(frozen=True)
class Config:
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("cohort")  # the folder to make
    scans: int = 90
    full: bool = False  # slices of 512 x 512 pixels, as a scanner makes them
    others: int = 550  # places without a nodule in each scan; LUNA16 has 620
    seed: int = 0  # another one gives other patients

    def __post_init__(self):
        if not 1 <= self.scans <= MOST or min(self.others, self.seed) < 0:
            raise ValueError(
                f"--scans must be from 1 to {MOST:,}, and --others and --seed at least 0."
            )


def write(config: Config) -> None:
    """Make the cohort, and write it in LUNA16's form.

    The tables are written last, so a cohort that was interrupted is no cohort; the next call
    makes what is missing.
    """
    subset = config.out / "subset0"
    subset.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = []
        for done, found in enumerate(pool.map(_write_one(config), range(config.scans)), 1):
            rows.append(found)
            if done % 10 == 0 or done == config.scans:
                print(f"{done} of {config.scans} scans", file=sys.stderr, flush=True)
    headers = (
        ["seriesuid", "coordX", "coordY", "coordZ", "class"],
        ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"],
        ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm", "mal_bool"],
    )
    for name, header, tables in zip(TABLES, headers, zip(*rows, strict=True), strict=True):
        _write_table(config.out / name, header, [row for table in tables for row in table])


def series_name(config: Config, number: int) -> str:
    """A name like those of DICOM series; 2.25 is the root for numbers made up by anyone."""
    kind = 2 if config.full else 1
    return f"2.25.{kind}.{patient(config, number):08d}"


def patient(config: Config, number: int) -> int:
    """The seed of a patient; cohorts of different seeds have no patient in common."""
    return config.seed * MOST + number


def _write_one(config: Config):
    def write_scan(number: int) -> tuple[list, list, list]:
        """Write one scan; gives its rows of the three tables."""
        name = series_name(config, number)
        chest = synthetic.chest_ct(
            FULL if config.full else SMALL, others=config.others, seed=patient(config, number)
        )
        path = config.out / "subset0" / f"{name}.mhd"
        if not path.exists():
            volume.write_mhd(path, chest.scan)
        return _rows(name, chest, np.random.default_rng([patient(config, number), 1]))

    return write_scan


def _rows(name: str, chest: synthetic.Chest, rng: np.random.Generator):
    """Rows of candidates, annotations and annotations with malignancy."""
    candidates, annotations, judged = [], [], []
    for nodule in chest.nodules:
        annotations.append([name, *nodule.center, nodule.diameter])
        judged.append([name, *nodule.center, nodule.diameter, nodule.is_malignant])
        # As in LUNA16, where the candidates of a nodule are not exactly at its centre, and
        # some nodules have two.
        for _ in range(1 + (rng.random() < 0.14)):
            away = rng.uniform(-1, 1, 3) * nodule.diameter / 8
            candidates.append([name, *(nodule.center + away), 1])
    for place in chest.others:
        candidates.append([name, *place, 0])
    return candidates, annotations, judged


def _write_table(path: Path, header: list[str], rows: Iterable[list]) -> None:
    """Write a table whole; numbers have eight decimals at most, as LUNA16's."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([round(v, 8) if isinstance(v, float) else v for v in row])
    partial.replace(path)


def is_complete(folder: Path) -> bool:
    """Whether a cohort was written there to its end."""
    return (folder / TABLES[-1]).exists()


def main(config: Config):
    if is_complete(config.out):
        raise FileExistsError(f"{config.out} holds a data set already; name another folder.")
    write(config)
    print(f"wrote {config.scans} scans and three tables into {config.out}")
    print(f"next: python -m experiments nodules data --luna {config.out}")
