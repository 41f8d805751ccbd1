"""`evaluate` and `predict`, and validation within a training."""

import numpy as np
import pytest

from dlwp_jax import train
from tests.models import learner_of, squared_error
from tests.regressions import EVEN, TRAIN, VAL


def test_evaluate_weights_every_example_alike_whatever_the_batches():
    learner, state = learner_of()
    whole = train.evaluate(learner, state, TRAIN)
    model = learner.model(state)
    expected, metrics = squared_error(model, TRAIN)
    np.testing.assert_allclose(
        [whole["loss"], whole["mae"]], [expected, metrics["mae"]], rtol=1e-6
    )
    for batch_size in (5, 36, 1000):
        logs = train.evaluate(learner, state, TRAIN, batch_size=batch_size)
        np.testing.assert_allclose(
            logs["loss"], whole["loss"], rtol=1e-6
        )  # float32 sums in another order


def test_validation_sees_the_running_statistics_and_no_dropout():
    learner, state = learner_of()
    # The program of the seven epochs above.
    result = train.run(learner, state, EVEN, VAL, epochs=7, batch_size=8)
    np.testing.assert_allclose(
        result.history["val/loss"][-1],
        train.evaluate(learner, result.state, VAL)["loss"],
        rtol=1e-6,
    )


def test_predict_in_batches_equals_predict_at_once():
    learner, state = learner_of()
    whole = train.predict(learner, state, VAL["x"])
    assert whole.shape == (10, 1)
    np.testing.assert_allclose(whole, learner.model(state)(VAL["x"]), rtol=1e-6)
    np.testing.assert_allclose(
        train.predict(learner, state, VAL["x"], batch_size=4), whole, rtol=1e-6
    )


def test_a_whole_batch_is_no_input():
    """Referee: the batch, which has an "x" for the model and a "y" that only the loss reads."""
    with pytest.raises(Exception, match=r"such as batch\['x'\]"):
        train.predict(*learner_of(), VAL)
