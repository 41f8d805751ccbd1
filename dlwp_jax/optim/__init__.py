"""Optimizers, schedules and clipping that follow `torch.optim` step by step.

Every optimizer is a function with the options and defaults of torch's class and returns an
`optax.GradientTransformation`, so `optax.chain`, `optax.inject_hyperparams` and all the rest of
optax apply. `lr` is a number, a traced scalar (one for each member of a `vmap`) or a schedule.
Updates need the parameters: `tx.update(grads, state, params)`.
"""

from dlwp_jax.optim.adam import (
    AdamaxState,
    AdamState,
    NAdamState,
    RAdamState,
    adam,
    adamax,
    adamw,
    nadam,
    radam,
)
from dlwp_jax.optim.adaptive import (
    AdadeltaState,
    AdafactorState,
    AdagradState,
    RmspropState,
    adadelta,
    adafactor,
    adagrad,
    rmsprop,
)
from dlwp_jax.optim.clip import clip_grad_norm, clip_grad_value, grad_norm
from dlwp_jax.optim.groups import groups, torch_layout
from dlwp_jax.optim.lbfgs import lbfgs
from dlwp_jax.optim.muon import MuonState, muon
from dlwp_jax.optim.plateau import PlateauState, reduce_lr_on_plateau
from dlwp_jax.optim.schedules import (
    chained_scheduler,
    constant_lr,
    cosine_annealing_lr,
    cosine_annealing_warm_restarts,
    cyclic_lr,
    cyclic_momentum,
    exponential_lr,
    lambda_lr,
    linear_lr,
    multi_step_lr,
    multiplicative_lr,
    one_cycle_lr,
    one_cycle_momentum,
    per_epoch,
    polynomial_lr,
    sequential_lr,
    step_lr,
)
from dlwp_jax.optim.sgd import AsgdState, RpropState, SgdState, asgd, rprop, sgd

__all__ = [
    "AdadeltaState",
    "AdafactorState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "AsgdState",
    "MuonState",
    "NAdamState",
    "PlateauState",
    "RAdamState",
    "RmspropState",
    "RpropState",
    "SgdState",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "chained_scheduler",
    "clip_grad_norm",
    "clip_grad_value",
    "constant_lr",
    "cosine_annealing_lr",
    "cosine_annealing_warm_restarts",
    "cyclic_lr",
    "cyclic_momentum",
    "exponential_lr",
    "grad_norm",
    "groups",
    "lambda_lr",
    "lbfgs",
    "linear_lr",
    "multi_step_lr",
    "multiplicative_lr",
    "muon",
    "nadam",
    "one_cycle_lr",
    "one_cycle_momentum",
    "per_epoch",
    "polynomial_lr",
    "radam",
    "reduce_lr_on_plateau",
    "rmsprop",
    "rprop",
    "sequential_lr",
    "sgd",
    "step_lr",
    "torch_layout",
]
