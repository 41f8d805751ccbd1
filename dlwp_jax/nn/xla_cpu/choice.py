"""Which form a convolution takes on the CPU."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax

from dlwp_jax.nn.convolution_plain import Geometry


class Choice(NamedTuple):
    """A form, and its details.

    form: "native" is a call of the compiled library, "depths" a sum over the depths of the
      window, "product" a matrix product, "columns" a convolution that computes several columns
      at once, "plain" XLA's operation as it is.
    columns: the number of neighbouring output columns that are computed together.
    merges_examples: whether examples and places may become one axis.
    """

    form: Literal["native", "depths", "product", "columns", "plain"]
    columns: int = 1
    merges_examples: bool = True


def choose(
    x: jax.Array | jax.ShapeDtypeStruct,
    kernel_shape: Sequence[int],
    geometry: Geometry,
    *,
    has_native: bool = False,
) -> Choice:
    """The form of the convolution of `x` `[N *spatial in]`, and of its gradients.

    `has_native` allows the form "native".

    All numbers in it are measured (`scripts/bench layers`, `scripts/bench networks`).

    >>> def of(x, kernel, n=2):
    ...     geometry = Geometry((1,) * n, ((1, 1),) * n, (1,) * n, 1)
    ...     return choose(jax.ShapeDtypeStruct(x, "float32"), kernel, geometry)[:2]
    >>> of((2, 32, 32, 3), (3, 3, 3, 16))
    ('product', 2)
    >>> of((2, 16, 16, 16), (3, 3, 16, 8))
    ('columns', 2)
    >>> of((2, 8, 8, 32), (3, 3, 32, 32))
    ('plain', 1)
    >>> of((2, 4, 4, 4, 1), (3, 3, 3, 1, 8), n=3)
    ('depths', 1)
    """
    if has_native and _is_for_native(x, kernel_shape, geometry):
        return Choice("native")
    *window, channels, out = kernel_shape
    # The layers do not know over which devices their input is split.
    devices = jax.device_count()
    # Sums in 16 bits would be rounded at every depth. Depths count as examples, and devices
    # cannot split examples that do not come out even if each consists of several.
    comes_out_even = x.shape[0] % devices == 0
    is_volume = len(window) == 3 and geometry.groups == 1
    if is_volume and x.dtype.itemsize >= 4 and comes_out_even:
        return Choice("depths")
    if not is_plain(geometry):
        return Choice("plain")
    outputs = output_sizes(x.shape[1:-1], window, geometry.padding)
    columns = 2 - outputs[-1] % 2
    width = math.prod(window[:-1]) * (window[-1] + columns - 1) * channels
    is_window = math.prod(window) > 1
    if is_window and channels < 8 and width <= 4 * columns * out and math.prod(outputs) > 0:
        return Choice("product", columns, merges_examples=devices == 1)
    columns = _columns_of_eigen(outputs[-1], window[-1], channels, out)
    return Choice("columns", columns) if columns > 1 else Choice("plain")


def _is_for_native(x, kernel_shape, geometry):
    # On one core the library takes 0.9 to 1.1 of torch's time in the layers of ResNet-18, and
    # 0.6 to 1.1 in those of the book. One tap without a stride is a product: XLA's strength.
    *window, _, _ = kernel_shape
    lows = [low for low, _ in geometry.padding]
    return (
        x.dtype == "float32"
        and len(window) in (2, 3)
        and (math.prod(window) > 1 or max(geometry.stride) > 1)
        and max(window) <= 7
        and max(geometry.stride) <= 2
        and set(geometry.dilation) == {geometry.groups} == {1}
        and geometry.spread is None
        and min(lows) >= 0
        # A size of an exported program may be a symbol.
        and all(isinstance(size, int) for size in x.shape)
        and 0 < math.prod(x.shape) * math.prod(kernel_shape[-2:]) < 2**60
        and math.prod(x.shape) < 2**31
    )


def is_plain(geometry: Geometry) -> bool:
    """Whether a window meets every place and all channels: no stride, dilation or groups."""
    steps = {*geometry.stride, *geometry.dilation, *(geometry.spread or ())}
    return geometry.groups == 1 and steps == {1}


def output_sizes(
    spatial: Sequence[int], window: Sequence[int], padding: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """The spatial sizes of the output, without stride and dilation.

    >>> output_sizes((5, 6), (3, 3), ((1, 1), (0, 0)))
    (5, 4)
    """
    return tuple(
        size + sum(pair) - k + 1 for size, k, pair in zip(spatial, window, padding, strict=True)
    )


def _columns_of_eigen(outputs: int, window: int, channels: int, out: int) -> int:
    """As many output columns as keep Eigen's 16 channels."""
    if window == 1 or channels > 16:
        return 1
    for columns in (4, 2):
        if columns * out <= 16 and outputs % columns == 0:
            return columns
    return 1
