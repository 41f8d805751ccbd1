"""Chapter 6: one small network written three ways, and what it makes of the thermometer.

Run:    python -m experiments ch06_networks
Writes: runs/ch06_networks/{config.json,history.jsonl,fit.png} Expect: the three are one
function and train to the same bits; losses after 5000 epochs near the book's, whose random
        weights are not known: training 2.27 (book 2.11), validation 1.60 (book 2.02), seed 0; 8 to 10 s of
        processor time
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, runs, train
from experiments.models import count, difference, parameters

VALIDATION = np.array(
    [7, 10]
)  # the readings that the book's shuffle held back: -4 and 21 degrees C
BOOK = {1: (182.9724, 231.8708), 1000: (6.6642, 3.7330), 2000: (5.1502, 0.1406)}
BOOK |= {
    3000: (2.9653, 1.0005),
    4000: (2.2839, 1.6580),
    5000: (2.1141, 2.0215),
}  # epoch: training, validation loss


@dataclass(frozen=True)
class Config:
    epochs: int = 5000  # each over the nine readings at once
    seed: int = 0  # of the weights
    out: Path = Path("runs")  # where the run directory is made


def positional(width, *, rngs):
    """Layers by position: they are called 0, 1 and 2."""
    return nn.Sequential(
        nn.Linear(1, width, rngs=rngs), nn.Tanh(), nn.Linear(width, 1, rngs=rngs)
    )


def named(width, *, rngs):
    """The same with names, which parameters and checkpoints then carry."""
    hidden, output = nn.Linear(1, width, rngs=rngs), nn.Linear(width, 1, rngs=rngs)
    return nn.Sequential(
        hidden_linear=hidden, hidden_activation=nn.Tanh(), output_linear=output
    )


class Thermometer(nnx.Module):
    """A class: what holds parameters is a layer, what does not (tanh) is a function."""

    def __init__(self, width, *, rngs):
        self.hidden_linear = nn.Linear(1, width, rngs=rngs)
        self.output_linear = nn.Linear(width, 1, rngs=rngs)

    def __call__(self, t_u):  # [n 1] -> [n 1]
        return self.output_linear(jnp.tanh(self.hidden_linear(t_u)))


WAYS = {
    "positional Sequential": positional,
    "named Sequential": named,
    "module class": Thermometer,
}


class Trained(NamedTuple):
    net: Any
    history: dict[str, jax.Array]


def readings():
    """Nine readings to learn from and the book's two to check, as columns [n 1], t_u scaled by
    0.1.
    """
    both = data.thermometer()
    columns = {"t_u": 0.1 * both["t_u"][:, None], "t_c": both["t_c"][:, None]}
    return data.take(columns, np.setdiff1d(np.arange(11), VALIDATION)), data.take(
        columns, VALIDATION
    )


def loss_fn(model, batch):
    return jnp.mean((model(batch["t_u"]) - batch["t_c"]) ** 2), {}  # degrees C squared


def gradients(model):
    return parameters(nnx.grad(lambda model: loss_fn(model, readings()[0])[0])(model))


def train_net(model, lr, epochs):
    learner, state = train.make_learner(model, loss_fn, optax.sgd(lr), key=jax.random.key(0))
    result = train.run(learner, state, *readings(), epochs=epochs, batch_size=9)
    return Trained(learner.model(result.state), result.history)


def show_parameters(models):
    """A row a parameter: its name in each way, and its shape."""
    tables = [parameters(model) for model in models.values()]
    print("".join(f"{way:24s}" for way in models) + "shape   torch's shape")
    for names in zip(*tables, strict=True):
        shape = tables[0][names[0]].shape
        print("".join(f"{name:24s}" for name in names) + f"{shape!s:8s}{shape[::-1]}")
    print("".join(f"{f'{count(model)} parameters':24s}" for model in models.values()) + "\n")


def show_equality(models, trained):
    """The same function from the same weights, and the same numbers at every epoch of
    training.
    """
    facts = {
        way: {
            "weights": parameters(model),
            "outputs": {"t_c": model(readings()[0]["t_u"])},
            "gradients": gradients(model),
            "losses": trained[way].history,
            "trained weights": parameters(trained[way].net),
        }
        for way, model in models.items()
    }
    (first, reference), *others = facts.items()
    print(
        f"largest difference from the {first}, over {len(trained[first].history['train/loss'])} epochs:"
    )
    for way, fact in others:
        print(
            f"{way:18s}"
            + "  ".join(f"{what} {difference(fact[what], reference[what]):g}" for what in fact)
        )


def show_training(name, trained, book=None):
    """The losses as the book prints them, beside the book's, whose random weights were
    others.
    """
    print(
        f"\n{name}: losses in °C²\n{'':14s}training"
        + "  validation"
        + "  book: train  book: val." * bool(book)
    )
    last = len(trained.history["train/loss"])
    for epoch in (*(epoch for epoch in BOOK if epoch < last), last):
        losses = [float(values[epoch - 1]) for values in trained.history.values()] + list(
            (book or {}).get(epoch, ())
        )
        print(f"epoch {epoch:4d}" + "".join(f"{loss:12.4f}" for loss in losses))
    val = readings()[1]
    pairs = zip(trained.net(val["t_u"]).ravel(), val["t_c"].ravel(), strict=True)
    print(
        "held back: "
        + ", ".join(f"{float(output):.4f} for {float(answer):g} °C" for output, answer in pairs)
    )
    for parameter, gradient in gradients(trained.net).items():
        if parameter.startswith("hidden"):
            print(f"gradient of {parameter}:", *(f"{float(g):.4f}" for g in gradient.ravel()))


def draw(fits, run_dir):
    """As the book does: readings as points, the network as a curve, its outputs at the readings
    as crosses.
    """
    both, t_range = data.thermometer(), jnp.arange(20.0, 90.0)
    figure, axes = plt.subplots(
        1, len(fits), figsize=(11, 4.2), layout="constrained", sharey=True
    )
    for ax, (name, trained) in zip(axes, fits.items(), strict=True):
        ax.plot(both["t_u"], both["t_c"], "o", label="readings")
        ax.plot(
            both["t_u"][VALIDATION],
            both["t_c"][VALIDATION],
            "o",
            ms=12,
            mfc="none",
            mec="C3",
            label="held back",
        )
        ax.plot(t_range, trained.net(0.1 * t_range[:, None]), "c-", label="network")
        ax.plot(
            both["t_u"],
            trained.net(0.1 * both["t_u"][:, None]),
            "kx",
            label="its output at the readings",
        )
        ax.set(
            xlabel="t_u (unknown units)",
            title=f"{name}: training loss {float(trained.history['train/loss'][-1]):.2f} °C²",
        )
    axes[0].set(ylabel="t_c (°C)")
    axes[0].legend()
    run_dir.figure(figure, "fit.png")


def main(config: Config):
    run_dir = runs.start("ch06_networks", config, out=config.out)
    # The same seed draws the same weights, since all three make their layers in the same order.
    models = {way: make(8, rngs=nnx.Rngs(config.seed)) for way, make in WAYS.items()}
    show_parameters(models)
    trained = {way: train_net(model, 1e-3, config.epochs) for way, model in models.items()}
    show_equality(models, trained)
    small = trained["module class"]
    large = train_net(Thermometer(20, rngs=nnx.Rngs(config.seed)), 1e-4, config.epochs)
    fits = {"8 neurons, SGD 1e-3": small, "20 neurons, SGD 1e-4": large}
    for (name, fit), book in zip(fits.items(), (BOOK, None), strict=True):
        show_training(name, fit, book)
    run_dir.history(small.history)
    draw(fits, run_dir)
