"""From the curves to figures, and from the figures to a verdict.

The rules are asked in this order, and the first that holds names the verdict:

1. diverged: a loss was not finite, or ends far above where it began.
2. too few epochs to tell.
3. not learning: the training loss did not fall, or by next to nothing.
4. overfitting: validation loss has risen from its best by more than noise, and by a share of its scale that matters.
   Where it never was better than the baseline: uninformative data.
5. not converged: it would still fall by a share that matters, were the training made as long again.
6. overfitting under control: training and validation end apart.
7. underfitting: they end together, and far above what can be reached (or leave much of the baseline unexplained).
8. good fit.
"""

from typing import Any

import numpy as np

from dlwp_jax.diagnose.curves import level, noise, slope, smooth, window
from dlwp_jax.diagnose.history import Curve, Curves

MIN_EPOCHS = 8  # fewer tell nothing about trends
SURE = 4.0  # standard errors beyond which a difference is no chance; a best value is chosen among many
BLOWN_UP = 2.0  # ends at so many times the loss it began with: diverged though finite
LEARNED = 0.05  # share of the starting loss by which training loss must have fallen
HARM = 0.10  # rise of validation loss from its best, as a share of its scale
FALLING = 0.10  # fall that is still to be expected, as a share of the scale
GAP = 0.25  # distance between validation and training at the end, as a share of the scale
UNEXPLAINED = 0.40  # share of the baseline that is left, above which a fit without a gap is too simple a model's
REACHABLE = 0.10  # the same, above what is known to be reachable
FLOOR = 0.05  # the scale is at least this share of the whole fall: 0.002 against 0.001 is no harm after 2.3


def measure(curves: Curves, baseline: float | None) -> dict[str, Any]:
    """The evidence in numbers.

    `scale` is the size that counts as 100 %: the validation loss at its best, for a loss that is never negative, but
    no more than the whole fall and no less than FLOOR of it; the whole fall for any other loss. It makes verdicts the
    same for loss and 1000 x loss, and for log-likelihoods.
    """
    guide, train, val = curves.guide, curves.train, curves.val
    values = smooth(guide.values)
    best = int(np.argmin(guide.values))
    evidence: dict[str, Any] = {
        "epochs": int(guide.epochs[-1]),
        "best_epoch": int(guide.epochs[best]),
        "epochs_since_best": int(guide.epochs[-1] - guide.epochs[best]),
    }
    start = max(curve.values[0] for curve in (train, val) if curve is not None)
    start = start if baseline is None else max(baseline, float(values.min()))
    whole = start - float(values.min())
    is_positive = all(curve is None or curve.values.min() >= 0 for curve in (train, val))
    scale = min(whole, max(float(values.min()), FLOOR * whole)) if is_positive else whole
    evidence |= {"start": float(start), "scale": float(scale)}
    for name, curve in (("train", train), ("val", val)):
        if curve is not None:
            evidence |= _figures(name, curve)
    evidence["rise"] = level(guide.values) - float(values.min())
    evidence["rise_error"] = _error(guide.values)
    evidence["still_to_fall"] = _still_to_fall(values)
    if train is not None and val is not None:
        evidence["gap"] = level(val.values) - level(train.values)
        evidence["gap_error"] = float(np.hypot(_error(val.values), _error(train.values)))
    return evidence


def _figures(name: str, curve: Curve) -> dict[str, float]:
    last = window(curve.values, 1 / 3)
    change, error = slope(curve.epochs[-last:], curve.values[-last:])
    return {
        f"{name}_first": float(curve.values[0]),
        f"{name}_last": level(curve.values),
        f"{name}_noise": noise(curve.values),
        f"{name}_slope": change,
        f"{name}_slope_error": error,
    }


def _error(values: np.ndarray) -> float:
    """Standard error of the level, a median (1.25 times that of a mean)."""
    return 1.25 * noise(values) / float(np.sqrt(window(values, 0.1)))


def _still_to_fall(values: np.ndarray) -> float:
    """The fall to be expected of as many epochs again.

    Losses fall like powers of the epoch, or faster: each doubling of the epochs brings at most the share of the last
    one's fall that the last one brought of the one before.
    """
    n = len(values)
    quarter, half, end = values[n // 4], values[n // 2], values[-1]
    before, last = quarter - half, half - end
    if last <= 0:
        return 0.0
    return float(last * min(1.0, last / before)) if before > 0 else float(last)


def decide(curves: Curves, evidence: dict[str, Any], baseline: float | None, reachable: float | None) -> str:
    """The verdict, by the rules above."""
    start, scale = evidence["start"], evidence["scale"]
    learner = "train" if curves.train is not None else "val"
    first, last = evidence[f"{learner}_first"], evidence[f"{learner}_last"]
    if last > 0 and first > 0 and last > BLOWN_UP * max(first, start):
        return "diverged"
    if evidence["epochs"] < MIN_EPOCHS:
        return "too few epochs to tell"
    begin = first if baseline is None else max(first, baseline)  # a resumed training has learned before
    if not begin - last > max(LEARNED * abs(begin), SURE * evidence[f"{learner}_noise"]):
        return "not learning"
    if evidence["rise"] > max(HARM * scale, SURE * evidence["rise_error"]):
        hopeless = baseline is not None and baseline - (evidence["val_last"] - evidence["rise"]) < LEARNED * baseline
        return "uninformative data" if hopeless else "overfitting"
    if evidence["still_to_fall"] > max(FALLING * scale, SURE * evidence["rise_error"]):
        return "not converged"
    gap = evidence.get("gap", 0.0)
    if gap > max(GAP * scale, SURE * evidence.get("gap_error", 0.0)):
        return "overfitting under control"
    end = level(curves.guide.values)
    floor, share = (0.0, UNEXPLAINED) if reachable is None else (reachable, REACHABLE)
    too_high = end - floor > share * (start - floor)
    return "underfitting" if too_high else "good fit"
