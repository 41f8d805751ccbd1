"""`tensor`: numbers of any kind become a contiguous `StridedTensor`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import describe, is_numeric, refuse_too_large

from .casting import numeric
from .layout import Layout
from .operators import dense
from .strided import StridedTensor


def tensor(data: Any, dtype: Any = None) -> StridedTensor:
    """A contiguous tensor over a new storage, like `torch.tensor`.

    Args:
      data: nested lists of numbers, or an array or tensor of any kind that NumPy or JAX can
        read; it is copied.
      dtype: of the elements; by default that of JAX for the data (float32 for Python floats,
        int32 for ints).

    Raises:
      ValueError: if the lists are ragged, or for a 64-bit dtype while JAX has them switched
        off.
      TypeError: if the data are not numbers, or the dtype is not one of numbers.
      OverflowError: if a number does not fit an integer dtype (too large, NaN, infinite).
      RuntimeError: if the data are complex and the dtype is not.

    >>> tensor([[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]])
    StridedTensor([[4., 1.],
                   [5., 3.],
                   [2., 1.]],
                  size=(3, 2), stride=(2, 1), offset=0, dtype=float32)
    """
    data = numeric(dense(data), "data")
    if dtype is not None:
        dtype = _numbers(dtype)
        array = np.asarray(data) if isinstance(data, bool | int | float | complex) else data
        if jnp.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise RuntimeError(
                f"data of {array.dtype} would lose their imaginary part as {dtype}; take .real "
                "first"
            )
        refuse_too_large(array, dtype, "data")
    array = jnp.array(data, dtype)
    return StridedTensor(array.reshape(-1), Layout.contiguous(array.shape))


def _numbers(dtype: Any) -> np.dtype:
    """A dtype of numbers that is switched on in JAX."""
    try:
        found = np.dtype(dtype) if isinstance(dtype, str | type | np.dtype) else None
    except (TypeError, ValueError):
        found = None
    if found is None or not is_numeric(found):
        raise TypeError(
            f"dtype must be one of numbers, such as jnp.float32; got {describe(dtype)}"
        )
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise ValueError(
            f"dtype {found} needs 64-bit types, which JAX has switched off; "
            "call jax.config.update('jax_enable_x64', True) first"
        )
    return found
