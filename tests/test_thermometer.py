"""Chapter 5's experiment against torch, epoch by epoch, and as a person runs it."""

import json
import re

import jax
import numpy as np
import optax
import pytest
import torch

from dlwp_jax import train
from experiments import ch05_thermometer as experiment
from tests.reference import thermometer as reference


def epoch_by_epoch(tx, epochs, scale):
    """Loss, w and b before every epoch's step."""

    def loss_fn(line, batch):
        return experiment.loss_fn(line, batch)[0], {"w": line.w[...], "b": line.b[...]}

    learner, state = train.make_learner(experiment.Line(), loss_fn, tx, key=jax.random.key(0))
    result = train.run(learner, state, experiment.readings(scale), epochs=epochs, batch_size=11)
    return result, [
        np.asarray(result.history[f"train/{name}"], np.float64) for name in ("loss", "w", "b")
    ]


@pytest.mark.parametrize(
    ("tx", "torch_class", "lr", "epochs", "scale", "rtol", "atol"),
    [
        # Plain gradient descent on a well-scaled bowl forgets its rounding errors: five digits
        # stay right throughout.
        (optax.sgd(1e-2), torch.optim.SGD, 1e-2, 5000, 0.1, 1e-5, 1e-5),
        (optax.sgd(1e-4), torch.optim.SGD, 1e-4, 100, 1.0, 1e-5, 1e-6),
        # Adam divides the gradient by its own size, so near the minimum, where the gradient is
        # a difference of nearly
        # equal float32 sums, its rounding error moves the parameters by up to lr times that
        # error's share.
        (optax.adam(1e-1), torch.optim.Adam, 1e-1, 2000, 1.0, 5e-4, 5e-4),
    ],
    ids=["SGD 5000", "SGD raw", "Adam"],
)
def test_every_epoch_equals_torch(tx, torch_class, lr, epochs, scale, rtol, atol):
    _, ours = epoch_by_epoch(tx, epochs, scale)
    theirs = reference.train(torch_class, lr, epochs=epochs, scale=scale)
    for name, mine, its in zip(("loss", "w", "b"), ours, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=rtol, atol=atol, err_msg=name)


def test_divergence_at_the_same_epoch_as_torch():
    result, (losses, _, _) = epoch_by_epoch(optax.sgd(1e-2), 100, 1.0)
    theirs, _, _ = reference.train(torch.optim.SGD, 1e-2, epochs=100)
    first = int(np.flatnonzero(~np.isfinite(theirs))[0]) + 1
    assert result.failure.tolist() == [first, 1] == [11, 1]
    np.testing.assert_allclose(losses[: first - 1], theirs[: first - 1], rtol=1e-5)
    assert np.isinf(losses[first - 1])


@pytest.mark.usefixtures("compiled_as_for_users")
def test_the_three_training_loops_are_equal_to_the_bit():
    """The referees are the loop that is written out, and Optax."""
    batch, epochs = experiment.readings(0.1), 500
    params, losses = experiment.train_by_hand(batch, 1e-2, epochs)
    assert losses[-1] < losses[0]
    others = experiment.train_with_optax(batch, optax.sgd(1e-2), epochs)
    result = experiment.train_with_run(batch, optax.sgd(1e-2), epochs)
    for w_and_b, history in (
        others,
        (experiment.parameters(result), result.history["train/loss"]),
    ):
        assert {name: float(value) for name, value in w_and_b.items()} == params
        np.testing.assert_array_equal(losses, history)
    _, adam = experiment.train_with_optax(batch, optax.adam(1e-1), epochs)
    result = experiment.train_with_run(batch, optax.adam(1e-1), epochs)
    np.testing.assert_array_equal(adam, result.history["train/loss"])


def test_the_experiment_as_a_person_runs_it(tmp_path, capsys):
    experiment.main(experiment.Config(out=tmp_path))
    shown = capsys.readouterr().out
    assert "DIFFERS" not in shown
    assert "of 29 figures" in shown
    assert json.loads((tmp_path / "ch05_thermometer" / "config.json").read_text())["seed"] == 0
    lines = (tmp_path / "ch05_thermometer" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 3000
    assert set(json.loads(lines[-1])) == {"epoch", "train/loss", "val/loss"}
    for picture in ("fit.png", "loss.png"):
        assert (tmp_path / "ch05_thermometer" / picture).read_bytes().startswith(b"\x89PNG")
    validation, training = (int(flops) for flops in re.findall(r"(\d+) flops", shown))
    assert validation < training / 2  # no backward pass was compiled
