"""Checks that all packages share.

NumPy, JAX and Flax refuse most wrong input themselves. The checks here are for input from which
they compute a wrong number without a word:

- integers beyond 32 bits, which JAX cuts to other integers: `on_device`, `as_held`,
  `refuse_too_large`;
- ragged rows, masked values, dates, text: `numbers_of`, `on_host`, `real_on_host`, `names_of`;
- NaN in data, and arrays of a data set with different numbers of rows: `train.checks.dataset`;
- a negative row number, which counts from the end, or one beyond the end, which JAX moves to
  the last row: `row_numbers`;
- True for 1, or 2.7 for 2: `whole`, `wholes`, `real`.

A wrong type is a TypeError, a bad value of the right type a ValueError, and an integer that
does not fit an OverflowError.
"""

import math
import numbers
import operator
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Only NumPy has these; on platforms without them they are float64 and complex128.
LONG: dict[Any, Any] = {
    np.dtype(np.longdouble): np.float64,
    np.dtype(np.clongdouble): np.complex128,
}


def describe(value: Any) -> str:
    """A value in a few words, for an error message.

    >>> describe(np.zeros((2, 3))), describe(int), describe("seven")
    ('an array of shape (2, 3) and dtype float64', 'the class int', "str 'seven'")
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if is_array(value):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    shown = repr(value)
    if len(shown) > 60 or "\n" in shown:
        return f"a {type(value).__name__}"
    return f"{type(value).__name__} {shown}"


def is_array(value: Any) -> bool:
    """Whether a value has the shape and dtype of an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_int(value: Any) -> int | None:
    """A whole number of any kind as an int, from a 0-d array too; None for anything else, also
    for bools and traced numbers.

    >>> as_int(np.int8(3)), as_int(True), as_int(3.0)
    (3, None, None)
    """
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    if getattr(value, "ndim", 0) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # for example a traced number
        return None


def whole(value: Any, argument: str, least: int | None = None, most: int = 2**31 - 1) -> int:
    """A whole number between two limits.

    Raises:
      TypeError: if it is not a whole number.
      ValueError: if it is beyond the limits.

    >>> whole(np.int64(3), "n", 1)
    3
    """
    number = as_int(value)
    if number is None:
        raise TypeError(f"{argument} must be a whole number; got {describe(value)}.")
    if least is not None and number < least:
        raise ValueError(f"{argument} must be at least {least}; got {describe(value)}.")
    if number > most:
        raise ValueError(f"{argument} must be at most {most}; got {describe(value)}.")
    return number


def real(
    value: Any, argument: str, least: float = -math.inf, *, above: float = -math.inf
) -> float:
    """A finite number, at least `least` and greater than `above`.

    Raises:
      TypeError: if it is not a real number.
      ValueError: if it is not finite, or too small.

    >>> real(np.float32(0.5), "rate", above=0)
    0.5
    """
    number = _as_float(value)
    if number is None:
        raise TypeError(f"{argument} must be a number; got {describe(value)}.")
    if not math.isfinite(number) or number < least or number <= above:
        limits = f" of {least:g} or more" if least > -math.inf else ""
        limits += f" above {above:g}" if above > -math.inf else ""
        raise ValueError(f"{argument} must be a finite number{limits}; got {describe(value)}.")
    return number


def _as_float(value: Any) -> float | None:
    if is_array(value):
        is_real = not value.ndim and is_numeric(value.dtype) and value.dtype.kind not in "bc"
    else:
        is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_real:
        return None
    try:
        return float(value)
    except (TypeError, OverflowError):  # a traced number, 10**400
        return None


def numbers_of(value: Any, argument: str) -> np.ndarray | jax.Array:
    """Numbers of any container as an array: a JAX array, traced or not, as it is, and anything
    else as a NumPy array.

    Numbers in the byte order of another machine, which JAX does not read, are converted.

    Raises:
      TypeError: if they are not numbers but text, dates, objects, records, PRNG keys or masked
        values.
      ValueError: if they are ragged.

    >>> numbers_of([1, 2], "x").tolist()
    [1, 2]
    """
    array: Any = value if isinstance(value, jax.Array) else _read(value, argument)
    # A jax.ShapeDtypeStruct has a dtype as well, but no numbers.
    has_numbers = isinstance(array, jax.Array | np.ndarray | np.generic)
    if not has_numbers or not is_numeric(array.dtype):
        # A dict becomes an array of no axes, which would say less than the dict does.
        given = value if getattr(array, "ndim", 1) == 0 else array
        raise TypeError(f"{argument} must be numbers; got {describe(given)}.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in LONG:
        array = array.astype(LONG[array.dtype])
    return np.asarray(array) if isinstance(array, np.generic) else array


def is_numeric(dtype: Any) -> bool:
    """Whether a dtype is one of numbers, bool and bfloat16 included, spans of time excluded."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    is_number = jnp.issubdtype(dtype, np.number) and dtype.kind != "m"  # NumPy's timedelta64
    return is_number or dtype.kind == "b"


def _read(value: Any, argument: str) -> np.ndarray | jax.Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{argument} is a masked array; fill it (.filled(...)) or drop the masked values."
        )
    if isinstance(value, list | tuple) and any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)
    ):
        return jnp.asarray(value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{argument} must be numbers in a regular shape; got {describe(value)} ({error})."
        ) from error
    except (TypeError, RuntimeError, OverflowError) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise TypeError(
            f"{argument} must be numbers; got {describe(value)}, which is not an array: {why}"
        ) from error


def on_host(value: Any, argument: str) -> np.ndarray:
    """Numbers of any container as a NumPy array.

    Raises:
      TypeError, ValueError: as `numbers_of`, and if they are traced.
    """
    array = numbers_of(value, argument)
    if isinstance(array, Tracer):
        raise TypeError(
            f"{argument} is traced by jax.jit, vmap or grad; this runs on the host, outside "
            "of them."
        )
    return np.asarray(array)


def real_on_host(value: Any, argument: str) -> np.ndarray:
    """`on_host`, without complex numbers."""
    array = on_host(value, argument)
    if array.dtype.kind == "c":
        raise TypeError(f"{argument} must be real numbers; got {describe(array)}.")
    return array


def on_device(value: Any, argument: str) -> jax.Array:
    """Numbers of any container as a JAX array.

    Raises:
      TypeError, ValueError: as `numbers_of`.
      OverflowError: for 64-bit integers that JAX would cut to other numbers.
    """
    array = as_held(value, argument)
    return array if isinstance(array, jax.Array) else jnp.asarray(array)


def as_held(value: Any, argument: str) -> np.ndarray | jax.Array:
    """Numbers of any container in a dtype that JAX has, not yet copied to a device.

    Raises:
      TypeError, ValueError, OverflowError: as `on_device`.
    """
    array = numbers_of(value, argument)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype == dtype:
        return array
    refuse_too_large(array, dtype, argument)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as in torch
        return array.astype(dtype)


def refuse_too_large(data: np.ndarray | jax.Array, dtype: np.dtype, argument: str) -> None:
    """Raise OverflowError if an integer dtype cannot hold the data. Traced data pass unseen."""
    fits_anyway = data.dtype in (dtype, bool) or not data.size
    if fits_anyway or isinstance(data, Tracer) or not jnp.issubdtype(dtype, jnp.integer):
        return
    limits, least, most = jnp.iinfo(dtype), data.min().item(), data.max().item()
    if not limits.min <= least <= most <= limits.max:  # also refuses NaN
        raise OverflowError(
            f"{argument} of {data.dtype} reaches {least}..{most} and does not fit {dtype}"
        )


def row_numbers(value: Any, argument: str, n: int) -> np.ndarray:
    """Row numbers `[k]`, each from 0 to n - 1.

    Raises:
      TypeError: if they are not whole numbers in one axis.
      ValueError: if one is negative, n or more.

    >>> row_numbers([2, 0], "fold", 3).tolist()
    [2, 0]
    """
    numbers = on_host(value, argument)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"{argument} must be a list of row numbers; got {describe(value)}.")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < n:
        raise ValueError(
            f"{argument} holds row {numbers.min() if numbers.min() < 0 else numbers.max()}; "
            f"the rows are 0 to {n - 1}."
        )
    return numbers


def names_of(value: Any, argument: str) -> np.ndarray:
    """Names, numbers or dates of any container as a NumPy array that can be sorted and
    compared.

    Raises:
      TypeError: if they are of several kinds, or of none of these.
      ValueError: if they are ragged.

    >>> names_of(["b", "a"], "labels").tolist()
    ['b', 'a']
    """
    array = np.asarray(
        on_host(value, argument) if isinstance(value, jax.Array) else _read(value, argument)
    )
    if (
        array.dtype == object
        and array.ndim
        and all(isinstance(name, str) for name in array.flat)
    ):
        array = array.astype(str)  # pandas keeps text as objects
    if array.dtype.kind not in "biufUSMm":
        raise TypeError(
            f"{argument} must be names or numbers of one kind; got {describe(value)}."
        )
    return array


def key(value: Any, argument: str = "key") -> jax.Array:
    """A PRNG key in the typed form, from either of JAX's two forms."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
            return value
        if (
            value.dtype == jnp.uint32
            and value.shape == jax.random.key_data(jax.random.key(0)).shape
        ):
            return jax.random.wrap_key_data(value)
    raise TypeError(
        f"{argument} must be one PRNG key such as jax.random.key(0); got {describe(value)}."
    )


def wholes(value: Any, argument: str, count: int, least: int = 1, most: int = 2**31 - 1) -> Any:
    """`count` whole numbers between two limits, such as a height and a width.

    >>> wholes([3, 4], "size", 2)
    (3, 4)
    """
    sizes: Any = value
    is_ordered = isinstance(value, Iterable) and not isinstance(
        value, str | bytes | dict | set | frozenset
    )
    if (
        not is_ordered
        or not hasattr(value, "__len__")
        or getattr(value, "ndim", 1) != 1
        or len(sizes) != count
    ):
        raise TypeError(f"{argument} must be {count} whole numbers; got {describe(value)}.")
    return tuple(whole(number, argument, least, most) for number in value)


def path(value: Any, argument: str = "path") -> None:
    """Refuse a value that is not the path of a file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{argument} must be a path, a str or a pathlib.Path; got {describe(value)}."
        )
    if not os.fspath(value) or "\0" in str(value):
        raise ValueError(f"{argument} must name a file or a folder; got {str(value)!r}.")


def text(value: Any, argument: str) -> None:
    """Refuse a value that is not a str."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str; got {describe(value)}.")
