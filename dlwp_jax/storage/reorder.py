"""Views that change the order of the dimensions: permute, transpose, movedim, t, T, mT."""

from collections.abc import Sequence
from typing import Self

from .geometry import Geometry, as_ints, wrap_dim


class Reordering(Geometry):
    """The views of a layout that only reorder its sizes and strides."""

    def permute(self, *dims: int | Sequence[int]) -> Self:
        """All dimensions in a new order (`torch.Tensor.permute`).

        Args:
          *dims: for each new dimension the old one that it is; negative numbers count from the
            end.

        Raises:
          RuntimeError: a dimension is missing or comes twice.
          IndexError: a dimension does not exist.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((2, 3, 4)).permute(2, 0, 1)
        Layout(size=(4, 2, 3), stride=(1, 12, 4), offset=0)
        """
        order = as_ints(dims, "dims")
        if len(order) != self.ndim:
            raise RuntimeError(
                "permute: number of dimensions in the tensor input does not match the length "
                "of the desired ordering of dimensions "
                f"i.e. input.dim() = {self.ndim} is not equal to len(dims) = {len(order)}"
            )
        order = [wrap_dim(dim, self.ndim) for dim in order]
        if len(set(order)) != len(order):
            raise RuntimeError(f"permute(): duplicate dims are not allowed, got {order}")
        return type(self)(
            tuple(self.size[dim] for dim in order),
            tuple(self.stride[dim] for dim in order),
            self.offset,
        )

    def transpose(self, dim0: int, dim1: int) -> Self:
        """Exchange two dimensions (`torch.Tensor.transpose`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2)).transpose(0, 1)
        Layout(size=(2, 3), stride=(1, 2), offset=0)
        """
        dim0, dim1 = wrap_dim(dim0, self.ndim), wrap_dim(dim1, self.ndim)
        order = list(range(self.ndim))
        if order:
            order[dim0], order[dim1] = dim1, dim0
        return self.permute(order)

    def swapaxes(self, axis0: int, axis1: int) -> Self:
        """`transpose` by NumPy's name (`torch.Tensor.swapaxes`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2)).swapaxes(0, 1).size
        (2, 3)
        """
        return self.transpose(axis0, axis1)

    def movedim(self, source: int | Sequence[int], destination: int | Sequence[int]) -> Self:
        """Move some dimensions to new places; the others keep their order
        (`torch.Tensor.movedim`).

        Raises:
          RuntimeError: source and destination differ in length, or one of them names a
            dimension twice.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((8, 3, 32, 24)).movedim(1, -1).size  # N C H W -> N H W C
        (8, 32, 24, 3)
        """
        sources, destinations = (
            as_ints((source,), "source"),
            as_ints((destination,), "destination"),
        )
        if len(sources) != len(destinations):
            raise RuntimeError(
                f"movedim: Invalid source or destination dims: source ({list(sources)} dims) "
                f"should contain the same number of dims as destination ({list(destinations)} "
                "dims)"
            )
        sources = self._distinct("source", sources)
        destinations = self._distinct("destination", destinations)
        if not self.ndim:
            return self
        moved = dict(zip(destinations, sources, strict=True))
        others = iter(dim for dim in range(self.ndim) if dim not in sources)
        return self.permute(
            [moved[dim] if dim in moved else next(others) for dim in range(self.ndim)]
        )

    def _distinct(self, name: str, dims: tuple[int, ...]) -> list[int]:
        wrapped = [wrap_dim(dim, self.ndim) for dim in dims]
        if len(set(wrapped)) != len(wrapped):
            raise RuntimeError(f"movedim: repeated dim in `{name}` ({list(dims)})")
        return wrapped

    def t(self) -> Self:
        """The transpose of a matrix; vectors and scalars stay as they are (`torch.Tensor.t`).

        Raises:
          RuntimeError: there are more than two dimensions.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((3, 2)).t().stride
        (1, 2)
        """
        if self.ndim > 2:
            raise RuntimeError(
                f"t() expects a tensor with <= 2 dimensions, but self is {self.ndim}D"
            )
        return self.transpose(0, 1) if self.ndim == 2 else self

    @property
    def T(self) -> Self:
        """All dimensions in reverse order (`torch.Tensor.T`).

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((2, 3)).T.size
        (3, 2)
        """
        return self.permute(range(self.ndim)[::-1])

    @property
    def mT(self) -> Self:
        """The last two dimensions exchanged (`torch.Tensor.mT`).

        Raises:
          RuntimeError: there is only one dimension.

        >>> from dlwp_jax.storage import Layout
        >>> Layout.contiguous((7, 2, 3)).mT.size
        (7, 3, 2)
        """
        if self.ndim == 1:
            raise RuntimeError(
                "tensor.mT is only supported on matrices or batches of matrices. Got 1-D "
                "tensor."
            )
        return self.transpose(-2, -1) if self.ndim else self
