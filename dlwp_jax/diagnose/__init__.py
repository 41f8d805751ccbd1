"""Reading a training history (chapters 5 and 8): verdict, evidence, advice.

result = train.fit(learner, state, train_set, val_set, epochs=200, batch_size=32)
print(diagnose(result))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlwp_jax.checks import real
from dlwp_jax.diagnose.advice import ADVICE, deciding
from dlwp_jax.diagnose.history import read
from dlwp_jax.diagnose.measure import measure
from dlwp_jax.diagnose.signs import signs
from dlwp_jax.diagnose.verdict import choose, weigh

__all__ = ["VERDICTS", "Diagnosis", "diagnose", "known_losses"]
VERDICTS = tuple(ADVICE)


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
      verdict: one of `VERDICTS` if only one is possible, else the candidates in words, such as
        "underfitting or good fit".
      evidence: the figures behind the verdict, by name, in the units of the loss and in epochs
        (`measure.py` explains each). `margin`, from 0 to 1, is the weight of the first
        candidate minus that of the second.
      advice: steps to try, the most useful first. If there are several candidates, it begins
        with the steps that would decide between them.
      candidates: the verdicts that are possible, one to three of `VERDICTS`, the likeliest
        first.
      decides: if there are several, the calls that would decide, as code with the names of
        `result = train.run(learner, state, train_set, val_set, ...)`.
    """

    verdict: str
    evidence: dict[str, Any]
    advice: tuple[str, ...]
    candidates: tuple[str, ...] = ()
    decides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.candidates:
            object.__setattr__(self, "candidates", (self.verdict,))

    def __str__(self) -> str:
        return "\n".join([self.verdict, self._figures(), self.advice[0], *self.decides[:1]])

    def _figures(self) -> str:
        """The evidence in a line."""
        e = self.evidence
        figures = [
            f"{kind} {e[f'{kind}_last']:.4g}"
            for kind in ("train", "val")
            if f"{kind}_last" in e
        ]
        if "best_epoch" in e:
            figures.append(f"best epoch {e['best_epoch']} of {e['epochs']}")
        if "failed_epoch" in e:
            figures.append(f"not finite in epoch {e['failed_epoch']}")
        return ", ".join(figures)


def diagnose(history: Any, *, baseline: float | Mapping[str, float] | None = None) -> Diagnosis:
    """Judge a training history: a verdict, its evidence, and advice.

    If the history allows more than one verdict, the result names the two or three candidates
    and the call that would decide between them.

    Args:
      history: a `Run`, or its history: `{"train/loss": [epochs], "val/loss": [epochs], ...}` as
        arrays or lists. NaN at the end means that training stopped early. If there are no
        losses, an accuracy is judged by its error rate. If there is a `train/eval_loss`, it
        takes the place of `train/loss`.
      baseline: the loss of a predictor that does not look at its input (the training targets'
        variance for a squared error, their entropy for a cross entropy); for an accuracy, that
        of always naming the most frequent class. It separates data without information from a
        model that is too simple. `{"trivial": ..., "reachable": ...}` also gives a loss that is
        known to be possible (the noise of the targets, or the loss of a larger model); it
        separates underfitting from a good fit to noisy data.

    Returns:
      A `Diagnosis`.

    Raises:
      TypeError, ValueError: if `history` is no history, or has no column to judge.

    >>> import numpy as np
    >>> epochs = np.arange(1, 101)
    >>> falling = 0.2 + 2 * np.exp(-epochs / 10)
    >>> diagnose({"train/loss": falling, "val/loss": falling + 0.002 * epochs}).verdict
    'overfitting'
    """
    curves = read(history)
    trivial, reachable = (
        None if loss is None else curves.turn[0] + curves.turn[1] * loss
        for loss in known_losses(baseline)
    )
    if curves.failed_epoch:
        weights, evidence = {"diverged": 1.0}, {"failed_epoch": curves.failed_epoch}
    else:
        evidence = measure(curves, trivial)
        weights = weigh(curves, evidence, trivial, reachable)
        ahead = (sorted(weights.values(), reverse=True) + [0.0])[:2]
        evidence["margin"] = ahead[0] - ahead[1]
    candidates = choose(weights)
    likeliest = verdict = candidates[0]
    sentences, decides = (), ()
    if len(candidates) > 1:
        verdict = f"{', '.join(candidates[:-1])} or {candidates[-1]}"
        known = {"trivial": trivial, "reachable": reachable}
        unknown = {name for name, loss in known.items() if loss is None}
        sentences, decides = deciding(candidates, unknown, int(evidence["epochs"]))
    more, explained = signs(curves.columns, likeliest)
    advice = (*sentences, *explained, *ADVICE[likeliest])
    return Diagnosis(verdict, evidence | more, advice, candidates, decides)


def known_losses(value: Any) -> tuple[float | None, float | None]:
    """The loss of the trivial predictor, and the reachable one."""
    parts = value if isinstance(value, Mapping) else {"trivial": value}
    if unknown := [name for name in parts if name not in ("trivial", "reachable")]:
        raise ValueError(
            f"baseline may hold 'trivial' and 'reachable'; got {', '.join(map(repr, unknown))}."
        )
    known = {}
    for name, part in parts.items():
        if part is not None:
            known[name] = real(part, f"baseline[{name!r}]")
    return known.get("trivial"), known.get("reachable")
