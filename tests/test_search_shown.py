"""What is shown of the searches: the experiment as a person runs it, and the code of the page."""

import re

import pytest

from experiments import ch05_overfitting as experiment
from tests.conftest import ROOT


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
    assert len((tmp_path / "ch05_overfitting" / "history.jsonl").read_text().splitlines()) == 1000


@pytest.mark.slow
def test_the_pages_python_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "search.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, "search.md", "exec"), names)
    shown = capsys.readouterr().out
    for words in ("\nmemorised", "is suggested", "12 trainings by vmap", "is recommended", "more data would"):
        assert words in f"\n{shown}"
