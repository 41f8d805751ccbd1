"""What the checks of all rooms share: is this one number, one key, and how is what came told in
a few words.
"""

import contextlib
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

# NumPy's alone; where a platform has none they are float64 and complex128.
LONG: dict[Any, Any] = {
    np.dtype(np.longdouble): np.float64,
    np.dtype(np.clongdouble): np.complex128,
}


def describe(value: Any) -> str:
    """What came, in a few words.

    >>> describe(np.zeros((2, 3))), describe(int), describe("seven")
    ('an array of shape (2, 3) and dtype float64', 'the class int', "str 'seven'")
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if is_array(value):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    shown = repr(value)
    return (
        f"{type(value).__name__} {shown}"
        if len(shown) <= 60 and "\n" not in shown
        else f"a {type(value).__name__}"
    )


def is_array(value: Any) -> bool:
    """Whether a value has the shape and dtype of an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_int(value: Any) -> int | None:
    """A whole number of any kind as an int, a 0-d array included; None for anything else, bools
    too.

    >>> as_int(np.int8(3)), as_int(True), as_int(3.0)
    (3, None, None)
    """
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    if getattr(value, "ndim", 0) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    with contextlib.suppress(TypeError):  # a traced one among them
        return operator.index(value)
    return None


def whole(value: Any, argument: str, least: int | None = None, most: int = 2**31 - 1) -> int:
    """A whole number between two limits.

    Raises:
      TypeError: it is no whole number.
      ValueError: it is beyond the limits.

    >>> whole(np.int64(3), "n", 1)
    3
    """
    number = as_int(value)
    if number is None:
        raise TypeError(f"{argument} must be a whole number; got {describe(value)}.")
    if (least is not None and number < least) or number > most:
        limits = (
            f"at least {least}" if least is not None and number < least else f"at most {most}"
        )
        raise ValueError(f"{argument} must be {limits}; got {describe(value)}.")
    return number


def real(
    value: Any, argument: str, least: float = -math.inf, *, above: float = -math.inf
) -> float:
    """A finite number, of `least` or more, and more than `above`.

    Raises:
      TypeError: it is no number.
      ValueError: it is not finite, or too small.

    >>> real(np.float32(0.5), "rate", above=0)
    0.5
    """
    try:
        is_number = (
            not isinstance(value, bool | np.bool_ | str | bytes | complex)
            and np.ndim(value) == 0
        )
        is_number = is_number and not str(getattr(value, "dtype", "")).endswith("bool")
        given: Any = value
        number = (
            float(given)
            if is_number and (is_array(value) or isinstance(value, numbers.Real))
            else None
        )
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        raise TypeError(f"{argument} must be a number; got {describe(value)}.")
    if not math.isfinite(number) or number < least or number <= above:
        limits = f" of {least:g} or more" * (least > -math.inf) + f" above {above:g}" * (
            above > -math.inf
        )
        raise ValueError(f"{argument} must be a finite number{limits}; got {describe(value)}.")
    return number


def numbers_of(value: Any, argument: str) -> np.ndarray | jax.Array:
    """Numbers of any container as an array: a JAX array as it is, a traced one too, anything
    else as NumPy reads it.

    The other byte order, which files have and JAX has not, is turned.

    Raises:
      TypeError: they are no numbers: text, dates, objects, records, PRNG keys, masked values.
      ValueError: they are ragged.

    >>> numbers_of([1, 2], "x").tolist()
    [1, 2]
    """
    array: Any = value if isinstance(value, jax.Array) else _read(value, argument)
    is_held = isinstance(
        array, jax.Array | np.ndarray | np.generic
    )  # not a shape and a dtype, as jax.eval_shape gives
    if not is_held or not is_numeric(array.dtype):
        raise TypeError(f"{argument} must be numbers; got {describe(array)}.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in LONG:
        array = array.astype(LONG[array.dtype])
    return np.asarray(array) if isinstance(array, np.generic) else array


def is_numeric(dtype: Any) -> bool:
    """Whether a dtype is one of numbers, bool and bfloat16 among them; NumPy counts spans of
    time as integers.
    """
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return (jnp.issubdtype(dtype, np.number) and dtype.kind != "m") or dtype.kind == "b"


def _read(value: Any, argument: str) -> np.ndarray | jax.Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{argument} is a masked array; fill it (.filled(...)) or drop what is masked."
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
            f"{argument} must be numbers; got {describe(value)}, which is no array: {why}"
        ) from error


def on_host(value: Any, argument: str) -> np.ndarray:
    """Numbers of any container as a NumPy array.

    Raises:
      TypeError, ValueError: as `numbers_of`; and where they are traced.
    """
    array = numbers_of(value, argument)
    if isinstance(array, Tracer):
        raise TypeError(
            f"{argument} is traced by jax.jit, vmap or grad; this runs on the host, outside of them."
        )
    return np.asarray(array)


def real_on_host(value: Any, argument: str) -> np.ndarray:
    """`on_host`, without complex numbers."""
    array = on_host(value, argument)
    if array.dtype.kind == "c":
        raise TypeError(f"{argument} must be real numbers; got {describe(array)}.")
    return array


def on_device(value: Any, argument: str) -> jax.Array:
    """Numbers of any container as a JAX array, refused where JAX would cut 64-bit integers to
    other numbers.

    Raises:
      TypeError, ValueError: as `numbers_of`.
      OverflowError: an integer does not fit.
    """
    array = as_held(value, argument)
    return array if isinstance(array, jax.Array) else jnp.asarray(array)


def as_held(value: Any, argument: str) -> np.ndarray | jax.Array:
    """Numbers of any container in a dtype that JAX holds, still where they are: for whoever
    puts them elsewhere.

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
    """Raise OverflowError where an integer dtype cannot hold the data; what is traced is not
    looked at.
    """
    same = data.dtype == dtype or data.dtype == bool
    if (
        same
        or isinstance(data, Tracer)
        or not jnp.issubdtype(dtype, jnp.integer)
        or not data.size
    ):
        return
    limits, least, most = jnp.iinfo(dtype), data.min().item(), data.max().item()
    if not limits.min <= least <= most <= limits.max:  # NaN neither
        raise OverflowError(
            f"{argument} of {data.dtype} reaches {least}..{most} and does not fit {dtype}"
        )


def names_of(value: Any, argument: str) -> np.ndarray:
    """Names, numbers or dates of any container as a NumPy array that can be sorted and
    compared.

    Raises:
      TypeError: they are of several kinds, or of none of these.
      ValueError: they are ragged.

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
        array = array.astype(str)  # as pandas keeps text
    if array.dtype.kind not in "biufUSMm":
        raise TypeError(
            f"{argument} must be names or numbers of one kind; got {describe(value)}."
        )
    return array


def key(value: Any, argument: str = "key") -> jax.Array:
    """A PRNG key in the typed form; both of JAX's forms are taken."""
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
    """So many whole numbers between two limits, such as a height and a width.

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
    """Refuse what is no path of a file system."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{argument} must be a path, a str or a pathlib.Path; got {describe(value)}."
        )
    if not os.fspath(value) or "\0" in str(value):
        raise ValueError(f"{argument} must name a file or a folder; got {str(value)!r}.")


def text(value: Any, argument: str) -> None:
    """Refuse what is no str."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str; got {describe(value)}.")
