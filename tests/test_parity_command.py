"""A stranger's way: from a .pt to a port that is proved equal and trains on; and the same from
a shell.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlwp_jax.parity.__main__ import end_with_status_2, main
from dlwp_jax.parity.files import fill
from tests.compiling import OPTION

ROOT = Path(__file__).parents[1]

MODELS = """
import torch
from flax import nnx
from dlwp_jax import nn

class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 4 * 4, 2)
    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))

class Net(nnx.Module):
    leak = 0.0
    def __init__(self, *, rngs):
        self.conv, self.head = nn.Conv2d(3, 4, 3, rngs=rngs), nn.Linear(4 * 4 * 4, 2, rngs=rngs)
    def __call__(self, x):
        return self.head(nnx.leaky_relu(self.conv(x), self.leak).reshape(len(x), -1))

class Wrong(Net):
    leak = 0.01

class Sized(Net):
    def __init__(self, size, *, rngs):
        super().__init__(rngs=rngs)
"""


BAG = """
import torch
from flax import nnx
from dlwp_jax import nn

class TorchBag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.word = torch.nn.Embedding(4, 5)
        self.size = torch.nn.Linear(4, 5)
    def forward(self, words, x):
        return self.word(words).mean(1) + self.size(x)

class Bag(nnx.Module):
    def __init__(self, *, rngs):
        self.word, self.size = nn.Embedding(4, 5, rngs=rngs), nn.Linear(4, 5, rngs=rngs)
    def __call__(self, words, x):
        return self.word(words).mean(1) + self.size(x)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("models", None)


def check(*arguments):
    return main(["check", *arguments, "--input", "2,3,6,6"])


def test_check_proves_a_port_equal(folder, capsys):
    from models import TorchNet

    torch.save(TorchNet().state_dict(), folder / "my.pt")
    assert check("models.py:TorchNet", "models.py:Net", "--weights", "my.pt", "--train") == 0
    out = capsys.readouterr().out
    assert "rows turned from 4 4 4" in out
    assert out.count("all agree") == 4


def test_check_shows_a_wrong_port(folder, capsys):
    assert check("models.py:TorchNet", "models.py:Wrong") == 1
    assert "DIFFERENT" in capsys.readouterr().out


NORMS = """
import torch
from flax import nnx
from dlwp_jax import nn

def theirs():
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.1)
    return torch.nn.Sequential(*layers)

def ours(rngs, momentum=0.1):
    norm, drop = nn.BatchNorm2d(4, momentum=momentum), nn.Dropout(0.1, rngs=rngs)
    return nn.Sequential(nn.Conv2d(3, 4, 3, rngs=rngs), norm, drop)

def wrong(rngs):
    return ours(rngs, momentum=0.9)

def flax(rngs):
    norm = nnx.BatchNorm(4, epsilon=1e-5, rngs=rngs)  # its momentum is 0.99, torch's 0.01
    return nn.Sequential(nn.Conv2d(3, 4, 3, rngs=rngs), norm, nn.Dropout(0.1, rngs=rngs))
"""


def test_a_wrong_momentum_is_found_by_default_beside_dropout(folder, capsys, monkeypatch):
    (folder / "norms.py").write_text(NORMS)
    assert check("norms.py:theirs", "norms.py:ours", "--double") == 0
    assert "dropout is set to 0 in both models" in capsys.readouterr().out
    assert check("norms.py:theirs", "norms.py:wrong", "--double") == 1
    assert "1.mean moved 9 times as far as in torch" in capsys.readouterr().out
    assert check("norms.py:theirs", "norms.py:flax", "--double") == 1
    assert "1.mean moved 0.1 times as far as in torch" in capsys.readouterr().out
    assert status(monkeypatch, "norms.py:theirs", "norms.py:ours", "--train") == 2
    assert "--no-dropout" in capsys.readouterr().err
    train = ("--double", "--train", "--no-dropout")
    assert check("norms.py:theirs", "norms.py:ours", *train) == 0


def test_entries_beside_those_of_the_model_are_left_out_and_named():
    """As a Lightning module saves its network and the weights of its loss; referee: the saved
    tensors.
    """
    saved, model = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    state = {f"net.{name}": value for name, value in saved.state_dict().items()}
    with pytest.warns(UserWarning, match=r"left out: loss\.weight"):
        fill(model, state | {"loss.weight": torch.ones(3)})
    assert model.weight.equal(saved.weight)
    with pytest.raises(ValueError, match=r"under 'average\.' and 'net\.'"):
        fill(model, state | {f"average.{name}": torch.ones(3) for name in saved.state_dict()})
    with pytest.raises(ValueError, match=r"(?s)does not fit the torch model.*scale"):
        fill(model, state | {"net.scale": torch.ones(3)})


def test_weights_under_a_prefix_fit_the_torch_model(folder):
    from models import TorchNet

    state = {f"model.{name}": value for name, value in TorchNet().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "my.ckpt")
    names = ("models.py:TorchNet", "models.py:Net")
    assert check(*names, "--weights", "my.ckpt", "--double") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models.py:TorchNet", "models.py:Nat"), "models.py has no Nat"),
        (("models.py:nn", "models.py:Net"), "models.py:nn is a module; name a model"),
        (("models.py:TorchNet", "none.py:Net"), "none.py: there is no such file"),
        (("models.py:TorchNet", "Net"), "give FILE.py:NAME"),
        (
            ("models.py:Net", "models.py:TorchNet"),
            r"models.py:Net made a Net; a torch.nn\S*Module is wanted",
        ),
        (
            ("models.py:TorchNet", "models.py:Net", "--weights", "none.pt"),
            "none.pt: there is no such file",
        ),
        (
            ("models.py:TorchNet", "models.py:Net", "--weights", "other.pt"),
            "other.pt does not fit the torch model",
        ),
        (
            ("models.py:TorchNet", "models.py:Net", "--rule", "(", "conv"),
            r"the rule '\(' is no regular expression",
        ),
        (
            ("models.py:TorchNet", "models.py:Net", "--layout", "as_is", "--layout", "auto"),
            "one for each of 1 inputs",
        ),
        (
            ("models.py:TorchNet", "models.py:Sized"),
            "missing a required argument: 'size'; name a function",
        ),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(
    folder, capsys, monkeypatch, arguments, message
):
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "other.pt")
    assert status(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "text", ["def f(:", "undefined", "def Net(rngs): raise KeyError('mine')"]
)
def test_errors_of_the_users_file_show_its_traceback_and_end_with_status_2(
    folder, capsys, monkeypatch, text
):
    (folder / "broken.py").write_text(text)
    assert status(monkeypatch, "models.py:TorchNet", "broken.py:Net") == 2
    err = capsys.readouterr().err
    assert 'broken.py", line 1' in err
    assert "Traceback" in err


def test_errors_inside_a_models_call_say_where_they_arose(folder, capsys, monkeypatch):
    (folder / "broken.py").write_text("""
import models
class Net(models.TorchNet):
    def forward(self, x):
        return self.head(x)
""")
    assert status(monkeypatch, "broken.py:Net", "models.py:Net") == 2
    err = capsys.readouterr().err
    assert "broken.py:Net does not run on --input 2,3,6,6: mat1 and mat2" in err
    assert re.search(r"broken\.py:5\.$", err)


def status(monkeypatch, *arguments) -> int:
    """The status with which the shell sees the command end."""
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - any error; its end is looked at
        check(*arguments)
    end_with_status_2(raised.type, raised.value, raised.tb)
    return ends[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tolerance", "-1"), ("--tolerance", "nan"), ("--seed", "-1"), ("--tokens", "0")],
)
def test_a_bad_number_is_answered_with_what_is_wanted(option, value, capsys):
    with pytest.raises(SystemExit):
        check("a.py:A", "b.py:B", option, value)
    assert re.search(f"{value}: give a (whole )?number", capsys.readouterr().err)


@pytest.mark.parametrize("shape", ["2,x", "2,3:int46"])
@pytest.mark.parametrize("command", ["check a.py:A b.py:B", "port a.py:A -o b.py"])
def test_a_bad_shape_is_answered_with_an_example(command, shape, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--input", shape])
    assert f"{shape}: give whole numbers, as in 1,3,32,32" in capsys.readouterr().err


def test_inputs_may_be_tokens_and_numbers(folder):
    """Referee: torch, whose Embedding takes whole numbers below 4 only."""
    (folder / "bag.py").write_text(BAG)
    shapes = ["--input", "2,3:int64", "--input", "2,4"]
    assert main(["check", "bag.py:TorchBag", "bag.py:Bag", *shapes]) == 0


# Only the status and the text of such a process are looked at, so it may compile quickly.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "", OPTION.upper(): "1"}


@pytest.mark.slow
def test_check_runs_from_the_shell(folder):
    command = [
        sys.executable,
        "-m",
        "dlwp_jax.parity",
        "check",
        "models.py:TorchNet",
        "models.py:Net",
    ]
    settings = {
        "capture_output": True,
        "text": True,
        "env": ENVIRONMENT,
    }
    done = subprocess.run([*command, "--input", "2,3,6,6"], **settings)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_what_cannot_be_compared_is_status_2_in_the_shell(folder):
    command = [sys.executable, "-m", "dlwp_jax.parity", "check", "models.py:TorchNet"]
    settings = {
        "capture_output": True,
        "text": True,
        "env": ENVIRONMENT,
    }
    done = subprocess.run([*command, "none.py:Net", "--input", "2,3,6,6"], **settings)
    assert (done.returncode, done.stderr) == (
        2,
        "cannot compare: none.py: there is no such file.\n",
    )
