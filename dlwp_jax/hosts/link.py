"""What binds them as long as they live: agreements, and word of who is gone."""

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from dlwp_jax.hosts.meeting import Wire

BYE = "the end"


class Link:
    """The connections of this process: of number 0 to all others, of any other to number 0."""

    def __init__(self, index: int, count: int, wires: dict[int, Wire], who: list[str]):
        self.index, self.count, self.wires, self.who = index, count, wires, who
        self.inbox = {i: queue.SimpleQueue() for i in wires}
        self.me, self.is_leaving = who[index], False
        self.depth, self.sections = (
            0,
            0,
        )  # of `together`: how deep inside, and how many were begun
        self.gone_home: tuple[int, int] | None = None  # who has come to its end, after how many
        self.shared: BaseException | None = None  # the exception that all know of
        self._ending = threading.Lock()
        for i, wire in wires.items():
            threading.Thread(
                target=self._listen, args=(i, wire), name=f"hosts-{i}", daemon=True
            ).start()

    def agree(self, what: str, value: Any) -> list[Any]:
        """What each process says, by way of process 0."""
        if self.index:
            self.wires[0].send({"at": what, "value": value})
            return self.inbox[0].get()["all"]
        if what == BYE:
            self._tell({"leaving": value})
        said = [
            {"at": what, "value": value},
            *(self.inbox[i].get() for i in range(1, self.count)),
        ]
        for i, other in enumerate(said):
            if other["at"] != what:
                self.end(
                    f"the processes are not doing the same: {self.who[0]} is at {what!r}, {self.who[i]} at "
                    f"{other['at']!r}. Call the same functions with the same arguments in all of them."
                )
        self.is_leaving = what == BYE
        everything = [other["value"] for other in said]
        self._tell({"all": everything, "at": what})
        return everything

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Where one that comes to its end meanwhile would be waited for."""
        self.depth += 1
        self.sections += self.depth == 1
        self._look()
        try:
            yield
        finally:
            self.depth -= 1

    def _look(self) -> None:
        if self.depth and self.gone_home is not None and self.gone_home[1] < self.sections:
            self.end(
                f"{self.who[self.gone_home[0]]} came to its end while {self.me} was computing with it."
            )

    def end(self, sentence: str, to_others: str | None = None) -> NoReturn:
        """End this process with a sentence, and the others with theirs."""
        with self._ending:  # another thread that comes here waits for the end
            self._tell({"end": to_others or sentence})
            with contextlib.suppress(OSError, ValueError):  # a closed pipe must not keep it
                sys.stdout.flush()
                sys.stderr.write(sentence and f"{sentence}\n")
                sys.stderr.flush()
            os._exit(1)

    def _tell(self, message: Any) -> None:
        for wire in self.wires.values():
            wire.send(message)

    def _listen(self, i: int, wire: Wire) -> None:
        """What process `i` says, until it says no more."""
        try:
            for message in wire:
                if "end" in message:
                    self.end(message["end"])
                if "leaving" in message or (self.index == 0 and message["at"] == BYE):
                    self.gone_home = i, message.get("leaving", message.get("value"))
                    self._look()
                if "at" in message:
                    self.is_leaving = self.index > 0 and message["at"] == BYE
                    self.inbox[i].put(message)
            why = "its connection closed: it was killed, or crashed"
        except OSError as error:
            why = f"its connection broke: {error.strerror or error}"
        if not self.is_leaving:
            self.end(f"{self.who[i]} is gone ({why}); {self.me} ends too.")
