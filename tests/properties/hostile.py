"""Values that no argument asks for, made anew for each use (a generator is used up, an array
may be written to).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx
from hypothesis import strategies as st

from dlwp_jax import storage


@dataclasses.dataclass(frozen=True)
class Made:
    """A value by the expression that makes it; hypothesis prints the expression."""

    text: str
    make: Callable[[], Any] = dataclasses.field(repr=False, compare=False)


def fresh(value: Any) -> Any:
    """The value itself, made where it is a recipe, inside tuples, lists and dicts too."""
    if isinstance(value, Made):
        return value.make()
    if type(value) in (tuple, list):
        return type(value)(map(fresh, value))
    if type(value) is dict:
        return {key: fresh(part) for key, part in value.items()}
    return value


class Frame:
    """What pandas gives: an object that becomes an array when it is asked."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class Broken:
    """Says that it is an array, and fails when it is asked."""

    shape, dtype, ndim = (3,), np.dtype(np.float32), 1

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the file behind this array is gone")


NAMES = {
    name: getattr(module, name)
    for module, names in (
        (
            np,
            (
                "array",
                "arange",
                "ones",
                "zeros",
                "datetime64",
                "timedelta64",
                "nan",
                "inf",
                "int64",
                "float32",
            ),
        ),
        (np, ("float16", "int8", "uint64", "ma", "bool_", "str_", "float64")),
    )
    for name in names
} | {
    "np": np,
    "jnp": jnp,
    "jax": jax,
    "torch": torch,
    "storage": storage,
    "bf16": ml_dtypes.bfloat16,
}
NAMES |= {"Frame": Frame, "Broken": Broken, "nnx": nnx}


def recipes(*texts: str) -> list[Made]:
    """Expressions as recipes."""
    return [
        Made(text, functools.partial(eval, compile(text, text, "eval"), NAMES))
        for text in texts
    ]


SCALARS = recipes(
    *(
        "None",
        "True",
        "False",
        "0",
        "1",
        "-1",
        "3",
        "10**30",
        "-10**30",
        "2**31",
        "2**63",
        "10**12",
    ),
    *(
        "2.5",
        "0.5",
        "-0.5",
        "float('nan')",
        "float('inf')",
        "-float('inf')",
        "1e300",
        "1j",
        "''",
        "'x'",
        "b'x'",
    ),
    *(
        "int64(3)",
        "float32(0.5)",
        "float16(0.5)",
        "bool_(True)",
        "str_('x')",
        "datetime64('2020-01-01')",
    ),
    *(
        "array(3)",
        "array(0.5)",
        "array(True)",
        "jnp.array(2)",
        "torch.tensor(2)",
        "torch.tensor(0.5)",
    ),
)
ARRAYS = recipes(
    *(
        "zeros(0)",
        "zeros((0, 3))",
        "zeros((3, 0))",
        "ones(3)",
        "ones((2, 3))",
        "ones((2, 3, 4))",
        "arange(6)",
    ),
    *(
        "array(['a', 'b', 'c'])",
        "array([None, 1, 2], dtype=object)",
        "array([1.5, 'x', None], dtype=object)",
    ),
    *(
        "array([1, 2, 3], dtype='datetime64[D]')",
        "array([1, 2, 3], dtype='timedelta64[h]')",
        "ones(3, complex)",
    ),
    *(
        "ones(3, float16)",
        "ones(3, bf16)",
        "ones(3, int8)",
        "array([2**63, 1, 2], np.uint64)",
        "ones(3, bool)",
    ),
    *(
        "array([1.0, nan, 2.0])",
        "array([1.0, inf, 2.0])",
        "array([1e300, 1.0, -1e300])",
        "np.ones(3, np.longdouble)",
    ),
    *(
        "arange(12.0)[::-2]",
        "arange(12).reshape(3, 4).T",
        "ones(3, '>f4')",
        "arange(3, dtype='>i8')",
    ),
    *(
        "np.broadcast_to(float32(1), (3,))",
        "ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])",
        "np.rec.array([(1, 2.0)])",
    ),
    *(
        "ones(3, dtype=[('a', 'i4')])",
        "jnp.ones(3)",
        "jnp.ones((2, 3))",
        "jnp.zeros(0)",
        "jnp.ones(3, jnp.bfloat16)",
    ),
    *("jax.random.key(0)", "jax.random.split(jax.random.key(0))", "jax.random.PRNGKey(0)"),
    *(
        "torch.ones(3)",
        "torch.ones(3, requires_grad=True)",
        "torch.ones(3, dtype=torch.bfloat16)",
    ),
    *(
        "torch.ones(2, 3).t()",
        "storage.tensor([1.0, 2.0, 3.0])",
        "Frame(ones(3))",
    ),
    *("Frame(array(['a', 'b']))", "Broken()"),
)
CONTAINERS = recipes(
    *(
        "[]",
        "()",
        "{}",
        "set()",
        "{1, 2}",
        "[1, 2, 3]",
        "(1, 2)",
        "[0.5, 'x']",
        "[[1, 2], [3]]",
        "[[]]",
        "[None]",
    ),
    *(
        "{'x': ones(3)}",
        "{'x': ones(3), 'y': ones(2)}",
        "{'x': {}}",
        "{1: ones(2)}",
        "{'x': None}",
        "{'x': 'words'}",
    ),
    *(
        "(i for i in range(3))",
        "iter([])",
        "range(3)",
        "map(int, '12')",
        "[ones(3), ones(2)]",
        "[[1.0], [2.0, 3.0]]",
    ),
    *(
        "['a', 'b']",
        "[b'a']",
        "[10**30]",
        "[2**40, 1]",
        "[True, False]",
        "[float('nan'), 1.0]",
        "[1, [2, [3]]]",
    ),
    *(
        "object()",
        "int",
        "len",
        "lambda x: x",
        "Ellipsis",
        "slice(1, 2)",
        "NotImplemented",
        "nnx.Param(jnp.ones(3))",
    ),
)
anything = st.sampled_from([*SCALARS, *ARRAYS, *CONTAINERS])
scalars = st.sampled_from(SCALARS)
arrays = st.sampled_from(ARRAYS)
