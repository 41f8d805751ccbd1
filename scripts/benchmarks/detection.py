"""Chapter 14: nodules in one scan, against the same work in torch

A made-up chest of 32 slices of 512 x 512 pixels; random weights of the book's networks.
*Segmentation*: every slice with its context through the U-Net, and the threshold. *Candidates*:
64 chunks of 32 x 48 x 48 voxels cut out of the scan and classified. *Ours* is what `nodules
detect` calls, one slice and 16 chunks at a time. *The book's torch* is its loop without
processes that read ahead: four slices, four chunks at a time, channels first, torch's own
number of threads. Compiling is in no figure.
"""

import numpy as np
import torch
from timing import beside_the_book, interleaved

from dlwp_jax import parity
from dlwp_jax.data import synthetic
from dlwp_jax.data.volume import Volume
from experiments.nodules import detector
from tests.reference import book_networks as reference

SLICES, CANDIDATES, BATCH = 32, 64, 4


def measure() -> list[dict[str, str]]:
    torch.manual_seed(0)
    u_net, luna = reference.UNetWrapper().eval(), reference.LunaModel().eval()
    ours = detector_of(u_net, luna)
    scan = synthetic.chest_ct((SLICES, 512, 512), others=CANDIDATES, seed=0).scan
    scan = Volume(np.clip(scan.voxels, -1000, 1000), scan.spacing, scan.origin)
    places = np.random.default_rng(0).integers((0, 0, 0), scan.voxels.shape, (CANDIDATES, 3))
    rows = []
    for name, forms in {
        f"segmentation, {SLICES} slices": {
            "ours": lambda: detector.segment(ours.segmentation, scan),
            "torch": lambda: segment(u_net, scan),
        },
        f"{CANDIDATES} candidates": {
            "ours": lambda: detector.classify(ours.classifier, scan, places, ours.width),
            "torch": lambda: classify(luna, scan, places),
        },
    }.items():
        rows.append(beside_the_book(name, interleaved(forms, rounds=5)))
    return rows


def detector_of(u_net: torch.nn.Module, luna: torch.nn.Module, **options) -> detector.Detector:
    """Our detector, with the weights of the book's two networks."""
    return detector.Detector(
        _trained(u_net, detector.new_segmentation),
        _trained(luna, lambda: detector.new_classifier(detector.BOOKS_WIDTH)),
        **options,
    )


def _trained(theirs: torch.nn.Module, make) -> detector.Trained:
    model = detector.unfilled(make)
    parity.load_torch(model, theirs)
    return detector.ready(model)


@torch.no_grad()
def segment(model: torch.nn.Module, scan) -> np.ndarray:
    numbers = np.arange(len(scan.voxels))
    mask = np.empty(scan.voxels.shape, bool)
    for part in np.split(numbers, range(BATCH, len(numbers), BATCH)):
        around = np.clip(np.add.outer(part, np.arange(-3, 4)), 0, len(numbers) - 1)
        slices = torch.from_numpy(scan.voxels[around].clip(-1000, 1000))
        mask[part] = model(slices)[:, 0].numpy() > detector.SURE
    return mask


@torch.no_grad()
def classify(model: torch.nn.Module, scan, places: np.ndarray) -> np.ndarray:
    chances = []
    for first in range(0, len(places), BATCH):
        centers = scan.xyz(places[first : first + BATCH])
        chunks = [scan.chunk(center, detector.BOOKS_WIDTH)[0] for center in centers]
        chances.append(model(torch.from_numpy(np.stack(chunks)[:, None]))[1][:, 1])
    return torch.cat(chances).numpy()
