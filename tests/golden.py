"""The recorded outputs of the book's own published code, which lie beside the shared data.

The README.md in that folder says how each file was made. Arrays there are channels first.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import parity, train
from dlwp_jax.data import dicom
from dlwp_jax.data.volume import Volume

# Files whose counterpart is not built yet, and what they wait for.
DIFFUSION = "diffusion (second edition, chapter 10)"
WAITING = {
    "denoising_end.pt": DIFFUSION,
    "denoising_end_float64.pt": DIFFUSION,
    "denoising_gradient.pt": DIFFUSION,
    "denoising_model.npz": DIFFUSION,
    "denoising_start.pt": DIFFUSION,
    "denoising_step10.pt": DIFFUSION,
    "denoising_trajectory.npz": DIFFUSION,
    "diffusion_unet_full.npz": DIFFUSION,
    "diffusion_unet_mnist.npz": DIFFUSION,
    "diffusion_unet_mnist.pt": DIFFUSION,
    "diffusion_unet_rgb.npz": DIFFUSION,
    "diffusion_unet_rgb.pt": DIFFUSION,
    "dit_full.npz": DIFFUSION,
    "dit_small.npz": DIFFUSION,
    "dit_small.pt": DIFFUSION,
    "forward_images.npz": DIFFUSION,
    "forward_points.npz": DIFFUSION,
    "logo_points.npz": DIFFUSION,
    "quantise_int8.npz": "int8 quantization (second edition, chapter 17)",
    "schedule.npz": DIFFUSION,
}


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    """The folder of recorded outputs; a test that needs it skips by name if it is not there."""
    folder = shared_data.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"the book's recorded outputs are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_scan(real_book) -> Volume:
    """The CT of 99 slices, cut off at -1000 and 1000 Hounsfield units as in the book."""
    folder = real_book / "book" / "p1ch4" / "ct-series-99"
    if not folder.exists():
        pytest.skip(f"the whole CT is not at {folder}")
    scan = dicom.read_series(folder)
    clipped = np.clip(scan.voxels, -1000, 1000)
    return Volume(clipped, scan.spacing, scan.origin, scan.direction)


def last(array: np.ndarray) -> np.ndarray:
    """Channels first to channels last, in float32: `[n c ...] -> [n ... c]`."""
    return np.moveaxis(np.asarray(array, np.float32), 1, -1)


def first(array) -> np.ndarray:
    """Channels last to channels first: `[n ... c] -> [n c ...]`."""
    return np.moveaxis(np.asarray(array), -1, 1)


def doubled(model: nnx.Module) -> nnx.Module:
    """A copy of a model with its floating arrays in float64; needs `jax.enable_x64`."""
    graph, state = nnx.split(nnx.clone(model))
    return nnx.merge(graph, jax.tree.map(_double, state))


def _double(array: jax.Array) -> jax.Array:
    return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def trained(
    model: nnx.Module, loss_fn, tx, batches, log: str = "loss"
) -> tuple[np.ndarray, nnx.Module]:
    """Train on one batch a step: the log of each step, and the model after the last."""
    learner, state = train.make_learner(model, loss_fn, tx, key=jax.random.key(0))
    values = []
    for batch in batches:
        n = len(jax.tree.leaves(batch)[0])
        state, logs = train.train_epoch(learner, state, batch, batch_size=n)
        values.append(float(logs[log][0]))
    return np.array(values), learner.model(state)


def trained_in_double(
    model: nnx.Module, loss_fn, tx, batches, log: str = "loss"
) -> tuple[np.ndarray, nnx.Module]:
    """`trained` with weights and floating inputs in float64."""
    wide = []
    for batch in batches:
        wide.append({name: _double_host(values) for name, values in batch.items()})
    with jax.enable_x64(True):
        return trained(doubled(model), loss_fn, tx, wide, log)


def _double_host(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def assert_early_steps_agree_more(ours, recorded, tolerances: dict[int, float]) -> None:
    """Compare losses step by step.

    Args:
      ours, recorded: `[steps]`.
      tolerances: the last step (from 1) that an absolute tolerance is for -> that tolerance.
    """
    for number, (loss, wanted) in enumerate(zip(ours, recorded, strict=True), start=1):
        last_step = min(step for step in tolerances if step >= number)
        np.testing.assert_allclose(
            loss, wanted, rtol=0, atol=tolerances[last_step], err_msg=f"step {number}"
        )


def assert_same_weights(model: nnx.Module, loaded, path: Path, atol: float) -> None:
    """The model's weights and running statistics are those of a file of the book's, but for
    entries that were dropped at loading.
    """
    ours = parity.to_torch(model, like=loaded)
    for name, wanted in torch.load(path, weights_only=True).items():
        if wanted.is_floating_point() and name in ours:
            torch.testing.assert_close(ours[name], wanted, rtol=0, atol=atol, msg=name)


def assert_initial_distributions(make, recorded) -> None:
    """The means and deviations of many draws of a network are those recorded of the book's.

    The book's were measured over 60 draws and ours are over 20, so both have an error. A mean
    of n normal numbers has a standard error of std / sqrt(n), their deviation one of
    std / sqrt(2 n). Differences of up to five standard errors are allowed.

    Args:
      make: `make(rngs)`, the network with new weights.
      recorded: `name`, `size`, `mean` and `std` of each array in the book's network.
    """
    # One program draws all arrays, and not one each.
    graph, _ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    draw = jax.jit(lambda key: nnx.split(make(nnx.Rngs(key)))[1])
    drawn = [
        parity.to_torch(nnx.merge(graph, draw(jax.random.key(seed)))) for seed in range(20)
    ]
    rows = zip(*(recorded[key] for key in ("name", "size", "mean", "std")), strict=True)
    for name, size, mean, std in rows:
        values = torch.stack([weights[name] for weights in drawn]).double()
        assert values[0].numel() == size
        error = std * math.sqrt(1 / (20 * size) + 1 / (60 * size))
        assert abs(values.mean().item() - mean) <= 5 * error, name
        assert abs(values.std().item() - std) <= 5 * error / math.sqrt(2), name
