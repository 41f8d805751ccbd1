"""What may come of a call: the right result, or an error that a user can act on.

An error of NumPy, JAX or Pillow is as good as one of ours. A fault is a wrong result, a hang,
an error without a sentence, and one that speaks of Python's or XLA's inside.
"""

import collections
import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# They tell of a mistake in our code, never of one in the arguments.
INSIDE = (NameError, AssertionError, RecursionError, SystemError, NotImplementedError)
SECONDS = 600  # a call that takes longer hangs, on a machine however busy
BYTES = 32 * 2**30  # of addresses, beyond what the process has already

counts: collections.Counter[tuple[str, str]] = collections.Counter()


class Fault(AssertionError):
    """Neither right nor refused by an error that a user can act on."""


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` on the way holds it back."""


def outcome(name: str, call: Callable[[], Any]) -> tuple[str, Any]:
    """`("value", result)` or `("error", exception)`; raises a Fault for an error that is no
    use.
    """
    try:
        with _limits():
            return "value", call()
    except Hang:
        raise Fault(f"{name} took more than {SECONDS} s") from None
    except Exception as error:
        if isinstance(error, INSIDE) or not str(error) or "INTERNAL" in str(error):
            raise Fault(f"{name}: {type(error).__name__}: {error}") from error
        return "error", error


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """A clock and a bound on memory: a hang or a runaway allocation is an exception, not a dead
    machine.
    """

    def late(_number, _frame):
        raise Hang

    page = resource.getpagesize()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * page
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
