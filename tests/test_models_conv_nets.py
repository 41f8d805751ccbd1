"""Chapter 8's networks: their sizes and first weights, by the book's figures and formulas.

Their outputs and trainings are compared with the book's own in tests/test_golden_chapter8.py.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from dlwp_jax import nn, parity


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
    # He's normal of fan-in 9 * 32: 9216 draws know their deviation to 1 / sqrt(2 * 9216), which
    # is 0.7 percent; four of those.
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 32)) ** 0.5, rtol=0.03)
    assert (kernel != other.conv.kernel[...]).any()


def test_one_block_repeated_as_in_the_book_s_listing_needs_shared():
    one = parity.to_torch(nn.NetResDeep(4, n_blocks=2, shared=True, rngs=nnx.Rngs(0)))
    tied = {}
    for name, tensor in one.items():
        tied[name] = tensor
        if name.startswith("resblocks.0."):
            tied[name.replace(".0.", ".1.")] = tensor
    with pytest.raises(ValueError, match="torch ties resblocks"):
        parity.load_torch(nn.NetResDeep(4, n_blocks=2, rngs=nnx.Rngs(1)), tied)
    shared = nn.NetResDeep(4, n_blocks=2, shared=True, rngs=nnx.Rngs(1))
    parity.load_torch(shared, tied)
    kernel = np.moveaxis(tied["resblocks.1.conv.weight"].numpy(), (0, 1), (-1, -2))
    np.testing.assert_array_equal(shared.resblocks[1].conv.kernel[...], kernel)
