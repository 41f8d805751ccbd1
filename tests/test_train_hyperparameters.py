"""Hyperparameters that change between epochs: by a callback, by a plateau of validation, at a
resume. torch's ReduceLROnPlateau is the referee of the plateau.
"""

import functools
import warnings

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import optim, train
from dlwp_jax.optim.hyperparameters import hyperparameters
from tests.models import Plain, assert_same_bits, regression, squared_error

TRAIN, VAL = regression(24), regression(10, seed=1)
OPTIONS = {"epochs": 8, "batch_size": 24}
QUIET = OPTIONS | {"progress": False}


def learner_of(tx):
    return train.make_learner(Plain(nnx.Rngs(0)), squared_error, tx, key=jax.random.key(0))


@functools.cache  # equal learners share compiled programs
def injected(rate):
    return learner_of(optax.inject_hyperparams(optax.sgd)(learning_rate=rate))


def rate_of(state):
    return float(hyperparameters(state.opt_state)["learning_rate"])


def test_a_callback_changes_the_rate_of_the_epochs_after_it():
    def halve(progress):
        if progress.epoch == 4:
            progress.set_hyperparameters(learning_rate=0.05)

    changed = train.fit(*injected(0.1), TRAIN, VAL, **QUIET, callbacks=[halve])
    first = train.run(*injected(0.1), TRAIN, epochs=4, batch_size=24)
    learner, _ = injected(0.1)
    opt_state = optim.hyperparameters.with_hyperparameters(
        first.state.opt_state, {"learning_rate": 0.05}
    )
    state = first.state.__class__(**vars(first.state) | {"opt_state": opt_state})
    rest = train.run(learner, state, TRAIN, epochs=4, batch_size=24)
    assert_same_bits(rest.state, changed.state)


def test_a_changed_rate_is_resumed(tmp_path):
    def halve(progress):
        if progress.epoch == 2:
            progress.set_hyperparameters(learning_rate=0.05)
        return progress.epoch == 4

    train.fit(*injected(0.1), TRAIN, **QUIET, callbacks=[halve], checkpoint=tmp_path)
    resumed = train.fit(*injected(0.1), TRAIN, **QUIET, checkpoint=tmp_path)
    assert rate_of(resumed.state) == pytest.approx(0.05)


def test_what_cannot_be_changed_is_said():
    def wrong(progress):
        progress.set_hyperparameters(momentum=0.9)

    with pytest.raises(
        ValueError, match=r"no hyperparameter 'momentum' \(it has learning_rate"
    ):
        train.fit(*injected(0.1), TRAIN, **QUIET, callbacks=[wrong])
    schedule = injected(optax.linear_schedule(0.1, 0.0, 10))

    def change(progress):
        progress.set_hyperparameters(learning_rate=0.9)

    with pytest.raises(ValueError, match="learning_rate follows a schedule"):
        train.fit(*schedule, TRAIN, **QUIET, callbacks=[change])


def test_a_resume_with_another_rate_goes_on_with_it(tmp_path):
    train.fit(*injected(0.1), TRAIN, **QUIET | {"epochs": 2}, checkpoint=tmp_path)
    again = train.Checkpoint(tmp_path, extend=True, exact=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = train.fit(*injected(0.02), TRAIN, **QUIET, checkpoint=again)
    assert rate_of(resumed.state) == pytest.approx(0.02)
    assert int(resumed.state.epoch) == 8


def test_other_state_of_the_optimizer_is_not_taken_without_a_word(tmp_path):
    learner, state = learner_of(optax.sgd(0.1, momentum=0.9))
    short = QUIET | {"epochs": 2}
    first = train.fit(learner, state, TRAIN, **short, checkpoint=tmp_path)
    again = train.Checkpoint(tmp_path, extend=True, exact=False)
    other = state.__class__(**vars(state) | {"opt_state": first.state.opt_state})
    with pytest.warns(RuntimeWarning, match="optimizer's state of the checkpoint"):
        train.fit(learner, other, TRAIN, **QUIET, checkpoint=again)


@functools.cache
def plateau(rate, monitor):
    """Patience 0 and a high threshold, so that the rate falls within a few epochs."""
    options = {"factor": 0.5, "patience": 0, "threshold": 0.2}
    tx = optax.chain(
        optim.sgd(rate), optim.reduce_lr_on_plateau(rate, monitor=monitor, **options)
    )
    return learner_of(tx), options


@pytest.mark.parametrize("monitor", ["val/loss", "train/mae"])
def test_the_rate_falls_as_torchs_scheduler_lets_it(monitor):
    learned, options = plateau(0.1, monitor)
    ran = train.run(*learned, TRAIN, VAL, **OPTIONS)
    if monitor == "val/loss":
        assert_same_bits(ran, train.fit(*learned, TRAIN, VAL, **QUIET))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    for value in np.asarray(ran.history[monitor]).tolist():
        scheduler.step(value)
    assert optimizer.param_groups[0]["lr"] < 0.1
    rate = float(ran.state.opt_state[1].lr)
    assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)


def test_a_plateau_is_resumed_exactly(tmp_path):
    learned, _ = plateau(0.1, "val/loss")
    whole = train.fit(*learned, TRAIN, VAL, **QUIET)
    stop = [lambda progress: progress.epoch == 3]
    train.fit(*learned, TRAIN, VAL, **QUIET, checkpoint=tmp_path, callbacks=stop)
    assert_same_bits(whole, train.fit(*learned, TRAIN, VAL, **QUIET, checkpoint=tmp_path))


def test_a_plateau_of_what_is_not_recorded_is_refused():
    learned, _ = plateau(0.1, "val/loss")
    with pytest.raises(ValueError, match="monitor='val/loss' is not recorded"):
        train.run(*learned, TRAIN, **OPTIONS)
    train.train_epoch(*learned, TRAIN, batch_size=8)  # an epoch by itself has no history


def test_jaxs_alarms_are_silent_around_a_healthy_training():
    learned = learner_of(optax.adam(0.01))
    stop = train.EarlyStopping(1, min_delta=100.0)
    with jax.debug_nans(True), jax.debug_infs(True):
        result = train.fit(*learned, TRAIN, VAL, **QUIET, stop=stop)
    assert bool(result.stopped)


def test_a_resume_changes_the_rate_of_one_group_alone(tmp_path):
    """optax's own state of the optimizer that was asked for says which rates are right."""

    def groups(rate):
        make = optax.inject_hyperparams(optax.sgd)
        each = {"a": make(learning_rate=rate), "b": make(learning_rate=0.01)}
        return learner_of(optax.partition(each, lambda params: _groups_of(params)))

    short = QUIET | {"epochs": 1}
    train.fit(*groups(0.1), TRAIN, **short, checkpoint=tmp_path)
    learner, state = groups(0.2)
    again = train.Checkpoint(tmp_path, extend=True, exact=False)
    resumed = train.fit(learner, state, TRAIN, **short | {"epochs": 2}, checkpoint=again)
    for name in ("a", "b"):
        wanted = hyperparameters(state.opt_state.inner_states[name])
        assert_same_bits(wanted, hyperparameters(resumed.state.opt_state.inner_states[name]))


def _groups_of(params):
    def group(path, _):
        return "a" if "kernel" in jax.tree_util.keystr(path) else "b"

    return jax.tree_util.tree_map_with_path(group, params)


def test_one_array_may_be_set_again_and_again():
    """A chunk gives its buffers away; the caller's array must not be among them (JAX says)."""
    rate = np.float32(0.05)
    on_device = jax.numpy.asarray(rate)

    def change(progress):
        progress.set_hyperparameters(learning_rate=on_device)

    options = QUIET | {"epochs": 3}
    result = train.fit(*injected(0.1), TRAIN, **options, callbacks=[change])
    assert rate_of(result.state) == float(on_device) == rate


def test_a_fraction_is_not_cut_to_a_whole_number():
    def change(progress):
        progress.set_hyperparameters(learning_rate=0.3)

    with pytest.raises(ValueError, match=r"whole number \(int32\), and 0.3 would be cut"):
        train.fit(*injected(1), TRAIN, **QUIET, callbacks=[change])


def test_jaxs_alarm_for_infinity_is_silent_with_a_plateau():
    with jax.debug_infs(True):
        learned, _ = plateau(0.1, "val/loss")
        train.fit(*learned, TRAIN, VAL, **QUIET | {"epochs": 1})
