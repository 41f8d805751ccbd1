"""The U-Net against the recorded outputs of the book's own published code (the referee)."""

import jax
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import nn, parity
from tests.golden import first, last

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


def published(golden):
    """The book's segmentation model with its published weights, in eval mode."""
    model = nn.UNetWrapper(7, depth=3, wf=4, padding=True, batch_norm=True, rngs=nnx.Rngs(0))
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
    model = nn.UNet(**options, rngs=nnx.Rngs(0))
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
