# ruff: noqa: RUF059, RUF007
"""The book's networks, in our words: chapters 2, 5 to 8, 11 to 14; of the second edition 9 and
10.
"""

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.reference import book_networks, imagenet_networks

TOKENS = np.random.default_rng(4).integers(0, 27, (2, 6))


class ResnetBlock(nn.Module):
    """Chapter 2: a block of the generator that makes zebras of horses."""

    def __init__(self, dim):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            nn.InstanceNorm2d(dim),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            nn.InstanceNorm2d(dim),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """Chapter 2: the generator."""

    def __init__(self, width=4, blocks=2):
        super().__init__()
        layers = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, width, 7),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
        ]
        for i in (1, 2):
            layers += [
                nn.Conv2d(width * i, width * i * 2, 3, stride=2, padding=1),
                nn.InstanceNorm2d(width * i * 2),
                nn.ReLU(True),
            ]
        layers += [ResnetBlock(width * 4) for _ in range(blocks)]
        for i in (4, 2):
            layers += [
                nn.ConvTranspose2d(
                    width * i, width * i // 2, 3, stride=2, padding=1, output_padding=1
                ),
                nn.InstanceNorm2d(width * i // 2),
                nn.ReLU(True),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


class Thermometer(nn.Module):
    """Chapter 5: a line, whose two parameters are its own."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, t_u):
        return self.w * t_u + self.b


def hidden_layer():
    """Chapter 6: one hidden layer, with names."""
    layers = OrderedDict(
        hidden_linear=nn.Linear(1, 8),
        hidden_activation=nn.Tanh(),
        output_linear=nn.Linear(8, 1),
    )
    return nn.Sequential(layers)


class SubclassFunctional(nn.Module):
    """Chapter 6: the same with a function."""

    def __init__(self):
        super().__init__()
        self.hidden_linear, self.output_linear = nn.Linear(1, 14), nn.Linear(14, 1)

    def forward(self, x):
        return self.output_linear(torch.tanh(self.hidden_linear(x)))


def birds():
    """Chapter 7: linear layers over the pixels of a picture."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 2), nn.LogSoftmax(dim=1)
    )


class NetDropout(nn.Module):
    """Chapter 8: whole channels are dropped."""

    def __init__(self, n_chans1=8):
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv1_dropout = nn.Dropout2d(p=0.4)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv2_dropout = nn.Dropout2d(p=0.4)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        out = self.conv1_dropout(out)
        out = F.max_pool2d(torch.tanh(self.conv2(out)), 2)
        out = self.conv2_dropout(out)
        out = out.view(-1, 8 * 8 * self.n_chans1 // 2)
        out = torch.tanh(self.fc1(out))
        return self.fc2(out)


class NetBatchNorm(nn.Module):
    """Chapter 8: batch norm."""

    def __init__(self, n_chans1=8):
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv1_batchnorm = nn.BatchNorm2d(num_features=n_chans1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv2_batchnorm = nn.BatchNorm2d(num_features=n_chans1 // 2)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = self.conv1_batchnorm(self.conv1(x))
        out = F.max_pool2d(torch.tanh(out), 2)
        out = self.conv2_batchnorm(self.conv2(out))
        out = F.max_pool2d(torch.tanh(out), 2)
        out = out.view(-1, 8 * 8 * self.n_chans1 // 2)
        return self.fc2(torch.tanh(self.fc1(out)))


class NetRes(nn.Module):
    """Chapter 8: a skip over the third convolution (NetDepth, with `out + out1`)."""

    def __init__(self, n_chans1=8):
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(n_chans1 // 2, n_chans1 // 2, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(4 * 4 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = F.max_pool2d(torch.relu(self.conv2(out)), 2)
        out1 = out
        out = F.max_pool2d(torch.relu(self.conv3(out)) + out1, 2)
        out = out.view(-1, 4 * 4 * self.n_chans1 // 2)
        out = torch.relu(self.fc1(out))
        return self.fc2(out)


def one_block():
    """Chapter 8: NetResDeep as the listing has it, one block ten times."""
    model = book_networks.NetResDeep(8, 1)
    model.resblocks = nn.Sequential(*(10 * [book_networks.ResBlock(8)]))
    return model


class UpUnet(nn.Module):
    """Chapter 13: a step up; the bridge is cut to the size, as without padding."""

    def __init__(self, in_size, out_size):
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(mode="bilinear", scale_factor=2),
            nn.Conv2d(in_size, out_size, kernel_size=1),
        )
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_size, out_size, 3), nn.ReLU(), nn.BatchNorm2d(out_size)
        )

    def center_crop(self, layer, target_size):
        """The middle of a layer."""
        _, _, layer_height, layer_width = layer.size()
        diff_y = (layer_height - target_size[0]) // 2
        diff_x = (layer_width - target_size[1]) // 2
        return layer[
            :, :, diff_y : (diff_y + target_size[0]), diff_x : (diff_x + target_size[1])
        ]

    def forward(self, x, bridge):
        up = self.up(x)
        crop1 = self.center_crop(bridge, up.shape[2:])
        out = torch.cat([up, crop1], 1)
        return self.conv_block(out)


class ValidUNet(nn.Module):
    """Chapter 13: the U-Net without padding, by upsampling."""

    def __init__(self, in_channels=1, n_classes=2, depth=3, wf=2):
        super().__init__()
        prev = in_channels
        self.down_path = nn.ModuleList()
        for i in range(depth):
            block = nn.Sequential(nn.Conv2d(prev, 2 ** (wf + i), 3), nn.ReLU())
            self.down_path.append(block)
            prev = 2 ** (wf + i)
        self.up_path = nn.ModuleList()
        for i in reversed(range(depth - 1)):
            self.up_path.append(UpUnet(prev, 2 ** (wf + i)))
            prev = 2 ** (wf + i)
        self.last = nn.Conv2d(prev, n_classes, kernel_size=1)

    def forward(self, x):
        blocks = []
        for i, down in enumerate(self.down_path):
            x = down(x)
            if i != len(self.down_path) - 1:
                blocks.append(x)
                x = F.avg_pool2d(x, 2)
        for i, up in enumerate(self.up_path):
            x = up(x, blocks[-i - 1])
        return self.last(x)


class SequenceMLP(nn.Module):
    """Second edition, chapter 9: the tokens so far, as one row."""

    def __init__(self, vocab_size=27, max_sequence_length=6, embedding_dim=3, hidden_dim=8):
        super().__init__()
        self.max_sequence_length = max_sequence_length
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.linear = nn.Linear(max_sequence_length * embedding_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, vocab_size)

    def forward(self, x):
        outputs = []
        for i in range(x.shape[1]):
            seen = F.pad(x[:, : i + 1], (0, self.max_sequence_length - i - 1))
            row = self.embedding(seen).view(x.shape[0], -1)
            outputs.append(self.out(F.relu(self.linear(row))))
        return torch.stack(outputs, dim=1)


class SelfAttention(nn.Module):
    """Second edition, chapter 9: one head."""

    def __init__(self, n_embd, head_size, block_size=11):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))

    def forward(self, x):
        B, T, C = x.shape
        k, q, v = self.key(x), self.query(x), self.value(x)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = F.softmax(wei, dim=-1)
        return wei @ v


class SequenceBlock(nn.Module):
    """Second edition, chapter 9: heads, concatenated, and an MLP; norms behind."""

    def __init__(self, n_embd, heads):
        super().__init__()
        self.heads = nn.ModuleList(
            [SelfAttention(n_embd, n_embd // heads) for _ in range(heads)]
        )
        self.mlp = nn.Sequential(nn.Linear(n_embd, 16), nn.ReLU(), nn.Linear(16, n_embd))
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x):
        x = self.ln1(x + torch.cat([h(x) for h in self.heads], dim=-1))
        return self.ln2(x + self.mlp(x))


class SequenceTransformer(nn.Module):
    """Second edition, chapter 9: the transformer."""

    def __init__(self, n_embd=8, vocab_size=27, block_size=11, num_blocks=3):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[SequenceBlock(n_embd, 2) for _ in range(num_blocks)])
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx):
        B, T = idx.shape
        tok_emb = self.token_embedding(idx)
        pos_emb = self.position_embedding(torch.arange(T, device=idx.device))
        return self.lm_head(self.blocks(tok_emb + pos_emb))


class TimeEmbedding(nn.Module):
    """Second edition, chapter 10: sines and cosines of the step."""

    def __init__(self, dim, scale=1.0):
        super().__init__()
        self.dim, self.scale = dim, scale

    def forward(self, time):
        half_dim = self.dim // 2
        embeddings = math.log(10000) / (half_dim - 1)
        embeddings = torch.exp(torch.arange(half_dim, device=time.device) * -embeddings)
        embeddings = time[:, None] * self.scale * embeddings[None, :]
        return torch.cat((embeddings.sin(), embeddings.cos()), dim=-1)


class Denoiser(nn.Module):
    """Second edition, chapter 10: points, denoised by an MLP that knows the step."""

    def __init__(self, hidden=16, layers=3):
        super().__init__()
        self.time_mlp, self.input_mlp = TimeEmbedding(8), TimeEmbedding(8, 25.0)
        self.first = nn.Linear(24, hidden)
        self.hidden = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(layers)])
        self.last = nn.Linear(hidden, 2)

    def forward(self, x, t):
        parts = (self.input_mlp(x[:, 0]), self.input_mlp(x[:, 1]), self.time_mlp(t))
        x = F.gelu(self.first(torch.cat(parts, dim=-1)))
        for layer in self.hidden:
            x = x + F.gelu(layer(x))
        return self.last(x)


class DiffusionBlock(nn.Module):
    """Second edition, chapter 10: convolutions to which the step is added."""

    def __init__(self, in_ch, out_ch, time_emb_dim, up=False):
        super().__init__()
        self.time_mlp = nn.Linear(time_emb_dim, out_ch)
        if up:
            self.conv1 = nn.Conv2d(2 * in_ch, out_ch, 3, padding=1)
            self.transform = nn.ConvTranspose2d(out_ch, out_ch, 4, 2, 1)
        else:
            self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
            self.transform = nn.Conv2d(out_ch, out_ch, 4, 2, 1)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.bnorm1, self.bnorm2 = nn.BatchNorm2d(out_ch), nn.BatchNorm2d(out_ch)
        self.relu = nn.ReLU()

    def forward(self, x, t):
        h = self.bnorm1(self.relu(self.conv1(x)))
        time_emb = self.relu(self.time_mlp(t))
        time_emb = time_emb[(...,) + (None,) * 2]
        h = h + time_emb
        h = self.bnorm2(self.relu(self.conv2(h)))
        return self.transform(h)


class DiffusionUNet(nn.Module):
    """Second edition, chapter 10: the U-Net of the steps."""

    def __init__(self, image_channels=1, channels=(4, 6, 8), time_emb_dim=8):
        super().__init__()
        self.time_mlp = nn.Sequential(
            TimeEmbedding(time_emb_dim), nn.Linear(time_emb_dim, time_emb_dim), nn.ReLU()
        )
        self.conv0 = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.downs = nn.ModuleList([DiffusionBlock(a, b, time_emb_dim) for a, b in pairs])
        self.ups = nn.ModuleList(
            [DiffusionBlock(b, a, time_emb_dim, up=True) for a, b in pairs[::-1]]
        )
        self.output = nn.Conv2d(channels[0], image_channels, 1)

    def forward(self, x, timestep):
        t = self.time_mlp(timestep)
        x = self.conv0(x)
        residual_inputs = []
        for down in self.downs:
            x = down(x, t)
            residual_inputs.append(x)
        for up in self.ups:
            residual_x = residual_inputs.pop()
            x = torch.cat((x, residual_x), dim=1)
            x = up(x, t)
        return self.output(x)


def modulate(x, shift, scale):
    """Shift and scale of an adaptive norm."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class DiTBlock(nn.Module):
    """Second edition, chapter 10: a block of the diffusion transformer."""

    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(2 * hidden_size, hidden_size),
        )
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size, bias=True)
        )

    def forward(self, x, c):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(
            6, 1
        )
        h = modulate(self.norm1(x), shift_a, scale_a)
        x = x + gate_a.unsqueeze(1) * self.attn(h, h, h)[0]
        return x + gate_m.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class DiT(nn.Module):
    """Second edition, chapter 10: the diffusion transformer."""

    def __init__(self, channels=1, patch=2, size=8, width=8, depth=2):
        super().__init__()
        self.patch, self.channels = patch, channels
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.time = nn.Sequential(TimeEmbedding(width), nn.Linear(width, width))
        self.labels = nn.Embedding(11, width)
        self.blocks = nn.ModuleList([DiTBlock(width, 2) for _ in range(depth)])
        self.final = nn.Linear(width, patch * patch * channels)

    def unpatchify(self, x):
        """Rows of patches to an image."""
        c, p = self.channels, self.patch
        h = w = int(x.shape[1] ** 0.5)
        x = x.reshape(shape=(x.shape[0], h, w, p, p, c))
        x = torch.einsum("nhwpqc->nchpwq", x)
        return x.reshape(shape=(x.shape[0], c, h * p, h * p))

    def forward(self, x, t, y):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        c = self.time(t) + self.labels(y)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final(x))


STEPS = np.array([3.0, 17.0], np.float32)
MODELS = {
    "ResNetGenerator": (ResNetGenerator, ((2, 3, 12, 12),)),
    "AlexNet": (lambda: imagenet_networks.AlexNet(10), ((2, 3, 64, 64),)),
    "Thermometer": (Thermometer, ((11, 1),)),
    "hidden_layer": (hidden_layer, ((5, 1),)),
    "SubclassFunctional": (SubclassFunctional, ((5, 1),)),
    "birds": (birds, ((2, 3, 8, 8),)),
    "ConvNet": (lambda: book_networks.ConvNet(16), ((2, 3, 32, 32),)),
    "NetDropout": (NetDropout, ((2, 3, 32, 32),)),
    "NetBatchNorm": (NetBatchNorm, ((2, 3, 32, 32),)),
    "NetRes": (NetRes, ((2, 3, 32, 32),)),
    "NetResDeep": (lambda: book_networks.NetResDeep(8, 10), ((2, 3, 32, 32),)),
    "NetResDeep, one block": (one_block, ((2, 3, 32, 32),)),
    "LunaModel": (lambda: book_networks.LunaModel(4), ((2, 1, 32, 48, 48),)),
    "UNetWrapper": (lambda: book_networks.UNetWrapper(7, 3, 2), ((2, 7, 16, 16),)),
    "ValidUNet": (ValidUNet, ((2, 1, 36, 36),)),
    "SequenceMLP": (SequenceMLP, (TOKENS,)),
    "SequenceTransformer": (SequenceTransformer, (TOKENS,)),
    "Denoiser": (Denoiser, ((2, 2), STEPS)),
    "DiffusionUNet": (DiffusionUNet, ((2, 1, 8, 8), STEPS)),
    "DiT": (DiT, ((2, 1, 8, 8), STEPS, np.array([1, 7]))),
}
