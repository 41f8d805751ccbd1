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
    """The shares of trainings with a single verdict, and of these with a right one; and of all
    whose truth is among the verdicts named.
    """
    cases = scripts["known"].cases(groups, seed=1000, cache=tmp_path)
    single, right, named = [], [], []
    for case in cases:
        diagnosis = diagnose(
            case.history, baseline={"trivial": case.trivial, "reachable": case.reachable}
        )
        is_named = bool(set(diagnosis.candidates) & scripts["truth"].acceptable(case.facts))
        named.append(is_named)
        single.append(len(diagnosis.candidates) == 1)
        if single[-1]:
            right.append(is_named)
            assert {diagnosis.verdict, case.truth} != {"overfitting", "underfitting"}
        scaled = {name: 1e4 * np.float64(values) for name, values in case.history.items()}
        assert diagnose(scaled).candidates[0] == diagnose(case.history).candidates[0]
        short = {name: values[:5] for name, values in case.history.items()}
        assert diagnose(short).candidates[0] in ("too few epochs to tell", "diverged")
    return np.mean(single), np.mean(right), np.mean(named)


def test_polynomials(scripts, tmp_path):
    group = next(
        group
        for group in scripts["families"].GROUPS
        if group.family == "poly" and group.n == 40
    )
    single, right, named = check(scripts, (replace(group, members=40),), tmp_path)
    assert single > 0.5
    assert right > 0.9
    assert named > 0.9


@pytest.mark.slow
def test_nets_and_digits(scripts, tmp_path):
    groups = [
        group
        for group in scripts["families"].GROUPS
        if group.family != "poly" and group.n in (300, 600)
    ]
    groups = tuple(replace(group, members=16) for group in groups[::2])
    single, right, named = check(scripts, groups, tmp_path)
    assert single > 0.5
    assert right > 0.9
    assert named > 0.9


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
