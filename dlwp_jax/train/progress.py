"""Progress of a training: a bar on a terminal, a few lines elsewhere."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Display(Protocol):
    """Shows how far training is."""

    def update(self, epochs: float, losses: Mapping[str, float]) -> None:
        """Show `epochs` finished (a fraction within an epoch) and the latest losses."""
        ...


@contextmanager
def display(total: int, *, shown: bool) -> Iterator[Display]:
    """A display for `total` epochs on standard error."""
    if not shown:
        yield _Nothing()
    elif not sys.stderr.isatty():
        yield _Lines(total)
    else:
        with _bar(total) as bar:
            yield bar


class _Nothing:
    def update(self, epochs: float, losses: Mapping[str, float]) -> None:
        pass


class _Lines:
    """At most twelve lines however long training takes, so that a log file stays readable."""

    def __init__(self, total: int):
        self.total, self.next, self.first = total, 1.0, None

    def update(self, epochs: float, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        self.first = self.first or (epochs, now)  # the time before it went into compiling
        if epochs < self.next:
            return
        self.next = self.total * (int(10 * epochs / self.total) + 1) / 10
        done, seconds = epochs - self.first[0], now - self.first[1]
        left = (
            f", {seconds * (self.total - epochs) / done:.1f} s left"
            if done and epochs < self.total
            else ""
        )
        told = "  ".join(f"{name} {value:.6g}" for name, value in losses.items())
        reached = (
            int(epochs) if self.total >= 10 else math.floor(10 * epochs) / 10
        )  # of few epochs, parts are shown
        print(
            f"epoch {reached:g}/{self.total}  {told}  {seconds:.1f} s{left}",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def _bar(total: int) -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs  {task.fields[losses]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=total, losses="compiling")

        class Bar:
            def update(self, epochs: float, losses: Mapping[str, float]) -> None:
                told = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
                progress.update(
                    task, completed=epochs if epochs < total else total, losses=told
                )

        yield Bar()
