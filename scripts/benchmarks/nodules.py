"""Chapters 10 to 14: the work of `experiments nodules`, against the same work in torch

*Training*: an epoch in batches of 16, each chunk flipped, shifted, stretched, turned and with
noise; forward, backward and Adam. *Ours* is `train.fit` with `augment.Augment`, which changes a
batch inside of the compiled program. *The book's torch* is its loop, with a `DataLoader` whose
data set changes one chunk after the other (`affine_grid`, `grid_sample`), in the same process.
The chunks have the book's 32 x 48 x 48 voxels, and the 16 x 16 x 16 of the made-up cohort.

*From the disk*: the same training with `classifier.Stream`, which reads chunks from a file
while the device trains, against ours from memory. A ratio near 1 says that the device does not
wait.

*Cache*: the chunks of 300 candidates in each of 3 scans of 64 x 112 x 144 voxels, from files to
files. *The book* reads a scan when the next candidate is in another one, and writes a file for
each candidate; it compresses them, which is left out here.

*Detection*: a made-up chest of 32 slices of 256 x 256 pixels, with random weights of the book's
networks, and a bias by which some hundred voxels are marked: segment, group, classify.
(*Segmentation* of 512 x 512 pixels alone is in the table of `detection`.) Compiling is in no
figure, and torch has its own number of threads.
"""

import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import SimpleITK
import torch
from augmentation import torch_change
from detection import classify, detector_of, segment
from flax import nnx
from scipy import ndimage
from timing import beside_the_book, interleaved, readable
from torch.nn import functional

from dlwp_jax import parity, train
from dlwp_jax.data import synthetic
from dlwp_jax.data.volume import Volume
from dlwp_jax.models import LunaModel
from experiments.nodules import classifier, cohort, detector, source
from tests.reference import book_networks as reference

BATCH = 16
SMALL = (16, 16, 16)
CHUNKS = {detector.BOOKS_WIDTH: 32, SMALL: 640}  # in an epoch, for each width
SCANS, CANDIDATES = 3, 300
SLICES = 32


def measure() -> list[dict[str, str]]:
    works = {
        f"training, {chunks} chunks, {'x'.join(map(str, width))}": (_training(width), 5)
        for width, chunks in CHUNKS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        works[f"cache, {SCANS} x {CANDIDATES} chunks"] = _cache(Path(folder)), 5
        works[f"detection, {SLICES} slices"] = _detection(), 3
        rows = []
        for name, (forms, rounds) in works.items():
            rows.append(beside_the_book(name, interleaved(forms, rounds=rounds)))
        for width in CHUNKS:
            times = interleaved(_from_disk(width, Path(folder)), rounds=5)
            rows.append(_beside_memory(width, times))
    return rows


def _beside_memory(width: tuple[int, int, int], times: dict[str, float]) -> dict[str, str]:
    disk, memory = times["disk"], times["memory"]
    return {
        "work": f"the training of {'x'.join(map(str, width))}: from the disk, from memory",
        "ours": f"{readable(disk)}, {readable(memory)}",
        "the book's torch": "",
        "ratio": f"{disk / memory:.2f}",
    }


# Training


def _chunks(width: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n *width]` int16 and labels `[n]`."""
    rng = np.random.default_rng(0)
    images = rng.integers(-1000, 400, (CHUNKS[width], *width)).astype(np.int16)
    return images, np.arange(len(images), dtype=np.int32) % 2


def _training(width: tuple[int, int, int]):
    images, labels = _chunks(width)
    torch.manual_seed(0)
    theirs = reference.LunaModel()
    if width == SMALL:
        theirs.head_linear = torch.nn.Linear(64, 2)
    model = LunaModel(size=width, rngs=nnx.Rngs(0))
    parity.load_torch(model, theirs)
    ours = _our_epoch(model, {"image": images[..., None], "label": labels}, batch_size=BATCH)
    return {"ours": ours, "torch": _books_loop(theirs.train(), images, labels)}


def _our_epoch(model: LunaModel, batches, **options):
    """A function that trains for one epoch, always from the same state."""
    learner, state = train.make_learner(
        model, classifier.loss_fn, optax.adam(1e-3), key=jax.random.key(0)
    )
    options |= {"epochs": 1, "transform": classifier.ALL}

    def epoch():
        jax.block_until_ready(train.fit(learner, state, batches, **options).state.params)

    return epoch


def _from_disk(width: tuple[int, int, int], folder: Path):
    images, labels = _chunks(width)
    np.save(folder / "chunks.npy", images)
    kept = np.load(folder / "chunks.npy", mmap_mode="r")
    rows = np.arange(len(images))

    def read(row: int):
        return {"image": np.asarray(kept[row])[..., None], "label": labels[row]}

    def shuffled(key: jax.Array, epoch: int):
        del epoch
        return jax.random.permutation(key, len(rows))

    model = LunaModel(size=width, rngs=nnx.Rngs(0))
    memory = {"image": images[..., None], "label": labels}
    return {
        "disk": _our_epoch(model, classifier.Stream(read, rows, shuffled, BATCH, seed=0)),
        "memory": _our_epoch(model, memory, batch_size=BATCH),
    }


class _Augmented(torch.utils.data.Dataset):
    """The book's data set: each chunk is changed when it is asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int):
        chunk = torch.from_numpy(self.images[row].astype(np.float32))[None, None]
        return torch_change(chunk)[0], int(self.labels[row])


def _books_loop(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray):
    optimizer = torch.optim.Adam(model.parameters())
    loader = torch.utils.data.DataLoader(_Augmented(images, labels), BATCH, shuffle=True)

    def epoch():
        for chunks, wanted in loader:
            optimizer.zero_grad()
            logits, _ = model(chunks)
            functional.cross_entropy(logits, wanted).backward()
            optimizer.step()

    return epoch


# The cache


def _cache(folder: Path):
    cohort.write(cohort.Config(folder / "luna", scans=SCANS, others=CANDIDATES))
    config = source.Config(luna=folder / "luna", cache=folder / "ours")
    scans = source.open_source(config)
    candidates = scans.candidates

    def ours():
        shutil.rmtree(folder / "ours", ignore_errors=True)
        source.cut_chunks(config, scans, candidates)

    def books():
        shutil.rmtree(folder / "books", ignore_errors=True)
        (folder / "books").mkdir()
        open_scan = None
        order = np.argsort(candidates.series, kind="stable")
        for row in order.tolist():
            if open_scan != candidates.series[row]:
                open_scan = candidates.series[row]
                scan = _books_scan(scans.scans[open_scan])
            chunk, _ = scan.chunk(candidates.center[row], config.width)
            np.save(folder / "books" / f"{row}.npy", chunk)

    return {"ours": ours, "torch": books}


def _books_scan(path: Path) -> Volume:
    image = SimpleITK.ReadImage(str(path))
    voxels = np.array(SimpleITK.GetArrayFromImage(image), np.float32)
    voxels.clip(-1000, 1000, voxels)
    return Volume(voxels, image.GetSpacing(), image.GetOrigin())


# Detection


def _detection():
    torch.manual_seed(0)
    u_net, luna = reference.UNetWrapper().eval(), reference.LunaModel().eval()
    scan = synthetic.chest_ct((SLICES, 256, 256), others=0, seed=0).scan
    scan = Volume(np.clip(scan.voxels, -1000, 1000), scan.spacing, scan.origin)
    _mark(u_net, scan, voxels=300)
    ours = detector_of(u_net, luna, erosions=0)

    def books():
        labels, count = ndimage.label(segment(u_net, scan))
        weight = scan.voxels + 1001
        places = ndimage.center_of_mass(weight, labels, np.arange(1, count + 1))
        return classify(luna, scan, np.round(places).astype(int))

    return {"ours": lambda: detector.find(ours, scan), "torch": books}


@torch.no_grad()
def _mark(model: torch.nn.Module, scan: Volume, voxels: int) -> None:
    """Change the last bias so that about so many voxels are marked."""
    slices = torch.from_numpy(np.stack([scan.voxels[:7], scan.voxels[-7:]]))
    logits = model.unet(model.input_batchnorm(slices))
    share = voxels / scan.voxels.size
    model.unet.last.bias -= torch.quantile(logits, 1 - share)
