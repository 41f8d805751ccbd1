"""Views that cut a tensor into several: split, chunk, tensor_split, hsplit, vsplit, dsplit,
unbind.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Self

from .geometry import as_ints, integer, is_int, wrap_dim
from .pick import Picking

MOST_PARTS = 2**20  # more views than that at once is a mistake


class Splitting(Picking):
    """The views of a layout that come as a tuple of parts, all over the same storage."""

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Parts of one length, the last perhaps shorter, or of the lengths given
        (`torch.Tensor.split`).

        Raises:
          RuntimeError: if the lengths do not add up to the dimension, or one is negative.

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((5, 2)).split(2)]
        [(2, 2), (2, 2), (1, 2)]
        >>> [part.offset for part in Layout.contiguous((5, 2)).split([1, 4])]
        [0, 2]
        """
        dim, n = self._divisible("split", dim)
        if not is_int(split_size):
            return self.split_with_sizes(split_size, dim)  # type: ignore[arg-type]
        step = integer(split_size, "split_size")
        if step < 0:
            raise RuntimeError(
                f"split expects split_size be non-negative, but got split_size={step}"
            )
        if step == 0 and n:
            raise RuntimeError(
                "split_size can only be 0 if dimension size is 0, but got dimension size of "
                f"{n}"
            )
        starts = range(0, n, step) if n else (0,)
        return tuple(self.narrow(dim, start, min(step, n - start)) for start in starts)

    def split_with_sizes(self, split_sizes: Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Parts of the lengths given (`torch.Tensor.split_with_sizes`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((5, 2)).split_with_sizes([1, 4])]
        [(1, 2), (4, 2)]
        """
        dim, n = self._divisible("split", dim)
        sizes = as_ints((split_sizes,), "split_sizes")
        if sum(sizes) != n or any(size < 0 for size in sizes):
            raise RuntimeError(
                f"split_with_sizes expects non-negative split_sizes that sum exactly to {n} "
                f"(input tensor's size at dimension {dim}), but got split_sizes={list(sizes)}"
            )
        return tuple(
            self.narrow(dim, start, stop - start)
            for start, stop in pairwise(accumulate(sizes, initial=0))
        )

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        """At most `chunks` parts of one length, the last perhaps shorter
        (`torch.Tensor.chunk`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((5,)).chunk(3)]
        [(2,), (2,), (1,)]
        """
        dim, n = self._divisible("chunk", dim)
        chunks = integer(chunks, "chunks")
        if chunks <= 0:
            raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
        if not n and chunks > MOST_PARTS:
            raise RuntimeError(
                f"chunk expects `chunks` to be at most {MOST_PARTS}, got: {chunks}"
            )
        return (
            self.split(-(-n // chunks), dim) if n else self.split_with_sizes([0] * chunks, dim)
        )

    def tensor_split(self, indices_or_sections: Any, dim: int = 0) -> tuple[Self, ...]:
        """`indices_or_sections` parts of nearly equal length, or parts that end at the indices
        (`torch.Tensor.tensor_split`).

        Raises:
          RuntimeError: for fewer than one section.

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((5,)).tensor_split(3)]
        [(2,), (2,), (1,)]
        >>> [part.size for part in Layout.contiguous((5,)).tensor_split([1, 9])]
        [(1,), (4,), (0,)]
        """
        dim, n = self._divisible("tensor_split", dim)
        if is_int(indices_or_sections):
            sections = integer(indices_or_sections, "sections")
            if not 0 < sections <= MOST_PARTS:
                raise RuntimeError(
                    f"number of sections must be larger than 0 and at most {MOST_PARTS}, got "
                    f"{sections}"
                )
            return self.split_with_sizes(
                [n // sections + (i < n % sections) for i in range(sections)], dim
            )
        stops = as_ints((indices_or_sections,), "indices_or_sections")
        return tuple(self.slice(dim, start, stop) for start, stop in pairwise([0, *stops, n]))

    def hsplit(self, indices_or_sections: Any) -> tuple[Self, ...]:
        """Parts side by side: dimension 1, or 0 of a vector (`torch.Tensor.hsplit`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((2, 4)).hsplit(2)]
        [(2, 2), (2, 2)]
        """
        return self._even_split("hsplit", indices_or_sections, int(self.ndim > 1), least=1)

    def vsplit(self, indices_or_sections: Any) -> tuple[Self, ...]:
        """Parts one below the other: dimension 0 (`torch.Tensor.vsplit`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((4, 2)).vsplit(2)]
        [(2, 2), (2, 2)]
        """
        return self._even_split("vsplit", indices_or_sections, 0, least=2)

    def dsplit(self, indices_or_sections: Any) -> tuple[Self, ...]:
        """Parts one behind the other: dimension 2 (`torch.Tensor.dsplit`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.size for part in Layout.contiguous((2, 3, 4)).dsplit(2)]
        [(2, 3, 2), (2, 3, 2)]
        """
        return self._even_split("dsplit", indices_or_sections, 2, least=3)

    def _even_split(
        self, name: str, sections: Any, dim: int, *, least: int
    ) -> tuple[Self, ...]:
        if self.ndim < least:
            raise RuntimeError(
                f"torch.{name} requires a tensor with at least {least} dimension, "
                f"but got a tensor with {self.ndim} dimensions!"
            )
        if is_int(sections) and (
            sections == 0 or self.size[dim] % integer(sections, "sections")
        ):
            raise RuntimeError(
                f"torch.{name} attempted to split along dimension {dim}, but the size of the "
                f"dimension {self.size[dim]} is not divisible by the split_size {sections}!"
            )
        return self.tensor_split(sections, dim)

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """One part for every index of a dimension (`torch.Tensor.unbind`).

        >>> from dlwp_jax.storage import Layout
        >>> [part.offset for part in Layout.contiguous((3, 2)).unbind()]
        [0, 2, 4]
        """
        if not self.ndim:
            raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
        dim = wrap_dim(dim, self.ndim)
        return tuple(self.select(dim, i) for i in range(self.size[dim]))

    def _divisible(self, name: str, dim: int) -> tuple[int, int]:
        if not self.ndim:
            raise RuntimeError(
                f"{name} expects at least a 1-dimensional tensor, got a 0-dim tensor"
            )
        dim = wrap_dim(dim, self.ndim)
        return dim, self.size[dim]
