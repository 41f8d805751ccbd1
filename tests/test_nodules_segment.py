"""Crops and slices of `nodules segment`, with NumPy as the referee; and, slowly, chapters 13
and 14 as a person runs them.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import log_loss

from dlwp_jax import runs, weights
from dlwp_jax.data import BrokenFile, volume
from dlwp_jax.data.volume import Volume
from experiments.nodules import classifier, classify, detector, end_to_end, segment, source
from experiments.nodules.candidates import Candidates
from experiments.nodules.luna import Luna


@pytest.fixture
def scans(tmp_path):
    """Five scans of 8 x 50 x 52 voxels, each with one dense ball at another place."""
    paths, centers = {}, []
    for number in range(5):
        middle = np.array([number, 10 * number + 3, 50 - 10 * number])
        away = np.moveaxis(np.indices((8, 50, 52)), 0, -1) - middle
        ball = (away**2).sum(axis=-1) <= 4
        scan = Volume(np.where(ball, 30.0, -900.0) + number, (2, 2, 2), (10, 20, 30))
        paths[f"scan{number}"] = tmp_path / f"scan{number}.mhd"
        volume.write_mhd(paths[f"scan{number}"], scan)
        centers.append(scan.xyz(middle))
    n = len(centers)
    nodules = Candidates(
        np.array(list(paths)),
        np.array(centers),
        np.full(n, 8.0),
        np.ones(n, bool),
        np.eye(n)[0] > 0,
    )
    return Luna(tmp_path, paths, nodules, nodules)


def test_crops_are_cut_around_nodules_and_moved_inside_at_the_border(scans, tmp_path):
    config = segment.Config(cache=tmp_path / "cache", scans=5, around=1, others=0, elsewhere=0)
    nodules = segment.nodules_in(scans)
    held = segment.is_held(config, scans, nodules.series)
    assert held.tolist() == [True, False, False, False, False]
    crops = segment.cut_crops(config, scans, nodules.take(~held))
    assert crops.shape == (12, 8, 48, 48)
    for number in range(1, 5):
        scan = volume.read_mhd(scans.scans[f"scan{number}"]).voxels
        row = min(max(10 * number + 3 - 24, 0), 2)
        column = min(max(50 - 10 * number - 24, 0), 4)
        for k, offset in enumerate((-1, 0, 1)):
            planes = crops[3 * (number - 1) + k]
            around = np.clip(number + offset + np.arange(-3, 4), 0, 7)
            wanted = scan[around, row : row + 48, column : column + 48]
            np.testing.assert_array_equal(planes[:7], wanted)
            np.testing.assert_array_equal(planes[7], wanted[3] > -700)


def test_crops_of_other_scans_have_a_file_of_their_own(scans, tmp_path):
    """A folder made by `--full` and read by `--luna` holds other scans back."""
    config = segment.Config(cache=tmp_path / "cache", scans=5, others=0, elsewhere=0)
    nodules = segment.nodules_in(scans)
    first = segment.cut_crops(config, scans, nodules.take(slice(4)))
    last = segment.cut_crops(config, scans, nodules.take(slice(1, 5)))
    np.testing.assert_array_equal(first[3:], last[:-3])


def test_validation_sees_the_whole_slices_that_show_a_nodule(scans, tmp_path):
    config = segment.Config(cache=tmp_path, scans=5)
    nodules = segment.nodules_in(scans).take([2, 3])
    slices = segment.cut_slices(config, scans, nodules)
    # Each ball is five slices high; 50 rows are filled up to 52, a multiple of four.
    assert slices.shape == (10, 8, 52, 52)
    third = volume.read_mhd(scans.scans["scan2"]).voxels
    np.testing.assert_array_equal(slices[:5, 3, :50], third[:5])
    np.testing.assert_array_equal(slices[:5, 7, :50] > 0, third[:5] > -700)
    assert (slices[:, :7, 50:] == -1000).all()
    assert not slices[:, 7, 50:].any()


def test_a_crop_is_a_piece_of_its_planes_and_the_mask_moves_with_it():
    rng = np.random.default_rng(0)
    mask = rng.random((3, 1, 24, 24)) > 0.8
    planes = np.concatenate([np.where(mask, 1000, -1000)] * 7 + [mask], axis=1).astype(np.int16)
    still = segment.Crops(16, offset=0, stretch=0, turn=0, std=0)
    batch = jax.jit(still)(jax.random.key(0), {"planes": planes})
    hu, label = np.asarray(batch["hu"]), np.asarray(batch["label"])
    assert hu.shape == (3, 16, 16, 7)
    for example, piece in enumerate(label[..., 0]):
        windows = np.lib.stride_tricks.sliding_window_view(mask[example, 0], (16, 16))
        turned = [piece[::i, ::j] for i in (1, -1) for j in (1, -1)]
        assert any((windows == one).all(axis=(2, 3)).any() for one in turned)
    np.testing.assert_array_equal(label, hu[..., 3:4] > 0)

    moved = jax.jit(segment.Crops(16, std=0))(jax.random.key(1), {"planes": planes})
    sure = np.abs(np.asarray(moved["hu"][..., 3:4])) > 1
    same = np.asarray(moved["label"]) == (np.asarray(moved["hu"][..., 3:4]) > 0)
    assert same[sure].all()
    whole = still.evaluate(jax.random.key(0), {"planes": planes})
    np.testing.assert_array_equal(np.moveaxis(np.asarray(whole["hu"]), -1, 1), planes[:, :7])
    np.testing.assert_array_equal(np.asarray(whole["label"])[..., 0], mask[:, 0])


def test_the_losses_are_those_of_their_formulas():
    """Referees: the book's formula in NumPy, and scikit-learn's cross entropy."""
    rng = np.random.default_rng(0)
    guess, label = rng.random((3, 4, 4, 1)), rng.random((3, 4, 4, 1)) > 0.7
    label[1] = False  # no nodule

    def dice(guess, axes):
        both, sums = (guess * label).sum(axes), guess.sum(axes) + label.sum(axes)
        return (1 - (2 * both + 1) / (sums + 1)).mean()

    batch = {"hu": jnp.asarray(guess), "label": jnp.asarray(label)}
    each = (1, 2, 3)
    loss, _ = segment.Loss(2.0)(lambda hu: hu, batch)
    wanted = dice(guess, each) + 2 * dice(guess * label, each)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)

    loss, _ = segment.CoarseLoss(2.0)(lambda hu: hu, batch)
    missed = [
        log_loss(true[true], p[true], labels=[False, True]) if true.any() else 0.0
        for p, true in zip(guess, label, strict=True)
    ]
    np.testing.assert_allclose(loss, dice(guess, None) + 2 * np.mean(missed), rtol=1e-5)


def test_the_coarse_loss_has_a_slope_where_a_nodule_is_missed_for_sure():
    label = jnp.ones((1, 2, 2, 1), bool)

    def slope(loss, logit):
        def of(logit):
            hu = jnp.full(label.shape, jax.nn.sigmoid(logit))
            return loss(lambda x: x, {"hu": hu, "label": label})[0]

        return float(jax.grad(of)(logit))

    for logit in (-6.0, -12.0):
        # The derivative of -log(sigmoid(x)) is -1 there; that of the overlap shrinks with p.
        np.testing.assert_allclose(slope(segment.CoarseLoss(1.0), logit), -1, atol=0.02)
        assert abs(slope(segment.Loss(1.0), logit)) < 0.02
    nothing = jnp.zeros(label.shape)  # a probability of 0, whose logarithm is not finite
    loss, _ = segment.CoarseLoss(1.0)(lambda x: x, {"hu": nothing, "label": label})
    np.testing.assert_allclose(loss, 0.8 + 100, rtol=1e-5)  # torch's logarithm stops at -100


def test_luna_and_the_full_cohort_keep_the_books_amounts(tmp_path):
    """Referee: the book's code (chapters 12 to 14)."""
    for config in (segment.Config(full=True), segment.Config(luna=tmp_path)):
        assert (config.weight, config.sure, config.erosions) == (8, 0.5, 1)
        assert (config.crop, config.width) == ((96, 64), (32, 48, 48))
        assert classifier.changes(config) == classifier.ALL
    coarse = segment.Config()
    assert classifier.changes(coarse).std < classifier.ALL.std
    assert segment.Config(missed=5.0).weight == 5 != coarse.weight


def test_a_nodule_outside_of_its_scan_is_named_and_left_out_only_if_asked(
    scans, tmp_path, capsys
):
    centers = scans.nodules.center.copy()
    centers[2] = 1000
    nodules = scans.nodules._replace(center=centers)
    options = {"cache": tmp_path / "cache", "scans": 5, "others": 0, "elsewhere": 0}
    for cut in (segment.cut_crops, segment.cut_slices):
        with pytest.raises(BrokenFile, match=r"scan2: a nodule at .* outside of a scan"):
            cut(segment.Config(**options), scans, nodules)
    skipping = segment.Config(**options, skip_unreadable=True)
    assert len(segment.cut_crops(skipping, scans, nodules)) == 4 * 3
    assert len(segment.cut_slices(skipping, scans, nodules)) > 0
    assert capsys.readouterr().out.count("left out: scan2: a nodule") == 2


def test_too_few_scans_are_refused_before_anything_is_trained(scans, tmp_path):
    one = scans._replace(scans={"scan0": scans.scans["scan0"]}, nodules=scans.nodules.take([0]))
    with pytest.raises(ValueError, match="take more scans"):
        segment.load(segment.Config(cache=tmp_path), one)


def test_the_table_and_the_curve_of_scans_that_were_held_back(scans, capsys):
    networks = []
    for make in (detector.new_segmentation, lambda: detector.new_classifier((16, 16, 16))):
        model = detector.unfilled(make)
        if hasattr(model, "unet"):
            model.unet.last.bias[...] = jnp.full(1, 3.0)  # every voxel is of a nodule
        else:
            model.head_linear.bias[...] = jnp.log(jnp.array([0.1, 0.9]))
        networks.append(detector.ready(model))
    whole = detector.Detector(*networks, networks[1], (16, 16, 16), erosions=0)
    # Scan 0 is held back. Its one group has its centre in the middle of the scan, far from the
    # nodule, which is malignant.
    results = end_to_end.evaluate(segment.Config(), whole, scans)
    assert results.confusion.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert (results.nodules, results.segmented, results.scans) == (1, 0, 1)
    assert end_to_end.show(results) == {"segmented": 0, "at 2 false positives": 0, "froc": 0}
    assert "called malignant" in capsys.readouterr().out
    # The one group of each other scan is as far from its nodule.
    config = end_to_end.Config(mined=3)
    groups = end_to_end.mine(config, whole, scans)
    assert groups.is_nodule.tolist() == [False] * 3
    assert "0 groups of nodules and 3 others" in capsys.readouterr().out
    for number, box in enumerate(groups.voxels, 1):
        scan = volume.read_mhd(scans.scans[f"scan{number}"]).voxels
        _, row, column = np.round(ndimage.center_of_mass(scan + 1001)).astype(int) - 8
        wanted = scan[:, row : row + 16, column : column + 16]
        np.testing.assert_array_equal(box[:8], wanted)
        np.testing.assert_array_equal(box[8:], np.broadcast_to(box[7], (8, 16, 16)))


def test_networks_of_other_scans_are_not_taken(tmp_path):
    config = end_to_end.Config(out=tmp_path, seed=1)
    runs.start("nodules_segment", segment.Config(seed=1), out=tmp_path)
    folder = tmp_path / "nodules_segment"
    assert end_to_end.is_of_the_same_scans(folder, config)
    assert not end_to_end.is_of_the_same_scans(folder, end_to_end.Config(seed=2))
    assert not end_to_end.is_of_the_same_scans(folder, end_to_end.Config(seed=1, full=True))
    assert not end_to_end.is_of_the_same_scans(tmp_path / "nothing", config)


@pytest.mark.slow
def test_chapters_13_and_14_on_a_small_cohort(tmp_path, capsys, monkeypatch):
    # Above the threshold of a whole training lie more groups after one epoch, and each is
    # classified: 151 s in place of 117 s.
    monkeypatch.setattr(source.Config, "sure", 0.95)
    flags = {"scans": 6, "cache": tmp_path / "cache", "out": tmp_path, "epochs": 1}
    segment.main(segment.Config(**flags, every=1, most_slices=8))
    assert (tmp_path / "nodules_segment" / "slices_001.png").exists()
    # In place of the command of chapter 12, which tests/test_nodules_classifier.py runs.
    config = classify.Config(**flags)
    run = runs.start("nodules_classify", config, out=tmp_path)
    _, state = classify.new_classifier(config, samples=16)
    weights.save_weights(run.path / detector.FILES["classifier"], state)
    end_to_end.main(end_to_end.Config(**flags, samples=32, mined=1, again=32))
    text = capsys.readouterr().out
    assert "called malignant" in text
    results = json.loads((tmp_path / "nodules_end_to_end" / "results.json").read_text())
    assert 0 <= results["froc"] <= results["segmented"] <= 1
    folder = tmp_path / "nodules_end_to_end" / "weights"
    assert {path.name for path in folder.iterdir()} == {
        "classifier.safetensors",
        "detector.json",
        "malignancy.safetensors",
        "segmentation.safetensors",
    }
