# ruff: noqa: B007, B905, C408, E741, UP045, RUF007, RUF046, RUF059, RET504
"""Small models as they stand in real projects."""

import math
from typing import Optional

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

TOKENS = np.random.default_rng(2).integers(0, 17, (2, 6))


class DoubleConv(nn.Module):
    """Conv, norm, activation, twice."""

    def __init__(self, in_channels, out_channels, mid_channels=None):
        super().__init__()
        if not mid_channels:
            mid_channels = out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.double_conv(x)


class Up(nn.Module):
    """Upsampling, padding to the skip's size, concatenation."""

    def __init__(self, in_channels, out_channels, bilinear=True):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, in_channels // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x1, x2):
        x1 = self.up(x1)
        diffY = x2.size()[2] - x1.size()[2]
        diffX = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [diffX // 2, diffX - diffX // 2, diffY // 2, diffY - diffY // 2])
        x = torch.cat([x2, x1], dim=1)
        return self.conv(x)


class SmallUNet(nn.Module):
    """The U-Net of many segmentation projects."""

    def __init__(self, n_channels=3, n_classes=2, bilinear=True, width=4):
        super().__init__()
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(n_channels, width)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(width, 2 * width))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(2 * width, 4 * width // factor))
        self.up1 = Up(4 * width, 2 * width // factor, bilinear)
        self.up2 = Up(2 * width, width, bilinear)
        self.outc = nn.Conv2d(width, n_classes, kernel_size=1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up1(x3, x2)
        x = self.up2(x, x1)
        logits = self.outc(x)
        return logits


class GPTConfig:
    """Options of MiniGPT."""

    block_size = 8
    vocab_size = 17
    n_layer = 2
    n_head = 2
    n_embd = 8
    dropout = 0.1
    bias = False


class LayerNorm(nn.Module):
    """A LayerNorm whose bias is an option."""

    def __init__(self, ndim, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ndim))
        self.bias = nn.Parameter(torch.zeros(ndim)) if bias else None

    def forward(self, input):
        return F.layer_norm(input, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    """Heads by view and transpose, the mask from a buffer."""

    def __init__(self, config):
        super().__init__()
        assert config.n_embd % config.n_head == 0
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attn_dropout = nn.Dropout(config.dropout)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head = config.n_head
        self.n_embd = config.n_embd
        self.register_buffer(
            "bias",
            torch.tril(torch.ones(config.block_size, config.block_size)).view(
                1, 1, config.block_size, config.block_size
            ),
        )

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        att = self.attn_dropout(att)
        y = att @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class GPTBlock(nn.Module):
    """Attention and an MLP."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = nn.ModuleDict(
            dict(
                c_fc=nn.Linear(config.n_embd, 4 * config.n_embd),
                act=nn.GELU(approximate="tanh"),
                c_proj=nn.Linear(4 * config.n_embd, config.n_embd),
                dropout=nn.Dropout(config.dropout),
            )
        )
        m = self.mlp
        self.mlpf = lambda x: m.dropout(m.c_proj(m.act(m.c_fc(x))))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlpf(self.ln_2(x))
        return x


class MiniGPT(nn.Module):
    """nanoGPT in small: a ModuleDict, tied weights, arange on the tokens' device."""

    def __init__(self, config=GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                drop=nn.Dropout(config.dropout),
                h=nn.ModuleList([GPTBlock(config) for _ in range(config.n_layer)]),
                ln_f=LayerNorm(config.n_embd, bias=config.bias),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        device = idx.device
        b, t = idx.size()
        assert t <= self.config.block_size, f"sequence of length {t} is too long"
        pos = torch.arange(0, t, dtype=torch.long, device=device)
        tok_emb = self.transformer.wte(idx)
        pos_emb = self.transformer.wpe(pos)
        x = self.transformer.drop(tok_emb + pos_emb)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        logits = self.lm_head(x)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(
                logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1
            )
        return logits if loss is None else (logits, loss)


class LSTMClassifier(nn.Module):
    """The last hidden states of both directions."""

    def __init__(self, vocab_size=17, embedding_dim=6, hidden_dim=5, n_layers=2, n_classes=3):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(
            embedding_dim,
            hidden_dim,
            num_layers=n_layers,
            bidirectional=True,
            dropout=0.3,
            batch_first=True,
        )
        self.fc = nn.Linear(hidden_dim * 2, n_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, text):
        embedded = self.dropout(self.embedding(text))
        output, (hidden, cell) = self.lstm(embedded)
        hidden = self.dropout(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))
        return self.fc(hidden)


class PackedClassifier(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self, vocab_size=17, width=5):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.fc = nn.Linear(width, 2)

    def forward(self, text, lengths):
        packed = pack_padded_sequence(
            self.embedding(text), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        output, hidden = self.gru(packed)
        output, _ = pad_packed_sequence(output, batch_first=True)
        return self.fc(hidden[-1]), output


class VAE(nn.Module):
    """Mean and log variance; noise in train mode only."""

    def __init__(self, latent_dim=4):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 8, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.fc_mu = nn.Linear(8 * 4 * 4, latent_dim)
        self.fc_var = nn.Linear(8 * 4 * 4, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 8 * 4 * 4)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def reparameterize(self, mu, logvar):
        """A draw around the mean."""
        if not self.training:
            return mu
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return eps * std + mu

    def decode(self, z):
        """An image from a point."""
        return self.decoder(self.decoder_input(z).view(-1, 8, 4, 4))

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


class SEBlock(nn.Module):
    """Squeeze and excite by 1x1 convolutions."""

    def __init__(self, channels, reduction=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, add if the shapes allow."""

    def __init__(self, inp, oup, stride, expand_ratio=2):
        super().__init__()
        hidden_dim = int(round(inp * expand_ratio))
        self.use_res_connect = stride == 1 and inp == oup
        layers = []
        if expand_ratio != 1:
            layers += [
                nn.Conv2d(inp, hidden_dim, 1, 1, 0, bias=False),
                nn.BatchNorm2d(hidden_dim),
                nn.Hardswish(),
            ]
        layers.extend(
            [
                nn.Conv2d(hidden_dim, hidden_dim, 3, stride, 1, groups=hidden_dim, bias=False),
                nn.BatchNorm2d(hidden_dim),
                SEBlock(hidden_dim),
                nn.Hardswish(),
                nn.Conv2d(hidden_dim, oup, 1, 1, 0, bias=False),
                nn.BatchNorm2d(oup),
            ]
        )
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNet(nn.Module):
    """Depthwise-separable blocks from a table; initialised by hand."""

    def __init__(self, num_classes=4):
        super().__init__()
        settings = [[1, 4, 1, 1], [2, 8, 2, 2]]
        features = [nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4))]
        channels = 4
        for t, c, n, s in settings:
            for i in range(n):
                features.append(InvertedResidual(channels, c, s if i == 0 else 1, t))
                channels = c
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")

    def forward(self, x):
        x = self.features(x)
        x = x.mean([2, 3])
        return self.classifier(x)


class Siamese(nn.Module):
    """Two inputs through one network; the distance of their embeddings."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2, stride=2)
        )
        self.fc = nn.Sequential(nn.Linear(4 * 3 * 3, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        self.out = nn.Linear(4, 1)

    def forward_once(self, x):
        """The embedding of one image."""
        output = self.cnn(x)
        output = output.view(output.size()[0], -1)
        return F.normalize(self.fc(output), p=2, dim=1)

    def forward(self, input1, input2):
        output1 = self.forward_once(input1)
        output2 = self.forward_once(input2)
        score = torch.sigmoid(self.out(torch.abs(output1 - output2)))
        return output1, output2, score.squeeze(1), F.cosine_similarity(output1, output2)


class DropPath(nn.Module):
    """timm's."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True):
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        random_tensor = x.new_empty(shape).bernoulli_(keep_prob)
        if keep_prob > 0.0 and self.scale_by_keep:
            random_tensor.div_(keep_prob)
        return x * random_tensor


class Mlp(nn.Module):
    """timm's."""

    def __init__(self, in_features, hidden_features=None, act_layer=nn.GELU, drop=0.0):
        super().__init__()
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop(x)
        x = self.fc2(x)
        x = self.drop(x)
        return x


class TimmAttention(nn.Module):
    """timm's, by scaled_dot_product_attention."""

    def __init__(self, dim, num_heads=2, qkv_bias=True, attn_drop=0.1):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0
        )
        x = x.transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class LayerScale(nn.Module):
    """timm's."""

    def __init__(self, dim, init_values=1e-5, inplace=False):
        super().__init__()
        self.inplace = inplace
        self.gamma = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x):
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class TimmBlock(nn.Module):
    """timm's."""

    def __init__(self, dim, num_heads, drop_path=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = TimmAttention(dim, num_heads)
        self.ls1 = LayerScale(dim, init_values=0.1)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 2 * dim)
        self.ls2 = LayerScale(dim, init_values=0.1)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x):
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


class TimmViT(nn.Module):
    """A class token, positions, drop path that grows with depth."""

    def __init__(self, dim=8, depth=3, num_classes=4, drop_path_rate=0.2):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, dim) * 0.02)
        dpr = [x.item() for x in torch.linspace(0, drop_path_rate, depth)]
        self.blocks = nn.Sequential(
            *[TimmBlock(dim, 2, drop_path=dpr[i]) for i in range(depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes) if num_classes > 0 else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward_features(self, x):
        """The tokens of an image."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.pos_embed
        x = self.blocks(x)
        return self.norm(x)

    def forward(self, x):
        x = self.forward_features(x)
        return self.head(x[:, 0])


class CrossBlock(nn.Module):
    """nn.MultiheadAttention inside a block, with a mask of padding."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width))

    def forward(self, x, memory, key_padding_mask: Optional[torch.Tensor] = None):
        y, _ = self.attn(x, x, x, key_padding_mask=key_padding_mask)
        x = self.norm1(x + y)
        x = x + self.cross(query=x, key=memory, value=memory, need_weights=False)[0]
        return self.norm2(x + self.ff(x))


class RMSNorm(torch.nn.Module):
    """Llama's."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        output = self._norm(x.float()).type_as(x)
        return output * self.weight


def rotate_half(x):
    """The second half of the features, negated, ahead of the first."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(x: torch.Tensor, n_rep: int) -> torch.Tensor:
    """Keys for several queries."""
    bs, slen, n_kv_heads, head_dim = x.shape
    if n_rep == 1:
        return x
    return (
        x[:, :, :, None, :]
        .expand(bs, slen, n_kv_heads, n_rep, head_dim)
        .reshape(bs, slen, n_kv_heads * n_rep, head_dim)
    )


class LlamaLayer(nn.Module):
    """Rotary positions, grouped keys, a gated MLP."""

    def __init__(self, dim, n_heads, n_kv_heads):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.n_rep = n_heads // n_kv_heads
        self.head_dim = dim // n_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, dim, bias=False)
        self.w1 = nn.Linear(dim, 2 * dim, bias=False)
        self.w2 = nn.Linear(2 * dim, dim, bias=False)
        self.w3 = nn.Linear(dim, 2 * dim, bias=False)
        self.attention_norm, self.ffn_norm = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x, cos, sin, mask=None):
        bsz, seqlen, _ = x.shape
        h = self.attention_norm(x)
        xq, xk, xv = self.wq(h), self.wk(h), self.wv(h)
        xq = xq.view(bsz, seqlen, self.n_heads, self.head_dim)
        xk = xk.view(bsz, seqlen, self.n_kv_heads, self.head_dim)
        xv = xv.view(bsz, seqlen, self.n_kv_heads, self.head_dim)
        xq = xq * cos + rotate_half(xq) * sin
        xk = xk * cos + rotate_half(xk) * sin
        keys, values = repeat_kv(xk, self.n_rep), repeat_kv(xv, self.n_rep)
        xq, keys, values = xq.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        scores = torch.matmul(xq, keys.transpose(2, 3)) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores + mask
        scores = F.softmax(scores.float(), dim=-1).type_as(xq)
        output = torch.matmul(scores, values)
        output = output.transpose(1, 2).contiguous().view(bsz, seqlen, -1)
        x = x + self.wo(output)
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class MiniLlama(nn.Module):
    """Rotary angles in buffers, a mask made in forward."""

    def __init__(self, vocab=17, dim=16, n_layers=2, max_len=12):
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocab, dim)
        self.layers = torch.nn.ModuleList()
        for _ in range(n_layers):
            self.layers.append(LlamaLayer(dim, 4, 2))
        self.norm = RMSNorm(dim)
        self.output = nn.Linear(dim, vocab, bias=False)
        head_dim = dim // 4
        freqs = 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))
        angles = torch.outer(torch.arange(max_len).float(), freqs)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos()[None, :, None, :], persistent=False)
        self.register_buffer("sin", angles.sin()[None, :, None, :], persistent=False)

    def forward(self, tokens: torch.Tensor):
        _bsz, seqlen = tokens.shape
        h = self.tok_embeddings(tokens)
        cos, sin = self.cos[:, :seqlen], self.sin[:, :seqlen]
        mask = None
        if seqlen > 1:
            mask = torch.full((seqlen, seqlen), float("-inf"), device=tokens.device)
            mask = torch.triu(mask, diagonal=1)
        for layer in self.layers:
            h = layer(h, cos, sin, mask)
        h = self.norm(h)
        return self.output(h).float()


class TextCNN(nn.Module):
    """Convolutions of several widths over words."""

    def __init__(self, vocab=17, embed_dim=6, num_filters=4, kernel_sizes=(2, 3, 4), classes=3):
        super().__init__()
        self.embedding = nn.Embedding(vocab, embed_dim)
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, num_filters, (k, embed_dim)) for k in kernel_sizes]
        )
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(len(kernel_sizes) * num_filters, classes)

    def conv_and_pool(self, x, conv):
        """The largest value of each filter."""
        x = F.relu(conv(x)).squeeze(3)
        x = F.max_pool1d(x, x.size(2)).squeeze(2)
        return x

    def forward(self, x):
        out = self.embedding(x)
        out = out.unsqueeze(1)
        out = torch.cat([self.conv_and_pool(out, conv) for conv in self.convs], 1)
        out = self.dropout(out)
        return self.fc(out)


class Chomp1d(nn.Module):
    """Cuts the end."""

    def __init__(self, chomp_size):
        super().__init__()
        self.chomp_size = chomp_size

    def forward(self, x):
        return x[:, :, : -self.chomp_size].contiguous()


class TemporalBlock(nn.Module):
    """Dilated causal convolutions and a skip."""

    def __init__(self, n_inputs, n_outputs, kernel_size, dilation, dropout=0.2):
        super().__init__()
        padding = (kernel_size - 1) * dilation
        self.conv1 = nn.Conv1d(
            n_inputs, n_outputs, kernel_size, padding=padding, dilation=dilation
        )
        self.chomp1 = Chomp1d(padding)
        self.relu1 = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout)
        self.net = nn.Sequential(self.conv1, self.chomp1, self.relu1, self.dropout1)
        self.downsample = nn.Conv1d(n_inputs, n_outputs, 1) if n_inputs != n_outputs else None
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.net(x)
        res = x if self.downsample is None else self.downsample(x)
        return self.relu(out + res)


class TCN(nn.Module):
    """A temporal convolutional network."""

    def __init__(self, num_inputs=3, num_channels=(4, 4, 6)):
        super().__init__()
        layers = []
        for i in range(len(num_channels)):
            before = num_inputs if i == 0 else num_channels[i - 1]
            layers += [TemporalBlock(before, num_channels[i], 2, dilation=2**i)]
        self.network = nn.Sequential(*layers)
        self.linear = nn.Linear(num_channels[-1], 2)

    def forward(self, x):
        y = self.network(x)
        return self.linear(y[:, :, -1])


class CRNN(nn.Module):
    """Convolutions, then an LSTM over the width."""

    def __init__(self, classes=5):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(True),
            nn.MaxPool2d((2, 1), (2, 1)),
        )
        self.rnn = nn.LSTM(4 * 4, 6, bidirectional=True)
        self.embedding = nn.Linear(12, classes)

    def forward(self, input):
        conv = self.cnn(input)
        b, c, h, w = conv.size()
        conv = conv.permute(3, 0, 1, 2).reshape(w, b, c * h)
        recurrent, _ = self.rnn(conv)
        T, b, h = recurrent.size()
        t_rec = recurrent.view(T * b, h)
        output = self.embedding(t_rec)
        output = output.view(T, b, -1)
        return F.log_softmax(output, dim=2)


class Generator(nn.Module):
    """DCGAN's."""

    def __init__(self, nz=6, ngf=4, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


class SpatialTransformer(nn.Module):
    """Localises, warps, classifies."""

    def __init__(self):
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=3), nn.MaxPool2d(2, stride=2), nn.ReLU(True)
        )
        self.fc_loc = nn.Sequential(nn.Linear(4 * 3 * 3, 8), nn.ReLU(True), nn.Linear(8, 3 * 2))
        self.fc_loc[2].bias.data.copy_(torch.tensor([0.9, 0.1, 0.05, 0, 0.8, 0.1]))
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 3)

    def stn(self, x):
        """The warped image."""
        xs = self.localization(x)
        xs = xs.view(-1, 4 * 3 * 3)
        theta = self.fc_loc(xs)
        theta = theta.view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def forward(self, x):
        x = self.stn(x)
        x = F.relu(F.max_pool2d(self.conv(x), 2))
        x = F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
        return F.log_softmax(self.fc(x), dim=1)


class PointNet(nn.Module):
    """Shared MLPs over points, the maximum, an input transform."""

    def __init__(self, k=4):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 16, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(8), nn.BatchNorm1d(16)
        self.fc1, self.fc2 = nn.Linear(16, 9), nn.Linear(16, k)

    def forward(self, x):
        batchsize = x.size()[0]
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        h = torch.max(h, 2, keepdim=True)[0].view(-1, 16)
        iden = torch.eye(3).view(1, 9).repeat(batchsize, 1)
        trans = (self.fc1(h) + iden).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), trans).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = torch.max(x, 2)[0]
        return self.fc2(x), trans


class FPN(nn.Module):
    """Top-down paths; a dict of maps in, a list of maps out."""

    def __init__(self, in_channels=(4, 6, 8), out_channels=4):
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Conv2d(before, c, 3, stride=2, padding=1)
                for before, c in zip((3,) + in_channels, in_channels)
            ]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(c, out_channels, 1) for c in in_channels])
        self.output = nn.ModuleList(
            [nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels]
        )

    def forward(self, x):
        feats = []
        for stage in self.stages:
            x = F.relu(stage(x))
            feats.append(x)
        laterals = [conv(f) for conv, f in zip(self.lateral, feats)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(
                laterals[i], size=laterals[i - 1].shape[-2:], mode="nearest"
            )
        return [conv(f) for conv, f in zip(self.output, laterals)]


class YoloHead(nn.Module):
    """Anchors, a grid, sigmoids of slices."""

    def __init__(self, num_anchors=2, num_classes=3):
        super().__init__()
        self.na, self.no = num_anchors, num_classes + 5
        self.conv = nn.Conv2d(4, self.no * self.na, 1)
        self.register_buffer("anchors", torch.tensor([[1.0, 2.0], [2.0, 1.5]]))

    def forward(self, x):
        x = self.conv(x)
        bs, _, ny, nx = x.shape
        x = x.view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        yv, xv = torch.meshgrid([torch.arange(ny), torch.arange(nx)], indexing="ij")
        grid = torch.stack((xv, yv), 2).view((1, 1, ny, nx, 2)).float()
        y = x.sigmoid()
        xy = (y[..., 0:2] * 2.0 - 0.5 + grid) * 8
        wh = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, self.na, 1, 1, 2)
        y = torch.cat((xy, wh, y[..., 4:]), -1)
        return y.view(bs, -1, self.no)


class Mixer(nn.Module):
    """An MLP over patches and one over channels."""

    def __init__(self, patches=4, dim=6):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.token_mix = Mlp(patches, 8)
        self.channel_mix = Mlp(dim, 12)
        self.head = nn.Linear(dim, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).permute(0, 2, 1)
        x = x + self.token_mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channel_mix(self.norm2(x))
        return self.head(x.mean(dim=1))


class Seq2Seq(nn.Module):
    """An encoder's state steps a decoder of cells."""

    def __init__(self, vocab=17, width=6, steps=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.cell = nn.GRUCell(width, width)
        self.attn = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, vocab)
        self.steps = steps

    def forward(self, src):
        memory, hidden = self.encoder(self.embed(src))
        hidden = hidden.squeeze(0)
        inp = memory.mean(1)
        outputs = []
        for _ in range(self.steps):
            hidden = self.cell(inp, hidden)
            weights = torch.bmm(memory, hidden.unsqueeze(2)).squeeze(2).softmax(1)
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            inp = torch.tanh(self.attn(torch.cat((context, hidden), dim=1)))
            outputs.append(self.out(inp))
        return torch.stack(outputs, dim=1)


class WideAndDeep(nn.Module):
    """Categories and numbers of a table."""

    def __init__(self, sizes=((5, 3), (7, 4)), numbers=3):
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(c, s) for c, s in sizes])
        n_emb = sum(e.embedding_dim for e in self.embeds)
        self.bn1 = nn.BatchNorm1d(numbers)
        self.lin1 = nn.Linear(n_emb + numbers, 8)
        self.bn2 = nn.BatchNorm1d(8)
        self.wide = nn.Linear(numbers, 1)
        self.lin2 = nn.Linear(8, 1)
        self.emb_drop, self.drops = nn.Dropout(0.6), nn.Dropout(0.3)

    def forward(self, x_cat, x_cont):
        x = [e(x_cat[:, i]) for i, e in enumerate(self.embeds)]
        x = torch.cat(x, 1)
        x = self.emb_drop(x)
        x2 = self.bn1(x_cont)
        x = torch.cat([x, x2], 1)
        x = F.relu(self.lin1(x))
        x = self.drops(x)
        x = self.bn2(x)
        return (self.lin2(x) + self.wide(x_cont)).squeeze(-1)


class SineEncoding(nn.Module):
    """The positions of "Attention is all you need", written into zeros."""

    def __init__(self, d_model, dropout=0.1, max_len=32):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(0, max_len, dtype=torch.float).unsqueeze(1)
        div_term = torch.exp(
            torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model)
        )
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        pe = pe.unsqueeze(0).transpose(0, 1)
        self.register_buffer("pe", pe)

    def forward(self, x):
        x = x + self.pe[: x.size(0), :]
        return self.dropout(x)


class TransformerModel(nn.Module):
    """PyTorch's tutorial of word language models."""

    def __init__(self, ntoken=17, ninp=8, nhead=2, nhid=12, nlayers=2, dropout=0.2):
        super().__init__()
        self.pos_encoder = SineEncoding(ninp, dropout)
        encoder_layers = nn.TransformerEncoderLayer(ninp, nhead, nhid, dropout)
        self.transformer_encoder = nn.TransformerEncoder(encoder_layers, nlayers)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.ninp = ninp
        self.decoder = nn.Linear(ninp, ntoken)

    def forward(self, src):
        mask = torch.triu(torch.full((len(src), len(src)), float("-inf")), diagonal=1)
        src = self.encoder(src) * math.sqrt(self.ninp)
        src = self.pos_encoder(src)
        output = self.transformer_encoder(src, mask)
        output = self.decoder(output)
        return F.log_softmax(output, dim=-1)


class SineTime(nn.Module):
    """The sines and cosines of a time."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, time):
        half = self.dim // 2
        emb = math.log(10000) / (half - 1)
        emb = torch.exp(torch.arange(half, device=time.device) * -emb)
        emb = time[:, None] * emb[None, :]
        return torch.cat((emb.sin(), emb.cos()), dim=-1)


class ResnetBlock(nn.Module):
    """A block that a time scales and shifts."""

    def __init__(self, dim, dim_out, *, time_emb_dim=None, groups=2):
        super().__init__()
        self.mlp = None
        if time_emb_dim is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_emb_dim, dim_out * 2))
        self.conv1, self.conv2 = (
            nn.Conv2d(dim, dim_out, 3, padding=1),
            nn.Conv2d(dim_out, dim_out, 3, padding=1),
        )
        self.norm1, self.norm2 = nn.GroupNorm(groups, dim_out), nn.GroupNorm(groups, dim_out)
        self.act = nn.SiLU()
        self.res_conv = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(self, x, time_emb=None):
        scale_shift = None
        if self.mlp is not None and time_emb is not None:
            time_emb = self.mlp(time_emb)[:, :, None, None]
            scale_shift = time_emb.chunk(2, dim=1)
        h = self.norm1(self.conv1(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            h = h * (scale + 1) + shift
        h = self.act(self.norm2(self.conv2(self.act(h))))
        return h + self.res_conv(x)


class LinearAttention(nn.Module):
    """Attention over places whose cost grows with their number."""

    def __init__(self, dim, heads=2, dim_head=4):
        super().__init__()
        self.scale, self.heads = dim_head**-0.5, heads
        hidden = dim_head * heads
        self.to_qkv = nn.Conv2d(dim, hidden * 3, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(hidden, dim, 1), nn.GroupNorm(1, dim))

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.to_qkv(x).chunk(3, dim=1)
        q, k, v = (t.reshape(b, self.heads, -1, h * w) for t in qkv)
        q = q.softmax(dim=-2) * self.scale
        k = k.softmax(dim=-1)
        context = torch.einsum("bhdn,bhen->bhde", k, v)
        out = torch.einsum("bhde,bhdn->bhen", context, q)
        return self.to_out(out.reshape(b, -1, h, w))


class Residual(nn.Module):
    """A function's result and its input."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x, *args, **kwargs):
        return self.fn(x, *args, **kwargs) + x


class DiffusionAttentionUNet(nn.Module):
    """Lists of lists, a stack of maps that are popped, the first map kept as a clone."""

    def __init__(self, dim=4, dim_mults=(1, 2)):
        super().__init__()
        self.init_conv = nn.Conv2d(3, dim, 5, padding=2)
        time_dim = dim * 4
        self.time_mlp = nn.Sequential(
            SineTime(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        dims = [dim, *(dim * m for m in dim_mults)]
        in_out = list(zip(dims[:-1], dims[1:]))
        self.downs, self.ups = nn.ModuleList([]), nn.ModuleList([])
        for i, (a, b) in enumerate(in_out):
            is_last = i >= len(in_out) - 1
            down = nn.Conv2d(a, b, 3, padding=1) if is_last else nn.Conv2d(a, b, 4, 2, 1)
            block = ResnetBlock(a, a, time_emb_dim=time_dim)
            self.downs.append(nn.ModuleList([block, Residual(LinearAttention(a)), down]))
        self.mid_block = ResnetBlock(dims[-1], dims[-1], time_emb_dim=time_dim)
        for i, (a, b) in enumerate(reversed(in_out)):
            up = nn.Conv2d(b, a, 3, padding=1)
            if i < len(in_out) - 1:
                up = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), up)
            block = ResnetBlock(a + b, b, time_emb_dim=time_dim)
            self.ups.append(nn.ModuleList([block, Residual(LinearAttention(b)), up]))
        self.final_block = ResnetBlock(dim * 2, dim, time_emb_dim=time_dim)
        self.final_conv = nn.Conv2d(dim, 3, 1)

    def forward(self, x, time):
        x = self.init_conv(x)
        r = x.clone()
        t = self.time_mlp(time)
        h = []
        for block, attn, downsample in self.downs:
            x = attn(block(x, t))
            h.append(x)
            x = downsample(x)
        x = self.mid_block(x, t)
        for block, attn, upsample in self.ups:
            x = torch.cat((x, h.pop()), dim=1)
            x = attn(block(x, t))
            x = upsample(x)
        x = torch.cat((x, r), dim=1)
        x = self.final_block(x, t)
        return self.final_conv(x)


class MixtureOfExperts(nn.Module):
    """The two best of four experts for every token, and a loss that balances them."""

    def __init__(self, dim=6, num_experts=4, hidden=8, top_k=2):
        super().__init__()
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, hidden) * 0.1)
        self.b1 = nn.Parameter(torch.zeros(num_experts, 1, hidden))
        self.w2 = nn.Parameter(torch.randn(num_experts, hidden, dim) * 0.1)
        self.top_k, self.num_experts = top_k, num_experts

    def forward(self, x):
        b, t, d = x.shape
        x = x.reshape(-1, d)
        logits = self.gate(x)
        top, idx = logits.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(logits).scatter(1, idx, torch.softmax(top, dim=-1))
        h = F.gelu(torch.einsum("nd,edh->enh", x, self.w1) + self.b1)
        y = torch.einsum("enh,ehd->end", h, self.w2)
        out = torch.einsum("ne,end->nd", gates, y)
        usage = F.one_hot(idx[:, 0], self.num_experts).float().mean(0)
        aux = (usage * logits.softmax(-1).mean(0)).sum() * self.num_experts
        return out.view(b, t, d), aux


class NeRF(nn.Module):
    """A field of colours and densities, and what a ray through it sees."""

    def __init__(self, D=4, W=8, freqs=2, skips=(2,)):
        super().__init__()
        self.freqs, self.skips = freqs, skips
        size = 3 + 3 * 2 * freqs
        self.pts = nn.ModuleList(
            [nn.Linear(size, W)]
            + [nn.Linear(W + size if i in skips else W, W) for i in range(D - 1)]
        )
        self.views, self.alpha = nn.Linear(W + size, W // 2), nn.Linear(W, 1)
        self.feature, self.rgb = nn.Linear(W, W), nn.Linear(W // 2, 3)

    def embed(self, x):
        out = [x]
        for i in range(self.freqs):
            for fn in (torch.sin, torch.cos):
                out.append(fn((2.0**i) * x))
        return torch.cat(out, -1)

    def forward(self, x, d):
        x, d = self.embed(x), self.embed(d)
        h = x
        for i, layer in enumerate(self.pts):
            h = F.relu(self.pts[i](h))
            if i in self.skips:
                h = torch.cat([x, h], -1)
        density = self.alpha(h)
        h = F.relu(self.views(torch.cat([self.feature(h), d], -1)))
        rgb = torch.sigmoid(self.rgb(h))
        alpha = 1.0 - torch.exp(-F.relu(density) * 0.1)
        seen = torch.cumprod(torch.cat([torch.ones((1, 1)), 1.0 - alpha + 1e-10], 0), 0)[:-1]
        return torch.cat([rgb, density], -1), (alpha * seen * rgb).sum(0)


class StyleGenerator(nn.Module):
    """Maps of a style: a learned constant, instance norm, a deviation over the batch."""

    def __init__(self, z=6, channels=4):
        super().__init__()
        layers = [m for _ in range(2) for m in (nn.Linear(z, z), nn.LeakyReLU(0.2))]
        self.mapping = nn.Sequential(*layers)
        self.const = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.style = nn.ModuleList([nn.Linear(z, 2 * channels) for _ in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2)])
        self.rgb = nn.Conv2d(channels, 3, 1)

    def forward(self, z):
        z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
        w = self.mapping(z)
        x = self.const.repeat(z.shape[0], 1, 1, 1)
        for i, (style, conv) in enumerate(zip(self.style, self.convs)):
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = F.instance_norm(conv(x))
            gamma, beta = style(w).view(-1, 2, x.size(1), 1, 1).unbind(1)
            x = F.leaky_relu((1 + gamma) * x + beta, 0.2)
        return torch.tanh(self.rgb(x))


class SelectiveScan(nn.Module):
    """A state space of Mamba's: a causal convolution of depths, and a loop over time."""

    def __init__(self, d=4, n=3):
        super().__init__()
        self.in_proj = nn.Linear(d, 4 * d, bias=False)
        self.conv1d = nn.Conv1d(2 * d, 2 * d, 3, groups=2 * d, padding=2)
        self.x_proj = nn.Linear(2 * d, 1 + 2 * n, bias=False)
        self.dt_proj = nn.Linear(1, 2 * d)
        A = torch.arange(1, n + 1, dtype=torch.float32).repeat(2 * d, 1)
        self.A_log = nn.Parameter(torch.log(A))
        self.D = nn.Parameter(torch.ones(2 * d))
        self.out_proj = nn.Linear(2 * d, d, bias=False)
        self.n = n

    def forward(self, x):
        b, l, d = x.shape
        x, z = self.in_proj(x).split(split_size=[2 * d, 2 * d], dim=-1)
        x = self.conv1d(x.transpose(1, 2))[:, :, :l].transpose(1, 2)
        x = F.silu(x)
        A = -torch.exp(self.A_log.float())
        dt, B, C = self.x_proj(x).split([1, self.n, self.n], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        dA = torch.exp(torch.einsum("bld,dn->bldn", dt, A))
        dBx = torch.einsum("bld,bln,bld->bldn", dt, B, x)
        h = torch.zeros((b, 2 * d, self.n), device=dA.device)
        ys = []
        for i in range(l):
            h = dA[:, i] * h + dBx[:, i]
            ys.append(torch.einsum("bdn,bn->bd", h, C[:, i, :]))
        y = torch.stack(ys, dim=1) + x * self.D
        return self.out_proj(y * F.silu(z))


_RNG = np.random.default_rng(3)
_CATEGORIES = np.stack([_RNG.integers(0, 5, 4), _RNG.integers(0, 7, 4)], 1)

MODELS = {
    "SmallUNet": (SmallUNet, ((2, 3, 12, 16),)),
    "SmallUNet, upconv": (lambda: SmallUNet(bilinear=False), ((2, 3, 12, 16),)),
    "MiniGPT": (MiniGPT, (TOKENS,)),
    "LSTMClassifier": (LSTMClassifier, (TOKENS,)),
    "PackedClassifier": (PackedClassifier, (TOKENS, np.array([6, 4]))),
    "VAE": (VAE, ((2, 1, 16, 16),)),
    "MobileNet": (MobileNet, ((2, 3, 16, 16),)),
    "Siamese": (Siamese, ((2, 1, 8, 8), (2, 1, 8, 8))),
    "TimmViT": (TimmViT, ((2, 3, 8, 8),)),
    "CrossBlock": (CrossBlock, ((2, 5, 8), (2, 4, 8))),
    "MiniLlama": (MiniLlama, (TOKENS,)),
    "TextCNN": (TextCNN, (TOKENS,)),
    "TCN": (TCN, ((2, 3, 9),)),
    "CRNN": (CRNN, ((2, 1, 8, 6),)),
    "Generator": (Generator, ((2, 6, 1, 1),)),
    "SpatialTransformer": (SpatialTransformer, ((2, 1, 8, 8),)),
    "PointNet": (PointNet, ((2, 3, 7),)),
    "FPN": (FPN, ((2, 3, 16, 16),)),
    "YoloHead": (YoloHead, ((2, 4, 3, 5),)),
    "Mixer": (Mixer, ((2, 3, 8, 8),)),
    "Seq2Seq": (Seq2Seq, (TOKENS,)),
    "WideAndDeep": (WideAndDeep, (_CATEGORIES, (4, 3))),
    "TransformerModel": (TransformerModel, (TOKENS,)),
    "DiffusionAttentionUNet": (DiffusionAttentionUNet, ((2, 3, 8, 8), (2,))),
    "MixtureOfExperts": (MixtureOfExperts, ((2, 5, 6),)),
    "NeRF": (NeRF, ((5, 3), (5, 3))),
    "StyleGenerator": (StyleGenerator, ((4, 6),)),
    "SelectiveScan": (SelectiveScan, ((2, 7, 4),)),
}
