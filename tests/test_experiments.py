"""The experiments' command line, as a person types it."""

import os
import re
import shlex
import signal
import subprocess
import sys

import jax
import pytest

from dlwp_jax import regularization, terminal
from experiments import ch03_strides, ch05_overfitting, nodules
from experiments.__main__ import main, run
from tests.conftest import ROOT


def experiments(*args, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "experiments", *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_list_names_every_experiment_with_one_line(tmp_path):
    listed = experiments("--list", cwd=tmp_path).stdout.splitlines()
    written = sorted(path.stem for path in (ROOT / "experiments").glob("ch*.py"))
    written += [f"nodules {command}" for command in nodules.COMMANDS]
    assert [line.split("  ")[0] for line in listed] == written
    assert all(re.search(r"Chapters? \d", line) for line in listed)


def test_help_shows_the_flags_and_the_docstring(tmp_path):
    shown = experiments("ch05_thermometer", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    for words in ("--seed", "--out", "Chapter 5"):
        assert words in shown.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ch05_termometer"], "did you mean ch05_thermometer?"),
        (["ch05"], "did you mean ch05_overfitting or ch05_thermometer?"),
        (["convolution"], "did you mean ch08_convolution?"),
        (["clasify"], "did you mean nodules classify?"),
        (["nodules", "clasify"], "did you mean classify?"),
        (["--sed", "3"], "no experiment is called '--sed'"),
        (["ch05_thermometer", "--epoch", "3"], "--epoch"),
        (["ch05_thermometer", "--seed", "three"], "three"),
        (["ch05_thermometer", "--out", "/proc/nowhere"], "cannot be made"),
    ],
)
def test_wrong_words_are_refused(tmp_path, args, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments", *args])
    with pytest.raises(SystemExit) as refused:
        main()
    shown = capsys.readouterr()
    assert refused.value.code not in (0, None)
    assert message in f"{refused.value.code} {shown.out} {shown.err}"
    assert list(tmp_path.iterdir()) == []


def test_nodules_without_a_command_says_what_it_runs(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("experiments.__main__.run", lambda name, flags: ran.append(name))
    monkeypatch.setattr(sys, "argv", ["experiments", "nodules"])
    main()
    assert ran == [f"nodules.{chapter}" for chapter in nodules.CHAPTERS]
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*nodules.CHAPTERS, "minutes", "nodules --help"))


def test_a_refusal_has_no_traceback(tmp_path):
    refused = experiments("ch03_strides", "--rows", "1", cwd=tmp_path)
    assert refused.returncode != 0
    assert "--rows" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "asked",
    [
        "experiments --help",
        "experiments --list",
        "experiments ch03_strides",
        "experiments ch05_thermometer --help",
        "experiments ch05_thermometer --epoch 3",
        "experiments.notebook --help",
        "dlwp_jax.data list",
    ],
)
def test_a_reader_who_goes_away_is_met_with_silence(tmp_path, asked):
    unbuffered = "1" * (asked.count(" ") > 1)  # both ways come to their end otherwise
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": unbuffered,
    }
    reader, writer = os.pipe()
    os.close(reader)  # gone before the first line, so that every write finds it so
    stderr = writer if "--epoch" in asked else subprocess.PIPE  # where what is refused is told
    command = [sys.executable, "-m", *asked.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, stdout=writer, stderr=stderr, text=True, timeout=900
    )
    os.close(writer)
    assert (done.returncode, done.stderr or "") == (terminal.CLOSED, "")


def test_a_closed_output_is_no_error(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{shlex.quote(sys.executable)} -m experiments --list >&-"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        timeout=900,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupted_experiment_says_so(monkeypatch):
    def main(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ch03_strides, "main", main)
    with pytest.raises(SystemExit, match="ch03_strides: interrupted"):
        run("ch03_strides", [])


def test_the_library_imports_without_what_only_scripts_need(tmp_path):
    """The GPU machines have jax, flax, optax and little else: nothing heavier may be imported
    at the door.
    """
    absent = "tyro pooch pydicom grain pandas matplotlib PIL SimpleITK av sklearn torch "
    absent += "safetensors jaxtyping"
    code = f"""
import sys
for name in "{absent}".split():
    sys.modules[name] = None
import dlwp_jax
for name in dlwp_jax.__all__:
    getattr(dlwp_jax, name)
print("imported", len(dlwp_jax.__all__))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.stdout.startswith("imported"), done.stderr


def test_only_parity_imports_torch():
    for path in (ROOT / "dlwp_jax").rglob("*.py"):
        if "parity" not in path.relative_to(ROOT).parts[1]:
            assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE), (
                path
            )


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_of_an_experiment_with_what_there_is(tmp_path, monkeypatch, capsys):
    """The signal comes with the first step; the losses until then are shown."""
    calls = []
    penalty = regularization.l2

    def raise_once():
        calls.append(0)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)

    def interrupting(model, biases):
        jax.debug.callback(raise_once)
        return penalty(model, biases=biases)

    monkeypatch.setattr(regularization, "l2", interrupting)
    ch05_overfitting.main(ch05_overfitting.Config(epochs=100000, out=tmp_path))
    out = capsys.readouterr().out
    assert "interrupted after" in out
    assert "no cure: " in out
    assert (tmp_path / "ch05_overfitting" / "history.jsonl").exists()
