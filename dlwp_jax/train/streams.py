"""Streams of batches: what counts as one, and how one is brought back to where it was."""

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


class Source:
    """A stream that is iterated anew for every epoch, and knows its place.

    The place is the number of batches taken in the epoch. Where the stream itself has
    `get_state` and `set_state` (one that shuffles anew in every epoch needs them), its state at
    the epoch's beginning is part of it; where its iterators have them, as grain's do, they are
    set instead of being read up to there.

    Args:
      stream: gives an iterator of batches for each epoch.
      is_saved: whether the place will be asked for. Otherwise no state is, and it may be of any
        kind.
    """

    def __init__(self, stream: Iterable[PyTree], *, is_saved: bool):
        self.stream: Iterable[PyTree] = stream
        self.is_saved: bool = is_saved
        self._end()

    def _begin(self) -> None:
        self.has_begun, self.before = True, _state_of(self.stream) if self.is_saved else None
        self.rest = self.iterator = iter(self.stream)

    def _end(self) -> None:
        self.has_begun, self.before, self.taken = False, None, 0
        self.rest: Iterator[PyTree] = iter(())
        self.iterator = self.rest

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
        """What is left of an epoch, as arrays, each checked; a stream without any batch is
        refused.
        """
        if not self.has_begun:
            self._begin()
        self.taken += 1  # counted before it is asked for: where that fails the iterator may have moved or not
        for batch in self.rest:
            yield checks.dataset(batch, f"train (epoch {number}, batch {self.taken})")
            self.taken += 1
        self.taken -= 1
        if not self.taken:
            raise ValueError(
                f"the stream gave no batch in epoch {number}. It was used up by an earlier epoch: pass an object that "
                "can be iterated anew."
            )

    def end_epoch(self) -> None:
        """The next `epoch` begins anew."""
        self._end()

    def place(self, step: int) -> dict[str, Any]:
        """What brings an equal stream to after `step` batches of this epoch, in JSON."""
        if not self.has_begun:
            return {"step": 0, "before": _state_of(self.stream), "now": None}
        at_step = (
            0 < step == self.taken
        )  # else a batch was looked at (`peek`), or asked for, and not used
        return {
            "step": step,
            "before": self.before,
            "now": _state_of(self.iterator) if at_step else None,
        }

    def go_to(self, place: dict[str, Any]) -> None:
        """Come to a place.

        Raises:
          ValueError: where the stream ends before it.
        """
        if place["before"] is not None:
            _set_state(self.stream, place["before"])
            self._begin()
        if place["now"] is not None:
            _set_state(self.iterator, place["now"])
            self.rest, self.taken = self.iterator, place["step"]
        else:
            self.taken = sum(1 for _ in itertools.islice(self.rest, place["step"]))
        if self.taken < place["step"]:
            raise ValueError(
                f"the stream has {self.taken} batches in an epoch, fewer than the {place['step']} that were taken when "
                "the checkpoint was written; give the stream that was trained on."
            )


def _state_of(thing: Any) -> str | None:
    """What its `get_state` gives, as JSON; None where it has none."""
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
            f"the stream that was trained on could tell its place, and this {type(thing).__name__} has no set_state; "
            "give the same kind of stream."
        )
    state = json.loads(text)
    is_bytes = isinstance(state, dict) and state.keys() == {"base64"}
    thing.set_state(base64.b64decode(state["base64"]) if is_bytes else state)
