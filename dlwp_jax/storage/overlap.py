"""Whether two indices of a view reach the same storage element, found from the layout alone."""

import functools
import math
from itertools import combinations

import numpy as np

from .layout import Layout


def moving_dims(layout: Layout) -> list[int]:
    """The dimensions along which one moves through storage, the largest stride first."""
    moving = [
        dim for dim in range(layout.ndim) if layout.size[dim] > 1 and layout.stride[dim] > 0
    ]
    return sorted(moving, key=lambda dim: (-layout.stride[dim], -layout.size[dim]))


def span(layout: Layout, dim: int) -> int:
    """The distance from the first index of a dimension to the last, in storage elements."""
    return (layout.size[dim] - 1) * layout.stride[dim]


def crossing_dim(layout: Layout) -> int | None:
    """The dimension to take apart first if dimensions cross, or None if they nest.

    Dimensions nest if each stride is longer than all that is inside it, like the digits of a
    number. Windows (`unfold`) and interleaved strides cross: an inner dimension runs past an
    outer one's next step. Of the dimensions that take part in the innermost crossing, the
    shortest is the one to take apart.

    >>> windows = Layout.contiguous((7,)).unfold(0, 3, 1)
    >>> crossing_dim(Layout.contiguous((3, 4)).T), crossing_dim(windows)
    (None, 1)
    """
    dims = moving_dims(layout)
    inside = 0
    for i in reversed(range(len(dims))):
        stride = layout.stride[dims[i]]
        if inside >= stride:
            crossed = [dim for dim in dims[i + 1 :] if span(layout, dim) >= stride]
            return min([dims[i], *crossed], key=lambda dim: layout.size[dim])
        inside += span(layout, dims[i])
    return None


@functools.lru_cache(maxsize=1024)
def overlap(layout: Layout) -> str | None:
    """Why two indices of the view reach one storage element, or None if no two do.

    The answer is exact; torch looks only for expanded dimensions.

    >>> overlap(Layout.contiguous((3, 1)).expand(3, 4))
    'dimension 1 is expanded: size 4, stride 0'
    >>> overlap(Layout.contiguous((7,)).unfold(0, 3, 1))
    'dimensions 0 and 1 meet: sizes 5 and 3, strides 1 and 1'
    """
    if not layout.numel:
        return None
    for dim, (size, stride) in enumerate(zip(layout.size, layout.stride, strict=True)):
        if size > 1 and stride == 0:
            return f"dimension {dim} is expanded: size {size}, stride 0"
    dims = _crossing_dims(layout)
    for a, b in combinations(sorted(dims), 2):
        if _pair_meets(layout, a, b):
            sizes, strides = (
                f"{values[a]} and {values[b]}" for values in (layout.size, layout.stride)
            )
            return f"dimensions {a} and {b} meet: sizes {sizes}, strides {strides}"
    return _counted_overlap(layout, dims) if len(dims) > 2 else None


def refuse_overlap(layout: Layout) -> None:
    """Raise torch's error for a write through a view that overlaps itself, with the reason."""
    reason = overlap(layout)
    if reason:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a "
            f"single memory location ({reason}). Please clone() the tensor before performing "
            "the operation, or use .add()."
        )


def _crossing_dims(layout: Layout) -> list[int]:
    """The moving dimensions without the outer ones whose stride clears all inside: they cannot
    meet.
    """
    dims = moving_dims(layout)
    while dims and layout.stride[dims[0]] > sum(span(layout, dim) for dim in dims[1:]):
        dims = dims[1:]
    return dims


def _pair_meets(layout: Layout, a: int, b: int) -> bool:
    """Whether i steps along a equal j steps along b for some i, j > 0: the least such are
    stride/gcd.
    """
    common = math.gcd(layout.stride[a], layout.stride[b])
    return (
        layout.stride[b] // common < layout.size[a]
        and layout.stride[a] // common < layout.size[b]
    )


def _counted_overlap(layout: Layout, dims: list[int]) -> str | None:
    """The exact answer by counting, for three or more dimensions that cross and of which no two
    meet.
    """
    positions = np.zeros((), np.int64)
    for dim in dims:
        positions = positions[..., None] + np.arange(layout.size[dim]) * layout.stride[dim]
    if np.bincount(positions.ravel()).max() == 1:
        return None
    return f"size {list(layout.size)} with strides {list(layout.stride)} revisits elements"
