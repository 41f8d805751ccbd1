"""The initial weights of the book's networks for CTs."""

import math

from flax import nnx

from dlwp_jax.nn import init
from dlwp_jax.nn.convolution import Conv
from dlwp_jax.nn.convolution_transpose import ConvTranspose
from dlwp_jax.nn.linear import Linear


def draw_by_fan_out(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draw the weights of all convolutions and linear layers of a model again, in place.

    Kernels come from He's normal distribution by fan-out. Biases come from a normal
    distribution of mean -b and deviation b, where b is 1 / sqrt(fan_out): the book calls
    `torch.nn.init.normal_(bias, -b, b)`. The fan-out of a transposed convolution is that of
    torch, which counts its input channels.
    """
    he = init.kaiming_normal(mode="fan_out", nonlinearity="relu")
    for _, layer in nnx.iter_modules(model):
        if not isinstance(layer, (Conv, ConvTranspose, Linear)):
            continue
        kernel, bias = layer.kernel[...], layer.bias
        layer.kernel[...] = he(rngs.params(), kernel.shape, kernel.dtype)
        if bias is not None:
            bound = 1 / math.sqrt(init.fans(kernel.shape)[1])
            draw = init.normal(-bound, bound)
            bias[...] = draw(rngs.params(), bias.shape, bias.dtype)
