"""The end of a program whose output nobody reads any more."""

import contextlib
import os
import sys
from collections.abc import Iterator

CLOSED = 141  # 128 + SIGPIPE: the status that a shell gives to a program ended by this signal


@contextlib.contextmanager
def output() -> Iterator[None]:
    """End the program without a message, with status 141, if the reader of its output has
    ended, as in `... | head -1`.

    The signal SIGPIPE ends other programs like this. Python ignores the signal, and should: a
    broken connection to another process sends it, too.

    >>> with output():
    ...     print("read")
    read
    """
    # A stream that was closed before the start of the program is None.
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream]
    try:
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()  # at the end of Python it is too late to handle the error
    except BrokenPipeError:
        for stream in streams:
            try:
                stream.flush()
            except BrokenPipeError:  # the rest of the output is dropped
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(CLOSED)
