"""`fit(..., checkpoint=...)`: broken off and called again is never broken off; nothing bad is
taken for good.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import checkpoint, train
from dlwp_jax.saving import identity
from dlwp_jax.train import sources
from dlwp_jax.train.plan import make_plan
from tests.conftest import ROOT
from tests.models import (
    Plain,
    Scalar,
    Stochastic,
    assert_same_bits,
    compilations,
    regression,
    squared_error,
)

TRAIN, VAL = regression(37), regression(10, seed=1)
OPTIONS = {"epochs": 6, "batch_size": 8, "stop": train.EarlyStopping(5), "progress": False}


class Broken(Exception):
    """Raised by a callback or a stream to break a training off."""


def learner_of(model=Stochastic, tx=None, seed=0, loss_fn=squared_error):
    return train.make_learner(
        model(nnx.Rngs(seed)), loss_fn, tx or optax.adam(1e-2), key=jax.random.key(0)
    )


@pytest.fixture(scope="module")
def learned():
    return learner_of()


@pytest.fixture(scope="module")
def whole(learned):
    return train.fit(*learned, TRAIN, VAL, **OPTIONS)


def breaking(epoch):
    def callback(progress):
        if progress.epoch == epoch:
            raise Broken

    return callback


def break_off(directory, learned, *data, at=3, **options):
    """Train until a callback raises, with a checkpoint of every epoch."""
    epochs = train.Checkpoint(directory, every_epochs=1, every_seconds=None, keep=3)
    options = OPTIONS | {"checkpoint": epochs} | options
    with pytest.raises(Broken):
        train.fit(*learned, *(data or (TRAIN, VAL)), **options, callbacks=[breaking(at)])


@pytest.fixture(scope="module")
def interrupted(learned, tmp_path_factory):
    """A directory with checkpoints of epochs 1, 2 and 3 of six; not to be written to."""
    directory = tmp_path_factory.mktemp("interrupted") / "run"
    break_off(directory, learned)
    return directory


@pytest.fixture
def directory(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "copy")


def again(learned, directory, *data, **options):
    return train.fit(
        *learned, *(data or (TRAIN, VAL)), **OPTIONS | {"checkpoint": directory} | options
    )


# Exactly


def test_a_training_broken_off_and_called_again_is_the_one_that_was_not(
    learned, directory, whole
):
    seen = []
    resumed = again(learned, directory, callbacks=[lambda p: seen.append(p.epoch)])
    assert seen == [3, 4, 5, 6]  # the callback of epoch 3 had not answered
    assert_same_bits(whole, resumed)


def test_a_finished_directory_gives_its_run_without_training(
    learned, directory, whole, monkeypatch
):
    again(learned, directory)
    monkeypatch.setattr(sources.InMemory, "advance", None)  # not to be called
    assert_same_bits(whole, again(learned, directory))
    assert_same_bits(whole, train.restore(directory, learned[1]))


def test_restore_gives_what_there_is(learned, interrupted, whole):
    so_far = train.restore(interrupted, learned[1])
    assert int(so_far.state.epoch) == 3
    assert bool(so_far.stopped)
    assert_same_bits(
        {name: values[:3] for name, values in whole.history.items()}, so_far.history
    )


@pytest.mark.parametrize("at", [1, 7, 15])
def test_in_the_midst_of_an_epoch(learned, tmp_path, whole, monkeypatch, at):
    """Chunks of one step, and Ctrl-C in one of them; five steps make an epoch."""
    advance, calls = sources.InMemory.advance, []

    def pressed(*args):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return advance(*args)

    monkeypatch.setattr(sources.InMemory, "advance", pressed)
    monkeypatch.setattr(sources, "CHUNK_SECONDS", 0.0)
    part = again(learned, tmp_path)
    assert int(part.state.step) == at
    assert bool(part.stopped)
    assert_same_bits(whole, again(learned, tmp_path))
    assert len(calls) == 30  # 6 epochs of 5 steps, none twice


def test_saved_by_time_within_an_epoch(learned, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_SECONDS", 0.0)
    steps = []
    monkeypatch.setattr(
        checkpoint.Store, "save", lambda self, loop, about: steps.append(int(loop.step))
    )
    again(learned, train.Checkpoint(tmp_path, every_seconds=0))
    assert set(steps) == {0, 1, 2, 3, 4}


def test_sigterm_saves_and_then_goes_to_whom_it_was_sent(learned, tmp_path, whole):
    heard = []
    before = signal.signal(
        signal.SIGTERM, lambda *_: heard.append(len(checkpoint.saved(tmp_path)))
    )
    try:
        again(
            learned,
            tmp_path,
            callbacks=[lambda p: signal.raise_signal(signal.SIGTERM) if p.epoch == 2 else None],
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]  # the checkpoint stood by then
    assert int(train.restore(tmp_path, learned[1]).state.epoch) == 2
    assert_same_bits(whole, again(learned, tmp_path))


def test_sigterm_is_not_lost_where_a_callback_raises_too(learned, tmp_path):
    def callback(progress):
        signal.raise_signal(signal.SIGTERM)
        raise Broken

    heard = []
    before = signal.signal(
        signal.SIGTERM, lambda *_: heard.append(len(checkpoint.saved(tmp_path)))
    )
    try:
        with pytest.raises(Broken):
            again(learned, tmp_path, callbacks=[callback])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_a_callback_that_ended_the_training_is_asked_again(learned, tmp_path, whole):
    ended = again(learned, tmp_path, callbacks=[lambda p: p.epoch == 4])
    assert_same_bits(ended, again(learned, tmp_path, callbacks=[lambda p: p.epoch == 4]))
    assert_same_bits(whole, again(learned, tmp_path))


def test_early_stopping_goes_on_counting(tmp_path):
    def loss_fn(model, batch):  # w falls by 1 an epoch from 10: |w - 5| is lowest at epoch 5
        return jnp.where(batch["is_val"][0], jnp.abs(model.w[...] - 5), model.w[...]), {}

    learned = train.make_learner(Scalar(10.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0))
    data = {"is_val": jnp.zeros(1, bool)}, {"is_val": jnp.ones(1, bool)}
    options = {
        "epochs": 20,
        "batch_size": 1,
        "stop": train.EarlyStopping(np.int64(3)),
    }  # which JSON does not know
    break_off(tmp_path, learned, *data, at=7, **options)
    result = again(learned, tmp_path, *data, **options)
    assert (int(result.state.epoch), int(result.best.epoch)) == (8, 5)
    assert_same_bits(result, train.fit(*learned, *data, **options, progress=False))
    assert_same_bits(result, again(learned, tmp_path, *data, **options))


def test_weak_types_come_back_as_they_were(tmp_path):
    """A parameter made from a Python number is weakly typed; typed otherwise it would make
    another program.
    """

    def loss_fn(model, batch):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    learned = train.make_learner(Scalar(0.5), loss_fn, optax.adam(1e-2), key=jax.random.key(0))
    assert learned[1].params["w"].weak_type
    options = {"epochs": 4, "batch_size": 37}
    whole = train.fit(*learned, TRAIN, VAL, **OPTIONS | options)
    break_off(tmp_path, learned, at=2, **options)
    with compilations() as compiled:
        assert_same_bits(whole, again(learned, tmp_path, **options))
    assert "_advance" not in compiled


def test_more_epochs_where_they_are_allowed(learned, tmp_path, whole):
    three = OPTIONS | {"epochs": 3}
    train.fit(*learned, TRAIN, VAL, **three, checkpoint=tmp_path)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"was begun with epochs=3, not 6\. .*extend=True"
    ):
        again(learned, tmp_path)
    extended = again(learned, train.Checkpoint(tmp_path, extend=True))
    # A history of another length is another program for the first three epochs: equal to
    # float32 rounding.
    np.testing.assert_allclose(
        extended.history["val/loss"], whole.history["val/loss"], rtol=1e-5
    )
    assert int(extended.state.epoch) == 6
    with pytest.raises(checkpoint.CheckpointError, match="was begun with epochs=6, not 3"):
        train.fit(
            *learned, TRAIN, VAL, **three, checkpoint=train.Checkpoint(tmp_path, extend=True)
        )


# Streams


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


@pytest.mark.parametrize("at", [5, 6, 8, 25])
@pytest.mark.parametrize("kind", [Loader, Shuffled, Placed])
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


def test_a_forked_worker_that_outlives_its_process_does_not_hold_the_directory(tmp_path):
    script = f"""
import os, signal, time
from dlwp_jax import checkpoint
store = checkpoint.Store({str(tmp_path)!r}, keep=2)
if (worker := os.fork()) == 0:
    time.sleep(60)
    os._exit(0)
print(worker, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        worker = int(process.stdout.readline())
        assert process.wait() == -signal.SIGKILL
    try:
        checkpoint.Store(tmp_path, keep=2).close()
    finally:
        os.kill(worker, signal.SIGKILL)


# What is refused


class Wider(Stochastic):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.hidden, self.norm = nnx.Linear(3, 9, rngs=rngs), nnx.BatchNorm(9, rngs=rngs)
        self.output = nnx.Linear(9, 1, rngs=rngs)


class Half(Stochastic):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.hidden = nnx.Linear(3, 8, rngs=rngs, param_dtype=jnp.bfloat16)


def absolute_error(model, batch):
    error = jnp.abs(model(batch["x"]) - batch["y"])
    return jnp.mean(error), {"mae": jnp.mean(error)}


OTHER_LEARNERS = {
    "model": (
        {"model": Plain},
        r"the leaf \.params\['hidden'\]\['bias'\] is float32\[8\] there and float32\[4\] here",
    ),
    "width": (
        {"model": Wider},
        r"the leaf \.params\['hidden'\]\['bias'\] is float32\[8\] there and float32\[9\] here",
    ),
    "dtype": (
        {"model": Half},
        r"\.params\['hidden'\]\['bias'\] is float32\[8\] there and bfloat16\[8\] here",
    ),
    "optimizer": ({"tx": optax.sgd(1e-2)}, r"only the checkpoint has a leaf \.opt_state"),
    "learning rate": (
        {"tx": optax.adam(1e-3)},
        r"of another program.*learning rate.*exact=False",
    ),
    "loss": ({"loss_fn": absolute_error}, "of another program"),
    "seed": ({"seed": 1}, r"begun from another state: \.params\S* differs\."),
}
OTHER_SETTINGS = {
    "batch size": ({"batch_size": 9}, "begun with batch_size=8, not 9"),
    "fewer epochs": ({"epochs": 4}, "begun with epochs=6, not 4"),
    "stop": ({"stop": None}, "begun with stop={'patience': 5"),
    "skip": ({"skip_nonfinite": True}, "begun with skip_nonfinite=False, not True"),
}


def refused(interrupted, learned, message, **options):
    before = listing(interrupted)
    with pytest.raises(checkpoint.CheckpointError, match=message) as told:
        again(learned, interrupted, **options)
    assert str(interrupted / "checkpoint-000003") in str(told.value)
    assert "No other one there can be taken" in str(told.value)
    assert listing(interrupted) == before


@pytest.mark.parametrize(("other", "message"), OTHER_LEARNERS.values(), ids=OTHER_LEARNERS)
def test_another_learner_is_refused_by_name(interrupted, other, message):
    refused(interrupted, learner_of(**other), message)


def test_a_constant_inside_a_jitted_function_is_part_of_the_program():
    """The weights of classes, say, in a loss that is jitted itself: JAX keeps them with the
    inner program.
    """

    def program_of(weights):
        weighted = jax.jit(lambda error: jnp.mean(error**2 * weights))
        learner, state = learner_of(
            loss_fn=lambda model, batch: (weighted(model(batch["x"]) - batch["y"]), {})
        )
        plan = make_plan(learner, state, TRAIN, None, epochs=1)
        return identity.program(learner, state, TRAIN, plan)

    weights = jnp.ones(37)[:, None]
    assert (
        program_of(weights)
        == program_of(jnp.copy(weights))
        != program_of(weights.at[20].set(2.0))
    )


@pytest.mark.parametrize(("other", "message"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_another_call_is_refused_by_name(learned, interrupted, other, message):
    refused(interrupted, learned, message, **other)


def test_other_data_are_refused_or_allowed(learned, directory):
    data = regression(37, seed=5), VAL
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"was trained on other data: \['train'\]\['x'\] differs",
    ):
        again(learned, directory, *data)
    assert int(again(learned, train.Checkpoint(directory, exact=False), *data).state.epoch) == 6


def test_data_of_another_size_are_refused_in_any_case(learned, directory):
    """The step that an epoch is at may not exist in a smaller one."""
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"\['train'\]\['x'\] was \['float32', \[37, 3\]\], not .*\[9, 3",
    ):
        again(learned, train.Checkpoint(directory, exact=False), regression(9), VAL)


def test_the_state_of_a_finished_training_is_not_its_start(learned, directory, whole):
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"differs \(that one was at epoch 0, step 0, the state given is at epoch 6",
    ):
        again((learned[0], whole.state), directory)


def test_other_versions_are_refused_or_allowed(learned, directory, whole, monkeypatch):
    true = identity.version
    monkeypatch.setattr(
        identity, "version", lambda name: "0.9.9" if name == "jax" else true(name)
    )
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"was written with jax .*, and this is 0\.9\.9\. .*exact=False",
    ):
        again(learned, directory)
    assert_same_bits(whole, again(learned, train.Checkpoint(directory, exact=False)))
    monkeypatch.setattr(identity, "FORMAT", 3)
    with pytest.raises(
        checkpoint.CheckpointError, match="has format 2, written by another version of dlwp-jax"
    ):
        train.restore(directory, learned[1])


def test_restore_knows_metrics_of_any_name(tmp_path):
    def loss_fn(model, batch):
        loss, _ = squared_error(model, batch)
        return loss, {"it's": loss, "back\\slash": loss}

    learned = learner_of(Plain, loss_fn=loss_fn)
    run = train.fit(
        *learned, TRAIN, epochs=1, batch_size=37, progress=False, checkpoint=tmp_path
    )
    assert_same_bits(run, train.restore(tmp_path, learned[1]))


def test_restore_refuses_another_model_by_name(interrupted, tmp_path):
    with pytest.raises(
        checkpoint.CheckpointError, match="of another model or optimizer: the leaf"
    ):
        train.restore(interrupted, learner_of(Plain)[1])
    with pytest.raises(checkpoint.CheckpointError, match="there is no checkpoint in"):
        train.restore(tmp_path, learner_of(Plain)[1])


def files_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def listing(directory):
    return {
        p.relative_to(directory): p.read_bytes()
        for p in files_of(directory)
        if p.name != "lock"
    }


def test_every_damage_to_every_file_is_found(interrupted, tmp_path):
    """Flipped bits at the beginning, in the middle and at the end, a byte less, a byte more,
    and no file at all.
    """
    path = shutil.copytree(interrupted / "checkpoint-000003", tmp_path / "copy")
    assert checkpoint.damage(path) is None
    tried = 0
    for file in files_of(path):
        good = file.read_bytes()
        bad = [good + b"\n", good[:-1]] if good else [b"x"]
        for place in {0, len(good) // 2, len(good) - 1} if good else ():
            bad += [
                good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
                for bit in (0, 5, 7)
            ]
        for content in bad:
            file.write_bytes(content)
            assert (checkpoint.damage(path) or "").startswith("is damaged:")
            tried += 1
        file.unlink()
        assert file.name in (checkpoint.damage(path) or "")
        file.write_bytes(good)
    assert checkpoint.damage(path) is None
    assert tried > 90


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_offered(
    learned, directory, whole
):
    newest, before = directory / "checkpoint-000003", directory / "checkpoint-000002"
    data = max(files_of(newest / "arrays"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    (before / "about.json").unlink()
    with pytest.raises(checkpoint.CheckpointError) as told:
        again(learned, directory)
    for part in (
        f"{newest} is damaged",
        data.name,
        "SHA-256",
        f"last good one is {directory / 'checkpoint-000001'}",
    ):
        assert part in str(told.value)
    with pytest.raises(checkpoint.CheckpointError, match="is damaged"):
        train.restore(directory, learned[1])
    for path in (newest, before):
        path.rename(path.with_name(f"bad-{path.name}"))
    assert_same_bits(whole, again(learned, directory))


def test_what_was_being_written_is_never_taken(learned, directory, whole):
    half = shutil.copytree(directory / "checkpoint-000003", directory / ".partial-000004")
    (half / "SHA256SUMS").unlink()
    assert_same_bits(whole, again(learned, directory))
    assert not half.exists()


def test_only_the_newest_are_kept(learned, tmp_path):
    again(learned, train.Checkpoint(tmp_path, every_epochs=2, keep=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-000002",
        "checkpoint-000003",
        "lock",
    ]
    assert [
        json.loads((p / "about.json").read_text())["called"] for p in checkpoint.saved(tmp_path)
    ] == [4, 6]


def test_a_second_process_is_refused(learned, directory, whole):
    with (
        contextlib.closing(checkpoint.Store(directory, keep=2)),
        pytest.raises(
            checkpoint.CheckpointError,
            match=rf"is in use: process {os.getpid()} on .* trains there",
        ),
    ):
        again(learned, directory)
    assert_same_bits(whole, again(learned, directory))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "checkpoint must be a directory's path or a Checkpoint; got int 3"),
        ("", "directory's path"),
    ],
)
def test_wrong_checkpoints(learned, wrong, message):
    with pytest.raises(TypeError, match=message):
        again(learned, wrong)
    with pytest.raises(ValueError, match="checkpoint must name a file or a folder"):
        again(learned, "a\0b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every_epochs": 0}, "every_epochs"),
        ({"every_seconds": -1}, "every_seconds"),
        ({"every_seconds": "30"}, "every_seconds"),
        ({"keep": 0}, "keep"),
        ({"directory": "gs://bucket/run"}, "mounted"),
    ],
)
def test_wrong_settings(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.Checkpoint(**{"directory": tmp_path} | wrong)


# Disks


@contextlib.contextmanager
def mounted(path):
    """A file system of 2 MB in memory; skips by name where this user may not mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path]
    if (
        not shutil.which("mount")
        or (done := subprocess.run(command, capture_output=True, text=True)).returncode
    ):
        pytest.skip("mounting a tmpfs is not allowed here")
    assert done.returncode == 0
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def assert_nothing_is_lost(disk, free, reason):
    """Train on a disk that is filled up to its last `free` bytes, and again when there is
    room.
    """
    learned = learner_of()
    whole = train.fit(*learned, TRAIN, VAL, **OPTIONS)
    break_off(disk / "run", learned)
    before = {path: listing(path) for path in checkpoint.saved(disk / "run")}
    room = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(room.f_bavail * room.f_bsize - free, 0)))
    with pytest.warns(
        RuntimeWarning, match=rf"no checkpoint could be written to .*/run: {reason}"
    ) as told:
        full = again(learned, disk / "run")
    assert_same_bits(whole, full)
    assert __file__ in {
        warning.filename for warning in told if "no checkpoint" in str(warning.message)
    }
    # Not what nobody will take: threads of Orbax may still be writing it.
    assert {path: listing(path) for path in checkpoint.saved(disk / "run")} == before
    (disk / "ballast").unlink()
    assert_same_bits(whole, again(learned, disk / "run"))
    assert not list((disk / "run").glob(".partial-*"))
    assert int(train.restore(disk / "run", learned[1]).state.epoch) == 6


def test_a_full_disk_loses_nothing_and_training_goes_on(tmp_path):
    with mounted(tmp_path / "small") as disk:
        assert_nothing_is_lost(
            disk, free=0, reason=r"it takes [\d,]+ bytes, and 0 are free there"
        )


def test_a_disk_that_is_full_in_the_midst_of_a_save_loses_nothing(tmp_path):
    """In a process of its own: threads of TensorStore tell of a failed save when they like, in
    other tests too.
    """
    program = (
        "import pathlib, sys; from tests import test_saving_resume; "
        "test_saving_resume.assert_nothing_is_lost(pathlib.Path(sys.argv[1]), 8192, '(?!it "
        "takes)')"
    )
    with mounted(tmp_path / "small") as disk:
        done = subprocess.run(
            [sys.executable, "-c", program, disk], capture_output=True, text=True, cwd=ROOT
        )
    assert done.returncode == 0, done.stderr


def test_a_read_only_disk_is_refused_at_once_and_loses_nothing(learned, interrupted, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        directory = shutil.copytree(interrupted, disk / "run")
        before = listing(directory)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            OSError, match=r"checkpoints cannot be written to .*/run \(Read-only file system\)"
        ):
            again(learned, directory)
        assert int(train.restore(directory, learned[1]).state.epoch) == 3
        assert listing(directory) == before


def test_a_missing_orbax_is_told_before_training(learned, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'dlwp-jax\[checkpoint\]'"):
        again(learned, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_directorys_place_is_refused(learned, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoints cannot be written to .*/file"):
        again(learned, tmp_path / "file")


# Not finite


def test_the_last_finite_state_is_saved_and_given_again(tmp_path):
    def loss_fn(
        model, batch
    ):  # w falls by 1 a step from 6; nan from w = 1 on, at step 3 of epoch 2
        w = model.w[...]
        return w + 0 * jnp.log(w - 1.5) * batch["x"].sum(), {}

    learned = train.make_learner(Scalar(6.0), loss_fn, optax.sgd(1.0), key=jax.random.key(0))
    options = {"epochs": 9, "batch_size": 1, "stop": None}
    data = {"x": jnp.ones(3)}, None
    with pytest.warns(RuntimeWarning, match="epoch 2, step 3") as told:
        failed = again(learned, tmp_path, *data, **options)
    assert "(the loss was nan)" in str(told[0].message)
    saved = train.restore(tmp_path, learned[1])
    assert_same_bits(failed, saved)
    assert float(saved.state.params["w"]) == 1.0
    with pytest.warns(RuntimeWarning, match="epoch 2, step 3") as told_again:
        assert_same_bits(failed, again(learned, tmp_path, *data, **options))
    assert str(told_again[0].message) == str(told[0].message)
