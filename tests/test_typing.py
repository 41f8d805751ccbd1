"""The types that a user's type checker sees: of the package as it is installed, beside the
packages it needs.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch

from tests import typed_program

ROOT = Path(__file__).parents[1]
COMPLETE = (
    0.92  # of the public symbols; pyright's own figure. CONTRIBUTING.md says what the rest is.
)

WRONG = """
losses.mse_loss(1.0, 2.0, reduction="average")
train.EarlyStopping(patience="3")
storage.tensor([1.0]).permute("x")
nn.Conv2d(3, 8, 3, padding="sane", rngs=nnx.Rngs(0))
optim.sgd("0.1")
train.fit("learner", None, {}, epochs=1)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with a copy of the package in it, not a source tree, and this
    environment's other packages.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=os.name != "nt")
    packages = next(path for path in home.rglob("site-packages") if path.parent.name != "lib64")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copytree(
        ROOT / "dlwp_jax", packages / "dlwp_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    return home


def pyright(home, *arguments):
    """pyright's report, made far from the source tree."""
    assert importlib.util.find_spec("pyright"), "pyright is missing; scripts/test installs it"
    scripts = next(path for path in (home / "bin", home / "Scripts") if path.exists())
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    environment.pop("VIRTUAL_ENV", None)
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "pyright", "--outputjson", *map(str, arguments)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_public_api_is_typed(installed):
    report = pyright(installed, "--ignoreexternal", "--verifytypes", "dlwp_jax")[
        "typeCompleteness"
    ]
    assert report["packageName"] == "dlwp_jax"
    assert report["pyTypedPath"]
    said = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in report["symbols"]
        for diagnostic in symbol["diagnostics"]
        if diagnostic["severity"] == "error"
    ]
    bare = [
        message for message in said if "annotation" in message and "inferred" not in message
    ]
    assert not bare, "\n".join(bare)
    assert report["completenessScore"] >= COMPLETE, "\n".join(said)


def test_a_users_program_is_understood(installed):
    program = installed / "program.py"
    shutil.copy(typed_program.__file__, program)
    imports = "from flax import nnx\n\nfrom dlwp_jax import losses, nn, optim, storage, train\n"
    wrong = installed / "wrong.py"
    wrong.write_text(imports + WRONG)
    report = pyright(installed, program, wrong)
    assert report["summary"]["filesAnalyzed"] == 2
    errors = {
        (Path(found["file"]).name, found["range"]["start"]["line"])
        for found in report["generalDiagnostics"]
    }
    lines = wrong.read_text().splitlines()
    assert errors == {
        (wrong.name, i) for i, line in enumerate(lines) if line and line + "\n" in WRONG
    }, report


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = torch.nn.Linear(1, 4), torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


def test_the_users_program_runs(tmp_path):
    x = jnp.linspace(-1, 1, 8)[:, None]
    batch = {"x": x, "y": x**2}
    _, loss = typed_program.trained(batch, str(tmp_path / "checkpoints"))
    assert 0 < loss < 1
    assert typed_program.swept(batch).values["lr"] in (pytest.approx(0.1), pytest.approx(0.2))
    second, doubled, kernel = typed_program.viewed()
    assert second.tolist() == [[1.0, 3.0]] * 2
    assert doubled.tolist() == [[8.0, 2.0], [10.0, 6.0]]
    assert kernel.shape == (3, 3, 3, 8)
    assert typed_program.compared(TorchNet(), torch.linspace(-1, 1, 5)[:, None])
