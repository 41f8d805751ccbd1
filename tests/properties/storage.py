"""Subjects: `dlwp_jax.storage`, every view of Layout and StridedTensor, with torch as the
reference.
"""

import operator
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import torch
from hypothesis import strategies as st

from dlwp_jax import storage
from dlwp_jax.storage import Layout, StridedTensor
from tests.properties.hostile import Made, fresh, recipes
from tests.properties.subject import subject

# The messages of views are torch's own, which speak of these.
TORCHS = (
    "number of sections",
    "size",
    "dim",
    "stride",
    "shape",
    "storage",
    "tensor",
    "slice",
    "index",
    "step",
    "expand",
    "split",
    "integer",
)


def base(text: str) -> Made:
    return recipes(f"storage.tensor({text})")[0]


# The same numbers as a view of ours and of torch's: contiguous, transposed, with an offset,
# expanded, empty, a scalar.
VIEWS = {
    "scalar": ((), (), 0),
    "line": ((7,), (1,), 0),
    "matrix": ((3, 4), (4, 1), 0),
    "turned": ((4, 3), (1, 4), 2),
    "cube": ((2, 3, 4), (12, 4, 1), 0),
    "part": ((2, 1, 2), (8, 3, 2), 1),
    "repeated": ((3, 2), (0, 1), 4),
    "empty": ((0, 3), (3, 1), 0),
    "square": ((4, 4, 4), (16, 4, 1), 0),
}
LINE = np.arange(1.0, 101.0, dtype=np.float32)
views = st.sampled_from(sorted(VIEWS))


def ours(view: str) -> StridedTensor:
    return StridedTensor(jax.numpy.asarray(LINE), Layout(*VIEWS[view]))


def theirs(view: str) -> torch.Tensor:
    return torch.as_strided(torch.from_numpy(LINE.copy()), *VIEWS[view])


def plain(value: Any) -> Any:
    """An argument as torch takes it: whole numbers of any kind as ints, sequences of them as
    tuples.
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError("a bool is no whole number")
    if isinstance(value, StridedTensor):
        value = value.numpy()
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, set | dict | str | bytes):
        raise TypeError("no sequence of whole numbers")
    if isinstance(value, Iterable) and not hasattr(value, "shape"):
        return tuple(map(plain, value))
    if value is None or isinstance(value, slice) or value is Ellipsis:
        return value
    if getattr(value, "ndim", 0) == 1:
        return tuple(map(plain, np.asarray(value).tolist() if len(value) else ()))
    return operator.index(value)


def facts(result: Any) -> Any:
    """Size, stride, offset and elements of a view, or of each of several."""
    if isinstance(result, tuple | list):
        return [facts(part) for part in result]
    if isinstance(result, torch.Tensor):
        return [
            tuple(result.shape),
            result.stride(),
            result.storage_offset(),
            result.resolve_conj().numpy(),
        ]
    if isinstance(result, StridedTensor):
        return [result.shape, result.stride(), result.storage_offset(), result.numpy()]
    return result


def layouts(result: Any) -> Any:
    if isinstance(result, Layout):
        return [result.size, result.stride, result.offset]
    return [layouts(part) for part in result] if isinstance(result, tuple | list) else result


def first_three(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return [tuple(result.shape), result.stride(), result.storage_offset()]
    return (
        [first_three(part) for part in result] if isinstance(result, tuple | list) else result
    )


dims = st.integers(-4, 4)
counts = st.integers(-1, 6)
orders = st.sampled_from(
    [(0, 1), (1, 0), (0, 1, 2), (2, 0, 1), (-1, 0, 1), (0, 0), (), (0,), (3, 1, 2)]
)
shapes = st.sampled_from(
    [
        (12,),
        (3, 4),
        (4, 3),
        (2, -1),
        (-1,),
        (24,),
        (2, 6),
        (7, 1),
        (1, 7),
        (-1, -1),
        (0, 3),
        (1,),
        (),
    ]
)
sizes = st.sampled_from(
    [
        (3, 4),
        (2, 3, 4),
        (5, 7),
        (-1, 4),
        (3, -1),
        (7,),
        (2, 7),
        (0, 3),
        (2, -1, -1, -1),
        (3, 2),
        (1,),
    ]
)
index_parts = st.one_of(
    st.integers(-5, 5),
    st.none(),
    st.just(Ellipsis),
    st.builds(slice, counts, counts, st.sampled_from([1, 2])),
)
parts = st.sampled_from([1, 2, 3, 4, (1, 2), (1,), (), [2], (0, 9), (3, 1)])

# Name -> its arguments; each is a strategy. The methods of tensors and of layouts have the same
# names.
METHODS: dict[str, dict[str, st.SearchStrategy]] = {
    "as_strided": {
        "size": st.sampled_from([(2, 3), (4,), (), (0,), (3, 3)]),
        "stride": st.sampled_from([(3, 1), (2,), (), (1,), (1, 1), (0, 2)]),
        "storage_offset": st.sampled_from([None, 0, 3, 99]),
    },
    "broadcast_to": {"size": sizes},
    "chunk": {"chunks": st.integers(-1, 5), "dim": dims},
    "diagonal": {"offset": st.integers(-3, 3), "dim1": dims, "dim2": dims},
    "dsplit": {"indices_or_sections": parts},
    "expand": {"sizes": sizes},
    "flatten": {"start_dim": dims, "end_dim": dims},
    "hsplit": {"indices_or_sections": parts},
    "movedim": {"source": st.one_of(dims, orders), "destination": st.one_of(dims, orders)},
    "narrow": {"dim": dims, "start": counts, "length": counts},
    "permute": {"dims": orders},
    "select": {"dim": dims, "index": counts},
    "split": {
        "split_size": st.one_of(counts, st.sampled_from([(1, 2), (3, 4), (2, 2), (0, 3), ()])),
        "dim": dims,
    },
    "split_with_sizes": {
        "split_sizes": st.sampled_from([(1, 2), (3, 4), (2, 2), (1, 2, 1), (), (-1, 4)]),
        "dim": dims,
    },
    "squeeze": {"dim": st.one_of(dims, orders)},
    "swapaxes": {"axis0": dims, "axis1": dims},
    "t": {},
    "tensor_split": {"indices_or_sections": parts, "dim": dims},
    "transpose": {"dim0": dims, "dim1": dims},
    "unbind": {"dim": dims},
    "unflatten": {
        "dim": dims,
        "sizes": st.sampled_from([(2, -1), (2, 2), (-1,), (1, 3), (7,), (), (-1, -1), (3, 1)]),
    },
    "unfold": {"dimension": dims, "size": counts, "step": st.integers(-1, 3)},
    "unsqueeze": {"dim": dims},
    "view": {"shape": shapes},
    "vsplit": {"indices_or_sections": parts},
}
TENSORS_ONLY = {
    "moveaxis": METHODS["movedim"],
    "swapdims": METHODS["transpose"],
    "reshape": {"shape": shapes},
    "ravel": {},
    "clone": {},
    "contiguous": {},
}


def torchs(name: str, view: str, arguments: dict[str, Any]) -> Any:
    """What torch's method gives; a second opinion on whether the arguments are right at all."""
    values = [plain(value) for value in arguments.values()]
    if name in ("movedim", "moveaxis"):  # torch does not take (0,) with 0
        values = [value if isinstance(value, tuple) else (value,) for value in values]
    if "split" in name:  # places beyond the end, by Python's rule; torch has 64 bits
        is_one = not isinstance(values[0], tuple)
        clipped = tuple(
            min(max(value, -(2**62)), 2**62)
            for value in ((values[0],) if is_one else values[0])
        )
        values[0] = clipped[0] if is_one else clipped
    if name == "squeeze" and values == [None]:
        values = []
    if name == "squeeze" and values == [()]:
        return theirs(view)
    return getattr(theirs(view), name)(*values)


def is_torchs(name: str, view: str, arguments: dict[str, Any]) -> bool:
    try:
        torchs(name, view, arguments)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False
    return True


def method_subject(name: str, arguments: dict[str, st.SearchStrategy]) -> None:
    def where(a):
        return is_torchs(name, a["self"], {argument: a[argument] for argument in arguments})

    takes = {"self": views, **arguments}
    options = {"near": arguments, "fixed": ("self",), "words": (*TORCHS, *arguments, name)}

    def with_ours(self, **more):
        return facts(getattr(ours(self), name)(*(more[argument] for argument in arguments)))

    def with_layout(self, **more):
        return layouts(
            getattr(Layout(*VIEWS[self]), name)(*(more[argument] for argument in arguments))
        )

    def reference(self, **more):
        return facts(torchs(name, self, {argument: more[argument] for argument in arguments}))

    def layout_reference(self, **more):
        if name == "as_strided":  # a layout has no storage to leave
            offset = more["storage_offset"]
            return layout_of(
                more["size"], more["stride"], VIEWS[self][2] if offset is None else offset
            )
        return first_three(
            torchs(name, self, {argument: more[argument] for argument in arguments})
        )

    subject(
        f"storage.StridedTensor.{name}",
        with_ours,
        takes=takes,
        where=where,
        reference=reference,
        **options,
    )
    if name in METHODS:
        copies = name == "flatten"  # of a tensor; a layout refuses what is no view
        takes = takes | (
            {"self": views.filter(lambda view: theirs(view).is_contiguous())} if copies else {}
        )
        subject(
            f"storage.Layout.{name}",
            with_layout,
            takes=takes,
            where=where,
            reference=layout_reference,
            **options,
        )


for _name, _arguments in (METHODS | TENSORS_ONLY).items():
    method_subject(_name, _arguments)


# What is no method of torch's, or has another form there.

indices = (
    st.lists(index_parts, max_size=4).filter(lambda these: these.count(Ellipsis) < 2).map(tuple)
)


def indexed(self, index):
    if isinstance(index, tuple | list) and list(index).count(Ellipsis) > 1:
        raise IndexError("two ellipses")
    wanted = tuple(map(plain, index)) if isinstance(index, tuple) else plain(index)
    if isinstance(wanted, tuple) and not isinstance(index, tuple):
        raise TypeError("a list copies")
    return theirs(self)[wanted]


def accepts(function, *keys):
    """Whether a reference takes the drawn arguments."""

    def check(arguments):
        try:
            function(**fresh(arguments))
        except (RuntimeError, IndexError, TypeError, ValueError, KeyError):
            return False
        return True

    return check


def sliced(self, dim, start, end, step):
    dim, step = plain(dim), plain(step)
    n = theirs(self).shape[dim]
    picked = range(n)[plain(start) : plain(end) : step]
    if step <= 0 or not VIEWS[self][0]:
        raise ValueError("no slice")
    index = [slice(None)] * len(VIEWS[self][0])
    index[dim] = slice(picked.start, picked.stop, min(step, 2**31))
    wanted = theirs(self)[tuple(index)]
    assert wanted.shape[dim] == len(picked)
    return wanted


INDEX = {"self": views, "index": indices}
_slice = {
    "self": views,
    "dim": dims,
    "start": st.none() | counts,
    "end": st.none() | counts,
    "step": st.integers(1, 3),
}
for _class, _make, _facts, _of in (
    ("StridedTensor", ours, facts, facts),
    ("Layout", lambda view: Layout(*VIEWS[view]), layouts, first_three),
):
    subject(
        f"storage.{_class}.__getitem__",
        lambda self, index, make=_make, facts=_facts: facts(make(self)[index]),
        takes=INDEX,
        where=accepts(indexed),
        reference=lambda self, index, of=_of: of(indexed(self, index)),
        fixed=("self",),
        near={"index": st.one_of(indices, index_parts)},
        words=(*TORCHS, "indexing", "indices"),
    )
    subject(
        f"storage.{_class}.slice",
        lambda self, dim, start, end, step, make=_make, facts=_facts: facts(
            make(self).slice(dim, start, end, step)
        ),
        takes=_slice,
        where=accepts(sliced),
        reference=lambda self, dim, start, end, step, of=_of: of(
            sliced(self, dim, start, end, step)
        ),
        fixed=("self",),
        near={"dim": dims},
        words=TORCHS,
    )

_self = {"self": views}
PROPERTIES = {
    "T": lambda t: t.permute(tuple(range(t.ndim)[::-1])),
    "mT": lambda t: t.transpose(-2, -1) if t.ndim else t,
    "mH": lambda t: t.transpose(-2, -1) if t.ndim else t,
    "H": lambda t: t.transpose(-2, -1) if t.ndim else t,
    "real": lambda t: t,
}
for _name, _torchs in PROPERTIES.items():
    _allowed = views.filter(
        lambda v, name=_name: (
            name in ("T", "real") or len(VIEWS[v][0]) in ((0, 2) if name == "H" else (0, 2, 3))
        )
    )
    _drawn = {"self": _allowed}
    subject(
        f"storage.StridedTensor.{_name}",
        lambda self, name=_name: facts(getattr(ours(self), name)),
        takes=_drawn,
        reference=lambda self, torchs=_torchs: facts(torchs(theirs(self))),
        fixed=("self",),
    )
    if _name in ("T", "mT"):
        subject(
            f"storage.Layout.{_name}",
            lambda self, name=_name: layouts(getattr(Layout(*VIEWS[self]), name)),
            takes=_drawn,
            reference=lambda self, torchs=_torchs: first_three(torchs(theirs(self))),
            fixed=("self",),
        )
for _name, _torchs in {
    "shape": lambda t: tuple(t.shape),
    "ndim": lambda t: t.ndim,
    "dtype": lambda t: t.numpy().dtype,
}.items():
    subject(
        f"storage.StridedTensor.{_name}",
        lambda self, name=_name: getattr(ours(self), name),
        takes=_self,
        reference=lambda self, torchs=_torchs: torchs(theirs(self)),
        fixed=("self",),
    )
for _name, _torchs in {
    "dim": lambda t: t.dim(),
    "numel": lambda t: t.numel(),
    "is_contiguous": lambda t: t.is_contiguous(),
    "storage_offset": lambda t: t.storage_offset(),
    "to_array": lambda t: t.numpy(),
    "numpy": lambda t: t.numpy(),
    "tolist": lambda t: t.tolist(),
}.items():
    subject(
        f"storage.StridedTensor.{_name}",
        lambda self, name=_name: getattr(ours(self), name)(),
        takes=_self,
        reference=lambda self, torchs=_torchs: torchs(theirs(self)),
        fixed=("self",),
    )
subject(
    "storage.StridedTensor.item",
    lambda self, index: ours(self)[index].item(),
    takes={"self": st.just("line"), "index": st.integers(-7, 6)},
    reference=lambda self, index: indexed(self, index).item(),
    fixed=("self",),
    words=TORCHS,
)
for _name in ("size", "stride"):
    subject(
        f"storage.StridedTensor.{_name}",
        lambda self, dim, name=_name: getattr(ours(self), name)(dim),
        takes={
            "self": views.filter(lambda v: VIEWS[v][0]),
            "dim": st.sampled_from([0, -1, None]),
        },
        reference=lambda self, dim, name=_name: (
            tuple(getattr(theirs(self), name)(*([] if dim is None else [plain(dim)])))
            if dim is None
            else getattr(theirs(self), name)(plain(dim))
        ),
        fixed=("self",),
        words=TORCHS,
    )

for _name, _torchs in {
    "ndim": lambda t: t.ndim,
    "numel": lambda t: t.numel(),
    "end": lambda t: (
        1
        + t.storage_offset()
        + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        if t.numel()
        else 0
    ),
}.items():
    subject(
        f"storage.Layout.{_name}",
        lambda self, name=_name: getattr(Layout(*VIEWS[self]), name),
        takes=_self,
        reference=lambda self, torchs=_torchs: torchs(theirs(self)),
        fixed=("self",),
    )
subject(
    "storage.Layout.is_contiguous",
    lambda self: Layout(*VIEWS[self]).is_contiguous(),
    takes=_self,
    reference=lambda self: theirs(self).is_contiguous(),
    fixed=("self",),
)


def layout_of(size, stride, offset):
    size, stride = (
        (part,) if isinstance(part, int) else part for part in (plain(size), plain(stride))
    )
    offset = plain(offset)
    assert isinstance(offset, int)
    if len(size) != len(stride) or min((*size, *stride, offset)) < 0:
        raise ValueError("no layout")
    return [size, stride, offset]


_small = st.lists(st.integers(0, 4), max_size=3).map(tuple)
subject(
    "storage.Layout",
    lambda size, stride, offset: layouts(Layout(size, stride, offset)),
    takes={"size": _small, "stride": _small, "offset": st.integers(0, 5)},
    where=accepts(layout_of),
    reference=layout_of,
    words=TORCHS,
)
subject(
    "storage.Layout.contiguous",
    lambda size: layouts(Layout.contiguous(size)),
    takes={"size": _small},
    reference=lambda size: first_three(torch.empty(plain(size), device="meta")),
    near={"size": st.lists(st.integers(-2, 3), max_size=3)},
    words=TORCHS,
)
subject(
    "storage.Layout.flat_size",
    lambda self, start_dim, end_dim: Layout(*VIEWS[self]).flat_size(start_dim, end_dim),
    takes={"self": views, "start_dim": dims, "end_dim": dims},
    where=lambda a: is_torchs("flatten", a["self"], {"s": a["start_dim"], "e": a["end_dim"]}),
    reference=lambda self, start_dim, end_dim: tuple(
        theirs(self).flatten(plain(start_dim), plain(end_dim)).shape
    ),
    fixed=("self",),
    near={"start_dim": dims, "end_dim": dims},
    words=TORCHS,
)


def with_new_dim(self, dim):
    if not 0 <= plain(dim) <= len(VIEWS[self][0]):
        raise IndexError("no such place")
    return first_three(theirs(self).unsqueeze(plain(dim)))


subject(
    "storage.Layout.new_dim",
    lambda self, dim: layouts(Layout(*VIEWS[self]).new_dim(dim)),
    takes={"self": views, "dim": dims},
    where=accepts(with_new_dim),
    reference=with_new_dim,
    fixed=("self",),
    near={"dim": dims},
    words=TORCHS,
)


def replaced(self, dim, size, stride, skip):
    old_size, old_stride, offset = VIEWS[self]
    size, stride = (
        (part,) if isinstance(part, int) else part for part in (plain(size), plain(stride))
    )
    dim, skip = plain(dim), plain(skip)
    if not 0 <= dim < len(old_size):
        raise IndexError("no such dimension")
    new = (
        old_size[:dim] + size + old_size[dim + 1 :],
        old_stride[:dim] + stride + old_stride[dim + 1 :],
    )
    return layout_of(*new, offset + skip)


subject(
    "storage.Layout.replace_dim",
    lambda self, dim, size, stride, skip: layouts(
        Layout(*VIEWS[self]).replace_dim(dim, size, stride, skip)
    ),
    takes={
        "self": views,
        "dim": dims,
        "size": _small,
        "stride": _small,
        "skip": st.integers(0, 3),
    },
    where=accepts(replaced),
    reference=replaced,
    fixed=("self",),
    near={"dim": dims, "size": _small, "stride": _small},
    words=TORCHS,
)


# Complex numbers.

PAIRS = np.arange(1.0, 13.0, dtype=np.float32)


def of_pairs(self):
    line = {
        "complex": PAIRS[::2] + 1j * PAIRS[1::2],
        "real": PAIRS,
        "whole": PAIRS.astype(np.int32),
    }[self]
    return line.astype(np.complex64) if self == "complex" else line


def complex_case(name: str, right: str, torchs) -> None:
    subject(
        f"storage.StridedTensor.{name}",
        lambda self: facts(_called(storage.tensor(of_pairs(self)).view(-1, 2), name)),
        takes={"self": st.just(right)},
        reference=lambda self: facts(
            torchs(torch.from_numpy(of_pairs(self).copy()).view(-1, 2))
        ),
        near={"self": st.sampled_from(["complex", "real", "whole"])},
        fixed=("self",),
    )


def _called(tensor, name):
    member = getattr(tensor, name)
    return member() if callable(member) else member


complex_case("view_as_real", "complex", torch.view_as_real)
complex_case("view_as_complex", "real", torch.view_as_complex)
complex_case("imag", "complex", lambda t: t.imag)

# Shapes taken from another tensor.

for _name in ("view_as", "reshape_as", "expand_as"):
    subject(
        f"storage.StridedTensor.{_name}",
        lambda self, other, name=_name: facts(getattr(ours(self), name)(other)),
        takes={
            "self": st.just("matrix"),
            "other": st.sampled_from(recipes("ones((3, 4))", "jnp.ones((3, 4))")),
        },
        reference=lambda self, other, name=_name: facts(
            getattr(theirs(self), name)(torch.empty(tuple(other.shape)))
        ),
        near={
            "other": st.sampled_from(
                recipes("storage.tensor([1.0])", "ones((4, 3))", "ones((2, 3, 4))", "ones(12)")
            )
        },
        fixed=("self",),
        words=TORCHS,
    )
