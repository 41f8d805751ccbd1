"""Volumes: the place of a voxel in the patient, and boxes cut out of a scan (chapters 4.2 and
10).

Two ways to name a point: `xyz`, millimetres in the patient (x to the left, y to the back, z to
the head), and `irc`, the array's index (slice), row and column. They differ in unit, in origin
and in the order of the axes.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, needs, reading
from dlwp_jax.files import flush

IDENTITY = np.eye(3)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan with its place in the patient.

    Attributes:
      voxels: `[index row column]` float32; Hounsfield units for CT (air -1000, water 0).
      spacing: `[x y z]` millimetres from one voxel to the next (the book's `vxSize_xyz`).
      origin: `[x y z]` millimetres of the centre of voxel (0, 0, 0).
      direction: `[3 3]`, whose columns are the unit vectors along column, row and slice, as
        SimpleITK has it.

    >>> voxels = np.zeros((4, 5, 6), np.float32)
    >>> scan = Volume(voxels, spacing=(0.5, 0.5, 2.0), origin=(-10.0, 0.0, 100.0))
    >>> scan.irc([-9.0, 1.0, 104.0]).tolist()
    [2.0, 2.0, 2.0]
    """

    voxels: np.ndarray
    spacing: Any = (1.0, 1.0, 1.0)
    origin: Any = (0.0, 0.0, 0.0)
    direction: Any = dataclasses.field(default_factory=lambda: IDENTITY)

    def __post_init__(self) -> None:
        for name, shape in (("spacing", (3,)), ("origin", (3,)), ("direction", (3, 3))):
            value = checks.real_on_host(getattr(self, name), name).astype(float)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(
                    f"{name}={value.tolist()}; finite numbers of shape {shape} are needed."
                )
            object.__setattr__(self, name, value)
        object.__setattr__(self, "voxels", checks.numbers_of(self.voxels, "voxels"))
        if np.ndim(self.voxels) != 3:
            raise ValueError(
                f"voxels have shape {np.shape(self.voxels)}; [index row column] is needed."
            )
        if (self.spacing <= 0).any() or not np.allclose(
            self.direction @ self.direction.T, IDENTITY, atol=1e-3
        ):
            raise ValueError(
                f"spacing={self.spacing.tolist()} must be positive, and "
                f"direction={self.direction.tolist()} orthonormal."
            )

    def xyz(self, irc: Any) -> np.ndarray:
        """Millimetres of a place given as index, row, column: origin + direction @ (spacing *
        cri).

        Args:
          irc: `[... 3]`, whole numbers or fractions.

        >>> Volume(np.zeros((2, 2, 2)), spacing=(1, 1, 3)).xyz([1, 0, 0]).tolist()
        [0.0, 0.0, 3.0]
        """
        column_row_index = _places(irc, "irc")[..., ::-1]
        return self.origin + (column_row_index * self.spacing) @ self.direction.T

    def irc(self, xyz: Any) -> np.ndarray:
        """Index, row, column (fractions; round for a voxel) of a place in millimetres: the
        inverse of `xyz`.

        The book's `xyz2irc` multiplies by the inverse of the direction from the right, which
        equals this for scans whose axes are only flipped, as all of LUNA's are; here it is the
        inverse for any direction.

        Args:
          xyz: `[... 3]`.
        """
        offset = _places(xyz, "xyz") - self.origin
        return (offset @ np.linalg.inv(self.direction).T / self.spacing)[..., ::-1]

    def chunk(self, center: Any, width: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Cut out a box around a place (chapter 10.4.2, `getRawCandidate`).

        At the border the box is shifted inwards, as the book does it, so its size is always
        `width` and the place is then not in its middle.

        Args:
          center: `[x y z]` millimetres.
          width: voxels along index, row, column; at most the size of the scan.

        Returns:
          The voxels `[*width]`, and `[index row column]`, the rounded centre in the whole scan.

        Raises:
          ValueError: if the centre is outside of the scan, or the box is larger than it.

        >>> scan = Volume(np.arange(27.0).reshape(3, 3, 3))
        >>> scan.chunk([0, 0, 0], (1, 2, 2))[0].tolist()
        [[[0.0, 1.0], [3.0, 4.0]]]
        """
        center, width = _places(center, "center"), checks.wholes(width, "width", 3)
        if center.shape != (3,) or not np.isfinite(center).all():
            raise ValueError(
                f"center={center.tolist()}; three finite numbers of millimetres are needed."
            )
        middle = np.clip(np.round(self.irc(center)), -1, 2**31).astype(int)
        shape = np.array(self.voxels.shape)
        if ((middle < 0) | (middle >= shape)).any():
            raise ValueError(
                f"center={center.tolist()} mm is voxel {middle.tolist()}, outside of a scan of "
                f"{shape.tolist()}."
            )
        if (np.array(width) > shape).any() or min(width) < 1:
            raise ValueError(f"width={width} does not fit into a scan of {shape.tolist()}.")
        # Python's round, as in the book: halves go to the even number.
        starts = [round(m - w / 2) for m, w in zip(middle.tolist(), width, strict=True)]
        starts = [
            min(max(s, 0), n - w) for s, n, w in zip(starts, shape.tolist(), width, strict=True)
        ]
        box = tuple(slice(s, s + w) for s, w in zip(starts, width, strict=True))
        return self.voxels[box], middle

    def planes(self, irc: Any | None = None) -> dict[str, np.ndarray]:
        """The three slices through a voxel, with the slices' axis upright: axial, coronal and
        sagittal.

        Args:
          irc: the voxel; None takes the middle of the scan.

        >>> {k: v.shape for k, v in Volume(np.zeros((2, 3, 4))).planes().items()}
        {'axial': (3, 4), 'coronal': (2, 4), 'sagittal': (2, 3)}
        """
        voxel = (
            [n // 2 for n in self.voxels.shape]
            if irc is None
            else checks.wholes(irc, "irc", 3, 0)
        )
        if any(i >= n for i, n in zip(voxel, self.voxels.shape, strict=True)):
            raise ValueError(
                f"irc={tuple(voxel)} is outside of a scan of {list(self.voxels.shape)}."
            )
        i, r, c = voxel
        return {
            "axial": self.voxels[i],
            "coronal": self.voxels[::-1, r],  # head up
            "sagittal": self.voxels[::-1, :, c],
        }


def _places(places: Any, name: str) -> np.ndarray:
    """Places `[... 3]` in float64."""
    array = checks.real_on_host(places, name).astype(float)
    if not array.ndim or array.shape[-1] != 3:
        raise ValueError(
            f"{name} has shape {array.shape}; [... 3] is needed, three numbers for each place."
        )
    return array


def window(hu: Any, *, low: float = -1000.0, high: float = 400.0) -> np.ndarray:
    """Hounsfield units as grey from 0 to 1, cut off at both ends: the default shows lungs.

    >>> window(np.array([-2000.0, -300.0, 3000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = checks.real(low, "low"), checks.real(high, "high")
    if not low < high:
        raise ValueError(f"low={low} must be below high={high}.")
    hu = checks.real_on_host(hu, "hu")
    return (np.clip(hu, low, high) - low) / (high - low)


def read_mhd(path: str | Path) -> Volume:
    """Read a MetaImage (`.mhd` beside its `.raw`), the format of LUNA (chapter 10.3); needs
    SimpleITK.

    Returns:
      The scan with voxels as float32, in the file's unit (Hounsfield for LUNA), not clipped.

    Raises:
      BrokenFile: if SimpleITK cannot read it, or it is not one three-dimensional image of
        single numbers.
    """
    with needs():
        import SimpleITK

    checks.path(path)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    with reading(path, "a MetaImage", RuntimeError):
        _check_raw_size(path)
        image = SimpleITK.ReadImage(str(path), imageIO="MetaImageIO")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise BrokenFile(
            f"{path} holds {image.GetDimension()} dimensions of "
            f"{image.GetNumberOfComponentsPerPixel()} values."
        )
    with reading(path, "a scan", ValueError):
        return Volume(
            SimpleITK.GetArrayFromImage(image).astype(np.float32),
            spacing=image.GetSpacing(),
            origin=image.GetOrigin(),
            direction=np.reshape(image.GetDirection(), (3, 3)),
        )


def write_mhd(path: str | Path, scan: Volume) -> None:
    """Write a MetaImage, `.mhd` with its `.raw` beside it, as LUNA's scans are; needs
    SimpleITK.

    Voxels that are whole numbers of 16 bits are written as such, others as float32. The `.mhd`
    is written last, so a scan that can be found is complete.

    Raises:
      ValueError: if the name does not end in `.mhd`.
      OSError: if the files cannot be written.

    >>> path = getfixture("tmp_path") / "scan.mhd"
    >>> write_mhd(path, Volume(np.ones((2, 3, 4)), spacing=(1, 1, 2.5)))
    >>> read_mhd(path).spacing.tolist()
    [1.0, 1.0, 2.5]
    """
    with needs():
        import SimpleITK

    checks.path(path)
    path = Path(path)
    if path.suffix != ".mhd":
        raise ValueError(f"{path} must end in .mhd.")
    voxels = np.asarray(scan.voxels, np.float32)
    whole_numbers = voxels.astype(np.int16)
    if (whole_numbers == voxels).all():
        voxels = whole_numbers
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(scan.spacing.tolist())
    image.SetOrigin(scan.origin.tolist())
    image.SetDirection(scan.direction.ravel().tolist())
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        written = Path(folder, path.name)
        try:
            SimpleITK.WriteImage(image, str(written))
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        for part in (written.with_suffix(".raw"), written):
            flush(part)
            os.replace(part, path.with_name(part.name))


def _check_raw_size(path: Path) -> None:
    """SimpleITK only warns of a `.raw` file that is too short, and leaves the rest of the scan
    undefined.
    """
    with needs():
        import SimpleITK

    header = path.read_bytes()[:10_000].decode("latin-1")
    fields = dict(line.split(" = ", 1) for line in header.splitlines() if " = " in line)
    name = fields.get("ElementDataFile", "").strip()
    raw = path.parent / name
    if name == "LOCAL":
        raw = path  # a header may announce terabytes that the same file does not hold
    elif name.endswith(("raw", "zraw")) and "%" not in name and not raw.is_file():
        raise BrokenFile(f"{path} names {raw}, which does not exist.")
    if not raw.is_file() or fields.get("CompressedData", "False").strip().lower() == "true":
        return  # inside the header file, or compressed: SimpleITK notices a short one itself
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    probe = SimpleITK.Image([1, 1], reader.GetPixelID())
    voxel_bytes = probe.GetSizeOfPixelComponent() * reader.GetNumberOfComponents()
    needed = int(np.prod(reader.GetSize())) * voxel_bytes
    if raw.stat().st_size < needed:
        raise BrokenFile(
            f"{raw} has {raw.stat().st_size} bytes; {needed} are needed for {reader.GetSize()} "
            "voxels."
        )
