"""Chapter 3: torch's strided tensors as immutable values.

A tensor is a *storage* (a line of numbers) and a *layout* (size, stride, offset), which gives
the position of each element in it. A transpose, a slice or a reshape without a copy makes
another layout over the same storage and moves no data. Nothing is changed in place: writing
through a view returns a new storage, and `over` gives any other view of that storage.

>>> from dlwp_jax import storage
>>> points = storage.tensor([[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]])
>>> second = points[1]                      # a view: no number moved
>>> second.layout
Layout(size=(2,), stride=(1,), offset=2)
>>> written = second.at[0].set(10.0)        # a new storage; points does not change
>>> points.over(written.storage)            # points, over the new storage
StridedTensor([[ 4.,  1.],
               [10.,  3.],
               [ 2.,  1.]],
              size=(3, 2), stride=(2, 1), offset=0, dtype=float32)

The modules, from the inside out: `geometry` (size, stride, offset), `reorder`, `pick`,
`resize`, `split` (the view operations), `layout` (all of them), `overlap` and `plan` (decisions
about a layout), `lowering` (reads and writes for XLA), `strided` (the tensor), `make` (numbers
into tensors), `together` (views of several tensors).
"""

from .layout import Layout
from .make import tensor
from .strided import StridedTensor
from .together import atleast_1d, atleast_2d, atleast_3d, broadcast_tensors, meshgrid

__all__ = [
    "Layout",
    "StridedTensor",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_tensors",
    "meshgrid",
    "tensor",
]
