"""Ctrl-C and SIGTERM, collected and looked at between chunks of training."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dlwp_jax.devices import processes as hosts


class Signals:
    """Signals that came.

    Attributes:
      here: to this process.
      anywhere: to any of the processes, as far as all of them know.
    """

    def __init__(self):
        self.here: list[int] = []
        self.anywhere: set[int] = set()

    def share(self) -> None:
        """Let all processes know."""
        for numbers in hosts.agree("signals", self.here):
            self.anywhere.update(numbers)


@contextmanager
def collected(*numbers: int) -> Iterator[Signals]:
    """Collect these signals; a second Ctrl-C raises KeyboardInterrupt.

    A chunk gives away the buffers of the one before, so an exception in its midst would leave
    nothing to return or to save. SIGTERM is passed on at the end, even if that is an exception,
    to the process that got it; of many processes all end by it alike.

    Outside of the main thread Python delivers no signals, and nothing is changed.
    """
    signals = Signals()

    def handler(number, _frame):
        if number == signal.SIGINT and number in signals.here:
            raise KeyboardInterrupt
        signals.here.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            old = signal.getsignal(number)
            # A handler that is not Python's, or a process that ignores the signal, stays.
            if old not in (None, signal.SIG_IGN):
                before[number] = old
    for number in before:
        signal.signal(number, handler)
    try:
        yield signals
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        if signal.SIGTERM in signals.anywhere:
            hosts.part_company()
        if signal.SIGTERM in signals.anywhere or signal.SIGTERM in signals.here:
            signal.raise_signal(signal.SIGTERM)
