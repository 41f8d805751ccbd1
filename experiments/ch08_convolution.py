"""Chapter 8: what a convolution does to a picture, and a network of few parameters.

Run:    python -m experiments ch08_convolution                   the digits 3 and 8
        python -m experiments ch08_convolution --classes ten     all ten digits
        python -m experiments ch08_convolution --data cifar10    the book's, under DLWP_DATA
Writes: runs/ch08_convolution/{config.json,history.jsonl,net.npz,kernels.png,training.png,
        wrong.png}
Expect: 18,090 parameters; digits 3 and 8, seed 0: training .997, validation .886; 30 s of
        processor time. Airplanes and birds, seed 0, 100 epochs: training loss .5684 at epoch 1
        and .3407 at epoch 10 (book .5634 and .3278), accuracy .932 and .880, medians of the
        last ten epochs .932 and .887 (book .93 and .89); 285 s of processor time
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, runs, train, weights
from experiments import _drawing, pictures
from experiments.book import Table
from experiments.ch07_birds_airplanes import fully_connected
from experiments.models import count, count_of, difference, parameters

BOOK = {1: 0.5634, 10: 0.3278}  # epoch: training loss
BOOK_ACCURACY = (0.93, 0.89)  # of training and validation, after 100 epochs
KERNELS = {  # [3 3], each applied to a grey picture
    "blur": np.full((3, 3), 1 / 9, np.float32),
    "edge": np.array([[-1, 0, 1]] * 3, np.float32),
}


@dataclass(frozen=True)
class Config(pictures.Config):
    epochs: int = 100

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; got {self.epochs}.")


def show_kernels(picture):
    """Blur, edges and max pooling of a grey picture `[h w]`: prints sizes, returns a figure."""
    grey = jnp.asarray(picture)[None, :, :, None]  # [1 h w 1]
    shown: dict[str, Any] = {"the picture": grey}
    for name, kernel in KERNELS.items():
        shown[f"{name}, padding 1"] = nn.conv(grey, kernel[:, :, None, None], padding=1)
    shown["|edge|, max pool 2"] = nn.max_pool(jnp.abs(shown["edge, padding 1"]), 2)
    bare = nn.conv(grey, KERNELS["blur"][:, :, None, None])
    steps: list[Any] = [grey, bare, shown["blur, padding 1"], shown["|edge|, max pool 2"]]
    sizes = [image.shape[1:3] for image in steps]
    before, after, padded, pooled = sizes
    print(f"a kernel of 3 x 3 makes {before} into {after}, and with padding 1 into {padded};")
    print(f"max pooling by 2 then makes it {pooled}")
    titles = [f"{name}\n{image.shape[1]} x {image.shape[2]}" for name, image in shown.items()]
    return data.pictures.grid(
        [image[0, :, :, 0] for image in shown.values()], titles, columns=4, size=(12, 3)
    )


def sequential(classes, *, rngs):
    """`nn.ConvNet`, layer after layer."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, rngs=rngs),  # [n 32 32 3] -> [n 32 32 16]
        nn.Tanh(),
        nn.MaxPool2d(2),  # [n 16 16 16]
        nn.Conv2d(16, 8, 3, padding=1, rngs=rngs),  # [n 16 16 8]
        nn.Tanh(),
        nn.MaxPool2d(2),  # [n 8 8 8]
        nn.Flatten(),  # [n 512]
        nn.Linear(512, 32, rngs=rngs),
        nn.Tanh(),
        nn.Linear(32, classes, rngs=rngs),
    )


def show_networks(batch):
    """Print how few parameters a convolution needs, and that both ways are one function."""
    table = Table(rtol=0)
    large = count_of(lambda: fully_connected("1024-512-128", 2, rngs=nnx.Rngs(0)))
    small = count_of(lambda: fully_connected("512", 2, rngs=nnx.Rngs(0)))
    table.row("parameters of 3072-1024-512-128-2", "3737474", large)
    table.row("parameters of 3072-512-2", "1574402", small)
    as_sequential, as_class = sequential(2, rngs=nnx.Rngs(0)), nn.ConvNet(rngs=nnx.Rngs(0))
    table.row("parameters of the conv net", "18090", count(as_class))
    table.close()
    outputs = [{"logits": net(batch)} for net in (as_sequential, as_class)]
    weights_differ = difference(parameters(as_sequential), parameters(as_class))
    print(f"Sequential and class: weights differ by {weights_differ:g},")
    print(f"their outputs for {len(batch)} pictures by {difference(*outputs):g}\n")


def through_a_file(state, classes, path, seed):
    """The net of a state, saved and then loaded into a net that began with other weights."""
    weights.save_weights(path, state)
    other = sequential(classes, rngs=nnx.Rngs(seed))
    learner, blank = train.make_learner(
        other, pictures.loss_fn, optax.sgd(1e-2), key=jax.random.key(seed)
    )
    return learner.model(weights.load_weights(path, blank))


def show_training(config, fit):
    """Print losses beside the book's, whose network began at other random weights."""
    for epoch, loss in enumerate(fit.history["train/loss"], 1):
        if epoch == 1 or epoch % 10 == 0:
            beside = f" (book {BOOK[epoch]})" if config.is_books and epoch in BOOK else ""
            print(f"epoch {epoch:3d}: training loss {loss:.4f}{beside}")
    print(fit.told(BOOK_ACCURACY if config.is_books else None))


def main(config: Config):
    run_dir = runs.start("ch08_convolution", config, out=config.out)
    shown = pictures.load(config)
    photo = shown.scale.undo(shown.train["image"][0])
    if config.data == "digits":  # too coarse to show what a kernel does
        photo = data.load("book-dog", embedded=True)[::2, ::2] / 255
    run_dir.figure(show_kernels(photo.mean(axis=2, dtype=np.float32)), "kernels.png")
    show_networks(shown.val["image"])

    net = sequential(len(shown.names), rngs=nnx.Rngs(config.seed))
    fit = pictures.learn(net, shown, optax.sgd(1e-2), epochs=config.epochs, seed=config.seed)
    show_training(config, fit)
    run_dir.history(fit.history)
    book = BOOK if config.is_books else {}
    run_dir.figure(_drawing.loss_and_accuracy(fit, book), "training.png")
    pictures.show_wrong(shown, fit.probabilities, run_dir)

    path = run_dir.path / "net.npz"
    loaded = through_a_file(fit.state, len(shown.names), path, config.seed + 1)
    off = difference(*({"logits": net(shown.val["image"])} for net in (fit.net, loaded)))
    print(f"wrote {path}, {path.stat().st_size} bytes; loaded into another network,")
    print(f"the outputs differ by {off:g}")
