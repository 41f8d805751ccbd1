"""Size, stride and offset, which make a tensor of a line of numbers, in integer arithmetic."""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Self

from dlwp_jax.checks import as_int, describe

MOST = 2**63 - 1  # the largest size in torch and XLA


@dataclass(frozen=True)
class Geometry:
    """The positions of a tensor's elements in its storage.

    Element (i, j, ...) is at offset + i·stride₀ + j·stride₁ + ... `Layout` adds the view
    operations. Frozen and hashable, so that it can be static in `jax.jit`.

    Args:
      size: the length of every dimension.
      stride: the distance in storage elements of one step along each dimension.
      offset: the storage position of element (0, 0, ...).

    Raises:
      RuntimeError: if size and stride differ in length, or a number is negative or beyond 64
        bits.
      TypeError: for values that are not whole numbers.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_ints((self.size,), "size"))
        object.__setattr__(self, "stride", as_ints((self.stride,), "stride"))
        object.__setattr__(self, "offset", integer(self.offset, "the storage offset"))
        if len(self.size) != len(self.stride):
            raise RuntimeError(
                f"mismatch in length of strides and shape: size {list(self.size)}, stride "
                f"{list(self.stride)}"
            )
        if self.size and min(self.size) < 0:
            raise RuntimeError(
                f"size must be non-negative in every dimension, got {list(self.size)}"
            )
        if self.stride and min(self.stride) < 0:
            raise RuntimeError(
                f"negative strides are not supported, got strides {list(self.stride)}"
            )
        if self.offset < 0:
            raise RuntimeError(f"the storage offset must be non-negative, got {self.offset}")
        if math.prod(self.size) > MOST or max((self.offset, *self.size, *self.stride)) > MOST:
            raise RuntimeError(
                f"size {list(self.size)}, stride {list(self.stride)}, storage offset "
                f"{self.offset}: beyond 64 bits"
            )

    @classmethod
    def contiguous(cls, size: Iterable[int]) -> Self:
        """The row-major layout of a new tensor: the last dimension has stride 1.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2))
        Layout(size=(3, 2), stride=(2, 1), offset=0)
        """
        size = as_ints((size,), "size")
        return cls(size, contiguous_strides(size))

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.size)

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.size)

    @property
    def end(self) -> int:
        """The length that a storage must have: one past the last position in use, 0 without
        elements.
        """
        if not self.numel:
            return 0
        steps = ((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.offset + 1 + sum(steps)

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps
        (`torch.Tensor.is_contiguous`).

        The stride of a dimension of size 1 never matters, and a tensor without elements is
        contiguous.

        >>> from dlwp_jax.storage import Layout
        >>> Layout((3, 2), (2, 1)).is_contiguous(), Layout((3, 2), (1, 3)).is_contiguous()
        (True, False)
        """
        wanted = contiguous_strides(self.size)
        return not self.numel or all(
            n == 1 or step == want
            for n, step, want in zip(self.size, self.stride, wanted, strict=True)
        )

    def replace_dim(
        self, dim: int, size: tuple[int, ...], stride: tuple[int, ...], skip: int = 0
    ) -> Self:
        """Replace one dimension by others (or none), `skip` elements further into the storage.

        >>> from dlwp_jax.storage import Layout
        >>> Layout((3, 2), (2, 1)).replace_dim(0, (), (), skip=4)  # row 2
        Layout(size=(2,), stride=(1,), offset=4)
        """
        dim = self._place("dim", dim, self.ndim - 1)
        size, stride = as_ints((size,), "size"), as_ints((stride,), "stride")
        return type(self)(
            self.size[:dim] + size + self.size[dim + 1 :],
            self.stride[:dim] + stride + self.stride[dim + 1 :],
            self.offset + integer(skip, "skip"),
        )

    def new_dim(self, dim: int) -> Self:
        """Add a dimension of size 1 before dimension `dim`, whose stride spans the following
        dimensions, as in torch.

        >>> from dlwp_jax.storage import Layout
        >>> Layout((3, 2), (2, 1)).new_dim(0)
        Layout(size=(1, 3, 2), stride=(6, 2, 1), offset=0)
        """
        dim = self._place("dim", dim, self.ndim)
        step = self.size[dim] * self.stride[dim] if dim < self.ndim else 1
        return type(self)(
            (*self.size[:dim], 1, *self.size[dim:]),
            (*self.stride[:dim], step, *self.stride[dim:]),
            self.offset,
        )

    def _place(self, name: str, dim: int, last: int) -> int:
        """The index of a dimension, counted from the front."""
        place = integer(dim, name)
        if not 0 <= place <= last:
            raise IndexError(f"{name} must be from 0 to {last}, got {place}")
        return place


def integer(value: Any, name: str) -> int:
    """One whole number: an int, a NumPy integer, an integer array without dimensions; not a
    bool.
    """
    number = as_int(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    return number


def as_ints(args: tuple[Any, ...], name: str) -> tuple[int, ...]:
    """Integers given one by one or as one sequence: `f(2, 3)` or `f((2, 3))`, as in torch."""
    if len(args) == 1 and type(args[0]) is tuple:
        (args,) = args
    elif len(args) == 1 and as_int(args[0]) is None:
        (only,) = args
        unordered = isinstance(only, str | bytes | Set | Mapping)
        if unordered or not isinstance(only, Iterable) or getattr(only, "ndim", 1) != 1:
            raise TypeError(
                f"{name} must be integers, one by one or as one sequence, got {describe(only)}"
            )
        args = tuple(only)
    if {*map(type, args)} <= {int}:  # the frequent case: every view makes two such tuples
        return args
    return tuple(integer(value, name) for value in args)


def is_int(value: Any) -> bool:
    """Whether a value is one whole number."""
    return as_int(value) is not None


def wrap_dim(dim: int, ndim: int) -> int:
    """A dimension counted from the front; a tensor without dimensions accepts 0 and -1, as in
    torch.
    """
    dim, ndim = integer(dim, "a dimension"), max(ndim, 1)
    if not -ndim <= dim < ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], "
            f"but got {dim})"
        )
    return dim % ndim


def contiguous_strides(size: Iterable[int]) -> tuple[int, ...]:
    """Row-major strides; an empty dimension counts as one element, as in torch."""
    strides, step = [], 1
    for n in reversed(tuple(size)):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def infer_size(size: tuple[int, ...], numel: int) -> tuple[int, ...]:
    """Replace a -1 in a shape by the size with which it has `numel` elements."""
    for i, n in enumerate(size):
        if n < -1:
            raise RuntimeError(
                f"invalid shape dimension {n} at index {i} of shape {list(size)}"
            )
    if size.count(-1) > 1:
        raise RuntimeError(f"only one dimension can be inferred (-1), got shape {list(size)}")
    known = math.prod(n for n in size if n != -1)
    if -1 not in size and known == numel:
        return size
    if -1 in size and known and numel % known == 0:
        return tuple(numel // known if n == -1 else n for n in size)
    if -1 in size and known == numel == 0:
        raise RuntimeError(
            f"cannot reshape tensor of 0 elements into shape {list(size)} "
            "because the unspecified dimension size -1 can be any value and is ambiguous"
        )
    raise RuntimeError(f"shape '{list(size)}' is invalid for input of size {numel}")


def view_strides(old: Geometry, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides under which `old` can be seen with another size, or None if only a copy can
    (torch's rule).

    The old dimensions fall into runs that are evenly spaced in storage; each run may be divided
    anew, but no new dimension may cross from one run into the next.
    """
    if not old.numel:
        return old.stride if size == old.size else contiguous_strides(size)
    strides, dim = [1] * len(size), len(size) - 1
    for numel, step in _even_runs(old):
        filled = 1
        while dim >= 0 and (filled < numel or size[dim] == 1):
            strides[dim] = filled * step
            filled *= size[dim]
            dim -= 1
        if filled != numel:
            return None
    return tuple(strides)


def _even_runs(layout: Geometry) -> Iterator[tuple[int, int]]:
    """(elements, step) of each run of dimensions that walks the storage evenly, the innermost
    run first.
    """
    size, stride = layout.size, layout.stride
    numel, inner = 1, len(size) - 1
    for dim in reversed(range(len(size))):
        numel *= size[dim]
        if dim == 0 or (size[dim - 1] != 1 and stride[dim - 1] != numel * stride[inner]):
            yield numel, stride[inner]
            numel, inner = 1, dim - 1
