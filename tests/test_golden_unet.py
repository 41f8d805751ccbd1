"""The U-Net against the recorded outputs, trainings and first weights of the book's own
published code (the referee).
"""

import jax
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import losses, nn, optim, parity
from experiments.nodules.detector import unfilled
from tests.golden import (
    assert_early_steps_agree_more,
    assert_initial_distributions,
    assert_same_weights,
    first,
    last,
    trained,
    trained_in_double,
)

PADDED_UPSAMPLE = {
    "in_channels": 2,
    "n_classes": 3,
    "depth": 3,
    "wf": 2,
    "padding": True,
    "batch_norm": True,
    "up_mode": "upsample",
}
VALID_UPSAMPLE = {"depth": 2, "wf": 3, "batch_norm": True, "up_mode": "upsample"}


def wrapper(rngs):
    return nn.UNetWrapper(7, depth=3, wf=4, padding=True, batch_norm=True, rngs=rngs)


def published(golden):
    """The book's segmentation model with its published weights, in eval mode."""
    model = unfilled(lambda: wrapper(nnx.Rngs(0)))
    parity.load_torch(model, golden / "unet_seg_2020.pt")
    model.eval()
    return model


@pytest.mark.parametrize(
    ("weights", "outputs", "options"),
    [
        ("unet_upsample_padded.pt", "unet_upsample_padded.npz", PADDED_UPSAMPLE),
        ("unet_valid_upconv.pt", "unet_valid_upconv.npz", {"depth": 3, "wf": 2}),
        ("unet_valid_upsample.pt", "unet_valid_upsample.npz", VALID_UPSAMPLE),
    ],
)
def test_each_form_of_the_unet_gives_the_books_outputs(golden, weights, outputs, options):
    model = unfilled(lambda: nn.UNet(**options, rngs=nnx.Rngs(0)))
    parity.load_torch(model, golden / weights)
    model.eval()
    recorded = np.load(golden / outputs)
    ours = jax.jit(lambda x: model(x))(last(recorded["x"]))
    np.testing.assert_allclose(first(ours), recorded["y"], rtol=1e-4, atol=1e-5)


def test_the_published_weights_segment_a_ct_as_the_book_does(golden):
    model = published(golden)
    recorded = np.load(golden / "unet_seg_2020.npz")
    x = last(recorded["hu"])
    logits = jax.jit(lambda x: model.unet(model.input_batchnorm(x)))(x)
    np.testing.assert_allclose(first(logits), recorded["logits"], rtol=1e-3, atol=1e-3)
    output = first(jax.jit(lambda x: model(x))(x))
    # The recorded outputs in float32 are within 3e-5 of those in float64.
    np.testing.assert_allclose(output, recorded["output"], rtol=0, atol=1e-4)
    certain = np.abs(recorded["output"] - 0.5) > 1e-4
    np.testing.assert_array_equal((output > 0.5)[certain], (recorded["output"] > 0.5)[certain])


def test_an_unknown_way_up_is_refused():
    with pytest.raises(ValueError, match="'upconv' or 'upsample'"):
        nn.UNet(up_mode="bilinear", rngs=nnx.Rngs(0))


def loss_fn(model, batch):
    """The overlap, and eight times the overlap within the label alone (chapter 13.6)."""
    prediction, label = model(batch["hu"]), batch["label"]
    missed = losses.dice_loss(prediction * label, label)
    return losses.dice_loss(prediction, label) + 8 * missed, {}


def start(golden):
    """The model with the book's first weights, its loading, the record and its batches."""
    model = unfilled(lambda: wrapper(nnx.Rngs(0)))
    loaded = parity.load_torch(model, golden / "unet_train_start.pt")
    recorded = np.load(golden / "unet_train_trajectory.npz")
    hu, label = last(recorded["hu"]), last(recorded["label"])
    batches = [{"hu": hu[rows], "label": label[rows]} for rows in recorded["row"]]
    return model, loaded, recorded, batches


@pytest.mark.slow
def test_a_training_in_float32_begins_as_the_books(golden):
    model, _, recorded, batches = start(golden)
    ours, _ = trained(model, loss_fn, optim.adam(0.001), batches[:3])
    # One of the 262,144 activations before the last batch norm is 7e-7 in float64, less than
    # float32's rounding, and falls on the other side of ReLU's corner than in torch. That moves
    # every gradient by 2e-4 of its largest value, and Adam's first steps go by their signs.
    assert_early_steps_agree_more(ours, recorded["losses"][:3], {1: 1e-5, 2: 1e-3, 3: 5e-3})


@pytest.mark.slow
def test_a_training_in_float64_takes_the_books_way_at_every_step(golden):
    model, loaded, recorded, batches = start(golden)
    ours, model = trained_in_double(model, loss_fn, optim.adam(0.001), batches)
    np.testing.assert_allclose(ours, recorded["losses_float64"], rtol=1e-6)
    # The recorded last weights are of a run in float32, 7e-3 from the one in float64.
    assert_same_weights(model, loaded, golden / "unet_train_end.pt", atol=1e-2)


def test_the_first_weights_have_the_books_distributions(golden):
    assert_initial_distributions(wrapper, np.load(golden / "init_unet.npz"))
