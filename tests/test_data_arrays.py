import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from dlwp_jax import data
from dlwp_jax.data import arrays, augment, batches

KEY = jax.random.key(7)
settings.register_profile("compiling", deadline=None, max_examples=30)
compiling = settings(settings.get_profile("compiling"))


# --- splits


@compiling
@given(n=st.sampled_from([2, 11, 23]), count=st.integers(1, 23))
def test_split_by_count_keeps_every_example_once(n, count):
    both = {"x": np.arange(n), "y": np.arange(n) * 2}
    if count >= n:
        with pytest.raises(
            ValueError, match=f"val={count} of {n} examples leaves one side empty"
        ):
            data.split(both, val=count, key=KEY)
        return
    train, val = data.split(both, val=count, key=KEY)
    assert len(val["x"]) == count
    assert sorted([*train["x"], *val["x"]]) == list(range(n))
    for side in (train, val):
        np.testing.assert_array_equal(side["y"], 2 * side["x"])


def test_split_by_fraction_and_by_key():
    x = np.arange(100)
    train, val = data.split(x, val=0.2, key=KEY)
    assert (len(train), len(val)) == (80, 20)
    np.testing.assert_array_equal(data.split(x, val=0.2, key=KEY)[1], val)
    assert (data.split(x, val=0.2, key=jax.random.key(1))[1] != val).any()
    for wrong in (0.0, 1.0, 0.001, 0, -1):
        with pytest.raises(ValueError, match="leaves one side empty"):
            data.split(x, val=wrong, key=KEY)
    with pytest.raises(ValueError, match="one common leading axis"):
        data.split({"x": x, "y": x[:3]}, val=1, key=KEY)
    with pytest.raises(ValueError, match="one common leading axis"):
        data.split(np.float32(1), val=1, key=KEY)


@compiling
@given(
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=40).filter(
        lambda g: len(set(g)) > 1
    )
)
def test_a_patient_is_on_one_side(groups):
    rows = {"row": np.arange(len(groups)), "patient": np.array(groups)}
    train, val = data.split(rows, val=1, key=KEY, groups=rows["patient"])
    assert not set(train["patient"]) & set(val["patient"])
    assert len(set(val["patient"])) == 1
    assert sorted([*train["row"], *val["row"]]) == list(range(len(groups)))


def test_classes_keep_their_share():
    labels = np.repeat([0, 1, 2], [50, 30, 10])
    train, val = data.split(labels, val=0.2, key=KEY, labels=labels)
    assert np.bincount(val).tolist() == [10, 6, 2]
    assert np.bincount(train).tolist() == [40, 24, 8]
    _, val = data.split(labels, val=9, key=KEY, labels=labels)
    assert np.bincount(val).tolist() == [5, 3, 1]
    with pytest.raises(ValueError, match="groups or labels, not both"):
        data.split(labels, val=0.2, key=KEY, labels=labels, groups=labels)
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
        data.split(labels, val=0.2, key=KEY, labels=labels[:3])


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    val=st.one_of(st.floats(0.05, 0.95), st.sampled_from([0.1, 0.3, 0.5, 0.7])),
)
def test_shares_are_right_in_all_and_in_every_class(sizes, val):
    # Always 60 examples, so that one permutation is compiled: the last class takes the rest.
    sizes = np.array([*sizes[:6], 60 - sum(sizes[:6])])
    labels = np.repeat(np.arange(len(sizes)), sizes)
    train, held = data.split(np.arange(60), val=val, key=KEY, labels=labels)
    assert sorted([*train, *held]) == list(range(60))
    assert len(held) == round(val * 60)
    assert (np.abs(np.bincount(labels[held], minlength=len(sizes)) - val * sizes) <= 1).all()


def test_equal_remainders_are_decided_by_the_key():
    labels = np.repeat(np.arange(20), 3)
    sides = [
        data.split(labels, val=0.5, key=jax.random.key(i), labels=labels)[1] for i in (0, 1)
    ]
    first, second = (np.bincount(side) for side in sides)
    assert first.sum() == second.sum() == 30
    assert set(first) == {1, 2}
    assert first.tolist() != second.tolist()


@compiling
@given(
    n=st.sampled_from([2, 11, 23]), k=st.integers(2, 24)
)  # few n: each compiles a permutation
def test_every_row_is_held_out_once(n, k):
    if k > n:
        with pytest.raises(ValueError, match=f"k={k} parts of {n} examples"):
            data.k_fold(n, k, key=KEY)
        return
    folds = data.k_fold(n, k, key=KEY)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(n))
    sizes = [len(held) for _, held in folds]
    assert len(folds) == k
    assert max(sizes) - min(sizes) <= 1
    for train, held in folds:
        assert sorted([*train, *held]) == list(range(n))


def test_folds_by_group_and_by_class():
    groups = np.repeat(np.arange(7), 3)
    for train, held in data.k_fold(21, 3, key=KEY, groups=groups):
        assert not set(groups[train]) & set(groups[held])
    labels = np.repeat([0, 1], [13, 8])
    counts = np.array(
        [
            np.bincount(labels[held], minlength=2)
            for _, held in data.k_fold(21, 4, key=KEY, labels=labels)
        ]
    )
    assert (np.ptp(counts, axis=0) <= 1).all()
    with pytest.raises(ValueError, match="k=8 parts of 7 groups"):
        data.k_fold(21, 8, key=KEY, groups=groups)
    with pytest.raises(ValueError, match="not both"):
        data.k_fold(21, 2, key=KEY, groups=groups, labels=labels)


# --- scales


def test_statistics_come_from_the_training_side_alone():
    rng = np.random.default_rng(0)
    train, val = rng.normal(5, 3, (40, 3)), rng.normal(9, 1, (10, 3))
    z, z_val, scale = data.standardize(train, val)
    reference = torch.tensor(train)
    np.testing.assert_allclose(
        z, (reference - reference.mean(0)) / reference.std(0), rtol=1e-12
    )
    np.testing.assert_allclose(z_val, (val - train.mean(0)) / train.std(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(scale.undo(z_val), val, rtol=1e-12)
    sklearn = StandardScaler().fit(train)
    np.testing.assert_allclose(
        arrays.Scale.standard(train, correction=0).apply(val), sklearn.transform(val)
    )
    np.testing.assert_allclose(
        arrays.Scale.unit_range(train).apply(val), MinMaxScaler().fit(train).transform(val)
    )


def test_large_means_and_constant_columns():
    x = np.full((100_000, 2), 1000, np.float32)
    x[::2, 0] += 1
    z, scale = data.standardize(x)
    np.testing.assert_allclose(
        scale.offset, [1000.5, 1000], rtol=1e-7
    )  # a float32 sum would be off by 1e-4
    assert (z[:, 1] == 0).all()
    assert z.dtype == np.float32
    z, scale = data.standardize(jnp.arange(6), axis=0)
    assert isinstance(z, jax.Array)
    assert z.dtype == np.float32
    assert (
        scale.offset.dtype == np.float64
    )  # float32 cannot hold the mean of large whole numbers


@pytest.mark.parametrize("x", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf, 1.0])])
def test_statistics_of_nothing_or_nan_are_refused(x):
    with pytest.raises(ValueError, match="empty or holds values that are not finite"):
        arrays.Scale.standard(x)
    with pytest.raises(ValueError, match="a spread needs more"):
        arrays.Scale.standard(np.array([1.0]))


# --- batches


@compiling
@given(n=st.sampled_from([1, 11, 23]), size=st.integers(1, 31), shuffled=st.booleans())
def test_a_plan_visits_every_row_once(n, size, shuffled):
    plan = batches.batch_plan(n, size, key=KEY if shuffled else None)
    steps = plan.steps()
    assert sorted(np.concatenate(steps)) == list(range(n))
    reference = [len(batch) for batch in torch.utils.data.DataLoader(range(n), batch_size=size)]
    assert [len(step) for step in steps] == reference
    if not shuffled:
        assert np.concatenate(steps).tolist() == list(range(n))
    with pytest.raises(ValueError, match="at least 1"):
        batches.batch_plan(n, 0)


def book_row(index, ratio, positive, negative):
    """The book's LunaDataset.__getitem__, in our words."""
    turn = index // (ratio + 1)
    if index % (ratio + 1):
        return negative[(index - 1 - turn) % len(negative)]
    return positive[turn % len(positive)]


@given(
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=20),
    ratio=st.integers(1, 4),
    n=st.integers(0, 40),
)
def test_balanced_rows_are_the_books(labels, ratio, n):
    positive, negative = (np.flatnonzero(np.array(labels) == value) for value in (1, 0))
    if not len(positive) or not len(negative):
        with pytest.raises(ValueError, match="both are needed"):
            batches.balanced_rows(labels, ratio=ratio, n=n)
        return
    rows = batches.balanced_rows(labels, ratio=ratio, n=n)
    assert rows.tolist() == [book_row(i, ratio, positive, negative) for i in range(n)]


def test_balanced_rows_shuffle_within_the_classes():
    labels = np.repeat([1, 0], [10, 90])
    rows = batches.balanced_rows(labels, ratio=2, n=30, key=KEY)
    assert labels[rows].reshape(10, 3).tolist() == [[1, 0, 0]] * 10
    assert sorted(rows[::3]) == list(range(10))
    assert len(set(rows)) == 30
    assert (rows != batches.balanced_rows(labels, ratio=2, n=30)).any()
    for wrong in ({"ratio": 0, "n": 3}, {"ratio": 1, "n": -1}):
        with pytest.raises(ValueError, match=r"ratio must|n must"):
            batches.balanced_rows(labels, **wrong)
    with pytest.raises(ValueError, match="0 and 1 only"):
        batches.balanced_rows([0, 2], ratio=1, n=3)


# --- augmentation

SHAPES = [(5, 7, 2), (4, 5, 6, 1)]
WARPS = [*((shape, augment.warp) for shape in SHAPES), ((4, 5, 6, 2), augment.warp_in_planes)]


@pytest.mark.parametrize(("shape", "warp"), WARPS)
def test_warps_equal_torchs_grid_sample(shape, warp):
    rng = np.random.default_rng(0)
    dims = len(shape) - 1
    x = rng.normal(size=shape).astype(np.float32)
    matrix = np.eye(dims + 1, dtype=np.float32)
    matrix[:dims] += rng.normal(0, 0.3, (dims, dims + 1))
    if warp is augment.warp_in_planes:
        matrix[2, :2] = matrix[:2, 2] = 0

    reference = torch.tensor(np.moveaxis(x, -1, 0)[None], requires_grad=True)
    grid = torch.nn.functional.affine_grid(
        torch.tensor(matrix[None, :dims]), reference.shape, align_corners=False
    )
    sampled = torch.nn.functional.grid_sample(
        reference, grid, padding_mode="border", align_corners=False
    )
    sampled.square().sum().backward()

    def squares(x):
        warped = warp(x, matrix)
        return jnp.sum(warped**2), warped

    (_, warped), gradient = jax.jit(jax.value_and_grad(squares, has_aux=True))(x)
    # Places are sums of products of order 5 in float32: 1e-6 in place, as much in value.
    np.testing.assert_allclose(np.moveaxis(warped, -1, 0), sampled[0].detach(), atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(gradient, -1, 0), reference.grad[0], atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_and_flips_lose_nothing(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(augment.augment)(KEY, x), x)
    # A place is off by float32 rounding of numbers up to 7, times the step between neighbours,
    # up to 4.
    np.testing.assert_allclose(jax.jit(augment.warp)(x, np.eye(len(shape))), x, atol=1e-5)
    keys = jax.random.split(KEY, 20)
    flip = jax.jit(jax.vmap(lambda key: augment.augment(key, x, flips=(0,))))
    x, flipped = np.asarray(x), np.asarray(flip(keys))
    for one in flipped:
        same, mirrored = (np.abs(one - y).max() for y in (x, x[..., ::-1, :]))
        assert min(same, mirrored) < 1e-5  # rounding of the places, as above
    assert np.ptp([np.abs(one - x).max() for one in flipped]) > 0  # both happened


def test_each_change_stays_in_its_bounds():
    keys = jax.random.split(KEY, 200)

    def draw(key):
        matrices = (
            augment.shift(key, 3, 0.1),
            augment.scale(key, 3, 0.2),
            augment.rotate(key, 3),
        )
        return *matrices, augment.noise(key, jnp.zeros(10), 25.0)

    moved, scaled, turns, noisy = map(np.asarray, jax.jit(jax.vmap(draw))(keys))
    shifts = moved[:, :3, 3]
    scales = np.diagonal(scaled, axis1=1, axis2=2)[:, :3] - 1
    for drawn, most in ((shifts, 0.1), (scales, 0.2)):
        assert 0.9 * most < np.abs(drawn).max() <= most + 1e-6
        assert (
            abs(drawn.mean()) < 0.15 * most
        )  # the mean of 600 even draws: 0.024 standard deviation
    identity = np.broadcast_to(np.eye(4), (200, 4, 4))
    np.testing.assert_allclose(turns @ turns.swapaxes(1, 2), identity, atol=1e-6)
    assert (turns[:, 2] == [0, 0, 1, 0]).all()
    assert 24 < noisy.std() < 26  # 2000 draws: 0.4 standard deviation


def test_augment_is_a_function_of_its_key():
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype(np.float32)

    def change(key):
        return augment.augment(key, x, flips=True, offset=0.1, stretch=0.2, turn=6.28, std=0.1)

    first, again, other = jax.jit(jax.vmap(change))(jnp.stack([KEY, KEY, jax.random.key(1)]))
    np.testing.assert_array_equal(first, again)
    assert first.shape == x.shape
    assert np.abs(first - other).max() > 0.1


def test_augment_refuses_other_shapes_and_integers():
    with pytest.raises(ValueError, match="needs"):
        augment.warp(jnp.zeros((4, 4)), jnp.eye(3))
    with pytest.raises(TypeError, match="uint8"):
        augment.warp(jnp.zeros((4, 4, 1), jnp.uint8), jnp.eye(3))
    with pytest.raises(ValueError, match="no volume"):
        augment.warp_in_planes(jnp.zeros((4, 4, 1)), jnp.eye(3))


# --- streams


def test_stream_decodes_every_item_once_an_epoch(tmp_path):
    paths = []
    for i in range(10):
        paths.append(tmp_path / f"{i}.npy")
        np.save(paths[-1], np.full((2, 2), i))
    batches_ = list(data.stream.stream(paths, np.load, batch_size=4, seed=0, epochs=2))
    assert [len(batch) for batch in batches_] == [4, 4, 2] * 2
    first, second = (np.concatenate(batches_[i : i + 3])[:, 0, 0] for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    again = np.concatenate(list(data.stream.stream(paths, np.load, batch_size=4, seed=0)))[
        :, 0, 0
    ]
    assert again.tolist() == first.tolist()
    assert len(list(data.stream.stream(paths, np.load, batch_size=4, drop_last=True))) == 2


def test_stream_resumes_and_passes_errors_on():
    stream = data.stream.stream(list(range(20)), lambda n: n, batch_size=3, seed=1)
    whole, iterator = [b.tolist() for b in stream], iter(stream)
    next(iterator)
    state = iterator.get_state()
    assert [b.tolist() for b in iterator] == whole[1:]
    fresh = iter(stream)
    fresh.set_state(state)
    assert [b.tolist() for b in fresh] == whole[1:]

    def broken(item):
        raise data.BrokenFile(f"{item} is broken")

    with pytest.raises(data.BrokenFile, match="a is broken"):
        list(data.stream.stream(["a"], broken, batch_size=1))
    with pytest.raises(ValueError, match="items must hold one"):
        data.stream.stream([], broken, batch_size=1)


# --- strided tensors, wrong rows, scales of odd columns


def test_a_strided_tensor_is_one_array():
    daily = data.series.days(np.arange(96.0, dtype=np.float32).reshape(48, 2))
    assert arrays.length({"x": daily, "y": np.zeros(2)}) == 2
    np.testing.assert_array_equal(data.take(daily, [1]), daily.to_array()[1:])
    train, val = data.split(daily, val=1, key=KEY)
    assert train.shape == val.shape == (1, 2, 24)


@pytest.mark.parametrize("row", [7, -9])
def test_rows_that_are_not_there_are_refused(row):
    with pytest.raises(IndexError, match="the data has 4 examples"):
        data.take({"x": jnp.arange(4)}, [row])


@pytest.mark.parametrize("val", ["3", None, True])
def test_split_wants_a_number(val):
    with pytest.raises(TypeError, match="must be a number"):
        data.split(np.arange(4), val=val, key=KEY)


def test_split_takes_numpy_numbers():
    assert len(data.split(np.arange(4), val=np.float32(0.5), key=KEY)[1]) == 2
    assert len(data.split(np.arange(4), val=np.int64(1), key=KEY)[1]) == 1


def test_a_constant_float64_column_becomes_zero():
    z, scale = data.standardize(np.full((1000, 1), 0.1))
    assert not z.any()
    assert scale.unit.tolist() == [1.0]


def test_small_integers_do_not_overflow_and_truth_values_are_refused():
    x = np.array([-100, 100], np.int8)
    assert data.Scale.unit_range(x).apply(x).tolist() == [0.0, 1.0]
    with pytest.raises(TypeError, match="x is bool"):
        data.Scale.unit_range(np.array([True, False]))


@pytest.mark.parametrize("fit", [data.Scale.standard, data.Scale.unit_range])
def test_the_rows_of_a_square_matrix_are_scaled_as_the_columns_of_its_transpose(fit):
    x = np.arange(9.0).reshape(3, 3) ** 2
    np.testing.assert_allclose(fit(x, axis=1).apply(x), fit(x.T).apply(x.T).T)
