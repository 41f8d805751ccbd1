"""The pictures of chapters 7 and 8: loading them, learning them, and showing mistakes.

Without files they are scikit-learn's digits 3 and 8, the pair that a linear classifier
confuses most (see `hardest_pairs`). Each pixel is drawn as 4 x 4 pixels of three equal colours,
so that the pictures fit the book's networks. With `--data cifar10` they are the book's
airplanes and birds. `--classes ten` takes all ten classes of either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dlwp_jax import data, losses, train
from dlwp_jax.data import cifar, image
from dlwp_jax.diagnose import diagnose

HARD_PAIR = (3, 8)
# The book's means and standard deviations of red, green and blue over the training pictures.
CIFAR_MEANS = np.array([0.4915, 0.4823, 0.4468], np.float32)
CIFAR_DEVIATIONS = np.array([0.2470, 0.2435, 0.2616], np.float32)
CIFAR_SCALE = data.Scale(CIFAR_MEANS, CIFAR_DEVIATIONS)


@dataclass(frozen=True)
class Config:
    # scikit-learn's digits, or the book's pictures (under DLWP_DATA)
    data: Literal["digits", "cifar10"] = "digits"
    classes: Literal["two", "ten"] = "two"  # 3 and 8, airplane and bird; or all ten
    seed: int = 0  # of weights and shuffling
    out: Path = Path("runs")  # where the run directory is made

    @property
    def is_books(self) -> bool:
        """Whether the book's figures are of these pictures."""
        return self.data == "cifar10" and self.classes == "two"


class Pictures(NamedTuple):
    train: dict[str, Any]  # {"image": [n 32 32 3] float32, "label": [n] int32}
    val: dict[str, Any]
    names: Sequence[str]  # of the classes
    scale: data.Scale  # its `undo` gives pixels in 0..1 back


def load(config: Config) -> Pictures:
    """The pictures that a configuration asks for, normalised; also prints how many."""
    if config.data == "cifar10":
        names = cifar.CLASSES if config.classes == "ten" else ("airplane", "bird")
        sides, scale = cifar.read(data.place("cifar10"), classes=names), CIFAR_SCALE
    else:
        digits = range(10) if config.classes == "ten" else HARD_PAIR
        names, scale = [str(digit) for digit in digits], None
        sides = [_enlarged(only(side, digits)) for side in data.load("digits")]
    known, held = sides
    images, scale = image.normalize(known["image"], scale)
    held_images, _ = image.normalize(held["image"], scale)
    counts = f"{len(images)} pictures to learn from, {len(held_images)} to check"
    print(f"{', '.join(names)}: {counts}")
    return Pictures(known | {"image": images}, held | {"image": held_images}, names, scale)


def only(side, digits):
    """The pictures of some digits, labelled 0, 1, ... in that order."""
    rows = np.flatnonzero(np.isin(side["label"], digits))
    label = np.array([list(digits).index(digit) for digit in side["label"][rows]], np.int32)
    return {"image": side["image"][rows], "label": label}


def _enlarged(side):  # [n 8 8 1] -> [n 32 32 3]
    return side | {"image": side["image"].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)}


def hardest_pairs():
    """Pairs of digits, the hardest first, and the accuracy of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    def rows(side):
        return side["image"].reshape(len(side["image"]), -1) / 255, side["label"]

    train_side, val_side = data.load("digits")
    found = []
    for pair in combinations(range(10), 2):
        classifier = LogisticRegression(max_iter=1000).fit(*rows(only(train_side, pair)))
        found.append((pair, classifier.score(*rows(only(val_side, pair)))))
    return sorted(found, key=lambda pair_and_accuracy: pair_and_accuracy[1])


def loss_fn(model, batch):
    """Cross-entropy of the logits, and the share that is right."""
    logits = model(batch["image"])
    right = jnp.mean(logits.argmax(axis=-1) == batch["label"])
    return losses.cross_entropy(logits, batch["label"]), {"accuracy": right}


class Trained(NamedTuple):
    net: Any
    state: train.TrainState  # the net's weights are in it
    history: dict[str, jax.Array]
    probabilities: np.ndarray  # [n_val classes], of the pictures to check
    train: float  # accuracy in eval mode after the last epoch
    val: float

    def told(self, book: tuple[float, float] | None = None) -> str:
        """Accuracies at the end, medians of the last ten epochs, the book's, and a verdict.

        Medians, because the last epoch may be a dip.
        """
        train = float(np.median(self.history["train/accuracy"][-10:]))
        val = float(np.median(self.history["val/accuracy"][-10:]))
        n = min(10, len(self.history["val/accuracy"]))
        rows = {"at the end": (self.train, self.val)}
        rows[f"median of the last {n} epochs"] = (train, val)
        if book:
            rows["the book, after 100 epochs"] = book
        lines = []
        for name, (a, b) in rows.items():
            lines.append(f"{name}: training {a:.4f}, validation {b:.4f}, gap {a - b:.4f}")
        verdict = str(diagnose(self.history)).replace("\n", "; ")
        return "accuracy " + "\n         ".join(lines) + "\n" + verdict


def learn(
    model: nnx.Module, pictures: Pictures, tx, *, epochs, batch_size=64, seed=0, loss_fn=loss_fn
) -> Trained:
    """Train a network; its accuracies are those in eval mode at the end."""
    learner, state = train.make_learner(model, loss_fn, tx, key=jax.random.key(seed))
    result = train.fit(
        learner, state, pictures.train, pictures.val, epochs=epochs, batch_size=batch_size
    )
    done = len(result.history["train/loss"])
    if done < epochs:  # Ctrl-C, or a loss that was not finite
        print(f"ended after {done} of {epochs} epochs")

    # Both sides in one call, so that one program is compiled.
    images = np.concatenate([pictures.train["image"], pictures.val["image"]])
    labels = np.concatenate([pictures.train["label"], pictures.val["label"]])
    logits = train.predict(learner, result.state, images, batch_size=500)
    n, right = len(pictures.train["label"]), np.asarray(logits.argmax(axis=-1)) == labels
    known, new = float(right[:n].mean()), float(right[n:].mean())
    probabilities = np.asarray(jax.nn.softmax(logits[n:], axis=-1))
    net = learner.model(result.state)
    return Trained(net, result.state, result.history, probabilities, known, new)


def show_wrong(pictures: Pictures, probabilities, run_dir, most=15):
    """Draw pictures that were taken for another class, the surest mistakes first."""
    label, guess = pictures.val["label"], probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(guess != label)
    print(f"{len(wrong)} of {len(label)} wrong")
    if not len(wrong):
        return
    rows = wrong[np.argsort(-sure[wrong])][:most]
    titles = []
    for i in rows:
        guessed, right = pictures.names[guess[i]], pictures.names[label[i]]
        titles.append(f"{guessed} {sure[i]:.3f}\nis {right}")
    shown = np.clip(pictures.scale.undo(pictures.val["image"][rows]), 0, 1)
    height = 1.9 * -(-len(rows) // 5) + 0.5
    figure = data.pictures.grid(shown, titles, columns=5, size=(8, height))
    mistakes = f"The surest of {len(wrong)} mistakes among {len(label)}"
    figure.suptitle(f"{mistakes}: the guess and its probability")
    run_dir.figure(figure, "wrong.png")
