"""CT series in DICOM files: one file a slice, put in order and in Hounsfield units (chapter
4.2).
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax.data.files import BrokenFile, files_in, reading
from dlwp_jax.data.volume import Volume

# What a slice must say about itself, and what must be the same for all slices of one scan.
NEEDED = [
    "SeriesInstanceUID",
    "Modality",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelData",
]
# What pydicom needs to know to decode the pixels.
PIXELS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
]
PIXELS += ["BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
COMMON = ["SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
MOST_PIXELS = 2**26  # of a slice; a damaged header may ask for any number
POSITION_TOLERANCE = 0.01  # of the slice distance; headers are rounded to micrometres


def read_series(folder: str | Path) -> Volume:
    """Read all `.dcm` files of a folder as one CT scan (the book's `imageio.volread`, made
    strict).

    Slices are ordered by their position along the slice axis, rising (feet to head where rows
    and columns run as in a usual axial scan); file names mean nothing. Stored numbers become
    Hounsfield units by each slice's own slope and intercept.

    Args:
      folder: a folder that holds one series, two slices or more.

    Returns:
      `[slices rows columns]` float32 in Hounsfield units with spacing, origin and direction.

    Raises:
      BrokenFile: where a file is damaged or no CT slice; where files of different series or
        sizes are mixed; where a slice is missing or there twice; where the slices are tilted
        against the patient's axes.

    """
    paths = files_in(folder, ".dcm")
    headers = [_read_header(path) for path in paths]
    _check_same(headers, folder)
    direction = _direction(headers[0], folder)
    order, distance = _order(
        np.array([h.ImagePositionPatient for h in headers], float), direction, folder
    )
    voxels = np.empty((len(order), headers[0].Rows, headers[0].Columns), np.float32)
    for out, i in zip(voxels, order, strict=True):
        _hounsfield(headers[i], paths[i], out)
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    return Volume(
        voxels,
        spacing=(columns, rows, distance),
        origin=np.array(headers[order[0]].ImagePositionPatient, float),
        direction=direction,
    )


def read_slice(path: str | Path) -> tuple[Any, np.ndarray]:
    """Read one CT slice.

    Returns:
      The fields of its header that matter here (a `pydicom.Dataset`) and `[rows columns]`
      float32 in Hounsfield units.

    Raises:
      BrokenFile: where the file is damaged, no CT slice, or lacks one of the fields in
        `NEEDED`.

    >>> from pydicom.data import get_testdata_file
    >>> header, hu = read_slice(get_testdata_file("CT_small.dcm"))
    >>> header.Modality, hu.shape
    ('CT', (128, 128))
    """
    header = _read_header(path)
    hu = np.empty((header.Rows, header.Columns), np.float32)
    _hounsfield(header, path, hu)
    return header, hu


def _read_header(path):
    """The fields that matter, the encoded pixels among them, checked one by one."""
    import pydicom

    with reading(path, "a DICOM slice", *_pydicom_failures()):
        content = io.BytesIO(Path(path).read_bytes())  # pydicom makes many small reads
        header = pydicom.dcmread(content, specific_tags=[*NEEDED, *PIXELS])
        if missing := [name for name in NEEDED if name not in header]:
            raise BrokenFile(f"{path} is no CT slice in DICOM: it has no {', '.join(missing)}.")
        if header.Modality != "CT":
            raise BrokenFile(
                f"{path} has modality {header.Modality!r}; only CT has Hounsfield units."
            )
        numbers = [
            *header.ImagePositionPatient,
            *header.ImageOrientationPatient,
            *header.PixelSpacing,
        ]
        numbers = np.array([*numbers, header.RescaleSlope, header.RescaleIntercept], float)
        if (
            numbers.shape != (13,)
            or not np.isfinite(numbers).all()
            or min(header.PixelSpacing) <= 0
        ):
            raise BrokenFile(
                f"{path} has no usable position, orientation, pixel spacing or Hounsfield scale."
            )
        if not 0 < header.Rows * header.Columns <= MOST_PIXELS:
            raise BrokenFile(f"{path} has {header.Rows} x {header.Columns} pixels.")
    return header


def _hounsfield(header, path, out: np.ndarray) -> None:
    """Decode one slice into `out` as stored value * slope + intercept."""
    from pydicom.pixels.decoders.base import get_decoder

    with reading(path, "a DICOM slice", *_pydicom_failures()):
        # Dataset.pixel_array does the same, in three times the time: it looks whether the
        # pixels changed.
        stored, _ = get_decoder(header.file_meta.TransferSyntaxUID).as_array(header, raw=True)
        if stored.shape != out.shape:
            raise BrokenFile(
                f"{path} holds pixels of shape {stored.shape}, not one slice of grey values."
            )
        slope, intercept = np.float32(header.RescaleSlope), np.float32(header.RescaleIntercept)
        if slope != 1:  # nearly always 1: then one pass is enough
            stored = stored * slope
        np.add(stored, intercept, out=out, casting="same_kind")


def _pydicom_failures() -> tuple[type[Exception], ...]:
    """What pydicom lets through when it meets bytes it cannot make sense of (found by damaging
    real files).
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    lookups = (AttributeError, KeyError, IndexError, TypeError)
    return (
        InvalidDicomError,
        BytesLengthException,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
        OverflowError,
        struct.error,
        *lookups,
    )


def _check_same(headers: list, folder) -> None:
    if len(headers) < 2:
        raise BrokenFile(f"{folder} holds one slice; the distance to the next is unknown.")
    for name in COMMON:
        values = {str(header.get(name)) for header in headers}
        if len(values) > 1:
            raise BrokenFile(
                f"{folder} mixes slices of {len(values)} different {name}: {', '.join(sorted(values)[:3])}."
            )


def _direction(header, folder) -> np.ndarray:
    """The matrix whose columns point along columns, rows and slices."""
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    direction = np.stack([along_row, along_column, normal], axis=1)
    if not np.allclose(np.abs(direction).round(), np.abs(direction), atol=1e-3):
        raise BrokenFile(
            f"{folder} is tilted: its orientation {list(header.ImageOrientationPatient)} is not along the patient's "
            "axes. Resample it first."
        )
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-2):
        raise BrokenFile(
            f"{folder} has no usable orientation: {list(header.ImageOrientationPatient)}."
        )
    return direction


def _order(positions: np.ndarray, direction: np.ndarray, folder) -> tuple[np.ndarray, float]:
    """Rows of `positions` from low to high along the slice axis, and the distance between
    neighbours.
    """
    along = positions @ direction
    order = np.argsort(along[:, 2], kind="stable")
    heights = along[order, 2]
    steps = np.diff(heights)
    distance = float(np.median(steps))
    tolerance = POSITION_TOLERANCE * max(distance, 1e-3)
    if (steps <= tolerance).any():
        twice = heights[:-1][steps <= tolerance][0]
        raise BrokenFile(f"{folder} has two slices at {twice:g} mm.")
    if (np.abs(steps - distance) > tolerance).any():
        i = int(np.argmax(np.abs(steps - distance)))
        raise BrokenFile(
            f"{folder} has a slice missing between {heights[i]:g} and {heights[i + 1]:g} mm; "
            f"its neighbours are {distance:g} mm apart."
        )
    if (np.ptp(along[:, :2], axis=0) > tolerance).any():
        raise BrokenFile(
            f"{folder} is tilted: its slices shift sideways by {np.ptp(along[:, :2], axis=0)} mm."
        )
    return order, distance
