"""torch's rules for copying and adding values into a tensor, without silent overflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import on_device

# Each kind can represent the ones before it.
KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


def copyable(values: Any, dtype: np.dtype, size: tuple[int, ...]) -> jax.Array:
    """The values, if `torch.Tensor.copy_` takes them: if they broadcast to the size and can be
    cast to the dtype.

    Raises:
      TypeError, ValueError, OverflowError: if they are not numbers of a JAX dtype.
      RuntimeError: if they do not broadcast, or they are complex and the dtype is not.

    >>> copyable([1.5], jnp.dtype("int32"), (2,))
    Array([1.5], dtype=float32)
    """
    array = jnp.asarray(numeric(values, "values"))
    if _kind(array.dtype) > _kind(dtype) and jnp.iscomplexobj(array):
        raise RuntimeError(
            f"{array.dtype} values would lose their imaginary part in a tensor of {dtype}; "
            "take .real first"
        )
    return _fitting(array, size)


def addable(values: Any, dtype: np.dtype, size: tuple[int, ...]) -> jax.Array:
    """The values, if `torch.Tensor.add_` takes them: if they broadcast to the size and are of
    no higher kind than the dtype.

    Raises:
      RuntimeError: if they do not broadcast, or the sum is of another kind (int + float is
        float).
    """
    array = jnp.asarray(numeric(values, "values"))
    if _kind(array.dtype) > _kind(dtype):
        raise RuntimeError(
            f"result type {array.dtype} can't be cast to the desired output type {dtype}"
        )
    return _fitting(array, size)


def numeric(data: Any, name: str) -> Any:
    """Data as a JAX array. A Python number stays as it is, since its type is weak.

    Raises:
      TypeError, ValueError: if the data are not numbers, or ragged.
      OverflowError: for 64-bit integers that JAX would cut to 32 bits.
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
