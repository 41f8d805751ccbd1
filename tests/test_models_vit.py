"""The vision transformer against torchvision's (the referee)."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity
from dlwp_jax.parity.leaves import jax_layers
from tests.nn_parity import random
from tests.reference.vision import models

SIZES = {"image_size": 12, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
OPTIONS = {
    "plain": {"mlp_dim": 12, "num_classes": 3},
    "representation": {"mlp_dim": 20, "num_classes": 5, "representation_size": 6},
}


def trained(theirs):
    """A model without zeros, as the class token and the head are at first."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return theirs


@pytest.mark.parametrize("name", OPTIONS)
def test_from_a_file_equal_forward_and_backward(name, tmp_path):
    torch.manual_seed(0)
    options = SIZES | OPTIONS[name]
    theirs = trained(models.VisionTransformer(**options))
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = nn.VisionTransformer(**options, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, tmp_path / "vit.pth")
    assert {entry.found_by for entry in loaded.map.entries} == {"name"}
    report = parity.compare(theirs, ours, random(2, 3, 12, 12), loaded=loaded, double=True)
    report.raise_if_different()


def test_attention_weights():
    torch.manual_seed(0)
    options = SIZES | OPTIONS["plain"]
    theirs = trained(models.VisionTransformer(**options)).eval()
    ours = nn.VisionTransformer(**options, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    recorded = []
    for block in theirs.encoder.layers:

        def record(layer, given, block=block):
            x = block.ln_1(given[0])
            recorded.append(block.self_attention(x, x, x, average_attn_weights=False)[1])

        block.register_forward_pre_hook(record)
    images = random(2, 3, 12, 12)
    with torch.no_grad():
        theirs(torch.tensor(images))
    found = ours.attention_weights(np.moveaxis(images, 1, -1))
    for weights, wanted in zip(found, recorded, strict=True):
        np.testing.assert_allclose(weights, wanted, rtol=1e-5, atol=1e-6)


def test_count_names_and_shapes_of_vit_b_16_are_torchvisions():
    model = nnx.eval_shape(lambda: nn.vit_b_16(rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    meta = models.ViT_B_16_Weights.IMAGENET1K_V1.meta
    assert count == meta["num_params"] == 86_567_656
    with torch.device("meta"):  # without its numbers
        theirs = models.vit_b_16()
    assert {name: tuple(t.shape) for name, t in theirs.state_dict().items()} == shapes(model)


def shapes(model):
    found = {}
    for layer in jax_layers(model):
        for name, leaf in layer.leaves.items():
            found[".".join(filter(None, (layer.names[0], name)))] = leaf.expected_shape
    return found


def test_the_initial_weights_have_torchvisions_deviations():
    options = {"mlp_dim": 96, "num_classes": 7, "representation_size": 40}
    options = SIZES | {"hidden_dim": 64} | options
    theirs = models.VisionTransformer(**options)
    ours = nn.VisionTransformer(**options, rngs=nnx.Rngs(0))
    for name, tensor in parity.to_torch(ours).items():
        wanted = theirs.state_dict()[name].std(correction=0).item()
        # The deviations of n draws differ by sqrt(1 / n) of them; five times that is allowed.
        allowed = 5 * wanted * tensor.numel() ** -0.5
        assert abs(tensor.std(correction=0).item() - wanted) <= allowed, name


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="patch_size=5 must divide image_size=12"):
        nn.VisionTransformer(12, 5, 1, 1, 8, 8, rngs=nnx.Rngs(0))
    model = nn.VisionTransformer(12, 4, 1, 1, 8, 8, rngs=nnx.Rngs(0))
    look = partial(nnx.eval_shape, lambda x: model(x))
    for shape in ((2, 18, 8, 3), (2, 3, 12, 12), (12, 12, 3)):
        with pytest.raises(ValueError, match=r"takes pictures \[N 12 12 3\]"):
            look(jax.ShapeDtypeStruct(shape, "float32"))
