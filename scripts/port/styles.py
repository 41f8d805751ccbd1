"""Small models in the styles that people write."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

TOKENS = np.random.default_rng(1).integers(0, 11, (2, 6))


class FunctionalNet(nn.Module):
    """Functions in the forward; dropout by self.training."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.fc1, self.fc2 = nn.Linear(400, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2), inplace=True)
        x = x.view(x.size(0), -1)
        x = F.dropout(F.relu(self.fc1(x)), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class SelfAttention(nn.Module):
    """Attention by einsum."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).unbind(2)
        attention = torch.einsum("nqhd,nkhd->nhqk", q, k) * self.scale
        y = torch.einsum("nhqk,nkhd->nqhd", attention.softmax(-1), v)
        return self.proj(y.reshape(n, t, d))


class EncoderBlock(nn.Module):
    """A block before whose parts stands a norm."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenEncoder(nn.Module):
    """A loop over a ModuleList; learned places."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.tokens = nn.Embedding(11, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList([EncoderBlock(width, 2) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return {"states": self.norm(x), "pooled": self.norm(x).mean(dim=1)}


class CausalModel(nn.Module):
    """A mask in a buffer; the head shares the weight of the embedding."""

    def __init__(self, width=8):
        super().__init__()
        self.embed, self.qkv = nn.Embedding(11, width), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embed.weight
        mask = torch.tril(torch.ones(16, 16)).bool()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        _, t, d = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d)
        scores = scores.masked_fill(~self.mask[:t, :t], float("-inf"))
        return self.head(x + scores.softmax(dim=-1) @ v)


class DenseLists(nn.Module):
    """A list of results, concatenated."""

    def __init__(self, depth=4, width=5):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])

    def forward(self, x):
        found = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + norm(torch.relu(layer(x)))
            found.append(x)
        return torch.cat(found, dim=1)


class SqueezeExcite(nn.Module):
    """Gates of channels, and a scale of its own."""

    def __init__(self, channels=6):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 3), nn.Linear(3, channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.3))

    def forward(self, x):
        n, c, _, _ = x.size()
        gate = self.up(F.relu(self.down(x.mean(dim=(2, 3)))))
        return x * torch.sigmoid(gate).view(n, c, 1, 1) * self.gamma


class Patches(nn.Module):
    """Images to rows of patches and back to a map."""

    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, width, 2, stride=2), SqueezeExcite(width))
        self.mix = nn.Linear(width, width)

    def forward(self, x):
        x = self.embed(x)
        n, c, h, w = x.shape
        rows = self.mix(x.flatten(2).transpose(1, 2))
        return rows.transpose(1, 2).reshape(n, c, h, w) + x


class Auxiliary(nn.Module):
    """Another output in train mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.main, self.aux, self.drop = nn.Linear(6, 3), nn.Linear(6, 3), nn.Dropout(0.2)

    def forward(self, x):
        rows = self.body(x).amax(dim=(-2, -1))
        y = self.main(self.drop(rows))
        return (y, self.aux(rows)) if self.training else y


class HeadsByName(nn.Module):
    """Nested configuration: a ModuleDict, keywords, several outputs."""

    def __init__(self, config=None):
        super().__init__()
        config = config or {"stem": {"width": 6}, "heads": {"kind": 3, "size": 1}}
        width = config["stem"]["width"]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in config["heads"].items()})

    def pool(self, features, keepdim=False):
        """A method that forward calls."""
        return features.mean(dim=[2, 3], keepdim=keepdim)

    def forward(self, x):
        features = torch.tanh(self.stem(x))
        pooled = self.pool(features, keepdim=False)
        outputs = {name: head(input=pooled) for name, head in self.heads.items()}
        return outputs["kind"], outputs["size"], features


def chain():
    """Sequential alone."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
    )


MODELS = {
    "Sequential": (chain, ((2, 1, 6, 6),)),
    "FunctionalNet": (FunctionalNet, ((2, 1, 28, 28),)),
    "TokenEncoder": (TokenEncoder, (TOKENS,)),
    "CausalModel": (CausalModel, (TOKENS,)),
    "DenseLists": (DenseLists, ((3, 5),)),
    "Patches": (Patches, ((2, 3, 8, 6),)),
    "Auxiliary": (Auxiliary, ((3, 3, 8, 8),)),
    "HeadsByName": (HeadsByName, ((2, 3, 6, 6),)),
}
