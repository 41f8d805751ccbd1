"""A small sample of scripts/diagnosis: verdicts on real trainings against what the trainings
really were.
"""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlwp_jax.diagnose import diagnose

SCRIPTS = Path(__file__).parents[1] / "scripts" / "diagnosis"


@pytest.fixture
def scripts(monkeypatch):
    """The modules of scripts/diagnosis."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return {name: importlib.import_module(name) for name in ("families", "truth", "known")}


def check(scripts, groups, tmp_path):
    cases = scripts["known"].cases(groups, seed=1000, cache=tmp_path)
    fair = 0
    for case in cases:
        diagnosis = diagnose(
            case.history, baseline={"trivial": case.trivial, "reachable": case.reachable}
        )
        fair += diagnosis.verdict in scripts["truth"].acceptable(case.facts)
        assert {diagnosis.verdict, case.truth} != {
            "overfitting",
            "underfitting",
        } or diagnosis.evidence["margin"] < 0.2
        scaled = {name: 1e4 * np.float64(values) for name, values in case.history.items()}
        assert diagnose(scaled).verdict == diagnose(case.history).verdict
        short = {name: values[:5] for name, values in case.history.items()}
        assert diagnose(short).verdict in ("too few epochs to tell", "diverged")
    return fair / len(cases)


def test_polynomials(scripts, tmp_path):
    group = next(
        group
        for group in scripts["families"].GROUPS
        if group.family == "poly" and group.n == 40
    )
    assert (
        check(scripts, (group,), tmp_path) > 0.8
    )  # 0.925 here; other machines round otherwise


@pytest.mark.slow
def test_nets_and_digits(scripts, tmp_path):
    groups = [
        group
        for group in scripts["families"].GROUPS
        if group.family != "poly" and group.n in (300, 600)
    ]
    assert (
        check(scripts, tuple(replace(group, members=16) for group in groups[::2]), tmp_path)
        > 0.8
    )


def test_truth_follows_its_table(scripts):
    truth = scripts["truth"]
    falling = 0.1 + np.exp(-np.arange(1, 301) / 10)
    facts = truth.Facts(falling, falling, 100, 0, True, 1.0, 0.1)
    assert truth.truth(facts) == "good fit"
    assert truth.truth(replace(facts, reachable=0.0)) in truth.acceptable(
        replace(facts, reachable=0.0)
    )
    assert truth.truth(replace(facts, test=falling + 0.001 * np.arange(300))) == "overfitting"
    assert truth.truth(replace(facts, test=falling + 0.2)) == "overfitting under control"
    assert (
        truth.truth(replace(facts, test=falling + 0.5, clean=falling + 0.5)) == "underfitting"
    )
    assert truth.truth(replace(facts, epochs=20)) == "not converged"
    assert truth.truth(replace(facts, failed=50)) == "diverged"
    assert truth.truth(replace(facts, failed=150)) == "good fit"  # after the history's end
    assert truth.truth(replace(facts, informative=False)) == "uninformative data"
    flat = np.full(300, 1.0)
    assert truth.truth(replace(facts, test=flat, clean=flat)) == "not learning"
