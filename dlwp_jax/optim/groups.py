"""Which optimizer works on which parameter, and in which layout."""

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def groups(
    transforms: Mapping[Any, optax.GradientTransformation],
    default: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Parameter groups (torch's list of dicts), chosen by NNX filters through
    `optax.partition`.

    Args:
      transforms: filter -> transformation. A filter is one of `flax.nnx`: a Variable type,
        `nnx.PathContains("bias")`, a function of (path, variable), `nnx.Any(...)`. The first
        that matches a parameter counts. The transformation `optax.set_to_zero()` freezes.
      default: for parameters that no filter matches; without it there may be none.

    Returns:
      The transformation of all parameters.

    Raises:
      ValueError: from `init`, for a filter that matches no parameter and for a parameter
        without a group.

    >>> import jax, jax.numpy as jnp, optax
    >>> from dlwp_jax import optim
    >>> tx = groups({nnx.PathContains("bias"): optim.sgd(1.0)}, default=optim.sgd(0.1))
    >>> params = {"layer": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [round(float(updates["layer"][name][0]), 2) for name in ("kernel", "bias")]
    [-0.1, -1.0]
    """
    filters = list(transforms)
    holds = [nnx.filterlib.to_predicate(f) for f in filters]
    rest = len(filters)
    numbered: dict[Hashable, optax.GradientTransformation] = dict(
        enumerate(transforms.values())
    )
    if default is not None:
        numbered[rest] = default

    def label(path, leaf):
        names = tuple(_name(key) for key in path)
        found = next((i for i, predicate in enumerate(holds) if predicate(names, leaf)), rest)
        if found not in numbered:
            raise ValueError(
                f"no group takes {'/'.join(map(str, names))}; add a filter or a default."
            )
        return found

    def labels(params):
        return jax.tree_util.tree_map_with_path(label, params, is_leaf=_is_variable)

    inner = optax.partition(numbered, labels)

    def init(params):
        used = set(jax.tree.leaves(labels(params)))
        for i, which in enumerate(filters):
            if i not in used:
                raise ValueError(
                    f"the group of filter {which} is empty; no parameter is left for it."
                )
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, inner.update)


def _is_variable(node) -> bool:
    return isinstance(node, nnx.Variable)


def _name(key):
    """The name in one entry of a JAX key path: of a dict, a State, an attribute or a list."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return str(key)


def torch_layout(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let `tx` see kernels as torch has them: `[*window in out]` becomes `[out in *window]`,
    and back.

    Elementwise rules do not care. Adafactor (which factors the last two axes) and Muon (whose
    step depends on rows and columns) do; inside they and their state have torch's layout.
    Vectors and scalars stay as they are.

    Args:
      tx: the transformation to wrap.

    Returns:
      `tx` for parameters in Flax's layout.

    >>> import jax.numpy as jnp
    >>> from dlwp_jax import optim
    >>> tx = torch_layout(optim.adafactor())
    >>> tx.init(jnp.ones((3, 3, 4, 8))).row_var.shape  # a 3x3 convolution from 4 to 8 channels
    (8, 4, 3, 1)
    """

    def update(updates, state, params=None):
        updates, state = tx.update(_to_torch(updates), state, _to_torch(params))
        return _from_torch(updates), state

    return optax.GradientTransformation(lambda params: tx.init(_to_torch(params)), update)


def _to_torch(tree):
    def turn(x):
        return x if jnp.ndim(x) < 2 else jnp.moveaxis(x, (-1, -2), (0, 1))

    return jax.tree.map(turn, tree)


def _from_torch(tree):
    def turn(x):
        return x if jnp.ndim(x) < 2 else jnp.moveaxis(x, (0, 1), (-1, -2))

    return jax.tree.map(turn, tree)
