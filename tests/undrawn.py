"""Networks without random numbers, for tests that fill them with those of a file."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def undrawn(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `make()` returns, with zeros: millions of numbers take seconds to draw."""
    graph, state = nnx.split(nnx.eval_shape(make))

    def filled(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))

    return nnx.merge(graph, jax.tree.map(filled, state))
