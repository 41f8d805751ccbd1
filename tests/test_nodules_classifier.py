"""Chapters 11 and 12: the commands as a person runs them, augmentation, ROC, streams."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy import special
from sklearn import metrics
from torch.nn import functional

from dlwp_jax import data, nn
from dlwp_jax.data import augment as library
from dlwp_jax.data import table
from experiments.nodules import augment, classify, detector
from experiments.nodules.candidates import Candidates
from experiments.nodules.classifier import (
    ALL,
    NONE,
    Oftener,
    Stream,
    beginner,
    examples,
    learn,
    log_odds,
    loss_fn,
    score,
)
from experiments.nodules.source import Chunks

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


# ROC


@pytest.mark.parametrize("digits", [1, 6])
def test_roc_equals_scikit_learns(digits):
    label = RNG.integers(0, 2, 300)
    value = (RNG.normal(size=300) + label).round(digits)  # with ties, if rounded to one digit
    ours = table.roc(label, value)
    alarms, found, cut = metrics.roc_curve(label, value, drop_intermediate=False)
    np.testing.assert_allclose(ours.false_positive_rate, alarms, atol=1e-12)
    np.testing.assert_allclose(ours.true_positive_rate, found, atol=1e-12)
    np.testing.assert_array_equal(ours.threshold, cut)
    assert ours.area == pytest.approx(metrics.roc_auc_score(label, value), abs=1e-12)


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ([1, 1], [0.1, 0.2], "0 negatives"),
        ([0, 1], [0.1, np.nan], "NaN"),
        ([0, 2], [0.1, 0.2], "0 or 1 for each score"),
        ([0, 1], [0.1], "0 or 1 for each score"),
    ],
)
def test_roc_of_nothing_is_refused(label, value, message):
    with pytest.raises(ValueError, match=message):
        table.roc(label, value)


# Augmentation on the device


def test_every_example_of_a_batch_is_changed_by_its_own_key():
    """Referee: `augment`, itself compared with torch's `grid_sample` and the book's chunks."""
    image = jnp.asarray(RNG.integers(-1000, 400, (3, 4, 6, 6, 1)), jnp.int16)
    batch = {"image": image, "label": jnp.arange(3)}
    key = jax.random.key(1)
    changed = jax.jit(ALL)(key, batch)
    one = functools.partial(
        library.augment, flips=True, offset=0.1, stretch=0.2, turn=2 * np.pi, std=25.0
    )
    for i, own in enumerate(jax.random.split(key, 3)):
        wanted = one(own, image[i].astype(jnp.float32))
        np.testing.assert_allclose(changed["image"][i], wanted, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(changed["label"], batch["label"])


def test_amounts_that_are_data_change_an_image_like_amounts_that_are_not():
    image = jnp.asarray(RNG.normal(-500, 300, (4, 6, 6, 1)), jnp.float32)
    key = jax.random.key(2)
    for kind, options in (
        ("all", {"flips": True, "turn": 2 * np.pi, "std": 25.0}),
        ("none", {}),
    ):
        if kind == "all":
            options |= {"offset": 0.1, "stretch": 0.2}
        ours = augment.change(key, image, jnp.asarray(augment.KINDS[kind]))
        wanted = library.augment(key, image, **options)
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-2)


def test_evaluation_changes_the_type_alone():
    image = RNG.integers(-1000, 400, (3, 4, 6, 6, 1)).astype(np.int16)
    seen = ALL.evaluate(jax.random.key(0), {"image": jnp.asarray(image)})["image"]
    np.testing.assert_array_equal(seen, image.astype(np.float32))
    np.testing.assert_array_equal(
        NONE(jax.random.key(0), {"image": jnp.asarray(image)})["image"], seen
    )
    half = {"image": jnp.asarray(image, jnp.bfloat16)}
    assert ALL.evaluate(jax.random.key(0), half)["image"].dtype == jnp.bfloat16


def test_probabilities_are_those_of_the_scans_though_nodules_come_oftener():
    """Referee: torch's cross entropy, and the rule of Bayes in NumPy."""
    labels = np.array([1, 0, 0, 0, 0, 0, 1, 0, 0, 0])  # one in five; trained on one in three
    odds = log_odds(labels, ratio=2)
    in_scans = RNG.uniform(0.01, 0.9, 6)
    in_training = in_scans * (1 / 3) / 0.2
    in_training /= in_training + (1 - in_scans) * (2 / 3) / 0.8
    logits = jnp.asarray(np.log(np.stack([1 - in_scans, in_scans], axis=1)))
    batch = {"image": jnp.zeros((6, 1, 1, 1, 1)), "label": jnp.asarray(labels[:6])}
    seen = Oftener(NONE, odds)(jax.random.key(0), batch)
    loss, _ = loss_fn(lambda _: (logits, None), seen)
    wanted = functional.nll_loss(
        torch.log(torch.tensor(np.stack([1 - in_training, in_training], axis=1))),
        torch.tensor(labels[:6]),
    )
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    assert "log_odds" not in Oftener(NONE, odds).evaluate(jax.random.key(0), batch)


# Training


def made_up(n=48):
    """Bright balls among noise, in four scans of which one is held back."""
    is_nodule = np.arange(n) % 3 == 0
    voxels = RNG.normal(-800, 50, (n, 16, 16, 16))
    voxels[is_nodule, 5:11, 5:11, 5:11] = 0
    series = np.array([f"s{i % 4}" for i in range(n)])
    candidates = Candidates(series, np.zeros((n, 3)), np.zeros(n), is_nodule, is_nodule)
    return Chunks(voxels.round().astype(np.int16), candidates, series == "s0")


class Flat(nnx.Module):
    """The smallest classifier: one linear layer on all voxels."""

    def __init__(self):
        self.linear = nn.Linear(24, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        logits = self.linear(x.reshape(len(x), -1))
        return logits, jax.nn.softmax(logits)


def test_mirrored_is_the_mean_over_four_mirror_images():
    """Referee: SciPy's softmax of NumPy's slices."""
    n = detector.BATCH + 5
    model = Flat()
    weight, bias = np.asarray(model.linear.kernel[...]), np.asarray(model.linear.bias[...])
    chunks = RNG.normal(0, 3, (n, 2, 3, 4)).astype(np.float32)
    images = [chunks[:, :, ::rows, ::columns] for rows in (1, -1) for columns in (1, -1)]
    each = [special.softmax(x.reshape(n, -1) @ weight + bias, axis=1)[:, 1] for x in images]
    trained = detector.ready(model)
    for mirrored, wanted in ((True, np.mean(each, axis=0)), (False, each[0])):
        found = detector.probabilities(trained, chunks.__getitem__, n, mirrored=mirrored)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_stream_reads_the_rows_of_the_sampler_and_goes_on_from_an_epoch():
    chunks = made_up()
    rows = np.flatnonzero(~chunks.is_held)
    labels = chunks.candidates.is_nodule[rows].astype(int)
    read = functools.partial(examples, chunks)
    stream = Stream(read, rows, data.balanced(labels, n=10), batch_size=4, seed=0)
    epochs = [list(stream) for _ in range(3)]
    assert [len(batch["label"]) for batch in epochs[0]] == [4, 4, 2]
    for epoch in epochs:
        assert np.concatenate([batch["label"] for batch in epoch]).tolist() == [1, 0] * 5
    other = Stream(read, rows, data.balanced(labels, n=10), batch_size=4, seed=0)
    other.set_state({"epoch": 2})
    for batch, wanted in zip(other, epochs[2], strict=True):
        np.testing.assert_array_equal(batch["image"], wanted["image"])
    known = {box.tobytes() for box in examples(chunks, rows)["image"]}
    assert {box.tobytes() for box in epochs[0][0]["image"]} <= known


@pytest.mark.slow
def test_a_training_from_the_disk_is_taken_up_and_finds_what_scikit_learn_counts(tmp_path):
    chunks = made_up()
    labels = chunks.candidates.is_nodule[~chunks.is_held].astype(int)
    options = {
        "sampler": data.balanced(labels, n=16),
        "transform": NONE,
        "epochs": 1,
        "batch_size": 8,
    }
    new = beginner((16, 16, 16), channels=1, steps=2)
    disk = learn(chunks, *new, memory=0, checkpoint=tmp_path / "checkpoint", **options)
    for name in ("train/accuracy", "train/recall", "val/recall", "val/loss"):
        assert np.isfinite(disk.history[name]).all()
    again = learn(chunks, *new, memory=0, checkpoint=tmp_path / "checkpoint", **options)
    for name, values in disk.history.items():
        np.testing.assert_array_equal(again.history[name], values)
    ours = score(disk, chunks, chunks.is_held)
    wanted = metrics.recall_score(ours.label, ours.probability > 0.5)
    assert float(disk.history["val/recall"][0]) == pytest.approx(wanted)


SMALL = {"scans": 5, "samples": 16, "unbalanced": 16, "channels": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_classify_as_a_person_runs_it(cache, tmp_path, capsys):
    classify.main(classify.Config(**SMALL, epochs=1, cache=cache, out=tmp_path))
    shown = capsys.readouterr().out
    assert "unbalanced, " in shown
    assert "ROC area" in shown
    run = tmp_path / "nodules_classify"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "history_unbalanced.jsonl",
        "history_balanced.jsonl",
        "training.png",
        "roc.png",
        "classifier.safetensors",
    }
    line = json.loads((run / "history_balanced.jsonl").read_text().splitlines()[0])
    assert {"val/f1", "val/recall", "val/precision", "train/loss"} <= set(line)


@pytest.mark.slow
def test_augment_as_a_person_runs_it(cache, tmp_path, capsys, monkeypatch):
    kinds = {name: augment.KINDS[name] for name in ("none", "all")}
    monkeypatch.setattr(augment, "KINDS", kinds)
    augment.main(augment.Config(**SMALL, epochs=1, cache=cache, out=tmp_path))
    rows = capsys.readouterr().out.splitlines()
    table_rows = [row.split() for row in rows if row.startswith(("none ", "all "))]
    assert [len(row) for row in table_rows] == [5, 5]
    run = tmp_path / "nodules_augment"
    assert (run / "augmentations.png").exists()
    assert (run / "history_all.jsonl").exists()


def test_numbers_that_make_no_training_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        classify.Config(samples=0)
