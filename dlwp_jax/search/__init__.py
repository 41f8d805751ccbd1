"""Many trainings at once: sweeps, the right size of a model, and quick checks before a long
training (chapter 5).

`sweep` trains every setting in one compiled program, `search_capacity` grows a model until it
fits and shrinks it until it no longer overfits. `find_learning_rate`, `memorises` and
`learning_curve` answer "which rate?", "does it learn at all?" and "would more data help?". All
of them take a `make` function that builds `(learner, state)`:

    def make(lr, key):
        return train.make_learner(Net(nnx.Rngs(key)), loss_fn, optax.adam(lr), key=key)
"""

from dlwp_jax.search.capacity import CapacityReport, Size, search_capacity
from dlwp_jax.search.probes import (
    LearningCurve,
    LearningRates,
    Memory,
    find_learning_rate,
    learning_curve,
    memorises,
)
from dlwp_jax.search.result import Setting, Sweep
from dlwp_jax.search.sweeps import sweep

__all__ = [
    "CapacityReport",
    "LearningCurve",
    "LearningRates",
    "Memory",
    "Setting",
    "Size",
    "Sweep",
    "find_learning_rate",
    "learning_curve",
    "memorises",
    "search_capacity",
    "sweep",
]
