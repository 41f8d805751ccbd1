"""The right size: small networks inside a large one are the same networks; the recommended size
is the right one.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import nn, optim, regularization, search, train
from dlwp_jax.search import capacity, nested

KEY = jax.random.key(0)


def loss_fn(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}


def wavy(n, seed, noise=0.2):
    x = jax.random.uniform(jax.random.key(seed), (n, 1), minval=-1, maxval=1)
    return {
        "x": x,
        "y": jnp.sin(4 * x) + noise * jax.random.normal(jax.random.key(seed + 1), x.shape),
    }


TRAIN, VAL = wavy(24, 0), wavy(100, 10)


def dense(act=jnp.tanh, tx=None, loss=loss_fn, norm=None):
    """Two hidden layers of one width: two arrays on either side of every hidden unit."""

    def make(width, key):
        r = nnx.Rngs(key)
        hidden = [nn.Linear(1, width, rngs=r), act, *([norm(width)] if norm else [])]
        model = nn.Sequential(
            *hidden, nn.Linear(width, width, rngs=r), act, nn.Linear(width, 1, rngs=r)
        )
        return train.make_learner(model, loss, tx or optax.adam(1e-2), key=key)

    return make


def clipped():
    """A step that looks at all gradients at once, and one that moves parameters without any."""
    return optax.chain(optax.clip_by_global_norm(0.1), optim.sgd(0.3, weight_decay=0.1))


def penalised(model, batch):
    return loss_fn(model, batch)[0] + 1e-2 * regularization.l2(model), {}


@pytest.mark.parametrize(
    "family",
    [
        {
            "act": jax.nn.sigmoid,
            "tx": clipped(),
        },  # sigmoid(0) = 1/2: a dead unit speaks, if one listens
        {"loss": penalised, "norm": nn.BatchNorm1d},
    ],
    ids=["sigmoid, clipped sgd", "tanh, adam, batch norm, l2"],
)
@pytest.mark.slow
def test_a_small_network_inside_a_large_one_is_the_small_network(family):
    """The same initial weights, loss and gradient, and the same weights after training, as
    trained on its own.
    """
    make = dense(**family)
    keys = jax.random.split(KEY, 2)
    learner, states = nested.nest(make, [2, 3, 5], keys, TRAIN)
    # The first size with the first key is compared by `nest` itself; here the second with the
    # second.
    inside = jax.tree.map(lambda a: a[3], states)
    alone, state = make(3, keys[1])
    cut = nested.cut(inside, state)
    # The same draws; multiplied in another order by a program that is compiled without
    # optimization.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        cut.params,
        state.params,
    )
    options = {"epochs": 80, "batch_size": 24}
    expected = train.run(alone, state, TRAIN, **options)
    got = train.run(learner, inside, TRAIN, **options)
    # The direction of Adam's steps is rounded where a gradient is nearly zero.
    np.testing.assert_allclose(
        got.history["train/loss"], expected.history["train/loss"], rtol=2e-3
    )
    statistics = nested.cut(got.state, state).extra
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-2, atol=1e-2),
        statistics,
        expected.state.extra,
    )
    outside = jax.tree.map(
        lambda p, keep: np.abs(np.where(keep, 0, p)).max(),
        got.state.params,
        inside.opt_state.mask,
    )
    assert max(jax.tree.leaves(outside)) == 0


def test_the_initial_distribution_has_the_fan_in_of_the_small_network():
    """torch's Linear draws from U(+-1/sqrt(fan_in)): the output layer's bound is that of the
    width 4, not of 64.
    """
    make = dense()
    _, states = nested.nest(make, [4, 64], jax.random.split(KEY, 200), TRAIN)
    kernel = states.params["4"]["kernel"][:200, :4]  # 200 seeds of the width 4
    assert 0.49 < float(jnp.abs(kernel).max()) <= 0.5
    np.testing.assert_allclose(
        kernel.std(), 0.5 / np.sqrt(3), rtol=0.05
    )  # 800 draws: a standard error of 2 %


class Normed(nnx.Module):
    """Normalises over its hidden units: dead ones would count."""

    def __init__(self, width, rngs):
        self.a, self.n, self.b = (
            nnx.Linear(1, width, rngs=rngs),
            nn.LayerNorm(width),
            nnx.Linear(width, 1, rngs=rngs),
        )

    def __call__(self, x):
        return self.b(self.n(self.a(x)))


def normed(width, key):
    return train.make_learner(Normed(width, nnx.Rngs(key)), loss_fn, optax.adam(1e-2), key=key)


def deep(depth, key):
    r = nnx.Rngs(key)
    hidden = [layer for _ in range(depth) for layer in (jnp.tanh, nn.Linear(4, 4, rngs=r))]
    model = nn.Sequential(nn.Linear(1, 4, rngs=r), *hidden, nn.Linear(4, 1, rngs=r))
    return train.make_learner(model, loss_fn, optax.adam(1e-2), key=key)


UNNESTED = {"sizes": [2, 3], "seeds": 2, "epochs": 10, "batch_size": 24}


@pytest.mark.slow
def test_a_family_that_does_not_nest_is_trained_size_by_size_and_the_reason_told():
    report = search.search_capacity(normed, TRAIN, VAL, **UNNESTED)
    assert "another gradient" in report.how
    assert {found.size for found in report.sizes} == {2, 3}


def test_a_family_that_does_not_nest_is_refused_if_nesting_was_asked_for():
    with pytest.raises(ValueError, match=r"'nested' is not possible.*different parameters"):
        search.search_capacity(deep, TRAIN, VAL, how="nested", **UNNESTED)


ADAM = optax.adam(1e-2)


def small(width, key, tx=ADAM, **options):
    model = nn.Sequential(
        nn.Linear(1, width, rngs=nnx.Rngs(key)),
        jax.nn.sigmoid,
        nn.Linear(width, 1, rngs=nnx.Rngs(key)),
    )
    return train.make_learner(model, loss_fn, tx, key=key, **options)


@pytest.mark.slow
def test_inside_the_large_one_the_loss_is_scaled_too():
    """The optimizer's state was made anew there, and lost the scale that gradients in float16
    need.
    """
    make = functools.partial(small, compute_dtype=jnp.float16)
    learner, states = nested.nest(make, [1, 3], jax.random.split(KEY, 2), TRAIN)
    assert states.opt_state.scale.tolist() == [2.0**16] * 4
    state, (alone, first) = (
        jax.tree.map(lambda a: a[0], states),
        make(1, jax.random.split(KEY, 2)[0]),
    )
    inside = train.run(learner, state, TRAIN, epochs=30, batch_size=24)
    expected = train.run(alone, first, TRAIN, epochs=30, batch_size=24)
    np.testing.assert_allclose(
        inside.history["train/loss"], expected.history["train/loss"], rtol=1e-2
    )
    assert inside.skipped == expected.skipped


def odd(width, key):
    """Biases that are zero at first, as Flax draws them, make an odd function."""
    rngs = nnx.Rngs(key)
    first, last = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
    return train.make_learner(nnx.Sequential(first, jnp.tanh, last), loss_fn, ADAM, key=key)


def test_a_gradient_that_is_zero_but_for_rounding_is_no_other_one():
    """For an odd function no bias has a slope but that of rounding."""
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    for seed in (1, 3):  # their rounding differs in one unit and in four
        keys = jax.random.split(jax.random.key(seed), 1)
        nested.nest(odd, [1, 4], keys, {"x": x, "y": np.sin(4 * x)})


@pytest.mark.parametrize("record", ["norms", "dead_units"])
def test_what_would_count_the_units_of_the_largest_size_is_not_nested(record):
    make = functools.partial(small, record=[record])
    with pytest.raises(
        ValueError,
        match=f"{record}.*would count units that size 3 has and size 1 does not have",
    ):
        search.search_capacity(
            make, TRAIN, VAL, sizes=[1, 3], epochs=1, batch_size=24, how="nested"
        )


@pytest.fixture(scope="module")
def report():
    make = dense(tx=optax.adam(2e-2))
    return search.search_capacity(
        make, TRAIN, VAL, sizes=[1, 3, 32], seeds=3, epochs=1000, batch_size=24
    )


def test_one_unit_is_too_few_and_thirty_two_overfit_so_three_are_recommended(report):
    one, three, many = report.sizes
    assert [found.parameters for found in report.sizes] == [6, 22, 1153]
    assert one.val > 2 * three.val
    assert many.verdict == "overfitting"
    assert report.recommended == 3, str(report)
    assert one.train_end > 2 * three.train_end
    assert "Size 3 is recommended" in report.reason
    assert "one program" in report.how
    for words in ("<-- recommended", "overfitting", "parameters"):
        assert words in str(report)


def test_the_recommended_model_can_be_taken_out_and_trained_on(report):
    learner, state = report.member()
    assert jax.tree.leaves(state.params)[0].shape[-1] <= 3
    loss = train.evaluate(learner, state, VAL)["loss"]
    found = report[3]
    np.testing.assert_allclose(loss, found.sweep.scores[list(found.members)].min(), rtol=1e-4)
    assert np.isfinite(
        train.run(learner, state, TRAIN, epochs=2, batch_size=24).history["train/loss"]
    ).all()
    with pytest.raises(KeyError, match="size 7 was not trained"):
        report[7]


def test_where_every_size_diverged_the_first_is_given_back_in_its_last_finite_state():
    make = functools.partial(small, tx=optax.sgd(1e20))
    report = search.search_capacity(
        make, TRAIN, VAL, sizes=[1, 2], seeds=2, epochs=2, batch_size=24
    )
    assert [found.verdicts for found in report.sizes] == [("diverged", "diverged")] * 2
    assert "every one diverged" in report.reason
    _, state = report.member()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_the_picture_marks_the_chosen_size(report):
    pytest.importorskip("matplotlib").use("Agg")
    figure = report.figure()
    assert "recommended: size 3" in [
        text.get_text() for text in figure.axes[0].get_legend().get_texts()
    ]


def size(n, val, verdict="good fit", spread=0.0, members=(0, 1, 2, 3)):
    trained = SimpleNamespace(monitor="val/loss", mode="min")
    return capacity.Size(
        n, n, val, spread, 0.1, val, 10, verdict, (verdict,), 1.0, members, trained
    )


@pytest.mark.parametrize(
    ("sizes", "recommended", "said"),
    [
        (
            [size(1, 1.0), size(2, 0.50), size(4, 0.49), size(8, 0.48)],
            2,
            "smallest that does not overfit",
        ),
        (
            [size(1, 1.0), size(2, 0.6), size(4, 0.48, spread=0.4)],
            2,
            "0.48 at size 4",
        ),  # standard error 0.2
        ([size(1, 1.0), size(2, 0.9), size(4, 0.3)], 4, "grow further"),
        (
            [size(1, 1.0), size(2, 0.5, "overfitting"), size(4, 0.5, "overfitting")],
            2,
            "stop near epoch 10",
        ),
        ([size(1, 0.51, "overfitting"), size(2, 0.5)], 2, "does not overfit"),
        (
            [size(1, 0.5, "not converged"), size(2, 0.5)],
            1,
            "verdict is not converged: train longer",
        ),
        (
            [size(1, 0.5, "diverged"), size(2, 0.5, "diverged")],
            1,
            "verdict is diverged: train longer, or with another",
        ),
        ([size(np.int64(1), 1.0), size(np.int64(2), 0.5)], 2, "Size 2"),
        (
            [size(1, float("nan"), "diverged"), size(2, float("nan"), "diverged")],
            1,
            "every one diverged",
        ),
    ],
)
def test_which_size_is_recommended(sizes, recommended, said):
    chosen, reason = capacity.recommend(sizes)
    assert chosen == recommended
    assert said in reason
    assert (
        str(capacity.CapacityReport(tuple(sizes), chosen, reason, "each", 1.0, dense)).count(
            "<-- recommended"
        )
        == 1
    )


@pytest.mark.parametrize(
    ("loss", "scale"), [(0.5, "log"), (-0.5, "linear"), (float("nan"), "linear")]
)
def test_losses_that_have_no_logarithm_are_drawn_too(loss, scale):
    pytest.importorskip("matplotlib").use("Agg")
    sizes = tuple(dataclasses.replace(size(n, loss), train_end=loss) for n in (1, 2))
    figure = capacity.CapacityReport(sizes, 1, "", "each", 1.0, dense).figure()
    figure.canvas.draw()
    assert figure.axes[0].get_yscale() == scale


def test_growing_stops_when_it_knows_and_shrinking_looks_in_between(monkeypatch):
    """On losses by size that are made up: nothing is trained."""
    visited = []

    class Scripted(capacity.Search):
        def visit(self, size):
            if size not in self.done:
                visited.append(size)
                scores = np.array([{1: 3.0, 2: 2.0}.get(size, 1.0)])
                self.done[size] = (SimpleNamespace(scores=scores, mode="min"), (0,), 0.0)

        def is_overfitting(self, size):
            return size >= threshold

    def searched(sizes):
        visited.clear()
        found = Scripted(None, lambda size: size, None, None, [0], {}, None)
        found.grow(sizes)
        found.shrink()
        return list(visited)

    threshold = 10
    assert searched([1, 2, 4, 8, 16, 32]) == [
        1,
        2,
        4,
        8,
        16,
        14,
        12,
        10,
    ]  # 16 overfits; down to the smallest in between
    threshold = 15
    assert searched([1, 2, 4, 8, 16, 32]) == [1, 2, 4, 8, 16, 14]
    threshold = 99
    assert searched([1, 2, 4, 8, 16, 32]) == [1, 2, 4, 8, 16]  # 8 and 16 are no better than 4
    threshold = 1
    assert searched([1, 2, 4]) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [4]}, "two or more, the smallest first"),
        ({"sizes": [8, 2]}, "two or more, the smallest first"),
        ({"sizes": [2, 2]}, "each of them once"),
        ({"sizes": [[2], [4]]}, "each of them once"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seeds": []}, "seeds must be their number or a list"),
        ({"seeds": "ab"}, "seeds must be their number or a list"),
        ({"sizes": 4}, "two or more, the smallest first"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"baseline": "high"}, "baseline['trivial'] must be a number".replace("[", r"\[")),
        ({"how": "all"}, "how must be"),
        ({"epochs": 0, "how": "each"}, "epochs must be at least 1"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        search.search_capacity(
            dense(),
            TRAIN,
            VAL,
            **{"sizes": [1, 2], "seeds": 1, "epochs": 1, "batch_size": 24} | options,
        )


def test_sizes_are_compared_by_a_ratio():
    """Referee: a ratio that is the negative of the loss, which the same trainings record."""

    def loss_fn(model, batch):
        loss = jnp.mean((model(batch["x"]) - batch["y"]) ** 2)
        return loss, {"ratio": train.Ratio(-loss, 1.0)}

    def make(width, key):
        rngs = nnx.Rngs(key)
        hidden, output = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
        model = nnx.Sequential(hidden, jnp.tanh, output)
        return train.make_learner(model, loss_fn, optax.adam(1e-2), key=key)

    both = wavy(32, 0, noise=0.0)
    options = {"sizes": [1, 4], "seeds": 2, "epochs": 60, "batch_size": 32, "progress": False}
    stop = train.EarlyStopping(60, monitor="val/ratio", mode="max")
    report = search.search_capacity(make, both, both, stop=stop, **options)
    lowest = {}
    for found in report.sizes:
        losses = found.sweep.history["val/loss"][list(found.members)]
        lowest[found.size] = losses.min(axis=1).mean()
        assert -found.val == pytest.approx(lowest[found.size], rel=1e-5)
        assert found.best_epoch == np.median(losses.argmin(axis=1)) + 1 == 60
    assert report.recommended == min(lowest, key=lowest.get) == 4
    assert "val/ratio" in report.reason
