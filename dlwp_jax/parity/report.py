"""What was compared, how far apart it was, and whether that is too far."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlwp_jax.parity.table import text_table


@dataclasses.dataclass(frozen=True)
class Row:
    """One array under both frameworks.

    Attributes:
      step: the training step, from 0 (None outside of training).
      stage: "weights", "forward", "gradient" or "update".
      leaf: the array's name.
      max_abs: the largest difference.
      max_rel: the same in units of torch's largest value in that array.
      ulp: the same in units of float32's (or float64's) spacing at that value.
      allowed: what max_abs may be.
      note: "below floor" if only the stage's floor lets the difference pass, "rounding" if
        float64 agrees, "not compared" for an array without a counterpart, "all nan" for one of
        torch's that holds nothing else.
    """

    step: int | None
    stage: str
    leaf: str
    max_abs: float
    max_rel: float
    ulp: float
    allowed: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed; that from or to a nan is not."""
        return bool(self.max_abs <= self.allowed)


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """The rows of a comparison, and notes on what was not compared; prints as a table."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return all(row.ok for row in self.rows)

    @property
    def first_difference(self) -> Row | None:
        """The first row that is too far apart."""
        return next((row for row in self.rows if not row.ok), None)

    def raise_if_different(self) -> "ParityReport":
        """Raise AssertionError with the first difference and the table; else return the report
        itself.
        """
        row = self.first_difference
        if row is not None:
            step = "" if row.step is None else f"step {row.step}, "
            far = f"{row.max_abs:.3g} where {row.allowed:.3g} is allowed"
            raise AssertionError(
                f"first difference: {step}{row.stage}, {row.leaf}: {row.note or far}\n{self}"
            )
        return self

    def __str__(self) -> str:
        steps = {row.step for row in self.rows}
        body = [
            (
                row.step,
                row.stage,
                row.leaf,
                f"{row.max_abs:.2e}",
                f"{row.max_rel:.2e}",
                f"{row.ulp:.3g}",
                _word(row),
            )
            for row in self.rows
        ]
        header = ("step", "stage", "leaf", "max abs", "max rel", "ulp", "")
        first = 1 if steps <= {None} else 0
        verdict = "all agree" if self.ok else f"{sum(not row.ok for row in self.rows)} differ"
        table = text_table(header[first:], [row[first:] for row in body])
        return "\n".join([table, f"{len(self.rows)} arrays, {verdict}", *self.notes])


def _word(row: Row) -> str:
    if row.ok:
        return row.note or "ok"
    return row.note.upper() or "DIFFERENT"


def rows_of(
    stage: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    tolerance: float,
    sizes: Mapping[str, float] | None = None,
    rounding: int = 0,
    step: int | None = None,
    floors: Mapping[str, float] | None = None,
) -> list[Row]:
    """Compare arrays of the same names.

    A difference may be `tolerance` times torch's largest value in the array. No gradient or
    update counts as smaller than a hundredth of the largest of its stage: the gradient of a
    bias ahead of a batch norm is zero but for rounding, and rounding is of the size of the
    numbers that cancelled. A row that passes only so is noted "below floor".

    Args:
      stage, step: what the rows are called.
      ours, theirs: name -> array; every name of torch's is wanted.
      tolerance: see above.
      sizes: what counts as the largest value of an array, where it is not that of torch's array
        itself.
      rounding: so many ulp of the largest value are allowed besides.
      floors: the least that counts as the largest value of these arrays, in place of that
        hundredth, which the stage "forward" does not have.
    """
    sizes = sizes or {name: largest(value) for name, value in theirs.items()}
    if floors is None and stage != "forward":
        floors = dict.fromkeys(theirs, max(sizes.values(), default=0.0) / 100)
    floors = floors or {}
    rows = []
    for name in theirs:
        row = _row(
            step, stage, name, ours[name], theirs[name], tolerance * sizes[name], rounding
        )
        more = max(floors.get(name, 0.0) - sizes[name], 0.0)
        raised = dataclasses.replace(row, allowed=row.allowed + tolerance * more)
        rows.append(
            dataclasses.replace(raised, note="below floor")
            if raised.ok and not row.ok
            else raised
        )
    return rows


def floors_of_means(statistics: Mapping[str, Any]) -> dict[str, float]:
    """The floors of running means: a hundredth of the same layer's standard deviation.

    A mean behind a batch norm is zero but for rounding.
    """
    floors = {}
    for name in statistics:
        variance = name.removesuffix("mean") + "var"
        if name.endswith("mean") and variance in statistics:
            floors[name] = float(np.sqrt(largest(statistics[variance]))) / 100
    return floors


def _row(
    step, stage: str, name: str, ours: Any, theirs: Any, allowed: float, rounding: int
) -> Row:
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape:
        raise ValueError(f"{stage} of {name} has shape {b.shape} in torch and {a.shape} here.")
    if b.size and b.dtype.kind == "f" and np.isnan(b).all():  # equal or not, it proves nothing
        nan = float("nan")
        return Row(step, stage, name, nan, nan, nan, allowed, "all nan")
    size, worst = largest(b), _distance(a, b)
    ulp = float(np.spacing(size if b.dtype == np.float64 else np.float32(size)))
    return Row(
        step,
        stage,
        name,
        worst,
        worst / size if size else worst,
        worst / ulp,
        allowed + rounding * ulp,
    )


def largest(value: Any) -> float:
    """The largest finite magnitude in an array, 0 in an empty one."""
    values = np.abs(np.asarray(value, np.float64))
    most = float(np.max(values, initial=0.0))
    if math.isfinite(most):  # nearly always: a mask takes longer than the maximum
        return most
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest |a - b|; equal infinities and nans in the same places are no distance, others
    an infinite one.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
    most = float(np.max(distance, initial=0.0))
    if math.isfinite(most):
        return most
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    distance = np.where(same, 0.0, distance)
    return float(np.max(np.where(np.isnan(distance), np.inf, distance), initial=0.0))
