"""Chapter 8: the conv net varied: wider, regularised, deeper, and very deep with shortcuts.

Run:    python -m experiments ch08_variations                                  scikit-learn's digits 3 and 8
        python -m experiments ch08_variations --nets baseline batch_norm       some of them
        python -m experiments ch08_variations --data cifar10                   the book's pictures and settings
Writes: runs/ch08_variations/{config.json,history_<net>.jsonl,accuracy.png} Expect: digits 3 and
8, seed 0: all nine nets learn 96 to 100 % and get 81 to 89 % of the other 70 right, which are
too
        few to tell baseline, width, L2, L1 and dropout apart (62 right each); 58 s on two cores; res_deep_100
        after 5 epochs .829 and .786, 26 s of processor time
        airplanes and birds, seed 0, validation accuracy after 5 of the 100 epochs: baseline .825, width .835, L2 .823,
        L1 .818, dropout .825, batch norm .850; all 100 epochs were not run

The book's networks on its pictures have 32 channels and learn for 100 epochs; the digits are
small, and so are theirs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from dlwp_jax import nn, regularization, runs
from experiments import pictures
from experiments.models import count


class Variation(NamedTuple):
    """One bar: how the network is made of a number of channels, what is added to the loss, the
    learning rate.
    """

    make: Callable  # (channels, rngs=...) -> network
    book: tuple[float, float] | None = None  # the book's accuracies: training, validation
    penalty: Callable | None = None  # of the network's weights
    lr: float = 1e-2


def half(channels, *, rngs):
    """The chapter's first net, which has half the channels of the others."""
    return nn.ConvNet(channels // 2, rngs=rngs)


def deep(n_blocks):
    """A residual net whose blocks are a loop, so that a hundred of them compile in the time of
    one.
    """

    def make(channels, *, rngs):
        net: Any = nn.NetResDeep(channels, n_blocks, rngs=rngs)
        net.resblocks = nn.LayerStack(*net.resblocks)
        return net

    return make


# The 100 blocks of the book's listing share one set of weights, so its figures are not of quite
# this network.
VARIATIONS = {
    "baseline": Variation(half, (0.93, 0.89)),
    "width": Variation(nn.ConvNet, (0.96, 0.90)),
    "l2_reg": Variation(half, (0.90, 0.87), penalty=lambda net: 1e-3 * regularization.l2(net)),
    "l1_reg": Variation(half, penalty=lambda net: 1e-3 * regularization.l1(net)),
    "dropout": Variation(nn.NetDropout, (0.89, 0.88)),
    "batch_norm": Variation(nn.NetBatchNorm, (1.00, 0.89)),
    "depth": Variation(nn.NetDepth, (0.95, 0.90)),
    "res": Variation(nn.NetRes, (0.97, 0.90)),
    "res_deep_10": Variation(deep(10), lr=3e-3),
    "res_deep_100": Variation(deep(100), (0.97, 0.86), lr=3e-3),
}


class Settings(NamedTuple):
    channels: int  # of the first convolution
    epochs: int
    batch_size: int
    nets: tuple[str, ...]


SETTINGS = {
    "digits": Settings(
        8, 30, 16, tuple(VARIATIONS)[:-1]
    ),  # without the 100 blocks, which take minutes
    "cifar10": Settings(32, 100, 64, tuple(VARIATIONS)),  # the book's
}


@dataclass(frozen=True)
class Config(pictures.Config):
    nets: tuple[str, ...] = ()  # which of them; by default all, but on digits res_deep_100
    channels: int = (
        0  # of the first convolution; 0 takes 8 on digits and the book's 32 on cifar10
    )
    epochs: int = 0  # 0 takes 30 on digits and the book's 100 on cifar10
    batch_size: int = 0  # 0 takes 16 on digits and the book's 64 on cifar10

    def __post_init__(self):
        if unknown := set(self.nets) - set(VARIATIONS):
            raise ValueError(
                f"--nets has {', '.join(sorted(unknown))}; there are {', '.join(VARIATIONS)}."
            )
        if self.channels and self.channels < 4:  # the narrowest layer has a quarter of them
            raise ValueError(f"--channels must be at least 4; got {self.channels}.")

    def settings(self) -> Settings:
        """What was asked for, completed."""
        asked = {name: getattr(self, name) for name in Settings._fields}
        return SETTINGS[self.data]._replace(
            **{name: value for name, value in asked.items() if value}
        )


def loss_with(penalty):
    """The classification loss plus a penalty of the network's weights, if there is one."""

    def loss_fn(net, batch):
        loss, metrics = pictures.loss_fn(net, batch)
        return (loss + penalty(net) if penalty else loss), metrics

    return loss_fn


def learn(variation, shown, settings, seed):
    """The trained network, and the seconds that it took, compilation included."""
    net = variation.make(settings.channels, rngs=nnx.Rngs(seed))
    if len(shown.names) != 2:
        net.fc2 = nn.Linear(32, len(shown.names), rngs=nnx.Rngs(seed))
    options = {"epochs": settings.epochs, "batch_size": settings.batch_size, "seed": seed}
    begin = time.perf_counter()
    fit = pictures.learn(
        net, shown, optax.sgd(variation.lr), loss_fn=loss_with(variation.penalty), **options
    )
    return fit, time.perf_counter() - begin


def show(results, books):
    """One row a net: its size, its accuracies, how far it overfits, what it took, and the
    book's accuracies.
    """
    print(
        f"\n{'':14s}parameters   train     val      gap  seconds"
        + "  book: train   val" * books
    )
    for name, (fit, seconds) in results.items():
        told = f"{name:14s}{count(fit.net):10d}{fit.train:8.3f}{fit.val:8.3f}{fit.train - fit.val:9.3f}{seconds:9.1f}"
        book = VARIATIONS[name].book if books else None
        print(told + (f"{book[0]:13.2f}{book[1]:6.2f}" if book else ""))


def draw(results, shown, books):
    """The book's picture: two bars a net; where the book has figures for them, they are the
    black lines.
    """
    figure, ax = plt.subplots(figsize=(10, 4.2), layout="constrained")
    place = np.arange(len(results))
    for side, shift in (("train", -0.2), ("val", 0.2)):
        label = f"{side}, n = {len(getattr(shown, side)['label'])}"
        ax.bar(
            place + shift, [getattr(fit, side) for fit, _ in results.values()], 0.4, label=label
        )
    for x, name in enumerate(results):
        if books and (book := VARIATIONS[name].book):
            ax.hlines(np.array(book), [x - 0.4, x], [x, x + 0.4], color="k")
    if books:
        ax.plot([], [], "k-", label="the book's")
    lowest = min(min(fit.train, fit.val) for fit, _ in results.values())
    ax.set(
        ylabel="accuracy",
        ylim=(np.floor(10 * lowest - 0.5) / 10, 1.0),
        title="The conv net varied",
    )
    ax.set_xticks(place, list(results), rotation=30)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def main(config: Config):
    run_dir = runs.start("ch08_variations", config, out=config.out)
    shown = pictures.load(config)
    results, settings = {}, config.settings()
    print(
        f"{settings.channels} channels, {settings.epochs} epochs of batches of {settings.batch_size}"
    )
    if not config.nets and (
        left_out := [name for name in VARIATIONS if name not in settings.nets]
    ):
        print(
            f"without {', '.join(left_out)}, which takes minutes: --nets {' '.join(left_out)}"
        )
    for name in dict.fromkeys(settings.nets):  # each once
        print(f"\n{name}", flush=True)
        fit, _ = results[name] = learn(VARIATIONS[name], shown, settings, config.seed)
        run_dir.history(fit.history, f"history_{name}.jsonl")
    show(results, config.is_books)
    run_dir.figure(draw(results, shown, config.is_books), "accuracy.png")
