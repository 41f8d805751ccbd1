import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from dlwp_jax.data import BrokenFile, dicom, synthetic, volume
from dlwp_jax.data.volume import Volume

RNG = np.random.default_rng(0)
numbers = st.floats(-300, 300)


def rotation(angles):
    """A direction matrix, turned about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = (k for k in range(3) if k != axis)
        turn[[i, i, j, j], [i, j, i, j]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = matrix @ turn
    return matrix


@settings(deadline=None, max_examples=50)
@given(
    spacing=st.tuples(*[st.floats(0.1, 5)] * 3),
    origin=st.tuples(numbers, numbers, numbers),
    # Whole milliradians: with angles like 1e-308 SimpleITK's own inverse becomes NaN.
    angles=st.tuples(
        *[st.integers(-3000, 3000).map(lambda milliradians: milliradians / 1000)] * 3
    ),
    irc=st.tuples(*[st.floats(0, 50)] * 3),
)
def test_millimetres_and_voxels_equal_simpleitk_and_come_back(spacing, origin, angles, irc):
    scan = Volume(np.zeros((2, 2, 2), np.float32), spacing, origin, rotation(angles))
    reference = SimpleITK.Image([2, 2, 2], SimpleITK.sitkFloat32)
    reference.SetSpacing(spacing)
    reference.SetOrigin(origin)
    reference.SetDirection(scan.direction.ravel().tolist())
    xyz = scan.xyz(irc)
    # float64 sums of numbers up to 550; SimpleITK inverts the matrix by another method.
    np.testing.assert_allclose(
        xyz,
        reference.TransformContinuousIndexToPhysicalPoint([irc[2], irc[1], irc[0]]),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        scan.irc(xyz)[::-1],
        reference.TransformPhysicalPointToContinuousIndex(xyz.tolist()),
        atol=1e-8,
    )
    np.testing.assert_allclose(scan.irc(xyz), irc, atol=1e-8)


def test_many_points_at_once():
    scan = Volume(np.zeros((2, 2, 2)), (1, 2, 3), (4, 5, 6), np.diag([-1, -1, 1]))
    points = RNG.normal(size=(5, 4, 3))
    np.testing.assert_allclose(scan.xyz(points)[2, 1], scan.xyz(points[2, 1]))
    np.testing.assert_allclose(scan.irc(points)[2, 1], scan.irc(points[2, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1, 1)}, "spacing"),
        ({"spacing": (1, 0, 1)}, "positive"),
        ({"origin": (0, np.nan, 0)}, "origin"),
        ({"direction": np.ones((3, 3))}, "orthonormal"),
    ],
)
def test_impossible_geometry_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Volume(np.zeros((2, 2, 2)), **options)
    with pytest.raises(ValueError, match="index row column"):
        Volume(np.zeros((2, 2)))


def book_chunk(voxels, center, width):
    """Where the book's getRawCandidate cuts, in our words."""
    slices = []
    for axis, middle in enumerate(center):
        start = round(middle - width[axis] / 2)
        end = int(start + width[axis])
        if start < 0:
            start, end = 0, int(width[axis])
        if end > voxels.shape[axis]:
            start, end = int(voxels.shape[axis] - width[axis]), voxels.shape[axis]
        slices.append(slice(start, end))
    return voxels[tuple(slices)]


@settings(deadline=None)
@given(
    center=st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 7)),
    width=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8)),
)
def test_chunks_are_cut_as_in_the_book(center, width):
    scan = Volume(np.arange(6 * 7 * 8.0).reshape(6, 7, 8), (0.5, 0.5, 2), (-3, 4, 5))
    piece, middle = scan.chunk(scan.xyz(center), width)
    assert piece.shape == width
    assert tuple(middle) == center
    np.testing.assert_array_equal(piece, book_chunk(scan.voxels, center, width))


def test_chunks_outside_and_too_large_are_refused():
    scan = Volume(np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match="outside of a scan"):
        scan.chunk([0, 0, -1], (2, 2, 2))
    with pytest.raises(ValueError, match="does not fit"):
        scan.chunk([1, 1, 1], (5, 2, 2))
    with pytest.raises(ValueError, match="low=1"):
        volume.window(0, low=1, high=1)


def test_phantom_tells_the_truth():
    scan, nodules = synthetic.ct_phantom(noise=0)
    for nodule in nodules:
        piece, _ = scan.chunk(nodule.center, (16, 24, 24))
        found = (piece == -50).sum() * np.prod(scan.spacing)
        # A ball counted by voxel centres; the smallest, 6 mm at 3 mm a voxel, is some ten
        # voxels.
        assert found == pytest.approx(np.pi / 6 * nodule.diameter**3, rel=0.35)


# --- DICOM


def write_slices(folder, changes, name="{}.dcm"):
    """Slices of 8 x 8 pixels, one for each dict of changed header fields; gives their paths."""
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    template.Rows = template.Columns = 8
    template.PixelData = template.PixelData[:128]
    paths = [folder / name.format(i) for i in range(len(changes))]
    for path, fields in zip(paths, changes, strict=True):
        for field, value in fields.items():
            setattr(template, field, value)
        template.save_as(path)
    return paths


@pytest.fixture
def series(tmp_path):
    """Five slices, 2.5 mm apart, whose file names are not in their order; a function that
    changes one of them.
    """
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for name, place in zip("bdaec", range(5), strict=True):
        template.ImagePositionPatient = [-10.0, -20.0, 100.0 + 2.5 * place]
        template.RescaleIntercept = -1024 + place  # its own in every slice
        template.save_as(tmp_path / f"{name}.dcm")

    def change(name, **fields):
        slice_ = pydicom.dcmread(tmp_path / f"{name}.dcm")
        for field, value in fields.items():
            setattr(slice_, field, value) if value is not None else delattr(slice_, field)
        slice_.save_as(tmp_path / f"{name}.dcm")

    return tmp_path, change


def test_series_in_order_of_place_and_in_hounsfield_units(series):
    folder, _ = series
    scan = dicom.read_series(folder)
    stored = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    expected = stored.pixel_array.astype(np.float32) * stored.RescaleSlope - 1024
    np.testing.assert_array_equal(scan.voxels, np.stack([expected + i for i in range(5)]))
    assert scan.voxels.dtype == np.float32
    np.testing.assert_allclose(scan.spacing, [*stored.PixelSpacing[::-1], 2.5])
    np.testing.assert_allclose(scan.origin, [-10, -20, 100])
    np.testing.assert_allclose(scan.direction, np.eye(3))


def test_series_equals_simpleitk(series):
    folder, _ = series
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(names)
    scan = dicom.read_series(folder)
    np.testing.assert_allclose(scan.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(scan.spacing, image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(scan.origin, image.GetOrigin())
    np.testing.assert_allclose(scan.direction.ravel(), image.GetDirection())


def test_feet_first_columns_run_the_other_way(series):
    folder, change = series
    for name in "abcde":
        change(name, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    scan = dicom.read_series(
        folder
    )  # along row -x, down the column y: the slice axis points to the feet
    np.testing.assert_allclose(np.diag(scan.direction), [-1, 1, -1])
    np.testing.assert_allclose(scan.origin, [-10, -20, 110])
    np.testing.assert_allclose(scan.xyz([4, 0, 0]), [-10, -20, 100])


TILT = [1, 0, 0, 0, float(np.cos(0.3)), float(np.sin(0.3))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": {"ImagePositionPatient": [-10, -20, 100.0]}}, "two slices at 100 mm"),
        (
            {"c": {"SeriesInstanceUID": "1.2.3"}},
            "mixes slices of 2 different SeriesInstanceUID",
        ),
        (
            {"c": {"ImageOrientationPatient": TILT}},
            "mixes slices of 2 different ImageOrientationPatient",
        ),
        ({"c": {"PixelSpacing": [1, 1]}}, "mixes slices of 2 different PixelSpacing"),
        ({name: {"ImageOrientationPatient": TILT} for name in "abcde"}, "tilted"),
        (
            {"c": {"ImagePositionPatient": [-10, -15, 110.0]}},
            "tilted: its slices shift sideways",
        ),
        ({"c": {"RescaleSlope": None}}, "has no RescaleSlope"),
        ({"c": {"Modality": "MR"}}, "modality 'MR'"),
        ({"c": {"PixelSpacing": [0, 1]}}, "no usable position"),
        ({"c": {"PixelData": b"\0" * 1000}}, r"c\.dcm cannot be read as a DICOM slice"),
    ],
)
def test_series_that_make_no_volume_are_refused(series, changes, message):
    folder, change = series
    for name, fields in changes.items():
        change(name, **fields)
    with pytest.raises(BrokenFile, match=message):
        dicom.read_series(folder)


def test_missing_slice_is_named(series):
    folder, _ = series
    (folder / "a.dcm").unlink()
    with pytest.raises(BrokenFile, match=r"a slice missing between 102\.5 and 107\.5 mm"):
        dicom.read_series(folder)
    for name in "bcd":
        (folder / f"{name}.dcm").unlink()
    with pytest.raises(BrokenFile, match="one slice"):
        dicom.read_series(folder)


@pytest.mark.parametrize(
    ("distance", "decimals", "start"),
    [
        (1.25, 1, -110.6),
        (0.625, 2, -42.37),
        (0.625, 1, 3.0),
        (0.6, 1, 0.05),
        (0.75, 1, 12.3),
        (2.5, 0, 1.0),
        (1.25, 2, -3.0),
    ],
)
def test_rounded_positions_are_read_and_a_gap_in_them_is_not(
    tmp_path, distance, decimals, start
):
    heights = (start + distance * np.arange(12)).round(decimals)
    paths = write_slices(tmp_path, [{"ImagePositionPatient": [1, 2, z]} for z in heights])
    scan = dicom.read_series(tmp_path)
    assert scan.voxels.shape[0] == 12
    assert scan.spacing[2] == pytest.approx(distance, abs=10.0**-decimals / 11)
    for path in (paths[1], paths[5], paths[10]):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BrokenFile, match="a slice missing"):
            dicom.read_series(tmp_path)
        path.write_bytes(content)


def test_whole_millimetres_do_not_hide_a_missing_slice(tmp_path):
    write_slices(tmp_path, [{"ImagePositionPatient": [1, 2, z]} for z in (0, 1, 3)])
    with pytest.raises(BrokenFile, match="a slice missing"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("PixelSpacing", [["0.703125", "0.703125"], ["0.7031250", "7.03125e-1"]]),
        ("PixelSpacing", [["0.703125", "0.703125"], ["0.7031", "0.7031"]]),
        (
            "ImageOrientationPatient",
            [["1", "0", "0", "0", "1", "0"], ["1.0", "0.00", "-0", "0", "1", "0"]],
        ),
        (
            "ImageOrientationPatient",
            [["1", "0", "0", "0", "1", "0"], ["0.999999", "1e-6", "0", "0", "1", "0"]],
        ),
    ],
)
def test_the_same_numbers_in_other_words_are_one_series(tmp_path, field, words):
    places = [[1, 2, 3.0 * i] for i in range(4)]
    write_slices(
        tmp_path,
        [{"ImagePositionPatient": p, field: words[i % 2]} for i, p in enumerate(places)],
    )
    assert dicom.read_series(tmp_path).voxels.shape[0] == 4


NAMES = [
    "IM{:04d}",
    "A.{:04d}.IMA",
    "1.2.840.113.{}",
    "slice{}.DCM",
    "{:05d}",
    "{}.dicom",
    "CT.{}.img",
]


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_any_name_are_read_and_other_files_are_not(tmp_path, name):
    fields = [{"ImagePositionPatient": [1, 2, 3.0 * i]} for i in range(4)]
    paths = write_slices(tmp_path, fields, name)
    for other in ("DICOMDIR", "LICENSE", "notes.txt", "picture.jpg", ".DS_Store"):
        (tmp_path / other).write_bytes(b"nothing of the scan")
    assert dicom.read_series(tmp_path).voxels.shape[0] == 4
    if name != "CT.{}.img":  # without a usual suffix only its first bytes tell a slice
        paths[3].write_bytes(b"a damaged slice is not left out")
        with pytest.raises(BrokenFile, match="cannot be read as a DICOM slice"):
            dicom.read_series(tmp_path)


# --- MetaImage


@pytest.fixture
def mhd(tmp_path):
    scan = synthetic.ct_phantom((4, 6, 8)).scan
    image = SimpleITK.GetImageFromArray(scan.voxels.astype(np.int16))
    image.SetSpacing(scan.spacing.tolist())
    image.SetOrigin(scan.origin.tolist())
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    return image, tmp_path / "scan.mhd"


@pytest.mark.parametrize("compressed", [False, True])
def test_metaimage(mhd, compressed):
    image, path = mhd
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    scan = volume.read_mhd(path)
    np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(
        scan.xyz([1, 2, 3]), image.TransformIndexToPhysicalPoint([3, 2, 1])
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_metaimage_is_refused(mhd, compressed):
    image, path = mhd
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    (raw,) = (p for p in path.parent.iterdir() if p.suffix in (".raw", ".zraw"))
    raw.write_bytes(raw.read_bytes()[:-10])
    with pytest.raises(BrokenFile):
        volume.read_mhd(path)
    raw.unlink()
    with pytest.raises(BrokenFile, match=f"names .*{raw.name}, which does not exist"):
        volume.read_mhd(path)
    path.write_text("no header")
    with pytest.raises(BrokenFile):
        volume.read_mhd(path)
    with pytest.raises(FileNotFoundError):
        volume.read_mhd(path.with_name("absent.mhd"))
