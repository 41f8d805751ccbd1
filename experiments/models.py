"""The parameters of a network: by name, how many, and how far from those of another one."""

import jax
import jax.numpy as jnp
from flax import nnx


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter by its name, such as `hidden_linear.kernel`, in alphabetical order."""
    return {
        ".".join(map(str, path)): leaf[...]
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def count(model: nnx.Module) -> int:
    """How many numbers are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def count_of(make) -> int:
    """How many numbers the network that `make()` returns would train; draws no weights."""
    return count(nnx.eval_shape(make))


def difference(ours: dict[str, jax.Array], theirs: dict[str, jax.Array]) -> float:
    """The largest difference between the arrays of two dicts, taken in their order."""
    return max(
        float(jnp.abs(a - b).max()) for a, b in zip(ours.values(), theirs.values(), strict=True)
    )
