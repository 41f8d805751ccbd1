"""Chapter 8: the conv net wider, regularised, deeper, and very deep with shortcuts.

Run:    python -m experiments ch08_variations                              the digits 3 and 8
        python -m experiments ch08_variations --nets baseline batch_norm   some of the networks
        python -m experiments ch08_variations --data cifar10               the book's pictures
Writes: runs/ch08_variations/{config.json,history_<net>.jsonl,accuracy.png}
Expect: digits 3 and 8, seed 0: all nine nets learn 96 to 100 % and get 81 to 89 % of the other
        70 right, which are too few to tell baseline, width, L2, L1 and dropout apart (62 right
        each); 58 s on two cores; res_deep_100 after 5 epochs .829 and .786, 26 s of processor
        time. Airplanes and birds, seed 0, validation accuracy after 5 of the 100 epochs:
        baseline .825, width .835, L2 .823, L1 .818, dropout .825, batch norm .850; nobody has
        run all 100 epochs here

For the book's pictures the networks have 32 channels and learn for 100 epochs, as in the book.
The digits are small, and so are the networks for them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax
from flax import nnx

from dlwp_jax import nn, regularization, runs
from experiments import _drawing, pictures
from experiments.models import count


class Variation(NamedTuple):
    """One network, with its penalty and its learning rate."""

    make: Callable  # (channels, rngs=...) -> network
    book: tuple[float, float] | None = None  # the book's accuracies: training, validation
    penalty: Callable | None = None  # added to the loss: a function of the network
    lr: float = 1e-2


def half(channels, *, rngs):
    """The chapter's first network, which has half the channels of the others."""
    return nn.ConvNet(channels // 2, rngs=rngs)


def deep(n_blocks):
    """A residual net whose blocks are a loop: a hundred compile in the time of one."""

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
    # Without the 100 blocks, which take minutes.
    "digits": Settings(8, 30, 16, tuple(VARIATIONS)[:-1]),
    "cifar10": Settings(32, 100, 64, tuple(VARIATIONS)),  # the book's
}


@dataclass(frozen=True)
class Config(pictures.Config):
    nets: tuple[str, ...] = ()  # which of them; by default all, but on digits res_deep_100
    channels: int = 0  # of the first convolution; 0 takes 8 on digits, the book's 32 on cifar10
    epochs: int = 0  # 0 takes 30 on digits and the book's 100 on cifar10
    batch_size: int = 0  # 0 takes 16 on digits and the book's 64 on cifar10

    def __post_init__(self):
        unknown = sorted(set(self.nets) - set(VARIATIONS))
        if unknown:
            there = ", ".join(VARIATIONS)
            raise ValueError(f"--nets has {', '.join(unknown)}; there are {there}.")
        if min(self.epochs, self.batch_size, self.channels) < 0:
            raise ValueError("--epochs, --batch-size and --channels must not be negative.")
        if self.channels and self.channels < 4:  # the narrowest layer has a quarter of them
            raise ValueError(f"--channels must be at least 4; got {self.channels}.")

    def settings(self) -> Settings:
        """The settings given, and the defaults of the data for the others."""
        settings = SETTINGS[self.data]
        return Settings(
            self.channels or settings.channels,
            self.epochs or settings.epochs,
            self.batch_size or settings.batch_size,
            self.nets or settings.nets,
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
    """Print a row for each network, with the book's accuracies if `books` is true."""
    print(f"\n{'':14s}parameters   train     val      gap  seconds", end="")
    print("  book: train   val" if books else "")
    for name, (fit, seconds) in results.items():
        row = f"{name:14s}{count(fit.net):10d}{fit.train:8.3f}{fit.val:8.3f}"
        row += f"{fit.train - fit.val:9.3f}{seconds:9.1f}"
        book = VARIATIONS[name].book if books else None
        print(row + (f"{book[0]:13.2f}{book[1]:6.2f}" if book else ""))


def draw(results, shown, books):
    accuracies, book = {}, {}
    for name, (fit, _) in results.items():
        accuracies[name] = {"train": fit.train, "val": fit.val}
        if books and VARIATIONS[name].book:
            book[name] = VARIATIONS[name].book
    sizes = {"train": len(shown.train["label"]), "val": len(shown.val["label"])}
    return _drawing.bars(accuracies, sizes, book)


def main(config: Config):
    run_dir = runs.start("ch08_variations", config, out=config.out)
    shown = pictures.load(config)
    settings = config.settings()
    batches = f"{settings.epochs} epochs of batches of {settings.batch_size}"
    print(f"{settings.channels} channels, {batches}")
    left_out = [name for name in VARIATIONS if name not in settings.nets]
    if left_out and not config.nets:
        names = ", ".join(left_out)
        print(f"without {names}, which takes minutes: --nets {' '.join(left_out)}")
    results = {}
    for name in dict.fromkeys(settings.nets):  # each once
        print(f"\n{name}", flush=True)
        fit, seconds = learn(VARIATIONS[name], shown, settings, config.seed)
        results[name] = fit, seconds
        run_dir.history(fit.history, f"history_{name}.jsonl")
    show(results, config.is_books)
    run_dir.figure(draw(results, shown, config.is_books), "accuracy.png")
