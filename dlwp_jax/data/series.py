"""Time series: a regular clock first, then days as views of one storage (chapter 4.4)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from dlwp_jax import checks

if TYPE_CHECKING:
    from dlwp_jax.storage import StridedTensor

MOST_TICKS = 10**7  # of a clock: four months of seconds, a thousand years of hours


def missing_times(times: Any, step: Any) -> np.ndarray:
    """The times that a regular clock would have shown between the first and the last.

    Args:
      times: `[n]` `datetime64` (or anything NumPy reads as such), in order.
      step: the clock's step, a `timedelta64` or a pair such as `(1, "h")`.

    Returns:
      `[m]` `datetime64`, in order.

    Raises:
      ValueError: if times fall, repeat, or lie between two ticks.

    >>> missing_times(["2011-01-02T04", "2011-01-02T06"], (1, "h")).astype(str).tolist()
    ['2011-01-02T05']
    """
    times, step = _times(times), _step(step)
    if times.ndim != 1 or not len(times) or np.isnat(times).any():
        raise ValueError(
            f"times of shape {times.shape} must be one-dimensional, not empty and without NaT."
        )
    gaps = np.diff(times)
    if not (rises := gaps.astype(np.int64) > 0).all():
        i = int(np.argmin(rises))
        raise ValueError(f"times must increase; {times[i]} is followed by {times[i + 1]}.")
    try:
        count = int((times[-1] - times[0]).astype("m8[s]").astype(int)) / max(
            step.astype("m8[s]").astype(int), 1e-9
        )
        if count > MOST_TICKS:
            raise ValueError(
                f"times from {times[0]} to {times[-1]} have more than {MOST_TICKS} steps of "
                f"{step}."
            )
        ticks = np.arange(times[0], times[-1] + step, step)
    except TypeError as error:  # days do not divide a month
        raise ValueError(
            f"times in {times.dtype} cannot be counted in steps of {step}: {error}."
        ) from error
    if not (on_tick := np.isin(times, ticks)).all():
        raise ValueError(
            f"times must be steps of {step} apart from {times[0]}; {times[np.argmin(on_tick)]} "
            "is not."
        )
    return np.setdiff1d(ticks, times)


def check_regular(times: Any, step: Any) -> None:
    """Refuse a time axis with gaps, and say which times are missing.

    The original bike-sharing table lacks hours; a reshape to days would silently shift all that
    follow. (The book's repaired table still lacks 24 in a row, from 2012-10-29T13 on: its 730
    rows of a day stand for 731 days.)

    Raises:
      ValueError: naming how many are missing, and the first of them; else as `missing_times`.

    >>> check_regular(["2011-01-01T00", "2011-01-01T01"], (1, "h"))
    >>> check_regular(["2011-01-01T00", "2011-01-01T02"], (1, "h"))
    Traceback (most recent call last):
    ValueError: times lack 1 of 3 steps of 1 hours: 2011-01-01T01.
    """
    missing = missing_times(times, step)
    if len(missing):
        first = ", ".join(str(time) for time in missing[:5]) + (
            ", ..." if len(missing) > 5 else ""
        )
        total = len(missing) + len(times)
        raise ValueError(
            f"times lack {len(missing)} of {total} steps of {_step(step)}: {first}."
        )


def _step(step: Any) -> np.timedelta64:
    if not isinstance(step, np.timedelta64):
        if not (isinstance(step, tuple | list) and len(step) == 2 and isinstance(step[1], str)):
            raise TypeError(
                "step must be a timedelta64, or a pair such as (1, 'h'); got "
                f"{checks.describe(step)}."
            )
        try:
            step = np.timedelta64(checks.whole(step[0], "step"), step[1])
        except TypeError as error:
            raise ValueError(f"step={step!r} is no span of time: {error}.") from error
    if step.dtype == "m8":
        raise ValueError(f"step={step!r} has no unit; give a pair such as (1, 'h').")
    if not step.astype(np.int64) > 0:  # NaT is the least of all
        raise ValueError(f"step={step} must be positive.")
    return step


def _times(times: Any) -> np.ndarray:
    times = np.asarray(checks.names_of(times, "times"))
    if times.dtype.kind not in "MU":
        raise TypeError(
            f"times must be datetime64, or dates as text; got {checks.describe(times)}."
        )
    try:
        return times.astype("datetime64")
    except ValueError as error:
        raise ValueError(f"times must be dates as ISO 8601 writes them: {error}.") from error


def days(x: Any, *, hours: int = 24) -> "StridedTensor":
    """A table of hours as days x channels x hours: views of one storage (chapter 4.4.2).

    The table is copied into a storage once; after that only size and stride change, from (17,
    1) to (408, 17, 1) by `view` and to (408, 1, 17) by `transpose`: N x C x L, as a convolution
    over time wants it.

    Args:
      x: `[hours_in_all channels]`, whole days (see `check_regular` first).
      hours: steps of a day.

    Returns:
      A `StridedTensor` `[days channels hours]` over that storage; `.to_array()` makes it a
      plain array.

    >>> daily = days(np.zeros((48, 17), np.float32))
    >>> daily.shape, daily.stride()
    ((2, 17, 24), (408, 1, 17))
    """
    from dlwp_jax import storage

    hours = checks.whole(hours, "hours", 1)
    x = checks.on_host(x, "x")
    shape = x.shape
    if len(shape) != 2 or not shape[0] or shape[0] % hours:
        raise ValueError(
            f"x has shape {shape}; [steps channels] is needed with steps a multiple of "
            f"hours={hours}."
        )
    return storage.tensor(x).view(-1, hours, shape[1]).transpose(1, 2)


def ordinal_one_hot(levels: Any, *, low: int, high: int) -> np.ndarray:
    """Ordered levels such as the weather (1 good ... 4 very bad) to one-hot columns (chapter
    4.4.3).

    Args:
      levels: `[...]` whole numbers in low .. high.
      low: the lowest level, column 0.
      high: the highest level, the last column; given, because one day need not show all.

    Returns:
      `[... high - low + 1]` float32.

    >>> ordinal_one_hot([1, 1, 2], low=1, high=4).astype(int).tolist()
    [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    """
    from dlwp_jax.data.table import one_hot

    levels = checks.real_on_host(levels, "levels")
    low, high = checks.whole(low, "low", -(2**31)), checks.whole(high, "high", low)
    if levels.dtype.kind == "u":  # levels - low must not wrap round
        levels = levels.astype(np.float64)
    if levels.size and not (low <= levels.min() and levels.max() <= high):
        raise ValueError(
            f"levels go from {levels.min()} to {levels.max()}, not within low={low} to "
            f"high={high}."
        )
    return one_hot(levels - low, high - low + 1)
