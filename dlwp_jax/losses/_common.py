"""Shared by all losses: reductions, checks, and maxima with torch's gradient at the kink."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.labels import labels

Reduction = Literal["none", "mean", "sum"]


def reduce(
    loss: jax.Array, reduction: Reduction, *, total: ArrayLike | None = None
) -> jax.Array:
    """Finish a loss: `'none'` keeps it, `'sum'` sums, `'mean'` divides the sum by `total`.

    `total` is the number of values by default. Sums are taken in at least float32: in float16
    they end at 65504, which a picture of 256 x 256 pixels reaches.
    """
    if reduction == "none":
        return loss
    wide = jnp.promote_types(loss.dtype, jnp.float32)
    if reduction == "sum":
        return jnp.sum(loss, dtype=wide).astype(loss.dtype)
    if reduction == "mean":
        total = loss.size if total is None else total
        return (jnp.sum(loss, dtype=wide) / total).astype(loss.dtype)
    raise ValueError(f"reduction={reduction!r} is unknown; take 'none', 'mean' or 'sum'.")


def floating(name: str, values: ArrayLike) -> jax.Array:
    """`values` as an array of floating point numbers; other dtypes are refused by name."""
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise RuntimeError(
            f"{name} has dtype {array.dtype}; a loss needs floating point values."
        )
    return array


def same_shape(**arrays: ArrayLike) -> list[jax.Array]:
    """The named values as floating point arrays of one shape.

    The first is the prediction and must be floating point. Whole numbers and booleans among the
    others take its dtype: a mask may be 0 and 255 in uint8, and `1 - y` would wrap around.
    torch broadcasts some of these pairs with a warning (`[n]` against `[n 1]` becomes `[n n]`);
    here they are refused.
    """
    (first, *rest) = arrays
    results = [floating(first, arrays[first])]
    for name in rest:
        array = as_floats(arrays[name], results[0].dtype)
        if array.shape != results[0].shape:
            raise ValueError(
                f"{name} has shape {array.shape}, but {first} has {results[0].shape}; "
                "make them equal."
            )
        results.append(array)
    return results


def as_floats(values: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """`values` as an array; whole numbers and booleans become `dtype`."""
    array = jnp.asarray(values)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(dtype)


def weighted(loss: jax.Array, weight: ArrayLike | None) -> jax.Array:
    """`loss` times an optional weight that broadcasts to its shape, as in torch."""
    if weight is None:
        return loss
    weight = jnp.asarray(weight)
    if jnp.broadcast_shapes(weight.shape, loss.shape) != loss.shape:
        raise ValueError(
            f"weight of shape {weight.shape} does not broadcast to the loss of shape "
            f"{loss.shape}."
        )
    return loss * weight


def checked_classes(target: ArrayLike, n_classes: int) -> jax.Array:
    """Class indices in 0 .. n_classes - 1. A wrong one raises if it can be seen; under `jit`
    it becomes n_classes.

    Reading at n_classes with `mode="fill"` then gives NaN: a wrong class is never counted as
    another one.
    """
    target = labels("target", target)

    def is_wrong(target):
        return (target < 0) | (target >= n_classes)

    if is_seen(is_wrong, target):
        values = np.asarray(target)
        raise IndexError(
            f"target {values[is_wrong(values)][0]} is out of bounds for {n_classes} classes."
        )
    return jnp.where(is_wrong(target), n_classes, target)


def at_class(x: jax.Array, index: jax.Array) -> jax.Array:
    """`x[..., index[...]]`, and NaN if `checked_classes` found a wrong class."""
    index = index[..., None]
    return jnp.take_along_axis(x, index, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def class_weights(weight: ArrayLike | None, n_classes: int, dtype: DTypeLike) -> jax.Array:
    """The weight of each class `[C]`; ones if none is given."""
    if weight is None:
        return jnp.ones(n_classes, dtype)
    weight = as_floats(weight, dtype)
    if weight.shape != (n_classes,):
        raise ValueError(
            f"weight has shape {weight.shape}; {n_classes} classes need ({n_classes},)."
        )
    return weight


def is_seen(test: Callable[[jax.Array], jax.Array], array: jax.Array) -> bool:
    """Whether `test` holds anywhere in an array whose values are known now.

    The values of an array that `jit`, `grad` or `vmap` traces are not known; those of constants
    that a traced function closes over are.
    """
    if isinstance(array, Tracer):
        return False
    with jax.ensure_compile_time_eval():
        return bool(jnp.any(test(array)))


def absolute(x: jax.Array) -> jax.Array:
    """|x| with torch's derivative at 0: zero. `jnp.abs` has one."""
    return x * jnp.sign(x)


def clamp_min(x: jax.Array, minimum: float) -> jax.Array:
    """max(x, minimum) with torch's derivative at the minimum: 1. `jnp.maximum` has 1/2."""
    return jnp.where(x < minimum, minimum, x)
