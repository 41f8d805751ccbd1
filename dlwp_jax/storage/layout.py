"""`Layout`: size, stride and offset with every view operation of torch, in plain integers."""

from collections.abc import Sequence
from typing import Self

from .geometry import as_ints
from .reorder import Reordering
from .resize import Resizing
from .split import Splitting


class Layout(Reordering, Resizing, Splitting):
    """The positions of a tensor's elements in its storage, with all view operations.

    Element (i, j, ...) is storage[offset + i·stride₀ + j·stride₁ + ...]. A view operation
    returns another layout for the same storage; no number moves and nothing is compiled. Two
    layouts are equal if size, stride and offset are. Frozen and hashable, so that it can be
    static in `jax.jit`. The book's chapter 3, "Tensor metadata".

    Args:
      size: the length of every dimension.
      stride: the distance in storage elements of one step along each dimension; 0 repeats an
        element.
      offset: the storage position of element (0, 0, ...).

    Raises:
      RuntimeError: if size and stride differ in length, or a number is negative.

    >>> points = Layout.contiguous((3, 2))
    >>> points[1]
    Layout(size=(2,), stride=(1,), offset=2)
    >>> points.T.is_contiguous()
    False
    """

    def as_strided(
        self, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
    ) -> Self:
        """Any size, stride and offset over the same storage (`torch.Tensor.as_strided`).

        Args:
          size: the new size.
          stride: the new stride, one for each dimension, not negative.
          storage_offset: the new offset; the present one by default.

        >>> Layout.contiguous((6,)).as_strided((2, 2), (3, 1), 1)
        Layout(size=(2, 2), stride=(3, 1), offset=1)
        """
        offset = self.offset if storage_offset is None else storage_offset
        return type(self)(as_ints((size,), "size"), as_ints((stride,), "stride"), offset)
