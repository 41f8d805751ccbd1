"""How the pictures of the experiments are drawn. Nothing here is about learning: skip it."""

import matplotlib.pyplot as plt
import numpy as np


def thermometer_line(readings, line):
    """The eleven readings, the line `{"w": ..., "b": ...}`, and the true one."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.plot(readings["t_u"], readings["t_c"], "o", color="k", label="readings")
    t_u = np.array([20.0, 84.0])
    fitted = f"fit: {line['w']:.4f} t_u − {-line['b']:.4f}"
    axes.plot(t_u, line["w"] * t_u + line["b"], color="C1", label=fitted)
    true = "Fahrenheit: 0.5556 t_u − 17.7778"
    axes.plot(t_u, (t_u - 32) / 1.8, ":", color="gray", label=true)
    axes.set(xlabel="t_u (unknown units)", ylabel="t_c (°C)")
    axes.set_title("Eleven readings, and the line that fits them")
    axes.legend()
    return figure


def losses_by_epoch(curves):
    """One curve for each name; both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, losses in curves.items():
        axes.loglog(range(1, len(losses) + 1), losses, label=name)
    axes.set(xlabel="epoch", ylabel="loss (°C²)")
    axes.set_title("The learning rate and the scale of the input decide")
    axes.legend()
    return figure


def cures(readings, t_u, fits, histories, ends):
    """Three panels: what two networks learned, their losses, and all cures with every seed."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    colors = dict(zip(fits, ("C3", "C0"), strict=True))
    axes[0].plot(readings["t_u"], readings["t_c"], "o", color="k", label="readings")
    for name, t_c in fits.items():
        axes[0].plot(t_u, t_c, color=colors[name], label=name)
    axes[0].set(xlabel="t_u (unknown units)", ylabel="t_c (°C)", ylim=(-15, 40))
    axes[0].set_title("The same network, with and without a cure")

    for name, history in histories.items():
        epochs = np.arange(1, len(history["val/loss"]) + 1)
        color = colors[name]
        axes[1].loglog(epochs, history["train/loss"], "--", color=color)
        axes[1].loglog(epochs, history["val/loss"], color=color, label=f"{name}, validation")
    axes[1].plot([], [], "--", color="gray", label="training")
    axes[1].set(xlabel="epoch", ylabel="loss (°C²)")
    axes[1].set_title("Without a cure the validation loss rises")

    for place, (name, losses) in enumerate(ends.items()):
        color = colors.get(name, "C2")
        axes[2].plot(losses, np.full(len(losses), place), "o", color=color, alpha=0.5)
        axes[2].plot(losses.mean(), place, "|", color="k", markersize=18)
    axes[2].set_yticks(range(len(ends)), list(ends))
    axes[2].invert_yaxis()
    axes[2].set(xlabel="validation loss at the end (°C²)")
    axes[2].set_xlim(left=0)
    axes[2].set_title(f"Lower is better: {len(losses)} seeds and their mean")
    axes[0].legend()
    axes[1].legend()
    return figure


def network_fits(readings, held_back, fits):
    """A panel for each fit `{title: (t_u, t_c, outputs at the readings)}`, as in the book."""
    figure, axes = plt.subplots(
        1, len(fits), figsize=(11, 4.2), layout="constrained", sharey=True
    )
    t_u, t_c = readings["t_u"], readings["t_c"]
    for ax, (title, (line, curve, outputs)) in zip(axes, fits.items(), strict=True):
        ax.plot(t_u, t_c, "o", label="readings")
        circle = {"ms": 12, "mfc": "none", "mec": "C3"}
        ax.plot(t_u[held_back], t_c[held_back], "o", label="held back", **circle)
        ax.plot(line, curve, "c-", label="network")
        ax.plot(t_u, outputs, "kx", label="its output at the readings")
        ax.set(xlabel="t_u (unknown units)", title=title)
    axes[0].set(ylabel="t_c (°C)")
    axes[0].legend()
    return figure


def activations(x, functions):
    """A panel for each `{name: (values, slopes, stretches where it is saturated)}`."""
    figure, axes = plt.subplots(
        2, 3, figsize=(10, 5.6), layout="constrained", sharex=True, sharey=True
    )
    for ax, (name, (values, slopes, flat)) in zip(axes.flat, functions.items(), strict=True):
        ax.axhline(0, color="gray", linewidth=0.5)
        ax.plot(x, values, label="f(x)")
        ax.plot(x, slopes, "--", label="f'(x)")
        for i, (first, last) in enumerate(flat):
            label = "saturated" if i == 0 else None
            ax.axvspan(first, last, color="C3", alpha=0.12, linewidth=0, label=label)
        ax.set(title=name, ylim=(-1.5, 3.0))
    figure.supxlabel("x")
    axes[0, 0].legend(loc="upper left")
    return figure


def compositions(x, curves):
    """A small panel for each curve `{name: y}`."""
    figure, axes = plt.subplots(
        2, 4, figsize=(12, 5.2), layout="constrained", sharex=True, sharey=True
    )
    for ax, (name, y) in zip(axes.flat, curves.items(), strict=True):
        ax.axhline(0, color="gray", linewidth=0.5)
        ax.plot(x, y)
        ax.set_title(name, fontsize=10)
    figure.supxlabel("x")
    figure.suptitle("Four tanh neurons, their sums, and one layer upon another")
    return figure


def two_losses(score, curves):
    """Losses and their slopes `{name: (loss, slope)}` against the score of the right class."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    at_the_left = []
    for name, (loss, slope) in curves.items():
        axes[0].plot(score, loss, label=f"{name} of the softmax")
        axes[1].plot(score, slope, label=f"{name} of the softmax")
        at_the_left.append(f"{name} {float(slope[0]):.1g}")
    axes[0].set(ylabel="loss", ylim=(0, 5), title="Two losses of one example")
    title = f"Slope at {float(score[0]):g}: {', '.join(at_the_left)}"
    axes[1].set(ylabel="slope of the loss", title=title)
    for ax in axes:
        ax.set(xlabel="score of the right class − score of the other")
    axes[0].legend()
    return figure


def accuracies(trained):
    """A panel for each training: accuracy by epoch."""
    figure, axes = plt.subplots(
        1, len(trained), figsize=(13, 3.6), layout="constrained", sharey=True
    )
    for ax, (name, fit) in zip(axes, trained.items(), strict=True):
        for side in ("train", "val"):
            values = fit.history[f"{side}/accuracy"]
            style = "-" if len(values) > 1 else "o"  # one epoch is a point
            ax.plot(np.arange(1, len(values) + 1), values, style, label=side)
        title = f"{name}\n{fit.train:.1%} of the known, {fit.val:.1%} of the new"
        ax.set_title(title, fontsize=10)
        ax.set(xlabel="epoch")
    axes[0].set(ylabel="accuracy")
    axes[0].legend(loc="lower right")
    return figure


def loss_and_accuracy(fit, book):
    """Both by epoch; `book` has the book's training losses, `{epoch: loss}`, or nothing."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        for side in ("train", "val"):
            values = fit.history[f"{side}/{name}"]
            ax.plot(np.arange(1, len(values) + 1), values, label=side)
        ax.set(xlabel="epoch", ylabel=name)
    if book:
        axes[0].plot(list(book), list(book.values()), "kx", label="the book's training loss")
    axes[0].legend()
    figure.suptitle(f"Conv net: {fit.train:.1%} of the known, {fit.val:.1%} of the new")
    return figure


def bars(values, sizes, book):
    """Two bars for each network, `{name: {"train": ..., "val": ...}}`.

    `sizes` says of how many examples the accuracies are; `book` has the book's accuracies of
    some networks, which become black lines.
    """
    figure, ax = plt.subplots(figsize=(10, 4.2), layout="constrained")
    place = np.arange(len(values))
    for side, shift in (("train", -0.2), ("val", 0.2)):
        heights = [found[side] for found in values.values()]
        ax.bar(place + shift, heights, 0.4, label=f"{side}, n = {sizes[side]}")
    for x, name in enumerate(values):
        if name in book:
            ax.hlines(np.array(book[name]), [x - 0.4, x], [x, x + 0.4], color="k")
    if book:
        ax.plot([], [], "k-", label="the book's")
    lowest = min(min(found.values()) for found in values.values())
    ax.set(ylabel="accuracy", ylim=(np.floor(10 * lowest - 0.5) / 10, 1.0))
    ax.set_title("The conv net varied")
    ax.set_xticks(place, list(values), rotation=30)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def attention(text, pictures):
    """A panel for each `{title: weights}`: how much each letter (row) takes from each other."""
    columns = 4
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 3.2 * rows), layout="constrained")
    for ax, (title, weights) in zip(axes.flat, pictures.items(), strict=False):
        ax.imshow(weights, vmin=0, vmax=1, cmap="Blues")
        ax.set_xticks(range(len(text)), list(text))
        ax.set_yticks(range(len(text)), list(text))
        ax.set_title(title, fontsize=10)
    for ax in axes.flat[len(pictures) :]:
        ax.axis("off")
    figure.suptitle("How much each letter (row) takes from those up to it (columns)")
    return figure


def losses_by_steps(histories, book, steps):
    """Losses of networks `{name: history}`, of every `steps` steps; crosses are the book's."""
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for number, (name, history) in enumerate(histories.items()):
        values = history["train/loss"]
        at = steps * np.arange(1, len(values) + 1)
        ax.plot(at, values, "o-", color=f"C{number}", label=name)
        printed = [float(value) for value in book.get(name, "").split()]
        at = steps * np.arange(1, len(printed) + 1)
        ax.plot(at, printed, "x", color=f"C{number}")
    if book:
        ax.plot([], [], "kx", label="the book's")
    ax.set(xlabel="steps", ylabel="mean loss")
    ax.set_title("The next letter of a name")
    ax.legend()
    return figure


def tokens(counts, losses, steps):
    """Two panels of `{name: counts of tokens, falling}` and of `{name: losses}`, the second
    with a value for every `steps` steps.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in counts.items():
        values = values[values > 0]
        axes[0].loglog(np.arange(1, len(values) + 1), values, label=f"{name}, {len(values)}")
    for name, values in losses.items():
        axes[1].plot(steps * np.arange(1, len(values) + 1), values, "o-", label=name)
    axes[0].set(xlabel="rank of the token", ylabel="how often it comes")
    axes[0].set_title("A few tokens make up most of the text")
    axes[1].set(xlabel="steps", ylabel="loss of a character (nats)")
    axes[1].set_title("The text held back")
    for ax in axes:
        ax.legend()
    return figure


def two_networks(fits):
    """Loss and accuracy by epoch of `{name: fit}`, a colour for each network."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, (name, fit) in enumerate(fits.items()):
        for ax, value in zip(axes, ("loss", "accuracy"), strict=True):
            known, new = fit.history[f"train/{value}"], fit.history[f"val/{value}"]
            epochs = np.arange(1, len(known) + 1)
            ax.plot(epochs, known, "--", color=f"C{number}")
            ax.plot(epochs, new, "-", color=f"C{number}", label=name)
            ax.set(xlabel="epoch", ylabel=value)
    axes[1].plot([], [], "--", color="gray", label="training")
    axes[1].legend(loc="lower right")
    figure.suptitle("Pictures to check (lines) and to learn from (dashes)")
    return figure
