"""A checkpoint of another training is refused by name."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from dlwp_jax import checkpoint, train
from dlwp_jax.train import identity
from dlwp_jax.train.plan import make_plan
from tests.models import Plain, Stochastic, assert_same_bits, regression, squared_error
from tests.resuming import (  # noqa: F401
    TRAIN,
    VAL,
    again,
    directory,
    interrupted,
    learned,
    learner_of,
    listing,
    whole,
)


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
