"""Subjects: arrays, splits, scales and batches of `dlwp_jax.data`, with NumPy and torch as the
reference.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import strategies as st

from dlwp_jax.data import (
    arrays,
    batches,
)
from dlwp_jax.storage import StridedTensor
from tests.properties.hostile import recipes
from tests.properties.storage import accepts
from tests.properties.subject import subject

# How the references read hostile values: strictly, by NumPy.


def numbers(value, kinds="biuf"):
    """Numbers as NumPy reads them; anything else is refused."""
    if isinstance(value, (np.ma.MaskedArray, jax.core.Tracer)):
        raise TypeError("masked, or traced")
    if isinstance(value, StridedTensor):
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype == jnp.bfloat16:
        return array.astype(np.float32)
    if array.dtype.kind not in kinds:
        raise TypeError(f"no numbers: {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="))


def integer(value, least=None, most=2**31 - 1):
    if (
        isinstance(value, bool | np.bool_)
        or np.ndim(value)
        or str(getattr(value, "dtype", "")).endswith("bool")
    ):
        raise TypeError("no whole number")
    number = value.__index__()
    if (least is not None and number < least) or number > most:
        raise ValueError("out of range")
    return number


def number(value, least=-np.inf, above=-np.inf):
    if isinstance(value, bool | np.bool_ | str | bytes) or value is None:
        raise TypeError("no number")
    wide = numbers(value)
    if (
        wide.ndim
        or wide.dtype == bool
        or not np.isfinite(wide)
        or not least <= wide
        or not wide > above
    ):
        raise ValueError("no such number")
    return float(wide)


def is_key(key):
    return isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.shape == (2,))
    )


def need_key(key):
    if not is_key(key):
        raise TypeError("no key")
    return (
        key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    )


KEYS = st.sampled_from(
    recipes("jax.random.key(0)", "jax.random.key(3)", "jax.random.PRNGKey(1)")
)
SETS = st.sampled_from(
    recipes(
        "{'x': arange(22).reshape(11, 2), 'y': jnp.arange(11.0)}",
        "arange(11)",
        "(ones((11, 0)), arange(11))",
        "{'x': torch.arange(11.0), 'y': Frame(arange(11))}",
        "storage.tensor(arange(22.0)).view(11, 2)",
    )
)
WRONG_SETS = st.sampled_from(
    recipes(
        "{'x': arange(11), 'y': arange(10)}",
        "{'x': arange(11), 'y': array(3)}",
        "zeros((0, 3))",
    )
)


def is_strided(leaf):
    return isinstance(leaf, StridedTensor)


def leaves(sets):
    if isinstance(sets, torch.Tensor):
        sets = sets.detach()
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(sets, is_leaf=is_strided)]
    lengths = {leaf.shape[:1] for leaf in found}
    if len(lengths) != 1 or () in lengths:
        raise ValueError("no data set")
    if any(
        not hasattr(leaf, "shape") and not hasattr(leaf, "__array__")
        for leaf in jax.tree.leaves(sets, is_leaf=is_strided)
    ):
        raise TypeError("no arrays")
    return found


subject(
    "data.arrays.length",
    arrays.length,
    takes={"data": SETS},
    reference=lambda data: len(leaves(data)[0]),
    near={"data": WRONG_SETS},
)


def row_numbers(rows):
    rows = numbers(rows)
    rows = rows if rows.size else rows.astype(int)
    if rows.dtype.kind not in "iub":
        raise TypeError("no rows")
    return rows


def rows_of(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


subject(
    "data.arrays.take",
    lambda data, rows: rows_of(arrays.take(data, rows)),
    takes={
        "data": SETS,
        "rows": st.sampled_from(
            [[0, 3], [], [-1], [[1, 2], [3, 4]], *recipes("arange(11) % 2 == 0", "5")]
        ),
    },
    reference=lambda data, rows: [leaf[row_numbers(rows)] for leaf in leaves(data)],
    near={
        "data": WRONG_SETS,
        "rows": st.sampled_from(
            [[11], [-12], [0.5], *recipes("arange(10) > 3", "torch.arange(3)")]
        ),
    },
)

CLASSES = st.sampled_from(
    [None, None, *recipes("array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 0])", "list('aaabbbccccb')")]
)


def names_for(n, groups, labels):
    """Groups and labels as arrays, one name for each of n examples; not both."""
    named = [None if names is None else np.asarray(names) for names in (groups, labels)]
    for names in named:
        if names is not None and (names.shape != (n,) or names.dtype.kind not in "biufUSMm"):
            raise ValueError("no names")
    if groups is not None and labels is not None:
        raise ValueError("both")
    return named


def split_sizes(data, val, key, groups, labels):
    """What the sides of a split must be: how many, and whose."""
    found = leaves(data)
    n, _ = len(found[0]), need_key(key)
    if isinstance(val, bool | np.bool_) or not isinstance(
        val, int | float | np.integer | np.floating
    ):
        raise TypeError("no number")
    whole = isinstance(val, int | np.integer)
    named = names_for(n, groups, labels)

    def cut(m):
        count = int(val) if whole else round(float(val) * m)
        if not 0 < count < m:
            raise ValueError("empty side")
        return count

    return found, named, cut(n if groups is None else len(np.unique(named[0])))


def is_split(result, expected):
    found, (groups, _labels), held = expected
    train, val = map(rows_of, result)
    marks = [
        leaf
        for leaf in found
        if leaf.ndim and leaf.size == len(leaf) and len(np.unique(leaf)) == len(leaf)
    ]
    for mine, other, leaf in zip(train, val, found, strict=True):
        assert len(mine) + len(other) == len(leaf)
        np.testing.assert_array_equal(
            np.sort(np.concatenate([mine, other]), axis=0), np.sort(leaf, axis=0)
        )
    for mark in marks[:1]:  # a leaf whose rows tell themselves apart: which row went where
        at = next(i for i, leaf in enumerate(found) if leaf is mark)
        rows = [
            np.argsort(mark)[np.searchsorted(np.sort(mark), side[at].ravel())]
            for side in (train, val)
        ]
        if groups is not None:
            assert len(np.unique(groups[rows[1]])) == held
            assert not set(groups[rows[0]].tolist()) & set(groups[rows[1]].tolist())
            return
        for i, leaf in enumerate(found):
            np.testing.assert_array_equal(train[i], leaf[rows[0]])
    if groups is None:
        assert len(val[0]) == held


subject(
    "data.arrays.split",
    lambda data, val, key, groups, labels: arrays.split(
        data, val=val, key=key, groups=groups, labels=labels
    ),
    takes={
        "data": SETS,
        "val": st.sampled_from([2, 0.4, 1, np.int8(3), np.float16(0.5)]),
        "key": KEYS,
        "groups": CLASSES,
        "labels": CLASSES,
    },
    where=lambda a: accepts(split_sizes)(a),
    reference=split_sizes,
    agrees=is_split,
    near={
        "data": WRONG_SETS,
        "val": st.sampled_from([0, 11, 10.99, 0.01, -1, 1.0, "2"]),
        "labels": st.sampled_from(
            recipes(
                "ones(10)",
                "array([nan] * 11)",
                "arange(11)",
                "[None] * 11",
                "list('abcdefghij') + [1]",
            )
        ),
        "groups": st.sampled_from(
            recipes("ones(11)", "array([nan] * 11)", "[[1, 2]] * 11", "[None] * 11")
        ),
    },
)


def parts(n, k, key, groups, labels):
    need_key(key)
    n, k = integer(n, 1), integer(k)
    named = names_for(n, groups, labels)
    if not 2 <= k <= (n if groups is None else len(np.unique(named[0]))):
        raise ValueError("parts")
    return n, k, named


def are_folds(result, expected):
    n, k, (groups, labels) = expected
    assert len(result) == k
    np.testing.assert_array_equal(
        np.sort(np.concatenate([held for _, held in result])), np.arange(n)
    )
    for train, held in result:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(n))
        assert groups is None or not set(groups[train].tolist()) & set(groups[held].tolist())
    if groups is None:
        assert max(len(held) for _, held in result) - min(len(held) for _, held in result) <= 1
    if labels is not None:
        for name in np.unique(labels):
            shares = [(labels[held] == name).sum() for _, held in result]
            assert max(shares) - min(shares) <= 1


subject(
    "data.arrays.k_fold",
    lambda n, k, key, groups, labels: arrays.k_fold(
        n, k, key=key, groups=groups, labels=labels
    ),
    takes={
        "n": st.just(11),
        "k": st.integers(2, 11),
        "key": KEYS,
        "groups": CLASSES,
        "labels": CLASSES,
    },
    where=lambda a: accepts(parts)(a),
    reference=parts,
    agrees=are_folds,
    near={"n": st.sampled_from([1, 0, 10, 12]), "k": st.sampled_from([1, 0, 12, -1, 2.0])},
)

TABLES = st.sampled_from(
    recipes(
        "arange(12.0).reshape(4, 3)",
        "array([1.0, 2.0, 4.0])",
        "arange(24, dtype=np.uint8).reshape(2, 3, 4)",
        "ones((3, 2), float16)",
        "jnp.ones((3, 2))",
        "array([[1e30, 2], [3e30, 2]], '>f4')",
    )
)
NOT_SCALED = st.sampled_from(
    recipes(
        "ones(1)",
        "zeros((0, 2))",
        "array([nan, 1])",
        "array([inf, 1])",
        "ones(3, complex)",
        "array([1e300, -1e300])",
        "array([60000, -60000], float16)",
        "1e-30 * arange(3, dtype=float32)",
        "arange(3) + 10**9",
        "array([1e-310, 2e-310])",
    )
)
AXES = st.sampled_from([0, 0, 0, (0,), (0, 1), -1, 1])


def axes_of(x, axis):
    axes = tuple(integer(one) for one in (axis if isinstance(axis, tuple | list) else (axis,)))
    if any(not -x.ndim <= one < x.ndim for one in axes) or len(
        {one % x.ndim for one in axes}
    ) < len(axes):
        raise ValueError("no such axes")
    return tuple(one % x.ndim for one in axes)


def moments(x, axis, correction, span=False):
    x = numbers(x, "iuf")
    axes = axes_of(x, axis)
    correction = integer(correction, 0)
    if (
        not x.size
        or not np.isfinite(x).all()
        or np.prod([x.shape[i] for i in axes], dtype=int) <= (-1 if span else correction)
    ):
        raise ValueError("nothing to measure")
    wide = x.astype(np.float64)
    offset = wide.min(axes, keepdims=True) if span else wide.mean(axes, keepdims=True)
    unit = (
        np.ptp(wide, axis=axes, keepdims=True)
        if span
        else wide.std(axes, ddof=correction, keepdims=True)
    )
    first = axes == tuple(range(len(axes)))
    shape = offset.shape[len(axes) :] if first else offset.shape
    return x, offset.reshape(shape), unit.reshape(shape)


def measures(scale, expected):
    x, offset, unit = expected
    dtype = scale.offset.dtype
    rough = 2e-3 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(
        np.asarray(scale.offset, float),
        offset,
        rtol=rough,
        atol=rough * max(np.abs(x).max(), 1e-30),
    )
    small = unit <= max(np.finfo(dtype).smallest_normal, 1e-12 * np.abs(offset).max())
    np.testing.assert_allclose(
        np.where(small, 1.0, np.asarray(scale.unit, float)),
        np.where(small, 1.0, unit),
        rtol=rough,
    )
    assert (np.asarray(scale.unit) > 0).all()


for _name, _span in (("standard", False), ("unit_range", True)):
    _takes = {"x": TABLES, "axis": AXES} | (
        {} if _span else {"correction": st.sampled_from([0, 1])}
    )
    subject(
        f"data.arrays.Scale.{_name}",
        lambda x, axis, correction=0, name=_name, span=_span: getattr(arrays.Scale, name)(
            x, axis=axis, **({} if span else {"correction": correction})
        ),
        takes=_takes,
        where=lambda a, span=_span: accepts(
            lambda **more: moments(**{"correction": 0, **more}, span=span)
        )(a),
        reference=lambda x, axis, correction=0, span=_span: moments(x, axis, correction, span),
        agrees=measures,
        near={
            "x": NOT_SCALED,
            "axis": st.sampled_from([3, (0, 0), (0, -1), (), -4, True]),
            "correction": st.sampled_from([2, 99, -1]),
        },
    )


def standardized(train, other, axis):
    x, offset, unit = moments(train, axis, 1)
    other = numbers(other)
    if np.broadcast_shapes(other.shape, offset.shape) != other.shape:
        raise ValueError("another shape")
    if (unit <= 1e-12 * np.abs(offset)).any():
        unit = np.where(unit <= 1e-12 * np.abs(offset), 1.0, unit)
    return x, offset, unit, other


def is_standardized(result, expected):
    x, offset, unit, other = expected
    train, changed, _scale = result
    if x.dtype == np.float16 or np.abs(x).max() > 1e20 or 0 < np.abs(x).max() < 1e-20:
        return  # rounding rules
    np.testing.assert_allclose(
        np.asarray(train, float), (x - offset) / unit, rtol=1e-3, atol=1e-4
    )
    finite = np.isfinite(np.asarray(other, float)) & (np.abs(np.asarray(other, float)) < 1e30)
    np.testing.assert_allclose(
        np.asarray(changed, float)[finite],
        ((other - offset) / unit)[finite],
        rtol=1e-3,
        atol=1e-3,
    )


subject(
    "data.arrays.standardize",
    lambda train, other, axis: arrays.standardize(train, other, axis=axis),
    takes={"train": TABLES, "other": TABLES, "axis": AXES},
    where=lambda a: accepts(standardized)(a),
    reference=standardized,
    agrees=is_standardized,
    near={
        "train": NOT_SCALED,
        "other": st.sampled_from(recipes("ones(2)", "ones((3, 1))", "array([nan, 1.0, 2.0])")),
    },
)


def scaled(offset, unit, x, back=False):
    offset, unit, x = numbers(offset, "biufc"), numbers(unit, "biufc"), numbers(x, "biufc")
    if not np.isfinite(offset).all() or not np.isfinite(unit).all() or not unit.all():
        raise ValueError("no scale")
    for part in (offset, unit):
        if np.broadcast_shapes(part.shape, x.shape) != x.shape:
            raise ValueError("another shape")
    wide = (
        np.complex128
        if "c" in x.dtype.kind + offset.dtype.kind + unit.dtype.kind
        else np.float64
    )
    x, offset, unit = (part.astype(wide) for part in (x, offset, unit))
    return x * unit + offset if back else (x - offset) / unit


def nearly(result, expected):
    with np.errstate(over="ignore"):
        wide = np.asarray(result).astype(expected.dtype)
    assert wide.shape == expected.shape
    narrow = np.abs(expected) < (6e4 if np.asarray(result).dtype == np.float16 else 1e37)
    np.testing.assert_allclose(
        wide[narrow],
        expected[narrow],
        rtol=1e-2 if np.asarray(result).dtype.itemsize <= 2 else 1e-5,
        atol=1e-4,
    )


_parts = st.sampled_from(
    recipes(
        "array([1.0, 2.0, 3.0])",
        "float32(2)",
        "array([[1.0], [2.0]])",
        "jnp.array([1.0, 2.0, 4.0])",
    )
)
_xs = st.sampled_from(
    recipes(
        "arange(6.0).reshape(2, 3)",
        "jnp.ones((2, 3))",
        "arange(6).reshape(2, 3)",
        "ones((4, 2, 3), float32)",
    )
)
for _name in ("apply", "undo"):
    subject(
        f"data.arrays.Scale.{_name}",
        lambda offset, unit, x, name=_name: getattr(arrays.Scale(offset, unit), name)(x),
        takes={"offset": _parts, "unit": _parts, "x": _xs},
        reference=lambda offset, unit, x, back=_name == "undo": scaled(offset, unit, x, back),
        agrees=nearly,
        near={"unit": st.sampled_from(recipes("0.0", "array([1.0, 0.0, 1.0])", "nan"))},
        words=("x has", "z has", "z must", "x must", "z is"),
    )

# Rows of steps.


def plan(n, batch_size, key):
    n, batch_size = integer(n, 1), integer(batch_size, 1)
    rows = np.arange(n) if key is None else np.asarray(jax.random.permutation(need_key(key), n))
    return [rows[i : i + batch_size] for i in range(0, n, batch_size)]


for _name in ("batch_plan", "Plan.steps"):
    subject(
        f"data.batches.{_name}",
        lambda n, batch_size, key: batches.batch_plan(n, batch_size, key=key).steps(),
        takes={
            "n": st.integers(1, 12),
            "batch_size": st.integers(1, 15),
            "key": st.none() | KEYS,
        },
        reference=plan,
        near={"n": st.integers(-2, 0), "batch_size": st.integers(-2, 0)},
    )


def balanced(labels, ratio, n, key):
    labels, ratio, n = numbers(labels, "biufc"), integer(ratio, 1), integer(n, 0)
    if key is not None:
        need_key(key)
    if (
        labels.ndim != 1
        or not np.isin(labels, (0, 1)).all()
        or not 0 < labels.sum() < len(labels)
    ):
        raise ValueError("no labels")
    return labels, ratio, n, key


def is_balanced(rows, expected):
    labels, ratio, n, key = expected
    assert len(rows) == n
    wanted = np.arange(n) % (ratio + 1) == 0
    np.testing.assert_array_equal(labels[rows] == 1, wanted)
    for kind in (0, 1):  # each class gone through in turn, begun again when used up
        mine, all_ = rows[labels[rows] == kind], np.flatnonzero(labels == kind)
        for i in range(0, len(mine), len(all_)):
            assert len(set(mine[i : i + len(all_)].tolist())) == len(mine[i : i + len(all_)])
        if key is None:
            np.testing.assert_array_equal(mine, np.resize(all_, len(mine)))


subject(
    "data.batches.balanced_rows",
    lambda labels, ratio, n, key: batches.balanced_rows(labels, ratio=ratio, n=n, key=key),
    takes={
        "labels": st.sampled_from(
            [
                [0, 0, 1, 0],
                *recipes(
                    "array([True, False, True])", "jnp.array([0, 1, 1])", "array([0.0, 1.0])"
                ),
            ]
        ),
        "ratio": st.integers(1, 3),
        "n": st.integers(0, 12),
        "key": st.none() | KEYS,
    },
    reference=balanced,
    agrees=is_balanced,
    near={
        "labels": st.sampled_from([[0, 0], [1], [0, 2, 1], [[0, 1]], []]),
        "ratio": st.integers(-1, 0),
    },
)
