"""Views with other dimensions over the same elements: view, flatten, unflatten, (un)squeeze,
expand.
"""

import math
from collections.abc import Sequence
from typing import Self

from .geometry import Geometry, as_ints, infer_size, view_strides, wrap_dim


class Resizing(Geometry):
    """The views of a layout that divide, join, add or drop dimensions."""

    def view(self, *shape: int | Sequence[int]) -> Self:
        """The same elements in another shape, if no copy is needed (`torch.Tensor.view`).

        Args:
          *shape: the new size; one -1 is worked out.

        Raises:
          RuntimeError: the number of elements differs, or a new dimension would not be evenly
            spaced in storage.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((4, 6)).view(2, -1, 3)
        Layout(size=(2, 4, 3), stride=(12, 3, 1), offset=0)
        """
        size = infer_size(as_ints(shape, "shape"), self.numel)
        stride = view_strides(self, size)
        if stride is None:
            raise RuntimeError(
                f"view size {list(size)} is not compatible with input tensor's size "
                f"{list(self.size)} and stride {list(self.stride)} (at least one dimension "
                "spans across two contiguous subspaces). Use .reshape(...) instead."
            )
        return type(self)(size, stride, self.offset)

    def flat_size(self, start_dim: int = 0, end_dim: int = -1) -> tuple[int, ...]:
        """The size after dimensions start_dim to end_dim are joined into one.

        Raises:
          RuntimeError: start_dim comes after end_dim.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((8, 3, 32, 24)).flat_size(1, 2)
        (8, 96, 24)
        """
        start, end = wrap_dim(start_dim, self.ndim), wrap_dim(end_dim, self.ndim)
        if start > end:
            raise RuntimeError(
                "flatten() has invalid args: start_dim cannot come after end_dim, got "
                f"{start_dim}, {end_dim}"
            )
        return (
            *self.size[:start],
            math.prod(self.size[start : end + 1]),
            *self.size[end + 1 :],
        )

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        """Dimensions start_dim to end_dim joined into one, if no copy is needed
        (`torch.Tensor.flatten`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((8, 3, 32, 24)).flatten(1)
        Layout(size=(8, 2304), stride=(2304, 1), offset=0)
        """
        size = self.flat_size(start_dim, end_dim)
        return self if size == self.size else self.view(size)

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Self:
        """One dimension divided into several (`torch.Tensor.unflatten`); one size may be -1.

        Raises:
          RuntimeError: the sizes do not multiply up to the dimension.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((2, 12)).unflatten(1, (3, -1))
        Layout(size=(2, 3, 4), stride=(12, 4, 1), offset=0)
        """
        dim, sizes = wrap_dim(dim, self.ndim), as_ints((sizes,), "sizes")
        if not sizes:
            raise RuntimeError("unflatten: sizes must be non-empty")
        if not self.ndim:
            raise RuntimeError(
                f"unflatten: there is no dimension {dim} to divide in a 0-dim tensor"
            )
        try:
            inferred = infer_size(sizes, self.size[dim])
        except RuntimeError:
            raise RuntimeError(
                f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of "
                f"dim {dim} ({self.size[dim]}) in the input tensor"
            ) from None
        return self.view(*self.size[:dim], *inferred, *self.size[dim + 1 :])

    def unsqueeze(self, dim: int) -> Self:
        """A new dimension of size 1 at place `dim` (`torch.Tensor.unsqueeze`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2)).unsqueeze(0)
        Layout(size=(1, 3, 2), stride=(6, 2, 1), offset=0)
        """
        return self.new_dim(wrap_dim(dim, self.ndim + 1))

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Self:
        """Drop dimensions of size 1: all of them, or those named (`torch.Tensor.squeeze`).

        A named dimension of another size stays.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((1, 3, 1)).squeeze(), Layout.contiguous((1, 3, 1)).squeeze(0).size
        (Layout(size=(3,), stride=(1,), offset=0), (3, 1))
        """
        if dim is None:
            dims = range(self.ndim)
        else:
            dims = [wrap_dim(d, self.ndim) for d in as_ints((dim,), "dim")]
            if repeated := [d for d in dims if dims.count(d) > 1]:
                raise RuntimeError(
                    f"dim {repeated[0]} appears multiple times in the list of dims"
                )
        keep = [d for d in range(self.ndim) if d not in dims or self.size[d] != 1]
        return type(self)(
            tuple(self.size[d] for d in keep), tuple(self.stride[d] for d in keep), self.offset
        )

    def expand(self, *sizes: int | Sequence[int]) -> Self:
        """Dimensions of size 1 repeated without a copy, by stride 0 (`torch.Tensor.expand`).

        Args:
          *sizes: the new size; -1 keeps a dimension, and new dimensions may be put in front.

        Raises:
          RuntimeError: a dimension of another size than 1 would have to change.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 1)).expand(2, -1, 4)
        Layout(size=(2, 3, 4), stride=(0, 1, 0), offset=0)
        """
        wanted = as_ints(sizes, "sizes")
        lead = len(wanted) - self.ndim
        if lead < 0:
            raise RuntimeError(
                f"expand: the number of sizes provided ({len(wanted)}, {list(wanted)}) must "
                f"be greater or equal to the number of dimensions in the tensor ({self.ndim}, "
                f"{list(self.size)})"
            )
        if -1 in wanted[:lead]:
            raise RuntimeError(
                "The expanded size of the tensor (-1) isn't allowed in a leading, "
                f"non-existing dimension {wanted.index(-1)}"
            )
        expanded = []
        for dim in reversed(range(len(wanted))):
            if dim >= lead:
                n, step = self.size[dim - lead], self.stride[dim - lead]
            else:  # a new dimension, with the stride that unsqueeze(0) would give it
                n, step = 1, math.prod(expanded[-1]) if self.ndim else 0
            expanded.append(_expand_dim(dim, wanted, n, step))
        size, stride = zip(*reversed(expanded), strict=True) if expanded else ((), ())
        return type(self)(size, stride, self.offset)

    def broadcast_to(self, size: Sequence[int]) -> Self:
        """`expand` by NumPy's name (`torch.Tensor.broadcast_to`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3,)).broadcast_to((2, 3)).stride
        (0, 1)
        """
        return self.expand(size)


def _expand_dim(dim: int, wanted: tuple[int, ...], n: int, step: int) -> tuple[int, int]:
    """Size and stride of one dimension of size n after it is expanded to the wanted size."""
    want = wanted[dim]
    if want in (-1, n):
        return n, step
    if want < 0:
        raise RuntimeError(
            f"The expanded size of the tensor ({want}) must be non-negative or -1, got "
            f"{list(wanted)}"
        )
    if n != 1:
        raise RuntimeError(
            f"The expanded size of the tensor ({want}) must match the existing size ({n}) at "
            f"non-singleton dimension {dim}.  Target sizes: {list(wanted)}."
        )
    return want, 0
