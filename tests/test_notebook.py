"""Experiments as notebooks: every script is cut into cells that hold all of it, and one runs
end to end.
"""

import ast
import os
import subprocess
import sys

import nbformat
import pytest

from experiments import notebook
from experiments.__main__ import names
from tests.conftest import ROOT


@pytest.mark.parametrize("name", names())
def test_the_cells_hold_the_whole_script_in_its_order(name):
    source = (ROOT / "experiments" / f"{name}.py").read_text()
    pieces = notebook.cells(source)
    assert ast.dump(ast.parse("\n".join(pieces))) == ast.dump(ast.parse(source))
    comments = [line for line in source.splitlines() if line.startswith("#")]
    assert [
        line for piece in pieces for line in piece.splitlines() if line.startswith("#")
    ] == comments
    nbformat.validate(notebook.convert(name))


def written(*args, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.notebook", *args]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
def test_a_notebook_runs_from_its_first_cell_to_its_pictures(tmp_path):
    ran = written("ch05_thermometer", "--run", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    node = nbformat.read(tmp_path / "notebooks" / "ch05_thermometer.ipynb", as_version=4)
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    told = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "equal the book's in every digit" in told
    assert "DIFFER" not in told
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_a_notebook_that_was_worked_on_is_not_written_over(tmp_path):
    path = tmp_path / "ch03_strides.ipynb"
    path.write_text("mine")
    assert written("ch03_strides", "--out", ".", cwd=tmp_path).returncode == 0
    ran = written("ch03_strides", "--out", ".", "--run", cwd=tmp_path)
    assert (ran.returncode, "is no notebook" in ran.stderr, "Traceback" in ran.stderr) == (
        1,
        True,
        False,
    )
    assert path.read_text() == "mine"
    assert written("ch03_strides", "--out", ".", "--fresh", cwd=tmp_path).returncode == 0
    nbformat.validate(nbformat.read(path, as_version=4))


def test_a_failing_cell_is_named_and_the_notebook_stays_as_it_was(tmp_path):
    assert written("ch03_strides", "--out", ".", cwd=tmp_path).returncode == 0
    path = tmp_path / "ch03_strides.ipynb"
    node = nbformat.read(path, as_version=4)
    node.cells.insert(1, nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(node, path)
    before = path.read_bytes()
    ran = written("ch03_strides", "--out", ".", "--run", cwd=tmp_path)
    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr
    assert "Traceback (most recent call last):\n  File" not in ran.stderr
    assert path.read_bytes() == before
    assert written("ch03_stride", cwd=tmp_path).returncode == 1
