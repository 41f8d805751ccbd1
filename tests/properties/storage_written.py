"""Subjects: what `dlwp_jax.storage` writes and makes, with NumPy and torch as the reference."""

import jax
import numpy as np
import torch
from hypothesis import strategies as st

from dlwp_jax import storage
from dlwp_jax.storage import Layout, StridedTensor
from tests.properties.hostile import recipes
from tests.properties.storage import INDEX, TORCHS, VIEWS, accepts, facts, indexed, ours, views
from tests.properties.subject import same, subject

# Writing.

BASE = {
    "float": np.arange(12.0, dtype=np.float32).reshape(3, 4),
    "int": np.arange(12, dtype=np.int32).reshape(3, 4),
    "bool": np.arange(12).reshape(3, 4) % 2 == 0,
}
WRITTEN = st.sampled_from(
    recipes(
        "2.0",
        "2",
        "True",
        "[1.0, 2.0, 3.0, 4.0]",
        "ones((2, 4))",
        "ones((2, 1), bool)",
        "jnp.arange(4)",
        "storage.tensor([5.0])",
    )
)


def written(self, values, how):
    """NumPy's assignment, to rows 1 and 2; the kinds that torch keeps apart kept apart."""
    values = values.numpy() if isinstance(values, StridedTensor) else values
    if isinstance(values, torch.Tensor):
        values = values.detach().to_dense().float().numpy()
    values = np.asarray(values)
    if values.dtype.kind == "V" and values.dtype.names is None:
        values = values.astype(np.float32)
    whole = BASE[self].copy()
    order = "biufc".replace("u", "i")
    kind, mine = values.dtype.kind.replace("u", "i"), whole.dtype.kind
    if kind not in order:
        raise TypeError(f"no numbers: {values.dtype}")
    if kind in "i" and values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
        raise OverflowError("beyond int32")
    if (kind == "c" and mine != "c") or (
        how == "add" and order.index(kind) > order.index(mine)
    ):
        raise RuntimeError("another kind")
    part = whole[1:]
    if values.ndim > 2 or any(
        n not in (1, w) for n, w in zip(values.shape[::-1], part.shape[::-1], strict=False)
    ):
        raise RuntimeError("does not broadcast")
    with np.errstate(all="ignore"):
        new = (
            values
            if how == "set"
            else part + values.astype(np.promote_types(values.dtype, part.dtype))
        )
        if mine == "i" and new.dtype.kind == "f":
            new = np.clip(
                np.nan_to_num(
                    new.astype(np.float64), nan=0.0, posinf=2.0**31 - 1, neginf=-(2.0**31)
                ),
                -(2.0**31),
                2.0**31 - 1,
            )
        part[...] = new.astype(whole.dtype)
    return whole


for _name in ("set", "add"):
    _drawn = {"self": st.sampled_from(sorted(BASE)), "values": WRITTEN}
    for _where in ("StridedTensor", "StridedTensor.at"):

        def _write(self, values, name=_name, where=_where):
            whole = storage.tensor(BASE[self])
            if where.endswith("at"):
                return getattr(whole.at[1:], name)(values).numpy()
            return whole.over(getattr(whole[1:], name)(values).storage).numpy()

        subject(
            f"storage.{_where}.{_name}"
            if _where == "StridedTensor"
            else f"storage.StridedTensor.at.{_name}",
            _write,
            takes=_drawn,
            where=accepts(lambda self, values, how=_name: written(self, values, how)),
            reference=lambda self, values, how=_name: written(self, values, how),
            fixed=("self",),
            words=(*TORCHS, "result type", "data"),
        )
subject(
    "storage.StridedTensor.at",
    lambda self, index: ours(self).at[index].get(),
    takes=INDEX,
    where=accepts(indexed),
    reference=lambda self, index: indexed(self, index).numpy(),
    fixed=("self",),
    words=(*TORCHS, "indexing", "indices"),
    examples=(4, 60),  # every view compiles its own read
)


def laid_over(self, storage):
    if (
        not isinstance(storage, jax.Array)
        or storage.shape != (100,)
        or storage.dtype != np.float32
    ):
        raise TypeError("no such storage")
    return torch.as_strided(torch.from_numpy(np.array(storage)), *VIEWS[self]).numpy()


subject(
    "storage.StridedTensor.over",
    lambda self, storage: ours(self).over(storage).numpy(),
    takes={
        "self": views,
        "storage": st.sampled_from(recipes("jnp.arange(100.0)", "jnp.zeros(100)")),
    },
    reference=laid_over,
    near={
        "storage": st.sampled_from(
            recipes("jnp.arange(100)", "arange(100.0)", "jnp.zeros((10, 10))", "jnp.zeros(99)")
        )
    },
    fixed=("self",),
)


def put_together(storage, layout):
    if (
        not isinstance(storage, jax.Array)
        or storage.ndim != 1
        or not isinstance(layout, Layout)
        or layout.end > len(storage)
    ):
        raise TypeError("no tensor")
    if jax.dtypes.issubdtype(storage.dtype, jax.dtypes.prng_key):
        raise TypeError("keys are no numbers")
    return np.lib.stride_tricks.as_strided(
        np.asarray(storage)[min(layout.offset, len(storage)) :],
        layout.size,
        [s * storage.dtype.itemsize for s in layout.stride],
    )


subject(
    "storage.StridedTensor",
    lambda storage, layout: StridedTensor(storage, layout).numpy(),
    takes={
        "storage": st.sampled_from(
            recipes("jnp.arange(100.0)", "jnp.arange(12)", "jnp.ones(12, bool)")
        ),
        "layout": st.sampled_from(
            recipes("storage.Layout((3, 4), (4, 1))", "storage.Layout((), (), 11)")
        ),
    },
    reference=put_together,
    near={
        "layout": st.sampled_from(
            recipes("storage.Layout((3, 4), (400, 1))", "storage.Layout((0,), (1,), 500)")
        )
    },
)


# Functions.


def as_numbers(data, dtype):
    """What `tensor` should hold: NumPy's reading of the data, in JAX's 32-bit types."""
    array = data.numpy() if isinstance(data, StridedTensor) else data
    if isinstance(array, torch.Tensor):
        array = array.detach().to_dense()
        array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
    if dtype is not None and not isinstance(dtype, str | type | np.dtype):
        raise TypeError("no dtype")
    wanted = None if dtype is None else np.dtype(dtype)
    if wanted is not None and wanted.kind not in "biufcV":
        raise TypeError("a dtype of no numbers")
    array = np.asarray(array)
    if array.dtype.kind not in "biufc" and not (
        array.dtype.kind == "V" and array.dtype.names is None
    ):
        raise TypeError(f"no numbers: {array.dtype}")
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    limits = np.iinfo(narrow) if narrow.kind in "iu" else None
    if (
        limits is not None
        and array.size
        and (array.max() > limits.max or array.min() < limits.min)
    ):
        raise OverflowError("does not fit")
    with np.errstate(all="ignore"):
        array = array.astype(narrow)
        if wanted is not None:
            if jax.dtypes.canonicalize_dtype(wanted) != wanted:
                raise ValueError("64 bits")
            array = array.astype(wanted)
    return array


def holds(result, expected):
    assert result.dtype == expected.dtype.newbyteorder("="), (result.dtype, expected.dtype)
    same(result, expected)


_data = st.sampled_from(
    recipes(
        "[[4.0, 1.0], [5.0, 3.0]]",
        "[1, 2, 3]",
        "3.5",
        "ones((2, 3), np.int8)",
        "arange(6.0).reshape(2, 3).T",
        "torch.ones(3)",
    )
)
subject(
    "storage.tensor",
    lambda data, dtype: storage.tensor(data, dtype).numpy(),
    takes={
        "data": _data,
        "dtype": st.sampled_from([None, "float32", "int32", np.float16, bool]),
    },
    reference=as_numbers,
    agrees=holds,
    near={
        "dtype": st.sampled_from(
            [
                "float64",
                np.int64,
                "complex64",
                "uint8",
                "object",
                "U5",
                "datetime64[D]",
                "nonsense",
                complex,
            ]
        )
    },
)


def together(name, *tensors, **options):
    if not all(isinstance(tensor, StridedTensor) for tensor in tensors):
        raise TypeError("no tensors")
    made = [
        torch.as_strided(
            torch.from_numpy(np.array(t.storage)), t.shape, t.stride(), t.storage_offset()
        )
        for t in tensors
    ]
    return facts(getattr(torch, name)(*made, **options))


_tensors = st.sampled_from(
    recipes(
        "storage.tensor([1.0, 2.0])",
        "storage.tensor([[1.0], [2.0]])",
        "storage.tensor(3.0)",
        "storage.tensor([[1.0, 2.0]])",
    )
)
_vectors = st.sampled_from(
    recipes(
        "storage.tensor([1.0, 2.0])", "storage.tensor([1.0, 2.0, 3.0])", "storage.tensor(3.0)"
    )
)
for _name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    subject(
        f"storage.{_name}",
        lambda tensor, name=_name: facts(getattr(storage, name)(tensor)),
        takes={"tensor": _tensors},
        reference=lambda tensor, name=_name: together(name, tensor),
    )
subject(
    "storage.broadcast_tensors",
    lambda first, second: facts(storage.broadcast_tensors(first, second)),
    takes={"first": _tensors, "second": _tensors},
    reference=lambda first, second: together("broadcast_tensors", first, second),
    near={"first": st.sampled_from(recipes("storage.tensor([1.0, 2.0, 3.0])"))},
    words=TORCHS,
)
subject(
    "storage.meshgrid",
    lambda first, second, indexing: facts(storage.meshgrid(first, second, indexing=indexing)),
    takes={"first": _vectors, "second": _vectors, "indexing": st.sampled_from(["ij", "xy"])},
    reference=lambda first, second, indexing: together(
        "meshgrid", first, second, indexing=indexing
    ),
    near={"first": st.sampled_from(recipes("storage.tensor([[1.0]])"))},
    words=TORCHS,
)
