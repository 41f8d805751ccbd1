"""What a program does whose output nobody reads."""

import contextlib
import os
import sys
from collections.abc import Iterator

CLOSED = 141  # 128 + SIGPIPE: what a shell says of a program that the signal has ended


@contextlib.contextmanager
def output() -> Iterator[None]:
    """End the program in silence, with status 141, where the reader of its output has gone:
    `... | head -1`.

    So end programs that know nothing of it, by the signal SIGPIPE. Python ignores that signal,
    and so it must stay: it would come of a broken connection to another process, too.

    >>> with output():
    ...     print("read")
    read
    """
    streams = [
        stream for stream in (sys.stdout, sys.stderr) if stream
    ]  # None where it was closed before the start
    try:
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()  # now, not when Python has ended and can only complain
    except BrokenPipeError:
        for stream in streams:
            try:
                stream.flush()
            except BrokenPipeError:  # whatever is left in it goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(CLOSED)
