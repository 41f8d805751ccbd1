"""Class labels and row numbers as JAX computes with them, whatever the dtype they come in."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def labels(name: str, values: ArrayLike) -> jax.Array:
    """Whole numbers in a signed dtype of at least 32 bits, so that none changes its meaning.

    In uint8 the mark -100 of an ignored label would be class 156, and in int8 there is no room
    for a number of classes above 127. A number that the widest integer dtype cannot hold (int32
    without `jax_enable_x64`) becomes the largest or smallest one: no class, in any case.

    >>> labels("target", np.array([156], np.uint8)).dtype
    dtype('int32')
    """
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise RuntimeError(f"{name} has dtype {array.dtype}; it takes integers.")
    wide = jnp.result_type(int) if array.dtype.itemsize > 2 else jnp.dtype(jnp.int32)
    limits, own = jnp.iinfo(wide), jnp.iinfo(array.dtype)
    if own.max > limits.max:
        array = array.clip(max(own.min, limits.min), limits.max)
    return jnp.asarray(array).astype(wide)
