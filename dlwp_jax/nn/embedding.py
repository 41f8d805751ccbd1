"""Embedding: a table of learned rows (chapter 4's categorical values as vectors)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.labels import labels
from dlwp_jax.nn import init

__all__ = ["Embedding"]


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
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"padding_idx={padding_idx} must be a row of the {num_embeddings} "
                    "embeddings."
                )
            padding_idx %= num_embeddings
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
        indices = labels("indices", indices)
        if indices.size and not isinstance(indices, Tracer):
            # Constants that a jitted function closes over are known too.
            with jax.ensure_compile_time_eval():
                low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(
                    f"Embedding has rows 0 to {self.num_embeddings - 1}; the indices go from "
                    f"{low} to {high}."
                )
        read = self.embedding[...].at[indices].get
        rows = read(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        if self.padding_idx is None:
            return rows
        return jnp.where(
            (indices == self.padding_idx)[..., None], jax.lax.stop_gradient(rows), rows
        )
