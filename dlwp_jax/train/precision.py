"""Half precision (`make_learner(compute_dtype=...)`): a model that computes in it, and the loss
scaling of float16.

Parameters stay as they are, float32 as a rule: they are cast when the model is called, as its
inputs are, and its outputs are float32 again. So loss, metrics, gradients, updates and the
running statistics of batch norm are float32; it is what `with torch.autocast(...): output =
model(input)` does around a model.

A gradient below 6e-8 is 0 in float16. So the loss is multiplied by a scale before it is
differentiated, and gradients are divided by it, in float32. Where they overflow the step is
left out and the scale halved; after INTERVAL good steps in a row it is doubled
(`torch.amp.GradScaler`, with its numbers).
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.train import checks

PyTree = Any
INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's
FLOOR = 1.0  # gradients that overflow without help are the training's own failure
DTYPES = (jnp.bfloat16, jnp.float16)


class Scaled(NamedTuple):
    """An optimizer's state with the scale of the loss.

    Attributes:
      inner: the optimizer's own state.
      scale: float32.
      good: int32, steps taken in a row since the scale changed.
    """

    inner: PyTree
    scale: jax.Array
    good: jax.Array

    def after_step(self, inner: PyTree) -> "Scaled":
        """The state after a step that was taken.

        >>> state = Scaled(None, jnp.float32(8), jnp.int32(INTERVAL - 1)).after_step(None)
        >>> float(state.scale), int(state.good)
        (16.0, 0)
        """
        grows = self.good + 1 == INTERVAL
        larger = self.scale * GROWTH
        scale = jnp.where(grows & jnp.isfinite(larger), larger, self.scale)
        return Scaled(inner, scale, jnp.where(grows, 0, self.good + 1))

    def after_overflow(self) -> "Scaled":
        """The state after a step that was left out.

        >>> state = Scaled(None, jnp.float32(8), jnp.int32(7)).after_overflow()
        >>> float(state.scale), int(state.good)
        (4.0, 0)
        """
        return Scaled(
            self.inner, jnp.maximum(self.scale * BACKOFF, FLOOR), jnp.zeros_like(self.good)
        )


def scaled(opt_state: PyTree, dtype: Any) -> PyTree:
    """An optimizer's first state, with a scale if the dtype needs one."""
    if dtype != jnp.float16:
        return opt_state
    return Scaled(opt_state, jnp.float32(INITIAL), jnp.zeros((), jnp.int32))


def inner(opt_state: PyTree) -> PyTree:
    """The optimizer's own state."""
    return opt_state.inner if isinstance(opt_state, Scaled) else opt_state


def around(opt_state: PyTree, inner: PyTree) -> PyTree:
    """Another optimizer's state under the same scale, if there is one."""
    return opt_state._replace(inner=inner) if isinstance(opt_state, Scaled) else inner


def after_step(opt_state: PyTree, inner: PyTree) -> PyTree:
    """The state after a step that was taken; `inner` is the optimizer's own new state."""
    return opt_state.after_step(inner) if isinstance(opt_state, Scaled) else inner


def value_and_grad(function: Callable, opt_state: PyTree, *, argnums: int) -> Callable:
    """`jax.value_and_grad(function, argnums, has_aux=True)`, of the scaled loss if there is a
    scale.
    """
    if not isinstance(opt_state, Scaled):
        return jax.value_and_grad(function, argnums, has_aux=True)
    scale = opt_state.scale

    def enlarged(*args, **kwargs):
        loss, aux = function(*args, **kwargs)
        return loss * scale, (loss, aux)

    def unscaled(*args, **kwargs):
        differentiate = jax.value_and_grad(enlarged, argnums, has_aux=True)
        (_, (loss, aux)), grads = differentiate(*args, **kwargs)
        return (loss, aux), jax.tree.map(lambda g: g / scale.astype(g.dtype), grads)

    return unscaled


def dtype_of(value: Any) -> Any:
    """A `compute_dtype` that is known, or None."""
    if value is None:
        return None
    is_one = isinstance(value, Hashable)  # an array is not, and compares number by number
    known = [
        dtype for dtype in DTYPES if is_one and value in (dtype, dtype.dtype, dtype.dtype.name)
    ]
    if not known:
        raise ValueError(
            "compute_dtype must be jnp.bfloat16, jnp.float16 or None; got "
            f"{checks.describe(value)}."
        )
    return known[0].dtype


def compute_in(model: nnx.Module, dtype: Any) -> nnx.Module:
    """Make a model compute in a dtype when it is called; its other methods stay as they are.

    >>> model = compute_in(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.dtype(jnp.bfloat16))
    >>> x = jnp.ones((1, 2)) / 3
    >>> model(x).dtype, bool((model(x) == nnx.Linear.__call__(model, x)).all())
    (dtype('float32'), False)
    """
    object.__setattr__(model, "__class__", _computing_in(type(model), dtype))
    return model


@functools.cache
def _computing_in(cls: type, dtype: Any) -> type:
    """A subclass whose call casts; one for each class, so that graphs of equal models are
    equal.
    """

    def call(self, *args, **kwargs):
        graph, params, before = nnx.split(self, nnx.Param, ...)
        args, kwargs, params = _cast((args, kwargs, params), dtype)
        model = nnx.merge(graph, params, before)
        outputs = cls.__call__(model, *args, **kwargs)
        nnx.pop(model, nnx.Intermediate)
        after = nnx.state(model, nnx.Not(nnx.Param))
        leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        # In eval mode nothing is new, and under an inner jit nothing may be written.
        if any(new is not old for old, new in leaves):
            nnx.update(self, after)
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if _has(leaf, dtype) else leaf, outputs
        )

    call.__wrapped__ = cls.__call__  # the signature that others see
    names = {
        "__call__": call,
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return type(cls)(cls.__name__, (cls,), names)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """Real arrays of a tree in a dtype."""

    def cast(leaf):
        is_real = checks.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if is_real else leaf

    return jax.tree.map(cast, tree)


def _has(leaf: Any, dtype: Any) -> bool:
    return checks.is_array(leaf) and leaf.dtype == dtype
