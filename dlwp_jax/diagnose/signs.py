"""Signs in columns that `make_learner(record=("norms", "dead_units"))` adds to a history."""

import numpy as np

EXPLODED = 10.0  # an epoch's mean gradient norm, over the median of the epochs before it
DEAD = 0.25  # share of units without a gradient; on small batches a few are always without
# The length of a step over the norm of the parameters; 1e-3 is usual.
SMALL_STEP = 1e-5
LARGE_STEP = 0.1
# The verdicts that such signs may explain.
STOPPED = ("not learning", "not converged", "underfitting", "diverged")


def signs(
    columns: dict[str, np.ndarray], verdict: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Figures from the columns beside the losses, and advice for those out of bounds."""
    evidence, advice = {}, []
    gradient = _known(columns, "train/grad_norm")
    if gradient.size:
        evidence["grad_norm"] = float(gradient[-1])
        jumps = [
            gradient[i] / max(np.median(gradient[:i]), 1e-300) for i in range(2, len(gradient))
        ]
        evidence["grad_norm_jump"] = float(max(jumps, default=1.0))
        if evidence["grad_norm_jump"] > EXPLODED:
            advice.append(
                "The gradient explodes: in one epoch its norm was "
                f"{evidence['grad_norm_jump']:.3g} times what it had been before. Clip it "
                "(optim.clip_grad_norm), or make the learning rate smaller."
            )
    dead = _known(columns, "train/dead_units")
    if dead.size:
        evidence["dead_units"] = float(dead[-1])
        if evidence["dead_units"] > DEAD:
            advice.append(
                f"No gradient reaches {evidence['dead_units']:.0%} of the units: make the "
                "learning rate smaller, check the initialisation, or take an activation that "
                "has a slope everywhere (leaky ReLU)."
            )
    steps, sizes = _known(columns, "train/update_norm"), _known(columns, "train/param_norm")
    if steps.size and sizes.size and sizes[-1] > 0:
        evidence["update_ratio"] = float(steps[-1] / sizes[-1])
        if verdict in STOPPED and not SMALL_STEP < evidence["update_ratio"] < LARGE_STEP:
            way = "smaller" if evidence["update_ratio"] > SMALL_STEP else "larger"
            advice.append(
                f"A step moves the parameters by {evidence['update_ratio']:.1g} "
                f"of their size: make the learning rate {way}."
            )
    return evidence, tuple(advice)


def _known(columns: dict[str, np.ndarray], name: str) -> np.ndarray:
    column = columns.get(name, np.zeros(0))
    return column[~np.isnan(column)]
