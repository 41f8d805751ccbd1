"""`tensor`: numbers of any kind become a contiguous `StridedTensor`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .casting import refuse_too_large
from .layout import Layout
from .operators import dense
from .strided import StridedTensor


def tensor(data: Any, dtype: Any = None) -> StridedTensor:
    """A contiguous tensor over fresh storage, like `torch.tensor`.

    Args:
      data: nested lists of numbers, or an array or tensor of any kind that NumPy or JAX can read; it is
        copied.
      dtype: of the elements; what JAX makes of the data if left out (Python floats become float32, ints
        int32).

    Raises:
      ValueError: the lists are ragged, or a 64-bit dtype is asked for while JAX has them switched off.
      OverflowError: an integer does not fit.

    >>> tensor([[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]])
    StridedTensor([[4., 1.],
                   [5., 3.],
                   [2., 1.]],
                  size=(3, 2), stride=(2, 1), offset=0, dtype=float32)
    """
    data = dense(data)
    if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype):
        raise ValueError(
            f"dtype {np.dtype(dtype)} needs 64-bit types, which JAX has switched off; "
            "call jax.config.update('jax_enable_x64', True) first"
        )
    refuse_too_large(data)
    array = jnp.array(data, dtype)
    return StridedTensor(array.reshape(-1), Layout.contiguous(array.shape))
