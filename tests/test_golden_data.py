"""Volumes, augmentation, orders and losses against the recorded outputs of the book's own
published code (the referee).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlwp_jax import data, losses, nn
from dlwp_jax.data import augment, table, volume
from dlwp_jax.data.volume import Volume
from tests.golden import first, last


def scan_of(recorded, voxels) -> Volume:
    """A scan with the recorded place in the patient."""
    place = (recorded["spacing_xyz"], recorded["origin_xyz"], recorded["direction"])
    return Volume(np.asarray(voxels, np.float32), *place)


# Places


def test_places_of_a_flipped_scan(golden):
    recorded = np.load(golden / "coordinates_flipped.npz")
    scan = scan_of(recorded, np.zeros((1, 1, 1)))
    np.testing.assert_allclose(scan.xyz(recorded["irc"]), recorded["xyz"], rtol=1e-12)
    voxels = np.round(scan.irc(recorded["xyz_in"]))
    np.testing.assert_array_equal(voxels, recorded["irc_of_xyz"])
    back = np.round(scan.irc(recorded["xyz"]))
    np.testing.assert_array_equal(back, recorded["irc_of_xyz_back"])


def test_places_of_an_oblique_scan_come_back_which_the_books_do_not(golden):
    recorded = np.load(golden / "coordinates_oblique.npz")
    scan = scan_of(recorded, np.zeros((1, 1, 1)))
    np.testing.assert_allclose(scan.xyz(recorded["irc"]), recorded["xyz"], rtol=1e-12)
    np.testing.assert_allclose(scan.irc(recorded["xyz"]), recorded["irc"], atol=1e-9)
    # The book multiplies a row vector by the inverse of the direction.
    offset = recorded["xyz"] - recorded["origin_xyz"]
    column_row_index = offset @ np.linalg.inv(recorded["direction"]) / recorded["spacing_xyz"]
    books = np.round(column_row_index)[:, ::-1]
    np.testing.assert_array_equal(books, recorded["irc_of_xyz_back"])


# Chunks


def test_chunks_are_the_books(golden):
    recorded = np.load(golden / "chunks.npz")
    scan = scan_of(recorded, recorded["hu"])
    places = zip(recorded["center_xyz"], recorded["width_irc"].tolist(), strict=True)
    for number, (center, width) in enumerate(places):
        if max(np.subtract(width, scan.voxels.shape)) > 0:
            # The book gives fewer voxels than it was asked for.
            assert recorded[f"chunk_{number}"].shape != tuple(width)
            with pytest.raises(ValueError, match="does not fit"):
                scan.chunk(center, tuple(width))
            continue
        chunk, middle = scan.chunk(center, tuple(width))
        np.testing.assert_array_equal(chunk, recorded[f"chunk_{number}"])
        np.testing.assert_array_equal(middle, recorded["center_irc"][number])


@pytest.mark.slow
def test_chunks_of_a_real_ct_are_the_books(golden, real_scan):
    recorded = np.load(golden / "chunks_realct.npz")
    assert real_scan.voxels.shape == tuple(recorded["shape"])
    np.testing.assert_allclose(real_scan.origin, recorded["origin_xyz"], rtol=1e-9)
    np.testing.assert_allclose(real_scan.spacing, recorded["spacing_xyz"], rtol=1e-9)
    for number, center in enumerate(recorded["center_xyz"]):
        chunk, middle = real_scan.chunk(center, (32, 48, 48))
        np.testing.assert_array_equal(middle, recorded["center_irc"][number])
        assert chunk.sum(dtype=np.float64) == recorded["sum"][number]
        np.testing.assert_array_equal(chunk[:2, :2, :2], recorded["corner"][number])


@pytest.mark.slow
def test_whole_slices_of_a_real_ct_are_segmented_as_by_the_book(golden, real_scan):
    from tests.test_golden_unet import published

    model = published(golden)
    recorded = np.load(golden / "unet_seg_2020_slices.npz")
    run = jax.jit(lambda x: model(x))
    for number, middle in enumerate(recorded["slice_ndx"]):
        # Three slices of context on both sides; beyond the ends the end slice is repeated.
        slices = np.clip(np.arange(middle - 3, middle + 4), 0, len(real_scan.voxels) - 1)
        hu = real_scan.voxels[slices]
        sums = hu.sum((1, 2), dtype=np.float64)
        np.testing.assert_array_equal(sums, recorded["input_sum"][number])
        output = np.asarray(run(last(hu[None])))[0, :, :, 0]
        # Recorded in float16.
        np.testing.assert_allclose(output, recorded["output"][number], rtol=0, atol=1e-3)
        np.testing.assert_allclose((output > 0.5).sum(), recorded["count"][number], rtol=1e-3)


def test_grey_values_of_a_slice(golden):
    recorded = np.load(golden / "window_ch15.npz")
    hu = recorded["hu"]
    grey = 255 * volume.window(hu, low=float(hu.min()), high=float(hu.max()))
    # The book cuts fractions off, and repeats the slice for three equal colours.
    uncertain = np.abs(grey - np.round(grey)) < 1e-4
    for plane in recorded["bytes"]:
        np.testing.assert_array_equal(plane[~uncertain[0]], np.floor(grey)[~uncertain])


# Augmentation


@jax.jit
def resampled(x, theta):
    """`[n *spatial c]` after one transform `[d d+1]` for all, by the two ways of doing it."""
    square = jnp.eye(len(theta) + 1).at[:-1].set(theta)
    one = jax.vmap(augment.warp, in_axes=(0, None))(x, square)
    grid = nn.affine_grid(jnp.broadcast_to(theta, (len(x), *theta.shape)), x.shape)
    return one, nn.grid_sample(x, grid, padding_mode="border")


def warped(x, theta):
    """The same of `[n c *spatial]`; both ways agree."""
    one, other = resampled(last(x), theta)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=0.02)
    return first(one)


@pytest.mark.parametrize(
    ("file", "cases"), [("augment3d_chunk.npz", 8), ("augment3d_chunk_rectangular.npz", 2)]
)
def test_a_chunk_is_resampled_as_in_the_book(golden, file, cases):
    recorded = np.load(golden / file)
    chunk = recorded["hu"][None, None]
    for case in range(cases):
        output = warped(chunk, recorded[f"theta_{case}"])
        np.testing.assert_allclose(output[0], recorded[f"output_{case}"], rtol=1e-4, atol=0.02)


def test_a_batch_of_chunks_is_resampled_as_in_the_book(golden):
    recorded = np.load(golden / "augment3d_batch.npz")
    for case in range(2):
        theta = recorded[f"theta_{case}"]
        assert not theta[:, -1].any()  # The book draws an offset, but it has no effect.
        output = warped(recorded["hu"], theta)
        np.testing.assert_allclose(output, recorded[f"output_{case}"], rtol=1e-4, atol=0.02)


@pytest.mark.parametrize(
    ("file", "cases"),
    [("augment2d_segmentation.npz", 6), ("augment2d_segmentation_rectangular.npz", 1)],
)
def test_slices_and_labels_are_resampled_as_in_the_book(golden, file, cases):
    recorded = np.load(golden / file)
    for case in range(cases):
        theta = recorded[f"theta_{case}"]
        assert not theta[:, -1].any()  # The book draws an offset, but it has no effect.
        output = warped(recorded["hu"], theta)
        np.testing.assert_allclose(output, recorded[f"output_{case}"], rtol=1e-4, atol=0.02)
        label = warped(recorded["label"], theta)
        certain = np.abs(label - 0.5) > 1e-4
        wanted = recorded[f"label_{case}"]
        np.testing.assert_array_equal((label > 0.5)[certain], wanted[certain])


def test_noise_has_the_books_deviation(golden):
    recorded = np.load(golden / "augment3d_noise.npz")
    zeros = jnp.zeros((*recorded["size"][1:], 1))
    std = float(recorded["noise"])
    ours = augment.augment(jax.random.key(0), zeros, std=std)
    assert ours.std() == pytest.approx(recorded["std"], rel=0.06)  # 3 % for each of the two
    assert abs(float(ours.mean()) - recorded["mean"]) < 4


# Orders


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_positives_and_negatives_take_turns_as_in_the_book(golden, ratio):
    recorded = np.load(golden / "balanced_order.npz")
    negatives, positives = int(recorded["n_negative"]), int(recorded["n_positive"])
    labels = np.repeat([0, 1], [negatives, positives])
    rows = data.balanced_rows(labels, ratio=ratio, n=50)
    np.testing.assert_array_equal(labels[rows] == 1, recorded[f"positive_{ratio}"])
    place = np.where(labels[rows] == 1, rows - negatives, rows)
    np.testing.assert_array_equal(place, recorded[f"place_{ratio}"])


def test_a_split_by_groups_keeps_a_series_on_one_side_as_in_chapter_14(golden):
    recorded = np.load(golden / "validation_split.npz")
    series = recorded["series"]

    def on_both_sides(train, val):
        return set(series[train]) & set(series[val])

    assert on_both_sides(recorded["training_ch12"], recorded["validation_ch12"])
    assert not on_both_sides(recorded["training_ch14"], recorded["validation_ch14"])
    held = len(set(series[recorded["validation_ch14"]]))
    rows = np.arange(len(series))
    train, val = data.split(rows, val=held, key=jax.random.key(0), groups=series)
    assert not on_both_sides(train, val)
    assert len(set(series[val])) == held


# Losses and metrics


@pytest.mark.parametrize("kind", ["bool", "long"])
def test_the_dice_loss_is_the_books(golden, kind):
    recorded = np.load(golden / "dice.npz")
    prediction = recorded["prediction"]
    label = recorded["label"].astype({"bool": bool, "long": np.int32}[kind])

    def dice(prediction, **options):
        return losses.dice_loss(prediction, label, reduction="none", **options)

    for ours, name in (
        (dice(prediction), "dice_loss"),
        (dice(prediction * label), "fn_loss"),
        (dice(prediction, eps=5.0), "dice_loss_epsilon5"),
    ):
        np.testing.assert_allclose(ours, recorded[f"{name}_{kind}"], rtol=1e-5, atol=1e-6)
    total = dice(prediction) + 8 * dice(prediction * label)
    batches = [total[:3].mean(), total[3:].mean()]
    np.testing.assert_allclose(batches, recorded[f"batch_loss_{kind}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("case", "threshold"), [(0, 0.5), (1, 0.3)])
def test_precision_and_recall_are_the_books(golden, case, threshold):
    recorded = np.load(golden / "metrics_ch12.npz")
    label, probability, _ = recorded["metrics"]
    found = table.agreement(probability > threshold, label > 0.5)
    values = dict(zip(recorded[f"keys_{case}"], recorded[f"values_{case}"], strict=True))
    assert found.precision == pytest.approx(values["pr/precision"], rel=1e-5)
    assert found.recall == pytest.approx(values["pr/recall"], rel=1e-5)
