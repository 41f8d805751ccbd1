"""The diagnosis of a history: the four panels of chapter 5, what must not change a verdict, wrong input."""

import numpy as np
import pytest

from dlwp_jax.diagnose import VERDICTS, diagnose

EPOCHS = np.arange(1, 101)
FALLING = 0.2 + 2 * np.exp(-EPOCHS / 10)


def noise(seed):
    return 0.01 * np.random.default_rng(seed).normal(size=len(EPOCHS))


def panel(train, val):
    return {"train/loss": train + noise(0), "val/loss": val + noise(1)}


PANELS = {
    "not learning": panel(np.full(100, 2.0), np.full(100, 2.1)),
    "overfitting": panel(FALLING - 0.001 * EPOCHS, FALLING + 0.002 * EPOCHS),
    "good fit": panel(FALLING, FALLING),
    "overfitting under control": panel(FALLING, FALLING + 0.2),
}


@pytest.mark.parametrize("verdict", PANELS)
def test_the_four_panels_of_chapter_5(verdict):
    diagnosis = diagnose(PANELS[verdict])
    assert diagnosis.verdict == verdict
    assert diagnosis.verdict in VERDICTS
    assert str(diagnosis).splitlines() == [verdict, str(diagnosis).splitlines()[1], diagnosis.advice[0]]
