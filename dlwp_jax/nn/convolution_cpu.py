"""How a convolution is written so that XLA:CPU computes it fast: in one layout, and wide.

XLA:CPU gathers the window of every output place into a buffer and multiplies it by the kernel. Where there are
few output channels, the gathering takes most of the time. So neighbouring output columns are computed together:
a window that is `r - 1` columns wider, moved `r` columns at a time, with `r` shifted copies of the kernel, zeros
around them, as its output channels. The result is the same memory, read as `[N H W/r r*out]`. At most twice the
products, far fewer gathers (`scripts/bench layers` has the times). One thing differs from torch: the zeros turn
infinity into NaN, so an input that is not finite spoils all `r` columns computed together where it would spoil one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def canonical(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
    spread: tuple[int, ...] | None = None,
) -> jax.Array:
    """`[N *spatial in] x [*window in/groups out] -> [N *spatial' out]`, the layout that is fast in loops too."""
    axes = "DHW"[-len(stride) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


def widened(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
    spread: tuple[int, ...] | None = None,
) -> jax.Array:
    """`canonical`, several output columns at a time where that pays.

    >>> x, kernel = jnp.arange(12.0).reshape(1, 2, 6, 1), jnp.ones((2, 3, 1, 1))
    >>> options = {"stride": (1, 1), "padding": ((0, 0), (1, 1)), "dilation": (1, 1), "groups": 1}
    >>> (widened(x, kernel, **options) == canonical(x, kernel, **options)).all().item()
    True
    """
    options = {"dilation": dilation, "groups": groups, "spread": spread}
    size = x.shape[-2] + sum(padding[-1])
    outputs, is_plain = size - kernel.shape[-3] + 1, groups == stride[-1] == dilation[-1] == 1
    columns = columns_at_once(outputs, *kernel.shape[-3:]) if is_plain and set(spread or (1,)) == {1} else 1
    if columns == 1:
        return canonical(x, kernel, stride=stride, padding=padding, **options)
    before = [(0, 0)] * (kernel.ndim - 3)
    shifted = [jnp.pad(kernel, [*before, (j, columns - 1 - j), (0, 0), (0, 0)]) for j in range(columns)]
    wide = jnp.stack(shifted, -2)  # [*window + (columns - 1) in columns out]
    wide = wide.reshape(*wide.shape[:-2], -1)
    y = canonical(x, wide, stride=(*stride[:-1], columns), padding=padding, **options)
    return y.reshape(*y.shape[:-2], outputs, kernel.shape[-1])


def columns_at_once(outputs: int, window: int, channels: int, out: int) -> int:
    """How many output columns to compute together: measured on the shapes of chapter 8's networks.

    >>> columns_at_once(32, 3, 3, 16), columns_at_once(16, 3, 8, 16), columns_at_once(16, 3, 32, 32)
    (4, 2, 1)
    """
    if window == 1 or (channels > 16 and out > 8):
        return 1
    wanted = (64 if channels % 8 else 32) // out
    return next((columns for columns in (4, 2) if columns <= wanted and outputs % columns == 0), 1)
