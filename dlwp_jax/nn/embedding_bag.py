"""Sums, means and maxima of the embeddings of bags of words."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.labels import labels
from dlwp_jax.nn import init
from dlwp_jax.nn.embedding import Embedding, embedding

__all__ = ["EmbeddingBag", "embedding_bag"]

Mode = Literal["sum", "mean", "max"]


def embedding_bag(
    indices: ArrayLike,
    weight: jax.Array,
    offsets: ArrayLike | None = None,
    mode: Mode = "mean",
    per_sample_weights: jax.Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> jax.Array:
    """The rows of a table at `indices`, put together bag by bag;
    torch.nn.functional.embedding_bag.

    Args:
      indices: integers `[bags length]`, or all bags one behind the other, `[total]`.
      weight: the table, `[num_embeddings embedding_dim]`.
      offsets: where each bag begins, for indices `[total]`.
      mode: 'sum', 'mean' or 'max'; an empty bag gives zeros.
      per_sample_weights: factors of the shape of `indices`, for 'sum'.
      include_last_offset: the last of the offsets is the total, and begins no bag.
      padding_idx: a row that counts nowhere and gets no gradient.

    Returns:
      `[bags embedding_dim]`.

    Raises:
      ValueError: if indices and offsets do not fit, for another mode, or for weights in a mode
        that takes none.
      IndexError: for an index outside the table, as for `embedding`.

    >>> embedding_bag(jnp.array([0, 2, 1]), jnp.eye(3), jnp.array([0, 2]), mode="sum").tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode={mode!r} is unknown; take 'sum', 'mean' or 'max'.")
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f"per_sample_weights= are for mode='sum', not {mode!r}.")
    indices = labels("indices", indices)
    if indices.ndim not in (1, 2) or (indices.ndim == 1) == (offsets is None):
        raise ValueError(
            "embedding_bag takes indices [bags length], or [total] with offsets=; the indices "
            f"have shape {indices.shape}."
        )
    bag, count = _bags(indices, offsets, include_last_offset)
    indices = indices.reshape(-1)
    rows = embedding(indices, weight, padding_idx)
    counted = jnp.ones(indices.shape, bool)
    if padding_idx is not None:
        counted = indices != padding_idx % len(weight)
    counted = counted[:, None]
    if mode == "max":
        return _maxima(rows, counted, bag, count)
    if per_sample_weights is not None:
        if per_sample_weights.size != indices.size:
            raise ValueError(
                f"per_sample_weights has {per_sample_weights.size} weights for {indices.size} "
                "indices."
            )
        rows = rows * per_sample_weights.reshape(-1, 1)
    total = jax.ops.segment_sum(jnp.where(counted, rows, 0), bag, count)
    if mode == "sum":
        return total
    number = jax.ops.segment_sum(counted.astype(total.dtype), bag, count)
    return total / jnp.maximum(number, 1)


def _bags(indices, offsets, include_last_offset) -> tuple[jax.Array, int]:
    """The bag of every index, and the number of bags."""
    if indices.ndim == 2:
        bags, length = indices.shape
        return jnp.repeat(jnp.arange(bags), length), bags
    offsets = labels("offsets", offsets)
    if not isinstance(offsets, Tracer):
        _check_offsets(np.asarray(offsets), len(indices), include_last_offset)
    offsets = offsets[:-1] if include_last_offset else offsets
    places = jnp.arange(len(indices))
    return jnp.searchsorted(offsets, places, side="right") - 1, len(offsets)


def _check_offsets(offsets: np.ndarray, n: int, include_last_offset: bool) -> None:
    """Offsets rise from 0 to the number of indices at most."""
    fit = offsets.size > 0 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    if not fit or offsets[-1] > n or (include_last_offset and offsets[-1] != n):
        raise ValueError(
            f"offsets must rise from 0 to at most the number of indices, {n} (to it, with "
            f"include_last_offset); they are {offsets.tolist()}."
        )


def _maxima(rows, counted, bag, count):
    """The largest value of each bag; the first of equal ones gets the gradient, as in torch."""
    place = jnp.arange(len(rows))[:, None]
    low = jnp.where(counted, jax.lax.stop_gradient(rows), -jnp.inf)
    best = jax.ops.segment_max(low, bag, count)
    holds = counted & ((low == best[bag]) | jnp.isnan(low))
    first = jax.ops.segment_min(jnp.where(holds, place, len(rows)), bag, count)
    found = first < len(rows)
    taken = jnp.take_along_axis(rows, jnp.where(found, first, 0), 0)
    return jnp.where(found, taken, 0)


class EmbeddingBag(Embedding):
    """The rows of a table put together bag by bag; torch.nn.EmbeddingBag, drawn from N(0, 1).

    Args:
      num_embeddings: number of rows.
      embedding_dim: their length.
      mode: 'sum', 'mean' or 'max'.
      include_last_offset: the last of the offsets is the number of all indices.
      padding_idx: a row that starts at zero, counts nowhere and gets no gradient.
      rngs: its `params` stream draws the table.
      param_dtype: dtype of the table.
      embedding_init: initialiser; None takes N(0, 1).

    Parameters: `embedding [num_embeddings, embedding_dim]`.

    >>> bags = EmbeddingBag(10, 3, rngs=nnx.Rngs(0))
    >>> bags(jnp.array([[0, 4], [1, 1]])).shape
    (2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: Mode = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        embedding_init: init.Initializer | None = None,
    ):
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            rngs=rngs,
            param_dtype=param_dtype,
            embedding_init=embedding_init,
        )
        self.mode: Mode = mode
        self.include_last_offset = include_last_offset

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        indices: ArrayLike,
        offsets: ArrayLike | None = None,
        per_sample_weights: jax.Array | None = None,
    ) -> jax.Array:
        """`embedding_bag` of this table."""
        return embedding_bag(
            indices,
            self.embedding[...],
            offsets,
            self.mode,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )
