"""Chapter 9 of the second edition: a picture as a sequence of patches, beside chapter 8's net.

Run:    python -m experiments ch09_vit                    the ten digits
        python -m experiments ch09_vit --data cifar10     ten classes of pictures, in DLWP_DATA
        python -m experiments ch09_vit --data cifar10 --classes two     airplanes and birds
Writes: runs/ch09_vit/{config.json,history_<net>.jsonl,training.png,attention.png}
Expect: the ten digits, seed 0, after 30 epochs: the transformer learns all 1,437 and has .833
        of the other 360 right, the convolutional net 1.000 and .933 with a quarter of the
        parameters; 100 s of processor time

A vision transformer cuts a picture into patches and maps each of them to features. A class
token stands ahead of them, and attention brings it what the class depends on. Nothing tells
the network that neighbours belong together, beside the positions that it learns. Both networks
are trained by the same optimizer on the same pictures.
"""

import time
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, models, nn, runs
from experiments import _drawing, pictures
from experiments.models import count

SIZE = 32  # height and width of the pictures
PATCH = {"digits": 8, "cifar10": 4}
EPOCHS = {"digits": 30, "cifar10": 10}
SHOWN = 6  # pictures of which the attention is drawn


@dataclass(frozen=True)
class Config(pictures.Config):
    classes: Literal["two", "ten"] = "ten"  # all, or 3 and 8, airplane and bird
    epochs: int = 0  # 0 takes 30 on digits and 10 on cifar10
    patch: int = 0  # pixels of a patch's edge; 0 takes 8 on digits and 4 on cifar10
    blocks: int = 4  # of the transformer
    features: int = 64  # of a patch

    def __post_init__(self):
        if min(self.epochs, self.patch) < 0 or min(self.blocks, self.features) < 1:
            raise ValueError(
                "--blocks and --features must be at least 1, --epochs and --patch not negative."
            )
        if self.patch and SIZE % self.patch:
            raise ValueError(f"--patch must divide {SIZE}; got {self.patch}.")
        if self.features % 4:
            raise ValueError(f"--features must be a multiple of 4; got {self.features}.")


def patches(images, size):
    """Pictures as sequences of patches, row by row: `[n h w 3] -> [n patches size*size*3]`."""
    n, height, width, channels = images.shape
    rows, columns = height // size, width // size
    cut = images.reshape(n, rows, size, columns, size, channels)
    cut = jnp.moveaxis(cut, 3, 2)  # [n rows columns size size channels]
    return cut.reshape(n, rows * columns, size * size * channels)


def networks(config, classes):
    """The transformer, and chapter 8's convolutional net with as many classes."""
    rngs = nnx.Rngs(config.seed)
    vit = models.VisionTransformer(
        SIZE,
        config.patch or PATCH[config.data],
        num_layers=config.blocks,
        num_heads=4,
        hidden_dim=config.features,
        mlp_dim=2 * config.features,
        num_classes=classes,
        rngs=rngs,
    )
    conv = nn.ConvNet(32, rngs=rngs)
    conv.fc2 = nn.Linear(32, classes, rngs=rngs)
    return {"ViT": vit, "conv net": conv}


def show_patches(vit, images):
    """Print the sequence that a picture becomes."""
    size = vit.patch_size
    cut = patches(images, size)
    n, numbers = cut.shape[1:]
    print(
        f"a picture of {SIZE} x {SIZE} x 3 is {n} patches "
        f"of {size} x {size} x 3 = {numbers} numbers;"
    )
    print(f"with the class token the transformer sees {n + 1} tokens")
    kernel, bias = vit.conv_proj.kernel[...], vit.conv_proj.bias[...]
    by_hand = cut @ kernel.reshape(numbers, -1) + bias
    convolved = vit.conv_proj(images).reshape(by_hand.shape)
    difference = float(jnp.abs(by_hand - convolved).max())
    print(f"one matrix for every patch is a convolution with stride {size}:")
    print(f"they differ by {difference:.0e}")


def show_attention(vit, shown, probabilities):
    """Pictures, and how much the class token takes from each of their patches."""
    images = shown.val["image"][:SHOWN]
    weights = vit.attention_weights(images)[-1][:, :, 0, 1:].mean(1)  # of the last block
    edge = SIZE // vit.patch_size
    titles, panels = [], []
    for name, image in zip(probabilities[:SHOWN].argmax(1), images, strict=True):
        titles.append(f"it says {shown.names[name]}")
        panels.append(np.clip(shown.scale.undo(image), 0, 1))
    for seen in np.asarray(weights):
        titles.append(f"up to {seen.max():.2f}")
        panels.append(seen.reshape(edge, edge) / seen.max())
    figure = data.pictures.grid(panels, titles, columns=SHOWN, size=(11, 4.2))
    figure.suptitle("How much the class token takes from each patch, in the last block")
    return figure


def main(config: Config):
    run_dir = runs.start("ch09_vit", config, out=config.out)
    shown = pictures.load(config)
    epochs = config.epochs or EPOCHS[config.data]
    nets = networks(config, len(shown.names))
    show_patches(nets["ViT"], shown.val["image"][:8])
    fits = {}
    for name, net in nets.items():
        print(f"\n{name}: {count(net)} parameters, {epochs} epochs of Adam", flush=True)
        begin = time.perf_counter()
        fits[name] = pictures.learn(
            net, shown, optax.adam(1e-3), epochs=epochs, seed=config.seed
        )
        print(f"{fits[name].told()}\n{time.perf_counter() - begin:.0f} s")
        run_dir.history(fits[name].history, f"history_{name.replace(' ', '_')}.jsonl")
    run_dir.figure(_drawing.two_networks(fits), "training.png")
    vit = fits["ViT"]
    run_dir.figure(show_attention(vit.net, shown, vit.probabilities), "attention.png")
