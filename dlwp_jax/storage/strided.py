"""`StridedTensor`: a storage and a layout over it, as one immutable value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlwp_jax.checks import describe

from . import complex_parts, lowering
from .casting import addable, copyable
from .dense import dense_copy_strides
from .geometry import as_ints, infer_size, view_strides, wrap_dim
from .layout import Layout
from .operators import DenseOperators, dense
from .overlap import refuse_overlap

P = ParamSpec("P")


def _view(
    of_layout: Callable[Concatenate[Layout, P], Layout],
) -> Callable[Concatenate[StridedTensor, P], StridedTensor]:
    """The view operation of a layout, as a method of a tensor: the same storage, another
    layout.
    """

    @functools.wraps(of_layout)
    def method(self: StridedTensor, *args: P.args, **kwargs: P.kwargs) -> StridedTensor:
        return StridedTensor(self.storage, of_layout(self.layout, *args, **kwargs))

    return method


def _views(
    of_layout: Callable[Concatenate[Layout, P], tuple[Layout, ...]],
) -> Callable[Concatenate[StridedTensor, P], tuple[StridedTensor, ...]]:
    """A view operation that gives several parts, as a method of a tensor."""

    @functools.wraps(of_layout)
    def method(
        self: StridedTensor, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[StridedTensor, ...]:
        return tuple(
            StridedTensor(self.storage, part)
            for part in of_layout(self.layout, *args, **kwargs)
        )

    return method


@jax.tree_util.register_pytree_with_keys_class
class StridedTensor(DenseOperators):
    """A tensor as torch has it, as an immutable value: a storage, and a layout over it.

    Element (i, j, ...) is storage[offset + i·stride₀ + j·stride₁ + ...]. A view operation
    changes three small tuples and moves no data; the new tensor has the same storage. Writing
    returns the view over a *new* storage, and `over` gives any other view of that. The storage
    is the only leaf of the pytree and the layout is static, so tensors pass through jit, grad,
    vmap (over storages) and scan. The book's chapter 3, "Tensors: scenic views of
    storage".

    Args:
      storage: a 1-D array.
      layout: size, stride and offset.

    Raises:
      TypeError: if the storage is not an array of numbers, or the layout not a `Layout`.
      RuntimeError: if the storage is not 1-D, or the layout reaches beyond its end.

    The names are those of `torch.Tensor`. `jnp` functions and arithmetic take a tensor and give
    an array.

    >>> from dlwp_jax.storage import tensor
    >>> points = tensor([[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]])
    >>> second = points[1]
    >>> second.storage_offset(), second.stride(), second.storage is points.storage
    (2, (1,), True)
    >>> points = points.over(second.at[0].set(10.0).storage)
    >>> points.tolist()
    [[4.0, 1.0], [10.0, 3.0], [2.0, 1.0]]
    """

    storage: jax.Array
    layout: Layout

    def __init__(self, storage: jax.Array, layout: Layout):
        if not isinstance(storage, jax.Array):
            raise TypeError(
                f"storage must be a 1-D jax.Array, got {type(storage).__name__}; "
                "storage.tensor() makes one"
            )
        if storage.ndim != 1:
            raise RuntimeError(
                f"storage must be 1-D, got shape {storage.shape}; a batch of storages is used "
                "inside jax.vmap"
            )
        if not isinstance(layout, Layout):
            raise TypeError(f"layout must be a Layout, got {describe(layout)}")
        if jnp.issubdtype(storage.dtype, jax.dtypes.extended):
            raise TypeError(f"storage must be numbers, got PRNG keys of shape {storage.shape}")
        if layout.end > storage.shape[0]:
            raise RuntimeError(
                f"size {list(layout.size)}, stride {list(layout.stride)} and storage offset "
                f"{layout.offset} need a storage of {layout.end} elements and are out of "
                f"bounds for storage of {storage.shape[0]}"
            )
        object.__setattr__(self, "storage", storage)
        object.__setattr__(self, "layout", layout)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"a StridedTensor is immutable: cannot set {name!r}; .set(), .at[] and .over() "
            "make new ones"
        )

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "a StridedTensor is immutable: use t = t.at[index].set(value) instead of "
            "t[index] = value"
        )

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, jax.Array]], Layout]:
        """The storage as the only leaf, the layout as static data."""
        return ((jax.tree_util.GetAttrKey("storage"), self.storage),), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, leaves: Sequence[Any]) -> StridedTensor:
        """The inverse, without checks, since transformations use batches and placeholders as
        the storage.
        """
        self = object.__new__(cls)
        object.__setattr__(self, "storage", leaves[0])
        object.__setattr__(self, "layout", layout)
        return self

    # Properties.

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every dimension."""
        return self.layout.size

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.layout.ndim

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements."""
        return self.storage.dtype

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension (`torch.Tensor.size`)."""
        return self.shape if dim is None else self.shape[wrap_dim(dim, self.ndim)]

    def stride(self, dim: int | None = None) -> Any:
        """Storage elements skipped by one step along every dimension, or one
        (`torch.Tensor.stride`).
        """
        return (
            self.layout.stride if dim is None else self.layout.stride[wrap_dim(dim, self.ndim)]
        )

    def storage_offset(self) -> int:
        """The storage position of the first element (`torch.Tensor.storage_offset`)."""
        return self.layout.offset

    def dim(self) -> int:
        """The number of dimensions (`torch.Tensor.dim`)."""
        return self.layout.ndim

    def numel(self) -> int:
        """The number of elements (`torch.Tensor.numel`)."""
        return self.layout.numel

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps
        (`torch.Tensor.is_contiguous`).
        """
        return self.layout.is_contiguous()

    # Views: the operations of `Layout`, documented there under the same names.

    as_strided = _view(Layout.as_strided)
    permute = _view(Layout.permute)
    transpose = swapdims = _view(Layout.transpose)
    swapaxes = _view(Layout.swapaxes)
    movedim = moveaxis = _view(Layout.movedim)
    t = _view(Layout.t)
    select = _view(Layout.select)
    slice = _view(Layout.slice)
    narrow = _view(Layout.narrow)
    diagonal = _view(Layout.diagonal)
    unfold = _view(Layout.unfold)
    __getitem__ = _view(Layout.__getitem__)
    view = _view(Layout.view)
    unflatten = _view(Layout.unflatten)
    squeeze = _view(Layout.squeeze)
    unsqueeze = _view(Layout.unsqueeze)
    expand = _view(Layout.expand)
    broadcast_to = _view(Layout.broadcast_to)
    split = _views(Layout.split)
    split_with_sizes = _views(Layout.split_with_sizes)
    chunk = _views(Layout.chunk)
    tensor_split = _views(Layout.tensor_split)
    hsplit = _views(Layout.hsplit)
    vsplit = _views(Layout.vsplit)
    dsplit = _views(Layout.dsplit)
    unbind = _views(Layout.unbind)

    @property
    def T(self) -> StridedTensor:
        """All dimensions in reverse order (`torch.Tensor.T`)."""
        return StridedTensor(self.storage, self.layout.T)

    @property
    def mT(self) -> StridedTensor:
        """The last two dimensions exchanged (`torch.Tensor.mT`)."""
        return StridedTensor(self.storage, self.layout.mT)

    def view_as(self, other: Any) -> StridedTensor:
        """`view` in the shape of another tensor or array."""
        return self.view(_shape_of(other))

    def expand_as(self, other: Any) -> StridedTensor:
        """`expand` to the shape of another tensor or array."""
        return self.expand(_shape_of(other))

    # Views if possible, otherwise copies.

    def reshape(self, *shape: int | Sequence[int]) -> StridedTensor:
        """The same elements in another shape: a view if one exists, else a copy
        (`torch.Tensor.reshape`).

        >>> from dlwp_jax.storage import tensor
        >>> columns = tensor([[4.0, 1.0], [5.0, 3.0]]).t()
        >>> flat = columns.reshape(-1)
        >>> flat.tolist(), flat.storage is columns.storage
        ([4.0, 5.0, 1.0, 3.0], False)
        """
        size = infer_size(as_ints(shape, "shape"), self.numel())
        stride = view_strides(self.layout, size)
        if stride is None:
            return _fresh(self.to_array(), Layout.contiguous(size))
        return StridedTensor(self.storage, Layout(size, stride, self.layout.offset))

    def reshape_as(self, other: Any) -> StridedTensor:
        """`reshape` to the shape of another tensor or array."""
        return self.reshape(_shape_of(other))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> StridedTensor:
        """Some dimensions joined into one: a view if one exists, else a copy
        (`torch.Tensor.flatten`).
        """
        size = self.layout.flat_size(start_dim, end_dim)
        return self if size == self.shape else self.reshape(size)

    def ravel(self) -> StridedTensor:
        """All dimensions joined into one: a view if contiguous, else a copy
        (`torch.Tensor.ravel`).
        """
        return self.contiguous().view(-1)

    def contiguous(self) -> StridedTensor:
        """This tensor if it is contiguous, else a row-major copy (`torch.Tensor.contiguous`).

        >>> from dlwp_jax.storage import tensor
        >>> columns = tensor([[4.0, 1.0], [5.0, 3.0]]).t()
        >>> columns.stride(), columns.contiguous().stride()
        ((1, 2), (2, 1))
        """
        return (
            self
            if self.is_contiguous()
            else _fresh(self.to_array(), Layout.contiguous(self.shape))
        )

    def clone(self) -> StridedTensor:
        """A copy over a new storage (`torch.Tensor.clone`).

        As in torch the copy keeps the order of the strides (a transpose stays a transpose),
        without gaps.
        """
        stride = dense_copy_strides(self.layout)
        outermost_first = sorted(range(self.ndim), key=lambda dim: -stride[dim])
        return _fresh(self.permute(outermost_first).to_array(), Layout(self.shape, stride))

    # Complex numbers: torch's values, over a new storage.

    def view_as_real(self) -> StridedTensor:
        """Complex numbers as pairs in a new last dimension (`torch.view_as_real`, over a new
        storage).
        """
        return StridedTensor(*complex_parts.as_pairs(self.storage, self.layout))

    def view_as_complex(self) -> StridedTensor:
        """Pairs in the last dimension as complex numbers (`torch.view_as_complex`, over a new
        storage).
        """
        return StridedTensor(*complex_parts.as_complex(self.storage, self.layout))

    @property
    def real(self) -> StridedTensor:
        """The real parts; a real tensor itself (`torch.Tensor.real`)."""
        return self.view_as_real()[..., 0] if jnp.iscomplexobj(self.storage) else self

    @property
    def imag(self) -> StridedTensor:
        """The imaginary parts of complex numbers (`torch.Tensor.imag`)."""
        return self.view_as_real()[..., 1]

    @property
    def mH(self) -> StridedTensor:
        """The last two dimensions exchanged, complex numbers conjugated (`torch.Tensor.mH`)."""
        transposed = self.mT
        if not jnp.iscomplexobj(self.storage):
            return transposed
        return StridedTensor(transposed.storage.conj(), transposed.layout)

    @property
    def H(self) -> StridedTensor:
        """The conjugate transpose of a matrix (`torch.Tensor.H`)."""
        if self.ndim not in (0, 2):
            raise RuntimeError(
                f"tensor.H is only supported on matrices (2-D tensors). Got {self.ndim}-D "
                "tensor."
            )
        return self.mH

    # Reading.

    def to_array(self) -> jax.Array:
        """The elements as a dense `jax.Array` of this shape.

        Eagerly the storage offset is an argument of the compiled program, so a loop over
        `x[i].to_array()` compiles once. Inside a transformation it is a constant, which lets
        XLA fuse the read with the operations after it.

        >>> from dlwp_jax.storage import tensor
        >>> tensor([[4.0, 1.0], [5.0, 3.0]]).t().to_array()
        Array([[4., 5.],
               [1., 3.]], dtype=float32)
        """
        self._require_one_storage()
        if self._offset_is_constant():
            return lowering.read_static(self.storage, self.layout)
        return lowering.read_at(self.storage, self._without_offset(), self.layout.offset)

    def __jax_array__(self) -> jax.Array:
        return self.to_array()

    def numpy(self) -> np.ndarray:
        """A read-only NumPy view of the storage itself: nothing is compiled, and on a CPU
        nothing is copied.

        >>> from dlwp_jax.storage import tensor
        >>> tensor([[4, 1], [5, 3]]).t().numpy().strides  # in bytes, ours in elements
        (4, 8)
        """
        self._require_one_storage()
        storage = np.asarray(self.storage)
        first = storage[min(self.layout.offset, storage.size) :]
        strides = [step * storage.itemsize for step in self.layout.stride]
        return np.lib.stride_tricks.as_strided(first, self.shape, strides, writeable=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers (`torch.Tensor.tolist`)."""
        return self.numpy().tolist()

    def item(self) -> Any:
        """The only element as a Python number (`torch.Tensor.item`).

        Raises:
          RuntimeError: if there is not exactly one element.
        """
        if self.numel() != 1:
            raise RuntimeError(
                f"a Tensor with {self.numel()} elements cannot be converted to Scalar"
            )
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        if self.ndim or not jnp.issubdtype(self.dtype, jnp.integer):
            raise TypeError(
                f"only a 0-dim integer tensor is an index, got {self.dtype} of size "
                f"{list(self.shape)}"
            )
        return int(self.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[StridedTensor]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind())

    def __repr__(self) -> str:
        facts = f"size={self.shape}, stride={self.layout.stride}, offset={self.layout.offset}"
        known = isinstance(self.storage, jax.Array) and not isinstance(self.storage, Tracer)
        readable = known and self.storage.ndim == 1 and self.layout.end <= self.storage.shape[0]
        if not readable or not self.storage.is_fully_addressable:
            return f"StridedTensor({facts}, storage={self.storage!r})"
        values = np.array2string(
            self.numpy(), separator=", ", prefix="StridedTensor(", threshold=100
        )
        return f"StridedTensor({values},\n              {facts}, dtype={self.dtype})"

    # Writing: the same view over a new storage.

    def over(self, storage: jax.Array) -> StridedTensor:
        """This view of another storage, for example of one that was written through another
        view.

        Args:
          storage: as long as this tensor's own and of the same dtype, usually `.storage` of the
            result of a write.

        Raises:
          TypeError: if it is not an array, or of another dtype.
          ValueError: if it has another length.
        """
        if isinstance(storage, StridedTensor):
            raise TypeError("over() takes a storage, got a StridedTensor; pass its .storage")
        if not isinstance(storage, jax.Array):
            raise TypeError(
                f"over() takes a storage, a 1-D jax.Array, got {type(storage).__name__}"
            )
        if storage.shape != self.storage.shape:
            raise ValueError(
                f"over() takes a storage of shape {self.storage.shape}, got {storage.shape}"
            )
        if storage.dtype != self.dtype:
            raise TypeError(
                f"over() takes a storage of dtype {self.dtype}, got {storage.dtype}"
            )
        return StridedTensor(storage, self.layout)

    def set(self, values: Any) -> StridedTensor:
        """This view over a new storage in which it holds `values` (`torch.Tensor.copy_` without
        mutation).

        Args:
          values: anything that broadcasts to this size, cast to this dtype by XLA: as in torch,
            except that a float beyond an integer type's range becomes its nearest limit and NaN
            becomes 0; torch's result depends on the machine.

        Raises:
          RuntimeError: if two indices of this view reach the same element (expand, unfold), if
            the values do not broadcast to its size, or if they are complex and it is not.

        >>> from dlwp_jax.storage import tensor
        >>> points = tensor([[4.0, 1.0], [5.0, 3.0]])
        >>> points.over(points.t()[0].set(0.0).storage).tolist()
        [[0.0, 1.0], [0.0, 3.0]]
        """
        refuse_overlap(self.layout)
        return self._written(
            lowering.write_static,
            lowering.write_at,
            copyable(dense(values), self.dtype, self.shape),
        )

    def add(self, values: Any) -> StridedTensor:
        """This view over a new storage to which `values` were added at every index
        (`torch.Tensor.add_`).

        Sums are made in the type that both promote to, and then cast to this dtype. If indices
        meet in one element (expand, unfold), the values sum up, which is the transpose of
        reading.

        Raises:
          RuntimeError: if the values do not broadcast to this size, or adding them would change
            the kind of the dtype.

        >>> from dlwp_jax.storage import tensor
        >>> tensor([1.0, 2.0]).unsqueeze(1).expand(2, 3).add(1.0).storage
        Array([4., 5.], dtype=float32)
        """
        return self._written(
            lowering.add_static, lowering.add_at, addable(dense(values), self.dtype, self.shape)
        )

    @property
    def at(self) -> At:
        """`t.at[index].set(values)` and `.add(values)`: this tensor over the storage written at
        the index.
        """
        return At(self)

    def _written(
        self,
        static: Callable[..., jax.Array],
        at_offset: Callable[..., jax.Array],
        values: jax.Array,
    ) -> StridedTensor:
        self._require_one_storage()
        if not self.numel():
            return self
        if self._offset_is_constant():
            return self.over(static(self.storage, self.layout, values))
        return self.over(
            at_offset(self.storage, self._without_offset(), self.layout.offset, values)
        )

    def _offset_is_constant(self) -> bool:
        """Whether the offset is compiled in: inside a transformation, or beyond int32."""
        return isinstance(self.storage, Tracer) or self.layout.offset > np.iinfo(np.int32).max

    def _without_offset(self) -> Layout:
        return Layout(self.layout.size, self.layout.stride)

    def _require_one_storage(self) -> None:
        """Check a storage that comes from `jax.tree.map`; `tree_unflatten` does not."""
        if getattr(self.storage, "ndim", 1) != 1:
            raise RuntimeError(
                f"storage must be 1-D, got shape {self.storage.shape}; a batch of storages is "
                "used inside jax.vmap"
            )
        length = np.shape(self.storage)[0] if np.ndim(self.storage) else 0
        if self.layout.end > length:
            raise RuntimeError(
                f"the layout needs a storage of {self.layout.end} elements, and this one has "
                f"{length}"
            )


class At:
    """The place of a functional write: `t.at[index].set(values)`, as jax.Array has it.

    >>> from dlwp_jax.storage import tensor
    >>> tensor([[4.0, 1.0], [5.0, 3.0]]).at[:, 0].add(1.0).tolist()
    [[5.0, 1.0], [6.0, 3.0]]
    """

    def __init__(self, tensor: StridedTensor, view: StridedTensor | None = None):
        self._tensor, self._view = tensor, tensor if view is None else view

    def __getitem__(self, index: Any) -> At:
        return At(self._tensor, self._view[index])

    def set(self, values: Any) -> StridedTensor:
        """The tensor over the storage in which the indexed part holds `values`."""
        return self._tensor.over(self._view.set(values).storage)

    def add(self, values: Any) -> StridedTensor:
        """The tensor over the storage to whose indexed part `values` were added."""
        return self._tensor.over(self._view.add(values).storage)

    def get(self) -> jax.Array:
        """The indexed part as an array."""
        return self._view.to_array()


def _shape_of(other: Any) -> tuple[int, ...]:
    shape = getattr(other, "shape", None)
    if not isinstance(shape, tuple):  # torch.Size is one
        raise TypeError(
            f"other must be a tensor or an array, which have a shape; got {describe(other)}"
        )
    return shape


def _fresh(array: jax.Array, layout: Layout) -> StridedTensor:
    return StridedTensor(array.reshape(-1), layout)
