"""AlexNet, in the one-tower form that torchvision has (chapter 2)."""

from flax import nnx

from dlwp_jax.nn.activation_layers import ReLU
from dlwp_jax.nn.adaptive_pool import AdaptiveAvgPool2d
from dlwp_jax.nn.containers import Flatten, Sequential
from dlwp_jax.nn.convolution import Conv2d
from dlwp_jax.nn.dropout import Dropout
from dlwp_jax.nn.linear import Linear
from dlwp_jax.nn.pool import MaxPool2d

__all__ = ["AlexNet"]


class AlexNet(Sequential):
    """`[N 224 224 3] -> logits [N num_classes]`, 61 million parameters;
    torchvision.models.AlexNet.

    The network of Krizhevsky 2014 ("One weird trick ..."), which is that of 2012 on one GPU. A
    named `Sequential` with torchvision's names, so `parity.load_torch` finds the places of its
    weights; the flatten is torch's (C H W), so the first linear layer reads what it reads
    there. Call `model.eval()` before classifying: it has dropout.

    Args:
      num_classes: of ImageNet 1000.
      dropout: the probability of dropping a value before the first two linear layers.
      rngs: draws the weights, and the dropout.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda x: AlexNet(rngs=nnx.Rngs(0))(x), jnp.ones((1, 224, 224, 3))).shape
    (1, 1000)
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rngs: nnx.Rngs):
        super().__init__(
            features=Sequential(
                Conv2d(3, 64, 11, stride=4, padding=2, rngs=rngs),
                ReLU(),
                MaxPool2d(3, stride=2),
                Conv2d(64, 192, 5, padding=2, rngs=rngs),
                ReLU(),
                MaxPool2d(3, stride=2),
                Conv2d(192, 384, 3, padding=1, rngs=rngs),
                ReLU(),
                Conv2d(384, 256, 3, padding=1, rngs=rngs),
                ReLU(),
                Conv2d(256, 256, 3, padding=1, rngs=rngs),
                ReLU(),
                MaxPool2d(3, stride=2),
            ),
            avgpool=AdaptiveAvgPool2d(6),
            flatten=Flatten(),
            classifier=Sequential(
                Dropout(dropout, rngs=rngs),
                Linear(256 * 6 * 6, 4096, rngs=rngs),
                ReLU(),
                Dropout(dropout, rngs=rngs),
                Linear(4096, 4096, rngs=rngs),
                ReLU(),
                Linear(4096, num_classes, rngs=rngs),
            ),
        )
