"""A history, whatever its container, as two curves in which lower is better."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Metrics that rise as the fit gets better; every other name is taken for a loss.
RISING = (
    "accuracy",
    "acc",
    "auc",
    "f1",
    "precision",
    "recall",
    "iou",
    "dice",
    "r2",
    "psnr",
    "score",
)
INFINITE = 1e100  # beyond it squares overflow, and no loss is worth a difference
# Eval-mode loss on the training set: no dropout, running statistics. Preferred to train/loss
# where it is recorded.
EVAL_LOSS = "train/eval_loss"


@dataclass(frozen=True)
class Curve:
    """Finite values `[k]` that should fall, and their epochs `[k]`, counted from 1."""

    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Curves:
    """The curves of a history.

    Attributes:
      train, val: the curves of one quantity in training and validation, or None.
      names: their names in the history.
      failed_epoch: the epoch, counted from 1, whose loss was not finite; 0 if there was none.
      columns: the history without the NaN at its end, as float64.
      turn: (a, b): a curve is a + b x its column, so that lower is better.
    """

    train: Curve | None
    val: Curve | None
    names: tuple[str, ...]
    failed_epoch: int
    columns: dict[str, np.ndarray]
    turn: tuple[float, float]

    @property
    def is_positive(self) -> bool:
        """Whether the loss was never negative: then it is measured from zero."""
        return all(curve is None or curve.values.min() >= 0 for curve in (self.train, self.val))

    @property
    def guide(self) -> Curve:
        """The curve that judges the model: of validation if there is one, else of training."""
        curve = self.val if self.val is not None else self.train
        assert curve is not None
        return curve


def read(history: Any) -> Curves:
    """The curves of a history or a `Run`.

    Raises:
      TypeError, ValueError: if there is no column to judge.
    """
    columns = _columns(getattr(history, "history", history))
    failure = int(np.asarray(getattr(history, "failure", (0, 0)))[0])
    train, val = _choose(columns)
    names = tuple(name for name in (train, val) if name)
    length = _length([columns[name] for name in names])
    if not (length or failure):
        raise ValueError(
            f"history holds no value of {' or '.join(names)}, so there is nothing to judge."
        )
    columns = {name: values[:length] for name, values in columns.items()}
    failed_epoch = failure or (length if _lost(columns, train, val) else 0)
    turn = _turn([columns[name] for name in names], names[0])
    train_curve, val_curve = (
        None if name is None else _curve(columns[name], turn) for name in (train, val)
    )
    return Curves(train_curve, val_curve, names, failed_epoch, columns, turn)


def _columns(history: Any) -> dict[str, np.ndarray]:
    if not isinstance(history, Mapping):
        raise TypeError(
            "history must be a Run or its history, a dict such as {'train/loss': [...], "
            "'val/loss': [...]} with one "
            f"value per epoch; got a {type(history).__name__}."
        )
    columns = {}
    for name, values in history.items():
        try:
            column = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(
                f"history[{name!r}] must hold one number per epoch; got {_short(values)}."
            ) from None
        if column.ndim != 1:
            raise ValueError(
                f"history[{name!r}] must hold one number per epoch, shape [epochs]; got shape "
                f"{column.shape}."
                + " Diagnose the members of a vmapped training one by one."
                * (column.ndim == 2)
            )
        columns[str(name)] = np.where(
            np.abs(column) > INFINITE, np.copysign(np.inf, column), column
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(
            f"the columns of history must be equally long, one value per epoch; {told}."
        )
    return columns


def _choose(columns: dict[str, np.ndarray]) -> tuple[str | None, str | None]:
    """The training and validation columns' names: losses if there are any, else a metric."""
    train = EVAL_LOSS if EVAL_LOSS in columns else "train/loss"
    if train in columns or "val/loss" in columns:
        return (
            train if train in columns else None,
            "val/loss" if "val/loss" in columns else None,
        )
    metrics = {name.split("/", 1)[1] for name in columns if name.startswith(("train/", "val/"))}
    both = [m for m in metrics if f"train/{m}" in columns and f"val/{m}" in columns]
    for metric in sorted(both) + sorted(metrics):
        if _rises(metric) or "loss" in metric or "error" in metric:
            train, val = (
                name if name in columns else None
                for name in (f"train/{metric}", f"val/{metric}")
            )
            return train, val
    raise ValueError(
        "history must hold 'train/loss' or 'val/loss' (or an accuracy or error under such "
        f"names); it holds {', '.join(map(repr, columns)) or 'nothing'}."
    )


def _rises(metric: str) -> bool:
    return any(word in metric.lower().replace("-", "_").split("_") for word in RISING)


def _length(columns: list[np.ndarray]) -> int:
    """The number of epochs up to the last one with a value."""
    recorded = np.logical_or.reduce([~np.isnan(column) for column in columns])
    return int(np.flatnonzero(recorded)[-1]) + 1 if recorded.any() else 0


def _lost(columns: dict[str, np.ndarray], train: str | None, val: str | None) -> bool:
    """Whether a loss became infinite, or the last epoch was begun and not validated."""
    if any(np.isinf(columns[name]).any() for name in (train, val) if name):
        return True
    if train is None or val is None:
        return False
    unvalidated = np.isnan(columns[val])
    return bool(unvalidated[-1] and not unvalidated[:-1].any())


def _turn(columns: list[np.ndarray], name: str) -> tuple[float, float]:
    """`Curves.turn`: a loss stays, accuracy becomes its error rate, other metrics turn over."""
    if not _rises(name.split("/", 1)[1]):
        return 0.0, 1.0
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    if values.size and values.min() >= 0 and values.max() <= 1:
        return 1.0, -1.0
    return 0.0, -1.0


def _curve(column: np.ndarray, turn: tuple[float, float]) -> Curve | None:
    """The curve of a column, or None if it has no finite value."""
    finite = np.isfinite(column)
    if not finite.any():
        return None
    return Curve(np.flatnonzero(finite) + 1, turn[0] + turn[1] * column[finite])


def _short(values: Any) -> str:
    shown = repr(values)
    return shown if len(shown) <= 60 else f"a {type(values).__name__}"
