"""Gradient clipping; chain it before an optimizer: `optax.chain(clip_grad_norm(1.0),
sgd(0.1))`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def clip_grad_norm(max_norm: float, norm_type: float = 2.0) -> optax.GradientTransformation:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6))
    (`torch.nn.utils.clip_grad_norm_`).

    optax.clip_by_global_norm has no 1e-6. A norm that is not finite spreads nan, as torch does
    without `error_if_nonfinite`.

    Args:
      max_norm: the largest norm that is left alone.
      norm_type: p of the norm over all gradients as one vector; `math.inf` takes the largest
        entry.

    Returns:
      A stateless `optax.GradientTransformation`.

    >>> import jax.numpy as jnp
    >>> grads = {"w": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> updates, _ = clip_grad_norm(1.0).update(grads, optax.EmptyState())
    >>> round(float(updates["w"][0]), 4), round(float(updates["b"][0]), 4)
    (0.6, 0.8)
    """

    def update(updates, state, params=None):
        del params
        scale = jnp.minimum(1.0, max_norm / (grad_norm(updates, norm_type) + 1e-6))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def grad_norm(grads: Any, norm_type: float = 2.0) -> jax.Array:
    """The p-norm of all gradients as one vector, p = `norm_type`
    (`torch.nn.utils.get_total_norm`).

    >>> import jax.numpy as jnp
    >>> float(grad_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    """
    norms = [jnp.linalg.norm(jnp.ravel(g), norm_type) for g in jax.tree.leaves(grads)]
    if not norms:
        return jnp.zeros(())
    return jnp.linalg.norm(jnp.stack(norms), norm_type)


def clip_grad_value(clip_value: float) -> optax.GradientTransformation:
    """Clamp each entry of the gradients to [-clip_value, clip_value]
    (`torch.nn.utils.clip_grad_value_`).

    >>> import jax.numpy as jnp
    >>> clip_grad_value(0.5).update(jnp.array([-2.0, 0.25]), optax.EmptyState())[0].tolist()
    [-0.5, 0.25]
    """
    return optax.clip(clip_value)
