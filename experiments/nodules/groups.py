"""Chapter 14: from a mask to groups of voxels, each a candidate for a nodule."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dlwp_jax.data.volume import Volume


class Groups(NamedTuple):
    """Voxels that touch each other by their sides; group k has the number k + 1 in `labels`."""

    labels: np.ndarray  # [index row column] int32, 0 outside of all groups
    centers: np.ndarray  # [groups 3], index, row, column
    voxels: np.ndarray  # [groups], how many


def erode(mask: np.ndarray, times: int = 1) -> np.ndarray:
    """A mask without its outermost voxels; those at the border of the scan are outermost too.

    Bridges one or two voxels wide disappear, and so do specks.

    Args:
      mask: `[index row column]` bool.
      times: how often. In voxels of 2 mm one erosion takes small nodules away, so 0 is better.

    >>> erode(np.ones((3, 3, 3), bool)).sum().item()
    1
    """
    for _ in range(times):
        mask = ndimage.binary_erosion(mask)
    return mask


def group(mask: np.ndarray, voxels: np.ndarray) -> Groups:
    """Number the groups of a mask, and find their centres of mass.

    A voxel weighs its Hounsfield units, cut off at -1000 and 1000, plus 1001.

    Args:
      mask: `[index row column]` bool.
      voxels: the scan in Hounsfield units, of the same shape.

    >>> mask = np.zeros((3, 3, 9), bool)
    >>> mask[1, 1, 1:4] = mask[1, 1, 6] = True
    >>> group(mask, np.zeros(mask.shape)).centers.tolist()
    [[1.0, 1.0, 2.0], [1.0, 1.0, 6.0]]
    """
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    count = int(labels.max())
    # The voxels of groups alone are weighed: scipy's center_of_mass makes several arrays of
    # float64 as large as the scan.
    where = np.nonzero(labels)
    number = labels[where] - 1
    weight = np.clip(voxels[where].astype(float), -1000, 1000) + 1001
    mass = np.bincount(number, weight, minlength=count)
    moments = [np.bincount(number, weight * place, minlength=count) for place in where]
    sizes = np.bincount(number, minlength=count)
    return Groups(labels, np.stack(moments, axis=-1) / mass[:, None], sizes)


def centers_mm(groups: Groups, scan: Volume) -> np.ndarray:
    """The centres of groups in the patient, `[groups 3]`: x, y, z in millimetres."""
    return scan.xyz(groups.centers)
