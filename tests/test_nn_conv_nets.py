"""Chapter 8's networks against their torch twins: sizes, first weights, outputs, gradients, and
losses step by step.
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity
from tests.reference import book_networks as reference

RNG = np.random.default_rng(0)
NETWORKS = {
    "ConvNet": {},
    "width": {"channels": 32},
    "NetDropout": {},
    "NetBatchNorm": {},
    "NetDepth": {},
    "NetRes": {},
    "NetResDeep": {"channels": 8, "n_blocks": 3},
}


def pair(name, **options):
    """The torch twin, ours with its weights, and the report of the loading."""
    torch.manual_seed(0)
    name = "ConvNet" if name == "width" else name
    theirs = getattr(reference, name)(**options)
    ours = getattr(nn, name)(**options, rngs=nnx.Rngs(0))
    return theirs, ours, parity.load_torch(ours, theirs)


def pictures(n=4):
    """`[n 3 32 32]`, as the chapter normalises them."""
    return RNG.standard_normal((n, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), NETWORKS.items(), ids=NETWORKS)
@pytest.mark.slow
def test_networks_equal_their_torch_twins_forward_and_backward(name, options):
    theirs, ours, loaded = pair(name, **options)
    assert {entry.found_by for entry in loaded.map.entries} == {"name"}
    assert parameters(ours) == sum(p.numel() for p in theirs.parameters())
    # In float64: in float32, two values of a pooling window that tie but for rounding may be
    # told apart differently.
    train = name != "NetDropout"  # which draws other channels than torch in train mode
    parity.compare(
        theirs, ours, pictures(), loaded=loaded, train=train, double=True
    ).raise_if_different()


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_book_s_number_of_parameters():
    assert parameters(nn.ConvNet(rngs=nnx.Rngs(0))) == 18090


def test_residual_blocks_start_as_the_book_has_them():
    model = nn.NetResDeep(n_blocks=2, rngs=nnx.Rngs(0))
    one, other = model.resblocks
    assert one.conv.bias is None
    assert (one.batch_norm.scale[...] == 0.5).all()
    assert (one.batch_norm.bias[...] == 0).all()
    kernel = one.conv.kernel[...]
    # He's normal of fan-in 9 * 32: 9216 draws know their deviation to 1 / sqrt(2 * 9216) = 0.7
    # percent; four of those.
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 32)) ** 0.5, rtol=0.03)
    assert (kernel != other.conv.kernel[...]).any()


def test_one_block_repeated_as_in_the_book_s_listing_is_refused():
    tied = reference.NetResDeep(channels=4, n_blocks=2)
    tied.resblocks = torch.nn.Sequential(*(2 * [tied.resblocks[0]]))
    with pytest.raises(ValueError, match="torch ties resblocks"):
        parity.load_torch(nn.NetResDeep(channels=4, n_blocks=2, rngs=nnx.Rngs(0)), tied)
