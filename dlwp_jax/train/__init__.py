"""Training is a function (chapters 5 and 8).

    learner, state = make_learner(model, loss_fn, optax.adam(1e-3), key=jax.random.key(0))
    result = fit(learner, state, train_set, val_set, epochs=20, batch_size=64)  # from the host
    result = run(learner, state, train_set, val_set, epochs=20, batch_size=64)  # one program

Both give the same parameters and history, to float32 rounding and most often to the bit.
`learner` holds all that does not change (graph, loss, optimizer), `state` all that does (arrays
only), so training can be jitted, mapped over seeds and learning rates, and resumed.

A minibatch walks down this stair: `fit` drives a source (`sources`), whose chunk is one program
that folds steps over minibatches (`minibatches`, `loop`); a step (`step`) differentiates the
learner's loss (`state`).
"""

from dlwp_jax.train.evaluation import evaluate, predict
from dlwp_jax.train.fit import Progress, every, fit
from dlwp_jax.train.loop import Run, run, train_epoch
from dlwp_jax.train.metrics import Ratio
from dlwp_jax.train.plan import EarlyStopping
from dlwp_jax.train.records import to_csv, to_tensorboard
from dlwp_jax.train.resume import Checkpoint, restore
from dlwp_jax.train.state import Learner, TrainState, make_learner
from dlwp_jax.train.units import unit_health

__all__ = [
    "Checkpoint",
    "EarlyStopping",
    "Learner",
    "Progress",
    "Ratio",
    "Run",
    "TrainState",
    "evaluate",
    "every",
    "fit",
    "make_learner",
    "predict",
    "restore",
    "run",
    "to_csv",
    "to_tensorboard",
    "train_epoch",
    "unit_health",
]
