"""Torch's own stacks of recurrent layers and of attention, inside of a module."""

import torch
from torch import nn


class Recurrent(nn.Module):
    """A recurrent stack and a head on its last output."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(4, 5, batch_first=True, **options)
        width = options.get("proj_size", 5) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.head(output[:, -1])


class WithStates(nn.Module):
    """States in and out, time first."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, 2)

    def forward(self, x, h0, c0):
        output, (hn, cn) = self.lstm(x, (h0, c0))
        return output, hn, cn


class Cells(nn.Module):
    """A loop over steps."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        hx = torch.zeros(x.size(0), 5)
        cx = torch.zeros(x.size(0), 5)
        outputs = []
        for t in range(x.size(1)):
            hx, cx = self.cell(x[:, t], (hx, cx))
            outputs.append(self.head(hx))
        return torch.stack(outputs, 1)


class Encoder(nn.Module):
    """An encoder with a class token and a norm."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, activation="gelu", batch_first=True, norm_first=True
        )
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.encoder = nn.TransformerEncoder(
            layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
        )

    def forward(self, x):
        x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1)
        return self.encoder(x)[:, 0]


class Decoder(nn.Module):
    """A decoder with a causal mask."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2
        )

    def forward(self, x, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
        return self.decoder(x, memory, tgt_mask=mask)


class Whole(nn.Module):
    """nn.Transformer."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)

    def forward(self, src, tgt):
        return self.transformer(src, tgt)


ROWS = (2, 5, 4)
MODELS = {
    "LSTM stack": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.2),
        (ROWS,),
    ),
    "LSTM, projected": (lambda: Recurrent(nn.LSTM, num_layers=2, proj_size=3), (ROWS,)),
    "GRU stack": (lambda: Recurrent(nn.GRU, num_layers=3), (ROWS,)),
    "RNN, relu": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), (ROWS,)),
    "LSTM, states": (WithStates, ((5, 2, 4), (2, 2, 5), (2, 2, 5))),
    "LSTMCell loop": (Cells, (ROWS,)),
    "TransformerEncoder": (Encoder, ((2, 5, 8),)),
    "TransformerDecoder": (Decoder, ((2, 5, 8), (2, 4, 8))),
    "Transformer": (Whole, ((2, 5, 8), (2, 4, 8))),
}
