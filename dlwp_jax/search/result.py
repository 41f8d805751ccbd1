"""The result of a sweep: every member's history, a table, the best model."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from dlwp_jax.diagnose import Diagnosis, diagnose
from dlwp_jax.search import members, text
from dlwp_jax.search.members import Make
from dlwp_jax.train import Learner, Run, TrainState

# Members that differ in nothing else are averaged: a good setting is good with any seed and on
# any part of the data.
REPEATS = ("key", "fold")
NOT_TRAINED = "not trained"  # the verdict on a member that Ctrl-C left without an epoch
MOST_ROWS = 40  # of a printed table


def deviation(values: np.ndarray) -> float:
    """Standard deviation (n - 1); NaN for a single value, and if a value is not finite.

    >>> deviation(np.array([1.0, 3.0])), deviation(np.array([1.0]))
    (1.4142135623730951, nan)
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.std(values, ddof=1))


@dataclasses.dataclass(frozen=True)
class Setting:
    """The members that differ only in their seed or fold.

    Attributes:
      values: their common values.
      members: their numbers in the sweep.
      mean, spread: mean and standard deviation (n - 1) of their best monitored values; the
        spread of one is NaN.
      history: the mean of their histories, up to the epoch in which the first of them ended.
    """

    values: dict[str, Any]
    members: tuple[int, ...]
    mean: float
    spread: float
    history: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The trainings of a sweep.

    Attributes:
      values: the settings, `name -> [members]`; with folds, `fold` is one of the names.
      run: a `train.Run` whose arrays all have a leading axis of members; histories are NaN
        after a member's end.
      monitor, mode: the name in the history by which members are compared, and whether it
        should be "min" or "max".
      how: "vmap" or "map".
      seconds, compile_seconds: how long it took, and how much of that went into compiling.
      make: as given, to build a member again.
      interrupted: whether Ctrl-C ended the sweep. Members that were not begun by then have no
        finished epoch.
    """

    values: dict[str, np.ndarray]
    run: Run
    monitor: str
    mode: Literal["min", "max"]
    how: str
    seconds: float
    compile_seconds: float
    make: Make = dataclasses.field(repr=False)
    interrupted: bool = False

    @functools.cached_property
    def history(self) -> dict[str, np.ndarray]:
        """`name -> [members epochs]`, NaN after a member's end."""
        return {name: np.asarray(values) for name, values in self.run.history.items()}

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The monitored value at each member's best epoch, `[members]`; NaN if no epoch was
        finished.
        """
        return self._monitored[np.arange(len(self._monitored)), self.best_index]

    @functools.cached_property
    def best_index(self) -> np.ndarray:
        """The index of each member's best epoch in its history, `[members]`; 0 if no epoch was
        finished.
        """
        empty = np.isnan(self._monitored).all(axis=1, keepdims=True)
        at_best = np.nanargmin if self.mode == "min" else np.nanargmax
        return at_best(np.where(empty, 0, self._monitored), axis=1)

    @functools.cached_property
    def _monitored(self) -> np.ndarray:
        """The monitored value after every epoch that was finished, `[members epochs]`; NaN
        elsewhere.
        """
        values, failed = self.history[self.monitor].copy(), np.asarray(self.run.failure)[:, 0]
        its = np.flatnonzero(failed)
        # The history has the mean over the first steps of an epoch that was not finished.
        values[its, failed[its] - 1] = np.nan
        return values

    @property
    def best(self) -> int:
        """The member with the best monitored value."""
        worst = np.inf if self.mode == "min" else -np.inf
        scores = np.where(np.isnan(self.scores), worst, self.scores)
        return int((np.argmin if self.mode == "min" else np.argmax)(scores))

    def __len__(self) -> int:
        return len(self.scores)

    def member(self, i: int | None = None) -> tuple[Learner, TrainState]:
        """The learner of a member (None: the best one) and its state after its best epoch, to
        evaluate or train on.
        """
        i = self._number(i)
        values = {
            name: column[i : i + 1] for name, column in self.values.items() if name != "fold"
        }
        learner, _ = self.make(
            **{name: column[0] for name, column in members.as_arguments(values).items()}
        )
        return learner, jax.tree.map(lambda a: a[i], self.run.best)

    def member_history(self, i: int | None = None) -> dict[str, np.ndarray]:
        """The history of one member (None: the best one), trimmed to its epochs."""
        columns = {name: values[self._number(i)] for name, values in self.history.items()}
        recorded = np.logical_or.reduce([~np.isnan(column) for column in columns.values()])
        length = int(np.flatnonzero(recorded)[-1]) + 1 if recorded.any() else 0
        return {name: column[:length] for name, column in columns.items()}

    def diagnose(self, i: int | None = None, *, baseline: Any = None) -> Diagnosis:
        """`diagnose` of member `i` (None: the best one), with its `baseline`."""
        i = self._number(i)
        columns = {name: values[i] for name, values in self.history.items()}
        failure = np.asarray(self.run.failure)[i]
        return diagnose(
            dataclasses.replace(self.run, history=columns, failure=failure), baseline=baseline
        )

    def settings(self, repeats: Sequence[str] = REPEATS) -> list[Setting]:
        """The settings: members that differ only in the `repeats` are taken together."""
        names = [name for name in self.values if name not in repeats]
        groups: dict[tuple, list[int]] = {}
        for i in range(len(self)):
            values = tuple(self.values[name][i].item() for name in names)
            groups.setdefault(values, []).append(i)
        return [
            self._setting(dict(zip(names, values, strict=True)), group)
            for values, group in groups.items()
        ]

    def best_setting(self, repeats: Sequence[str] = REPEATS) -> Setting:
        """The setting with the best mean; settings with a member that finished no epoch come
        last.
        """
        sign, settings = (1 if self.mode == "min" else -1), self.settings(repeats)
        return min(
            settings,
            key=lambda setting: np.inf if np.isnan(setting.mean) else sign * setting.mean,
        )

    def table(self) -> list[dict[str, Any]]:
        """One row for each member: its values, the monitored value at its best epoch, that
        epoch, the epochs trained, the verdict.
        """
        epochs, best = np.asarray(self.run.state.epoch), np.asarray(self.run.best.epoch)
        return [
            {name: column[i].item() for name, column in self.values.items()}
            | {
                self.monitor: float(self.scores[i]),
                "best epoch": int(best[i]),
                "epochs": int(epochs[i]),
            }
            | {"verdict": self.diagnose(i).verdict if self._is_judged(i) else NOT_TRAINED}
            for i in range(len(self))
        ]

    def __str__(self) -> str:
        """The settings, best first if there are many; one row for each member if nothing is
        repeated.
        """
        if not set(REPEATS) & set(self.values):
            rows, scores = self.table(), list(self.scores)
        else:
            settings = self.settings()
            rows, scores = (
                [self._row(setting) for setting in settings],
                [setting.mean for setting in settings],
            )
        if len(rows) > MOST_ROWS:
            sign = 1 if self.mode == "min" else -1
            order = np.argsort(
                [np.inf if np.isnan(score) else sign * score for score in scores]
            )[:MOST_ROWS]
            rows = [rows[i] for i in order] + [dict.fromkeys(rows[0], "...")]
        running = self.seconds - self.compile_seconds
        timing = f"{len(self)} trainings by {self.how}: {running:.1f} s, "
        timing += f"and {self.compile_seconds:.1f} s to compile"
        if self.interrupted:
            epochs = np.sum(~np.isnan(self.history[self.monitor]))
            timing += f"\ninterrupted: {epochs} of {self.history[self.monitor].size} epochs "
            timing += "were trained"
        return f"{text.table(rows)}\n{timing}"

    def _is_judged(self, i: int) -> bool:
        """Whether a member finished an epoch, or failed before; Ctrl-C may have come first."""
        has_values = any(np.any(~np.isnan(column[i])) for column in self.history.values())
        return has_values or bool(np.asarray(self.run.failure)[i, 0])

    def _row(self, setting: Setting) -> dict[str, Any]:
        best = np.asarray(self.run.best.epoch)[list(setting.members)]
        likeliest = Counter(
            self.diagnose(i).candidates[0] if self._is_judged(i) else NOT_TRAINED
            for i in setting.members
        )
        return setting.values | {
            self.monitor: text.spread(setting.mean, setting.spread),
            "n": len(setting.members),
            "best epoch": int(np.median(best)),
            "likeliest verdicts": ", ".join(
                f"{n} {name}" for name, n in likeliest.most_common()
            ),
        }

    def _setting(self, values: dict[str, Any], group: list[int]) -> Setting:
        scores = self.scores[group]
        mean = {name: column[group].mean(axis=0) for name, column in self.history.items()}
        finished = np.logical_and.reduce([~np.isnan(column) for column in mean.values()])
        length = len(finished) if finished.all() else int(np.argmin(finished))
        history = {name: column[:length] for name, column in mean.items()}
        return Setting(values, tuple(group), float(scores.mean()), deviation(scores), history)

    def _number(self, i: int | None) -> int:
        if i is None:
            return self.best
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of {len(self)}; they go from 0 to {len(self) - 1}.")
        return i % len(self)
