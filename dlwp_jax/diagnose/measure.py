"""From the curves to the evidence in numbers, which mean the same for loss and 1000 x loss."""

import numpy as np

from dlwp_jax.diagnose.curves import level, noise, slope, smooth, window
from dlwp_jax.diagnose.history import Curve, Curves

# The scale is at least this share of the first loss: after 2.3, from 0.001 to 0.002 is no rise.
FLOOR = 0.05


def measure(curves: Curves, trivial: float | None) -> dict[str, float]:
    """The evidence, in the unit of the loss and in epochs.

    "At the end" means the median of the last tenth. All figures of one curve are those of
    validation, or of training if there is no validation.

    Returns:
      - epochs, best_epoch, epochs_since_best.
      - start: the trivial loss if it is given, else the first loss.
      - lowest: the lowest loss.
      - scale: the loss that counts as 100 %. It is `lowest`, but at least FLOOR times `start`
        (times the lower of the two first losses, if the trivial loss is unknown). A loss that
        can be negative has no zero to measure from, and the scale is its whole fall.
      - {train,val}_{first,last,noise,slope,slope_error}: the value at the beginning and at the
        end, the standard deviation from epoch to epoch, the change per epoch over the last
        third and its standard error.
      - rise, rise_error: from the best value to the end, and its standard error.
      - train_since_best: the rise of training loss since the best epoch of validation.
      - last_fall, still_to_fall: the fall in the last quarter of the epochs, and the fall to
        expect from twice as many epochs.
      - val_fall: from the first value of validation to its lowest.
      - gap, gap_error: validation minus training at the end, and its standard error.
    """
    guide, train, val = curves.guide, curves.train, curves.val
    values = smooth(guide.values)
    lowest, best = float(values.min()), int(guide.epochs[np.argmin(guide.values)])
    firsts = [float(curve.values[0]) for curve in (train, val) if curve is not None]
    start = max(firsts) if trivial is None else max(trivial, lowest)
    # A first step that explodes in one of the two curves says nothing of the size of the loss.
    usual = min(firsts) if trivial is None else start
    evidence = {
        "epochs": int(guide.epochs[-1]),
        "best_epoch": best,
        "epochs_since_best": int(guide.epochs[-1]) - best,
        "start": start,
        "lowest": lowest,
        "scale": max(lowest, FLOOR * usual) if curves.is_positive else start - lowest,
    }
    for name, curve in (("train", train), ("val", val)):
        if curve is not None:
            evidence |= figures(name, curve)
    evidence["rise"], evidence["rise_error"] = (
        level(guide.values) - lowest,
        level_error(guide.values),
    )
    evidence["last_fall"], evidence["still_to_fall"] = falls(values)
    if train is not None and val is not None:
        then = np.searchsorted(train.epochs[:-1], guide.epochs[np.argmin(values)])
        evidence["train_since_best"] = level(train.values) - float(smooth(train.values)[then])
        evidence["val_fall"] = float(val.values[0] - val.values.min())
        evidence["gap"] = level(val.values) - level(train.values)
        evidence["gap_error"] = float(
            np.hypot(level_error(val.values), level_error(train.values))
        )
    return evidence


def figures(name: str, curve: Curve) -> dict[str, float]:
    """The figures of one curve, named as in `measure`."""
    last = window(curve.values, 1 / 3)
    change, error = slope(curve.epochs[-last:], curve.values[-last:])
    return {
        f"{name}_first": float(curve.values[0]),
        f"{name}_last": level(curve.values),
        f"{name}_noise": noise(curve.values),
        f"{name}_slope": change,
        f"{name}_slope_error": error,
    }


def level_error(values: np.ndarray) -> float:
    """Standard error of the level, a median (1.25 times that of a mean)."""
    return 1.25 * noise(values) / float(np.sqrt(window(values, 0.1)))


def falls(values: np.ndarray) -> tuple[float, float]:
    """The fall in the last quarter, and the fall to expect from twice as many epochs again.

    The falls of the last two quarters have some ratio, and the estimate lets the falls shrink
    by this ratio for eight more quarters.

    >>> [round(fall, 3) for fall in falls(np.array([15.0, 7.0, 3.0, 1.0, 0.0]))]
    [1.0, 0.996]
    """
    middle, late, end = (
        float(values[round(share * (len(values) - 1))]) for share in (0.5, 0.75, 1.0)
    )
    before, last = middle - late, late - end
    if last <= 0:
        return last, 0.0
    ratio = min(last / before, 0.99) if before > 0 else 0.99
    return last, last * ratio * (1 - ratio**8) / (1 - ratio)
