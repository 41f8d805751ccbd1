"""Volumes as pictures: a convolution over three axes is the sum of one over two for each depth
of the window.

XLA:CPU takes three to eight times as long for three spatial axes as for two with as much to
compute (`scripts/bench layers`).
"""

import jax
import jax.numpy as jnp
from jax import lax

from dlwp_jax.nn import windows


def pays(x: jax.Array, n: int, groups: int) -> bool:
    """Whether to convolve `n` axes this way: where it costs no digits, and devices can still
    split the examples.

    Sums in 16 bits would be rounded at every depth; depths count as examples, which uneven
    shares would tear.

    >>> pays(jnp.ones((2, 3, 4, 4, 1)), 3, groups=1), pays(jnp.ones((2, 4, 4, 1)), 2, groups=1)
    (True, False)
    """
    return (
        n == 3
        and groups == 1
        and x.dtype.itemsize >= 4
        and x.shape[0] % jax.device_count() == 0
    )


def pictures(
    x: jax.Array,
    window: int,
    *,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    spread: int = 1,
) -> list[jax.Array]:
    """What windows see at each of their depths: `[N D H W C] ->` as many `[N D' H W C]` as a
    window is deep.

    The options are those of the depth; `spread` is that of the input.

    >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1, 1)
    >>> [seen.ravel().tolist() for seen in pictures(x, 2, stride=2, padding=(0, 0), dilation=1)]
    [[0.0, 2.0], [1.0, 3.0]]
    """
    edges = [(0, 0, 0), (*padding, spread - 1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    return windows.places(x, 1, window, stride, dilation)


def merged(x: jax.Array) -> jax.Array:
    """`[N D H W C] -> [N*D H W C]`: every depth is an example."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
