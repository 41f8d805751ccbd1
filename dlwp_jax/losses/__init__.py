"""Losses with the names, the arguments and the numbers of `torch.nn.functional` (`F` for
short).

Each takes predictions first and targets second and finishes with `reduction='none' | 'mean' |
'sum'`. Two things differ from torch on purpose:

- arrays are channels-last here, so the class axis of `cross_entropy` and `nll_loss` is the
  *last* one:
  logits `[n ... C]` and targets `[n ...]`, torch has `[n C ...]`;
- prediction and target of different shape are refused; torch warns and broadcasts them.
"""

from dlwp_jax.losses.classification import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    nll_loss,
)
from dlwp_jax.losses.margin import (
    cosine_embedding_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from dlwp_jax.losses.regression import (
    gaussian_nll_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    poisson_nll_loss,
    smooth_l1_loss,
)
from dlwp_jax.losses.segmentation import dice_loss
from dlwp_jax.losses.sequence import ctc_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "dice_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
