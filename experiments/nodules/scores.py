"""Chapter 14: findings compared with the truth, by a table and by a curve.

A finding is a place in millimetres with a probability. It counts for a nodule if the distance
from the nodule's centre is a small enough part of the nodule's diameter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BOOKS_REACH = 0.7  # diameters, of the book's confusion table
LUNAS_REACH = 0.5  # diameters, of the LUNA16 challenge
LUNAS_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a scan
TRUTHS = ("no nodule", "benign", "malignant")
OUTCOMES = ("not found", "filtered out", "called benign", "called malignant")


def hits(found: np.ndarray, centers: np.ndarray, diameters: np.ndarray, reach: float):
    """Which findings count for which nodules: those nearer than `reach` diameters.

    Args:
      found: `[findings 3]` millimetres.
      centers: `[nodules 3]` millimetres.
      diameters: `[nodules]` millimetres.
      reach: in diameters.

    Returns:
      `[nodules findings]` bool.

    >>> hits([(0, 0, 4)], [(0, 0, 0), (0, 0, 9)], [6, 6], 0.7).tolist()
    [[True], [False]]
    """
    found, centers = np.reshape(found, (-1, 3)), np.reshape(centers, (-1, 3))
    distance = np.linalg.norm(centers[:, None] - found[None], axis=-1)
    return distance / np.reshape(diameters, (-1, 1)) < reach


def confusion(
    touching: np.ndarray,
    probability: np.ndarray,
    malignancy: np.ndarray,
    is_malignant: np.ndarray,
    *,
    threshold: float = 0.5,
) -> np.ndarray:
    """The table of chapter 14: what became of benign and of malignant nodules, and of the rest.

    A nodule that several findings count for takes the most serious outcome. A finding may
    count for several nodules; one that counts for none is in the first row.

    Args:
      touching: `[nodules findings]`, from `hits`.
      probability: `[findings]`, of being a nodule; below the threshold one is filtered out.
      malignancy: `[findings]`, of being malignant; the same threshold holds.
      is_malignant: `[nodules]` bool.

    Returns:
      `[3 4]` counts: rows are TRUTHS, columns OUTCOMES.

    >>> confusion(np.array([[True, False]]), [0.9, 0.8], [0.1, 0.7], [True]).tolist()
    [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    """
    called = np.where(np.asarray(malignancy) < threshold, 2, 3)
    outcome = np.where(np.asarray(probability) < threshold, 1, called)
    table = np.zeros((len(TRUTHS), len(OUTCOMES)), int)
    np.add.at(table[0], outcome[~touching.any(axis=0)], 1)
    most_serious = np.where(touching, outcome, 0).max(axis=1, initial=0)
    np.add.at(table, (np.where(is_malignant, 2, 1), most_serious), 1)
    return table


class Froc(NamedTuple):
    """A free-response curve: a point for each threshold, from strict to lenient."""

    false_positives: np.ndarray  # a scan
    sensitivity: np.ndarray

    def at(self, rates: Sequence[float] = LUNAS_RATES) -> np.ndarray:
        """The sensitivity at these numbers of false positives a scan, linear between points."""
        return np.interp(rates, self.false_positives, self.sensitivity)

    @property
    def score(self) -> float:
        """The mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan, as the
        LUNA16 challenge has it.
        """
        return float(self.at().mean())


def froc(scans: Sequence[tuple[np.ndarray, np.ndarray]]) -> Froc:
    """The free-response operating characteristic of findings in several scans.

    Of the findings that count for a nodule the most probable one finds it, and the others are
    left out, neither right nor wrong. A finding that counts for none is a false positive.

    Args:
      scans: for each scan `[nodules findings]` from `hits` (the challenge's reach is half a
        diameter), and the findings' probabilities.

    Raises:
      ValueError: if no scan holds a nodule.

    >>> one_scan = np.array([[True, False, False]]), np.array([0.8, 0.9, 0.1])
    >>> curve = froc([one_scan])
    >>> curve.false_positives.tolist(), curve.sensitivity.tolist()
    ([0.0, 1.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0])
    """
    right, wrong, nodules = [], [], 0
    for touching, probability in scans:
        probability = np.asarray(probability, float)
        nodules += len(touching)
        wrong.extend(probability[~touching.any(axis=0)])
        for row in touching[touching.any(axis=1)]:
            right.append(probability[row].max())
    if not nodules:
        raise ValueError("no scan holds a nodule, so there is no sensitivity.")
    thresholds = np.unique([*right, *wrong])[::-1]
    found = (np.array(right) >= thresholds[:, None]).sum(axis=1)
    alarms = (np.array(wrong) >= thresholds[:, None]).sum(axis=1)
    start = [0.0]
    return Froc(
        np.concatenate([start, alarms / len(scans)]),
        np.concatenate([start, found / nodules]),
    )
