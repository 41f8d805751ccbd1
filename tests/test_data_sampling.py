import jax
import numpy as np
import pytest
import torch

from dlwp_jax import data

KEY = jax.random.key(7)
LABELS = np.repeat([0, 1], [7, 3])


@pytest.fixture(scope="module")
def golden(shared_data):
    def load(name):
        path = shared_data.parent / "golden" / name
        if not path.exists():
            pytest.skip(f"{path} is not there")
        return np.load(path)

    return load


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_the_order_is_that_of_the_books_data_set(golden, ratio):
    recorded = golden("balanced_order.npz")
    positive = recorded[f"positive_{ratio}"]
    sampler = data.balanced(LABELS, ratio, n=len(positive), shuffle=False)
    rows = np.asarray(sampler(KEY, 0))
    np.testing.assert_array_equal(LABELS[rows] == 1, positive)
    place = np.where(positive, rows - 7, rows)
    np.testing.assert_array_equal(place, recorded[f"place_{ratio}"])
    shuffled = np.asarray(data.balanced(LABELS, ratio, n=len(positive))(KEY, 0))
    np.testing.assert_array_equal(LABELS[shuffled] == 1, positive)


def test_the_order_of_three_classes_is_the_books(golden):
    recorded = golden("malignant_order.npz")
    lengths = recorded["lengths"]
    labels = np.repeat([0, 1, 2], lengths)
    wanted = recorded["list_1"]
    rows = np.asarray(
        data.balanced(labels, order=(1, 2, 0, 2), n=len(wanted), shuffle=False)(KEY, 0)
    )
    np.testing.assert_array_equal(labels[rows], wanted)
    first = np.cumsum(lengths) - lengths
    np.testing.assert_array_equal(rows - first[wanted], recorded["place_1"])


def test_every_row_comes_once_before_any_comes_again():
    rows = np.asarray(jax.jit(data.balanced(LABELS, 2, n=60))(KEY, 3))
    assert rows.dtype == np.int32
    for label in (0, 1):
        mine = rows[LABELS[rows] == label]
        members = np.flatnonzero(label == LABELS)
        rounds = [mine[i : i + len(members)] for i in range(0, len(mine), len(members))]
        whole = [turn for turn in rounds if len(turn) == len(members)]
        assert all(sorted(turn) == members.tolist() for turn in whole)
        assert len({tuple(turn) for turn in whole}) > 1  # shuffled anew
        assert len(set(rounds[-1])) == len(rounds[-1])
    other = np.asarray(data.balanced(LABELS, 2, n=60)(jax.random.key(1), 3))
    assert (rows != other).any()


def test_an_epoch_of_its_own_length_sees_every_row():
    for labels, ratio, length in ((LABELS, 1, 14), (LABELS, 2, 12), (LABELS, 3, 12)):
        rows = np.asarray(jax.jit(data.balanced(labels, ratio))(KEY, 0))
        assert len(rows) == length
        assert set(rows) == set(range(10))
    names = np.array(["cat", "ant", "dog", "ant"])
    rows = np.asarray(data.balanced(names)(KEY, 0))
    assert names[rows].tolist() == ["ant", "cat", "dog"] * 2
    assert set(rows) == {0, 1, 2, 3}


def test_an_epoch_of_any_length():
    rows = np.asarray(data.epoch_of(5, 12)(KEY, 0))
    assert sorted(np.bincount(rows)) == [2, 2, 2, 3, 3]
    assert sorted(rows[:5]) == sorted(rows[5:10]) == list(range(5))
    assert data.epoch_of([4, 9], 3, shuffle=False)(KEY, 0).tolist() == [4, 9, 4]


def test_the_frequencies_of_weights_are_torchs():
    weights = [0.5, 0.0, 3.0, 1.5, 0.0]
    rows = np.asarray(jax.jit(data.weighted(weights, n=20_000))(KEY, 0))
    torchs = torch.utils.data.WeightedRandomSampler(
        weights, 20_000, generator=torch.Generator().manual_seed(0)
    )
    ours, theirs = (np.bincount(list(r), minlength=5) / 20_000 for r in (rows, torchs))
    np.testing.assert_allclose(ours, theirs, atol=0.015)  # three deviations of each
    assert ours[1] == ours[4] == 0
    assert rows.dtype == np.int32
    assert data.weighted(weights)(KEY, 0).shape == (5,)


def test_draws_without_replacement_are_torchs():
    weights = [1.0, 2.0, 0.0, 3.0, 4.0]
    sampler = data.weighted(weights, n=2, replacement=False)
    rows = np.asarray(jax.jit(jax.vmap(sampler))(jax.random.split(KEY, 20_000)))
    theirs = torch.multinomial(torch.tensor(weights).expand(20_000, 5), 2).numpy()

    def pairs(rows):
        return np.bincount(rows[:, 0] * 5 + rows[:, 1], minlength=25) / len(rows)

    np.testing.assert_allclose(pairs(rows), pairs(theirs), atol=0.015)


def test_rare_rows_among_a_million_are_drawn():
    weights = np.ones(2**20)
    weights[-1] = 2.0**20  # half of all draws; a sum in float32 would still hold it
    weights[:4] = 2.0**18
    rows = np.asarray(data.weighted(weights, n=20_000)(KEY, 0))
    counted = np.array([(rows == i).mean() for i in (0, 1, 2, 3, 2**20 - 1)])
    total = weights.sum()
    np.testing.assert_allclose(counted, [2.0**18 / total] * 4 + [2.0**20 / total], atol=0.015)


def test_samplers_of_the_same_arguments_are_equal_and_compile_once():
    makers = [
        lambda: data.balanced(LABELS, 2),
        lambda: data.weighted([1.0, 2.0], n=4),
        lambda: data.epoch_of(4, 8),
    ]
    assert [make() == make() for make in makers] == [True] * 3
    assert [hash(make()) == hash(make()) for make in makers] == [True] * 3
    assert data.balanced(LABELS, 2) != data.balanced(LABELS, 1)
    traced = []

    @jax.jit
    def rows(key, epoch):
        traced.append(1)
        return data.balanced(LABELS)(key, epoch)

    assert rows(KEY, 0).shape == rows(KEY, 1).shape == (14,)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.balanced([1, 1]), "labels hold 1 classes"),
        (lambda: data.balanced([0, 1, 2], 2), "ratio=2 needs two classes"),
        (lambda: data.balanced([0, 1], 0), "ratio must be at least 1"),
        (lambda: data.balanced([0, 1], n=0), "n must be at least 1"),
        (lambda: data.balanced([0, 1], order=(0, 3)), "order has 3"),
        (lambda: data.balanced([0, np.nan]), "none of them missing"),
        (lambda: data.weighted([1, -1]), "weights must be finite"),
        (lambda: data.weighted([1, np.nan]), "weights must be finite"),
        (lambda: data.weighted([0, 0]), "all 0"),
        (lambda: data.weighted([1, 0], n=2, replacement=False), "1 have a weight"),
        (lambda: data.epoch_of(0, 3), "rows must be"),
    ],
)
def test_rows_that_cannot_be_drawn_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
