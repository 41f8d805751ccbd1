"""Chapters 13 and 14 against the recorded outputs of the book's own published code, SciPy and
scikit-learn (the referees).
"""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_curve

from dlwp_jax import train
from dlwp_jax.data.volume import Volume
from experiments.nodules import convert, detector, groups, masks, scores, segment
from tests.golden import first, last
from tests.test_golden_data import scan_of

# Masks

INSIDE = (0, 1, 3, 6)  # the candidates whose box does not begin before voxel 0


def test_masks_grow_from_annotations_as_in_the_book(golden):
    recorded = np.load(golden / "annotation_mask.npz")
    scan = scan_of(recorded, recorded["hu"])
    centers = recorded["center_xyz"]
    for number in INSIDE:
        mask = masks.annotation_mask(scan, centers[[number]])
        np.testing.assert_array_equal(mask, recorded[f"mask_700_only_{number}"])
    everything = masks.annotation_mask(scan, centers[list(INSIDE)])
    np.testing.assert_array_equal(everything, recorded["mask_700"])
    slices = np.flatnonzero(everything.any(axis=(1, 2)))
    np.testing.assert_array_equal(slices, recorded["positive_indexes"])
    dense = masks.annotation_mask(scan, centers[list(INSIDE)], threshold=-200)
    np.testing.assert_array_equal(dense, recorded["mask_200"])


def test_a_mask_at_the_lower_border_is_that_at_the_upper_border_of_the_mirrored_scan(golden):
    recorded = np.load(golden / "annotation_mask.npz")
    mirrored = recorded["hu"][::-1, ::-1, ::-1]
    number = 3
    center = np.subtract(mirrored.shape, 1) - recorded["center_irc"][number]
    mask = masks.annotation_mask(Volume(mirrored), [center[::-1]])
    wanted = recorded[f"mask_700_only_{number}"]
    np.testing.assert_array_equal(mask[::-1, ::-1, ::-1], wanted)
    assert wanted.any()


def test_a_mask_with_a_diameter_stays_out_of_the_wall_that_a_nodule_touches():
    scan = Volume(np.full((9, 30, 9), -900.0))
    scan.voxels[:, :12] = 40  # the wall
    scan.voxels[1:8, 12:18, 1:8] = 40
    for center in ((4, 13, 4), (4.4, 13.4, 3.6)):  # x, y, z: the last one of an axis first
        mask = masks.annotation_mask(scan, [center], diameters=[4])
        away = np.linalg.norm(
            np.moveaxis(np.indices(mask.shape), 0, -1) - center[::-1], axis=-1
        )
        np.testing.assert_array_equal(mask, (away <= 2 + masks.MARGIN) & (scan.voxels > 0))


@pytest.mark.parametrize("offset", [0, 0.25, 0.5])
def test_the_smallest_nodules_have_a_mask_wherever_they_lie_between_coarse_voxels(offset):
    for spacing in (2.2, 5.0):
        scan = Volume(np.full((5, 5, 5), 40.0), spacing=(spacing,) * 3)
        center = spacing * (2 + offset * np.ones(3))
        mask = masks.annotation_mask(scan, [center], diameters=[3])
        assert 1 <= mask.sum() <= 8


def test_an_annotation_outside_of_the_scan_is_refused():
    with pytest.raises(ValueError, match="outside of a scan"):
        masks.annotation_mask(Volume(np.zeros((4, 4, 4))), [(9, 0, 0)])


# Slices


def test_slices_have_the_books_context(golden):
    recorded = np.load(golden / "segmentation_samples.npz")
    small = recorded["small"]
    slices = detector.with_context(small, recorded["slice_ndx"])
    np.testing.assert_array_equal(first(slices), recorded["sample_small"])
    # The label is the mask of the slice in the middle.
    label = small[recorded["slice_ndx"]] > 900
    np.testing.assert_array_equal(label, recorded["label_small"][:, 0])


# Training of the segmentation


def test_the_loss_is_the_books(golden):
    recorded = np.load(golden / "dice.npz")
    prediction, label = last(recorded["prediction"]), last(recorded["label"]) > 0
    for number, rows in enumerate((slice(0, 3), slice(3, 5))):
        batch = {"hu": prediction[rows], "label": label[rows]}
        loss, _ = segment.Loss(8.0)(lambda x: x, batch)
        np.testing.assert_allclose(loss, recorded["batch_loss_bool"][number], rtol=1e-5)


def test_recall_precision_and_f1_of_an_epoch_are_the_books(golden):
    recorded = np.load(golden / "metrics_ch13.npz")
    sums = dict.fromkeys(("recall", "precision", "f1"), np.zeros(2))
    for right, missed, wrong in recorded["metrics"][7:10].astype(int).T:
        found = np.repeat([True, False, True], (right, missed, wrong))
        label = np.repeat([True, True, False], (right, missed, wrong))
        ratios = segment.ratios(found, label)
        for name in sums:
            sums[name] = sums[name] + (ratios[name].numerator, ratios[name].denominator)
    books = dict(zip(recorded["keys"], recorded["values"], strict=True))
    names = {"recall": "recall", "precision": "precision", "f1": "f1_score"}
    for name, theirs in names.items():
        above, below = sums[name]
        np.testing.assert_allclose(above / below, books[f"seg_pr/{theirs}"], rtol=1e-5)
    np.testing.assert_allclose(np.divide(*sums["recall"]), recorded["score"], rtol=1e-5)


# Groups


def test_a_heatmap_becomes_the_books_groups(golden):
    recorded = np.load(golden / "groups_madeup.npz")
    scan = scan_of(recorded, recorded["hu"])
    eroded = groups.erode(recorded["heatmap"] > 0.5)
    np.testing.assert_array_equal(eroded, recorded["eroded"])
    found = groups.group(eroded, scan.voxels)
    np.testing.assert_array_equal(found.labels, recorded["label"])
    np.testing.assert_allclose(found.centers, recorded["center_irc"], rtol=1e-6)
    center_xyz = groups.centers_mm(found, scan)
    np.testing.assert_allclose(center_xyz, recorded["center_xyz"], rtol=1e-6)


def test_centres_and_sizes_of_groups_are_scipys():
    rng = np.random.default_rng(0)
    mask = rng.random((7, 9, 8)) > 0.7
    hu = rng.normal(-300, 900, mask.shape)
    found = groups.group(mask, hu)
    numbers = np.arange(found.labels.max()) + 1
    weight = np.clip(hu, -1000, 1000) + 1001
    centers = ndimage.center_of_mass(weight, found.labels, numbers)
    np.testing.assert_allclose(found.centers, centers)
    np.testing.assert_array_equal(found.voxels, ndimage.sum(mask, found.labels, numbers))


def test_an_empty_mask_has_no_groups():
    found = groups.group(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3)))
    assert found.centers.shape == (0, 3)


# The whole way


@pytest.mark.slow
def test_the_published_weights_find_in_a_real_ct_what_the_book_finds(
    golden, real_scan, tmp_path
):
    recorded = np.load(golden / "pipeline_realct.npz")
    files = golden / "unet_seg_2020.pt", golden / "luna_cls_2020.pt"
    convert.main(convert.Config(*files, out=tmp_path))
    networks = detector.load(tmp_path)
    found = detector.find(networks, real_scan)
    bits = np.unpackbits(recorded["mask_bits"])[: real_scan.voxels.size]
    mask = bits.reshape(recorded["mask_shape"]).astype(bool)
    labels, centers = found.groups.labels, found.groups.centers
    # On some processors one voxel of 26 million lies on the other side of 0.5.
    differing = np.argwhere((labels > 0) != mask)
    assert len(differing) <= 2
    beside = [tuple(slice(n - 1, n + 2) for n in place) for place in differing.tolist()]
    for place in beside:
        assert np.abs(_probabilities(networks, real_scan, place) - 0.5).min() < 1e-5
    touched = [number for place in beside for number in np.unique(labels[place])]
    same = ~np.isin(np.arange(len(centers)) + 1, touched)
    assert len(centers) == len(recorded["group_size"])
    np.testing.assert_allclose(
        centers[same], recorded["group_center_irc"][same], rtol=0, atol=1e-9
    )
    np.testing.assert_array_equal(found.groups.voxels[same], recorded["group_size"][same])
    # The book classifies in the order of x, then y, then z.
    order = np.lexsort(real_scan.xyz(recorded["group_center_irc"]).T[::-1])
    places, same = np.round(centers[order]), same[order]
    np.testing.assert_array_equal(places[same], recorded["classified_center_irc"][same])
    xyz = recorded["classified_center_xyz"]
    np.testing.assert_allclose(real_scan.xyz(places)[same], xyz[same])
    # Float32 of another library: 3e-6 was measured.
    chances = found.probability[order]
    np.testing.assert_allclose(chances[same], recorded["probability"][same], rtol=0, atol=2e-5)


def _probabilities(networks, scan, place):
    """Of the voxels of a box, which slices name."""
    slices = detector.with_context(scan.voxels, range(place[0].start, place[0].stop))
    found = [train.predict(*networks.segmentation, x[None])[0, ..., 0] for x in slices]
    return np.stack(found)[(slice(None), *place[1:])]


# Scores


def test_the_confusion_table_is_the_books(golden):
    recorded = np.load(golden / "match_and_score.npz")
    for number, wanted in enumerate(recorded["confusion"]):
        n, m = recorded["n_det"][number], recorded["n_true"][number]
        nodules = np.flatnonzero(recorded["is_nodule"][number][:m])
        touching = scores.hits(
            recorded["det_xyz"][number][:n],
            recorded["true_xyz"][number][nodules],
            recorded["diameter_mm"][number][nodules],
            scores.BOOKS_REACH,
        )
        table = scores.confusion(
            touching,
            recorded["prob_nodule"][number][:n],
            recorded["prob_mal"][number][:n],
            recorded["is_mal"][number][nodules],
            threshold=recorded["threshold"][number],
        )
        np.testing.assert_array_equal(table, wanted, err_msg=f"case {number}")


def test_the_free_response_curve_is_the_challenges_way_to_scikit_learns_roc():
    # The challenge scales scikit-learn's rates: false ones to a scan, true ones to all nodules.
    rng = np.random.default_rng(0)
    scans, labels, probabilities, nodules = [], [], [], 0
    for _ in range(5):
        nodule_of = rng.integers(0, 3, size=12)  # 2 is no nodule
        probability = rng.choice(np.linspace(0, 1, 9), size=12)
        touching = nodule_of == np.arange(3)[:, None]
        touching[2] = False  # a nodule that nothing counts for
        scans.append((touching, probability))
        nodules += 3
        for row in touching[:2]:
            if row.any():
                labels.append(True)
                probabilities.append(probability[row].max())
        false = probability[nodule_of == 2]
        labels += [False] * len(false)
        probabilities += list(false)
    false_rate, true_rate, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    curve = scores.froc(scans)
    alarms = false_rate * np.sum(np.logical_not(labels)) / len(scans)
    found = true_rate * np.sum(labels) / nodules
    np.testing.assert_allclose(curve.false_positives, alarms)
    np.testing.assert_allclose(curve.sensitivity, found)
    wanted = np.interp([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], alarms, found)
    np.testing.assert_allclose(curve.score, wanted.mean())


def test_no_findings_and_no_nodules():
    nothing = scores.hits([], [(0, 0, 0)], [5], scores.LUNAS_REACH)
    assert scores.froc([(nothing, [])]).score == 0
    assert scores.confusion(nothing, [], [], [False])[1].tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="no scan holds a nodule"):
        scores.froc([(np.zeros((0, 2), bool), [0.5, 0.5])])
