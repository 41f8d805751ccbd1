"""Views of a part of the elements, or of windows: select, slice, narrow, diagonal, unfold,
x[...].
"""

from typing import Any, Self

from dlwp_jax.checks import describe

from .geometry import Geometry, integer, is_int, wrap_dim


class Picking(Geometry):
    """The views of a layout that reach only a part of its elements, or some of them several
    times.
    """

    def select(self, dim: int, index: int) -> Self:
        """One index of a dimension, which goes away: `x.select(1, 3)` is `x[:, 3]`
        (`torch.Tensor.select`).

        Raises:
          IndexError: if the dimension or the index does not exist.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2)).select(0, -1)
        Layout(size=(2,), stride=(1,), offset=4)
        """
        dim, n = self._existing("select", dim)
        index = integer(index, "index")
        if not -n <= index < n:
            raise IndexError(
                f"select(): index {index} out of range for tensor of size {list(self.size)} "
                f"at dimension {dim}"
            )
        return self.replace_dim(dim, (), (), skip=index % n * self.stride[dim])

    def slice(
        self, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
    ) -> Self:
        """Every step-th index of dimension `dim` from start up to end: `x[:, start:end:step]`
        as a function.

        Out of range ends are clipped, as Python's are.

        Raises:
          RuntimeError: if the step is not positive.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((5, 2)).slice(0, 1, None, 2)
        Layout(size=(2, 2), stride=(4, 1), offset=2)
        """
        dim, n = self._existing("slice", dim)
        start, end = (
            None if place is None else integer(place, "a slice's start and end")
            for place in (start, end)
        )
        step = integer(step, "slice step")
        if step <= 0:
            raise RuntimeError(f"slice step must be positive, got {step}")
        picked = range(n)[start:end:step]
        # An empty slice keeps the offset of its first element, as in torch.
        return self.replace_dim(
            dim,
            (len(picked),),
            (self.stride[dim] * step,),
            skip=picked.start * self.stride[dim],
        )

    def narrow(self, dim: int, start: int, length: int) -> Self:
        """`length` indices of a dimension from `start` on (`torch.Tensor.narrow`); out of range
        is an error.

        Raises:
          IndexError: if start is outside the dimension.
          RuntimeError: if length is negative or goes past the end, or start is not a whole
            number.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((5, 2)).narrow(0, 1, 3)
        Layout(size=(3, 2), stride=(2, 1), offset=2)
        """
        if not self.ndim:
            raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
        length = integer(length, "narrow(): length")
        if length < 0:
            raise RuntimeError(f"narrow(): length must be non-negative, got {length}")
        if not is_int(start):
            raise RuntimeError(
                "narrow(): start must be an int or a 0-dim integral tensor, got "
                f"{describe(start)}"
            )
        dim, start = wrap_dim(dim, self.ndim), integer(start, "start")
        n = self.size[dim]
        if not -n <= start <= n:
            raise IndexError(
                f"start out of range (expected to be in range of [{-n}, {n}], but got {start})"
            )
        start += n if start < 0 else 0
        if start + length > n:
            raise RuntimeError(
                f"start ({start}) + length ({length}) exceeds dimension size ({n})."
            )
        return self.slice(dim, start, start + length)

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Self:
        """The elements with index(dim2) = index(dim1) + offset, as a new last dimension.

        `torch.Tensor.diagonal`. Its stride is the sum of the two: one step goes down and right
        at once.

        Raises:
          RuntimeError: if dim1 and dim2 are the same.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 4)).diagonal(1)
        Layout(size=(3,), stride=(5,), offset=1)
        """
        offset = integer(offset, "diagonal's offset")
        row, column = wrap_dim(dim1, self.ndim), wrap_dim(dim2, self.ndim)
        if row == column:
            raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
        down, right = max(-offset, 0), max(offset, 0)
        length = max(min(self.size[row] - down, self.size[column] - right), 0)
        skip = down * self.stride[row] + right * self.stride[column] if length else 0
        others = [dim for dim in range(self.ndim) if dim not in (row, column)]
        return type(self)(
            (*(self.size[dim] for dim in others), length),
            (*(self.stride[dim] for dim in others), self.stride[row] + self.stride[column]),
            self.offset + skip,
        )

    def unfold(self, dimension: int, size: int, step: int) -> Self:
        """Windows of `size` elements, one every `step`; within a window runs a new last
        dimension.

        `torch.Tensor.unfold`. Windows overlap if step < size: elements are then seen several
        times, not copied.

        Raises:
          RuntimeError: a window is larger than the dimension or negative, or the step is not
            positive.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((7,)).unfold(0, 3, 2)
        Layout(size=(3, 3), stride=(2, 1), offset=0)
        """
        dim = wrap_dim(dimension, self.ndim)
        size, step = integer(size, "size"), integer(step, "step")
        n, stride = (self.size[dim], self.stride[dim]) if self.ndim else (1, 1)
        if size < 0:
            raise RuntimeError(f"size is {size} but must be >= 0")
        if size > n:
            raise RuntimeError(
                f"maximum size for tensor at dimension {dim} is {n} but size is {size}"
            )
        if step <= 0:
            raise RuntimeError(f"step is {step} but must be > 0")
        windows = (
            self.replace_dim(dim, ((n - size) // step + 1,), (stride * step,))
            if self.ndim
            else self
        )
        return type(self)((*windows.size, size), (*windows.stride, stride), self.offset)

    def __getitem__(self, index: Any) -> Self:
        """Basic indexing entire: ints, slices with positive steps, None, Ellipsis, or a tuple
        of them.

        Raises:
          IndexError: an index is out of range, or there are too many of them.
          ValueError: a slice does not step forward.
          TypeError: an index is an array, a list or a mask. Those copy, so they belong to
            `.to_array()`.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2))[1:, None, 0]
        Layout(size=(2, 1), stride=(2, 2), offset=2)
        """
        view, dim = self, 0
        for position, part in enumerate(_full_index(index, self.ndim)):
            if part is None:
                view, dim = view.new_dim(dim), dim + 1
            elif isinstance(part, slice):
                view, dim = (
                    view.slice(
                        dim, part.start, part.stop, 1 if part.step is None else part.step
                    ),
                    dim + 1,
                )
            else:
                number, n = integer(part, "index"), view.size[dim]
                if not -n <= number < n:
                    raise IndexError(
                        f"index {number} is out of bounds for dimension {position} with size "
                        f"{n}"
                    )
                view = view.select(dim, number)
        return view

    def _existing(self, name: str, dim: int) -> tuple[int, int]:
        """A dimension counted from the front and its size, refused where there are no
        dimensions.
        """
        if not self.ndim:
            raise IndexError(f"{name}() cannot be applied to a 0-dim tensor.")
        dim = wrap_dim(dim, self.ndim)
        return dim, self.size[dim]


def _full_index(index: Any, ndim: int) -> list[Any]:
    """The index as a list that speaks of every dimension: an ellipsis, written or not, is full
    slices.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    for part in parts:
        _check_basic(part)
    used = sum(part is not None and part is not Ellipsis for part in parts)
    if used and not ndim:
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` to convert it to a number"
        )
    if used > ndim:
        raise IndexError(f"too many indices for tensor of dimension {ndim}, got {used}")
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * (ndim - used) + parts[at + 1 :]


def _check_basic(part: Any) -> None:
    if isinstance(part, slice):
        if part.step is not None and integer(part.step, "slice step") <= 0:
            raise ValueError(f"slice step must be greater than zero, got {part.step}")
    elif part is not None and part is not Ellipsis and not is_int(part):
        raise TypeError(
            "only basic indexing (int, slice, None, ...) gives a view, got "
            f"{type(part).__name__}; index .to_array() for a copy"
        )
