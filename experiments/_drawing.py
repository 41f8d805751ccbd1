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
