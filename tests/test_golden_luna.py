"""The nodule classifier against the recorded outputs, trainings and first weights of the book's
own published code (the referee).
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
    last,
    trained,
    trained_in_double,
)


def test_the_published_weights_classify_pieces_of_a_ct_as_the_book_does(golden):
    model = unfilled(lambda: nn.LunaModel(rngs=nnx.Rngs(0)))
    parity.load_torch(model, golden / "luna_cls_2020.pt")
    model.eval()
    run = jax.jit(lambda x: model(x))
    for name in ("luna_cls_2020.npz", "luna_cls_2020_found.npz"):
        recorded = np.load(golden / name)
        logits, probabilities = run(last(recorded["hu"]))
        np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(probabilities, recorded["probability"], rtol=0, atol=1e-5)


def loss_fn(model, batch):
    logits, _ = model(batch["hu"])
    return losses.cross_entropy(logits, batch["label"]), {}


def start(golden):
    """The model with the book's first weights, its loading, the record and its batches."""
    model = unfilled(lambda: nn.LunaModel(rngs=nnx.Rngs(0)))
    loaded = parity.load_torch(model, golden / "luna_train_start.pt")
    recorded = np.load(golden / "luna_train_trajectory.npz")
    hu, labels = last(recorded["hu"]), recorded["label"].astype(np.int32)
    batches = [{"hu": hu[rows], "label": labels[rows]} for rows in recorded["row"]]
    return model, loaded, recorded, batches


@pytest.mark.slow
def test_a_training_in_float32_takes_the_books_way(golden):
    model, loaded, recorded, batches = start(golden)
    tx = optim.sgd(0.001, momentum=0.99)
    ours, model = trained(model, loss_fn, tx, batches)
    # Rounding grows with the steps. Torch's own float32 is 2e-6 away from its float64 at step
    # 4, 3e-5 at step 6 and 2e-2 at step 11; with the compiled convolution we are 7e-6, 4e-7 and
    # 3e-3 away from it.
    tolerances = {3: 1e-5, 5: 4e-5, 10: 2e-2, 12: 5e-1}
    assert_early_steps_agree_more(ours, recorded["losses"], tolerances)
    assert_same_weights(model, loaded, golden / "luna_train_end.pt", atol=4e-2)


@pytest.mark.slow
def test_a_training_in_float64_takes_the_books_way_at_every_step(golden):
    """At the first six of twelve, since XLA's convolutions are slow in float64."""
    model, _, recorded, batches = start(golden)
    tx = optim.sgd(0.001, momentum=0.99)
    ours, _ = trained_in_double(model, loss_fn, tx, batches[:6])
    np.testing.assert_allclose(ours, recorded["losses_float64"][:6], rtol=1e-6)


def test_the_first_weights_have_the_books_distributions(golden):
    recorded = np.load(golden / "init_luna.npz")
    assert_initial_distributions(lambda rngs: nn.LunaModel(rngs=rngs), recorded)


def test_other_sizes_of_input_and_too_small_ones():
    model = nnx.eval_shape(lambda: nn.LunaModel(2, 3, (16, 40, 64), rngs=nnx.Rngs(0)))
    logits, _ = nnx.eval_shape(
        lambda m, x: m(x), model, np.ones((5, 16, 40, 64, 2), np.float32)
    )
    assert logits.shape == (5, 2)
    with pytest.raises(ValueError, match="at least 16 voxels"):
        nn.LunaModel(size=(15, 48, 48), rngs=nnx.Rngs(0))
