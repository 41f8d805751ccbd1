"""Metrics and orders of the classifier against the recorded outputs of the book's own code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlwp_jax import data
from dlwp_jax.data import table
from experiments.nodules import candidates, classifier
from experiments.nodules.classifier import Scores


def book_values(recorded, case=""):
    return dict(zip(recorded[f"keys{case}"], recorded[f"values{case}"], strict=True))


def logged(recorded):
    """What the loss function logs for the recorded probabilities."""
    label, probability, _ = recorded["metrics"]
    logits = jnp.log(jnp.stack([1 - probability, probability], axis=1))
    batch = {"image": logits, "label": jnp.asarray(label, jnp.int32)}
    _, metrics = classifier.loss_fn(lambda image: (image, None), batch)
    return {name: float(getattr(metric, "value", metric)) for name, metric in metrics.items()}


def test_what_training_logs_is_what_the_book_logs(golden):
    recorded = np.load(golden / "metrics_ch12.npz")
    values, ours = book_values(recorded, "_0"), logged(recorded)
    assert ours["accuracy"] == pytest.approx(values["correct/all"] / 100, rel=1e-5)
    assert ours["precision"] == pytest.approx(values["pr/precision"], rel=1e-5)
    assert ours["recall"] == pytest.approx(values["pr/recall"], rel=1e-5)
    assert ours["f1"] == pytest.approx(values["pr/f1_score"], rel=1e-5)


@pytest.mark.parametrize(("case", "threshold"), [("_0", 0.5), ("_1", 0.3)])
def test_scores_at_a_threshold_are_the_books(golden, case, threshold):
    recorded = np.load(golden / "metrics_ch12.npz")
    label, probability, _ = recorded["metrics"]
    ours, values = Scores(label, probability).at(threshold), book_values(recorded, case)
    assert ours["f1"] == pytest.approx(values["pr/f1_score"], rel=1e-5)
    assert ours["accuracy"] == pytest.approx(values["correct/all"] / 100, rel=1e-5)


def test_if_nothing_is_found_precision_is_undefined_and_f1_is_none(golden):
    """The book's F1 is NaN then, a mean of an undefined number; as a ratio of counts, 0."""
    recorded = np.load(golden / "metrics_ch12_nothing_found.npz")
    values, ours = book_values(recorded), logged(recorded)
    assert np.isnan(values["pr/precision"])
    assert np.isnan(ours["precision"])
    assert ours["recall"] == values["pr/recall"] == 0
    assert ours["f1"] == 0
    assert ours["accuracy"] == pytest.approx(values["correct/all"] / 100)


def test_the_area_under_the_curve_is_the_books(golden):
    recorded = np.load(golden / "metrics_ch14.npz")
    label, _, probability, _ = recorded["metrics"]
    curve = table.roc(label, probability, thresholds=np.linspace(1, 0, 100, dtype=np.float32))
    np.testing.assert_allclose(curve.false_positive_rate, recorded["fpr"], rtol=1e-5)
    np.testing.assert_allclose(curve.true_positive_rate, recorded["tpr"], rtol=1e-5)
    assert curve.area == pytest.approx(float(recorded["score_malignant"]), rel=1e-5)
    scores = Scores(label, probability).at()
    assert scores["f1"] == pytest.approx(float(recorded["score"]), rel=1e-5)


def test_benign_malignant_and_other_candidates_take_turns_as_in_the_book(golden):
    recorded = np.load(golden / "malignant_order.npz")
    labels = np.repeat([0, 1, 2], recorded["lengths"])
    wanted = recorded["list_1"]
    sampler = data.balanced(labels, order=(1, 2, 0, 2), n=len(wanted), shuffle=False)
    rows = np.asarray(sampler(jax.random.key(0), 0))
    np.testing.assert_array_equal(labels[rows], wanted)


def test_scans_are_held_back_as_in_chapter_14(golden):
    recorded = np.load(golden / "validation_split.npz")
    held = candidates.held_back(recorded["series"], stride=3)
    np.testing.assert_array_equal(np.flatnonzero(held), recorded["validation_ch14"])
    np.testing.assert_array_equal(np.flatnonzero(~held), recorded["training_ch14"])
