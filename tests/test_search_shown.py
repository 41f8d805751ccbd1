"""What is shown of the searches: the experiment as a person runs it."""

import re

import pytest

from experiments import ch05_overfitting as experiment


@pytest.mark.parametrize("width", [-1, 0, 16])
def test_a_width_that_is_not_too_big_is_refused(width):
    with pytest.raises(
        ValueError, match=f"--width must be above 16, to be too big; got {width}"
    ):
        experiment.Config(width=width)


@pytest.mark.slow
def test_the_experiment_as_a_person_runs_it(tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    experiment.main(experiment.Config(out=tmp_path, epochs=1000))
    shown = capsys.readouterr().out
    rows = {line[:20].strip(): line for line in shown.splitlines()}
    assert rows["no cure"].endswith("  overfitting")
    better = re.search(r"(\d) of 5 cures end lower than no cure", shown)
    assert int(better[1]) >= 4
    assert "<-- recommended" in shown
    assert not re.search(rf"^ +{experiment.Config.width} .*recommended", shown, re.MULTILINE)
    for name in ("cures.png", "capacity.png"):
        assert (tmp_path / "ch05_overfitting" / name).read_bytes().startswith(b"\x89PNG")
    assert (
        len((tmp_path / "ch05_overfitting" / "history.jsonl").read_text().splitlines()) == 1000
    )
