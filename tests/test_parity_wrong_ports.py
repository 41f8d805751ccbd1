"""compare on wrong ports of one torch model: each is found, at its layer, and the sentence says
what is wrong. Referee: torch, and the one thing that each port does otherwise.

Operations are compiled one by one, and the ports share them.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

from dlwp_jax import nn, parity

X = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.LeakyReLU(0.1)
        self.pool = torch.nn.AvgPool2d(3, 2, 1)
        self.reflect = torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.tokens = torch.nn.Linear(4, 4)
        self.qkv, self.out = torch.nn.Linear(4, 12), torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(36, 3)

    def attend(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 2
        scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), float("-inf"))
        return self.out(torch.softmax(scores, -1) @ v)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.conv(x))))
        x = F.relu(self.reflect(x)).flatten(2).transpose(1, 2)
        x = torch.tanh(self.tokens(x))
        x = F.gelu(x + self.attend(x))
        return self.head(x.transpose(1, 2).flatten(1))


class Net(nnx.Module):
    def __init__(self, wrong, *, rngs):
        self.wrong = wrong
        momentum = 0.2 if wrong == "momentum" else 0.1
        self.conv = nn.Conv2d(3, 4, 3, padding=1, rngs=rngs)
        self.norm = nn.BatchNorm2d(4, 1e-3 if wrong == "eps" else 1e-5, momentum)
        self.act = nn.LeakyReLU(0.2 if wrong == "slope" else 0.1)
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=wrong != "mean with padding")
        mode = "zeros" if wrong == "padding mode" else "reflect"
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode, rngs=rngs)
        self.tokens = nn.Linear(4, 4, rngs=rngs)
        self.qkv, self.out = nn.Linear(4, 12, rngs=rngs), nn.Linear(4, 4, rngs=rngs)
        self.head = nn.Linear(36, 3, rngs=rngs)

    def attend(self, x):
        wrong = self.wrong
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        scores = q @ k.mT / (1 if wrong == "scale" else 2)
        mask = jnp.tril(jnp.ones((9, 9), bool))
        scores = jnp.where(~mask if wrong == "mask" else mask, scores, -1e30)
        return self.out(jax.nn.softmax(scores, 1 if wrong == "axis" else -1) @ v)

    def normed(self, x):
        x = self.norm(x)
        if self.wrong == "variance":  # the mean of squares over n, as flax.nnx.BatchNorm has it
            var = self.norm.var
            n = 4 * 6 * 6
            var[...] = 0.9 + (var[...] - 0.9) * (n - 1) / n
        return x

    def __call__(self, x):
        wrong = self.wrong
        x = self.conv(x[..., ::-1] if wrong == "channels" else x)
        x = self.normed(self.act(x)) if wrong == "order" else self.act(self.normed(x))
        x = self.reflect(self.pool(x))
        x = (nn.silu(x) if wrong == "activation" else nn.relu(x)).reshape(4, 9, 4)
        x = self.tokens(2 * x if wrong == "factor" else x)
        x = nn.sigmoid(x) if wrong == "function" else nn.tanh(x)
        kept = jax.lax.stop_gradient(x) if wrong == "gradient" else x
        x = kept + (0 * x if wrong == "branch" else self.attend(x))
        if wrong == "twice":
            x = x + self.tokens(x)
        x = nn.gelu(x, approximate="tanh" if wrong == "gelu" else "none")
        return self.head((x if wrong == "flatten" else x.mT).reshape(4, -1))


LINE = r"\(test_parity_wrong_ports.py:\d+\)"
EVAL = {
    "eps": ("norm", "times that of torch; eps is 1e-05 in torch and 0.001 here"),
    "slope": ("act", "negative side; negative_slope is 0.1 in torch and 0.2 here"),
    "mean with padding": (
        "pool",
        "border 1 wide.*count_include_pad is True in torch and False",
    ),
    "padding mode": ("reflect", "border 1 wide.*padding_mode is reflect in torch and zeros"),
    "channels": ("conv", "already its input is the same up to a permutation of channels"),
    "order": ("norm", "right until the output of conv; .*the port calls act ahead of it"),
    "activation": ("tokens", "behind reflect torch applies relu and .*, the port silu"),
    "factor": ("tokens", "already its input is 2 times that of torch"),
    "function": ("qkv", "behind tokens torch applies tanh, the port sigmoid"),
    "scale": ("out", f"no array with the values of torch's truediv|div {LINE}"),
    "mask": ("out", f"no array with the values of torch's masked_fill {LINE}"),
    "axis": ("out", f"no array with the values of torch's softmax {LINE}"),
    "twice": ("head", "the port calls tokens once more, torch does not"),
    "branch": ("head", "torch calls qkv, out ahead of it, the port does not"),
    "gelu": ("head", f"no array with the values of torch's gelu {LINE}"),
    "flatten": ("head", "already its input is the same up to a permutation of channels"),
}
TRAIN = {
    "momentum": "norm.mean moved 2 times as far as in torch: the momentum",
    "variance": "norm.var moved to a smaller variance: .* divided by n = 144",
}


def compared(wrong, train=False):
    torch.manual_seed(0)
    theirs, ours = TorchNet(), Net(wrong, rngs=nnx.Rngs(0))
    theirs.norm.running_mean.uniform_(-0.5, 0.5)
    loaded = parity.load_torch(ours, theirs)
    with jax.disable_jit():
        return parity.compare(theirs, ours, X, loaded=loaded, double=True, train=train)


@pytest.mark.parametrize("train", [False, True])
def test_the_right_port_is_called_equal(train):
    compared("nothing", train).raise_if_different()


@pytest.mark.parametrize("wrong", EVAL)
def test_a_wrong_port_is_found_at_its_layer(wrong):
    layer, words = EVAL[wrong]
    report = compared(wrong)
    first = report.first_difference
    assert (first.stage, first.leaf) == ("forward", layer), report
    assert re.search(words, str(report), re.DOTALL), report


@pytest.mark.parametrize("wrong", TRAIN)
def test_wrong_statistics_are_said_in_train_mode(wrong):
    report = compared(wrong, train=True)
    assert not report.ok
    assert re.search(TRAIN[wrong], str(report)), report


def test_a_stopped_gradient_is_said():
    report = compared("gradient")
    assert report.first_difference.stage == "gradient"
    words = (
        "gradients differ; wrong, from the output back: tokens.*conv.kernel, input 0; right: q"
    )
    assert re.search(words, str(report))


def test_a_second_output_that_differs_is_said():
    class TorchTwo(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x), x.mean()

    class Two(nn.Linear):
        def __call__(self, x):
            return super().__call__(x), x.sum()

    theirs, ours = TorchTwo(6, 2), Two(6, 2, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, X[:, 0, 0], loaded=loaded, double=True)
    assert "the first output of the model agrees, another one differs" in str(report)
