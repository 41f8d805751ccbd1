"""Chapter 13: masks of nodules, grown from the centres that the annotations give."""

from typing import Any

import numpy as np

from dlwp_jax.data.volume import Volume

LEAST = 2  # voxels from the centre to a side of a box without a diameter, if the scan has them
MARGIN = 0.7  # millimetres around a ball that are taken for the nodule too: a voxel of LUNA16's


def annotation_mask(
    scan: Volume, centers: Any, *, threshold: float = -700.0, diameters: Any = None
) -> np.ndarray:
    """The voxels of annotated nodules: dense ones in a box that is grown around each centre.

    On each axis the box grows to both sides at once, until a voxel straight ahead on one of
    them is air or the scan ends (the book's `buildAnnotationMask`). The book reads from the far
    end of the array if the box begins before voxel 0, and then gives no mask at all; here a
    scan ends on both sides.

    Args:
      scan: in Hounsfield units.
      centers: `[n 3]`, x, y, z in millimetres.
      threshold: voxels above it, in Hounsfield units, are dense.
      diameters: `[n]` millimetres; then only voxels whose middle is at most `MARGIN` outside of
        the nodule's ball are in the mask. None takes the whole box as the book does, which
        grows into the chest's wall if the nodule touches it.

    Returns:
      bool, of the shape of the scan.

    >>> voxels = np.full((9, 9, 9), -1000.0)
    >>> voxels[2:7, 2:7, 2:7] = 0
    >>> int(annotation_mask(Volume(voxels), [(4, 4, 4)]).sum())
    125
    """
    dense = scan.voxels > threshold
    box = np.zeros_like(dense)
    centers = np.reshape(centers, (-1, 3))
    most = np.full((len(centers), 3), np.inf)
    if diameters is not None:
        most = (np.reshape(diameters, (-1, 1)) / 2 + MARGIN) / scan.spacing[::-1]
    for center, limits in zip(centers, most, strict=True):
        middle = tuple(np.round(scan.irc(center)).astype(int).tolist())
        if min(middle) < 0 or any(m >= n for m, n in zip(middle, dense.shape, strict=True)):
            raise ValueError(
                f"a nodule at {list(map(float, center))} mm is voxel {list(middle)}, "
                f"outside of a scan of {list(dense.shape)}."
            )
        grown = [_radius(_line(dense, middle, axis), middle[axis]) for axis in range(3)]
        # The ball's centre may lie half a voxel beside the middle one.
        radii = np.minimum(grown, np.ceil(limits + 0.5)).astype(int).tolist()
        sides = zip(middle, radii, strict=True)
        corner = tuple(slice(max(m - r, 0), m + r + 1) for m, r in sides)
        box[corner] |= _ball(corner, dense.shape, scan.irc(center), limits)
        box[middle] = True  # a ball between two slices may hold the middle of no voxel
    return box & dense


def _ball(corner, shape, middle: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The voxels of a box that are inside of an ellipsoid; all, if its radii are infinite."""
    places = [np.arange(*side.indices(n)) for side, n in zip(corner, shape, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    parts = [
        ((place - m) / radius) ** 2
        for place, m, radius in zip(grid, middle, radii, strict=True)
    ]
    return np.sum(parts, axis=0) <= 1


def _line(dense: np.ndarray, middle: tuple[int, ...], axis: int) -> np.ndarray:
    """All voxels along an axis through a voxel."""
    return np.moveaxis(dense, axis, -1)[tuple(np.delete(middle, axis))]


def _radius(line: np.ndarray, middle: int) -> int:
    """Half of the side of the box, from the dense voxels along its axis."""
    radius = LEAST
    while True:
        if middle - radius < 0 or middle + radius >= len(line):
            return radius - 1
        if not (line[middle - radius] and line[middle + radius]):
            return radius
        radius += 1
