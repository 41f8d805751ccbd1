"""The pages: their code runs and prints what they show, their links lead somewhere, the map of ideas is whole."""

import pytest

from tests import pages

SLOW = {"search.md"}


def _with_code() -> list:
    found = [page for page in pages.PAGES if pages.blocks(page) and page.stem not in ("torch_to_jax", "coming_from_torch")]
    return [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.name in SLOW)) for page in found]


@pytest.mark.parametrize("page", _with_code())
def test_the_pages_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pytest.importorskip("matplotlib").use("Agg")
    for block, printed in pages.run(page, {}):
        if block.printed is not None:
            wrong = pages.difference(printed, block.printed)
            assert wrong is None, f"{page.name}, line {block.line}: {wrong}"


@pytest.mark.parametrize(
    ("printed", "shown", "is_same"),
    [
        ("loss 0.1239 of 3", "loss 0.124 of 3", True),
        ("loss 0.126 of 3", "loss 0.124 of 3", False),
        ("loss 0.124 of 4", "loss 0.124 of 3", False),
        ("rate 2.1e-03", "rate 2e-03", True),
        ("rate 2.1e-02", "rate 2e-03", False),
        ("  a   1", "a 1", True),
        ("took 3.2 s, float32", "took ... s, float32", True),
        ("took 3.2 s, float64", "took ... s, float32", False),
        ("nan", "0.5", False),
    ],
)
def test_what_counts_as_the_same_line(printed, shown, is_same):
    assert pages.same(printed, shown) is is_same
