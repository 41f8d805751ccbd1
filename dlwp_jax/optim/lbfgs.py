"""L-BFGS, by optax."""

from typing import Literal

import optax

from dlwp_jax.optim._rule import require_non_negative


def lbfgs(
    lr: float = 1.0,
    history_size: int = 100,
    line_search_fn: Literal["strong_wolfe"] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS: the minimum `torch.optim.LBFGS` finds, through optax's interface.

    torch calls a closure up to 20 times inside one `step`; an `update` here is one iteration.
    Both end in the same minimum, by different paths. The line search of `'strong_wolfe'`
    evaluates the loss itself: `tx.update(grads, state, params, value=loss, grad=grads,
    value_fn=loss_fn)`.

    Args:
      lr: the step along each direction; 1 with a line search.
      history_size: how many past steps shape the curvature estimate.
      line_search_fn: None or `'strong_wolfe'` (optax's zoom line search).

    Returns:
      `optax.lbfgs` with these options.

    Raises:
      ValueError: for a negative lr, an unknown line search, or a line search with another lr
        than 1.

    >>> import jax, jax.numpy as jnp
    >>> loss = lambda p: jnp.sum((p - jnp.array([1.0, 2.0])) ** 2 * jnp.array([1.0, 10.0]))
    >>> tx, params = lbfgs(line_search_fn="strong_wolfe"), jnp.zeros(2)
    >>> @jax.jit
    ... def step(params, state):
    ...     value, grads = jax.value_and_grad(loss)(params)
    ...     more = {"value": value, "grad": grads, "value_fn": loss}
    ...     updates, state = tx.update(grads, state, params, **more)
    ...     return params + updates, state
    >>> state = tx.init(params)
    >>> for _ in range(10):
    ...     params, state = step(params, state)
    >>> [round(p, 3) for p in params.tolist()]
    [1.0, 2.0]
    """
    require_non_negative("lbfgs", lr=lr)
    if line_search_fn is None:
        return optax.lbfgs(lr, memory_size=history_size, linesearch=None)
    if line_search_fn != "strong_wolfe":
        raise ValueError(
            f"lbfgs: line_search_fn={line_search_fn!r} must be None or 'strong_wolfe'."
        )
    if lr != 1:
        raise ValueError(
            f"lbfgs: lr={lr} must be 1 with a line search, which finds the step itself."
        )
    return optax.lbfgs(memory_size=history_size)
