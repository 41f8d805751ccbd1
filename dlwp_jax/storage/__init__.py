"""Chapter 3: torch's strided tensors as immutable values.

A tensor is a *storage* (a line of numbers) and a *layout* (size, stride, offset) that says
where in it each element lies. A transpose, a slice, a reshape that can be a view makes another
layout over the same storage and moves no data. Nothing is ever changed in place: writing
through a view returns a new storage, over which every other view can be laid.

>>> from dlwp_jax import storage
>>> points = storage.tensor([[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]])
>>> second = points[1]                      # a view: no number moved
>>> second.layout
Layout(size=(2,), stride=(1,), offset=2)
>>> written = second.at[0].set(10.0)        # a new storage; points is what it was
>>> points.over(written.storage)            # points, as it looks over the new storage
StridedTensor([[ 4.,  1.],
               [10.,  3.],
               [ 2.,  1.]],
              size=(3, 2), stride=(2, 1), offset=0, dtype=float32)

From the inside out: `geometry` (the three facts), `reorder`, `pick`, `resize`, `split` (the
view operations), `layout` (all of them), `overlap` and `plan` (decisions about a layout),
`lowering` (reads and writes for XLA), `strided` (the tensor), `make` (numbers into tensors),
`together` (views of several tensors).
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
