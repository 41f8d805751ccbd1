"""Damaged bytes never become an array: every reader gives the valid decoding, or raises the one
error of its kind.

PNG has checksums, so damage is found or harmless. The others have none: a changed byte can be
another value, or in a header another shape, that no reader can tell from a valid one; but a
truncated file is always refused.
"""

import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from scipy.io import wavfile

from dlwp_jax.data import BrokenFile, audio, cifar, dicom, idx, image, table
from tests.test_data_sources import batch, idx_bytes, python2_pickle

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
damaging = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _slice_like_ct(path):
    header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    header.save_as(path)


def _pickle(path):
    path.write_bytes(python2_pickle(*batch(1)))


WRITERS = {
    "png": lambda path: Image.fromarray(PIXELS).save(path, format="PNG"),
    "jpeg": lambda path: Image.fromarray(PIXELS).save(path, format="JPEG"),
    "wav": lambda path: wavfile.write(path, 8000, PIXELS[..., 0].astype(np.int16)),
    "dicom": _slice_like_ct,
    "pickle": _pickle,
    "idx": lambda path: path.write_bytes(idx_bytes(PIXELS)),
    "csv": lambda path: path.write_text("a,b\n1,2\n3,4\n"),
}
READERS = {
    "png": image.read,
    "jpeg": image.read,
    "wav": lambda path: audio.read(path)[0],
    "dicom": lambda path: dicom.read_slice(path)[1],
    "pickle": lambda path: cifar.read_batches([path])["image"],
    "idx": idx.read,
    "csv": lambda path: table.read(path).values,
}
EXACT = ("png",)  # a checksum over every byte that matters


class Kind(tuple):
    """Name, valid bytes, what they decode to, and where to put damaged ones; hypothesis prints
    it when a test fails.
    """

    def __repr__(self):
        return self[0]


@pytest.fixture(scope="module", params=WRITERS)
def kind(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "valid"
    WRITERS[request.param](path)
    return Kind(
        (
            request.param,
            path.read_bytes(),
            READERS[request.param](path),
            path.with_name("damaged"),
        )
    )


def attempt(name, path, content):
    """What the reader makes of these bytes: an array, or None where it refuses."""
    path.write_bytes(content)
    message = ""
    with warnings.catch_warnings():
        # Libraries comment on strange headers; what counts here is what comes out.
        warnings.simplefilter("ignore")
        try:
            return READERS[name](path)
        except BrokenFile as error:
            message = str(error)
    assert "damaged" in message  # it names the file
    return None


@damaging
@given(st.binary(max_size=400))
def test_random_bytes_are_no_file(kind, content):
    name, _, _, path = kind
    assume(name != "idx" or content[:3] != b"\0\0\x08")
    assume(name != "csv" or b"\n" not in content)
    assert attempt(name, path, content) is None


@damaging
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.999)
def test_truncated_files_are_refused_or_lost_nothing(kind, share):
    name, content, valid, path = kind
    short = content[: int(share * len(content))]
    read = attempt(name, path, short)
    if (
        name == "csv"
    ):  # a whole line fewer, or a last number cut to fewer digits, is still a table
        return
    if read is not None:
        np.testing.assert_array_equal(read, valid)


@damaging
@given(
    where=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
        min_size=1,
        max_size=3,
    ),
    head=st.booleans(),
)
def test_changed_bytes_are_refused_or_only_other_values(kind, where, head):
    name, content, valid, path = kind
    changed = bytearray(content)
    reach = (
        min(len(content), 300) if head else len(content)
    )  # half of the damage goes into the header
    for place, flip in where:
        changed[int(place * reach)] ^= flip
    # A pickle may name a slot of its memo up to 2**32: Python reserves them all, gigabytes,
    # before it looks further.
    assume(
        name != "pickle"
        or not any(b in b"rp" for b, c in zip(changed, content, strict=True) if b != c)
    )
    read = attempt(name, path, bytes(changed))
    if read is None:
        return
    assert isinstance(read, np.ndarray)
    if name in EXACT:
        np.testing.assert_array_equal(read, valid)
    elif name in ("pickle", "idx"):
        assert read.size <= len(changed)
    assert read.size
