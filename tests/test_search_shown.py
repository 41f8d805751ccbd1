"""What is shown of the searches: the experiment as a person runs it."""

import math
import re

import pytest

from experiments import ch05_overfitting as experiment


@pytest.mark.parametrize("width", [-1, 0, 16])
def test_a_width_that_is_not_too_big_is_refused(width):
    with pytest.raises(ValueError, match=f"--width must be larger than 16; got {width}"):
        experiment.Config(width=width)


@pytest.mark.parametrize("flags", [{"epochs": 0}, {"seeds": 0}, {"lr": 0.0}, {"lr": math.nan}])
def test_wrong_settings_are_refused_before_any_training(flags):
    with pytest.raises(ValueError, match=f"--{next(iter(flags))} must be"):
        experiment.Config(**flags)


@pytest.mark.slow
def test_the_experiment_prints_what_its_docstring_expects(tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    experiment.main(experiment.Config(out=tmp_path))
    shown = capsys.readouterr().out
    assert "no cure: overfitting\n" in shown
    assert re.search(r"^L2 penalty 0\.01: .*overfitting under control$", shown, re.MULTILINE)
    assert shown.count("with 5 of 5 seeds") == 5  # every cure
    words = " ".join(experiment.__doc__.split())
    (low, high) = map(float, re.search(r"between (\d+) and (\d+) °C²", words).groups())
    (end,) = map(float, re.search(r"L2 penalty of 0.01 it ends at (\d\.\d)", words).groups())
    number = r" +(\d+\.\d)"
    none = re.search(rf"^no cure{number}{number}{number}", shown, re.MULTILINE)
    cured = re.search(rf"^L2 penalty 0.01{number}{number}{number}", shown, re.MULTILINE)
    assert low <= float(none[1]) < float(none[3]) <= high
    assert abs(float(cured[2]) - end) <= 0.1
    assert "Size 1 is recommended" in shown
    here = tmp_path / "ch05_overfitting"
    for name in ("cures.png", "capacity.png"):
        assert (here / name).read_bytes().startswith(b"\x89PNG")
    history = (here / "history.jsonl").read_text().splitlines()
    assert len(history) == experiment.Config.epochs
