"""Streams of batches: which objects are streams, and how one is brought back to its place."""

import base64
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from dlwp_jax.train import checks

PyTree = Any


def is_stream(data: Any) -> bool:
    """Whether data is an iterable of batches rather than a pytree of arrays."""
    if hasattr(data, "__array__") or not isinstance(data, Iterable):
        return False
    return isinstance(data, Iterator) or jax.tree_util.all_leaves([data])


class Replayable:
    """A stream that is iterated anew for every epoch, and can be brought back to a place.

    The place is the number of batches taken in the epoch. If the stream itself has `get_state`
    and `set_state` (one that shuffles anew in every epoch needs them), its state at the epoch's
    beginning is part of it; if its iterators have them, as grain's do, they are set, and
    nothing is read again.

    Args:
      stream: gives an iterator of batches for each epoch.
      is_saved: whether the place will be asked for. Otherwise the states of stream and
        iterator are not asked for either, and may be of any kind.
    """

    def __init__(self, stream: Iterable[PyTree], *, is_saved: bool):
        self.stream: Iterable[PyTree] = stream
        self.is_saved: bool = is_saved
        self.end_epoch()

    def _begin(self) -> None:
        self.has_begun = True
        self.before = _state_of(self.stream) if self.is_saved else None
        self.iterator = iter(self.stream)
        self.rest = self.iterator

    def end_epoch(self) -> None:
        """The next `epoch` begins anew."""
        self.has_begun = False
        self.before = None
        self.taken = 0
        self.iterator: Iterator[PyTree] = iter(())
        self.rest = self.iterator

    def peek(self) -> PyTree:
        """The first batch, which stays in the stream."""
        self._begin()
        if self.is_saved:
            _state_of(self.iterator)  # one that cannot be written is refused before training
        first = list(itertools.islice(self.iterator, 1))
        if not first:
            raise ValueError("the stream gave no batch in epoch 1.")
        self.rest = itertools.chain(first, self.iterator)
        return checks.dataset(first[0], "train (epoch 1, batch 1)")

    def epoch(self, number: int) -> Iterator[PyTree]:
        """The batches that are left of an epoch, each checked; an empty stream is refused."""
        if not self.has_begun:
            self._begin()
        # A batch is counted before it is asked for: if that fails, the iterator may have moved
        # or not.
        self.taken += 1
        for batch in self.rest:
            yield checks.dataset(batch, f"train (epoch {number}, batch {self.taken})")
            self.taken += 1
        self.taken -= 1
        if not self.taken:
            raise ValueError(
                f"the stream gave no batch in epoch {number}. It was used up by an earlier "
                "epoch: pass an object that can be iterated anew."
            )

    def place(self, step: int) -> dict[str, Any]:
        """The place after `step` batches of this epoch, in JSON, for `go_to` of an equal
        stream.
        """
        if not self.has_begun:
            return {"step": 0, "before": _state_of(self.stream), "now": None}
        # Otherwise a batch was peeked at, or asked for, and not used.
        is_there = 0 < step == self.taken
        now = _state_of(self.iterator) if is_there else None
        return {"step": step, "before": self.before, "now": now}

    def go_to(self, place: dict[str, Any]) -> None:
        """Come to a place.

        Raises:
          ValueError: if the stream ends before it.
        """
        if place["before"] is not None:
            _set_state(self.stream, place["before"])
            self._begin()
        if place["now"] is not None:
            _set_state(self.iterator, place["now"])
            self.rest = self.iterator
            self.taken = place["step"]
        else:
            self.taken = sum(1 for _ in itertools.islice(self.rest, place["step"]))
        if self.taken < place["step"]:
            raise ValueError(
                f"the stream has {self.taken} batches in an epoch, fewer than the "
                f"{place['step']} that were taken when the checkpoint was written; give the "
                "stream that was trained on."
            )


def _state_of(thing: Any) -> str | None:
    """The result of its `get_state` as JSON; None if it has none."""
    if not (hasattr(thing, "get_state") and hasattr(thing, "set_state")):
        return None
    state = thing.get_state()
    if isinstance(state, bytes):
        return json.dumps({"base64": base64.b64encode(state).decode()})
    try:
        return json.dumps(state)
    except TypeError as error:
        raise TypeError(
            f"the stream's get_state must give bytes, or what JSON can hold ({error})."
        ) from error


def _set_state(thing: Any, text: str) -> None:
    if not hasattr(thing, "set_state"):
        raise ValueError(
            "the stream that was trained on could tell its place, and this "
            f"{type(thing).__name__} has no set_state; give the same kind of stream."
        )
    state = json.loads(text)
    is_bytes = isinstance(state, dict) and state.keys() == {"base64"}
    thing.set_state(base64.b64decode(state["base64"]) if is_bytes else state)
