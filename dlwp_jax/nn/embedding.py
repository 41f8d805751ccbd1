"""Embedding: a table of learned rows (chapter 4's categorical values as vectors)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.labels import labels
from dlwp_jax.nn import init

__all__ = ["Embedding", "embedding"]


def embedding(
    indices: ArrayLike, weight: jax.Array, padding_idx: int | None = None
) -> jax.Array:
    """The rows of a table at `indices`: torch.nn.functional.embedding.

    Args:
      indices: integers `[...]`.
      weight: the table, `[num_embeddings embedding_dim]`.
      padding_idx: a row that gets no gradient; negative counts from the end.

    Returns:
      `[... embedding_dim]`.

    Raises:
      IndexError: for an index outside the table; under jit indices are not known, and its row
        is NaN instead.
      RuntimeError: for indices that are not integers.

    >>> embedding(jnp.array([2, 0]), jnp.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    count = weight.shape[0]
    padding_idx = _row(padding_idx, count)
    indices = labels("indices", indices)
    if indices.size and not isinstance(indices, Tracer):
        # Constants that a jitted function closes over are known too.
        with jax.ensure_compile_time_eval():
            low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= count:
            raise IndexError(
                f"Embedding has rows 0 to {count - 1}; the indices go from {low} to {high}."
            )
    read = jnp.asarray(weight).at[indices].get
    rows = read(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    if padding_idx is None:
        return rows
    return jnp.where((indices == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _row(padding_idx: int | None, count: int) -> int | None:
    """`padding_idx` counted from the first of `count` rows."""
    if padding_idx is None:
        return None
    if not -count <= padding_idx < count:
        raise ValueError(f"padding_idx={padding_idx} must be a row of the {count} embeddings.")
    return padding_idx % count


class Embedding(nnx.Module):
    """Row `i` of a table for every index `i`; torch.nn.Embedding, drawn from N(0, 1).

    Args:
      num_embeddings: number of rows.
      embedding_dim: their length.
      padding_idx: a row that starts at zero and gets no gradient; negative counts from the end.
      rngs: its `params` stream draws the table.
      param_dtype: dtype of the table.
      embedding_init: initialiser; None takes N(0, 1).

    Parameters: `embedding [num_embeddings, embedding_dim]`.

    Raises:
      IndexError: for an index outside the table; under jit indices are not known, and its row
        is NaN instead.
      RuntimeError: for indices that are not integers.

    >>> table = Embedding(10, 3, padding_idx=0, rngs=nnx.Rngs(0))
    >>> table(jnp.array([[0, 4]])).shape, table(jnp.array(0)).tolist()
    ((1, 2, 3), [0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        embedding_init: init.Initializer | None = None,
    ):
        padding_idx = _row(padding_idx, num_embeddings)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        table = (embedding_init or init.normal())(
            rngs.params(), (num_embeddings, embedding_dim), param_dtype
        )
        self.embedding: nnx.Param[jax.Array] = nnx.Param(
            table if padding_idx is None else table.at[padding_idx].set(0)
        )

    def __call__(self, indices: ArrayLike) -> jax.Array:  # [...] -> [... embedding_dim]
        """The rows at `indices`."""
        return embedding(indices, self.embedding[...], self.padding_idx)
