"""Without the packages of an extra, each door names the extra. Referee: Python's own import,
which the names of the packages are hidden from.
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HIDE = "import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
DOORS = {
    "parity": (["torch"], "import dlwp_jax.parity"),
    "data": (["tyro"], "import runpy; runpy.run_module('dlwp_jax.data')"),
    "hdf5": (["h5py"], "from dlwp_jax.data import hdf5; hdf5.read('a.h5')"),
    "experiments": (
        ["matplotlib"],
        "from dlwp_jax import plots; plots.loss_curves({'train/loss': [2.0, 1.0, 0.5]})",
    ),
    "notebook": (["tyro"], "import experiments.notebook"),
}


@pytest.mark.parametrize("extra", DOORS)
def test_a_library_names_its_extra(extra):
    hidden, code = DOORS[extra]
    result = python("-c", HIDE.format(hidden=hidden) + code)
    sentence = f"{hidden[0]} is needed: pip install 'dlwp-jax[{extra}]'"
    assert sentence in result.stderr


@pytest.mark.parametrize("hidden", ["tyro", "matplotlib", "sklearn"])
def test_an_experiment_names_its_extra_in_one_line(hidden):
    code = HIDE.format(hidden=[hidden])
    code += "sys.argv = ['x', 'ch02_pretrained', '--help']\n"
    code += "from experiments.__main__ import main; main()"
    result = python("-c", code)
    sentence = f"{hidden} is needed: pip install 'dlwp-jax[experiments]'"
    assert f"ch02_pretrained: {sentence}" in result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
