"""The arguments of layers: tuples of the right length, arrays of the right rank, one dtype."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

# An int for all spatial axes, or one int for each.
Sizes = int | Sequence[int]

AXES = {1: "L", 2: "H W", 3: "D H W"}


def to_tuple(value: Any, n: int, name: str) -> tuple[int, ...]:
    """One int per spatial axis from an int, or from a sequence of `n` ints, as torch's
    `_ntuple` does.

    >>> to_tuple(3, 2, "stride"), to_tuple([1, 2], 2, "stride")
    ((3, 3), (1, 2))
    """
    try:
        return (operator.index(value),) * n
    except TypeError:
        values = tuple(operator.index(v) for v in value)
    if len(values) != n:
        raise ValueError(
            f"{name}={value!r} has {len(values)} entries; {n} spatial axes need one int or "
            f"{n} ints."
        )
    return values


def positive_tuple(value: Any, n: int, name: str) -> tuple[int, ...]:
    """`to_tuple` for sizes that must be at least 1."""
    values = to_tuple(value, n, name)
    if min(values) < 1:
        raise ValueError(f"{name}={value!r} must be positive in every axis.")
    return values


def layout(n: int, channels: object = "C") -> str:
    """The shape a layer over `n` spatial axes takes, in words.

    >>> layout(2)
    '[N H W C]'
    """
    return f"[N {AXES[n]} {channels}]"


def check_input(
    x: jax.Array,
    n: int,
    owner: str,
    channels: int | None = None,
    error: type[Exception] = RuntimeError,
) -> None:
    """Refuse an array that is not `[N *spatial C]` or `[*spatial C]` with the wanted number of
    channels.
    """
    if x.ndim not in (n + 1, n + 2):
        raise error(
            f"{owner} takes {layout(n)}, or the same without N, channels last; the input "
            f"has shape {x.shape}."
        )
    if channels is not None and x.shape[-1] != channels:
        first = x.shape[-n - 1] == channels
        hint = (
            " (it looks like torch's channels first: turn it over with jnp.moveaxis(x, 1, -1))"
            if first
            else ""
        )
        raise error(
            f"{owner} takes {layout(n, channels)}, channels last; the input has shape "
            f"{x.shape}{hint}."
        )


def over_batch(function: Callable[[jax.Array], jax.Array], x: jax.Array, n: int) -> jax.Array:
    """`function` of `[N *spatial C]`, also for one example without the leading N."""
    return function(x[None])[0] if x.ndim == n + 1 else function(x)


def promote(*arrays: ArrayLike | None, dtype: DTypeLike | None = None) -> tuple[Any, ...]:
    """The arrays (None stays None) in one floating dtype: the given one, or the one they
    promote to.
    """
    dtype = dtype or jnp.result_type(*[a for a in arrays if a is not None])
    return tuple(None if a is None else jnp.asarray(a, dtype) for a in arrays)


def is_integer(x: jax.Array) -> bool:
    """Whether an array holds whole numbers."""
    return jnp.issubdtype(x.dtype, jnp.integer)


def floating(x: ArrayLike) -> jax.Array:
    """`x` in floating point: whole numbers and booleans become JAX's default float.

    >>> floating(jnp.array([1, 2])).dtype, floating(jnp.ones(2, jnp.bfloat16)).dtype
    (dtype('float32'), dtype(bfloat16))
    """
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.result_type(float))


def wide(x: jax.Array) -> jax.Array:
    """A floating point `x` in at least float32, for sums.

    >>> wide(jnp.ones(2, jnp.float16)).dtype
    dtype('float32')
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
