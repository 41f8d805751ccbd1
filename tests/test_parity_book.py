"""The book's own checkpoints in torch and here: real pictures, and training that goes on.

The torch modules are ours; the recorded outputs of the book's code are their referee.
"""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity, train
from tests.reference import book_networks as reference

BIRDS = "book/p1ch6/birds_vs_airplanes.pt"
LUNA = "book/part2/models/cls_2020-02-06_14.16.55_final-nodule-nonnodule.best.state"
UNET = (
    "book/part2/models/"
    "seg_2020-01-26_19.45.12_w4d3c1-bal_1_nodupe-label_pos-d1_fn8-adam.best.state"
)

RNG = np.random.default_rng(0)


def loaded_pair(path, theirs, ours):
    checkpoint = parity.read(path)
    theirs.load_state_dict(checkpoint.get("model_state", checkpoint))
    return theirs.eval(), ours, parity.load_torch(ours, theirs), checkpoint


def birds(shared_data):
    return loaded_pair(shared_data / BIRDS, reference.ConvNet(), nn.ConvNet(rngs=nnx.Rngs(0)))


def luna(shared_data):
    return loaded_pair(
        shared_data / LUNA, reference.LunaModel(), nn.LunaModel(rngs=nnx.Rngs(0))
    )


def unet(shared_data):
    ours = nn.UNetWrapper(7, depth=3, wf=4, padding=True, batch_norm=True, rngs=nnx.Rngs(0))
    return loaded_pair(shared_data / UNET, reference.UNetWrapper(), ours)


@pytest.mark.parametrize(
    ("module", "weights", "outputs"),
    [
        (reference.ConvNet, "net.pt", "net.npz"),
        (reference.NetResDeep, "net_res_deep.pt", "net_res_deep.npz"),
        (reference.LunaModel, "luna_cls_2020.pt", "luna_cls_2020.npz"),
        (reference.UNetWrapper, "unet_seg_2020.pt", "unet_seg_2020.npz"),
    ],
)
def test_the_torch_modules_here_are_the_books(golden, module, weights, outputs):
    theirs = module()
    theirs.load_state_dict(torch.load(golden / weights, weights_only=True))
    theirs.eval()
    recorded = np.load(golden / outputs)
    if "image" in recorded:
        x = recorded["image"].astype(np.float32) / np.float32(127.5) - 1
    else:
        x = recorded["hu"].astype(np.float32)
    with torch.no_grad():
        y = theirs(torch.from_numpy(x))
    wanted = recorded["output"] if "output" in recorded else recorded["logits"]
    logits = y[0] if isinstance(y, tuple) else y
    np.testing.assert_allclose(logits.numpy(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "file"), [(nn.ConvNet, BIRDS), (nn.LunaModel, LUNA)])
@pytest.mark.slow
def test_checkpoints_load_from_the_file_alone(shared_data, model, file):
    loaded = parity.load_torch(model(rngs=nnx.Rngs(0)), shared_data / file)
    assert {entry.found_by for entry in loaded.map.entries} == {"name"}


def test_birds_and_airplanes_equal_torch_forward_and_backward(shared_data):
    theirs, ours, loaded, _ = birds(shared_data)
    x = RNG.standard_normal((4, 3, 32, 32)).astype(np.float32)
    parity.compare(theirs, ours, x, loaded=loaded, tolerance=1e-5).raise_if_different()


@pytest.fixture(scope="module")
def birds_and_airplanes(shared_data):
    """The 2,000 validation images of chapter 7, normalised `[2000 3 32 32]`, and their
    labels.
    """
    from PIL import Image

    with np.load(shared_data / "cifar10_jpeg.npz") as pack:
        names = [str(name) for name in pack["label_names"]]
        labels, ends = pack["test_labels"], pack["test_offsets"]
        header, scans = pack["jpeg_header"].tobytes(), pack["test_scan"].tobytes()
    chosen = np.flatnonzero(np.isin(labels, (names.index("airplane"), names.index("bird"))))
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(header + scans[ends[i] : ends[i + 1]])))
            for i in chosen
        ]
    ).astype(np.float32)
    mean, std = np.float32([0.4915, 0.4823, 0.4468]), np.float32([0.2470, 0.2435, 0.2616])
    return np.moveaxis((images / 255 - mean) / std, -1, 1), (
        labels[chosen] == names.index("bird")
    ).astype(np.int64)


def test_birds_and_airplanes_are_classified_exactly_as_by_torch(
    shared_data, birds_and_airplanes
):
    theirs, ours, *_ = birds(shared_data)
    images, labels = birds_and_airplanes
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images)).numpy()
    logits = np.asarray(jax.jit(lambda x: ours(x))(np.moveaxis(images, 1, -1)))
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    # Logits of up to 10, after sums of 512 products in another order: a few float32 ulp (1e-6
    # each at 10).
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert (logits.argmax(axis=1) == labels).mean() == 0.881


def dice_loss_torch(model, batch):
    prediction, label = model(batch["x"]), batch["y"]
    overlap = (prediction * label).sum(dim=(1, 2, 3))
    return (1 - (2 * overlap + 1) / ((prediction + label).sum(dim=(1, 2, 3)) + 1)).mean()


def dice_loss(model, batch):
    prediction, label = model(batch["x"]), batch["y"]
    overlap = jnp.sum(prediction * label, axis=(1, 2, 3))
    return jnp.mean(
        1 - (2 * overlap + 1) / (jnp.sum(prediction + label, axis=(1, 2, 3)) + 1)
    ), {}


@pytest.mark.slow
def test_unet_trains_on_with_the_optimizer_state_of_the_checkpoint(shared_data):
    theirs, ours, loaded, checkpoint = unet(shared_data)
    opt = torch.optim.Adam(theirs.parameters())
    opt.load_state_dict(checkpoint["optimizer_state"])
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    assert opt_state.step == 93750
    learner, state = train.make_learner(ours, dice_loss, tx, key=jax.random.key(0))
    state = dataclasses.replace(state, opt_state=opt_state)
    batches = [
        {
            "x": RNG.uniform(-1000, 1000, (2, 7, 16, 16)).astype(np.float32),
            "y": (RNG.uniform(size=(2, 1, 16, 16)) > 0.8).astype(np.float32),
        }
        for _ in range(2)
    ]
    # In float64: noise is no CT, and in float32 some activations lie within rounding of ReLU's
    # corner. One on another side than in torch moves gradients by up to 5e-3 of the largest.
    report = parity.compare_steps(
        theirs, opt, learner, state, batches, dice_loss_torch, loaded=loaded, double=True
    )
    assert report.raise_if_different().rows[-1].step == 1


def test_luna_model_s_optimizer_is_plain_sgd(shared_data):
    theirs, _, loaded, checkpoint = luna(shared_data)
    opt = torch.optim.SGD(theirs.parameters())
    opt.load_state_dict(checkpoint["optimizer_state"])
    tx, opt_state = parity.torch_optimizer(opt, loaded)
    params = {"kernel": jnp.ones(1)}
    updates, _ = tx.update({"kernel": jnp.ones(1)}, tx.init(params), params)
    # lr 0.001 and weight_decay 1e-4 of the checkpoint: -0.001 * (1 + 1e-4), to a rounding.
    np.testing.assert_allclose(updates["kernel"], [-0.0010001], rtol=1e-6)
    assert opt_state.momentum_buffer is None
