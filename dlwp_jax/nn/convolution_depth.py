"""Volumes as pictures: what a window sees at each of its depths, side by side as channels.

XLA:CPU takes four to eight times as long for three spatial axes as for two with as much to compute (`scripts/bench
layers`), so over these pictures a convolution of volumes is one of two axes, and so are its gradients. They take
as many times the input's memory as the window is deep, while they are convolved.
"""

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn import windows


def pictures(
    x: jax.Array, window: int, *, stride: int, padding: tuple[int, int], dilation: int, spread: int = 1
) -> jax.Array:
    """`[N D H W C] -> [N D' H W window*C]`; the options are those of the depth, `spread` that of the input.

    >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1, 1)
    >>> pictures(x, 2, stride=2, padding=(0, 0), dilation=1)[0, :, 0, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    edges = [(0, 0, 0), (*padding, spread - 1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    return jnp.concatenate(windows.places(x, 1, window, stride, dilation), -1)


def merged(x: jax.Array) -> jax.Array:
    """`[N D H W C] -> [N*D H W C]`: every depth is an example."""
    return x.reshape(-1, *x.shape[2:])


def flat(kernel: jax.Array) -> jax.Array:
    """The kernel that meets the pictures: `[depth kh kw in out] -> [kh kw depth*in out]`."""
    _, kh, kw, _, out = kernel.shape
    return jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, -1, out)


def deep(kernel: jax.Array, depth: int) -> jax.Array:
    """The inverse of `flat`.

    >>> kernel = jnp.arange(24.0).reshape(2, 1, 3, 2, 2)
    >>> (deep(flat(kernel), 2) == kernel).all().item()
    True
    """
    kh, kw, _, out = kernel.shape
    return jnp.moveaxis(kernel.reshape(kh, kw, depth, -1, out), 2, 0)
