"""What the experiments ask of a network: its parameters by name, how many, and how far they are
from another's.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter under its name, such as `hidden_linear.kernel`; layers in the order of
    their names.
    """
    return {
        ".".join(map(str, path)): leaf[...]
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def count(model: nnx.Module) -> int:
    """How many numbers are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def difference(ours: dict[str, jax.Array], theirs: dict[str, jax.Array]) -> float:
    """The largest difference between the arrays of two dicts, whose names may differ but not
    their order.
    """
    return max(
        float(jnp.abs(a - b).max()) for a, b in zip(ours.values(), theirs.values(), strict=True)
    )
