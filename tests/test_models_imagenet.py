"""ResNet and AlexNet: torchvision's names, shapes and counts, and the same function as a torch
twin from its .pth.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity
from dlwp_jax.parity.leaves import jax_layers
from experiments.nodules.detector import unfilled
from tests.reference import imagenet_networks as reference

OURS = {
    "resnet18": nn.resnet18,
    "resnet50": nn.resnet50,
    "resnet101": nn.resnet101,
    "alexnet": nn.AlexNet,
}
# torchvision's published counts of parameters, and what torchvision 0.29.1 has for names and
# shapes:
#   lines = "\n".join(f"{name} {tuple(t.shape)}" for name, t in
# torchvision.models.resnet18().state_dict().items())
#   hashlib.sha256(lines.encode()).hexdigest()
PUBLISHED = {
    "resnet18": (
        11_689_512,
        "84fb10d9c6905a1cbb020b284537dc97c4f4ec55fb2a780a41152a23a2dd0e9d",
    ),
    "resnet50": (
        25_557_032,
        "d7e4f8bb0a5363446a59c81c3887ccf66900a11651a0ae2dec96d1bb1eb6ea81",
    ),
    "resnet101": (
        44_549_160,
        "02c0f34f4842751f30e27e18a544ca36a8b33358f344c3c3165fd269ce97cd94",
    ),
    "alexnet": (61_100_840, "9c198ebdae1863e4ec78a1c045e362fca5950285bfb6ae81c4f5627e216cbcbb"),
}


def shapes_of(name):
    """The network without its numbers."""
    return nnx.eval_shape(lambda: OURS[name](rngs=nnx.Rngs(0)))


def checksum(shapes):
    return hashlib.sha256(
        "\n".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()).encode()
    ).hexdigest()


@pytest.mark.parametrize("name", OURS)
def test_counts_names_and_shapes_are_torchvisions(name):
    count, published = PUBLISHED[name]
    model = shapes_of(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count
    ours = {
        f"{layer.names[0]}.{leaf_name}": leaf.expected_shape
        for layer in jax_layers(model)
        for leaf_name, leaf in layer.leaves.items()
    }
    with torch.device("meta"):  # without its numbers too
        theirs = {k: tuple(t.shape) for k, t in reference.MAKE[name]().state_dict().items()}
    assert checksum(theirs) == published
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "block", "depths"),
    [
        ("basic", nn.BasicBlock, (1, 1, 1, 1)),
        ("bottleneck", nn.Bottleneck, (2, 1, 1, 1)),
    ],
)
@pytest.mark.slow
def test_resnets_from_a_pth_equal_torch_forward_and_backward(name, block, depths, tmp_path):
    theirs = reference.make(name, num_classes=10)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = unfilled(lambda: nn.ResNet(block, depths, 10, rngs=nnx.Rngs(1)))
    loaded = parity.load_torch(ours, tmp_path / "weights.pth")
    assert {entry.found_by for entry in loaded.map.entries} == {"name"}
    x = np.random.default_rng(0).standard_normal((2, 3, 40, 32)).astype(np.float32)
    # In float64: where max pooling and ReLU are tied but for float32's rounding, gradients
    # differ by more than that.
    parity.compare(theirs, ours, x, loaded=loaded, double=True).raise_if_different()


# Float32 sums of up to 9216 products in another order, through up to 50 layers that each
# divide by a deviation:
# torch itself is 2e-6 of the largest logit away from its own float64 result.
ROUNDING = 1e-5


def assert_same_outputs(name, path, shape):
    theirs = reference.make(name)
    torch.save(theirs.state_dict(), path)
    ours = unfilled(lambda: OURS[name](rngs=nnx.Rngs(1)))
    parity.load_torch(ours, path)
    ours.eval()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    logits = np.asarray(
        nnx.jit(lambda model, x: model(x))(ours, jnp.asarray(np.moveaxis(x, 1, -1)))
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.slow
def test_alexnet_equals_torch_where_its_pooling_is_uneven(tmp_path):
    # 160 x 288 arrives at the adaptive pooling as 4 x 8, which makes 6 x 6 of it; the flatten
    # sees C H W.
    assert_same_outputs("alexnet", tmp_path / "alexnet.pth", (2, 3, 160, 288))


@pytest.mark.slow
def test_a_deeper_resnet_equals_torch(tmp_path):
    """resnet101 has only more of the same blocks; tests/test_pretrained.py has resnet18."""
    assert_same_outputs("resnet50", tmp_path / "weights.pth", (2, 3, 96, 64))


def test_the_initial_distributions_are_torchvisions():
    # Convolutions: kaiming normal by fan-out, sqrt(2 / (window * out_channels)); the standard
    # deviation of n normal
    # numbers is within 5 / sqrt(2 n) of it but once in a million draws. Batch norms: 1 and 0.
    block = nn.Bottleneck(64, 64, stride=2, rngs=nnx.Rngs(0))
    for conv in (block.conv1, block.conv2, block.conv3, block.downsample[0]):
        *window, _, out = conv.kernel.shape
        std = np.sqrt(2 / (np.prod(window) * out))
        assert abs(float(conv.kernel[...].std()) / std - 1) < 5 / np.sqrt(
            2 * conv.kernel[...].size
        )
        assert conv.bias is None
    assert float(block.bn3.scale[...].min()) == 1
    assert float(jnp.abs(block.bn3.bias[...]).max()) == 0


def test_a_new_head_takes_the_place_of_the_old_one():
    def features_and_logits(x):
        model = nn.resnet18(rngs=nnx.Rngs(0))
        features = model[:-1](x)
        model.fc = nn.Linear(512, 3, rngs=nnx.Rngs(1))
        return features, model(x)

    features, logits = nnx.eval_shape(features_and_logits, jnp.ones((2, 64, 64, 3)))
    assert (features.shape, logits.shape) == ((2, 512), (2, 3))
