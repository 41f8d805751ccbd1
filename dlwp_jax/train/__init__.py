"""Training is a function (chapters 5 and 8).

    learner, state = make_learner(model, loss_fn, optax.adam(1e-3), key=jax.random.key(0))
    result = fit(learner, state, train_set, val_set, epochs=20, batch_size=64)     # driven from the host
    result = run(learner, state, train_set, val_set, epochs=20, batch_size=64)     # one XLA program

Both give the same parameters and history, to float32 rounding and most often to the bit.
`learner` is what does not change (graph, loss, optimizer), `state` is what does (arrays only),
so training can be jitted, mapped over seeds and learning rates, and resumed.
"""

from dlwp_jax.train.epoch import evaluate, train_epoch
from dlwp_jax.train.host import Progress, every, fit
from dlwp_jax.train.learner import Learner, TrainState, make_learner, predict
from dlwp_jax.train.loop import EarlyStopping, Run, run
from dlwp_jax.train.resume import Checkpoint, restore
from dlwp_jax.train.units import unit_health

__all__ = [
    "Checkpoint",
    "EarlyStopping",
    "Learner",
    "Progress",
    "Run",
    "TrainState",
    "evaluate",
    "every",
    "fit",
    "make_learner",
    "predict",
    "restore",
    "run",
    "train_epoch",
    "unit_health",
]
