"""What may come of a call: the right result, or one of our own clear errors. Anything else is a
fault.

An error is our own where its type is one that our docstrings name, and the statement that
raised it is a `raise` in dlwp_jax (not a library that choked further down, nor Python inside
one of our lines); it is clear where its message is one line that names an argument. A file that
is not there may be told by Python, which names it; a request for more memory than there is, by
NumPy, which names the shape.
"""

import ast
import collections
import contextlib
import functools
import re
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dlwp_jax

HOME = Path(dlwp_jax.__file__).parent
OURS = (
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    RuntimeError,
    OverflowError,
    AttributeError,
    OSError,
)
SECONDS = 600  # a call that takes longer hangs, on a machine however busy
BYTES = 32 * 2**30  # of addresses, beyond what the process has already

counts: collections.Counter[tuple[str, str]] = collections.Counter()


class Fault(AssertionError):
    """Neither right nor refused by a clear sentence."""


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` on the way holds it back."""


def outcome(name: str, words: tuple[str, ...], call: Callable[[], Any]) -> tuple[str, Any]:
    """`("value", result)` or `("error", exception)`; raises a Fault where the exception is none
    of our own.
    """
    try:
        with _limits():
            return "value", call()
    except Hang:
        raise Fault(f"{name} took more than {SECONDS} s") from None
    except Exception as error:
        if complaint := complaint_about(error, words):
            raise Fault(f"{name}: {complaint}: {type(error).__name__}: {error}") from error
        return "error", error


def complaint_about(error: Exception, words: tuple[str, ...]) -> str | None:
    """Why an exception is not one of our own clear errors; None where it is."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return None
    frames = traceback.extract_tb(error.__traceback__)
    if any(
        frame.name == "squared" or frame.filename.endswith("tests/models.py")
        for frame in frames
    ):
        return None  # the caller's own loss or model does not take these data, and says so
    if isinstance(error, MemoryError):
        return None if "Unable to allocate" in text else "a bare MemoryError"
    if not isinstance(error, OURS):
        return "of a type that nothing announces"
    last = frames[-1]
    if not Path(last.filename).is_relative_to(HOME):
        return f"raised in {last.filename}:{last.lineno}, not by us"
    if last.lineno not in _raising_lines(last.filename):
        return f"happened in {Path(last.filename).name}:{last.lineno}, which does not raise it"
    if "\n" in text or not 15 <= len(text) <= 700:
        return "not one clear sentence"
    if not any(
        re.search(rf"(?<![a-z]){re.escape(word)}", text, re.IGNORECASE) for word in words
    ):
        return f"names none of {', '.join(words)}"
    return None


@functools.cache
def _raising_lines(path: str) -> frozenset[int]:
    """The lines of a file's `raise` statements."""
    nodes = [
        node
        for node in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(node, ast.Raise)
    ]
    return frozenset(
        line
        for node in nodes
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


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
