"""The models of the table: networks of torchvision, of the book, and in the styles that people
write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import styles
import torch

from tests.reference import book_networks, imagenet_networks


class Case(NamedTuple):
    """A model and its inputs.

    Attributes:
      group: the part of the table.
      make: makes the model.
      inputs: their shapes, or arrays.
    """

    group: str
    make: Callable[[], torch.nn.Module]
    inputs: tuple[Any, ...]


def arrays(case: Case) -> list[np.ndarray]:
    """The inputs of a case."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(x).astype(np.float32) if isinstance(x, tuple) else x
        for x in case.inputs
    ]


def import_torchvision() -> Any:
    """torchvision.models, beside a build of torch that cannot load its compiled operators."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "() -> ()")
    from torchvision import models

    return models


# The smallest member of every family of classifiers, and the edge of its input.
CLASSIFIERS = {
    "alexnet": 64,
    "vgg11_bn": 32,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "squeezenet1_1": 64,
    "densenet121": 64,
    "inception_v3": 75,
    "googlenet": 64,
    "shufflenet_v2_x0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "vit_b_32": 224,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
}
SEGMENTATION = {
    "fcn_resnet50": 64,
    "deeplabv3_mobilenet_v3_large": 64,
    "lraspp_mobilenet_v3_large": 64,
}


def cases() -> dict[str, Case]:
    """All models by name."""
    models = import_torchvision()
    found: dict[str, Case] = {}
    for name, size in CLASSIFIERS.items():
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        found[name] = Case(
            "torchvision, classification",
            lambda name=name, options=options: getattr(models, name)(num_classes=10, **options),
            ((2, 3, size, size),),
        )
    for name, size in SEGMENTATION.items():
        found[name] = Case(
            "torchvision, segmentation",
            lambda name=name: getattr(models.segmentation, name)(
                weights=None, weights_backbone=None, num_classes=4
            ),
            ((2, 3, size, size),),
        )
    book = "the book"
    found["ConvNet"] = Case(book, lambda: book_networks.ConvNet(16), ((2, 3, 32, 32),))
    found["NetResDeep"] = Case(book, lambda: book_networks.NetResDeep(8, 10), ((2, 3, 32, 32),))
    found["LunaModel"] = Case(book, lambda: book_networks.LunaModel(4), ((2, 1, 32, 48, 48),))
    found["UNetWrapper"] = Case(
        book, lambda: book_networks.UNetWrapper(7, 3, 2), ((2, 7, 16, 16),)
    )
    found["AlexNet"] = Case(book, lambda: imagenet_networks.AlexNet(10), ((2, 3, 64, 64),))
    for name, (make, inputs) in styles.MODELS.items():
        found[name] = Case("styles", make, inputs)
    return found
