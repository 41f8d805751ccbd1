"""Timing side by side: every form once a round, the rounds interleaved, medians and their
ratios.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# Threads of the form before, torch's or XLA's, look out for more work for some milliseconds;
# without a pause a form of 16 ms took 23.
PAUSE = 0.02


class Rounds:
    """How often every form is timed, at most. `scripts/bench check` makes it 3."""

    most = 1000


def interleaved(
    forms: Mapping[str, Callable[[], Any]], *, rounds: int = 15, inner: int = 1
) -> dict[str, float]:
    """Median seconds of one call of each form.

    Args:
      forms: name -> a call without arguments that waits for its own result
        (`jax.block_until_ready`).
      rounds: how often every form is timed; the order within a round is shuffled.
      inner: calls inside one timing, for work far shorter than the clock's grain.

    Each form is called once, untimed, before the first round: compilation is not in these
    figures.
    """
    for form in forms.values():
        form()
    samples: dict[str, list[float]] = {name: [] for name in forms}
    order, shuffle = list(forms), random.Random(0).shuffle
    for _ in range(min(rounds, Rounds.most)):
        shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(inner):
                forms[name]()
            samples[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(times) for name, times in samples.items()}


def first_call(form: Callable[[], Any]) -> float:
    """Seconds of the first call, compilation included."""
    start = time.perf_counter()
    form()
    return time.perf_counter() - start


def beside_the_book(work: str, times: Mapping[str, float]) -> dict[str, str]:
    """A row of a table: the seconds of "ours" and of "torch", and their ratio."""
    return {
        "work": work,
        "ours": readable(times["ours"]),
        "the book's torch": readable(times["torch"]),
        "ratio": f"{times['ours'] / times['torch']:.2f}",
    }


def readable(seconds: float) -> str:
    """A duration in the unit that shows three figures."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
