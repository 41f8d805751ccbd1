"""Views of several tensors at once: broadcast_tensors, meshgrid, atleast_1d, atleast_2d,
atleast_3d.
"""

from typing import Any, Literal

import numpy as np

from dlwp_jax.checks import describe

from .strided import StridedTensor


def broadcast_tensors(*tensors: StridedTensor) -> tuple[StridedTensor, ...]:
    """Every tensor expanded to the size that all of them broadcast to
    (`torch.broadcast_tensors`).

    Raises:
      RuntimeError: if the sizes do not broadcast.
      TypeError: if one is not a StridedTensor.

    >>> from dlwp_jax import storage
    >>> column, row = broadcast_tensors(storage.tensor([[1], [2]]), storage.tensor([3, 4, 5]))
    >>> column.stride(), row.stride()
    ((1, 0), (0, 1))
    """
    _check(*tensors)
    shapes = [tensor.shape for tensor in tensors]
    try:
        size = np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"The sizes {shapes} do not broadcast to one size") from None
    return tuple(tensor.expand(size) for tensor in tensors)


def meshgrid(
    *tensors: StridedTensor, indexing: Literal["ij", "xy"] = "ij"
) -> tuple[StridedTensor, ...]:
    """The coordinates of a grid as expanded views of its axes (`torch.meshgrid`).

    Args:
      *tensors: the axes, each of one dimension or none.
      indexing: "ij", the first axis is the first dimension; or "xy", the first two change
        places.

    Raises:
      RuntimeError: if there is no axis, one has several dimensions, or for another `indexing`.

    >>> from dlwp_jax import storage
    >>> rows, columns = meshgrid(storage.tensor([1, 2]), storage.tensor([3, 4, 5]))
    >>> rows.tolist(), columns.stride()
    ([[1, 1, 1], [2, 2, 2]], (0, 1))
    """
    _check(*tensors)
    if not tensors:
        raise RuntimeError("meshgrid expects at least one tensor")
    if not isinstance(indexing, str) or indexing not in ("ij", "xy"):
        raise RuntimeError(
            'meshgrid: indexing must be one of "xy" or "ij", but received: '
            f"{describe(indexing)}"
        )
    if indexing == "xy" and len(tensors) > 1:
        return _swap_first_two(meshgrid(*_swap_first_two(tensors)))
    for axis in tensors:
        if axis.ndim > 1:
            raise RuntimeError(
                f"meshgrid expects scalars or 1-dim tensors, got size {list(axis.shape)}"
            )
    size = tuple(axis.numel() for axis in tensors)
    return tuple(
        axis.view(*[1] * i, -1, *[1] * (len(size) - i - 1)).expand(size)
        for i, axis in enumerate(tensors)
    )


def _swap_first_two(tensors: tuple[StridedTensor, ...]) -> tuple[StridedTensor, ...]:
    first, second, *others = tensors
    return second, first, *others


def atleast_1d(tensor: StridedTensor) -> StridedTensor:
    """A tensor without dimensions gets one (`torch.atleast_1d`)."""
    _check(tensor)
    return tensor.view(1) if tensor.ndim == 0 else tensor


def atleast_2d(tensor: StridedTensor) -> StridedTensor:
    """A vector becomes one row (`torch.atleast_2d`)."""
    _check(tensor)
    if tensor.ndim == 0:
        return tensor.view(1, 1)
    return tensor.unsqueeze(0) if tensor.ndim == 1 else tensor


def atleast_3d(tensor: StridedTensor) -> StridedTensor:
    """A vector [n] becomes [1 n 1], a matrix [n m] becomes [n m 1] (`torch.atleast_3d`)."""
    _check(tensor)
    return atleast_2d(tensor).unsqueeze(-1) if tensor.ndim < 3 else tensor


def _check(*tensors: Any) -> None:
    for tensor in tensors:
        if not isinstance(tensor, StridedTensor):
            raise TypeError(
                f"expected a StridedTensor as tensor, got {describe(tensor)}; storage.tensor() "
                "makes one"
            )
