"""\
Augmentation in three dimensions (chapter 12): a batch in one program, beside torch one by one

Sixteen volumes of 32 x 48 x 48 are mirrored, shifted, stretched, turned about z, and get noise.
Ours is `data.augment.Augment`, jitted. Torch does to one volume after the other what the book's
data set does: a matrix from Python's random numbers, `affine_grid`, `grid_sample`,
`randn_like`. Torch is the faster of all its threads and one.

The matrices do not mix z with x and y, so `warp_in_planes` finds the places of one plane only
and reads each from all planes at once: 0.4 ms of processor time a volume, and 1.8 if every
place of the volume is found and read for itself (`warp`). The noise takes another 0.4 ms.
"""

import math
import random

import jax
import numpy as np
import torch
from timing import interleaved, readable

from dlwp_jax.data import augment

VOLUMES = 16
AMOUNTS = {"offset": 0.1, "stretch": 0.2, "turn": 2 * math.pi, "std": 25.0}


def torch_change(volume: torch.Tensor) -> torch.Tensor:
    """A volume `[1 1 D H W]`, changed as in chapter 12, in our words."""
    matrix = torch.eye(4)
    for i in range(3):
        if random.random() < 0.5:
            matrix[i, i] *= -1
        matrix[i, 3] = AMOUNTS["offset"] * random.uniform(-1, 1)
        matrix[i, i] *= 1 + AMOUNTS["stretch"] * random.uniform(-1, 1)
    angle = random.uniform(0, AMOUNTS["turn"])
    turn, (s, c) = torch.eye(4), (math.sin(angle), math.cos(angle))
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
    matrix @= turn
    grid = torch.nn.functional.affine_grid(matrix[None, :3], volume.shape, align_corners=False)
    changed = torch.nn.functional.grid_sample(
        volume, grid, padding_mode="border", align_corners=False
    )
    return changed + AMOUNTS["std"] * torch.randn_like(changed)


def torch_form(volumes: np.ndarray, threads: int):
    tensors = torch.tensor(np.moveaxis(volumes, -1, 1))

    def run():
        torch.set_num_threads(threads)
        return [torch_change(tensors[i : i + 1]) for i in range(len(tensors))]

    return run


def measure() -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    volumes = rng.normal(0, 300, (VOLUMES, 32, 48, 48, 1)).astype(np.float32)
    change = jax.jit(augment.Augment(flips=True, **AMOUNTS))
    key, batch = jax.random.key(0), {"image": jax.numpy.asarray(volumes)}
    forms = {"ours": lambda: jax.block_until_ready(change(key, batch))}
    for threads in sorted({1, torch.get_num_threads()}):
        forms[f"torch {threads}"] = torch_form(volumes, threads)
    times = interleaved(forms, rounds=9)
    theirs = min(seconds for name, seconds in times.items() if name != "ours")
    return [
        {
            "what": f"{VOLUMES} volumes of 32 x 48 x 48",
            "ours": readable(times["ours"]),
            "torch": readable(theirs),
            "ours / torch": f"{times['ours'] / theirs:.2f}",
        }
    ]
