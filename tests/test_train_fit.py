"""What only `fit` does: callbacks, Ctrl-C, streams, progress."""

import re
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from dlwp_jax.train.progress import display
from dlwp_jax.train.sources import InMemory
from tests.models import Plain, Stochastic, assert_same_bits, regression, squared_error

TRAIN, VAL = regression(24), regression(8, seed=1)


@pytest.fixture(scope="module")
def learned():
    return train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.adam(1e-2), key=jax.random.key(0)
    )


def fit(learned, *args, **kwargs):
    return train.fit(*learned, *(args or (TRAIN, VAL)), **{"progress": False} | kwargs)


# Tests of one number of epochs and one batch size share their compiled program.
FIVE = {"epochs": 5, "batch_size": 8}


@pytest.fixture(scope="module")
def calm(learned):
    """Five epochs without callbacks."""
    return fit(learned, **FIVE)


@pytest.fixture(scope="module")
def three(learned):
    """State and history after three of five epochs, as a callback is told them."""
    told = []
    fit(learned, **FIVE, callbacks=[lambda p: told.append((p.state, p.history))])
    return told[2]


class Loader:
    """Batches from NumPy arrays, in order, anew for every epoch."""

    def __init__(self, data, batch_size):
        self.data, self.batch_size = jax.tree.map(np.asarray, data), batch_size

    def __iter__(self):
        for i in range(0, len(self.data["x"]), self.batch_size):
            yield {name: array[i : i + self.batch_size] for name, array in self.data.items()}


def test_callbacks_are_called_after_every_epoch_or_every_nth(learned):
    each, second = [], []
    fit(
        learned,
        **FIVE,
        callbacks=[
            lambda p: each.append(p.epoch),
            train.every(2, lambda p: second.append(p.epoch)),
        ],
    )
    assert each == [1, 2, 3, 4, 5]
    assert second == [2, 4, 5]  # and after the last


def test_what_a_callback_is_told_stays_valid_and_true(learned):
    told = []
    result = fit(
        learned, **FIVE, callbacks=[lambda p: told.append((p.history, p.state, p.best))]
    )
    for epoch, (history, state, best) in enumerate(told, 1):
        assert int(state.epoch) == epoch
        assert len(history["val/loss"]) == epoch
        np.testing.assert_array_equal(history["val/loss"], result.history["val/loss"][:epoch])
        best_epoch = int(np.argmin(history["val/loss"])) + 1
        assert int(best.epoch) == best_epoch
    assert_same_bits(told[-1][1], result.state)
    three = train.run(*learned, TRAIN, VAL, epochs=3, batch_size=8)
    assert_same_bits(told[2][:2], (three.history, three.state))


@pytest.mark.parametrize("kind", [bool, np.bool_, jnp.bool_])
def test_callbacks_change_nothing_and_can_end_the_training(learned, calm, three, kind):
    watched = fit(learned, **FIVE, callbacks=[lambda p: np.ones(3)])
    assert_same_bits((calm.state, calm.history), (watched.state, watched.history))
    ended = fit(learned, **FIVE, callbacks=[lambda p: kind(p.epoch == 3)])
    assert bool(ended.stopped)
    assert_same_bits((ended.state, ended.history), three)


@pytest.mark.parametrize("how", ["signal", "exception"])
def test_ctrl_c_returns_what_there_is(learned, three, how):
    def press(progress):
        if progress.epoch == 3:
            if how == "exception":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = fit(learned, **FIVE, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is before
    assert bool(stopped.stopped)
    assert_same_bits((stopped.state, stopped.history), three)


def test_a_second_ctrl_c_raises_at_once(learned):
    def press_twice(progress):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("the second one was raised")

    with pytest.raises(RuntimeError, match="second"):
        fit(learned, **FIVE, callbacks=[press_twice])


def test_fit_in_another_thread_leaves_signals_alone(learned, calm):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(learned, **FIVE)))
    thread.start()
    thread.join()
    assert_same_bits(results[0].state, calm.state)


# Streams


def test_a_stream_of_one_full_batch_is_training_in_memory():
    learned = train.make_learner(
        Stochastic(nnx.Rngs(0)), squared_error, optax.adam(1e-2), key=jax.random.key(0)
    )
    streamed = fit(learned, Loader(TRAIN, 24), Loader(VAL, 8), epochs=3)
    kept = fit(learned, TRAIN, VAL, epochs=3, batch_size=24)
    # The same steps with the same keys, compiled as programs of one step: float32 rounding over
    # three Adam steps.
    for name in kept.history:
        np.testing.assert_allclose(streamed.history[name], kept.history[name], rtol=1e-5)
    assert int(streamed.state.step) == int(kept.state.step) == 3


def test_a_stream_is_read_in_its_own_order_with_its_short_last_batch(learned):
    seen = []

    class Recorded(Loader):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(len(batch["x"]))
                yield batch

    result = fit(learned, Recorded(TRAIN, 10), VAL, epochs=3, stop=train.EarlyStopping(3))
    assert seen == [10, 10, 4] * 3
    assert int(result.state.step) == 9
    validated = train.evaluate(learned[0], result.state, VAL)
    np.testing.assert_allclose(result.history["val/loss"][-1], validated["loss"], rtol=1e-6)


def test_streamed_validation_weights_every_example_alike(learned):
    whole = fit(learned, Loader(TRAIN, 24), VAL, epochs=3)
    parts = fit(learned, Loader(TRAIN, 24), Loader(VAL, 3), epochs=3)
    np.testing.assert_allclose(whole.history["val/loss"], parts.history["val/loss"], rtol=1e-6)


def test_a_stream_that_diverges_stops(learned):
    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.sgd(1e12), key=jax.random.key(0)
    )
    with pytest.warns(RuntimeWarning, match="epoch 1, step"):
        result = train.fit(learner, state, Loader(TRAIN, 2), epochs=5, progress=False)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert len(result.history["train/loss"]) == 1


def test_a_stream_that_is_used_up_or_empty_is_refused(learned):
    with pytest.raises(ValueError, match=r"no batch in epoch 2.*iterated anew"):
        fit(learned, iter(Loader(TRAIN, 8)), VAL, epochs=2)
    with pytest.raises(ValueError, match="no batch in epoch 1"):
        fit(learned, iter(()), VAL, epochs=2)
    with pytest.raises(ValueError, match="validation stream gave no batch"):
        fit(learned, Loader(TRAIN, 8), iter(()), epochs=1)
    with pytest.raises(ValueError, match=r"train \(epoch 1, batch 1\).*NaN"):
        fit(learned, Loader(TRAIN | {"y": TRAIN["y"] * np.nan}, 8), VAL, epochs=1)
    with pytest.raises(ValueError, match="batch_size=8 does not apply"):
        fit(learned, Loader(TRAIN, 8), VAL, epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="batch_size is missing"):
        fit(learned, TRAIN, VAL, epochs=1)
    with pytest.raises(TypeError, match="val streams while train is in memory"):
        fit(learned, TRAIN, Loader(VAL, 8), epochs=1, batch_size=8)


# What a person sees


def test_of_few_epochs_a_log_file_shows_parts(capsys):
    with display(2, shown=True) as shown:
        for tenth in range(1, 21):
            shown.update(tenth / 10, {"train/loss": 1.0})
    told = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "epoch 1/2",
        "epoch 1.2/2",
        "epoch 1.4/2",
        "epoch 1.6/2",
        "epoch 1.8/2",
        "epoch 2/2",
    ]


def test_a_log_file_gets_a_dozen_lines_however_long_training_takes(learned, capsys):
    fit(learned, epochs=400, batch_size=24, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 12
    assert re.fullmatch(
        r"epoch 400/400  train/loss [\d.e-]+  val/loss [\d.e-]+  [\d.]+ s", lines[-1]
    )
    fit(learned, epochs=3, batch_size=24, progress=False)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(learned, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")  # in a narrow one the numbers make room
    fit(learned, epochs=400, batch_size=24, progress=True)
    shown = capsys.readouterr().err
    assert "400/400" in shown
    assert "val/loss" in shown


def test_repeated_calls_keep_memory_flat(learned):
    fit(learned, **FIVE)
    before = len(jax.live_arrays())
    for _ in range(3):
        fit(
            learned,
            **FIVE,
            callbacks=[lambda p: jnp.sum(p.state.params["hidden"]["bias"])],
        )
    assert len(jax.live_arrays()) <= before


# Large data, foreign data, odd endings


def test_a_shuffle_that_takes_as_long_as_a_chunk_does_not_hold_training_up(
    learned, monkeypatch
):
    chunks, advance = [], InMemory.advance

    def counted(*args):
        chunks.append(1)
        return advance(*args)

    monkeypatch.setattr(InMemory, "advance", counted)
    data = regression(300_000)
    result = fit(learned, data, epochs=1, batch_size=64)
    assert int(result.state.step) == 4688
    assert len(chunks) < 50


def test_torch_tensors_and_loaders_are_taken(learned):
    import torch

    tensors = {name: torch.tensor(np.asarray(array)) for name, array in TRAIN.items()}
    kept = fit(learned, tensors, VAL, epochs=3, batch_size=24)
    assert_same_bits(kept.state, fit(learned, TRAIN, VAL, epochs=3, batch_size=24).state)
    loader = torch.utils.data.DataLoader(
        [{k: v[i] for k, v in tensors.items()} for i in range(24)], batch_size=24
    )
    np.testing.assert_allclose(
        fit(learned, loader, VAL, epochs=3).history["val/loss"],
        kept.history["val/loss"],
        rtol=1e-5,
    )


def test_ctrl_c_inside_a_stream_returns_the_newest_state(learned):
    class Pressed(Loader):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), 1):
                if number == 3:
                    raise KeyboardInterrupt
                yield batch

    stopped = fit(learned, Pressed(TRAIN, 6), VAL, epochs=5)
    assert int(stopped.state.step) == 2
    assert bool(stopped.stopped)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stopped.state.params))


def test_a_second_ctrl_c_in_a_stream_raises(learned):
    class PressedTwice(Loader):
        def __iter__(self):
            for batch in super().__iter__():
                signal.raise_signal(signal.SIGINT)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        fit(learned, PressedTwice(TRAIN, 6), VAL, epochs=5)


def test_how_to_stream_is_said_where_it_was_meant(learned):
    for batches in ([{"x": TRAIN["x"], "y": TRAIN["y"]}], lambda: iter(())):
        with pytest.raises(
            ValueError, match="To stream batches, pass an object that can be iterated"
        ):
            fit(learned, batches, VAL, epochs=1)


def test_fit_under_a_transformation_points_to_run(learned):
    learner, state = learned
    with pytest.raises(TypeError, match="use run"):
        jax.jit(
            lambda state: train.fit(
                learner, state, TRAIN, epochs=1, batch_size=8, progress=False
            )
        )(state)
