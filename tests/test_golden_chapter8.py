"""Chapter 8's networks against the recorded outputs and trainings of the book's own published
code (the referee).

Losses in float32 part as rounding grows; the tolerances are twenty times the distance of the
book's own float32 run from its float64 run. In float64 all steps agree.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import losses, nn, optim, parity, regularization
from experiments.nodules.detector import unfilled
from tests.golden import (
    assert_early_steps_agree_more,
    assert_same_weights,
    last,
    trained,
    trained_in_double,
)


def pictures(recorded):
    """`[n 32 32 3]` from -1 to 1, as the networks get them."""
    return last(recorded["image"]) / np.float32(127.5) - 1


@pytest.mark.parametrize(
    ("network", "options", "weights", "outputs"),
    [
        (nn.ConvNet, {}, "net.pt", "net.npz"),
        (nn.ConvNet, {"channels": 32}, "net_width.pt", "net_width.npz"),
        (nn.NetDropout, {}, "net_dropout.pt", "net_dropout.npz"),
        (nn.NetBatchNorm, {}, "net_batch_norm.pt", "net_batch_norm.npz"),
        (nn.NetDepth, {}, "net_depth.pt", "net_depth.npz"),
        (nn.NetRes, {}, "net_res.pt", "net_res.npz"),
        (nn.NetResDeep, {}, "net_res_deep.pt", "net_res_deep.npz"),
    ],
)
def test_the_networks_give_the_books_logits(golden, network, options, weights, outputs):
    model = unfilled(lambda: network(**options, rngs=nnx.Rngs(0)))
    loaded = parity.load_torch(model, golden / weights)
    assert {entry.found_by for entry in loaded.map.entries} == {"name"}
    model.eval()
    recorded = np.load(golden / outputs)
    logits = jax.jit(lambda x: model(x))(pictures(recorded))
    np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-4, atol=1e-5)


def cross_entropy(model, batch):
    loss = losses.cross_entropy(model(batch["image"]), batch["label"])
    return loss, {"recorded": loss}


def penalised(model, batch):
    """The book adds the squares of all parameters, and records the loss without them."""
    loss, logs = cross_entropy(model, batch)
    return loss + 0.001 * regularization.l2(model), logs


@dataclass(frozen=True)
class Training:
    """One recorded training, and the tolerances of the golden README for it."""

    network: type[nnx.Module]
    options: dict[str, Any]
    start: str
    recorded: str
    end: str
    rate: float
    weights: float
    losses: dict[int, float] | None = None  # of the trainings that are taken in float32 too
    loss_fn: Any = cross_entropy


TRAININGS = {
    "Net": Training(
        nn.ConvNet,
        {},
        start="net_start.pt",
        recorded="net_trajectory.npz",
        end="net_end.pt",
        rate=0.01,
        losses={50: 1e-5},
        weights=1e-4,
    ),
    "Net with L2": Training(
        nn.ConvNet,
        {},
        start="net_l2_start.pt",
        recorded="net_l2_trajectory.npz",
        end="net_l2_end.pt",
        rate=0.01,
        weights=1e-4,
        loss_fn=penalised,
    ),
    "NetBatchNorm": Training(
        nn.NetBatchNorm,
        {},
        start="net_batch_norm_start.pt",
        recorded="net_batch_norm_trajectory.npz",
        end="net_batch_norm_end.pt",
        rate=0.01,
        losses={5: 1e-5, 10: 4e-5, 25: 4e-4, 50: 1e-3},
        weights=2e-3,
    ),
    # The book's listing repeats one block ten times.
    "NetResDeep": Training(
        nn.NetResDeep,
        {"shared": True},
        start="net_res_deep_start.pt",
        recorded="net_res_deep_trajectory.npz",
        end="net_res_deep_end.pt",
        rate=0.003,
        weights=1e-3,
    ),
}


def start(golden, training):
    """The model with the book's first weights, its loading, the record and its batches."""
    model = unfilled(lambda: training.network(**training.options, rngs=nnx.Rngs(0)))
    loaded = parity.load_torch(model, golden / training.start)
    recorded = np.load(golden / training.recorded)
    images, labels = pictures(recorded), recorded["label"].astype(np.int32)
    batches = [{"image": images[rows], "label": labels[rows]} for rows in recorded["row"]]
    return model, loaded, recorded, batches


# A plain one, and one whose statistics float32 holds too.
@pytest.mark.parametrize("name", ["Net", "NetBatchNorm"])
def test_a_training_in_float32_takes_the_books_way(golden, name):
    training = TRAININGS[name]
    assert training.losses
    model, loaded, recorded, batches = start(golden, training)
    tx = optim.sgd(training.rate)
    ours, model = trained(model, training.loss_fn, tx, batches, log="recorded")
    assert_early_steps_agree_more(ours, recorded["losses"], training.losses)
    assert_same_weights(model, loaded, golden / training.end, training.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_in_float64_takes_the_books_way_at_every_step(golden, name):
    training = TRAININGS[name]
    model, loaded, recorded, batches = start(golden, training)
    tx = optim.sgd(training.rate)
    ours, model = trained_in_double(model, training.loss_fn, tx, batches, log="recorded")
    np.testing.assert_allclose(ours, recorded["losses_float64"], rtol=1e-6)
    # The recorded last weights are of a run in float32, which that tolerance is for.
    assert_same_weights(model, loaded, golden / training.end, training.weights)
