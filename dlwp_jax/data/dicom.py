"""CT series in DICOM files: one file a slice, put in order and in Hounsfield units (chapter
4.2).
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax.data.files import BrokenFile, files_in, needs, reading
from dlwp_jax.data.volume import Volume

# The fields that every slice must have.
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
# The fields that pydicom needs to decode the pixels.
PIXELS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
]
# The fields that must be equal in all slices of one scan. 1e-4 of an orientation or of a
# pixel's size moves the far end of 512 pixels by a twentieth of a pixel; "0.7031" and
# "0.703125" agree.
COMMON = ["SeriesInstanceUID", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
COMMON_TOLERANCE = 1e-4
MOST_PIXELS = 2**26  # of a slice; a damaged header may ask for any number
POSITION_TOLERANCE = 0.01  # of the slice distance
# A step between slices may differ by this share of the distance if the positions are rounded. A
# missing slice changes it by 0.33 or more (one of three slices; more of longer series).
ROUNDED_STEP = 0.3

# Slices need no suffix. These files lie beside them on discs and in downloads.
BESIDES = {"DICOMDIR", "LICENSE", "README", "VERSION", "LOCKFILE"}
SUFFIXES = (".dcm", ".dicom", ".ima", "")


def read_series(folder: str | Path) -> Volume:
    """Read all slices in a folder as one CT scan (the book's `imageio.volread`, made strict).

    The slices are the files that begin as DICOM files do, and all files that end in `.dcm`,
    `.dicom` or `.ima`, or that have no suffix. They are ordered by their position along the
    slice axis, rising (feet to head if rows and columns run as in a usual axial scan); file
    names mean nothing. Stored numbers become Hounsfield units by each slice's own slope and
    intercept.

    Args:
      folder: a folder that holds one series, two slices or more.

    Returns:
      `[slices rows columns]` float32 in Hounsfield units with spacing, origin and direction.

    Raises:
      BrokenFile: if a file is damaged or no CT slice; if files of different series or sizes are
        mixed; if a slice is missing or there twice; if the slices are tilted against the
        patient's axes.

    """
    paths = [path for path in files_in(folder) if _is_slice(path)]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no DICOM file.")
    headers = [_read_header(path) for path in paths]
    _check_same(headers, folder)
    direction = _direction(headers[0], folder)
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    order, distance = _order(positions, direction, folder)
    voxels = np.empty((len(order), headers[0].Rows, headers[0].Columns), np.float32)
    for out, i in zip(voxels, order, strict=True):
        _hounsfield(headers[i], paths[i], out)
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    return Volume(
        voxels,
        spacing=(columns, rows, distance),
        origin=positions[order[0]],
        direction=direction,
    )


def _is_slice(path: Path) -> bool:
    """Whether a file is, or should be, a DICOM file.

    A damaged slice counts: it is refused when it is read, and not left out.
    """
    if path.stem.upper() in BESIDES:
        return False
    if path.suffix.lower() in SUFFIXES or path.suffix[1:].isdigit():
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_slice(path: str | Path) -> tuple[Any, np.ndarray]:
    """Read one CT slice.

    Returns:
      The fields of its header that matter here (a `pydicom.Dataset`) and `[rows columns]`
      float32 in Hounsfield units.

    Raises:
      BrokenFile: if the file is damaged, no CT slice, or lacks one of the fields in
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
    with needs():
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
                f"{path} has no usable position, orientation, pixel spacing or Hounsfield "
                "scale."
            )
        if not 0 < header.Rows * header.Columns <= MOST_PIXELS:
            raise BrokenFile(f"{path} has {header.Rows} x {header.Columns} pixels.")
    return header


def _hounsfield(header, path, out: np.ndarray) -> None:
    """Decode one slice into `out` as stored value * slope + intercept."""
    with needs():
        from pydicom.pixels.decoders.base import get_decoder

    with reading(path, "a DICOM slice", *_pydicom_failures()):
        # Dataset.pixel_array gives the same in three times the time: it checks whether the
        # pixels changed.
        stored, _ = get_decoder(header.file_meta.TransferSyntaxUID).as_array(header, raw=True)
        if stored.shape != out.shape:
            raise BrokenFile(
                f"{path} holds pixels of shape {stored.shape}, not one slice of grey values."
            )
        slope, intercept = np.float32(header.RescaleSlope), np.float32(header.RescaleIntercept)
        if slope != 1:  # nearly always 1, and then one pass is enough
            stored = stored * slope
        np.add(stored, intercept, out=out, casting="same_kind")


def _pydicom_failures() -> tuple[type[Exception], ...]:
    """The exceptions that pydicom raises for damaged bytes (found by damaging real files)."""
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
        values = [header.get(name) for header in headers]
        if name == "SeriesInstanceUID":
            differ = len({str(value) for value in values}) > 1
        else:
            numbers = np.array(values, float)
            scale = numbers[0] if name == "PixelSpacing" else 1.0
            differ = (np.abs(numbers - numbers[0]) > COMMON_TOLERANCE * scale).any()
        if differ:
            shown = sorted({str(value) for value in values})
            raise BrokenFile(
                f"{folder} mixes slices of {len(shown)} different {name}: "
                f"{', '.join(shown[:3])}."
            )


def _direction(header, folder) -> np.ndarray:
    """The matrix whose columns point along columns, rows and slices."""
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    direction = np.stack([along_row, along_column, normal], axis=1)
    if not np.allclose(np.abs(direction).round(), np.abs(direction), atol=1e-3):
        raise BrokenFile(
            f"{folder} is tilted: its orientation {list(header.ImageOrientationPatient)} is "
            "not along the patient's axes. Resample it first."
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
    # Positions may be rounded, which changes a step but not the sum of all.
    distance = float(np.ptp(heights)) / len(steps)
    usual = float(np.median(steps))
    near = POSITION_TOLERANCE * max(usual, 1e-3)
    if (steps <= near).any():
        twice = heights[:-1][steps <= near][0]
        raise BrokenFile(f"{folder} has two slices at {twice:g} mm.")
    off = np.abs(steps - usual)
    if (off > near).any() and not _only_rounded(
        heights, distance, _rounding(positions[:, np.argmax(np.abs(direction[:, 2]))])
    ):
        i = int(np.argmax(off))
        raise BrokenFile(
            f"{folder} has a slice missing between {heights[i]:g} and {heights[i + 1]:g} mm; "
            f"its neighbours are {usual:g} mm apart."
        )
    if (np.ptp(along[:, :2], axis=0) > near).any():
        raise BrokenFile(
            f"{folder} is tilted: its slices shift sideways by {np.ptp(along[:, :2], axis=0)} "
            "mm."
        )
    return order, distance


def _only_rounded(heights: np.ndarray, distance: float, rounding: float) -> bool:
    """Whether these are evenly spaced heights that were rounded.

    Rounding changes a step by one unit at most and does not add up: every slice stays near its
    place among evenly spaced ones.
    """
    near = POSITION_TOLERANCE * distance
    steps = np.abs(np.diff(heights) - distance)
    if (steps > near + min(rounding, ROUNDED_STEP * distance)).any():
        return False
    index = np.arange(len(heights))
    even = np.polyval(np.polyfit(index, heights, 1), index)
    return bool((np.abs(heights - even) <= near + 0.75 * rounding).all())


def _rounding(places: np.ndarray) -> float:
    """The unit in which places are given: 1, 0.1, 0.01 or 0.001 mm."""
    for decimals in range(3):
        if np.allclose(places, places.round(decimals), rtol=0, atol=1e-6):
            return 10.0**-decimals
    return 1e-3
