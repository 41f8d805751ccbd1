"""`nodules detect`: its page, checked by an HTML parser, Pillow and the geometry of bodies made
here, and its answers to bad input.
"""

import base64
import io
import re
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dlwp_jax.data import volume
from dlwp_jax.data.volume import Volume
from experiments.nodules import detect, detector, report
from experiments.nodules.detector import Detector, Findings
from experiments.nodules.groups import erode, group


def chest(shape=(24, 40, 40)) -> Volume:
    """Flesh in air, with two lungs and a ball of 10 mm in one of them, in voxels of 2 mm."""
    index, row, column = np.indices(shape)
    voxels = np.full(shape, -1000.0, np.float32)
    voxels[:, 4:36, 3:37] = 40
    for middle in (12, 28):
        lung = ((row - 20) / 12) ** 2 + ((column - middle) / 7) ** 2 < 1
        voxels[lung] = -850
    ball = (index - 12) ** 2 + (row - 20) ** 2 + (column - 12) ** 2 < 2.5**2
    voxels[ball] = 0
    return Volume(voxels, spacing=(2, 2, 2), origin=(-40, -40, -300))


def found_in(scan: Volume) -> Findings:
    """The ball of `chest`, as a segmentation would give it."""
    index, row, column = np.indices(scan.voxels.shape)
    ball = (index - 12) ** 2 + (row - 20) ** 2 + (column - 12) ** 2 < 2.5**2
    groups = group(erode(ball), scan.voxels)
    return Findings(ball, groups, np.array([0.9]), np.array([0.25]))


class Parsed(HTMLParser):
    """The texts of the cells, and the addresses of pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.cells, self.sources, self.open, self.path = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.sources += [found[name] for name in ("src", "href") if name in found]
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.sources += [v for name, v in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def test_the_size_and_place_of_a_ball():
    scan = chest()
    (row,) = detect.rows_of(found_in(scan), scan, [0])
    assert row.irc == (12, 20, 12)
    np.testing.assert_allclose(row.xyz, (-40 + 24, -40 + 40, -300 + 24))
    # What erosion took is given back: the ball has 81 voxels of 8 cubic millimetres.
    assert row.volume == 81 * 8
    np.testing.assert_allclose(row.diameter, 2 * (row.volume * 3 / 4 / np.pi) ** (1 / 3))


def test_the_page_is_complete_in_itself_and_lists_what_was_found():
    scan = chest()
    rows = detect.rows_of(found_in(scan), scan, [0])
    page = report.page("a <scan>", {"voxel": "2 mm"}, scan, rows)
    parsed = Parsed(page)
    assert not parsed.open
    assert parsed.cells == ["1", "0.90", "0.25", "10.7", "648", "-16.0", "0.0", "-276.0", "13"]
    assert "a &lt;scan&gt;" in page
    assert "no medical device" in page
    assert "prefers-color-scheme: dark" in page
    kinds = {
        re.match("data:image/png;base64,|#", source) is not None for source in parsed.sources
    }
    assert kinds == {True}


def test_the_outline_is_around_the_bright_ball_in_all_three_planes():
    scan = chest()
    rows = detect.rows_of(found_in(scan), scan, [0])
    page = report.page("scan", {}, scan, rows)
    pictures = []
    for source in Parsed(page).sources:
        if source.startswith("data:"):
            content = base64.b64decode(source.partition(",")[2])
            pictures.append(np.asarray(Image.open(io.BytesIO(content))))
    _, _, *views = pictures  # after the two of the overview
    assert len(views) == 6
    for grey, outline in zip(views[::2], views[1::2], strict=True):
        where = np.argwhere(outline[..., 3] > 0)
        # 10 mm of 60 mm, around the middle.
        np.testing.assert_allclose(where.mean(axis=0), 120, atol=4)
        np.testing.assert_allclose(np.ptp(where, axis=0), 40, atol=8)
        assert grey[120, 120] > 150 > grey[120, 90]


def test_a_scan_with_turned_axes_gives_the_same_pictures():
    scan = chest()
    flipped = Volume(
        scan.voxels[::-1, ::-1, ::-1],
        scan.spacing,
        scan.xyz(np.subtract(scan.voxels.shape, 1)),
        -np.eye(3),
    )
    pages = []
    for one in (scan, flipped):
        center = np.round(one.irc((-16, 0, -276))).astype(int)
        row = report.Row(
            tuple(center),
            (-16, 0, -276),
            1,
            1,
            1,
            None,
            np.ones((1, 1, 1), bool),
            tuple(center),
        )
        pages.append(Parsed(report.page("scan", {}, one, [row])).sources)
    assert pages[0][1] == pages[1][1]  # from the front
    assert pages[0][3] == pages[1][3]  # from the left


@pytest.fixture
def weights(tmp_path):
    """A folder of weights by which every voxel is of a nodule of probability 0.9."""
    networks = []
    for make in (detector.new_segmentation, lambda: detector.new_classifier((16, 16, 16))):
        model = detector.unfilled(make)
        if hasattr(model, "unet"):
            model.unet.last.bias[...] = jnp.full(1, 3.0)
        else:
            model.head_linear.bias[...] = jnp.log(jnp.array([0.1, 0.9]))
        networks.append(detector.ready(model))
    folder = tmp_path / "weights"
    detector.save(folder, Detector(*networks, width=(16, 16, 16)))
    return folder


def test_the_command_reads_a_scan_and_writes_a_page(weights, tmp_path, capsys):
    # Rows and columns are no multiples of four, and there are fewer slices than a chunk has.
    scan = Volume(chest((14, 38, 41)).voxels, spacing=(4, 4, 4))
    volume.write_mhd(tmp_path / "scan.mhd", scan)
    out = tmp_path / "page.html"
    detect.main(detect.Config(tmp_path / "scan.mhd", weights, out))
    assert "1 groups, 1 listed" in capsys.readouterr().out
    cells = Parsed(out.read_text()).cells
    assert cells[1] == "0.90"
    assert float(cells[3]) == pytest.approx(scan.voxels.size * 64, rel=1e-3)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda hu: np.where(hu > -500, hu, -100), "no Hounsfield units"),
        (lambda hu: hu / 1000, "no Hounsfield units"),
        (lambda hu: np.where(hu == -850, 40, hu), "so no lung"),
    ],
)
def test_another_unit_and_no_lung_are_refused_in_one_sentence(spoil, words, tmp_path):
    scan = chest()
    spoiled = Volume(np.round(spoil(scan.voxels)), scan.spacing, scan.origin)
    volume.write_mhd(tmp_path / "scan.mhd", spoiled)
    with pytest.raises(ValueError, match=words):
        detect.read(tmp_path / "scan.mhd")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nodules convert"):
        detector.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        detect.read(tmp_path / "nothing")
    (tmp_path / "scan.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"folder of a DICOM series, or a \.mhd"):
        detect.read(tmp_path / "scan.nii")
    with pytest.raises(ValueError, match="--threshold 2"):
        detect.Config(tmp_path, tmp_path, threshold=2)
    with pytest.raises(ValueError, match="cannot be written"):
        detect.Config(tmp_path, tmp_path, tmp_path / "no" / "page.html")
