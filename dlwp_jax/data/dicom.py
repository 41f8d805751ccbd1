"""CT series in DICOM files: one file a slice, put in order and in Hounsfield units (chapter 4.2)."""

import struct
from pathlib import Path

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
COMMON = ["SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
POSITION_TOLERANCE = 0.01  # of the slice distance; headers are rounded to micrometres


def read_series(folder: str | Path) -> Volume:
    """Read all `.dcm` files of a folder as one CT scan (the book's `imageio.volread`, made strict).

    Slices are ordered by their position in the patient, feet to head; file names mean nothing. Stored numbers
    become Hounsfield units by each slice's own slope and intercept.

    Args:
      folder: a folder that holds one series, two slices or more.

    Returns:
      `[slices rows columns]` float32 in Hounsfield units with spacing, origin and direction.

    Raises:
      BrokenFile: where a file is damaged or no CT slice; where files of different series or sizes are mixed;
        where a slice is missing or there twice; where the slices are tilted against the patient's axes.

    >>> from pydicom.data import get_testdata_file
    >>> read_slice(get_testdata_file("CT_small.dcm"))[1].shape
    (128, 128)
    """
    slices = [read_slice(path) for path in files_in(folder, ".dcm")]
    headers = [header for header, _ in slices]
    _check_same(headers, folder)
    direction = _direction(headers[0], folder)
    order, distance = _order(np.array([h.ImagePositionPatient for h in headers], float), direction, folder)
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    return Volume(
        np.stack([slices[i][1] for i in order]),
        spacing=(columns, rows, distance),
        origin=np.array(headers[order[0]].ImagePositionPatient, float),
        direction=direction,
    )


def read_slice(path: str | Path):
    """Read one CT slice.

    Returns:
      The file's header (a `pydicom.Dataset`) and `[rows columns]` float32 in Hounsfield units.

    Raises:
      BrokenFile: where the file is damaged, no CT slice, or lacks one of the fields in `NEEDED`.
    """
    import pydicom

    with reading(path, "a DICOM slice", *_pydicom_failures()):
        header = pydicom.dcmread(path)
        if missing := [name for name in NEEDED if header.get(name) in (None, "")]:
            raise BrokenFile(f"{path} is no CT slice in DICOM: it has no {', '.join(missing)}.")
        if header.Modality != "CT":
            raise BrokenFile(f"{path} has modality {header.Modality!r}; only CT has Hounsfield units.")
        stored = header.pixel_array
        if stored.shape != (header.Rows, header.Columns):
            raise BrokenFile(f"{path} holds pixels of shape {stored.shape}, not one slice of grey values.")
        slope, intercept = np.float32(header.RescaleSlope), np.float32(header.RescaleIntercept)
        hu = stored.astype(np.float32)
        hu *= slope
        hu += intercept
        geometry = np.array(
            [*header.ImagePositionPatient, *header.ImageOrientationPatient, *header.PixelSpacing], float
        )
        if geometry.shape != (11,) or not np.isfinite([*geometry, slope, intercept]).all() or min(geometry[-2:]) <= 0:
            raise BrokenFile(f"{path} has no usable position, orientation, pixel spacing or Hounsfield scale.")
    return header, hu


def _pydicom_failures() -> tuple[type[Exception], ...]:
    """What pydicom lets through when it meets bytes it cannot make sense of (found by damaging real files)."""
    from pydicom.errors import InvalidDicomError

    lookups = (AttributeError, KeyError, IndexError, TypeError)
    return (
        InvalidDicomError,
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
        raise BrokenFile(f"{folder} has no usable orientation: {list(header.ImageOrientationPatient)}.")
    return direction


def _order(positions: np.ndarray, direction: np.ndarray, folder) -> tuple[np.ndarray, float]:
    """Rows of `positions` from low to high along the slice axis, and the distance between neighbours."""
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
        raise BrokenFile(f"{folder} is tilted: its slices shift sideways by {np.ptp(along[:, :2], axis=0)} mm.")
    return order, distance
