"""What can be measured on one curve: its noise, where it ends, how fast it still moves."""

import numpy as np

BLOCKS = 24  # a window is cut into at most so many blocks, whose medians a spike cannot move


def noise(values: np.ndarray) -> float:
    """Standard deviation of the jumps from epoch to epoch, by the median, so that neither trend
    nor spikes count.

    The second difference of white noise of deviation s has deviation sqrt(6) s.

    >>> round(noise(np.array([5.0, 4.0, 3.0, 2.0, 1.0])), 3)
    0.0
    """
    if len(values) < 4:
        return 0.0
    return float(1.4826 * np.median(np.abs(np.diff(values, n=2))) / np.sqrt(6))


def level(values: np.ndarray) -> float:
    """Where the curve ends: the median of its last tenth.

    >>> level(np.array([9.0, 2.0, 2.0, 2.0]))
    2.0
    """
    return float(np.median(values[-window(values, 0.1) :]))


def smooth(values: np.ndarray) -> np.ndarray:
    """Running median over a tenth of the epochs, `[k]` -> `[k]`; one-sided at the ends."""
    half = window(values, 0.1) // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def window(values: np.ndarray, share: float) -> int:
    """How many of the values make this share of the curve, at least one."""
    return max(1, round(share * len(values)))


def slope(epochs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Change per epoch, and its standard error.

    The median of the slopes between all pairs of block medians (Theil and Sen), whose error is
    that of least squares with the residuals' own spread and first autocorrelation: wandering
    curves have fewer independent values than epochs.

    >>> slope(np.arange(10.0), 3 - 0.5 * np.arange(10.0))
    (-0.5, 0.0)
    """
    if len(values) < 3:
        return 0.0, float("inf")
    blocks = np.array_split(np.arange(len(values)), min(BLOCKS, len(values)))
    x = np.array([np.median(epochs[block]) for block in blocks])
    y = np.array([np.median(values[block]) for block in blocks])
    i, j = np.triu_indices(len(x), k=1)
    change = float(np.median((y[j] - y[i]) / (x[j] - x[i])))
    residuals = y - change * x
    residuals -= np.median(residuals)
    total = float(residuals @ residuals)
    if total == 0:
        return change, 0.0
    correlation = float(np.clip(residuals[1:] @ residuals[:-1] / total, 0, 0.9))
    centred = x - x.mean()
    variance = total / max(len(x) - 2, 1) / float(centred @ centred)
    return change, float(np.sqrt(variance * (1 + correlation) / (1 - correlation)))
