"""A model's weights alone, for other programs. The code is in `dlwp_jax.saving.weights`."""

from dlwp_jax.saving.weights import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]
