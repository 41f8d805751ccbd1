"""Figures; matplotlib is imported when one is drawn."""

from typing import Any

import numpy as np

from dlwp_jax.diagnose import diagnose
from dlwp_jax.diagnose.history import read
from dlwp_jax.files import needs


def loss_curves(history: Any, *, baseline: Any = None, axes: Any = None) -> Any:
    """Draw the losses that `diagnose` judges, with its verdict as the title.

    Args:
      history: a `Run`, or its history.
      baseline: as for `diagnose`; the trivial and the reachable loss are drawn if given.
      axes: matplotlib axes to draw on; None makes a figure.

    Returns:
      The matplotlib figure.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> epochs = np.arange(1, 101)
    >>> loss = 2 * np.exp(-epochs / 10) + 0.2
    >>> figure = loss_curves({"train/loss": loss, "val/loss": loss + 0.004 * epochs})
    >>> figure.axes[0].get_title()
    'overfitting'
    """
    diagnosis = diagnose(history, baseline=baseline)
    if axes is None:
        with needs("experiments"):
            import matplotlib.pyplot as plt
        axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
    curves = read(history)
    drawn = {name: curves.columns[name] for name in curves.names}
    for (name, values), color in zip(drawn.items(), ("C0", "C1"), strict=False):
        axes.plot(np.arange(1, len(values) + 1), values, color=color, label=name)
    known = baseline if isinstance(baseline, dict) else {"trivial": baseline}
    for name, loss in known.items():
        if loss is not None:
            style = ":" if name == "trivial" else "--"
            axes.axhline(loss, color="gray", linestyle=style, label=f"{name} loss")
    if "best_epoch" in diagnosis.evidence:
        best = diagnosis.evidence["best_epoch"]
        axes.axvline(best, color="k", linewidth=0.8, label="best epoch")
    finite = np.concatenate([values[np.isfinite(values)] for values in drawn.values()])
    if finite.size and finite.min() > 0 and finite.max() > 20 * finite.min():
        axes.set_yscale("log")
    names = {name.split("/", 1)[1] for name in drawn}
    label = " and ".join(sorted(names)).replace("_", " ")
    axes.set(xlabel="epoch", ylabel=label, title=diagnosis.verdict)
    axes.legend()
    return axes.figure
