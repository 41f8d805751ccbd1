"""Chapter 8's networks trained in torch and here, from the same weights and batches: the same
loss at every step.

Two proofs. `parity.compare_steps` starts every step from torch's parameters: a difference is a
wrong loss, gradient or update, not rounding that has grown. The free run is what a person sees,
two trainings that never look at each other; there rounding does grow, so it has a horizon.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import losses, nn, optim, parity, train
from tests.reference import book_networks as reference

STEPS, BATCH, RATE = 40, 8, 0.05
NETWORKS = {
    "ConvNet": {},
    "NetDropout": {"channels": 16},
    "NetBatchNorm": {"channels": 16},
    "NetRes": {"channels": 16},
    "NetResDeep": {"channels": 8, "n_blocks": 3},
}


class TorchMask(torch.nn.Module):
    """Stands where a dropout was: multiplies by the mask that the batch brings."""

    def forward(self, x):
        return x * self.mask


class Mask(nnx.Module):
    """The same here."""

    def __init__(self):
        self.mask = None

    def __call__(self, x):
        return x * self.mask


def dropout_masks(channels, rng):
    """What our own Dropout2d does to ones, in torch's layout: `[n c 1 1]`, 0 or 1 / (1 -
    0.4).
    """
    key = int(rng.integers(2**31))
    drop = nn.Dropout2d(0.4, rngs=nnx.Rngs(key))
    return np.moveaxis(np.asarray(drop(jnp.ones((BATCH, 1, 1, channels)))), -1, 1)


def batches(name, options):
    """Pictures of two kinds that can be told apart, in torch's layout, new ones every step."""
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        label = rng.integers(0, 2, BATCH)
        image = rng.standard_normal((BATCH, 3, 32, 32)) + 0.5 * label[:, None, None, None]
        batch = {"image": image.astype(np.float32), "label": label}
        if name == "NetDropout":
            batch["masks"] = [
                dropout_masks(c, rng) for c in (options["channels"], options["channels"] // 2)
            ]
        yield batch


def training(name, options):
    """Both models with the same weights, both optimizers, both losses."""
    torch.manual_seed(0)
    theirs, ours = (
        getattr(reference, name)(**options),
        getattr(nn, name)(**options, rngs=nnx.Rngs(0)),
    )
    parity.load_torch(ours, theirs)
    if name == "NetDropout":
        theirs.conv1_dropout, theirs.conv2_dropout = TorchMask(), TorchMask()
        ours.conv1_dropout, ours.conv2_dropout = Mask(), Mask()
    opt = torch.optim.SGD(theirs.parameters(), lr=RATE)
    learner, state = train.make_learner(ours, loss_fn, optim.sgd(RATE), key=jax.random.key(0))
    return theirs, opt, learner, state


def inject(model, batch):
    for layer, mask in zip(
        ("conv1_dropout", "conv2_dropout"), batch.get("masks", ()), strict=False
    ):
        getattr(model, layer).mask = mask
    return model


def loss_fn(model, batch):
    return losses.cross_entropy(inject(model, batch)(batch["image"]), batch["label"]), {}


def torch_loss(model, batch):
    return torch.nn.functional.cross_entropy(
        inject(model, batch)(batch["image"]), batch["label"]
    )


@pytest.mark.parametrize(("name", "options"), NETWORKS.items(), ids=NETWORKS)
def test_every_step_from_torch_s_parameters_is_torch_s_step(name, options):
    theirs, opt, learner, state = training(name, options)
    some = [batch for _, batch in zip(range(3), batches(name, options), strict=False)]
    report = parity.compare_steps(theirs, opt, learner, state, some, torch_loss)
    assert report.raise_if_different().rows[-1].step == 2


def torch_losses(name, options):
    """The losses of torch's own loop."""
    theirs, opt, *_ = training(name, options)
    theirs.train()
    values = []
    for batch in batches(name, options):
        loss = torch_loss(theirs, jax.tree.map(torch.tensor, batch))
        opt.zero_grad()
        loss.backward()
        opt.step()
        values.append(loss.item())
    return np.array(values)


def our_losses(name, options):
    """The losses of `train.train_epoch`, each batch a full-batch epoch of its own."""
    *_, learner, state = training(name, options)
    values = []
    for batch in batches(name, options):
        batch = jax.tree.map(lambda a: np.moveaxis(a, 1, -1) if a.ndim == 4 else a, batch)
        state, logs = train.train_epoch(learner, state, batch, batch_size=BATCH)
        values.append(float(logs["loss"][0]))
    return np.array(values)


@pytest.mark.parametrize(("name", "options"), NETWORKS.items(), ids=NETWORKS)
@pytest.mark.slow
def test_two_trainings_that_never_meet_have_the_same_losses(name, options):
    """Forty steps, in which every network learns (the loss falls by 10 to 95 percent).

    Over this horizon torch's losses in float32 were within 4.4e-7 of those in float64, and ours
    within 5.0e-7: rounding, which has not grown yet. The tolerance is four times that, since
    each is a maximum over draws.
    """
    theirs, ours = torch_losses(name, options), our_losses(name, options)
    assert theirs[-10:].mean() < 0.9 * theirs[:10].mean()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
