"""Chapter 2: a network that somebody else trained names what is in a picture.

Run:    python -m experiments ch02_pretrained
        python -m experiments ch02_pretrained --weights resnet101.pth
            --labels imagenet_classes.txt --picture bobby.jpg
Writes: runs/ch02_pretrained/{config.json,top5.png}
Expect: four parameter counts equal to the published ones; 20 s of processor time for resnet101

Without files it takes the two pictures of scikit-learn and random weights, which know nothing.
Weights are a state_dict in torchvision's format, such as torchvision's own .pth files; reading
them needs torch.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from sklearn.datasets import load_sample_images

from dlwp_jax import nn, runs
from dlwp_jax.data import image, imagenet
from experiments.models import count, count_of

TOP = 5
# Each network, and how many parameters torchvision's documentation says that it has.
NETWORKS = {
    "resnet18": (nn.resnet18, 11_689_512),
    "resnet50": (nn.resnet50, 25_557_032),
    "resnet101": (nn.resnet101, 44_549_160),
    "alexnet": (nn.AlexNet, 61_100_840),
}


@dataclass(frozen=True)
class Config:
    # Which network.
    model: Literal["resnet18", "resnet50", "resnet101", "alexnet"] = "resnet101"
    # Its weights, a .pth or .safetensors file; without one they are random.
    weights: Path | None = None
    # The names of the classes, a text file with one name in each line.
    labels: Path | None = None
    # PNG or JPEG files; without any, the two pictures of scikit-learn.
    picture: tuple[Path, ...] = ()
    classes: int = 1000  # how many the network tells apart
    seed: int = 0  # of random weights
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if self.labels and not self.weights:
            raise ValueError(
                "--labels names the classes of --weights; random weights know no classes, "
                "so give both."
            )
        if self.classes < TOP:
            raise ValueError(f"--classes {self.classes}: a list of {TOP} needs {TOP} or more.")
        for path in (self.weights, self.labels, *self.picture):
            if path and not path.is_file():
                raise ValueError(f"{path}: No such file")


def read_inputs(config):
    """Names of the classes, pictures by file, and the network's input `[n 224 224 3]`."""
    paths = config.picture or tuple(map(Path, load_sample_images().filenames))
    pictures = {path: image.read(path, channels=3) for path in paths}
    for path, picture in pictures.items():
        if picture.dtype != np.uint8:
            raise ValueError(
                f"{path} has 16 bits a pixel; only 8 can be resized. Convert it first."
            )
    if config.labels:
        labels = imagenet.read_labels(config.labels, config.classes)
    else:
        labels = [f"class {i}" for i in range(config.classes)]
    x = np.stack([imagenet.preprocess(picture) for picture in pictures.values()])
    return labels, pictures, x


def count_parameters():
    """From shapes alone: no weight is drawn."""
    print(f"{'parameters':10s} {'here':>11s}  {'published':>11s}")
    for name, (make, published) in NETWORKS.items():
        here = count_of(lambda make=make: make(rngs=nnx.Rngs(0)))
        verdict = "equal" if here == published else "DIFFERS"
        print(f"{name:10s} {here:11,d}  {published:11,d}  {verdict}")


def load_weights(model, path):
    """Fill the network from its file."""
    try:
        from dlwp_jax import parity
    except ImportError as error:
        if error.name != "torch":
            raise
        raise ValueError(
            "--weights needs torch to read the file: pip install 'dlwp-jax[parity]'."
        ) from None
    state = parity.read(path)
    try:
        entries = parity.load_torch(model, state).map.entries
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} does not fit the network that --model and --classes ask for: {error}"
        ) from None
    ways = " or ".join({entry.found_by for entry in entries})
    print(f"{path}: {len(entries)} arrays, each found its place by {ways}\n")


def show_preprocessing(path, picture, x):
    print(f"\n{path.name}: {picture.shape} {picture.dtype}")
    resized = image.resize(picture, 256).shape
    print(f"  shorter side to 256: {resized}, the middle: {x.shape}, standardized:")
    for color, channel in zip(("red", "green", "blue"), np.moveaxis(x, -1, 0), strict=True):
        least, most, mean = channel.min(), channel.max(), channel.mean()
        print(f"  {color:5s} {least:6.3f} to {most:6.3f}, mean {mean:6.3f}")


def show_stages(model, x):
    """Print the shape of each stage's output, and the number of its parameters."""
    print(f"\n{'input':10s} {x.shape}")
    for name, layer in model.named_children():
        x = nnx.eval_shape(layer, x)
        held = f"{count(layer):12,d} parameters" if count(layer) else ""
        print(f"{name:10s} {x.shape!s:18s}{held}".rstrip())


def classify(model, x):  # [n 224 224 3] -> logits [n classes]
    """One picture at a time, as a person would ask; says what compiling and running take."""
    graph, state = nnx.split(model)
    function = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    answers, times = [], []
    for picture in (x[0], *x):  # the first time compiles
        begin = time.perf_counter()
        answers.append(function(state, picture[None]).block_until_ready())
        times.append(time.perf_counter() - begin)
    first, *others = times
    usual = f"{1000 * np.median(others):.0f} ms a picture (median of {len(others)})"
    print(f"\nthe first, with compiling or fetching from the cache, in {first:.1f} s;")
    print(f"{usual} on {jax.default_backend()}")
    return np.concatenate(answers[1:])


def show_top(paths, tops, shares, labels, *, random):
    for path, top, share in zip(paths, tops, shares, strict=True):
        print(f"\n{path.name}:")
        for i in top:
            print(f"  {share[i]:7.2%}  {labels[i]}")
    if random:
        print(
            "\nNo --weights were given: these weights are random, and the answers mean nothing."
        )


def draw(pictures, x, tops, shares, labels, title):
    figure, axes = plt.subplots(
        len(x), 3, figsize=(12, 3 * len(x) + 0.4), squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for row, (path, picture), seen, top, share in zip(
        axes, pictures.items(), x, tops, shares, strict=True
    ):
        row[0].imshow(picture)
        row[0].set_title(f"{path.name}, {picture.shape[0]} x {picture.shape[1]}")
        row[1].imshow(np.clip(imagenet.SCALE.undo(seen), 0, 1))
        row[1].set_title(f"what the network sees, {seen.shape[0]} x {seen.shape[1]}")
        for axis in row[:2]:
            axis.axis("off")
        row[2].barh(range(TOP), share[top], color="C0")
        row[2].set_yticks(range(TOP), [shorten(labels[i], 28, placeholder=" ...") for i in top])
        row[2].set(xlim=(0, 1), xlabel="probability", ylim=(TOP - 0.5, -0.5))
    return figure


def main(config: Config):
    labels, pictures, x = read_inputs(config)
    model = NETWORKS[config.model][0](config.classes, rngs=nnx.Rngs(config.seed))
    if config.weights:
        load_weights(model, config.weights)
    model.eval()
    run = runs.start("ch02_pretrained", config, out=config.out)
    count_parameters()
    show_preprocessing(*next(iter(pictures.items())), x[0])
    show_stages(model, x[:1])
    logits = classify(model, x)
    if not np.isfinite(logits).all():
        raise ValueError(
            f"{config.model} gives numbers that are not finite; {config.weights} must be "
            "damaged."
        )
    tops = np.argsort(-logits, axis=1)[:, :TOP]
    shares = np.asarray(jax.nn.softmax(logits, axis=1))
    show_top(pictures, tops, shares, labels, random=config.weights is None)
    source = (
        f"weights from {config.weights.name}"
        if config.weights
        else "random weights, so the answers are noise"
    )
    run.figure(draw(pictures, x, tops, shares, labels, f"{config.model}, {source}"), "top5.png")
