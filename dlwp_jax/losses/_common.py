"""What all losses share: the reduction, the checks, and maxima whose gradient at the kink is
torch's.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

Reduction = Literal["none", "mean", "sum"]


def reduce(
    loss: jax.Array, reduction: Reduction, *, total: ArrayLike | None = None
) -> jax.Array:
    """Finish a loss: `'none'` keeps it, `'sum'` sums, `'mean'` divides it by `total` (default:
    size).
    """
    if reduction == "none":
        return loss
    if reduction == "sum":
        return jnp.sum(loss)
    if reduction == "mean":
        return jnp.mean(loss) if total is None else jnp.sum(loss) / total
    raise ValueError(f"reduction={reduction!r} is unknown; take 'none', 'mean' or 'sum'.")


def floating(name: str, values: ArrayLike) -> jax.Array:
    """`values` as an array of floating point numbers; anything else is refused by name."""
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise RuntimeError(
            f"{name} has dtype {array.dtype}; a loss needs floating point values."
        )
    return array


def same_shape(**arrays: ArrayLike) -> list[jax.Array]:
    """The named values as arrays of one shape. The first is the prediction and must be floating
    point.

    torch broadcasts some of these pairs with a warning ([n] against [n 1] becomes [n n]); here
    they are refused.
    """
    (first, *rest) = arrays
    results = [floating(first, arrays[first])] + [jnp.asarray(arrays[name]) for name in rest]
    for name, array in zip(rest, results[1:], strict=True):
        if array.shape != results[0].shape:
            raise ValueError(
                f"{name} has shape {array.shape}, but {first} has {results[0].shape}; make them equal."
            )
    return results


def weighted(loss: jax.Array, weight: ArrayLike | None) -> jax.Array:
    """`loss` times an optional weight that broadcasts to its shape, as torch's `weight`
    arguments do.
    """
    if weight is None:
        return loss
    weight = jnp.asarray(weight)
    if jnp.broadcast_shapes(weight.shape, loss.shape) != loss.shape:
        raise ValueError(
            f"weight of shape {weight.shape} does not broadcast to the loss of shape {loss.shape}."
        )
    return loss * weight


def checked_classes(target: ArrayLike, n_classes: int) -> jax.Array:
    """Class indices, all in 0 .. n_classes - 1: a wrong one raises if it can be seen, else it
    is n_classes.

    Reading at n_classes with `mode="fill"` then gives nan: no wrong class is ever counted as
    another one.
    """
    target = jnp.asarray(target)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise RuntimeError(f"target has dtype {target.dtype}; class indices are integers.")

    def is_wrong(target):
        return (target < 0) | (target >= n_classes)

    if is_seen(is_wrong, target):
        values = np.asarray(target)
        raise IndexError(
            f"target {values[is_wrong(values)][0]} is out of bounds for {n_classes} classes."
        )
    return jnp.where(is_wrong(target), n_classes, target)


def at_class(x: jax.Array, index: jax.Array) -> jax.Array:
    """`x[..., index[...]]`, and nan where `checked_classes` found a wrong class."""
    return jnp.take_along_axis(x, index[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[
        ..., 0
    ]


def class_weights(weight: ArrayLike | None, n_classes: int, dtype: DTypeLike) -> jax.Array:
    """The weight of each class `[C]`; ones where none is given."""
    if weight is None:
        return jnp.ones(n_classes, dtype)
    weight = jnp.asarray(weight)
    if weight.shape != (n_classes,):
        raise ValueError(
            f"weight has shape {weight.shape}; {n_classes} classes need ({n_classes},)."
        )
    return weight


def is_seen(test: Callable[[jax.Array], jax.Array], array: jax.Array) -> bool:
    """Whether `test` holds anywhere in an array, as far as its values can be looked at now.

    What is traced by `jit`, `grad` or `vmap` cannot be; constants that a traced function closes
    over can.
    """
    if isinstance(array, Tracer):
        return False
    with jax.ensure_compile_time_eval():
        return bool(jnp.any(test(array)))


def absolute(x: jax.Array) -> jax.Array:
    """|x| with torch's derivative: zero at x = 0, where `jnp.abs` has one."""
    return x * jnp.sign(x)


def clamp_min(x: jax.Array, minimum: float) -> jax.Array:
    """max(x, minimum) with torch's derivative: one at x = minimum, where `jnp.maximum` has a
    half.
    """
    return jnp.where(x < minimum, minimum, x)
