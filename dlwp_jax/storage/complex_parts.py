"""Complex numbers as pairs of real ones and back, for a whole storage: the strides of the
layout double or halve.

Two JAX arrays of different types cannot share bytes, so the storage is a new one: the values
are as in torch, the aliasing is not.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .layout import Layout


def as_pairs(storage: jax.Array, layout: Layout) -> tuple[jax.Array, Layout]:
    """A storage of alternating real and imaginary parts, and a layout with one more dimension,
    of size 2.
    """
    if not jnp.iscomplexobj(storage):
        raise RuntimeError(
            f"view_as_real is only supported for complex tensors, got {storage.dtype}"
        )
    pairs = jnp.stack([storage.real, storage.imag], -1).reshape(-1)
    stride = tuple(2 * step for step in layout.stride)
    return pairs, Layout((*layout.size, 2), (*stride, 1), 2 * layout.offset)


def as_complex(storage: jax.Array, layout: Layout) -> tuple[jax.Array, Layout]:
    """A storage of complex numbers, each made of two neighbours, and a layout without the last
    dimension.
    """
    if storage.dtype not in (jnp.float32, jnp.float64):
        raise RuntimeError(
            "view_as_complex is only supported for float32 and float64 tensors, got "
            f"{storage.dtype}"
        )
    if not layout.ndim or layout.size[-1] != 2:
        raise RuntimeError(
            f"Tensor must have a last dimension of size 2, got size {list(layout.size)}"
        )
    if layout.stride[-1] != 1:
        raise RuntimeError(
            f"Tensor must have a last dimension with stride 1, got stride {list(layout.stride)}"
        )
    if any(step % 2 for step in layout.stride[:-1]):
        raise RuntimeError(
            "Tensor must have a stride divisible by 2 for all but last dimension, got stride "
            f"{list(layout.stride)}"
        )
    if layout.offset % 2:
        raise RuntimeError(
            f"Tensor must have a storage_offset divisible by 2, got {layout.offset}"
        )
    pairs = storage[: storage.shape[0] // 2 * 2].reshape(-1, 2)
    halved = Layout(
        layout.size[:-1], tuple(step // 2 for step in layout.stride[:-1]), layout.offset // 2
    )
    return lax.complex(pairs[:, 0], pairs[:, 1]), halved
