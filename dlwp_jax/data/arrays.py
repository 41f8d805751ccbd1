"""Operations on data sets in memory: any pytree of arrays with a common leading axis.

Splits are chosen on the host as row numbers and taken from every array alike; randomness comes
from a JAX key.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpy.lib.array_utils import normalize_axis_tuple

from dlwp_jax import checks
from dlwp_jax.storage import StridedTensor

BLOCK = 2**14  # rows that are converted to float64 at a time


def length(data: Any) -> int:
    """The number of examples in a data set: the common length of the leading axes.

    Raises:
      ValueError: if the leading axes differ, or there is none.

    >>> length({"x": np.zeros((11, 3)), "y": np.zeros(11)})
    11
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data, is_leaf=_is_strided)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"data needs arrays with one common leading axis; their leading axes are {lengths}."
        )
    return lengths.pop()[0]


def take(data: Any, rows: Any) -> Any:
    """The given rows of every array of a data set.

    A `StridedTensor` counts as one array, and becomes a dense one.

    Raises:
      IndexError: if a row is not in -n .. n - 1, or if a mask has another length.
      TypeError: if rows are neither whole numbers nor a mask.

    >>> take({"x": np.arange(4) * 10}, [3, 0])["x"].tolist()
    [30, 0]
    """
    length(data)
    rows = checks.on_host(rows, "rows")
    rows = rows if rows.size else rows.astype(int)
    if rows.dtype.kind not in "iub":
        raise TypeError(f"rows must be row numbers, or a mask; got {checks.describe(rows)}.")
    return jax.tree.map(lambda leaf: _rows(leaf, rows), data, is_leaf=_is_strided)


def _is_strided(leaf: Any) -> bool:
    return isinstance(leaf, StridedTensor)


def _rows(leaf: Any, rows: np.ndarray) -> Any:
    """Rows of one array; JAX alone would clamp those that are not there."""
    if isinstance(leaf, StridedTensor):
        leaf = leaf.to_array()
    elif not isinstance(leaf, jax.Array | np.ndarray):
        leaf = np.asarray(leaf)  # a torch tensor, a data frame
    n = len(leaf)
    if rows.dtype == bool and rows.shape != (n,):
        raise IndexError(f"rows is a mask of shape {rows.shape}; the data has {n} examples.")
    if rows.dtype.kind in "iu" and rows.size and not -n <= rows.min() <= rows.max() < n:
        raise IndexError(
            f"rows go from {rows.min()} to {rows.max()}; the data has {n} examples."
        )
    return leaf[rows]


def split(
    data: Any, *, val: int | float, key: jax.Array, groups: Any = None, labels: Any = None
) -> tuple[Any, Any]:
    """Split a data set into training and validation examples by a shuffled index (chapter
    5.5.3).

    Args:
      data: pytree of arrays `[n ...]`.
      val: the number of validation examples, or their fraction (0 < val < 1, rounded).
      key: a PRNG key; the same key gives the same split.
      groups: `[n]` names of groups that must stay together, such as the patient of each scan
        (chapter 12): `val` then counts groups, or is a fraction of the groups, and no group is
        on both sides.
      labels: `[n]` classes of which both sides shall have the same share (stratified). Every
        class gives its share within one example, and all together give `val`: the classes that
        lose most by rounding down give one example more (largest remainders).

    Returns:
      `(train, val)`, two pytrees like `data` with `n - val` and `val` examples.

    Raises:
      TypeError: if `val` is no number, `key` no key, or groups or labels cannot be compared.
      ValueError: if either side would be empty, or the leading axes differ.

    >>> import jax.numpy as jnp
    >>> train, val = split({"x": jnp.arange(11.0)}, val=2, key=jax.random.key(0))
    >>> train["x"].shape, val["x"].shape
    ((9,), (2,))
    >>> scans = {"patient": np.array([7, 7, 7, 8, 9, 9])}
    >>> train, val = split(scans, val=1, key=jax.random.key(0), groups=scans["patient"])
    >>> set(train["patient"].tolist()) & set(val["patient"].tolist())
    set()
    """
    n, key = length(data), checks.key(key)
    if isinstance(val, bool) or not isinstance(val, numbers.Real):
        raise TypeError(
            "val must be a number of examples, or a fraction of them; got "
            f"{checks.describe(val)}."
        )
    if groups is not None and labels is not None:
        raise ValueError(
            "split takes groups or labels, not both: a group cannot be cut to keep the classes "
            "even."
        )
    if groups is not None:
        names, member = np.unique(_aligned(groups, n, "groups"), return_inverse=True)
        chosen = _shuffled(len(names), key)[-_count(val, len(names), "groups") :]
        held = np.flatnonzero(np.isin(member, chosen))
    elif labels is not None:
        held = _stratified(_aligned(labels, n, "labels"), _count(val, n, "examples"), val, key)
    else:
        # Not sorted: the examples come out shuffled.
        cut = n - _count(val, n, "examples")
        order = _shuffled(n, key)
        return take(data, order[:cut]), take(data, order[cut:])
    return take(data, np.setdiff1d(np.arange(n), held)), take(data, held)


def _count(val: int | float, n: int, things: str) -> int:
    """How many of n things are on the validation side."""
    n_val = (
        int(val) if isinstance(val, numbers.Integral) else round(checks.real(val, "val") * n)
    )
    if not 0 < n_val < n:
        raise ValueError(
            f"val={val} of {n} {things} leaves one side empty; take from 1 to {n - 1}."
        )
    return n_val


def _shuffled(n: int, key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.permutation(key, n))


def _stratified(labels: np.ndarray, n_val: int, val: int | float, key: jax.Array) -> np.ndarray:
    """The validation rows, in order: of every class its share, rounded so that all sum up."""
    _, member, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = _shuffled(len(labels), key)
    share = n_val / len(labels) if isinstance(val, numbers.Integral) else val
    counts = np.floor(share * sizes).astype(int)
    lost = (share * sizes - counts).round(9)
    _, chance = np.unique(member[order], return_index=True)  # decides between equal remainders
    counts[np.lexsort((chance, -lost))[: n_val - counts.sum()]] += 1
    order = order[np.argsort(member[order], kind="stable")]  # class by class, shuffled in each
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < np.repeat(counts, sizes)])


def _aligned(values: Any, n: int, name: str) -> np.ndarray:
    values = checks.names_of(values, name)
    if values.shape != (n,):
        raise ValueError(
            f"{name} has shape {values.shape}; one for each of the {n} examples is needed."
        )
    return values


def k_fold(
    n: int, k: int, *, key: jax.Array, groups: Any = None, labels: Any = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut n examples into k parts, each of which is the validation part once.

    Args:
      n: the number of examples.
      k: the number of parts, 2 to n (or to the number of groups).
      key: a PRNG key for the shuffle.
      groups: `[n]` names of groups that must stay together, as in `split`.
      labels: `[n]` classes to spread evenly: two parts differ by one example of a class at
        most.

    Returns:
      k pairs `(train rows, validation rows)`; every row is in exactly one validation part.

    >>> folds = k_fold(10, 3, key=jax.random.key(0))
    >>> [len(held) for _, held in folds]
    [4, 3, 3]
    """
    n, k, key = checks.whole(n, "n", 1), checks.whole(k, "k"), checks.key(key)
    if groups is not None and labels is not None:
        raise ValueError("k_fold takes groups or labels, not both.")
    if groups is not None:
        names, member = np.unique(_aligned(groups, n, "groups"), return_inverse=True)
        part = _deal(len(names), k, key, "groups")[member]
    elif labels is not None:
        part = _deal(n, k, key, "examples", _aligned(labels, n, "labels"))
    else:
        part = _deal(n, k, key, "examples")
    return [(np.flatnonzero(part != i), np.flatnonzero(part == i)) for i in range(k)]


def _deal(
    n: int, k: int, key: jax.Array, things: str, labels: np.ndarray | None = None
) -> np.ndarray:
    """The part, 0 to k - 1, of each of n: shuffled, then dealt like cards, class by class."""
    if not 2 <= k <= n:
        raise ValueError(f"k={k} parts of {n} {things}; take from 2 to {n}.")
    order = np.asarray(jax.random.permutation(key, n))
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(n, int)
    part[order] = np.arange(n) % k
    return part


@dataclasses.dataclass(frozen=True)
class Scale:
    """An affine change of unit that can be undone: z = (x - offset) / unit.

    `Scale.standard` measures mean and standard deviation, `Scale.unit_range` minimum and range.
    Fit it on the training examples and apply it to both sides, or validation leaks into
    training.

    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> scale = Scale.standard(x)
    >>> scale.apply(x).ravel().tolist(), scale.undo(scale.apply(x)).ravel().tolist()
    ([-1.0, 0.0, 1.0], [1.0, 2.0, 3.0])
    """

    offset: np.ndarray
    unit: np.ndarray

    def __post_init__(self) -> None:
        for name, value in (("offset", self.offset), ("unit", self.unit)):
            number = checks.numbers_of(value, name)
            if not isinstance(number, Tracer) and not np.isfinite(np.asarray(number)).all():
                raise ValueError(
                    f"{name} must be finite numbers; got {checks.describe(value)}."
                )
            object.__setattr__(self, name, number)
        if not isinstance(self.unit, Tracer) and not np.asarray(self.unit).all():
            raise ValueError("unit must not be 0: nothing can be measured in it.")

    @classmethod
    def standard(cls, x: Any, *, axis: int | tuple[int, ...] = 0, correction: int = 1) -> Scale:
        """Mean and standard deviation over `axis`; a constant column keeps unit 1, so it
        becomes 0.

        Args:
          x: array; sums are made in float64.
          axis: the axes of the examples. If they are not the first ones they are kept with
            length 1.
          correction: 1 divides by n - 1 (torch's default, `Tensor.std`), 0 by n (NumPy's).

        >>> Scale.standard(np.array([1.0, 3.0]), correction=0).unit.item()
        1.0
        """
        x = _finite(x)
        axes = normalize_axis_tuple(axis, x.ndim)
        correction = checks.whole(correction, "correction", 0)
        n = math.prod(x.shape[i] for i in axes)
        if n <= correction:
            raise ValueError(
                f"x of shape {x.shape} has {n} values along axis {axis}; a spread needs more."
            )
        mean, squares = _moments(x, axes)
        std = np.sqrt(squares / (n - correction))
        return cls._of(x, mean, std, axes)

    @classmethod
    def unit_range(cls, x: Any, *, axis: int | tuple[int, ...] = 0) -> Scale:
        """Minimum and range over `axis`, so that `apply` gives 0..1 (the book's rescaling of
        temperatures, 4.3.4).

        >>> Scale.unit_range(np.array([2.0, 4.0, 6.0])).apply(np.array([2.0, 5.0])).tolist()
        [0.0, 0.75]
        """
        x = _finite(x)
        axes = normalize_axis_tuple(axis, x.ndim)
        low = np.asarray(x.min(axis=axes), np.float64)
        high = np.asarray(x.max(axis=axes), np.float64)
        return cls._of(x, low, high - low, axes)

    @classmethod
    def _of(
        cls, x: np.ndarray, offset: np.ndarray, unit: np.ndarray, axes: tuple[int, ...]
    ) -> Scale:
        if np.issubdtype(x.dtype, np.floating):
            dtype = x.dtype
        else:
            # float32 cannot hold the mean of large whole numbers: 10**9 + 1 would be 10**9.
            dtype = np.dtype(np.float32 if x.dtype.itemsize < 4 else np.float64)
        unit = np.where(unit > 0, unit, 1.0)
        if max(np.abs(offset).max(), unit.max()) > np.finfo(dtype).max:
            raise ValueError(
                f"x spans {np.max(unit):.3g}, which is too much for {dtype}; divide it first."
            )
        unit = np.maximum(unit, np.finfo(dtype).smallest_normal)  # not 0, once it is rounded
        shape = _left(x, axes)
        return cls(offset.astype(dtype).reshape(shape), unit.astype(dtype).reshape(shape))

    def apply(self, x: Any) -> Any:
        """x in the new unit; a JAX array if x is one, else a NumPy array."""
        return (self._fitting(x, "x") - self.offset) / self.unit

    def undo(self, z: Any) -> Any:
        """z back in the old unit."""
        return self._fitting(z, "z") * self.unit + self.offset

    def _fitting(self, x: Any, name: str) -> Any:
        """Numbers to which offset and unit can be applied without giving them another shape."""
        x = x.to_array() if isinstance(x, StridedTensor) else checks.numbers_of(x, name)
        for measured in (self.offset, self.unit):
            if np.broadcast_shapes(x.shape, np.shape(measured)) != x.shape:
                raise ValueError(
                    f"{name} has shape {x.shape}, which a scale of shape {np.shape(measured)} "
                    "would change."
                )
        return x


def _moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and sum of squared deviations, over `axes`: two passes in float64, a block of rows
    at a time.

    NumPy's own `std` would need two copies of all data in float64.
    """
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    # A view if the examples come first.
    rows = x.transpose(*axes, *kept).reshape(-1, math.prod(shape))
    blocks = [slice(i, i + BLOCK) for i in range(0, len(rows), BLOCK)]
    # The first row is subtracted, so that the mean of equal numbers is that number exactly.
    first = rows[0].astype(np.float64)
    mean = first + sum(np.ones(len(rows[b])) @ (rows[b] - first) for b in blocks) / len(rows)
    deviations = (rows[b] - mean for b in blocks)
    squares = sum(np.einsum("rc,rc->c", d, d) for d in deviations)
    return np.reshape(mean, shape), np.reshape(squares, shape)


def _left(x: np.ndarray, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of statistics over `axes` that broadcasts against x: leading axes vanish,
    others stay as 1.
    """
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    return shape[len(axes) :] if set(axes) == set(range(len(axes))) else shape


def _finite(x: Any) -> np.ndarray:
    x = checks.real_on_host(x, "x")
    if x.dtype == bool:
        raise TypeError("x is bool and has no unit to scale; make it numbers first.")
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(
            f"x of shape {x.shape} is empty or holds values that are not finite; mask them "
            "first."
        )
    return x


def standardize(train: Any, *others: Any, axis: int | tuple[int, ...] = 0) -> tuple[Any, ...]:
    """Mean 0 and standard deviation 1 by the statistics of the training examples alone.

    Args:
      train: array `[n ...]` that is measured.
      *others: validation and test arrays, changed by the same numbers.
      axis: as in `Scale.standard`.

    Returns:
      `(train, *others, scale)`.

    >>> train, val, scale = standardize(np.array([1.0, 2.0, 3.0]), np.array([4.0]))
    >>> train.tolist(), val.tolist(), scale.offset.item()
    ([-1.0, 0.0, 1.0], [2.0], 2.0)
    """
    scale = Scale.standard(train, axis=axis)
    return (*(scale.apply(x) for x in (train, *others)), scale)
