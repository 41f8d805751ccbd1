"""Chapter 6: one small network written in three ways, and trained on the thermometer.

Run:    python -m experiments ch06_networks
Writes: runs/ch06_networks/{config.json,history.jsonl,fit.png}
Expect: the three are one function and train to the same bits; with seed 0 the losses after
        5000 epochs are 2.27 in training (book 2.11) and 1.60 in validation (book 2.02): the
        book began at other random weights; 8 to 10 s of processor time
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, runs, train
from experiments import _drawing
from experiments.models import count, difference, parameters

# The readings that the book's shuffle held back: -4 and 21 degrees C.
VALIDATION = np.array([7, 10])
# The book's losses: {epoch: (training, validation)}.
BOOK = {
    1: (182.9724, 231.8708),
    1000: (6.6642, 3.7330),
    2000: (5.1502, 0.1406),
    3000: (2.9653, 1.0005),
    4000: (2.2839, 1.6580),
    5000: (2.1141, 2.0215),
}


@dataclass(frozen=True)
class Config:
    epochs: int = 5000  # each over the nine readings at once
    seed: int = 0  # of the weights
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; got {self.epochs}.")


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
    """A class: a layer if it has parameters, a plain function if not (tanh)."""

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
    """Nine readings to learn from and the book's two to check, as columns `[n 1]`.

    t_u is multiplied by 0.1.
    """
    both = data.thermometer()
    columns = {"t_u": 0.1 * both["t_u"][:, None], "t_c": both["t_c"][:, None]}
    others = np.setdiff1d(np.arange(11), VALIDATION)
    return data.take(columns, others), data.take(columns, VALIDATION)


def loss_fn(model, batch):
    return jnp.mean((model(batch["t_u"]) - batch["t_c"]) ** 2), {}  # degrees C squared


def gradients(model):
    return parameters(nnx.grad(lambda model: loss_fn(model, readings()[0])[0])(model))


def train_net(model, lr, epochs):
    learner, state = train.make_learner(model, loss_fn, optax.sgd(lr), key=jax.random.key(0))
    result = train.run(learner, state, *readings(), epochs=epochs, batch_size=9)
    return Trained(learner.model(result.state), result.history)


def show_parameters(models):
    """Print a row for each parameter: its name in each way, and its shape."""
    tables = [parameters(model) for model in models.values()]
    print("".join(f"{way:24s}" for way in models) + "shape   torch's shape")
    for names in zip(*tables, strict=True):
        shape = tables[0][names[0]].shape
        print("".join(f"{name:24s}" for name in names) + f"{shape!s:8s}{shape[::-1]}")
    print("".join(f"{f'{count(model)} parameters':24s}" for model in models.values()) + "\n")


def facts(model, trained):
    """All numbers of a network in which the three ways might differ."""
    return {
        "weights": parameters(model),
        "outputs": {"t_c": model(readings()[0]["t_u"])},
        "gradients": gradients(model),
        "losses": trained.history,
        "trained weights": parameters(trained.net),
    }


def show_equality(models, trained):
    """Print how far each way is from the first: in its weights, and at every epoch."""
    first, *others = models
    reference = facts(models[first], trained[first])
    epochs = len(trained[first].history["train/loss"])
    print(f"largest difference from the {first}, over {epochs} epochs:")
    for way in others:
        found = facts(models[way], trained[way])
        words = [f"{name} {difference(found[name], reference[name]):g}" for name in reference]
        print(f"{way:18s}" + "  ".join(words))


def show_training(name, trained, book):
    """Print losses at the epochs that the book prints, beside the book's, if it has any."""
    print(f"\n{name}: losses in °C²")
    print(f"{'':14s}training  validation" + ("  book: train  book: val." if book else ""))
    train_losses, val_losses = trained.history["train/loss"], trained.history["val/loss"]
    last = len(train_losses)
    for epoch in [*(epoch for epoch in BOOK if epoch < last), last]:
        losses = [float(train_losses[epoch - 1]), float(val_losses[epoch - 1])]
        losses += book.get(epoch, ())
        print(f"epoch {epoch:4d}" + "".join(f"{loss:12.4f}" for loss in losses))

    val = readings()[1]
    outputs = trained.net(val["t_u"]).ravel()
    words = []
    for output, answer in zip(outputs, val["t_c"].ravel(), strict=True):
        words.append(f"{float(output):.4f} for {float(answer):g} °C")
    print("held back: " + ", ".join(words))
    for parameter, gradient in gradients(trained.net).items():
        if parameter.startswith("hidden"):
            print(f"gradient of {parameter}:", *(f"{float(g):.4f}" for g in gradient.ravel()))


def draw(fits):
    t_u = np.arange(20.0, 90.0, dtype=np.float32)
    both, panels = data.thermometer(), {}
    for name, trained in fits.items():
        curve = trained.net(0.1 * t_u[:, None])
        outputs = trained.net(0.1 * both["t_u"][:, None])
        title = f"{name}: training loss {float(trained.history['train/loss'][-1]):.2f} °C²"
        panels[title] = t_u, curve, outputs
    return _drawing.network_fits(both, VALIDATION, panels)


def main(config: Config):
    run_dir = runs.start("ch06_networks", config, out=config.out)
    # The same seed draws the same weights, since all three make their layers in the same order.
    models = {way: make(8, rngs=nnx.Rngs(config.seed)) for way, make in WAYS.items()}
    show_parameters(models)
    trained = {way: train_net(model, 1e-3, config.epochs) for way, model in models.items()}
    show_equality(models, trained)

    small = trained["module class"]
    show_training("8 neurons, SGD 1e-3", small, BOOK)
    large = train_net(Thermometer(20, rngs=nnx.Rngs(config.seed)), 1e-4, config.epochs)
    show_training("20 neurons, SGD 1e-4", large, {})
    run_dir.history(small.history)
    figure = draw({"8 neurons, SGD 1e-3": small, "20 neurons, SGD 1e-4": large})
    run_dir.figure(figure, "fit.png")
