"""`fit(..., checkpoint=...)`: a training that was broken off and is called again gives the
bits of one that was not.
"""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlwp_jax import checkpoint, train
from dlwp_jax.train import sources
from tests.models import Scalar, assert_same_bits, compilations
from tests.resuming import (  # noqa: F401
    OPTIONS,
    TRAIN,
    VAL,
    Broken,
    again,
    break_off,
    directory,
    interrupted,
    learned,
    whole,
)


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


def test_a_parameter_of_a_python_number_is_resumed_by_the_same_program(tmp_path):
    """Weakly typed, as the number was, it would make another one."""

    def loss_fn(model, batch):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    learned = train.make_learner(Scalar(0.5), loss_fn, optax.adam(1e-2), key=jax.random.key(0))
    assert not learned[1].params["w"].weak_type
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
