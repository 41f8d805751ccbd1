"""Transformers written in torch (the referee), from a file to proved equal and training on."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import losses, nn, parity, train
from tests.nn_parity import random

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")


class TorchEncoder(torch.nn.Module):
    """Classifies a text, whose padding has token 0."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(11, 8, padding_idx=0)
        layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, tokens):
        padding = tokens == 0
        x = self.encoder(self.tokens(tokens), src_key_padding_mask=padding)
        kept = (~padding)[..., None]
        return self.head((x * kept).sum(1) / kept.sum(1))


class Encoder(nnx.Module):
    def __init__(self, *, rngs):
        self.tokens = nn.Embedding(11, 8, padding_idx=0, rngs=rngs)
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, rngs=rngs)
        self.encoder = nn.TransformerEncoder(layer, 2, rngs=rngs)
        self.head = nn.Linear(8, 3, rngs=rngs)

    def __call__(self, tokens):
        padding = tokens == 0
        x = self.encoder(self.tokens(tokens), src_key_padding_mask=padding)
        kept = (~padding)[..., None]
        return self.head((x * kept).sum(1) / kept.sum(1))


class TorchViT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(1, 8, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.positions = torch.nn.Parameter(torch.randn(1, 5, 8))
        layer = torch.nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = torch.nn.LayerNorm(8)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, image):
        x = self.patches(image).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class ViT(nnx.Module):
    def __init__(self, *, rngs):
        self.patches = nn.Conv2d(1, 8, 4, 4, rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs(), (1, 1, 8)))
        self.positions = nnx.Param(jax.random.normal(rngs(), (1, 5, 8)))
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True, rngs=rngs
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), rngs=rngs)
        self.head = nn.Linear(8, 3, rngs=rngs)

    def __call__(self, image):
        x = self.patches(image).reshape(len(image), 4, 8)
        token = jax.numpy.broadcast_to(self.token[...], (len(x), 1, 8))
        x = jax.numpy.concatenate([token, x], 1) + self.positions[...]
        return self.head(self.encoder(x)[:, 0])


TEXTS = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0], [10, 1, 2, 3]])
MODELS = {
    "encoder": (TorchEncoder, Encoder, TEXTS),
    "ViT": (TorchViT, ViT, random(4, 1, 8, 8)),
}
LABELS = np.array([0, 1, 2, 1])


@pytest.mark.parametrize("name", MODELS)
def test_from_a_file_to_proved_equal_and_training_on(name, tmp_path):
    make_theirs, make_ours, x = MODELS[name]
    torch.manual_seed(1)
    theirs = make_theirs()
    opt = torch.optim.AdamW(theirs.parameters(), 1e-2)
    targets = torch.tensor(LABELS)
    for _ in range(3):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), targets).backward()
        opt.step()
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    from_file = make_ours(rngs=nnx.Rngs(0))
    parity.load_torch(from_file, tmp_path / "model.pt")

    # What a user writes:
    ours = make_ours(rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, x, loaded=loaded, double=True).raise_if_different()
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    learner, state = train.make_learner(ours, loss_fn, tx, key=jax.random.key(0))
    state = dataclasses.replace(state, opt_state=opt_state)

    of_file, of_module = (jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (from_file, ours))
    assert all(map(np.array_equal, of_file, of_module))
    given = [(x, LABELS), (x[::-1].copy(), LABELS[::-1].copy())] * 2
    steps = parity.compare_steps(theirs, opt, learner, state, given, torch_loss)
    assert steps.ok, str(steps)
    back = parity.to_torch(ours, loaded)
    assert back.keys() == theirs.state_dict().keys()
    for key, value in torch.load(tmp_path / "model.pt").items():
        torch.testing.assert_close(back[key], value)


def torch_loss(model, batch):
    x, labels = batch
    return torch.nn.functional.cross_entropy(model(x), labels)


def loss_fn(model, batch):
    x, labels = batch
    return losses.cross_entropy(model(x), labels), {}


@pytest.mark.slow
def test_a_wrong_option_is_found():
    """torch's shortcut for evaluation, which zeroes padded positions, is not what differs."""
    theirs, ours = TorchEncoder().eval().requires_grad_(False), Encoder(rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    assert parity.compare(theirs.encoder, ours.encoder, random(2, 4, 8)).ok
    ours.encoder.layers[1].norm_first = True
    report = parity.compare(theirs, ours, TEXTS)
    assert not report.ok
    assert "encoder.layers.1" in str(report)


def test_dropout_of_attention_weights_is_seen():
    theirs = torch.nn.MultiheadAttention(8, 2, dropout=0.1)
    ours = nn.MultiheadAttention(8, 2, dropout=0.1, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    x = random(5, 3, 8)
    report = parity.compare(theirs, ours, x, x, x)
    assert report.ok
    assert "dropout not compared" in str(report)
    with pytest.raises(ValueError, match="is random in train mode"):
        parity.compare(theirs, ours, x, x, x, train=True)
