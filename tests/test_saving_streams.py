"""Resuming a stream: from its place if it can tell it, and else by reading up to it."""

import importlib
import signal

import numpy as np
import pytest

from dlwp_jax import train
from dlwp_jax.train import sources
from tests.models import assert_same_bits
from tests.resuming import OPTIONS, TRAIN, VAL, Broken, again, learned, whole  # noqa: F401


class Loader:
    """Five batches in order, the same in every epoch."""

    def __init__(self, broken_at=None):
        self.read, self.broken_at = 0, broken_at

    def batch(self, rows):
        self.read += 1
        if self.read == self.broken_at:
            raise Broken
        return {name: np.asarray(array)[rows] for name, array in TRAIN.items()}

    def __iter__(self):
        for i in range(0, 37, 8):
            yield self.batch(slice(i, i + 8))


class Shuffled(Loader):
    """Another order in every epoch, from a generator that goes on from epoch to epoch and can
    tell where it is.
    """

    def __init__(self, broken_at=None):
        super().__init__(broken_at)
        self.rng = np.random.default_rng(0)

    def get_state(self):
        return self.rng.bit_generator.state

    def set_state(self, state):
        self.rng.bit_generator.state = state

    def __iter__(self):
        order = self.rng.permutation(37)
        for i in range(0, 37, 8):
            yield self.batch(order[i : i + 8])


class Placed(Loader):
    """Its iterators can tell their place, and need not be read up to it."""

    def __iter__(self):
        return PlacedIterator(self)


class PlacedIterator:
    def __init__(self, loader):
        self.loader, self.next = loader, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next >= 37:
            raise StopIteration
        self.next += 8
        return self.loader.batch(slice(self.next - 8, self.next))

    def get_state(self):
        return str(self.next).encode()

    def set_state(self, state):
        self.next = int(state)


STREAMED = OPTIONS | {"batch_size": None}


@pytest.mark.parametrize(  # between two epochs, within one, before the last batch of one
    ("kind", "at"),
    [(Loader, 6), (Loader, 8), (Shuffled, 6), (Shuffled, 8), (Placed, 6), (Placed, 25)],
)
def test_a_stream_broken_off_and_called_again(learned, tmp_path, kind, at):
    whole = train.fit(*learned, kind(), VAL, **STREAMED)
    with pytest.raises(Broken):
        train.fit(*learned, kind(broken_at=at), VAL, **STREAMED, checkpoint=tmp_path)
    epoch = (at - 1) // 5
    so_far = train.restore(tmp_path, learned[1]).state
    assert (int(so_far.epoch), int(so_far.step)) == (epoch, at - 1)
    stream = kind()
    assert_same_bits(whole, again(learned, tmp_path, stream, VAL, batch_size=None))
    assert stream.read == 5 * (6 - epoch) + (
        kind is Shuffled
    )  # which was looked at for its shapes before it was set


@pytest.mark.parametrize("at", [2, 8, 10])
def test_a_stream_that_can_tell_its_place_is_not_read_up_to_it(
    learned, tmp_path, monkeypatch, at
):
    class Pressed(Placed):
        def batch(self, rows):
            if self.read + 1 == at:
                signal.raise_signal(signal.SIGINT)
            return super().batch(rows)

    monkeypatch.setattr(sources, "CHUNK_SECONDS", 0.0)
    whole = train.fit(*learned, Placed(), VAL, **STREAMED)
    part = train.fit(*learned, Pressed(), VAL, **STREAMED, checkpoint=tmp_path)
    assert int(part.state.step) == at
    stream = Placed()
    assert_same_bits(whole, again(learned, tmp_path, stream, VAL, batch_size=None))
    assert stream.read == 1 + 30 - at  # one for its shapes


def test_a_grain_stream(learned, tmp_path):
    from dlwp_jax.data import stream

    def data(broken=False):
        def decode(i):
            if broken and i == 30:
                raise Broken
            return {name: np.asarray(array[i]) for name, array in TRAIN.items()}

        return stream.stream(range(37), decode, batch_size=8, threads=1, seed=0)

    whole = train.fit(*learned, data(), VAL, **STREAMED)
    with pytest.raises(Broken):
        train.fit(*learned, data(broken=True), VAL, **STREAMED, checkpoint=tmp_path)
    assert 0 < int(train.restore(tmp_path, learned[1]).state.step) < 5
    assert_same_bits(whole, again(learned, tmp_path, data(), VAL, batch_size=None))


def test_a_batch_that_was_taken_and_not_used_is_taken_again(learned, tmp_path):
    """The fourth batch holds NaN and is refused: the iterator is past it, the training is
    not.
    """

    class Bad(Placed):
        def batch(self, rows):
            batch = super().batch(rows)
            return batch | {"y": batch["y"] * np.nan} if self.read == 4 else batch

    with pytest.raises(ValueError, match=r"train \(epoch 1, batch 4\)"):
        train.fit(*learned, Bad(), VAL, **STREAMED, checkpoint=tmp_path)
    whole = train.fit(*learned, Placed(), VAL, **STREAMED)
    assert_same_bits(whole, again(learned, tmp_path, Placed(), VAL, batch_size=None))


def test_a_batch_that_was_only_looked_at_is_not_counted(learned, tmp_path, monkeypatch):
    """Told to stop before the first step: the iterator is past a batch whose shapes alone were
    asked for.
    """
    fit_module = importlib.import_module("dlwp_jax.train.fit")  # `train.fit` is the function
    describe = fit_module.describe_call

    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return describe(*args)

    monkeypatch.setattr(fit_module, "describe_call", pressed)
    assert int(again(learned, tmp_path, Placed(), VAL, batch_size=None).state.step) == 0
    monkeypatch.undo()
    whole = train.fit(*learned, Placed(), VAL, **STREAMED)
    assert_same_bits(whole, again(learned, tmp_path, Placed(), VAL, batch_size=None))


class Unwritable(Placed):
    """A place that JSON cannot hold."""

    def __iter__(self):
        iterator = PlacedIterator(self)
        iterator.get_state = lambda: {"next": np.int64(iterator.next)}
        return iterator


def test_a_place_that_cannot_be_written_is_refused_before_training(learned, tmp_path):
    heard = []
    with pytest.raises(TypeError, match="get_state must give bytes, or what JSON can hold"):
        again(learned, tmp_path, Unwritable(), VAL, batch_size=None, callbacks=[heard.append])
    assert heard == []
    train.fit(*learned, Unwritable(), VAL, **STREAMED)  # where nothing is saved it need not be


def test_none_in_a_stream_does_not_end_the_epoch(learned):
    stream = [{"x": TRAIN["x"][:8], "y": TRAIN["y"][:8]}, None, None]
    batches = type("Stream", (), {"__iter__": lambda self: iter(stream)})()
    with pytest.raises(ValueError, match=r"train \(epoch 1, batch 2\)"):
        train.fit(*learned, batches, **STREAMED | {"stop": None})


def test_a_stream_that_is_shorter_than_it_was_is_refused(learned, tmp_path):
    class Short(Loader):
        def __iter__(self):
            yield self.batch(slice(8))

    with pytest.raises(Broken):
        train.fit(*learned, Loader(broken_at=5), VAL, **STREAMED, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="has 1 batches in an epoch, fewer than the 4"):
        again(learned, tmp_path, Short(), VAL, batch_size=None)


def test_a_stream_that_cannot_tell_its_place_after_one_that_could_is_refused(learned, tmp_path):
    with pytest.raises(Broken):
        train.fit(*learned, Shuffled(broken_at=5), VAL, **STREAMED, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="this Loader has no set_state"):
        again(learned, tmp_path, Loader(), VAL, batch_size=None)
