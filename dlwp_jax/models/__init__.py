"""Whole networks: those of the book, and those of ImageNet that it uses (chapters 2, 8 and 11
to 14, and 9 of the second edition).

They are built of the layers of `dlwp_jax.nn` and are also found there: `nn.UNet` is
`models.UNet`. Arrays are channels last; `parity.load_torch` reads the weights of the book's and
of torchvision's files.
"""

from dlwp_jax.models.alexnet import AlexNet
from dlwp_jax.models.conv_nets import (
    ConvNet,
    NetBatchNorm,
    NetDepth,
    NetDropout,
    NetRes,
    NetResDeep,
    ResBlock,
)
from dlwp_jax.models.luna import LunaModel
from dlwp_jax.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet50,
    resnet101,
)
from dlwp_jax.models.sequences import (
    AttentionMLP,
    Bigram,
    SequenceBlock,
    SequenceMLP,
    SequenceTransformer,
)
from dlwp_jax.models.unet import UNet, UNetWrapper
from dlwp_jax.models.vit import VisionTransformer, vit_b_16
from dlwp_jax.nn.signature import shown as _shown

__all__ = [
    "AlexNet",
    "AttentionMLP",
    "BasicBlock",
    "Bigram",
    "Bottleneck",
    "ConvNet",
    "LunaModel",
    "NetBatchNorm",
    "NetDepth",
    "NetDropout",
    "NetRes",
    "NetResDeep",
    "ResBlock",
    "ResNet",
    "SequenceBlock",
    "SequenceMLP",
    "SequenceTransformer",
    "UNet",
    "UNetWrapper",
    "VisionTransformer",
    "resnet18",
    "resnet50",
    "resnet101",
    "vit_b_16",
]

for _network in list(globals().values()):
    if isinstance(_network, type):
        _shown(_network)
del _network
