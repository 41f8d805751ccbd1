"""The models of the table: networks of torchvision, of the book, and in the styles that people
write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import book
import numpy as np
import projects
import stacks
import styles
import torch


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
    for name in ("nms", "qnms") if "torchvision" not in sys.modules else ():
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
    "vit_b_32": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
}


def narrow(models: Any) -> dict[str, Callable[[], torch.nn.Module]]:
    """Members as deep as the smallest ones, but narrower, so that ten copies in float64 need
    little memory.
    """
    from torchvision.models import convnext, swin_transformer

    def with_few_features(model: torch.nn.Module) -> torch.nn.Module:
        layers = [i for i, m in enumerate(model.classifier) if isinstance(m, torch.nn.Linear)]
        sizes = [model.classifier[layers[0]].in_features, 64, 64, 10]
        for i, place in enumerate(layers):
            model.classifier[place] = torch.nn.Linear(sizes[i], sizes[i + 1])
        return model

    widths = [24, 48, 96, 192, None]
    blocks = [
        convnext.CNBlockConfig(*widths[i : i + 2], depth)
        for i, depth in enumerate((3, 3, 9, 3))
    ]
    swin = {"embed_dim": 24, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    swin |= {"patch_size": [4, 4], "stochastic_depth_prob": 0.2, "num_classes": 10}
    second = {
        "block": swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": swin_transformer.PatchMergingV2,
    }
    return {
        "alexnet": lambda: with_few_features(models.alexnet(num_classes=10)),
        "vgg11_bn": lambda: with_few_features(models.vgg11_bn(num_classes=10)),
        "convnext_tiny": lambda: models.ConvNeXt(blocks, 0.1, num_classes=10),
        "vit_b_32": lambda: models.VisionTransformer(64, 32, 12, 12, 96, 384, num_classes=10),
        "swin_t": lambda: models.SwinTransformer(window_size=[7, 7], **swin),
        "swin_v2_t": lambda: models.SwinTransformer(window_size=[8, 8], **swin, **second),
        "maxvit_t": lambda: models.MaxVit(
            input_size=(224, 224),
            stem_channels=16,
            partition_size=7,
            block_channels=[16, 32, 64, 128],
            block_layers=[2, 2, 5, 2],
            head_dim=8,
            stochastic_depth_prob=0.2,
            num_classes=10,
        ),
    }


SEGMENTATION = {
    "fcn_resnet50": 64,
    "deeplabv3_mobilenet_v3_large": 64,
    "lraspp_mobilenet_v3_large": 64,
}
VIDEO = {"r3d_18": (2, 3, 4, 32, 32)}


def of_torchvision() -> dict[str, Case]:
    """The smallest member of every family of torchvision's, on small inputs."""
    models = import_torchvision()
    found: dict[str, Case] = {}
    for name, size in CLASSIFIERS.items():
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        found[name] = Case(
            "torchvision, classification",
            lambda name=name, options=options: getattr(models, name)(num_classes=10, **options),
            ((2, 3, size, size),),
        )
    for name, make in narrow(models).items():
        found[name] = found[name]._replace(make=make)
    # Its auxiliary head, which is there in train mode only, needs images of 299.
    found["inception_v3, one head"] = found["inception_v3"]._replace(
        make=lambda: models.inception_v3(num_classes=10, aux_logits=False, init_weights=False)
    )
    for name, size in SEGMENTATION.items():
        found[name] = Case(
            "torchvision, segmentation",
            lambda name=name: getattr(models.segmentation, name)(
                weights=None, weights_backbone=None, num_classes=4
            ),
            ((2, 3, size, size),),
        )
    for name, make in backbones(models).items():
        size = 268 if "SSD," in name else 64
        found[name] = Case("torchvision, backbones of detection", make, ((2, 3, size, size),))
    for name, shape in VIDEO.items():
        make = getattr(models.video, name)
        found[name] = Case(
            "torchvision, video", lambda make=make: make(num_classes=4), (shape,)
        )
    return found


def backbones(models: Any) -> dict[str, Callable[[], torch.nn.Module]]:
    """The parts of detectors that are networks, without anchors and boxes."""
    from torchvision.models.detection import ssd, ssdlite
    from torchvision.models.detection.backbone_utils import (
        mobilenet_backbone,
        resnet_fpn_backbone,
    )

    fpn = {"weights": None, "trainable_layers": 5}
    return {
        "resnet18, FPN": lambda: resnet_fpn_backbone(backbone_name="resnet18", **fpn),
        "mobilenet_v3_small, FPN": lambda: mobilenet_backbone(
            backbone_name="mobilenet_v3_small", fpn=True, weights=None, trainable_layers=6
        ),
        "SSD, vgg16": lambda: ssd._vgg_extractor(models.vgg16(), False, 5),
        "SSDLite, mobilenet_v3_large": lambda: ssdlite._mobilenet_extractor(
            models.mobilenet_v3_large(reduced_tail=True), 6, torch.nn.BatchNorm2d
        ),
    }


def cases() -> dict[str, Case]:
    """All models by name."""
    found = of_torchvision()
    groups = {
        "the book": book.MODELS,
        "stacks": stacks.MODELS,
        "styles": styles.MODELS,
        "projects": projects.MODELS,
    }
    for group, models in groups.items():
        for name, (make, inputs) in models.items():
            found[name] = Case(group, make, inputs)
    return found
