"""Trainings that are broken off and go on: fixtures and helpers of the tests
of `saving` and of `train.resume`.
"""

import shutil

import jax
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from tests.models import Stochastic, regression, squared_error

TRAIN, VAL = regression(37), regression(10, seed=1)
OPTIONS = {"epochs": 6, "batch_size": 8, "stop": train.EarlyStopping(5), "progress": False}


class Broken(Exception):
    """Raised by a callback or a stream to break a training off."""


def learner_of(model=Stochastic, tx=None, seed=0, loss_fn=squared_error):
    return train.make_learner(
        model(nnx.Rngs(seed)), loss_fn, tx or optax.adam(1e-2), key=jax.random.key(0)
    )


@pytest.fixture(scope="session")
def learned():
    return learner_of()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


def files_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def listing(directory):
    return {
        p.relative_to(directory): p.read_bytes()
        for p in files_of(directory)
        if p.name != "lock"
    }
