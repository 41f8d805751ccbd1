"""ResNet and AlexNet in torch, written from the papers under the names of torchvision's
state_dicts.

Kept to torch's own layers, because torchvision cannot be installed beside the torch of the
tests.
"""

import torch
from torch import nn


def convolution(before, channels, window, stride=1):
    return nn.Conv2d(before, channels, window, stride, padding=window // 2, bias=False)


class Residual(nn.Module):
    """`windows` convolutions, each with its batch norm, beside a shortcut; the stride is at the
    first 3x3 one.
    """

    def __init__(self, widths, windows, stride):
        super().__init__()
        before, *after = widths
        stage = stride
        for i, (channels, window) in enumerate(zip(after, windows, strict=True), 1):
            step, stage = (stage, 1) if window == 3 else (1, stage)
            self.add_module(f"conv{i}", convolution(before, channels, window, step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
            before = channels
        self.steps = len(windows)
        if stride > 1 or widths[0] != before:
            self.downsample = nn.Sequential(
                convolution(widths[0], before, 1, stride), nn.BatchNorm2d(before)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.steps + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            if i < self.steps:
                y = y.relu()
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    """`depths` blocks in four stages; with `bottleneck`, of three convolutions each and four
    times as wide.
    """

    def __init__(self, depths, *, bottleneck, num_classes=1000):
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 64, 7, 2), nn.BatchNorm2d(64)
        before = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            wide = [width, width, 4 * width] if bottleneck else [width, width]
            blocks = []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(
                    Residual([before, *wide], (1, 3, 1) if bottleneck else (3, 3), stride)
                )
                before = wide[-1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class AlexNet(nn.Module):
    """The one tower of Krizhevsky 2014."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.features = nn.Sequential()
        before, place = 3, 0
        #        channels, window, stride, padding, pooled
        for channels, window, stride, padding, pooled in (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):
            layers = [nn.Conv2d(before, channels, window, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if pooled else []
            for layer in layers:
                self.features.add_module(str(place), layer)
                place += 1
            before = channels
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        hidden = [
            nn.Dropout(),
            nn.Linear(9216, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
        ]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, num_classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


MAKE = {
    "resnet18": lambda **options: ResNet((2, 2, 2, 2), bottleneck=False, **options),
    "resnet50": lambda **options: ResNet((3, 4, 6, 3), bottleneck=True, **options),
    "resnet101": lambda **options: ResNet((3, 4, 23, 3), bottleneck=True, **options),
    "alexnet": AlexNet,
    # As small as a residual network gets that has each kind of shortcut: for gradients.
    "basic": lambda **options: ResNet((1, 1, 1, 1), bottleneck=False, **options),
    "bottleneck": lambda **options: ResNet((2, 1, 1, 1), bottleneck=True, **options),
}


def make(name, *, seed=0, **options):
    """A network with random weights and, so that they count, random running statistics."""
    torch.manual_seed(seed)
    network = MAKE[name](**options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.3, 1)
            layer.bias.data.normal_(0, 0.1)
    return network.eval()
