"""Some of the book's networks in torch, in our words, for what needs a torch module: the
benchmarks, and optimizers that go on from a checkpoint.

tests/test_parity_book.py compares them with the recorded outputs of the book's own code.
"""

import torch
from torch import nn


class ConvNet(nn.Module):
    """Chapter 8: birds_vs_airplanes.pt."""

    def __init__(self, channels=16):
        super().__init__()
        half = channels // 2
        self.conv1, self.conv2 = (
            nn.Conv2d(3, channels, 3, padding=1),
            nn.Conv2d(channels, half, 3, padding=1),
        )
        self.fc1, self.fc2 = nn.Linear(64 * half, 32), nn.Linear(32, 2)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(torch.tanh(conv(x)), 2)
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.constant_(self.batch_norm.weight, 0.5)

    def forward(self, x):
        return torch.relu(self.batch_norm(self.conv(x))) + x


class NetResDeep(nn.Module):
    def __init__(self, channels=32, n_blocks=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.resblocks = nn.Sequential(*(ResBlock(channels) for _ in range(n_blocks)))
        self.fc1, self.fc2 = nn.Linear(64 * channels, 32), nn.Linear(32, 2)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(self.resblocks(x), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class LunaBlock(nn.Module):
    def __init__(self, before, channels):
        super().__init__()
        self.conv1 = nn.Conv3d(before, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x):
        return nn.functional.max_pool3d(torch.relu(self.conv2(torch.relu(self.conv1(x)))), 2)


class LunaModel(nn.Module):
    """Chapter 11: the classifier of nodules."""

    def __init__(self, channels=8):
        super().__init__()
        self.tail_batchnorm = nn.BatchNorm3d(1)
        self.block1, self.block2 = LunaBlock(1, channels), LunaBlock(channels, 2 * channels)
        self.block3, self.block4 = (
            LunaBlock(2 * channels, 4 * channels),
            LunaBlock(4 * channels, 8 * channels),
        )
        self.head_linear = nn.Linear(18 * 8 * channels, 2)

    def forward(self, x):
        x = self.tail_batchnorm(x)
        x = self.block4(self.block3(self.block2(self.block1(x))))
        logits = self.head_linear(x.flatten(1))
        return logits, logits.softmax(dim=1)


class UNetBlock(nn.Module):
    def __init__(self, before, channels):
        super().__init__()
        layers = []
        for width in (before, channels):
            layers.append(nn.Conv2d(width, channels, 3, padding=1))
            layers.append(nn.ReLU())
            layers.append(nn.BatchNorm2d(channels))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return self.block(x)


class UNetUp(nn.Module):
    def __init__(self, before, channels):
        super().__init__()
        self.up = nn.ConvTranspose2d(before, channels, 2, stride=2)
        self.conv_block = UNetBlock(before, channels)

    def forward(self, x, bridge):
        return self.conv_block(torch.cat([self.up(x), bridge], dim=1))


class UNet(nn.Module):
    def __init__(self, slices, depth, wf):
        super().__init__()
        widths = [2 ** (wf + i) for i in range(depth)]
        self.down_path = nn.ModuleList(
            UNetBlock(a, b) for a, b in zip([slices, *widths], widths, strict=False)
        )
        self.up_path = nn.ModuleList(UNetUp(2 * width, width) for width in widths[-2::-1])
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x):
        bridges = []
        for down in self.down_path[:-1]:
            bridges.append(down(x))
            x = nn.functional.avg_pool2d(bridges[-1], 2)
        x = self.down_path[-1](x)
        for up in self.up_path:
            x = up(x, bridges.pop())
        return self.last(x)


class UNetWrapper(nn.Module):
    """Chapter 13: the segmentation of slices."""

    def __init__(self, slices=7, depth=3, wf=4):
        super().__init__()
        self.input_batchnorm = nn.BatchNorm2d(slices)
        self.unet = UNet(slices, depth, wf)

    def forward(self, x):
        return torch.sigmoid(self.unet(self.input_batchnorm(x)))
