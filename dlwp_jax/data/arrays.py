"""Operations on data sets in memory: any pytree of arrays with a common leading axis."""

import jax
import numpy as np


def split(data, *, val: int | float, key: jax.Array):
    """Split a data set into training and validation examples by a shuffled index (chapter 5.5.3).

    Args:
      data: pytree of arrays `[n ...]`.
      val: how many examples to keep for validation, or which fraction of them (0 < val < 1, rounded).
      key: a PRNG key; the same key gives the same split.

    Returns:
      `(train, val)`, two pytrees like `data` with `n - val` and `val` examples.

    Raises:
      ValueError: where either side would be empty, or the leading axes differ.

    >>> import jax.numpy as jnp
    >>> train, val = split({"x": jnp.arange(11.0)}, val=2, key=jax.random.key(0))
    >>> train["x"].shape, val["x"].shape
    ((9,), (2,))
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"split needs arrays with one common leading axis; their leading axes are {lengths}."
        )
    ((n,),) = lengths
    n_val = round(val * n) if isinstance(val, float) else val
    if not 0 < n_val < n:
        raise ValueError(f"val={val} of {n} examples leaves one side empty; take from 1 to {n - 1}.")
    order = jax.random.permutation(key, n)
    rows = order[:-n_val], order[-n_val:]
    return tuple(jax.tree.map(lambda leaf, index=index: leaf[index], data) for index in rows)
