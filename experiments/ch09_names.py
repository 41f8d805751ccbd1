"""Chapter 9 of the second edition: names, letter by letter, and the letters attention sees.

Run:    python -m experiments ch09_names                          the names of a short list
        python -m experiments ch09_names --names FILE             a name a line, as the book
        python -m experiments ch09_names --names FILE --steps 10000    for as long as the book
Writes: runs/ch09_names/{config.json,history_<net>.jsonl,losses.png,attention.png}
Expect: on the short list, seed 0, after 1,000 steps: the transformer knows most names by heart;
        75 s of processor time. On the book's 31,915 names, seed 0, after 10,000 steps:
        attention 2.4260, transformer 1.9271 (book 2.4125, 1.9299), every thousandth figure
        within 0.025 of the book's; MLP 2.3387 (book 2.2742, of a network that had been trained
        before); 28 % of the transformer's names are in the list; 6 min of processor time

Four models give the probability of the next letter: a table of pairs, a network of the letters
so far, attention to them, and a transformer. The book's networks print the mean loss of every
thousand steps, of 10,000; ours learn for far fewer by default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import losses, models, nn, runs, train
from experiments import _drawing, first_names
from experiments.book import Table
from experiments.models import count

LETTERS = "$abcdefghijklmnopqrstuvwxyz"  # $ begins and ends every name
LONGEST = 9  # letters; the book leaves longer names out
WIDTH = LONGEST + 2
BATCH = 64
EVERY = 1000  # steps of which the book prints the mean loss
# Of the book's notebooks, after every thousand steps.
BOOK = {
    "MLP": "2.2941 2.2885 2.2868 2.2888 2.2830 2.2800 2.2795 2.2763 2.2761 2.2742",
    "attention": "2.9573 2.7007 2.6209 2.5798 2.5464 2.5015 2.4669 2.4433 2.4240 2.4125",
    "transformer": "2.2924 2.1520 2.0999 2.0626 2.0346 2.0107 1.9852 1.9629 1.9477 1.9299",
}
RATES = {"MLP": 0.1, "attention": 0.01, "transformer": 0.1}


@dataclass(frozen=True)
class Config:
    names: Path | None = None  # a file with a name a line, more fields behind a comma
    steps: int = 1000  # of each network; the book's are 10,000
    blocks: int = 6  # of the transformer
    seed: int = 0  # of weights, batches and samples
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1; got {self.steps}.")

    @property
    def every(self) -> int:
        """Steps of which one mean loss is shown."""
        return EVERY if self.steps >= 5 * EVERY else max(1, self.steps // 5)

    @property
    def is_books(self) -> bool:
        """Whether the losses can be compared with the book's."""
        return self.names is not None and self.every == EVERY


def tokens_of(names):
    """Letters as numbers, for names that are short enough, as the book has them.

    Returns:
      `x [n 11]`, which begins with $ and ends with as many as fit, and `y [n 11]`, of each
      place the next letter, -1 behind the $ that ends the name; both int8.
    """
    names = [name.lower() for name in names]
    rows = [f"${name}$" for name in names if len(name) <= LONGEST]
    x = np.zeros((len(rows), WIDTH), np.int8)
    y = np.full((len(rows), WIDTH), -1, np.int8)
    for row, name in enumerate(rows):
        codes = [LETTERS.index(letter) for letter in name]
        x[row, : len(codes) - 1] = codes[:-1]
        y[row, : len(codes) - 1] = codes[1:]
    return x, y


def pair_shares(x, y):
    """The share of each pair of letters among all pairs, `[27 27]`."""
    seen = y >= 0
    table = np.zeros((len(LETTERS), len(LETTERS)))
    np.add.at(table, (x[seen], y[seen]), 1)
    return table / table.sum()


def networks(seed, blocks):
    """The book's three, with new weights."""
    return {
        "MLP": models.SequenceMLP(27, WIDTH, rngs=nnx.Rngs(seed)),
        "attention": models.AttentionMLP(32, 27, rngs=nnx.Rngs(seed)),
        "transformer": models.SequenceTransformer(
            27, WIDTH, num_blocks=blocks, rngs=nnx.Rngs(seed)
        ),
    }


def loss_fn(net, batch):
    logits, labels = net(batch["x"]), batch["y"].astype(jnp.int32)
    return losses.cross_entropy(logits.reshape(-1, 27), labels.reshape(-1), ignore_index=-1), {}


def learn(net, names, lr, config):
    """The trained network, and its mean loss of every `config.every` steps."""

    def drawn(key, epoch):  # an "epoch" is so many batches, drawn with replacement
        del epoch
        return jax.random.randint(key, (config.every * BATCH,), 0, len(names["x"]))

    key = jax.random.key(config.seed)
    learner, state = train.make_learner(net, loss_fn, optax.sgd(lr), key=key)
    found = train.run(
        learner,
        state,
        names,
        epochs=config.steps // config.every,
        batch_size=BATCH,
        sampler=drawn,
    )
    net = learner.model(found.state)
    net.eval()
    return net, found.history


def samples(net, n, seed):
    """`n` names drawn from a model, letter by letter until it writes $."""
    start, key = jnp.zeros((n, 1), jnp.int32), jax.random.key(seed)
    rows = np.asarray(nn.generate(net, start, WIDTH - 1, key=key, stop=0))
    texts = ["".join(LETTERS[code] for code in row[1:]) for row in rows]
    return [text.partition("$")[0] for text in texts]


def show_samples(name, net, known, seed):
    drawn = samples(net, 500, seed)
    share = np.mean([text in known for text in drawn])
    print(f"{name:12s} {' '.join(drawn[:8])}   ({share:.0%} of 500 are in the list)")


def show_names(names, x):
    """Print how long the names are, beside the book's figures of its file."""
    lengths = np.array([len(name) for name in names])
    print(f"{len(names)} names, the longest has {lengths.max()} letters, the shortest")
    print(
        f"{lengths.min()}, the mean is {lengths.mean():.4f}; {len(x)} have at most {LONGEST}\n"
    )


def show_losses(histories, config):
    """Print the losses beside the book's, if the names are the book's."""
    for name, history in histories.items():
        found = history["train/loss"]
        if not config.is_books:
            print(f"{name:12s} loss {found[0]:.4f} at first, {found[-1]:.4f} in the end")
            continue
        table = Table(rtol=0.012)
        for number, (ours, book) in enumerate(zip(found, BOOK[name].split(), strict=False), 1):
            table.row(f"{name}, steps up to {number * EVERY}", book, float(ours))
        table.close()
        if name == "MLP":
            print("The book's MLP had been trained before its first figure.\n")


def main(config: Config):
    run_dir = runs.start("ch09_names", config, out=config.out)
    names = first_names.read(config.names)
    x, y = tokens_of(names)
    show_names(names, x)
    data: dict[str, Any] = {"x": x, "y": y}

    bigram = models.Bigram(pair_shares(x, y), rngs=nnx.Rngs(0))
    print(f"loss of the table {loss_fn(bigram, data)[0]:.4f}, of a guess {np.log(27):.4f}")
    trained, histories = {}, {}
    for name, net in networks(config.seed, config.blocks).items():
        print(f"{name}: {count(net)} parameters, {config.steps} steps (book 10000)")
        trained[name], histories[name] = learn(net, data, RATES[name], config)
        run_dir.history(histories[name], f"history_{name}.jsonl")
    show_losses(histories, config)

    known = {name.lower() for name in names}
    print("\nNames that the models make up:")
    for name, net in {"pairs": bigram, **trained}.items():
        show_samples(name, net, known, config.seed)

    name = "caroline"
    row = tokens_of([name])[0][:, : len(name) + 1]
    pictures = {"attention": trained["attention"].attention_weights(row)[0]}
    for number, weights in enumerate(trained["transformer"].attention_weights(row), 1):
        pictures[f"transformer, block {number}"] = weights[0].mean(0)
    run_dir.figure(_drawing.attention(f"${name}", pictures), "attention.png")
    book = BOOK if config.is_books else {}
    run_dir.figure(_drawing.losses_by_steps(histories, book, config.every), "losses.png")
