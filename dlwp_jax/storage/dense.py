"""The strides of a copy that keeps a tensor's order in memory: torch's "preserve format"."""

from .geometry import Geometry


def dense_copy_strides(layout: Geometry) -> tuple[int, ...]:
    """The strides that `torch.Tensor.clone` gives: its own if they leave no gaps, otherwise
    dense ones in the same order.

    >>> dense_copy_strides(Geometry((4, 3), (2, 16)))
    (1, 4)
    """
    if not layout.numel or _is_dense(layout):
        return layout.stride
    strides, step = [0] * layout.ndim, 1
    for dim in _innermost_first(layout):
        strides[dim] = step
        step *= layout.size[dim]
    return tuple(strides)


def _is_dense(layout: Geometry) -> bool:
    """Whether the elements fill a part of the storage without gaps or repeats, in any order."""
    step = 1
    for stride, size in sorted(zip(layout.stride, layout.size, strict=True)):
        if size == 1:
            continue
        if stride != step:
            return False
        step *= size
    return True


def _innermost_first(layout: Geometry) -> list[int]:
    """Torch's insertion sort by stride, in which a stride of 0 equals all others and keeps its
    place.
    """
    order = list(range(layout.ndim))[::-1]
    for i in range(1, len(order)):
        at = i
        for before in reversed(range(i)):
            compared = _compare(layout, order[before], order[at])
            if compared > 0:
                order[before], order[at], at = order[at], order[before], before
            elif compared < 0:
                break
    return order


def _compare(layout: Geometry, a: int, b: int) -> int:
    """1 if dimension a belongs outside dimension b, -1 if inside, 0 if undecided."""
    stride_a, stride_b = layout.stride[a], layout.stride[b]
    if 0 in (stride_a, stride_b):
        return 0
    if stride_a != stride_b:
        return 1 if stride_a > stride_b else -1
    return 1 if layout.size[a] > layout.size[b] else 0
