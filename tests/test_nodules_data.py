"""Chapters 9 and 10: the made-up cohort, LUNA16's folders, and boxes that are cut once."""

import json
import shutil
import threading

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.data import get_testdata_file
from scipy import ndimage

from dlwp_jax.data import BrokenFile, mapped, synthetic, volume
from dlwp_jax.data.volume import Volume
from experiments.nodules import candidates, cohort, luna
from experiments.nodules import source as sources
from experiments.nodules.source import cut_chunks, open_source

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A cohort of three scans in LUNA16's form, as the command writes it; read only."""
    folder = tmp_path_factory.mktemp("luna") / "cohort"
    cohort.main(cohort.Config(folder, scans=3, others=30))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "luna")


def cut(folder, cache, **options):
    """Chunks of the book's size from a folder."""
    config = sources.Config(luna=folder, cache=cache, **options)
    source = open_source(config)
    return cut_chunks(config, source, source.candidates)


# Tables


def book_join(rows, annotations):
    """The loop of the book's `getCandidateInfoList`, in our words."""
    joined = []
    for series, x, y, z, is_nodule in rows:
        diameter = 0.0
        for name, *center, size in annotations:
            if name != series:
                continue
            if all(abs(a - b) <= size / 4 for a, b in zip((x, y, z), center, strict=True)):
                diameter = size
                break
        joined.append((bool(is_nodule), diameter, series, (x, y, z)))
    return sorted(joined, reverse=True)


def columns(rows, last):
    names = ("seriesuid", "coordX", "coordY", "coordZ", last)
    return {
        name: np.array(values)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def test_candidates_get_the_diameters_that_the_books_loop_gives():
    annotations, rows = [], []
    for i in range(30):
        center, size = RNG.uniform(-200, 200, 3), RNG.uniform(3, 30)
        annotations.append((f"s{i % 7}", *center, size))
        for share in (0.1, 0.2, 0.24, 0.26, 0.6):  # of the diameter, on one axis
            rows.append((f"s{i % 7}", center[0] + share * size, *center[1:], int(share < 0.25)))
            rows.append((f"s{(i + 1) % 7}", *center, 0))
    joined = candidates.join(columns(rows, "class"), columns(annotations, "diameter_mm"))
    wanted = book_join(rows, annotations)
    assert joined.is_nodule.tolist() == [row[0] for row in wanted]
    np.testing.assert_array_equal(joined.diameter, [row[1] for row in wanted])
    assert joined.series.tolist() == [row[2] for row in wanted]
    np.testing.assert_array_equal(joined.center, [row[3] for row in wanted])
    assert 0 < (joined.diameter > 0).sum() < joined.is_nodule.size


def test_of_two_annotations_that_fit_the_nearest_is_taken():
    annotations = columns(
        [("s", 0.0, 0.0, 0.0, 20.0), ("s", 3.0, 0.0, 0.0, 16.0)], "diameter_mm"
    )
    rows = columns([("s", 2.5, 0.0, 0.0, 1)], "class")
    assert candidates.join(rows, annotations).diameter.tolist() == [16.0]


def test_on_the_real_annotations_no_two_fit_one_candidate(shared_data):
    """So the nearest is the one that the book takes, the first."""
    path = shared_data / "book" / "part2" / "luna" / "annotations.csv"
    if not path.exists():
        pytest.skip(f"LUNA16's annotations are not at {path}")
    known = candidates.read(path, "diameter_mm")
    centers, size = candidates.centers(known), known["diameter_mm"]
    same = known["seriesuid"][:, None] == known["seriesuid"]
    apart = np.abs(centers[:, None] - centers).max(axis=-1) > (size[:, None] + size) / 4
    assert (apart | ~same | np.eye(len(size), dtype=bool)).all()


def test_nodules_with_malignancy_and_the_candidates_that_are_none(written):
    source = luna.open_folder(written)
    judged = source.nodules
    truth = [
        nodule
        for seed in range(3)
        for nodule in synthetic.chest_ct(cohort.SMALL, others=30, seed=seed).nodules
    ]
    assert judged.is_nodule.sum() == len(truth)
    assert (~judged.is_nodule).sum() == 90
    wanted = sorted(((n.is_malignant, n.diameter) for n in truth), reverse=True)
    np.testing.assert_allclose(
        np.stack([judged.is_malignant, judged.diameter], axis=1)[: len(truth)],
        wanted,
        atol=1e-8,
    )


# The made-up cohort


def test_simpleitk_reads_the_cohort_with_a_nodule_at_every_annotation(written):
    table = luna.open_folder(written).nodules
    for name in np.unique(table.series).tolist():
        image = SimpleITK.ReadImage(str(written / "subset0" / f"{name}.mhd"))
        assert image.GetPixelID() == SimpleITK.sitkInt16
        voxels = SimpleITK.GetArrayFromImage(image)
        mine = table.take((table.series == name) & table.is_nodule & (table.diameter > 6))
        for center in mine.center.tolist():
            x, y, z = image.TransformPhysicalPointToIndex(center)
            assert voxels[z, y, x] > -750  # a hazy nodule; the lung is at -850


def test_a_chest_holds_the_volume_of_lung_and_nodules_that_it_says():
    """Referee: connected components by SciPy, and the volume of a ball."""
    chest = synthetic.chest_ct((64, 112, 144), nodules=3, others=0, noise=0, seed=4)
    voxels, spacing = chest.scan.voxels, chest.scan.spacing
    labels, _ = ndimage.label(voxels < -500)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1] * np.prod(spacing) / 1e6
    assert 1.0 < sizes[1] < 5.0  # litres: the lungs, after the air around the patient
    for nodule in chest.nodules:
        if nodule.place == "free" and nodule.solid == 1 and nodule.diameter > 8:
            box, _ = chest.scan.chunk(nodule.center, (20, 20, 20))
            found = (box > -400).sum() * np.prod(spacing)
            assert found > 0.6 * np.pi / 6 * nodule.diameter**3


def test_the_seed_makes_the_patient():
    one, same, other = (
        synthetic.chest_ct((16, 28, 36), others=9, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.scan.voxels, same.scan.voxels)
    assert one.nodules == same.nodules
    np.testing.assert_array_equal(one.others, same.others)
    assert (one.scan.voxels != other.scan.voxels).any()


def test_other_places_are_in_the_scan_and_clear_of_nodules():
    for seed in range(4):
        chest = synthetic.chest_ct((16, 28, 36), nodules=6, others=300, seed=seed)
        voxels = np.round(chest.scan.irc(chest.others))
        assert ((voxels >= 0) & (voxels < chest.scan.voxels.shape)).all()
        for nodule in chest.nodules:
            distance = np.linalg.norm(chest.others - nodule.center, axis=1)
            assert (distance > nodule.diameter / 2 + 4).all()


def test_a_nodule_is_brighter_than_the_lung_around_it():
    chest = synthetic.chest_ct((64, 112, 144), nodules=6, others=0, noise=0, seed=0)
    for nodule in chest.nodules:
        box, _ = chest.scan.chunk(nodule.center, (7, 7, 7))
        assert box[2:5, 2:5, 2:5].max() > np.percentile(box, 10) + 100


def test_cohorts_of_different_seeds_have_no_patient_in_common():
    names = [
        {cohort.series_name(cohort.Config(seed=seed), number) for number in range(60)}
        for seed in (0, 1)
    ]
    assert len(names[0] | names[1]) == 120


def test_a_cohort_is_not_written_over_another(written):
    with pytest.raises(FileExistsError, match="holds a data set already"):
        cohort.main(cohort.Config(written))


# Scans


def test_a_flipped_scan_is_written_and_read_back(tmp_path):
    turned = np.diag([-1.0, -1.0, 1.0])
    scan = Volume(RNG.integers(-1000, 400, (3, 4, 5)), (0.7, 0.8, 2.5), (1, 2, 3), turned)
    volume.write_mhd(tmp_path / "scan.mhd", scan)
    image = SimpleITK.ReadImage(str(tmp_path / "scan.mhd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), scan.voxels)
    np.testing.assert_allclose(
        image.TransformContinuousIndexToPhysicalPoint([4.0, 3.0, 2.0]), scan.xyz([2, 3, 4])
    )
    np.testing.assert_allclose(volume.read_mhd(tmp_path / "scan.mhd").direction, turned)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.mhd", "scan.raw"]
    with pytest.raises(ValueError, match="must end in"):
        volume.write_mhd(tmp_path / "scan.raw", scan)


def test_fractions_are_written_as_they_are(tmp_path):
    scan = Volume(np.full((2, 2, 2), 0.5))
    volume.write_mhd(tmp_path / "scan.mhd", scan)
    image = SimpleITK.ReadImage(str(tmp_path / "scan.mhd"))
    assert SimpleITK.GetArrayFromImage(image).tolist() == scan.voxels.tolist()


def test_scans_are_cut_off_at_air_and_bone(tmp_path):
    volume.write_mhd(tmp_path / "scan.mhd", Volume(np.array([[[-3024.0, -500, 3000]]])))
    assert luna.read_scan(tmp_path / "scan.mhd").voxels.ravel().tolist() == [-1000, -500, 1000]


def test_numbers_of_another_unit_are_refused(tmp_path):
    scan = Volume(RNG.integers(0, 4096, (3, 4, 5)))
    volume.write_mhd(tmp_path / "scan.mhd", scan)
    with pytest.raises(BrokenFile, match="no Hounsfield units"):
        luna.read_scan(tmp_path / "scan.mhd")


def test_a_folder_of_dicom_files_is_a_scan_of_luna_too(folder):
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    series = folder / "subset1" / "1.2.3"
    series.mkdir(parents=True)
    for i in range(3):
        template.ImagePositionPatient = [0.0, 0.0, 2.5 * i]
        template.save_as(series / f"{i}.dcm")
    found = luna.find_scans(folder)
    assert found["1.2.3"] == series
    assert len(found) == 4
    (series / "1.dcm").unlink()
    (series / "0.dcm").rename(series / "3.dcm")
    assert len(list(series.iterdir())) == 2


# Boxes


def test_boxes_are_those_that_simpleitk_cuts(written, tmp_path):
    chunks = cut(written, tmp_path)
    assert chunks.voxels.shape == (len(chunks.candidates.series), 32, 48, 48)
    assert chunks.voxels.dtype == np.int16
    for row in (0, 40, 80):
        name, center = chunks.candidates.series[row], chunks.candidates.center[row]
        image = SimpleITK.ReadImage(str(written / "subset0" / f"{name}.mhd"))
        middle = image.TransformPhysicalPointToIndex(center.tolist())
        size = np.array([48, 48, 32])
        first = np.clip(np.array(middle) - size // 2, 0, np.array(image.GetSize()) - size)
        box = SimpleITK.RegionOfInterest(image, size.tolist(), first.tolist())
        hu = np.clip(SimpleITK.GetArrayFromImage(box), -1000, 1000)
        np.testing.assert_array_equal(chunks.voxels[row], hu)


def test_every_tenth_scan_of_the_sorted_names_is_held_back():
    series = np.array([f"s{i:02d}" for i in RNG.permutation(np.repeat(np.arange(25), 4))])
    held = candidates.held_back(series)
    assert sorted(set(series[held])) == ["s00", "s10", "s20"]
    assert not set(series[held]) & set(series[~held])


def test_a_second_call_reads_no_scan(written, tmp_path):
    first = cut(written, tmp_path)
    np.testing.assert_array_equal(cut(written, tmp_path).voxels, first.voxels)
    folder = shutil.copytree(written, tmp_path / "luna")
    for path in folder.glob("subset0/*.raw"):
        path.write_bytes(b"")
    with pytest.raises(BrokenFile):
        cut(folder, tmp_path)


def test_a_scan_that_cannot_be_read_is_named_and_left_out_only_if_asked(
    folder, tmp_path, capsys
):
    raw = sorted(folder.glob("subset0/*.raw"))[1]
    raw.write_bytes(raw.read_bytes()[:-100])
    with pytest.raises(BrokenFile, match=raw.name):
        cut(folder, tmp_path / "cache")
    chunks = cut(folder, tmp_path / "cache", skip_unreadable=True)
    assert raw.name in capsys.readouterr().out
    assert raw.stem not in set(chunks.candidates.series)
    assert len(set(chunks.candidates.series)) == 2
    whole = cut(folder, tmp_path / "cache", skip_unreadable=True)
    np.testing.assert_array_equal(whole.voxels, chunks.voxels)


def test_a_candidate_outside_of_its_scan_is_named(folder, tmp_path):
    table = folder / luna.CANDIDATES
    name = min(folder.glob("subset0/*.mhd")).stem
    table.write_text(table.read_text() + f"{name},1000.0,0.0,0.0,0\n")
    with pytest.raises(BrokenFile, match=rf"{name}.*1000.*outside of a scan"):
        cut(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (luna.CANDIDATES, "class", "label", "has no column class"),
        (luna.ANNOTATIONS, "diameter_mm", "size", "has no column diameter_mm"),
        (luna.ANNOTATIONS, "coordX,coordY", "x,y", "has no column coordX, coordY"),
        (luna.MALIGNANCY, "True", "maybe", "'maybe' is neither True nor False"),
        (luna.CANDIDATES, "seriesuid,", "seriesuid;", "has no column seriesuid, coordX"),
    ],
)
def test_tables_of_another_form_are_refused(folder, table, old, new, message):
    path = folder / table
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BrokenFile, match=message):
        luna.open_folder(folder)


def test_a_folder_without_scans_or_tables_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no subset\*/\*\.mhd"):
        luna.open_folder(tmp_path)
    (folder / luna.MALIGNANCY).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {luna.MALIGNANCY}"):
        luna.open_folder(folder)


# Arrays on disk

PARTS = {"a": 2, "b": 3, "c": 1}
WHOLE = np.arange(6 * 4, dtype=np.int16).reshape(6, 4)
ROWS = {"a": WHOLE[:2], "b": WHOLE[2:5], "c": WHOLE[5:]}


def build(path, make=ROWS.__getitem__, **options):
    options = {"shape": (4,), "dtype": np.int16, "progress": False, **options}
    return mapped.build(path, options.pop("parts", PARTS), make, **options)


def test_parts_made_in_threads_are_one_array_that_numpy_reads(tmp_path):
    path = tmp_path / "new" / "rows.npy"
    np.testing.assert_array_equal(build(path).array, WHOLE)
    np.testing.assert_array_equal(np.load(path), WHOLE)


def test_what_was_interrupted_goes_on_and_has_no_name_before_its_end(tmp_path):
    path, made = tmp_path / "rows.npy", []

    def make(name):
        made.append(name)
        if name == "b" and made.count("b") == 1:
            raise RuntimeError("interrupted")
        return ROWS[name]

    with pytest.raises(RuntimeError, match="interrupted"):
        build(path, make, threads=1)
    assert not path.exists()
    np.testing.assert_array_equal(build(path, make, threads=1).array, WHOLE)
    assert made.count("a") == 1
    np.testing.assert_array_equal(np.load(path), WHOLE)
    assert {p.name for p in tmp_path.iterdir()} == {"rows.npy", "rows.json", "rows.lock"}


def test_a_journal_that_was_cut_off_is_continued(tmp_path):
    def make(name):
        if name == "c":
            raise KeyboardInterrupt
        return ROWS[name]

    path = tmp_path / "rows.npy"
    with pytest.raises(KeyboardInterrupt):
        build(path, make, threads=1)
    journal = path.with_suffix(".unfinished")
    journal.write_bytes(journal.read_bytes()[:-4])
    np.testing.assert_array_equal(build(path).array, WHOLE)


def test_parts_left_out_are_named_now_and_later(tmp_path):
    def make(name):
        if name == "b":
            raise BrokenFile("b.mhd is damaged.")
        return ROWS[name]

    with pytest.raises(BrokenFile, match="damaged"):
        build(tmp_path / "rows.npy", make)
    for _ in range(2):
        found = build(tmp_path / "rows.npy", make, leave_out=True)
        assert found.left_out == {"b": "b.mhd is damaged."}
        np.testing.assert_array_equal(
            found.array, np.where(np.isin(np.arange(6), [2, 3, 4])[:, None], 0, WHOLE)
        )
    with pytest.raises(BrokenFile, match=r"made without 'b': b\.mhd is damaged"):
        build(tmp_path / "rows.npy", make)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parts": {"a": 2, "b": 4}}, "other parts"),
        ({"about": "cut in another way"}, "other about"),
        ({"shape": (2, 2)}, "other shape"),
        ({"dtype": np.float32}, "other dtype"),
    ],
)
def test_a_file_of_other_things_is_refused_and_kept(tmp_path, changed, message):
    build(tmp_path / "rows.npy")
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "rows.npy", **changed)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), WHOLE)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros((2, 5)), "has shape"),
        (np.full((2, 4), 40000), "do not fit"),
        (np.full((2, 4), 0.5), "do not fit"),
        (np.full((2, 4), np.nan), "do not fit"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "rows.npy", lambda name: made, parts={"a": 2})
    assert not (tmp_path / "rows.npy").exists()


def test_a_disk_that_is_too_small_is_found_out_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(OSError, match="name a folder on another disk"):
        build(tmp_path / "rows.npy")


def test_only_one_process_makes_a_file(tmp_path):
    path, begun, ready = tmp_path / "rows.npy", threading.Event(), threading.Event()

    def make(name):
        begun.set()
        assert ready.wait(60)
        return ROWS[name]

    thread = threading.Thread(target=build, args=(path, make))
    thread.start()
    assert begun.wait(60)
    with pytest.raises(ValueError, match="being made by another process"):
        build(path)
    ready.set()
    thread.join()
    np.testing.assert_array_equal(build(path).array, WHOLE)


def test_size_and_progress_are_told(tmp_path, capsys):
    build(tmp_path / "rows.npy", progress=True)
    said = capsys.readouterr().err
    assert "3 parts, 0.0 MB" in said
    assert "3 of 3 parts" in said
    assert json.loads((tmp_path / "rows.json").read_text())["left_out"] == {}


@pytest.mark.parametrize("lost", ["unfinished rows", "record"])
def test_finished_rows_are_never_zeros(tmp_path, lost):
    """A part that is written down as finished, and whose rows are gone, is made once more."""
    path = tmp_path / "rows.npy"

    def make(name):
        if name == "b" and fails:
            raise OSError("no more")
        return np.full((1, 3), 7)

    settings = {"shape": (3,), "dtype": np.int16, "threads": 1, "progress": False}
    fails = lost == "unfinished rows"
    if fails:
        with pytest.raises(OSError, match="no more"):
            mapped.build(path, {"a": 1, "b": 1}, make, **settings)
        path.with_suffix(".partial").unlink()
    else:
        mapped.build(path, {"a": 1, "b": 1}, make, **settings)
        path.with_suffix(".json").unlink()
    fails = False
    assert (mapped.build(path, {"a": 1, "b": 1}, make, **settings).array == 7).all()
