"""Which values may become which: torch's rules for copying and adding into a tensor, and no
silent overflow.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import on_device

KINDS = (
    jnp.bool_,
    jnp.integer,
    jnp.floating,
    jnp.complexfloating,
)  # each holds the ones before it


def copyable(values: Any, dtype: np.dtype, size: tuple[int, ...]) -> jax.Array:
    """The values, if `torch.Tensor.copy_` takes them: what broadcasts to the size and can be
    cast to the dtype.

    Raises:
      TypeError, ValueError, OverflowError: they are no numbers that JAX can hold.
      RuntimeError: the values do not broadcast, or they are complex and the dtype is not.

    >>> copyable([1.5], jnp.dtype("int32"), (2,))
    Array([1.5], dtype=float32)
    """
    array = jnp.asarray(numeric(values, "values"))
    if _kind(array.dtype) > _kind(dtype) and jnp.iscomplexobj(array):
        raise RuntimeError(
            f"{array.dtype} values would lose their imaginary part in a tensor of {dtype}; take .real first"
        )
    return _fitting(array, size)


def addable(values: Any, dtype: np.dtype, size: tuple[int, ...]) -> jax.Array:
    """The values, if `torch.Tensor.add_` takes them: what broadcasts to the size, of no higher
    kind than the dtype.

    Raises:
      RuntimeError: the values do not broadcast, or the sum would be of another kind (int +
        float is float).
    """
    array = jnp.asarray(numeric(values, "values"))
    if _kind(array.dtype) > _kind(dtype):
        raise RuntimeError(
            f"result type {array.dtype} can't be cast to the desired output type {dtype}"
        )
    return _fitting(array, size)


def numeric(data: Any, name: str) -> Any:
    """Data as JAX can hold it: numbers, and no 64-bit integers that it would cut down to 32
    bits without a word.

    A Python number stays one: its type is weak.

    Raises:
      TypeError, ValueError: the data are no numbers, or ragged.
      OverflowError: an integer does not fit.
    """
    array = on_device(data, name)
    return data if isinstance(data, bool | int | float | complex) else array


def _kind(dtype: np.dtype) -> int:
    """The place of a dtype among KINDS."""
    return next(place for place, kind in enumerate(KINDS) if jnp.issubdtype(dtype, kind))


def _fitting(array: jax.Array, size: tuple[int, ...]) -> jax.Array:
    lead = len(size) - array.ndim
    if lead < 0 or any(
        n not in (1, want) for n, want in zip(array.shape, size[lead:], strict=True)
    ):
        raise RuntimeError(
            f"values of size {list(array.shape)} must broadcast to the view's size {list(size)}"
        )
    return array
