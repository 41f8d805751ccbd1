"""A torch model as JAX source; the referee is torch, by `compare` and `compare_steps`."""

import importlib.util
import math
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlwp_jax import parity
from dlwp_jax.parity.__main__ import main
from dlwp_jax.parity.port.prove import prove
from tests.conftest import ROOT
from tests.reference.book_networks import NetResDeep

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(source):
    """The classes of a written file, as a person would import them."""
    names = {}
    exec(source, names)
    return names


@nnx.jit
def called(model, *inputs):
    """One program, where layer by layer would be dozens."""
    return model(*inputs)


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.proj = torch.nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = torch.einsum("nhid,nhjd->nhij", q, k) * (d // self.heads) ** -0.5
        y = weights.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, x):
        return x + self.attention(self.norm(x))


class Encoder(torch.nn.Module):
    """Tokens in, a dict out; blocks in a list; the head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.token = torch.nn.Embedding(11, 8)
        self.place = torch.nn.Parameter(0.02 * torch.randn(1, 16, 8))
        self.blocks = torch.nn.ModuleList(Block(8, 2) for _ in range(3))
        self.head = torch.nn.Linear(8, 11)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens) + self.place[:, : tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x), "mean": x.mean(dim=1)}


class Heads(torch.nn.Module):
    """Functions instead of layers, an auxiliary output in train mode, a buffer, dropout."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = torch.nn.BatchNorm2d(6)
        self.squeeze = torch.nn.Linear(6, 6)
        self.fc = torch.nn.Linear(6 * 2 * 3, 4)
        self.aux = torch.nn.Linear(6, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5, -1.0]))

    def forward(self, x):
        x = F.leaky_relu(self.bn(self.conv(x)), 0.2, inplace=True)
        gate = torch.sigmoid(self.squeeze(x.mean((2, 3))))[:, :, None, None]
        x = torch.cat([x * gate, x[:, :2].clamp(min=0)], dim=1)[:, :6]
        rows = F.dropout(F.adaptive_max_pool2d(x, (2, 3)).flatten(1), 0.3, self.training)
        y = self.fc(rows) * self.scale
        if self.training:
            return y, self.aux(x.amax(dim=(2, 3)))
        return y


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    theirs = Encoder()
    tokens = RNG.integers(0, 11, (2, 5))
    return theirs, tokens, parity.port(theirs, tokens)


@pytest.fixture(scope="module")
def heads():
    torch.manual_seed(0)
    theirs, x = Heads(), normal(3, 3, 6, 7)
    return theirs, x, parity.port(theirs, x)


def test_an_encoder_with_a_dict_and_a_shared_weight_is_proved(encoder):
    theirs, tokens, ported = encoder
    assert ported.report.ok, ported.report
    steps = {row.step for row in ported.report.rows}
    assert steps == {None, 0, 1, 2, 3, 4}
    theirs.eval()
    ported.model.eval()
    expected = theirs(torch.from_numpy(tokens))
    found = called(ported.model, tokens)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.detach(), rtol=1e-4, atol=1e-5)


def test_the_source_reads_as_the_torch_source_does(encoder):
    source = encoder[2].source
    assert "torch" not in source.split('"""')[2]
    for name in ("class Attention", "class Block", "class Encoder", "self.qkv = nn.Linear"):
        assert name in source
    assert "for block in self.blocks:\n            x = block(x)" in source
    assert "q, k, v = " in source
    assert "n, t, d = x.shape" in source
    assert max(map(len, source.splitlines())) <= 96
    assert not set(re.findall(r"\b[nj]np\.moveaxis", source))


def test_another_length_of_the_sequence_and_of_the_batch(encoder):
    theirs, _, ported = encoder
    tokens = RNG.integers(0, 11, (3, 7))
    ported.model.eval()
    expected = theirs.eval()(torch.from_numpy(tokens))["logits"].detach()
    found = called(ported.model, tokens)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_functions_buffers_dropout_and_a_train_mode_of_its_own_are_proved(heads):
    _, _, ported = heads
    assert ported.report.ok, ported.report
    assert any("(train mode)" in row.leaf for row in ported.report.rows)
    assert "if self.deterministic:" in ported.source
    model = run(ported.source)["Heads"](rngs=nnx.Rngs(0))
    assert model.dropout.p == 0.3
    np.testing.assert_array_equal(model.scale[...], [1.0, 2.0, 0.5, -1.0])


def test_written_source_is_formatted_as_ruff_formats(heads, encoder):
    for ported in (heads[2], encoder[2]):
        formatted = subprocess.run(
            [sys.executable, "-m", "ruff", "format", "--line-length", "96", "-"],
            input=ported.source,
            capture_output=True,
            text=True,
            check=True,
        )
        assert formatted.stdout == ported.source


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("padding=1, bias=False", "padding=1, padding_mode='reflect', bias=False"),
        (
            "nn.flatten(nn.adaptive_max_pool(x, (2, 3)))",
            "nn.adaptive_max_pool(x, (2, 3)).reshape(len(x), -1)",
        ),
    ],
)
def test_a_wrong_port_is_found(heads, right, wrong):
    theirs, x, ported = heads
    assert right in ported.source
    ours = run(ported.source.replace(right, wrong))["Heads"](rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    assert not parity.compare(theirs, ours, x, loaded=loaded, double=True).ok


def test_blocks_of_one_class_share_it_and_a_loop_is_kept():
    ported = parity.port(NetResDeep(channels=4, n_blocks=3), normal(2, 3, 32, 32))
    assert ported.report.ok, ported.report
    assert ported.source.count("class ") == 2
    assert "*(ResBlock(rngs=rngs) for _ in range(3))" in ported.source
    assert ported.loops == 1


class Up(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.conv = torch.nn.Conv2d(4, 2, 1)

    def forward(self, x, bridge):
        return self.conv(torch.cat([self.up(x), bridge], dim=1))


class UNet(torch.nn.Module):
    """The book's way down and up, with one convolution of each size."""

    def __init__(self):
        super().__init__()
        self.down_path = torch.nn.ModuleList(torch.nn.Conv2d(2, 2, 1) for _ in range(3))
        self.up_path = torch.nn.ModuleList(Up() for _ in range(2))

    def forward(self, x):
        bridges = []
        for down in self.down_path[:-1]:
            bridges.append(down(x))
            x = F.avg_pool2d(bridges[-1], 2)
        x = self.down_path[-1](x)
        for up in self.up_path:
            x = up(x, bridges.pop())
        return x.tanh()


def test_lists_of_the_model_stay_lists():
    ported = parity.port(UNet(), normal(1, 2, 8, 8))
    assert ported.report.ok, ported.report
    assert "for i in range(2):" in ported.source
    assert "self.up_path[i](x, bridges[1 - i])" in ported.source


class ByValue(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Aliased(torch.nn.Module):
    def forward(self, x):
        y = x * 2
        first = y[:, 0]
        y.add_(1)
        return first + y[:, 1]


class Taken(torch.nn.Module):
    def forward(self, x):
        return x[x > 0]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return g


class OwnBackward(torch.nn.Module):
    def forward(self, x):
        return Doubled.apply(x)


class Unknown(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (ByValue, "torch.where"),
        (Taken, r"x\[mask\]"),
        (Aliased, "changed in place"),
        (OwnBackward, "Doubled is a custom autograd function"),
        (Unknown, "linalg_svd is not known"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_file_and_line(kind, says):
    with pytest.raises(parity.Refused, match=says) as refusal:
        parity.port(kind(), normal(3, 4))
    assert f"{__file__}:" in str(refusal.value)


class WithAHole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.hole = ByValue()

    def forward(self, x):
        return self.hole(self.first(x))


def test_partial_writes_the_rest_and_a_method_that_raises():
    ported = parity.port(WithAHole(), normal(3, 4), partial=True)
    assert len(ported.holes) == 1
    assert not ported.report.ok
    assert "# HOLE" in ported.source
    with pytest.raises(NotImplementedError, match="write ByValue by hand"):
        ported.model(jax.numpy.ones((3, 4)))


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.out = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
    def forward(self, tokens):
        return self.out(self.token(tokens).relu())

class Refused(Net):
    def forward(self, tokens):
        return super().forward(tokens) if tokens.max() > 3 else tokens
"""


def test_the_command_writes_a_proved_file(tmp_path, capsys):
    model, output, weights = (tmp_path / n for n in ("net.py", "net_jax.py", "net.pt"))
    model.write_text(NET)
    names = run(NET)
    torch.save(names["Net"]().state_dict(), weights)
    arguments = ["port", f"{model}:Net", "--input", "2,3:int64", "--weights", str(weights)]
    assert main([*arguments, "-o", str(output)]) == 0
    assert "gradient" in capsys.readouterr().out
    written = output.read_text()
    assert "Proved equal to torch" in written
    assert "--input 2,3:int64" in written
    ours = run(written)["Net"](rngs=nnx.Rngs(1))
    parity.load_torch(ours, str(weights))
    np.testing.assert_array_equal(
        ours.out.kernel[...], torch.load(weights)["out.weight"].numpy().T
    )


def test_the_command_refuses_in_one_sentence_and_writes_nothing(tmp_path, capsys):
    model, output = tmp_path / "net.py", tmp_path / "net_jax.py"
    model.write_text(NET)
    assert main(["port", f"{model}:Refused", "--input", "2,3:int64", "-o", str(output)]) == 2
    assert "net.py:13" in capsys.readouterr().err
    assert not output.exists()


def test_the_page_shows_what_is_written(tmp_path):
    page = (ROOT / "docs" / "parity_port.md").read_text(encoding="utf-8")
    theirs, ours = re.findall(r'```py title="\w+.py"\n(.*?)```', page, re.DOTALL)
    (tmp_path / "net.py").write_text(theirs)
    spec = importlib.util.spec_from_file_location("net_of_the_page", tmp_path / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ported = parity.port(module.Net(), normal(2, 3, 32, 32))
    assert ported.source.partition("import jax")[2] == ours.partition("import jax")[2]


class Masked(torch.nn.Module):
    def forward(self, x):
        mask = torch.full((3, 3), float("-inf")).triu(1)
        return torch.softmax(x + mask, -1)


def test_infinity_is_written_by_its_name():
    assert parity.port(Masked(), torch.ones(2, 3, 3)).report.ok


class Lengths(torch.nn.Module):
    """Packed sequences; noise and attention's dropout in train mode."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(9, 4)
        self.gru = torch.nn.GRU(4, 4, batch_first=True)

    def forward(self, tokens, lengths):
        x = self.embed(tokens)
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        rows, last = self.gru(packed)
        rows, _ = pad_packed_sequence(rows, batch_first=True)
        p = 0.2 if self.training else 0.0
        rows = F.scaled_dot_product_attention(rows, rows, rows, dropout_p=p)
        return last[-1], rows


def test_packed_sequences_become_lengths_and_noise_is_drawn_in_train_mode():
    ported = parity.port(Lengths(), RNG.integers(0, 9, (3, 5)), np.array([2, 5, 3]))
    assert ported.report.ok, ported.report
    assert "self.gru(x, lengths=lengths)" in ported.source
    model = run(ported.source)["Lengths"](rngs=nnx.Rngs(0))
    given = jax.numpy.ones((2, 5), int), jax.numpy.array([5, 5])
    assert not np.allclose(called(model, *given)[1], called(model, *given)[1])
    model.eval()
    np.testing.assert_array_equal(called(model, *given)[1], called(model, *given)[1])


class TwoAttentions(torch.nn.Module):
    """Three attentions drop; two of them the same share."""

    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.lin(x)
        for p in (0.1, 0.5, 0.1):
            p = p if self.training else 0.0
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=p)
        return x


def test_attentions_keep_their_own_shares_of_dropout():
    ported = parity.port(TwoAttentions(), normal(2, 3, 4))
    assert ported.report.ok, ported.report
    assert (ported.model.dropout_p, ported.model.dropout_p_1) == (0.1, 0.5)
    used = re.findall(r"dropout_p=self\.(\w+)", ported.source)
    assert used == ["dropout_p", "dropout_p_1", "dropout_p"]


@pytest.mark.parametrize("option", [{"max_norm": 50.0}, {"scale_grad_by_freq": True}])
def test_an_embedding_that_changes_itself_or_its_gradient_is_refused(option):
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4, **option), torch.nn.Tanh())
    with pytest.raises(parity.Refused, match="scale_grad_by_freq"):
        parity.port(model, np.arange(6).reshape(2, 3))


def test_a_model_that_runs_in_eval_mode_only_says_so():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    ported = parity.port(model, normal(1, 4))
    assert "Proved equal to torch in eval mode, in float64" in ported.source
    assert "torch does not run in it on this input" in ported.source


class Noisy(torch.nn.Module):
    """Draws with numbers of their own, in train mode."""

    def __init__(self, draw):
        super().__init__()
        self.lin, self.draw = torch.nn.Linear(4, 4), draw

    def forward(self, x):
        x = self.lin(x)
        return x * self.draw(x) if self.training else x


DRAWS = [  # what is written, and what would be wrong
    (lambda x: torch.ones_like(x).bernoulli_(), "bernoulli(self.rngs(), 0.5,", ".5 .7"),
    (lambda x: torch.zeros_like(x).bernoulli_(p=0.2), "bernoulli(self.rngs(), 0.2,", ".2 .3"),
    (lambda x: torch.bernoulli(torch.sigmoid(x)), "nn.sigmoid(x)", "sigmoid tanh"),
    (lambda x: torch.zeros_like(x).uniform_(-1, to=3.0), ".dtype, -1, 3.0", "3.0 4.0"),
    (lambda x: torch.zeros_like(x).normal_(0, 0.1), "0.1 * jax.random.normal(", "0.1 0.2"),
    (lambda x: torch.zeros_like(x).normal_(std=0.1, mean=2), "2 + 0.1 * jax", "2 3"),
]


@pytest.mark.parametrize(("draw", "says", "change"), DRAWS)
def test_draws_keep_their_limits_and_the_proof_sees_them(draw, says, change):
    theirs, x = Noisy(draw), normal(3, 4)
    ported = parity.port(theirs, x)
    assert ported.report.ok, ported.report
    assert says in ported.source
    wrong = ported.source.replace(says, says.replace(*change.split()))
    ours = run(wrong)["Noisy"](rngs=nnx.Rngs(0))
    assert not prove(theirs, ours, (x,), ["as_is"], "both").ok


class DrawnAround(Noisy):
    def __init__(self):
        super().__init__(lambda x: torch.normal(x, 0.1))


def test_normal_of_tensors_is_refused():
    with pytest.raises(parity.Refused, match="write mean"):
        parity.port(DrawnAround(), normal(3, 4))


class Rotated(torch.nn.Module):
    def __init__(self, frequencies):
        super().__init__()
        self.lin = torch.nn.Linear(2 * len(frequencies), 2 * len(frequencies))
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, x):
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.inv_freq)
        return self.lin(x) * torch.cat([angles, angles], -1).cos()


def powers(base, size):
    return base ** (-torch.arange(0, size, 2).float() / size)


@pytest.mark.parametrize(
    ("frequencies", "says"),
    [
        (powers(10000.0, 64), "10000 ** (-jnp.arange(0, 64, 2) / 64)"),
        (powers(500000.0, 64), "500000 ** "),
        (powers(10000 * 2 ** (64 / 62), 64), "20452.2"),
        (torch.tensor([1.0, 0.3, 0.09, 0.027, 0.0082]), "1.0, 0.3"),
        (powers(10000.0, 64) * (1 + 1e-5 * (torch.arange(32) % 2)), "1.0, 0.7499"),
    ],
)
def test_frequencies_are_written_as_a_power_only_if_they_are_one(frequencies, says):
    theirs, x = Rotated(frequencies), normal(1, 300, 2 * len(frequencies))
    ported = parity.port(theirs, x)
    assert ported.report.ok, ported.report
    assert says in " ".join(ported.source.split()).replace("( ", "(")
    expected = theirs.eval()(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(ported.model(x), expected, rtol=0, atol=5e-4)


class OfSizes(torch.nn.Module):
    def __init__(self, number):
        super().__init__()
        self.lin, self.number = torch.nn.Linear(4, 4), number

    def forward(self, x):
        return self.lin(x) * self.number(x)


NUMBERS = [
    (lambda x: 1 / x.shape[0], "(1 / x.shape[0])"),
    (lambda x: x.shape[1] ** -0.5, "x.shape[1] ** -0.5"),
    (lambda x: (x.shape[0] / 2) ** 2, "(x.shape[0] / 2) ** 2"),
    (lambda x: 2 ** (x.shape[0] // 2), "2 ** (x.shape[0] // 2)"),
    (lambda x: -1.5 / (x.shape[0] + 0.5), "-1.5 / (x.shape[0] + 0.5)"),
    (lambda x: math.sqrt(x.shape[0]) - math.ceil(len(x) / 2), "math.sqrt(x.shape[0]) - math."),
    (lambda x: -x.shape[0] * 2, "-x.shape[0] * 2"),
    (lambda x: float(len(x)), "float(x.shape[0])"),
    (lambda x: round(len(x) / 3), "round(x.shape[0] / 3)"),
    (lambda x: divmod(x.shape[0], 2)[1], "x.shape[0] % 2"),
    (lambda x: torch.tensor(x.shape[0]), "jnp.array(x.shape[0], jnp.int32)"),
    (lambda x: torch.tensor([x.shape[0] / 3, 1, 2, 3]), "jnp.array([x.shape[0] / 3, 1"),
]


@pytest.mark.parametrize(("number", "says"), NUMBERS)
def test_numbers_made_of_sizes_follow_them(number, says):
    theirs = OfSizes(number)
    ported = parity.port(theirs, normal(3, 4))
    assert ported.report.ok, ported.report
    assert says.replace(" ", "") in "".join(ported.source.split())
    other = normal(5, 4)
    expected = theirs(torch.from_numpy(other)).detach()
    np.testing.assert_allclose(ported.model(other), expected, rtol=1e-5, atol=1e-6)


class Layered(torch.nn.Module):
    """Functions that are given numbers made of sizes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = F.interpolate(self.conv(x), scale_factor=x.shape[2] / 2)
        return F.leaky_relu(y, 1 / x.shape[2])


def test_functions_are_given_numbers_made_of_sizes():
    ported = parity.port(Layered(), normal(2, 2, 4, 4))
    assert ported.report.ok, ported.report
    assert "negative_slope=1 / x.shape[1]" in ported.source


class Handed(torch.nn.Module):
    """Hands numbers made of sizes over to another module."""

    def __init__(self):
        super().__init__()
        self.first, self.scaled = torch.nn.Linear(4, 4), Scaled()

    def forward(self, x):
        return self.scaled(self.first(x), x.shape[1], x.shape[1] / 2)


class Scaled(torch.nn.Module):
    def forward(self, x, size, half):
        return x * size + (size - half)


def test_numbers_made_of_sizes_are_handed_over():
    ported = parity.port(Handed(), normal(3, 4))
    assert ported.report.ok, ported.report


@pytest.mark.parametrize(
    "number", [lambda x: 1.0 / x.shape[0], lambda x: np.sqrt(len(x)), lambda x: len(x) ** 0.0]
)
def test_a_number_that_does_not_follow_its_size_is_found(number):
    ported = parity.port(OfSizes(number), normal(3, 4))
    constant = number(np.ones(3)) == 1
    assert ported.report.ok == constant, ported.report
    assert ("with 4 examples the port differs" in str(ported.report)) != constant


class Shared(torch.nn.Module):
    """Layers under two names, one block three times, a function that keeps a layer, a table."""

    def __init__(self):
        super().__init__()
        self.first, self.act = torch.nn.Linear(4, 4), torch.nn.Tanh()
        self.net = torch.nn.Sequential(self.first, self.act)
        self.blocks = torch.nn.Sequential(*(3 * [Block(4, 2)]))
        last = self.last = torch.nn.Linear(4, 2)
        self.end = lambda x: last(x).softmax(-1)
        angles = torch.outer(torch.arange(9.0), 10000.0 ** (-torch.arange(0, 4, 2) / 4))
        cos = torch.cat([angles, angles], -1).cos()
        self.register_buffer("cos", cos, persistent=False)

    def forward(self, x):
        x = self.net(x) * self.cos[: x.shape[1]]
        return self.end(self.blocks(x).float())


def test_layers_in_two_places_are_one_layer():
    ported = parity.port(Shared(), normal(2, 5, 4))
    assert ported.report.ok, ported.report
    assert "self.net = nn.Sequential(self.first, self.act)" in ported.source
    assert "nn.Sequential(*[Block(rngs=rngs)] * 3)" in ported.source
    assert "jnp.cos(jnp.tile(jnp.outer(jnp.arange(9),10000**" in "".join(ported.source.split())


def test_a_transformer_with_two_shares_of_dropout_is_refused():
    layer = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, batch_first=True)
    layer.dropout1.p = 0.5
    with pytest.raises(parity.Refused, match=r"several probabilities, \[0.2, 0.5\]"):
        parity.port(torch.nn.Sequential(layer), normal(2, 3, 4))


class Labelled(torch.nn.Module):
    def forward(self, x, names):
        names.append("pool")
        return x * len(names), names


class Habits(torch.nn.Module):
    """A copy kept under a name of its own, a list of lists with a gap, the end of a Sequential,
    arguments without arrays, values at places, numbers of NumPy's, tuples in a dict, a weight
    that a hook computes.
    """

    def __init__(self):
        super().__init__()
        self.first = torch.nn.utils.weight_norm(torch.nn.Linear(4, 4))
        self.labelled = Labelled()
        layers = [torch.nn.Linear(4, 4) for _ in range(4)]
        self.tail = torch.nn.Sequential(torch.nn.Tanh(), *layers[:2])[1:]
        gap = torch.nn.ModuleList([None, *layers[2:]])
        self.grid = torch.nn.ModuleList([torch.nn.ModuleList(), gap])

    def forward(self, x):
        x = self.first(x)
        r = x.clone()
        x = self.tail(x)
        for i in (1, 2):
            x = self.grid[1][i](x)
        top, index = x.topk(2, dim=1)
        gates = torch.zeros_like(x).scatter(1, index, top.softmax(1))
        sums = torch.zeros_like(x).scatter_add(0, index.repeat(1, 2) % 3, x)
        part = x.gather(1, index[:1])
        many = x.repeat_interleave(x.shape[0], dim=0).narrow(0, 1, x.shape[0])
        x, _ = self.labelled(torch.cat([x, r], dim=1), ["a"])
        lengths = x.norm(p=1, dim=1, keepdim=True) + x.logsumexp(1, keepdim=True)
        return {
            "first": (x / np.sqrt(8), gates, sums),
            "second": (torch.hstack([many, lengths]), part, x.max(dim=0).values),
        }


class States(torch.nn.Module):
    """Two states that follow each other under the same names."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        states = [x, x * 2]
        for _ in range(3):
            new = [layer(h) for layer, h in zip(self.layers, states, strict=True)]
            states = [a + 0.5 * b for a, b in zip(new, states, strict=True)]
        return torch.cat(states, dim=1) * x.new_tensor(0.5)


def test_names_that_two_values_hold_in_turn_are_not_confused():
    ported = parity.port(States(), normal(3, 4))
    assert ported.report.ok, ported.report


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_habits_of_people_are_proved():
    ported = parity.port(Habits(), normal(3, 4))
    assert ported.report.ok, ported.report
    assert "r = x" in ported.source
    assert "x = self.grid[1][i + 1](x)" in ported.source
    assert "nn.ModuleList([None, *(" in ported.source


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--input", "2,x"], "give whole numbers"),
        (["--input", "2,3:int64", "-o", "nowhere/net.py"], "there is no folder nowhere"),
        (["--input", "2,3", "--weights", "none.pt"], "none.pt: there is no such file"),
        (["--input", "2,3"], r"net.py:Net does not run on --input .*net.py:9"),
        (["--weights", "other.pt", "--input", "2,3:int64"], "other.pt does not fit"),
        (["--input", "2,3:int64", "--depth", "3"], "unrecognized arguments: --depth 3"),
    ],
)
def test_wrong_arguments_give_one_sentence(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.save({"out.weight": torch.ones(2)}, tmp_path / "other.pt")
    output = [] if "-o" in arguments else ["-o", "net_jax.py"]
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as error:
        main(["port", "net.py:Net", *arguments, *output])
    words = capsys.readouterr().err + str(error.value)
    assert re.search(says, words)
    assert not (tmp_path / "net_jax.py").exists()
