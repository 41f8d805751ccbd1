"""Chapter 7: tell birds from airplanes (or 3 from 8) with fully connected layers.

Run:    python -m experiments ch07_birds_airplanes                   the digits 3 and 8
        python -m experiments ch07_birds_airplanes --classes ten     all ten digits
        python -m experiments ch07_birds_airplanes --data cifar10    the book's, under DLWP_DATA
Writes: runs/ch07_birds_airplanes/{config.json,history_*.jsonl,losses.png,overfitting.png,
        wrong.png}
Expect: digits 3 and 8: all 287 learned, 89 to 94 % of the other 70 right; 45 s of processor
        time. Airplanes and birds, seed 0, accuracy of training and validation after 100
        epochs: 3072-512-2 .956 and .753 (a dip of the last epoch), as medians of the last ten
        .998 and .812 (book .9977 and .821); 3072-128-2 .995 and .791; 3072-1024-512-128-2 .977
        and .758 (book .9997 and .801); one picture at a time, after 10 epochs, .780 and .727;
        10 minutes of processor time
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlwp_jax import losses, nn, runs
from experiments import _drawing, pictures
from experiments.book import Table
from experiments.models import count_of

# Neurons of the hidden layers, and the book's accuracies of training and validation.
NETS = {"512": (0.9977, 0.821), "128": None, "1024-512-128": (0.9997, 0.801)}


@dataclass(frozen=True)
class Config(pictures.Config):
    epochs: int = 100  # with batches of 64
    single_epochs: int = 10  # with one picture at a time

    def __post_init__(self):
        if min(self.epochs, self.single_epochs) < 1:
            given = f"--epochs {self.epochs}, --single-epochs {self.single_epochs}"
            raise ValueError(f"{given}: each must be at least 1.")


def fully_connected(hidden, classes, *, rngs):
    """`"512"` makes 3072-512-classes, with tanh after every hidden layer; it gives logits."""
    widths = [3072, *(int(width) for width in hidden.split("-")), classes]
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, rngs=rngs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def squared(probabilities, label):
    """The mean over examples of the squared distance from the one-hot truth."""
    return jnp.mean(jnp.sum((probabilities - jax.nn.one_hot(label, 2)) ** 2, axis=-1))


def likelihood(probabilities, label):
    """The negative logarithm of the probability that all answers are right."""
    return losses.nll_loss(jnp.log(probabilities), label, reduction="sum")


# The losses compared, and by how many % they change with each of FIRST in the book.
LOSSES = {
    "NLL": (likelihood, ("-33.9", "0", "33.9", "149.8")),
    "squared error": (squared, ("-50", "0", "66.7", "216.7")),
}
# The first of four predictions: more right, as it was, slightly wrong, very wrong.
FIRST = ((0.9, 0.1), (0.6, 0.4), (0.4, 0.6), (0.1, 0.9))


def changes(loss):
    """By how many % the loss of four predictions changes with each of FIRST as the first."""
    predicted = jnp.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    label = jnp.array([0, 0, 1, 1])
    before, found = loss(predicted, label), []
    for first in FIRST:
        after = loss(predicted.at[0].set(jnp.array(first)), label)
        found.append(float(100 * (after / before - 1)))
    return found


def loss_of_scores(loss):
    """The loss of one example of class 0 by its score; the score of the other class is 0."""

    def of_score(score):
        return loss(nn.softmax(jnp.stack([score, jnp.zeros(())]))[None], jnp.array([0]))

    return of_score


def show_losses():
    """Print how scores become probabilities, and how two losses judge them."""
    table = Table(rtol=0)
    for name, book in {"512": "1574402", "1024-512-128": "3737474"}.items():
        ours = count_of(lambda name=name: fully_connected(name, 2, rngs=nnx.Rngs(0)))
        table.row(f"parameters of 3072-{name}-2", book, ours)
    probabilities = nn.softmax(jnp.array([1.0, 2.0, 3.0]))
    for book, ours in zip(("0.0900", "0.2447", "0.6652"), probabilities, strict=True):
        table.row("softmax of (1, 2, 3)", book, float(ours))
    scores = jnp.array([0.0, 104.0])
    for book, ours in zip(("-104", "0"), nn.log_softmax(scores), strict=True):
        table.row("log softmax of (0, 104)", book, float(ours))
    for name, (loss, books) in LOSSES.items():
        for first, book, ours in zip(FIRST, books, changes(loss), strict=True):
            table.row(f"{name}, first {first}, change in %", book, ours)
    table.close()
    # The logarithm is taken inside, since in two steps a small probability becomes 0.
    print(f"log of the softmax of (0, 104), in two steps: {jnp.log(nn.softmax(scores))}")
    for name, (loss, _) in LOSSES.items():
        slope = float(jax.grad(loss_of_scores(loss))(-10.0))
        print(f"slope of the {name} where the right class's score is 10 too low: {slope:.6f}")


def draw_losses():
    score = jnp.linspace(-10.0, 10.0, 401)
    curves = {}
    for name, (loss, _) in LOSSES.items():
        of_score = loss_of_scores(loss)
        curves[name] = jax.vmap(of_score)(score), jax.vmap(jax.grad(of_score))(score)
    return _drawing.two_losses(score, curves)


def train_net(config, data, hidden, *, batch_size, epochs):
    """Train one network by plain SGD, and print its accuracies."""
    print(f"batches of {batch_size}, SGD 1e-2, {epochs} epochs", flush=True)
    net = fully_connected(hidden, len(data.names), rngs=nnx.Rngs(config.seed))
    fit = pictures.learn(
        net, data, optax.sgd(1e-2), epochs=epochs, batch_size=batch_size, seed=config.seed
    )
    book = NETS[hidden] if config.is_books and batch_size == 64 else None
    print(fit.told(book))
    return fit


def train_all(config, data):
    """The first network one picture at a time, then each by batches of 64."""
    trained = {}
    name = f"3072-512-{len(data.names)}, one at a time"
    print(f"\n{name}")
    trained[name] = train_net(config, data, "512", batch_size=1, epochs=config.single_epochs)
    for hidden in NETS:
        name = f"3072-{hidden}-{len(data.names)}"
        print(f"\n{name}")
        trained[name] = train_net(config, data, hidden, batch_size=64, epochs=config.epochs)
    return trained


def main(config: Config):
    run_dir = runs.start("ch07_birds_airplanes", config, out=config.out)
    data = pictures.load(config)
    show_losses()
    run_dir.figure(draw_losses(), "losses.png")
    if config.data == "digits" and config.classes == "two":
        pairs = pictures.hardest_pairs()[:3]
        words = ", ".join(f"{a} and {b} {accuracy:.3f}" for (a, b), accuracy in pairs)
        print(f"hardest pairs of digits for a logistic regression: {words}")
    trained = train_all(config, data)
    best = trained[f"3072-512-{len(data.names)}"]
    pictures.show_wrong(data, best.probabilities, run_dir)
    for name, fit in trained.items():
        file = name.replace(", one at a time", "_single")
        run_dir.history(fit.history, f"history_{file}.jsonl")
    run_dir.figure(_drawing.accuracies(trained), "overfitting.png")
