"""Histories written while they grow. Referees: the history of a training that was never
interrupted, and TensorBoard's own format as tensorboardX reads it.
"""

import csv
import struct
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import checkpoint, train
from tests.models import Plain, regression, squared_error

TRAIN, VAL = regression(16), regression(8, seed=1)


def with_metric(model, batch):
    loss, metrics = squared_error(model, batch)
    return loss, metrics | {"twice": 2 * loss}


def learner_of(loss_fn=squared_error, rate=0.1):
    tx = optax.sgd(rate)
    return train.make_learner(Plain(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0))


@pytest.fixture(scope="module")
def learned():
    return learner_of()


def fit(pair, epochs, *callbacks, **options):
    return train.fit(
        *pair,
        TRAIN,
        VAL,
        epochs=epochs,
        batch_size=16,
        callbacks=callbacks,
        progress=False,
        **options,
    )


def columns(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [float(row[name]) if row[name] else np.nan for row in rows] for name in rows[0]
    }


def assert_holds(path, history):
    found = columns(path)
    assert found.pop("epoch") == [*range(1, len(history["train/loss"]) + 1)]
    for name, values in history.items():
        np.testing.assert_array_equal(np.float32(found[name]), np.float32(values), name)


def stop_after(epoch):
    return lambda progress: progress.epoch == epoch


def fail_after(epoch):
    def fail(progress):
        if progress.epoch == epoch:
            raise OSError("the power went")

    return fail


def test_a_file_goes_on_where_the_training_does(learned, tmp_path):
    path = tmp_path / "new" / "history.csv"
    often = train.Checkpoint(tmp_path / "saved", every_epochs=2)
    with pytest.raises(OSError, match="power"):
        fit(learned, 6, train.to_csv(path), fail_after(3), checkpoint=often)
    path.write_bytes(path.read_bytes()[:-3])  # and the last line was cut off
    history = fit(learned, 6, train.to_csv(path), checkpoint=often).history
    assert_holds(path, history)
    assert [file.name for file in path.parent.iterdir()] == ["history.csv"]


def test_a_state_that_goes_on_keeps_its_earlier_epochs(learned, tmp_path):
    path = tmp_path / "history.csv"
    learner, _ = learned
    callback = train.to_csv(path)
    first = fit(learned, 2, callback)
    fit((learner, first.state), 3, train.every(2, callback))
    assert_holds(path, fit(learned, 5).history)


def test_the_file_of_another_training_is_kept(learned, tmp_path):
    path = tmp_path / "history.csv"
    old = fit(learned, 3, train.to_csv(path))
    new = fit(learner_of(rate=0.01), 2, train.to_csv(path))
    assert_holds(path, new.history)
    assert_holds(tmp_path / "history.1.csv", old.history)
    path.write_text("date,price\n1,2\n")
    fit(learned, 1, train.to_csv(path))
    assert (tmp_path / "history.2.csv").read_text() == "date,price\n1,2\n"
    with pytest.raises(IsADirectoryError, match="is a folder"):
        train.to_csv(tmp_path)


def test_a_metric_may_be_added_to_a_resumed_training(learned, tmp_path):
    path = tmp_path / "history.csv"
    fit(learned, 4, train.to_csv(path), stop_after(2), checkpoint=tmp_path / "saved")
    added = learner_of(with_metric)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"no values of train/twice, val/twice.*exact=False"
    ):
        fit(added, 4, checkpoint=tmp_path / "saved")
    inexact = train.Checkpoint(tmp_path / "saved", exact=False)
    history = fit(added, 4, train.to_csv(path), checkpoint=inexact).history
    whole = fit(added, 4).history
    assert np.isnan(history["val/twice"][:2]).all()
    for name in whole:
        np.testing.assert_array_equal(history[name][2:], whole[name][2:])
    np.testing.assert_array_equal(history["val/loss"], whole["val/loss"])
    assert_holds(path, history)


def test_the_display_has_the_monitored_value(learned, capsys):
    stop = train.EarlyStopping(50, monitor="val/twice")
    train.fit(*learner_of(with_metric), TRAIN, VAL, epochs=2, batch_size=16, stop=stop)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "val/loss" in last
    assert "val/twice" in last


def events(directory):
    """The values that TensorBoard shows: `{name: {step: value}}`."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    shown = {}
    for file in sorted(directory.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                for values in shown.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


def test_tensorboards_curves_go_on_where_the_training_does(learned, tmp_path):
    pytest.importorskip("tensorboardX")
    learner, _ = learned
    directory = tmp_path / "board"
    often = train.Checkpoint(tmp_path / "saved", every_epochs=2)
    with pytest.raises(OSError, match="power"):
        fit(learned, 4, train.to_tensorboard(directory), fail_after(3), checkpoint=often)
    first = fit(learned, 4, train.to_tensorboard(directory), checkpoint=often)
    fit((learner, first.state), 2, train.to_tensorboard(directory))
    shown = events(directory)
    for name, values in fit(learned, 6).history.items():
        assert [*shown[name]] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_array_equal(np.float32([*shown[name].values()]), values)


def test_without_tensorboardx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ImportError, match=r"tensorboardX is needed: pip install 'dlwp-jax\[tensorboard\]'"
    ):
        train.to_tensorboard(tmp_path)
