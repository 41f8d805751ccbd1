"""Windows of images as rows, and rows added up to images: torch's Unfold and Fold."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from dlwp_jax.nn import windows
from dlwp_jax.nn.shapes import (
    Sizes,
    check_input,
    floating,
    over_batch,
    positive_tuple,
    to_tuple,
)

__all__ = ["Fold", "Unfold", "fold", "unfold"]


def unfold(
    x: jax.Array, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> jax.Array:
    """Every window of an image as a row; torch.nn.functional.unfold.

    Args:
      x: `[N H W C]`, or `[H W C]` for one image.
      kernel_size: the window, an int or (height, width), as the other sizes.
      dilation: the distance between the places of a window.
      padding: zeros on both sides.
      stride: from window to window.

    Returns:
      `[N windows C * kernel]`, torch's array with its last two axes exchanged: the windows row
      by row, and in each of them channel by channel.

    Raises:
      RuntimeError: if no window fits.

    >>> unfold(jnp.arange(6.0).reshape(1, 2, 3, 1), 2)[0].tolist()
    [[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]
    """
    check_input(x, 2, "unfold")
    kernel, dilated = positive_tuple(kernel_size, 2, "kernel_size"), _dilation(dilation)
    padding, strides = to_tuple(padding, 2, "padding"), positive_tuple(stride, 2, "stride")

    def batched(x):
        x = jnp.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
        sizes = zip(x.shape[1:3], kernel, strides, dilated, strict=True)
        counts = [windows.count(*size) for size in sizes]
        if min(counts) < 1:
            raise RuntimeError(
                f"unfold: a window of {kernel} does not fit into {x.shape[1:3]} (padding "
                "included)."
            )
        places = [
            place
            for rows in windows.places(x, 1, kernel[0], strides[0], dilated[0])
            for place in windows.places(rows, 2, kernel[1], strides[1], dilated[1])
        ]
        stacked = jnp.stack(places, -1)
        return stacked.reshape(len(x), math.prod(counts), -1)

    return over_batch(batched, x, 2)


def _dilation(dilation: Sizes) -> tuple[int, ...]:
    return positive_tuple(dilation, 2, "dilation")


def fold(
    x: jax.Array,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> jax.Array:
    """Add rows up to an image, each at the place of its window; torch.nn.functional.fold.

    It is the transpose of `unfold`: where windows overlap, their values are summed.

    Args:
      x: `[N windows C * kernel]`, or without N, as `unfold` gives it.
      output_size: (height, width) of the image.
      kernel_size, dilation, padding, stride: as for `unfold`.

    Returns:
      `[N H W C]`.

    Raises:
      RuntimeError: if the windows or the channels do not fit.

    >>> fold(jnp.ones((1, 2, 4)), (2, 3), 2)[0, :, :, 0].tolist()
    [[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]
    """
    height, width = positive_tuple(output_size, 2, "output_size")
    places = math.prod(positive_tuple(kernel_size, 2, "kernel_size"))
    if x.ndim not in (2, 3) or x.shape[-1] % places:
        raise RuntimeError(
            f"fold takes [N windows C * {places}], or the same without N; the input has shape "
            f"{x.shape}."
        )
    x = floating(x)  # sums of whole numbers may not fit into their dtype
    image = jax.ShapeDtypeStruct((*x.shape[:-2], height, width, x.shape[-1] // places), x.dtype)

    def windows_of(image):
        return unfold(image, kernel_size, dilation, padding, stride)

    wanted = jax.eval_shape(windows_of, image).shape
    if wanted != x.shape:
        raise RuntimeError(
            f"fold: an image of {height} x {width} has windows {wanted}; the input has shape "
            f"{x.shape}."
        )
    return jax.linear_transpose(windows_of, image)(x)[0]


class Unfold(nnx.Module):
    """`unfold` as a layer; torch.nn.Unfold.

    >>> Unfold(2)(jnp.ones((2, 4, 4, 3))).shape
    (2, 9, 12)
    """

    def __init__(
        self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
    ):
        self.kernel_size: tuple[int, ...] = positive_tuple(kernel_size, 2, "kernel_size")
        self.dilation: tuple[int, ...] = _dilation(dilation)
        self.padding: tuple[int, ...] = to_tuple(padding, 2, "padding")
        self.stride: tuple[int, ...] = positive_tuple(stride, 2, "stride")

    def __call__(self, x: jax.Array) -> jax.Array:  # [N H W C] -> [N windows C * kernel]
        """`unfold` of `x`."""
        return unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Unfold):
    """`fold` as a layer; torch.nn.Fold.

    >>> Fold((4, 4), 2)(jnp.ones((2, 9, 12))).shape
    (2, 4, 4, 3)
    """

    def __init__(
        self,
        output_size: Sizes,
        kernel_size: Sizes,
        dilation: Sizes = 1,
        padding: Sizes = 0,
        stride: Sizes = 1,
    ):
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size: tuple[int, ...] = positive_tuple(output_size, 2, "output_size")

    def __call__(self, x: jax.Array) -> jax.Array:  # [N windows C * kernel] -> [N H W C]
        """`fold` of `x`."""
        sizes = self.kernel_size, self.dilation, self.padding, self.stride
        return fold(x, self.output_size, *sizes)
