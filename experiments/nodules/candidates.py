"""Chapter 10's tables: places that may be nodules, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlwp_jax.data import BrokenFile, table

Columns = Mapping[str, np.ndarray]  # name of a column -> [rows]
CENTER = ("coordX", "coordY", "coordZ")


class Candidates(NamedTuple):
    """One row for each place; all arrays have the same first axis."""

    series: np.ndarray  # [n] str, the name of the scan
    center: np.ndarray  # [n 3] x, y, z in millimetres
    diameter: np.ndarray  # [n] millimetres, 0 if nobody measured it
    is_nodule: np.ndarray  # [n] bool
    is_malignant: np.ndarray  # [n] bool, False if nobody judged it

    def take(self, rows) -> Candidates:
        """Some of the rows: row numbers or a mask."""
        return Candidates(*(column[rows] for column in self))

    def sorted(self) -> Candidates:
        """In the book's order: nodules first, the largest of them first."""
        x, y, z = self.center.T
        keys = (z, y, x, self.series, self.diameter, self.is_malignant, self.is_nodule)
        return self.take(np.lexsort(keys)[::-1])


def read(path: Path, *columns: str) -> Columns:
    """A table of LUNA's, with `seriesuid`, a centre and other columns of numbers.

    Raises:
      BrokenFile: if a column is missing, or is no column of numbers.
    """
    converters = {"seriesuid": str, "mal_bool": _truth}
    with path.open(encoding="utf-8") as file:
        header = [name.strip() for name in file.readline().split(",")]
    wanted = ("seriesuid", *CENTER, *columns)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise BrokenFile(
            f"{path} has no column {', '.join(missing)}; its header is "
            f"{', '.join(header) or 'empty'}."
        )
    found = table.read_columns(
        path, converters={name: f for name, f in converters.items() if name in header}
    )
    for name in wanted[1:]:
        if found[name].dtype.kind == "U":
            raise BrokenFile(f"{path}: column {name} holds words where numbers are needed.")
    return found


def _truth(word: str) -> bool:
    if word not in ("True", "False"):
        raise ValueError(f"{word!r} is neither True nor False")
    return word == "True"


def centers(columns: Columns) -> np.ndarray:
    """`[n 3]` x, y, z in millimetres."""
    return np.stack([columns[name] for name in CENTER], axis=1).astype(np.float64)


def join(candidates: Columns, annotations: Columns) -> Candidates:
    """Give each candidate the diameter of the nodule that it names (chapter 10).

    The two tables give slightly different centres. An annotation fits a candidate if the
    centres differ by at most a quarter of the diameter on every axis; of several the nearest is
    taken. (The book takes the first. In LUNA16 never more than one fits.)
    """
    places, known = centers(candidates), centers(annotations)
    diameter = np.zeros(len(places))
    rows_of = _rows_by_name(annotations["seriesuid"])
    for series, rows in _rows_by_name(candidates["seriesuid"]).items():
        if series not in rows_of:
            continue
        there = rows_of[series]
        size = annotations["diameter_mm"][there]
        offset = np.abs(places[rows, None] - known[there])  # [candidates annotations 3]
        fits = (offset <= size[:, None] / 4).all(axis=-1)
        distance = np.where(fits, np.square(offset).sum(axis=-1), np.inf)
        nearest = distance.argmin(axis=1)
        is_known = np.isfinite(distance.min(axis=1))
        diameter[rows] = np.where(is_known, size[nearest], 0.0)
    is_nodule = candidates["class"] == 1
    unknown = np.zeros(len(places), bool)
    return Candidates(
        candidates["seriesuid"], places, diameter, is_nodule, is_malignant=unknown
    ).sorted()


def with_malignancy(candidates: Columns, judged: Columns) -> Candidates:
    """The nodules of `annotations_with_malignancy.csv`, and all candidates that are none
    (chapters 13 and 14).
    """
    nodules = Candidates(
        judged["seriesuid"],
        centers(judged),
        judged["diameter_mm"].astype(np.float64),
        np.ones(len(judged["seriesuid"]), bool),
        judged["mal_bool"],
    )
    false = candidates["class"] != 1
    n = int(false.sum())
    others = Candidates(
        candidates["seriesuid"][false],
        centers(candidates)[false],
        np.zeros(n),
        np.zeros(n, bool),
        np.zeros(n, bool),
    )
    pairs = zip(nodules, others, strict=True)
    return Candidates(*(np.concatenate(pair) for pair in pairs)).sorted()


def held_back(series: np.ndarray, stride: int = 10) -> np.ndarray:
    """`[n]` bool: the rows to check on, all of every tenth scan in the order of their names.

    Chapter 14 splits by scan; chapters 11 and 12 split by candidate, so one scan can be on both
    sides there.
    """
    names = np.unique(series)
    return np.isin(series, names[::stride])


def _rows_by_name(names: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> its row numbers."""
    order = np.argsort(names, kind="stable")
    found, first = np.unique(names[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))
