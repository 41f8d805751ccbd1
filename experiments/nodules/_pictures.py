"""How the pictures of the nodules are drawn. Nothing here is about learning: skip it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np


def training(history):
    """Three panels by epoch: loss, precision and recall, F1."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    panels = (("loss",), ("precision", "recall"), ("f1",))
    for ax, names in zip(axes, panels, strict=True):
        for name, color in zip(names, ("C0", "C1"), strict=False):
            for side, style in (("train", "--"), ("val", "-")):
                if f"{side}/{name}" not in history:
                    continue
                values = np.asarray(history[f"{side}/{name}"])
                epochs = np.arange(1, len(values) + 1)
                ax.plot(epochs, values, style, marker=".", color=color, label=f"{name}, {side}")
        ax.set(xlabel="epoch", title=" and ".join(names))
        ax.legend()
    for ax in axes[1:]:
        ax.set_ylim(0, 1)
    return figure


def roc(scores):
    """True against false positives for each `{name: Scores}`, and precision against recall."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    for name, found in scores.items():
        curve = found.roc
        label = f"{name}, area {curve.area:.3f}"
        axes[0].step(
            curve.false_positive_rate, curve.true_positive_rate, where="post", label=label
        )
        positives = found.label.sum()
        hits = curve.true_positive_rate * positives
        alarms = curve.false_positive_rate * (len(found.label) - positives)
        is_any = hits + alarms > 0
        axes[1].plot(hits[is_any] / positives, (hits / np.maximum(hits + alarms, 1))[is_any])
    axes[0].set_xscale("symlog", linthresh=1e-3)
    axes[0].set(xlabel="share of the others that is taken for nodules", ylabel="recall")
    axes[0].set_title("Receiver operating characteristic")
    axes[0].legend(loc="lower right")
    axes[1].set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes[1].set_title("Precision and recall")
    return figure


def augmentations(histories):
    """Chapter 12's picture: loss and F1 by epoch, training and validation, a line for each."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True)
    for name, history in histories.items():
        for row, metric in enumerate(("loss", "f1")):
            for ax, side in zip(axes[row], ("train", "val"), strict=True):
                values = np.asarray(history[f"{side}/{metric}"])
                ax.plot(np.arange(1, len(values) + 1), values, marker=".", label=name)
                ax.set_title(f"{metric}, {'training' if side == 'train' else 'validation'}")
    for ax in axes[1]:
        ax.set(xlabel="epoch", ylim=(0, 1))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend()
    return figure


def changed(images, titles):
    """A middle slice under each augmentation, one row for each draw."""
    figure, axes = plt.subplots(
        len(images),
        len(titles),
        figsize=(1.7 * len(titles), 1.8 * len(images)),
        layout="constrained",
        squeeze=False,
    )
    for row, pictures in zip(axes, images, strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            ax.axis("off")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    return figure
