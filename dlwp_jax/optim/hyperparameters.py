"""Hyperparameters in the state of an optimizer (`optax.inject_hyperparams`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

PyTree = Any


def hyperparameters(opt_state: PyTree) -> dict[str, jax.Array]:
    """The hyperparameters that `optax.inject_hyperparams` put into an optimizer's state.

    >>> import optax
    >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    >>> {name: float(value) for name, value in hyperparameters(tx.init(0.0)).items()}
    {'learning_rate': 0.5}
    """
    found = {}
    for node in jax.tree.leaves(opt_state, is_leaf=_is_injected):
        if _is_injected(node):
            found |= hyperparameters(node.inner_state) | node.hyperparams
    return found


def with_hyperparameters(opt_state: PyTree, values: Mapping[str, ArrayLike]) -> PyTree:
    """An optimizer's state with other hyperparameters, in every transformation that has them.

    Args:
      opt_state: of an optimizer made by `optax.inject_hyperparams`.
      values: new values by name.

    Raises:
      ValueError: if there is no hyperparameter of a name, a schedule sets it anew in every
        step, or a fraction is given for a whole number.

    >>> import optax
    >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    >>> state = with_hyperparameters(tx.init(0.0), {"learning_rate": 0.25})
    >>> float(hyperparameters(state)["learning_rate"])
    0.25
    """
    known = hyperparameters(opt_state)
    for name in values:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(
                f"the optimizer's state has no hyperparameter {name!r} (it has {there}); "
                "make the optimizer by optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)."
            )

    return jax.tree.map(
        lambda node: _changed(node, values) if _is_injected(node) else node,
        opt_state,
        is_leaf=_is_injected,
    )


def _changed(node: Any, values: Mapping[str, ArrayLike]) -> Any:
    params = dict(node.hyperparams)
    for name in params.keys() & values.keys():
        if name in getattr(node, "hyperparams_states", {}):
            raise ValueError(
                f"{name} follows a schedule, which sets it anew in every step; give the "
                "optimizer a number to change it."
            )
        params[name] = _as_before(name, values[name], params[name])
    inside = {
        name: values[name] for name in values if name in hyperparameters(node.inner_state)
    }
    inner = with_hyperparameters(node.inner_state, inside)
    return node._replace(hyperparams=params, inner_state=inner)


def _as_before(name: str, value: ArrayLike, before: jax.Array) -> jax.Array:
    """A new value in the dtype of the one before, in a buffer of its own."""
    is_whole = jnp.issubdtype(before.dtype, jnp.integer)
    if is_whole and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(
            f"{name} is kept as a whole number ({before.dtype}), and {value} would be cut; "
            f"make the optimizer with a float, such as {name}=1.0."
        )
    return jnp.copy(jnp.full_like(before, value))


def _is_injected(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")
