"""Chapter 8: the conv net varied: wider, regularised, deeper, and very deep with shortcuts.

Run:    python -m experiments ch08_variations                                  scikit-learn's digits 3 and 8
        python -m experiments ch08_variations --nets baseline batch_norm       some of them
        python -m experiments ch08_variations --data cifar10                   the book's pictures and settings
Writes: runs/ch08_variations/{config.json,history_<net>.jsonl,accuracy.png}
Expect: TODO

The book's networks on its pictures have 32 channels and learn for 100 epochs; the digits are small, and so are theirs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from dlwp_jax import nn, regularization, runs
from experiments import pictures
from experiments.models import count


class Variation(NamedTuple):
    """One bar: how the network is made of a number of channels, what is added to the loss, the learning rate."""

    make: Callable  # (channels, rngs=...) -> network
    book: tuple[float, float] | None = None  # the book's accuracies: training, validation
    penalty: Callable | None = None  # of the network's weights
    lr: float = 1e-2


def half(channels, *, rngs):
    """The chapter's first net, which has half the channels of the others."""
    return nn.ConvNet(channels // 2, rngs=rngs)


# The 100 blocks of the book's listing share one set of weights, so its figures are not of quite this network.
VARIATIONS = {
    "baseline": Variation(half, (0.93, 0.89)),
    "width": Variation(nn.ConvNet, (0.96, 0.90)),
    "l2_reg": Variation(half, (0.90, 0.87), penalty=lambda net: 1e-3 * regularization.l2(net)),
    "l1_reg": Variation(half, penalty=lambda net: 1e-3 * regularization.l1(net)),
    "dropout": Variation(nn.NetDropout, (0.89, 0.88)),
    "batch_norm": Variation(nn.NetBatchNorm, (1.00, 0.89)),
    "depth": Variation(nn.NetDepth, (0.95, 0.90)),
    "res": Variation(nn.NetRes, (0.97, 0.90)),
    "res_deep_10": Variation(partial(nn.NetResDeep, n_blocks=10), lr=3e-3),
    "res_deep_100": Variation(partial(nn.NetResDeep, n_blocks=100), (0.97, 0.86), lr=3e-3),
}


@dataclass(frozen=True)
class Config(pictures.Config):
    nets: tuple[str, ...] = tuple(VARIATIONS)  # which of them
    channels: int | None = None  # of the first convolution; by default 8 for digits and the book's 32 for cifar10
    epochs: int | None = None  # by default 20 for digits and the book's 100 for cifar10

    def __post_init__(self):
        unknown = set(self.nets) - set(VARIATIONS)
        if unknown or not self.nets:
            raise ValueError(f"--nets has {', '.join(sorted(unknown)) or 'none'}; there are {', '.join(VARIATIONS)}.")


def loss_with(penalty):
    """The classification loss plus a penalty of the network's weights, if there is one."""

    def loss_fn(net, batch):
        loss, metrics = pictures.loss_fn(net, batch)
        return (loss + penalty(net) if penalty else loss), metrics

    return loss_fn


def learn(variation, config, shown):
    """The trained network, and the seconds that it took, compilation included."""
    channels = config.channels or (32 if config.data == "cifar10" else 8)
    net = variation.make(channels, rngs=nnx.Rngs(config.seed))
    if len(shown.names) != 2:
        net.fc2 = nn.Linear(32, len(shown.names), rngs=nnx.Rngs(config.seed))

    begin = time.perf_counter()
    epochs = config.epochs or (100 if config.data == "cifar10" else 20)
    options = {"epochs": epochs, "seed": config.seed, "loss_fn": loss_with(variation.penalty)}
    fit = pictures.learn(net, shown, optax.sgd(variation.lr), **options)
    return fit, time.perf_counter() - begin


def show(results, books):
    """One row a net: its size, its accuracies, how far it overfits, what it took, and the book's accuracies."""
    print(f"\n{'':14s}parameters   train     val      gap  seconds" + "  book: train   val" * books)
    for name, (fit, seconds) in results.items():
        told = f"{name:14s}{count(fit.net):10d}{fit.train:8.3f}{fit.val:8.3f}{fit.train - fit.val:9.3f}{seconds:9.1f}"
        book = VARIATIONS[name].book if books else None
        print(told + (f"{book[0]:13.2f}{book[1]:6.2f}" if book else ""))


def draw(results, books):
    """The book's picture: two bars a net; where the book has figures for them, they are the black lines."""
    figure, ax = plt.subplots(figsize=(10, 4.2), layout="constrained")
    place = np.arange(len(results))
    for side, shift in (("train", -0.2), ("val", 0.2)):
        ax.bar(place + shift, [getattr(fit, side) for fit, _ in results.values()], 0.4, label=side)
    for x, name in enumerate(results):
        if books and (book := VARIATIONS[name].book):
            ax.hlines(np.array(book), [x - 0.4, x], [x, x + 0.4], color="k")
    if books:
        ax.plot([], [], "k-", label="the book's")
    lowest = min(min(fit.train, fit.val) for fit, _ in results.values())
    ax.set(ylabel="accuracy", ylim=(np.floor(10 * lowest - 0.5) / 10, 1.0), title="The conv net varied")
    ax.set_xticks(place, list(results), rotation=30)
    ax.legend(loc="lower right")
    return figure


def main(config: Config):
    run_dir = runs.start("ch08_variations", config, out=config.out)
    shown = pictures.load(config)
    results = {}
    for name in config.nets:
        print(f"\n{name}", flush=True)
        fit, _ = results[name] = learn(VARIATIONS[name], config, shown)
        run_dir.history(fit.history, f"history_{name}.jsonl")
    show(results, config.is_books)
    run_dir.figure(draw(results, config.is_books), "accuracy.png")
