"""Chapter 9 of the second edition: a text as tokens, by words and by pairs of bytes.

Run:    python -m experiments ch09_tokens                  Python's own help texts
        python -m experiments ch09_tokens --text FILE      another text, as the book's Odyssey
        Add --steps 5500 --blocks 6 --batch-size 64 --optimizer sgd    for the book's training
Writes: runs/ch09_tokens/{config.json,history_<tokens>.jsonl,tokens.png}
Expect: Python 3.11's help, seed 0, after 300 steps: 4,894 words, loss 4.33, of the text held
        back 5.78 or 1.40 by character; 1,000 pairs, loss 4.04, of the text held back 4.65 or
        1.60; 100 s of processor time. The book's 8,701 words of the Odyssey are there, and
        152,804 tokens; its training is not run here, since it takes hours on a CPU

A vocabulary of words is large, knows no word but its own, and forgets where the spaces were. A
vocabulary of pairs begins with the 256 bytes and joins the most frequent pair of neighbours to
a new token, again and again; it gives every text back. A transformer learns each of them. A
tenth of the text is held back. Its loss is also shown by character, since a token of one is
not a token of the other; spaces, which the words do not give back, do not count there.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel

from dlwp_jax import losses, models, nn, runs, train
from dlwp_jax.data import sources
from dlwp_jax.data import text as texts
from experiments import _drawing
from experiments.book import Table
from experiments.models import count

UNKNOWN = "[UNK]"
BYTES = 256
LENGTH = 100  # tokens of a sequence, as in the book
# The mean losses of 200 steps each that the book prints for words, after 500 steps.
BOOK_BEGINS, BOOK_EVERY = 500, 200
BOOK = """5.6415 5.6001 5.566 5.5303 5.4998 5.468 5.4355 5.4117 5.3868 5.3663 5.3272 5.3095
5.2882 5.2673 5.2418 5.2128 5.1968 5.1682 5.1526 5.1307 5.1172 5.0911 5.0676 5.0463 5.0262"""
OPTIMIZERS = {"adam": optax.adam(3e-3), "sgd": optax.sgd(0.1)}
SENTENCE = "The gods hear of it by telephone."
BEGIN = "The"  # of the texts that the networks make up


@dataclass(frozen=True)
class Config:
    text: Path | None = None  # a text in UTF-8; by default Python's help texts
    steps: int = 300  # of each model; the book's are 5500
    batch_size: int = 16  # the book's is 64
    optimizer: Literal["adam", "sgd"] = "adam"  # sgd is the book's
    pairs: int = 1000  # entries of the vocabulary of pairs
    blocks: int = 2  # of the transformer; the book has 6
    seed: int = 0  # of weights, batches and samples
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.blocks) < 1:
            raise ValueError("--steps, --batch-size and --blocks must be at least 1.")
        if self.pairs <= BYTES:
            raise ValueError(
                f"--pairs must be above {BYTES}, "
                f"since every byte has an entry; got {self.pairs}."
            )

    @property
    def every(self) -> int:
        """Steps of which one mean loss is recorded."""
        return BOOK_EVERY // 2 if self.is_books else max(1, self.steps // 10)

    @property
    def is_books(self) -> bool:
        """Whether the losses can be compared with the book's."""
        given = (self.optimizer, self.batch_size, self.blocks)
        return (
            self.text is not None
            and given == ("sgd", 64, 6)
            and self.steps >= BOOK_BEGINS + BOOK_EVERY
        )


class Tokens(NamedTuple):
    """A text as tokens."""

    tokenizer: Tokenizer
    ids: np.ndarray  # [n] int32
    characters: float  # that a token gives back, on average


def by_words(text):
    """The book's tokenizer: words and runs of signs, the most frequent first."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def by_pairs(text, entries):
    """A tokenizer of bytes and of the pairs that are joined, the most frequent first."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def tokens_of(text, tokenizer, given_back):
    """The text as tokens; `given_back` is the part of it that they keep."""
    ids = np.array(tokenizer.encode(text).ids, np.int32)
    return Tokens(tokenizer, ids, len(given_back) / max(1, len(ids)))


def decode(tokens, rows):
    """The texts of lists of ids; a word that is not known is [UNK]."""
    return tokens.tokenizer.decode_batch(rows, skip_special_tokens=False)


def sequences(ids):
    """Sequences of 100 tokens without overlap, and of each token the next one, `[n 100]`."""
    n = max(0, len(ids) - 1) // LENGTH
    x, y = ids[: n * LENGTH], ids[1 : n * LENGTH + 1]
    return {"x": x.reshape(n, LENGTH), "y": y.reshape(n, LENGTH)}


def loss_fn(net, batch):
    logits = net(batch["x"])
    flat = logits.reshape(-1, logits.shape[-1])
    return losses.cross_entropy(flat, batch["y"].reshape(-1)), {}


def learn(tokens, config):
    """The trained network, and its losses of every `config.every` steps."""
    rows = sequences(tokens.ids)
    n = len(rows["x"])
    held = max(1, n // 10)
    if n < 2:
        raise ValueError(f"the text has {len(tokens.ids)} tokens; {2 * LENGTH + 1} are needed.")
    known = {name: part[:-held] for name, part in rows.items()}
    new = {name: part[-held:] for name, part in rows.items()}
    entries = tokens.tokenizer.get_vocab_size()
    net = models.SequenceTransformer(
        entries, LENGTH, num_blocks=config.blocks, rngs=nnx.Rngs(config.seed)
    )
    print(f"{count(net)} parameters; {n - held} sequences to learn from, {held} to check")

    def drawn(key, epoch):  # an "epoch" is so many batches, drawn with replacement
        del epoch
        return jax.random.randint(key, (config.every * config.batch_size,), 0, n - held)

    key = jax.random.key(config.seed)
    learner, state = train.make_learner(net, loss_fn, OPTIMIZERS[config.optimizer], key=key)
    found = train.fit(
        learner,
        state,
        known,
        new,
        epochs=config.steps // config.every,
        batch_size=config.batch_size,
        val_batch_size=config.batch_size,
        sampler=drawn,
    )
    net = learner.model(found.state)
    net.eval()
    return net, found.history


def show_tokens(text, found):
    """Print how many tokens there are, and one sentence by each vocabulary."""
    print(f"{len(text)} characters\n{'':8s}entries   tokens   characters a token")
    for name, tokens in found.items():
        entries = tokens.tokenizer.get_vocab_size()
        print(f"{name:8s}{entries:7d}{len(tokens.ids):9d}{tokens.characters:14.2f}")
    for name, tokens in found.items():
        shown = decode(tokens, [[number] for number in tokens.tokenizer.encode(SENTENCE).ids])
        print(f"{name:8s}{' | '.join(shown)}")
    last = min(BYTES + 20, found["pairs"].tokenizer.get_vocab_size())
    joined = decode(found["pairs"], [[number] for number in range(BYTES, last)])
    print(f"the first pairs that were joined: {' '.join(map(repr, joined))}\n")


def show_losses(name, history, tokens, config):
    """Print the losses, and for words beside the book's if the training is the book's."""
    first, last = history["train/loss"][0], history["train/loss"][-1]
    new = history["val/loss"][-1]
    print(f"loss of a token: {first:.4f} at first, {last:.4f} in the end; of the text held")
    print(f"back {new:.4f}, of a character {new / tokens.characters:.4f}")
    if name != "words" or not config.is_books:
        return
    begin, parts = BOOK_BEGINS // config.every, BOOK_EVERY // config.every
    table = Table(rtol=0.01)
    means = np.asarray(history["train/loss"][begin:])
    means = means[: len(means) // parts * parts].reshape(-1, parts).mean(1)
    for number, (ours, book) in enumerate(zip(means, BOOK.split(), strict=False), 1):
        steps = BOOK_BEGINS + number * BOOK_EVERY
        table.row(f"words, steps up to {steps}", book, float(ours))
    table.close()


def sample(net, tokens, seed):
    """A text that the network makes up, as long as it has positions."""
    prompt = np.array([tokens.tokenizer.encode(BEGIN).ids], np.int32)
    more = LENGTH - prompt.shape[1]
    (row,) = nn.generate(net, prompt, more, key=jax.random.key(seed), top_p=0.9)
    return decode(tokens, [row.tolist()])[0]


def main(config: Config):
    run_dir = runs.start("ch09_tokens", config, out=config.out)
    text = texts.read(config.text) if config.text else sources.pydoc_topics()
    found = {
        "words": tokens_of(text, by_words(text), "".join(text.split())),
        "pairs": tokens_of(text, by_pairs(text, config.pairs), text),
    }
    show_tokens(text, found)
    counts, by_character = {}, {}
    for name, tokens in found.items():
        steps = config.steps // config.every * config.every
        print(f"{name}: {steps} steps of {config.batch_size} sequences", flush=True)
        net, history = learn(tokens, config)
        show_losses(name, history, tokens, config)
        print(f"\n{textwrap.fill(sample(net, tokens, config.seed), 90)}\n")
        run_dir.history(history, f"history_{name}.jsonl")
        counts[name] = np.sort(np.bincount(tokens.ids))[::-1]
        label = "words, spaces not counted" if name == "words" else name
        by_character[label] = np.asarray(history["val/loss"]) / tokens.characters
    run_dir.figure(_drawing.tokens(counts, by_character, config.every), "tokens.png")
