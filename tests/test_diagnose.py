"""The diagnosis of a history: the four panels of chapter 5, what must not change a verdict,
wrong input.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlwp_jax import plots, search, train
from dlwp_jax.diagnose import VERDICTS, Diagnosis, diagnose

EPOCHS = np.arange(1, 101)
FALLING = 0.2 + 2 * np.exp(-EPOCHS / 10)


def noise(seed, size=0.01):
    return size * np.random.default_rng(seed).normal(size=len(EPOCHS))


def panel(train, val):
    return {"train/loss": train + noise(0), "val/loss": val + noise(1)}


PANELS = {
    "not learning": panel(np.full(100, 2.0), np.full(100, 2.1)),
    "overfitting": panel(FALLING - 0.001 * EPOCHS, FALLING + 0.002 * EPOCHS),
    "good fit": panel(FALLING, FALLING),
    "overfitting under control": panel(FALLING, FALLING + 0.2),
}


@pytest.mark.parametrize("verdict", PANELS)
def test_the_four_panels_of_chapter_5(verdict):
    diagnosis = diagnose(PANELS[verdict])
    assert diagnosis.verdict == verdict
    assert str(diagnosis).splitlines() == [
        verdict,
        str(diagnosis).splitlines()[1],
        diagnosis.advice[0],
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [0.0, 0.003, 0.015])
def test_noise_does_not_change_the_likeliest_verdict(seed, size):
    shapes = {
        "not learning": (np.full(100, 2.0), np.full(100, 2.1)),
        "overfitting": (FALLING - 0.001 * EPOCHS, FALLING + 0.002 * EPOCHS),
        "good fit": (FALLING, FALLING),
        "overfitting under control": (FALLING, FALLING + 0.2),
    }
    for verdict, (learned, judged) in shapes.items():
        history = {
            "train/loss": learned + noise(seed, size),
            "val/loss": judged + noise(seed + 100, size),
        }
        assert diagnose(history).candidates[0] == verdict


OTHERS = {
    "still falling": (
        "not converged",
        {"train/loss": 3 - 0.02 * EPOCHS, "val/loss": 3.1 - 0.02 * EPOCHS},
    ),
    "high and together": (
        "underfitting or good fit",
        {"train/loss": 2 + FALLING, "val/loss": 2 + FALLING},
    ),
    "high and together, hardly learned": (
        "underfitting",
        {"train/loss": 9 + FALLING, "val/loss": 9 + FALLING},
    ),
    "to infinity": (
        "diverged",
        {"train/loss": [1.0, 50.0, np.inf], "val/loss": [1.0, 60.0, np.nan]},
    ),
    "to a large number": ("diverged", {"train/loss": 1.1**EPOCHS, "val/loss": 1.1**EPOCHS}),
    "three epochs": (
        "too few epochs to tell",
        {"train/loss": [3.0, 2.0, 1.0], "val/loss": [3.0, 2.0, 1.5]},
    ),
    "one epoch": ("too few epochs to tell", {"train/loss": [3.0]}),
    "constant": (
        "not learning",
        {"train/loss": np.full(50, 2.3), "val/loss": np.full(50, 2.3)},
    ),
    "constant zero": ("not learning", {"train/loss": np.zeros(50), "val/loss": np.zeros(50)}),
    "accuracy, together": (
        "good fit",
        {f"{k}/accuracy": 1 - FALLING / 5 for k in ("train", "val")},
    ),
    "accuracy, val falls": (
        "overfitting",
        {"train/accuracy": 1 - FALLING / 5, "val/accuracy": 1 - FALLING / 5 - 0.001 * EPOCHS},
    ),
    "log-likelihood": (
        "overfitting",
        {"train/loss": FALLING - 5, "val/loss": FALLING - 5 + 0.01 * EPOCHS},
    ),
    "train alone": ("good fit", {"train/loss": FALLING}),
    "val alone": ("overfitting", {"val/loss": FALLING + 0.002 * EPOCHS}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_shapes(case):
    verdict, history = OTHERS[case]
    assert diagnose(history).verdict == verdict


@pytest.mark.parametrize("verdict", PANELS)
def test_containers_nan_tails_and_runs_do_not_matter(verdict):
    history = PANELS[verdict]
    padded = {name: np.append(values, [np.nan] * 30) for name, values in history.items()}
    run = types.SimpleNamespace(history=history, failure=jnp.zeros(2, jnp.int32))
    forms = [{name: values.tolist() for name, values in history.items()}, padded, run]
    for form in [*forms, {name: jnp.asarray(values) for name, values in history.items()}]:
        assert diagnose(form).verdict == verdict


def test_a_run_that_failed_has_diverged_whatever_its_history_shows():
    run = types.SimpleNamespace(history=PANELS["good fit"], failure=jnp.array([101, 3]))
    diagnosis = diagnose(run)
    assert diagnosis.verdict == "diverged"
    assert diagnosis.evidence["failed_epoch"] == 101
    assert "not finite in epoch 101" in str(diagnosis)


@given(
    st.sampled_from(sorted(PANELS)),
    st.floats(-6, 6),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([8, 20, 100]),
)
@settings(max_examples=100, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(verdict, power, seed, has_baseline, length):
    history = {
        name: (values + noise(seed + i))[:length]
        for i, (name, values) in enumerate(sorted(PANELS[verdict].items()))
    }
    scaled = {name: 10**power * values for name, values in history.items()}
    baseline = 2.0 if has_baseline else None
    expected = diagnose(history, baseline=baseline).verdict
    assert (
        diagnose(scaled, baseline=(has_baseline and 10**power * 2.0) or None).verdict
        == expected
    )


@given(st.sampled_from(["not learning", "overfitting"]), st.floats(-1000, -10))
@settings(max_examples=30, deadline=None)
def test_what_a_negative_loss_is_measured_from_does_not_matter(verdict, offset):
    history = {name: values + offset for name, values in PANELS[verdict].items()}
    further = {name: values - 100 for name, values in history.items()}
    assert diagnose(history).verdict == diagnose(further).verdict


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.integers(0, 30).flatmap(
        lambda n: st.tuples(*2 * [st.lists(numbers, min_size=n, max_size=n)])
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_numbers_there_is_a_verdict(columns):
    train, val = columns
    assume(not np.isnan([train, val]).all())
    diagnosis = diagnose({"train/loss": train, "val/loss": val})
    assert set(diagnosis.candidates) <= set(VERDICTS)
    assert (
        diagnosis.verdict == "diverged"
        or len(train) < 8
        or np.isfinite(diagnosis.evidence["scale"])
    )
    assert all(isinstance(value, int | float) for value in diagnosis.evidence.values())


UNSURE = {"train/loss": 1 + FALLING, "val/loss": 1 + FALLING}


def test_two_verdicts_are_named_with_the_call_that_decides():
    """The referee is chapter 5: noise in the targets and a model too simple look the same."""
    unsure = diagnose(UNSURE)
    assert set(unsure.candidates) == {"underfitting", "good fit"}
    assert unsure.verdict == " or ".join(unsure.candidates)
    assert len(unsure.decides) == 1
    assert "search_capacity" in unsure.decides[0]
    assert str(unsure).endswith(unsure.decides[0])
    for reachable, verdict in ((0.2, "underfitting"), (1.19, "good fit")):
        sure = diagnose(UNSURE, baseline={"trivial": 3.0, "reachable": reachable})
        assert (sure.candidates, sure.decides) == ((verdict,), ())
        assert sure.verdict == verdict


def test_a_loss_that_never_falls_below_its_first_value_needs_the_trivial_loss():
    history = {"train/loss": FALLING - 0.001 * EPOCHS, "val/loss": 2 + 0.02 * EPOCHS}
    unsure = diagnose(history)
    assert set(unsure.candidates) == {"uninformative data", "overfitting"}
    assert 'baseline=float(val_set["y"].var())' in unsure.decides[0]
    assert diagnose(history, baseline=2.0).verdict == "uninformative data"
    assert diagnose(history, baseline=9.0).verdict == "overfitting"


def test_a_diagnosis_of_three_parts_still_works():
    made = Diagnosis("good fit", {}, ("Leave it.",))
    assert (made.verdict, made.evidence, made.advice) == ("good fit", {}, ("Leave it.",))
    assert made.candidates == ("good fit",)


def program(epochs=10):
    """What the calls in `decides` need, for a line through noisy points."""

    def make(size=2, key=0, lr=1e-2):
        net = nnx.Sequential(
            nnx.Linear(1, size, rngs=nnx.Rngs(key)),
            jnp.tanh,
            nnx.Linear(size, 1, rngs=nnx.Rngs(key)),
        )
        return train.make_learner(net, loss_fn, optax.adam(lr), key=key)

    def loss_fn(model, batch):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    train_set = val_set = {"x": x, "y": x**2}
    learner, state = make(key=jax.random.key(0))
    result = train.run(learner, state, train_set, val_set, epochs=epochs, batch_size=32)
    return {"np": np, "train": train, "search": search, "diagnose": diagnose} | locals()


@pytest.mark.slow
def test_the_calls_that_decide_run():
    """The referee is the training itself: 10 epochs and then 20 are its 30."""
    scope = program()
    slow = {"train/loss": 3 - 0.05 * EPOCHS[:10], "val/loss": 2.6 - 0.015 * EPOCHS[:10]}
    unsure = diagnose(slow, baseline=2.7)
    calls = {line for d in (unsure, diagnose(UNSURE)) for line in d.decides}
    for call in calls:
        exec(call.replace("[16, 64, 256]", "[1, 2]").replace("epochs=100", "epochs=8"), scope)
    assert scope["more"].history["val/loss"].shape == (20,)
    joined = [scope[name].history["val/loss"] for name in ("result", "more")]
    at_once = program(30)["result"].history["val/loss"]
    np.testing.assert_allclose(np.concatenate(joined), at_once, rtol=1e-5)
    assert {size.size for size in scope["report"].sizes} == {1, 2}


WRONG = {
    "no mapping": ([1.0, 2.0], TypeError, "history must be a Run or its history"),
    "empty": ({}, ValueError, "it holds nothing"),
    "no curve": ({"loss": [1.0]}, ValueError, "it holds 'loss'"),
    "a matrix": (
        {"train/loss": np.zeros((2, 3))},
        ValueError,
        "Diagnose the members of a vmapped training one by one",
    ),
    "words": ({"train/loss": ["a"]}, TypeError, "must hold one number per epoch"),
    "other lengths": (
        {"train/loss": [1.0], "val/loss": [1.0, 2.0]},
        ValueError,
        "must be equally long",
    ),
    "all NaN": ({"train/loss": [np.nan] * 3}, ValueError, "there is nothing to judge"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_histories_are_refused_in_a_sentence(case):
    history, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        diagnose(history)


@pytest.mark.parametrize(
    "baseline", [np.nan, "2", [1.0, 2.0], {"trivial": 1.0, "best": 0.5}, {"reachable": np.inf}]
)
def test_wrong_baselines_are_refused_in_a_sentence(baseline):
    with pytest.raises((ValueError, TypeError), match="baseline"):
        diagnose(PANELS["good fit"], baseline=baseline)


def test_the_eval_mode_loss_is_preferred_where_it_is_recorded():
    dropout = {
        "train/loss": FALLING + 0.3,
        "train/eval_loss": FALLING - 0.001 * EPOCHS,
        "val/loss": FALLING + 0.3,
    }
    assert diagnose(dropout).evidence["gap"] == pytest.approx(0.4, abs=0.02)


def test_what_the_norms_tell_comes_first():
    steady = {"train/grad_norm": np.full(100, 2.0), "train/param_norm": np.full(100, 10.0)}
    jumping = steady | {"train/grad_norm": np.where(EPOCHS == 60, 500.0, 2.0)}
    lazy = steady | {"train/update_norm": np.full(100, 1e-6)}
    dead = {"train/dead_units": np.full(100, 0.6)}
    history = PANELS["not learning"]
    assert diagnose(history | steady).advice == diagnose(history).advice
    assert (
        "explodes: in one epoch its norm was 250 times" in diagnose(history | jumping).advice[0]
    )
    assert "make the learning rate larger" in diagnose(history | lazy).advice[0]
    assert "No gradient reaches 60% of the units" in diagnose(history | dead).advice[0]
    evidence = diagnose(history | lazy | dead).evidence
    assert (evidence["update_ratio"], evidence["dead_units"]) == (pytest.approx(1e-7), 0.6)


def test_the_figure_shows_curves_verdict_and_baseline(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    figure = plots.loss_curves(
        PANELS["overfitting"], baseline={"trivial": 2.0, "reachable": 0.1}
    )
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["train/loss", "val/loss", "trivial loss", "reachable loss", "best epoch"]
    assert figure.axes[0].get_title() == "overfitting"
    plt.close(figure)


def test_stopped_in_time_is_not_overfitting_and_stopped_late_is():
    val = FALLING + 0.002 * EPOCHS
    best = int(np.argmin(val))
    for patience, verdict in ((5, "overfitting under control"), (50, "overfitting")):
        end = best + 1 + patience
        stopped = {"train/loss": FALLING[:end] - 0.001 * EPOCHS[:end], "val/loss": val[:end]}
        diagnosis = diagnose(
            {name: np.append(values, [np.nan] * 20) for name, values in stopped.items()}
        )
        assert (diagnosis.verdict, diagnosis.evidence["epochs_since_best"]) == (
            verdict,
            patience,
        )


def test_a_baseline_tells_what_the_history_cannot():
    end_at_half = {"train/loss": FALLING + 0.8, "val/loss": FALLING + 0.8}
    assert (
        diagnose(end_at_half, baseline={"trivial": 2.0, "reachable": 0.2}).verdict
        == "underfitting"
    )
    assert (
        diagnose(end_at_half, baseline={"trivial": 2.0, "reachable": 0.98}).verdict
        == "good fit"
    )
    assert diagnose(end_at_half, baseline=1.0).verdict == "uninformative data"
    resumed = {"train/loss": 0.2 + noise(0, 0.001), "val/loss": 0.2 + noise(1, 0.001)}
    assert diagnose(resumed).verdict == "not learning"
    assert diagnose(resumed, baseline=2.3).verdict == "good fit"
    as_accuracy = {
        name.replace("loss", "accuracy"): 1 - values / 4 for name, values in end_at_half.items()
    }
    assert (
        diagnose(as_accuracy, baseline={"trivial": 0.5, "reachable": 0.95}).verdict
        == "underfitting"
    )
    assert (
        diagnose(as_accuracy, baseline={"trivial": 0.5, "reachable": 0.755}).verdict
        == "good fit"
    )
    likelihood = {name: values - 5 for name, values in end_at_half.items()}
    assert (
        diagnose(likelihood, baseline={"trivial": -3.0, "reachable": -4.8}).verdict
        == "underfitting"
    )


def test_validation_may_be_measured_less_often_than_training():
    sparse = {name: values.copy() for name, values in PANELS["overfitting"].items()}
    sparse["val/loss"][EPOCHS % 5 != 0] = np.nan
    assert diagnose(sparse).verdict == "overfitting"
    sparse["val/loss"][EPOCHS % 20 != 0] = np.nan
    assert diagnose(sparse).verdict == "too few epochs to tell"


def test_slopes_come_with_errors_that_hold():
    """A slope of 0 is called more than two standard errors from 0 in about one history of
    twenty.
    """
    far = [
        abs(e["val_slope"]) > 2 * e["val_slope_error"]
        for e in (_flat(seed) for seed in range(300))
    ]
    assert np.mean(far) < 0.1


def _flat(seed):
    walk = np.random.default_rng(seed).normal(size=201)
    return diagnose(
        {"val/loss": 10 + walk[1:] + 0.5 * walk[:-1]}
    ).evidence  # autocorrelated noise
