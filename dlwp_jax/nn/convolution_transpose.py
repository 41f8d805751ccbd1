"""Transposed convolution layers over one, two or three spatial axes, channels last."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dlwp_jax.nn import init
from dlwp_jax.nn.convolution import ConvolutionLayer, check_floating
from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.shapes import Sizes, check_input, over_batch, positive_tuple, to_tuple
from dlwp_jax.nn.xla_cpu import convolve_transpose

__all__ = [
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "conv_transpose",
]


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> jax.Array:
    """The transpose of `conv` as a linear map; torch.nn.functional.conv_transpose1d, 2d and 3d.

    `y[n, stride * p + dilation * k - padding, o] += x[n, p, c] * kernel[k, o, c]`, summed over
    p, k and c.

    Args:
      x: `[N *spatial in]`, or `[*spatial in]` for one example.
      kernel: `[*window out/groups in]`, which is Flax's layout with `transpose_kernel=True`.
      bias: `[out]` or None.
      stride, dilation: an int, or one per spatial axis.
      padding: how much to cut from both sides of the result.
      output_padding: how much to add to its end, less than stride or dilation.
      groups: channels are split into this many groups that do not see each other.

    Returns:
      `[N *spatial' out]`, `spatial' = (spatial - 1) stride - 2 padding + dilation (window - 1)
      + output_padding + 1`.

    Raises:
      RuntimeError: if ranks, channels or sizes do not fit.

    >>> conv_transpose(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 8, 3)), stride=2).shape
    (1, 8, 8, 8)
    """
    n = kernel.ndim - 2
    owner = f"conv_transpose over {n} axes"
    check_input(x, n, owner, kernel.shape[-1])
    check_floating(x, owner)
    stride = positive_tuple(stride, n, "stride")
    dilation = positive_tuple(dilation, n, "dilation")
    padding = to_tuple(padding, n, "padding")
    extra = to_tuple(output_padding, n, "output_padding")
    if any(e < 0 or e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise RuntimeError(
            f"output_padding={extra} must be at least 0 and less than stride={stride} or "
            f"dilation={dilation}."
        )
    spatial = tuple(
        (size - 1) * s - 2 * p + d * (k - 1) + e + 1
        for size, s, p, d, k, e in zip(
            x.shape[-n - 1 : -1], stride, padding, dilation, kernel.shape, extra, strict=False
        )
    )
    if min(spatial) < 1:
        raise RuntimeError(
            f"{owner}: padding={padding} leaves nothing of the output, whose size would be "
            f"{spatial}."
        )
    # The convolution that maps the places of the output back to those of the input has less
    # padding at the added end.
    pairs = tuple((p, p - e) for p, e in zip(padding, extra, strict=True))
    geometry = Geometry(stride, pairs, dilation, groups)
    y = over_batch(lambda x: convolve_transpose(x, kernel, geometry, spatial), x, n)
    return y if bias is None else y + bias


class ConvTranspose(ConvolutionLayer):
    """Transposed convolution over as many axes as `kernel_size` has entries;
    torch.nn.ConvTranspose1d to 3d.

    The function is `conv_transpose`. The subclasses with a number also take `kernel_size` as
    one int. Only zeros as padding, as in torch.

    Args:
      in_channels, out_channels: sizes of the last axis of input and output.
      kernel_size: the window, one int per spatial axis.
      stride, padding, output_padding, groups, dilation: as in `conv_transpose`.
      bias: whether to add a bias.
      rngs: its `params` stream draws kernel and bias.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      kernel_init, bias_init: initialisers; None takes torch's U(-1/sqrt(f), 1/sqrt(f)), f =
        window * out / groups.

    Parameters: `kernel [*kernel_size, out_channels / groups, in_channels]`, `bias
    [out_channels]`.

    Raises:
      ValueError: if `groups` does not divide both channel counts.

    >>> layer = ConvTranspose(3, 16, (2, 2), stride=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 8, 8, 3))).shape
    (2, 16, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: init.Initializer | None = None,
        bias_init: init.Initializer | None = None,
    ):
        n = self._set_options(
            in_channels, out_channels, kernel_size, stride, dilation, groups, dtype
        )
        self.padding: tuple[int, ...] = to_tuple(padding, n, "padding")
        self.output_padding: tuple[int, ...] = to_tuple(output_padding, n, "output_padding")
        channels = (out_channels // groups, in_channels)
        self._make_parameters(channels, bias, rngs, param_dtype, kernel_init, bias_init)

    def __call__(self, x: jax.Array, output_size: tuple[int, ...] | None = None) -> jax.Array:
        """`[N *spatial in_channels] -> [N *spatial' out_channels]`; `output_size` (spatial)
        overrides `output_padding`.
        """
        x, kernel, bias = self._operands(x)
        spatial = x.shape[-len(self.kernel_size) - 1 : -1]
        extra = self.output_padding
        if output_size is not None:
            extra = self._padding_for(output_size, spatial)
        return conv_transpose(
            x, kernel, bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _padding_for(self, output_size, spatial):
        wanted = to_tuple(output_size, len(spatial), "output_size")
        smallest = tuple(
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(
                spatial, self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        )
        largest = tuple(size + s - 1 for size, s in zip(smallest, self.stride, strict=True))
        if any(not a <= w <= b for a, w, b in zip(smallest, wanted, largest, strict=True)):
            raise ValueError(
                f"output_size={wanted} must lie between {smallest} and {largest} for an input "
                f"of {spatial}."
            )
        return tuple(w - a for w, a in zip(wanted, smallest, strict=True))


class ConvTranspose1d(ConvTranspose):
    """`ConvTranspose` over `[N L C]`; torch.nn.ConvTranspose1d.

    >>> layer = ConvTranspose1d(4, 8, 3, rngs=nnx.Rngs(0))
    >>> jax.eval_shape(layer, jnp.ones((2, 10, 4))).shape
    (2, 12, 8)
    """

    _spatial_axes = 1


class ConvTranspose2d(ConvTranspose):
    """`ConvTranspose` over `[N H W C]`; torch.nn.ConvTranspose2d.

    >>> layer = ConvTranspose2d(3, 8, 2, stride=2, rngs=nnx.Rngs(0))
    >>> jax.eval_shape(layer, jnp.ones((2, 4, 4, 3))).shape
    (2, 8, 8, 8)
    """

    _spatial_axes = 2


class ConvTranspose3d(ConvTranspose):
    """`ConvTranspose` over `[N D H W C]`; torch.nn.ConvTranspose3d.

    >>> layer = ConvTranspose3d(1, 8, 2, stride=2, rngs=nnx.Rngs(0))
    >>> jax.eval_shape(layer, jnp.ones((2, 2, 2, 2, 1))).shape
    (2, 4, 4, 4, 8)
    """

    _spatial_axes = 3
