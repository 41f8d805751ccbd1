"""Properties of JAX arrays that NumPy does not know: sharding, weak types, PRNG keys; and the
leaves of a tree by their paths.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.tree_util import keystr

PyTree = Any


def lay(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array with a sharding, which may include devices of other processes; these must call
    this with the same array.
    """
    if sharding.is_fully_addressable or (
        isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    ):
        return jax.device_put(leaf, sharding)
    if is_key(leaf):
        return jax.random.wrap_key_data(
            lay(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
        )
    array = np.asarray(leaf)
    laid = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    return weakly(laid) if getattr(leaf, "weak_type", False) else laid


def as_was(leaf: Any, before: jax.Array) -> jax.Array:
    """An array that was read from a file, as an array of the same kind as `before`.

    It is a PRNG key, committed to devices, and split over them, as far as `before` is; so the
    same compiled program takes it.
    """
    raw = jax.random.key_data(before) if is_key(before) else before
    leaf = lay(leaf, raw.sharding) if before.committed else jnp.asarray(np.asarray(leaf))
    if is_key(before):
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(before))
    return leaf


def weakly(leaf: jax.Array) -> jax.Array:
    """The same array, weakly typed."""
    return primitives.convert_element_type_p.bind(
        leaf, new_dtype=leaf.dtype, weak_type=True, sharding=None
    )


def strongly(leaf: Any) -> Any:
    """The leaf, no longer weakly typed.

    `jnp.full(3, 0.5)` is weakly typed, as the number is, and what a training step makes of it
    is not: the second step would be compiled anew.
    """
    is_weak = getattr(leaf, "weak_type", False)
    return jax.lax.convert_element_type(leaf, leaf.dtype) if is_weak else leaf


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(tree: PyTree) -> dict[str, jax.Array]:
    """The arrays of a tree by the paths of its leaves.

    Random keys become their numbers. Empty arrays are left out: Orbax cannot write them.
    """
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.size:
            arrays[keystr(path)] = jax.random.key_data(leaf) if is_key(leaf) else leaf
    return arrays


def shapes(tree: PyTree) -> dict[str, list[Any]]:
    """`[dtype, shape]` of each leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {keystr(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def fingerprint(tree: PyTree) -> dict[str, list[Any]]:
    """`[dtype, shape, SHA-256 of the values]` of each leaf that is not empty, by its path."""
    found = {}
    for name, leaf in plain(tree).items():
        found[name] = [str(leaf.dtype), list(leaf.shape), _digest(leaf)]
    return found


def _digest(leaf: jax.Array) -> str:
    data = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    return hashlib.sha256(data.data).hexdigest()


def differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """The first name whose values in `now` and `then` differ, or None."""
    for name in {**now, **then}:
        if now.get(name) != then.get(name):
            return name
    return None
