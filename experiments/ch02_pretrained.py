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
from experiments.models import count

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
    model: Literal["resnet18", "resnet50", "resnet101", "alexnet"] = (
        "resnet101"  # which network
    )
    weights: Path | None = (
        None  # its weights: a .pth or .safetensors file; none draws them at random
    )
    labels: Path | None = (
        None  # the names of the weights' classes, a text file with one in each line
    )
    picture: tuple[
        Path, ...
    ] = ()  # PNG or JPEG files; none takes scikit-learn's china.jpg and flower.jpg
    classes: int = 1000  # how many the network tells apart
    seed: int = 0  # of random weights
    out: Path = Path("runs")  # where the run directory is made


def read_inputs(config):
    """Names of the classes, pictures by file, and what the network is given: `[n 224 224
    3]`.
    """
    if config.labels and not config.weights:
        raise ValueError(
            "--labels names the classes of --weights; random weights know no classes, so give both."
        )
    if config.classes < TOP:
        raise ValueError(f"--classes {config.classes}: a list of {TOP} needs {TOP} or more.")
    paths = config.picture or tuple(map(Path, load_sample_images().filenames))
    pictures = {path: image.read(path, channels=3) for path in paths}
    for path, picture in pictures.items():
        if picture.dtype != np.uint8:
            raise ValueError(
                f"{path} has 16 bits a pixel; only 8 can be resized. Convert it first."
            )
    numbers = [f"class {i}" for i in range(config.classes)]
    labels = imagenet.read_labels(config.labels, config.classes) if config.labels else numbers
    return (
        labels,
        pictures,
        np.stack([imagenet.preprocess(picture) for picture in pictures.values()]),
    )


def count_parameters():
    """From shapes alone: no weight is drawn."""
    print(f"{'parameters':10s} {'here':>11s}  {'published':>11s}")
    for name, (make, published) in NETWORKS.items():
        here = count(nnx.eval_shape(lambda make=make: make(rngs=nnx.Rngs(0))))
        print(
            f"{name:10s} {here:11,d}  {published:11,d}  {'equal' if here == published else 'DIFFERS'}"
        )


def load_weights(model, path):
    """Fill the network from its file."""
    try:
        from dlwp_jax import parity
    except ModuleNotFoundError as error:
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
    print(
        f"{path}: {len(entries)} arrays, each found its place by {' or '.join({e.found_by for e in entries})}\n"
    )


def show_preprocessing(path, picture, x):
    print(f"\n{path.name}: {picture.shape} {picture.dtype}")
    print(
        f"  shorter side to 256: {image.resize(picture, 256).shape}, the middle: {x.shape}, standardized:"
    )
    for color, channel in zip(("red", "green", "blue"), np.moveaxis(x, -1, 0), strict=True):
        print(
            f"  {color:5s} {channel.min():6.3f} to {channel.max():6.3f}, mean {channel.mean():6.3f}"
        )


def show_stages(model, x):
    """What comes out of each stage, and the parameters in it."""
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
    told = f"{1000 * np.median(others):.0f} ms a picture (median of {len(others)}) on {jax.default_backend()}"
    print(f"\nthe first, with compiling or fetching from the cache, in {first:.1f} s; {told}")
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
            f"{config.model} gives numbers that are not finite; {config.weights} must be damaged."
        )
    tops, shares = (
        np.argsort(-logits, axis=1)[:, :TOP],
        np.asarray(jax.nn.softmax(logits, axis=1)),
    )
    show_top(pictures, tops, shares, labels, random=config.weights is None)
    source = (
        f"weights from {config.weights.name}"
        if config.weights
        else "random weights, so the answers are noise"
    )
    run.figure(draw(pictures, x, tops, shares, labels, f"{config.model}, {source}"), "top5.png")
