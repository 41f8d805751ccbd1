"""How a convolution is written so that XLA:CPU computes it fast: in one layout, on all cores,
and wide.

XLA:CPU has two engines for convolutions, and picks one by the shapes. Eigen takes all cores.
YNNPACK (more than 16 channels on either side, two spatial axes) is frugal, but in jaxlib 0.10
stays on one core unless a row is very long. It declines an output with more rows than the
input, so one row is added below and cut off again (`scripts/bench layers` has the times).

Either engine gathers the window of every output place into a buffer and multiplies it by the
kernel. Where there are few output channels, the gathering takes most of the time, so
neighbouring output columns are computed together: a window that is `r - 1` columns wider, moved
`r` columns at a time, with `r` shifted copies of the kernel, zeros around them, as its output
channels. The result is the same memory, read as `[N H W/r r*out]`. Where there are few input
channels, as in pictures, a matrix product is faster still (`convolution_product`).

Eigen is slow over three spatial axes, so volumes become pictures (`convolution_depth`).

One thing differs from torch: the zeros turn infinity into NaN, so an input that is not finite
spoils all `r` columns computed together where it would spoil one.
"""

import math
import operator
from functools import reduce

import jax
from jax import lax

from dlwp_jax.nn import convolution_depth as volumes
from dlwp_jax.nn import convolution_product as product


def canonical(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: product.Pairs,
    dilation: tuple[int, ...],
    groups: int,
    spread: tuple[int, ...] | None = None,
) -> jax.Array:
    """`[N *spatial in] x [*window in/groups out] -> [N *spatial' out]`, the layout that is fast
    in loops too.
    """
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


def fast(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, ...],
    padding: product.Pairs,
    dilation: tuple[int, ...],
    groups: int,
    spread: tuple[int, ...] | None = None,
) -> jax.Array:
    """`canonical`, in the form that takes least time.

    >>> x, kernel = jax.numpy.arange(12.0).reshape(1, 2, 6, 1), jax.numpy.ones((2, 3, 1, 1))
    >>> options = {"stride": (1, 1), "padding": ((0, 0), (1, 1)), "dilation": (1, 1), "groups": 1}
    >>> (fast(x, kernel, **options) == canonical(x, kernel, **options)).all().item()
    True
    """
    if volumes.pays(x, len(stride), groups):
        return _over_depths(x, kernel, stride, padding, dilation, spread or (1, 1, 1))
    options = {"dilation": dilation, "groups": groups, "spread": spread}
    if not is_plain(stride, dilation, groups, spread):
        return canonical(x, kernel, stride=stride, padding=padding, **options)
    *window, channels, out = kernel.shape
    outputs = product.outputs(x.shape[1:-1], window, padding)
    if product.pays(outputs, kernel.shape):
        return product.convolve(x, kernel, padding)
    columns = columns_at_once(outputs[-1], window[-1], channels, out)
    is_for_ynnpack = (
        len(window) == 2 and max(channels, columns * out) > 16 and math.prod(window) > 1
    )
    has_row_more = is_for_ynnpack and outputs[0] == x.shape[1]
    if has_row_more:
        padding = ((padding[0][0], padding[0][1] + 1), *padding[1:])
    wide = product.widened(kernel, columns).reshape(
        *window[:-1], window[-1] + columns - 1, channels, columns * out
    )
    y = canonical(x, wide, stride=(*stride[:-1], columns), padding=padding, **options)
    y = y[:, :-1] if has_row_more else y
    return y.reshape(x.shape[0], *outputs, out)


def _over_depths(x, kernel, stride, padding, dilation, spread):
    at_depth = {
        "stride": stride[0],
        "padding": padding[0],
        "dilation": dilation[0],
        "spread": spread[0],
    }
    within = {
        "stride": stride[1:],
        "padding": padding[1:],
        "dilation": dilation[1:],
        "spread": spread[1:],
    }
    seen = volumes.pictures(x, kernel.shape[0], **at_depth)
    parts = [
        fast(volumes.merged(x), taps, groups=1, **within)
        for x, taps in zip(seen, kernel, strict=True)
    ]
    return reduce(operator.add, parts).reshape(*seen[0].shape[:2], *parts[0].shape[1:])


def is_plain(
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    spread: tuple[int, ...] | None = None,
) -> bool:
    """Whether a window meets every place, and all channels.

    >>> is_plain((1, 1), (1, 1), 1), is_plain((2, 1), (1, 1), 1)
    (True, False)
    """
    return groups == 1 and set(stride) == set(dilation) == set(spread or (1,)) == {1}


def columns_at_once(outputs: int, window: int, channels: int, out: int) -> int:
    """How many output columns to compute together: as many as keep Eigen's 16 channels.

    >>> columns_at_once(16, 3, 16, 8), columns_at_once(16, 3, 8, 16), columns_at_once(16, 3, 32, 8)
    (2, 1, 1)
    """
    if window == 1 or channels > 16:
        return 1
    return next(
        (columns for columns in (4, 2) if columns * out <= 16 and outputs % columns == 0), 1
    )
