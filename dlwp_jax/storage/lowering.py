"""Strided reads and writes as XLA programs: a `Layout` over a 1-D array becomes reshapes and
slices.

A gather by computed indices is as fast for a bare copy, but 3-15 times slower in gradients and
in operations that are fused with it, so an index array is the last resort. The `*_at` forms are
for eager use: the offset is an argument of the compiled program, so that 64 rows of one tensor
share one program.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from .layout import Layout
from .overlap import crossing_dim, overlap
from .plan import Pad, Step, plan

# Up to so many windows are read as a stack of slices, more by index: each slice is an operation
# to compile.
MAX_SLICES = 32

# Slices are cheaper than writing by index up to so many copied elements for each written one.
MAX_COPIED = 8


def read(storage: jax.Array, layout: Layout, max_slices: int = MAX_SLICES) -> jax.Array:
    """The dense array out[i, j, ...] = storage[offset + i·stride₀ + j·stride₁ + ...].

    >>> read(jnp.arange(6.0), Layout.contiguous((3, 2)).T)
    Array([[0., 2., 4.],
           [1., 3., 5.]], dtype=float32)
    """
    if not layout.numel:
        return jnp.zeros(layout.size, storage.dtype)
    dim = crossing_dim(layout)
    if dim is None:
        return _read_nested(storage, layout)
    count = layout.size[dim]
    if count > max_slices:
        return storage.at[positions(layout)].get(mode="promise_in_bounds")
    parts = [read(storage, part, max_slices // count) for part in layout.unbind(dim)]
    return jnp.stack(parts, dim)


def write(storage: jax.Array, layout: Layout, values: jax.Array) -> jax.Array:
    """The storage after the view, which must not overlap itself, holds `values` (broadcast and
    cast to it).

    It is written in place if XLA may reuse the storage (if it is donated, or made inside the
    same program).

    >>> write(jnp.zeros(6), Layout.contiguous((3, 2))[:, 1], jnp.ones(3))
    Array([0., 1., 0., 1., 0., 1.], dtype=float32)
    """
    if not layout.numel:
        return storage
    values = jnp.broadcast_to(values, layout.size).astype(storage.dtype)
    cutting = None
    if crossing_dim(layout) is None:
        cutting = plan(storage.shape[0], layout, whole_rows=True)
    if cutting is None or cutting.copied > MAX_COPIED * layout.numel:
        return storage.at[positions(layout)].set(
            values, unique_indices=True, mode="promise_in_bounds"
        )
    steps, dims, padded = cutting
    if padded is not None:  # the storage ends within the last row, which is written by itself
        last = layout.size[padded] - 1
        rows = lax.slice_in_dim(values, 0, last, axis=padded)
        storage = write(storage, layout.narrow(padded, 0, last), rows)
        return write(
            storage,
            layout.select(padded, last),
            lax.index_in_dim(values, last, padded, keepdims=False),
        )
    moving = values.reshape([layout.size[dim] for dim in sorted(dims)])
    return _put(storage, steps, moving.transpose([sorted(dims).index(dim) for dim in dims]))


def add(storage: jax.Array, layout: Layout, values: jax.Array) -> jax.Array:
    """The storage after `values` (broadcast to the view) are added at every index of it.

    As in torch, the sum is made in the type that both promote to, and then cast to the
    storage's. If indices meet in one element, their values sum up: the transpose of reading.

    >>> add(jnp.zeros(2), Layout.contiguous((2, 1)).expand(2, 3), jnp.ones((2, 3)))
    Array([3., 3.], dtype=float32)
    """
    values = jnp.broadcast_to(values, layout.size).astype(_sum_dtype(storage, values))
    if overlap(layout) is None:
        return write(storage, layout, read(storage, layout).astype(values.dtype) + values)
    if expanded := tuple(dim for dim, step in enumerate(layout.stride) if step == 0):
        # Repeats of one element are one sum; the rest may still overlap in windows.
        once = layout
        for dim in expanded:
            once = once.slice(dim, 0, 1)
        return add(storage, once, values.sum(expanded, keepdims=True, dtype=values.dtype))
    elements = storage.astype(values.dtype).at[positions(layout)]
    # The sum of truth values is "or", as in torch.
    summed = elements.max if storage.dtype == bool else elements.add
    return summed(values, mode="promise_in_bounds").astype(storage.dtype)


def _sum_dtype(storage: jax.Array, values: jax.Array) -> jnp.dtype:
    """The type in which torch adds: the promoted one, without that of Python numbers."""
    weak = getattr(values, "weak_type", False)
    return storage.dtype if weak else jnp.promote_types(storage.dtype, values.dtype)


def positions(layout: Layout, dtype: DTypeLike = jnp.int32) -> jax.Array:
    """The storage position of every element of the view.

    Raises:
      OverflowError: if the view reaches further than `dtype` counts.

    >>> positions(Layout((2, 2), (3, 1), 1))
    Array([[1, 2],
           [4, 5]], dtype=int32)
    """
    if layout.end > jnp.iinfo(dtype).max:
        raise OverflowError(
            f"this view reaches past element {jnp.iinfo(dtype).max} of its storage and can be "
            "neither sliced nor indexed; take it apart with .unbind() first"
        )
    steps = (
        lax.broadcasted_iota(dtype, layout.size, dim) * step
        for dim, step in enumerate(layout.stride)
    )
    return sum(steps, jnp.full(layout.size, layout.offset, dtype))


def _read_nested(storage: jax.Array, layout: Layout) -> jax.Array:
    steps, dims, _ = plan(storage.shape[0], layout)
    x = storage
    for step in steps:
        x = step.read(x)
    x = x.reshape([layout.size[dim] for dim in dims])
    x = x.transpose([dims.index(dim) for dim in sorted(dims)])
    return lax.broadcast_in_dim(x, layout.size, sorted(dims))


def _put(x: jax.Array, steps: tuple[Step, ...], values: jax.Array) -> jax.Array:
    """Run the steps forwards to the place of the values, and back with the results."""
    if not steps:
        return values.reshape(x.shape)
    step, *rest = steps
    assert not isinstance(step, Pad), "a padded view is written in two parts"
    return step.write(x, _put(step.read(x), tuple(rest), values))


read_static = jax.jit(read, static_argnames="layout", inline=True)
write_static = jax.jit(write, static_argnames="layout", inline=True)
add_static = jax.jit(add, static_argnames="layout", inline=True)


@functools.partial(jax.jit, static_argnames="layout")
def read_at(storage: jax.Array, layout: Layout, offset: jax.Array) -> jax.Array:
    """`read` of a layout without offset, `offset` elements into the storage."""
    return read(lax.dynamic_slice(storage, (offset,), (layout.end,)), layout)


@functools.partial(jax.jit, static_argnames="layout")
def write_at(
    storage: jax.Array, layout: Layout, offset: jax.Array, values: jax.Array
) -> jax.Array:
    """`write` to a layout without offset, `offset` elements into the storage."""
    window = lax.dynamic_slice(storage, (offset,), (layout.end,))
    return lax.dynamic_update_slice(storage, write(window, layout, values), (offset,))


@functools.partial(jax.jit, static_argnames="layout")
def add_at(
    storage: jax.Array, layout: Layout, offset: jax.Array, values: jax.Array
) -> jax.Array:
    """`add` to a layout without offset, `offset` elements into the storage."""
    window = lax.dynamic_slice(storage, (offset,), (layout.end,))
    return lax.dynamic_update_slice(storage, add(window, layout, values), (offset,))
