"""Attention and the networks of the second edition's chapter 9 against the recorded outputs and
trainings of the book's own published code (the referee).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import losses, models, nn, optim, parity
from tests.golden import (
    assert_same_weights,
    trained,
    trained_in_double,
)


class Network(NamedTuple):
    """A network of the book's, and its recorded files."""

    make: Callable[[], Any]
    start: str
    end: str
    logits: str
    trajectory: str
    lr: float


NETWORKS = {
    "mlp": Network(
        lambda: models.SequenceMLP(27, 11, rngs=nnx.Rngs(0)),
        "sequence_mlp_start.pt",
        "sequence_mlp_end.pt",
        "sequence_mlp_logits.npz",
        "sequence_mlp_trajectory.npz",
        0.1,
    ),
    "attention": Network(
        lambda: models.AttentionMLP(32, 27, rngs=nnx.Rngs(0)),
        "attention_mlp_start.pt",
        "attention_mlp_end.pt",
        "attention_mlp_logits.npz",
        "attention_mlp_trajectory.npz",
        0.01,
    ),
    "transformer": Network(
        lambda: models.SequenceTransformer(27, 11, rngs=nnx.Rngs(0)),
        "transformer_start.pt",
        "transformer_end.pt",
        "transformer_logits.npz",
        "transformer_trajectory.npz",
        0.1,
    ),
}


def network(golden, name, file=None):
    """The network with recorded weights, its first ones by default, and its loading."""
    model = NETWORKS[name].make()
    rules = [("mask", None)] if name == "attention" else []
    return model, parity.load_torch(model, golden / (file or NETWORKS[name].start), rules=rules)


# Attention

attend = jax.jit(nn.scaled_dot_product_attention, static_argnames=("scale", "is_causal"))


@pytest.mark.parametrize(
    "file", ["attention_single.npz", "attention_causal.npz", "attention_heads.npz"]
)
def test_attention(golden, file):
    recorded = np.load(golden / file)
    query, key, value = recorded["query"], recorded["key"], recorded["value"]
    # The first cell of the notebook has no scale yet.
    scale = None if "weights" in recorded else 1.0
    causal = "weights" in recorded and not recorded["weights"][..., 0, 1].any()
    options = {"scale": scale, "is_causal": causal}
    output = attend(query, key, value, **options)
    np.testing.assert_allclose(output, recorded["output"], rtol=1e-5, atol=1e-7)
    if "weights" in recorded:
        each = np.broadcast_to(
            np.eye(key.shape[-2], dtype="f"), (*key.shape[:-1], key.shape[-2])
        )
        weights = attend(query, key, each, **options)
        np.testing.assert_allclose(weights, recorded["weights"], rtol=1e-5, atol=1e-7)
    linear = nn.linear(recorded["x"], recorded["query_weight"].T, recorded["query_bias"])
    np.testing.assert_allclose(linear, query, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "scale"),
    [
        ("sinusoidal_128_points.npz", 1.0),
        ("sinusoidal_128_t.npz", 1.0),
        ("sinusoidal_32_scaled.npz", 25.0),
    ],
)
def test_sines_and_cosines(golden, file, scale):
    recorded = np.load(golden / file)
    size = recorded["embedding"].shape[1]
    ours = nn.sinusoidal_embedding(recorded["x"], size, scale)
    np.testing.assert_allclose(ours, recorded["embedding"], rtol=0, atol=1e-4)


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(golden, name):
    recorded = np.load(golden / NETWORKS[name].logits)
    model, _ = network(golden, name)
    graph, start = nnx.split(model)
    end = nnx.state(network(golden, name, NETWORKS[name].end)[0])

    @jax.jit
    def forward(state, tokens):
        return nnx.merge(graph, state, copy=True)(tokens)

    @jax.jit
    def decode(tokens, cache, position):
        return nnx.merge(graph, end, copy=True).decode(tokens, cache, position)

    tokens = recorded["x"]
    # With a cache: a prompt of three tokens, then one after the other.
    parts, cache = [], model.make_cache(len(tokens), 6)
    for first, last in ((0, 3), (3, 4), (4, 5), (5, 6)):
        logits, cache = decode(tokens[:, first:last], cache, first)
        parts.append(logits)
    short = forward(end, tokens[:, :6])
    found = (forward(start, tokens), forward(end, tokens), short, np.concatenate(parts, 1))
    names = ("logits_start", "logits_end", "logits_end_short", "logits_end_short")
    for logits, wanted in zip(found, names, strict=True):
        np.testing.assert_allclose(logits, recorded[wanted], rtol=1e-4, atol=1e-5)


def test_attention_weights(golden):
    recorded = np.load(golden / "attention_mlp_logits.npz")
    model, _ = network(golden, "attention")
    weights = jax.jit(lambda x: model.attention_weights(x))(recorded["x"])
    np.testing.assert_allclose(weights, recorded["attention_weights"], rtol=1e-4, atol=1e-5)


# Trainings


def loss_fn(model, batch):
    return losses.cross_entropy(
        model(batch["x"]).reshape(-1, 27), batch["y"].reshape(-1), ignore_index=-1
    ), {}


def record(golden, name, steps=None):
    recorded = np.load(golden / NETWORKS[name].trajectory)
    pairs = list(zip(recorded["inputs"], recorded["labels"], strict=True))[:steps]
    return recorded, [{"x": x, "y": y.astype(np.int32)} for x, y in pairs]


def test_a_training_in_float32_takes_the_books_way(golden):
    model, loaded = network(golden, "mlp")
    recorded, batches = record(golden, "mlp")
    ours, model = trained(model, loss_fn, optim.sgd(NETWORKS["mlp"].lr), batches)
    np.testing.assert_allclose(ours, recorded["losses"], rtol=0, atol=1e-5)
    assert_same_weights(model, loaded, golden / NETWORKS["mlp"].end, atol=1e-4)


def test_the_transformers_first_steps_in_float32(golden):
    """The rounding of the 275 steps behind them would hide more than it shows."""
    model, loaded = network(golden, "transformer")
    recorded, batches = record(golden, "transformer", 25)
    ours, model = trained(model, loss_fn, optim.sgd(0.1), batches)
    np.testing.assert_allclose(ours, recorded["losses"][:25], rtol=0, atol=1e-5)
    assert_same_weights(model, loaded, golden / "transformer_step25.pt", atol=2e-5)


SLOW = pytest.param("transformer", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["mlp", "attention", SLOW])
def test_a_training_in_float64_takes_the_books_way_at_every_step(golden, name):
    model, loaded = network(golden, name)
    recorded, batches = record(golden, name)
    ours, model = trained_in_double(model, loss_fn, optim.sgd(NETWORKS[name].lr), batches)
    np.testing.assert_allclose(ours, recorded["losses_float64"], rtol=1e-6)
    if name == "transformer":
        assert_same_weights(model, loaded, golden / "transformer_end_float64.pt", atol=1e-6)
    else:  # recorded in float32
        assert_same_weights(model, loaded, golden / NETWORKS[name].end, atol=1e-4)
