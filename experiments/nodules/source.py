"""Which scans: LUNA16's by path, or the made-up cohort; the same flags for every command."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlwp_jax.data import BrokenFile, mapped
from experiments.nodules import cohort, luna
from experiments.nodules.candidates import Candidates, held_back
from experiments.nodules.luna import Luna


@dataclass(frozen=True)
class Config:
    luna: Path | None = None  # LUNA16's folder, or one like it; None makes up a cohort
    scans: int = 90  # of the made-up cohort
    full: bool = False  # the made-up cohort in slices of 512 x 512 pixels
    skip_unreadable: bool = False  # leave out scans that cannot be read
    cache: Path = Path(
        "runs/nodules"
    )  # the folder of the cohort and of what is cut out of scans
    seed: int = 0  # of the cohort, the weights and the order
    out: Path = Path("runs")  # where the run directory is made

    @property
    def is_coarse(self) -> bool:
        """Whether voxels are about 2 mm wide, as in the small made-up cohort."""
        return self.luna is None and not self.full

    @property
    def width(self) -> tuple[int, int, int]:
        """Voxels of a chunk: the book's, or fewer in the coarse cohort, 32 mm each way."""
        return (16, 16, 16) if self.is_coarse else (32, 48, 48)

    @property
    def erosions(self) -> int:
        """How often a mask is eroded before it is grouped: once as in the book, or not at all
        in the coarse cohort, whose small nodules would vanish.
        """
        return 0 if self.is_coarse else 1

    @property
    def sure(self) -> float:
        """The probability above which a voxel belongs to the mask: the book's, or a lower one
        in the coarse cohort, where the network is less sure of small nodules.
        """
        return 0.05 if self.is_coarse else 0.5

    @property
    def noise(self) -> float:
        """The noise that the augmentation of chunks adds, in Hounsfield units: the book's, or
        less in the coarse cohort. A voxel of 2 mm is as large as thirteen of LUNA16's, and in
        the mean of thirteen noise is a quarter to a third.
        """
        return 7.0 if self.is_coarse else 25.0

    @property
    def stride(self) -> int:
        """Every tenth scan is held back as in the book; of the made-up cohort every sixth."""
        return 6 if self.luna is None else 10


def open_source(config: Config) -> Luna:
    """The folder of scans and tables; the made-up cohort is written first if not there."""
    if config.luna is not None:
        return luna.open_folder(config.luna)
    kind = "full" if config.full else "small"
    folder = config.cache / f"cohort-{kind}-{config.scans}-{config.seed}"
    wanted = cohort.Config(folder, scans=config.scans, full=config.full, seed=config.seed)
    if not cohort.is_complete(folder):
        print(f"making up {config.scans} scans in {folder}", flush=True)
        cohort.write(wanted)
    return luna.open_folder(folder)


class Chunks(NamedTuple):
    """Boxes around candidates, row by row."""

    voxels: np.ndarray  # [n *width] int16 Hounsfield units, read from the disk as it is used
    candidates: Candidates
    is_held: np.ndarray  # [n] bool: to check on


def cut_chunks(config: Config, source: Luna, candidates: Candidates) -> Chunks:
    """Cut a box around every candidate out of its scan; each scan is read once, for all.

    They are kept on the disk in `config.cache`, so a second call reads no scan.
    """
    order = np.argsort(candidates.series, kind="stable")
    candidates = candidates.take(order)
    names, counts = np.unique(candidates.series, return_counts=True)
    width = "x".join(map(str, config.width))
    digest = digest_of(source, candidates)
    chunks = mapped.build(
        config.cache / f"chunks-{width}-{digest}.npy",
        dict(zip(names.tolist(), counts.tolist(), strict=True)),
        lambda name: _cut(source.scans[name], candidates, name, config.width),
        shape=config.width,
        dtype=np.int16,
        about=digest,
        leave_out=config.skip_unreadable,
    )
    for why in chunks.left_out.values():
        print(f"left out: {why}")
    if not chunks.left_out:
        return Chunks(chunks.array, candidates, held_back(candidates.series, config.stride))
    is_there = ~np.isin(candidates.series, list(chunks.left_out))
    there = candidates.take(is_there)
    return Chunks(chunks.array[is_there], there, held_back(there.series, config.stride))


def _cut(path: Path, candidates: Candidates, name: str, width) -> np.ndarray:
    """The boxes of one scan, `[candidates *width]` int16."""
    scan = luna.read_scan(path)
    centers = candidates.center[candidates.series == name]
    boxes = np.empty((len(centers), *width), np.int16)
    for row, center in enumerate(centers):
        try:
            boxes[row] = np.rint(scan.chunk(center, width)[0])
        except ValueError as error:
            raise BrokenFile(f"{path}: a candidate cannot be cut out: {error}") from error
    return boxes


def digest_of(source: Luna, candidates: Candidates) -> str:
    """Some letters that differ if scans or candidates differ, or a scan's file was changed."""
    digest = hashlib.sha256()
    for part in (candidates.center, candidates.diameter):
        digest.update(np.ascontiguousarray(part).tobytes())
    for name in np.unique(candidates.series).tolist():
        path = source.scans[name].resolve()
        for file in sorted(path.parent.glob(f"{path.stem}.*raw")) or [path]:
            about = file.stat()
            digest.update(f"{name} {file} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:10]
