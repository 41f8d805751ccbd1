"""Random chains of views and writes through several aliases, dlwp_jax.storage against torch
(hypothesis).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlwp_jax import storage
from dlwp_jax.storage import Layout, StridedTensor
from dlwp_jax.storage.lowering import read, write
from dlwp_jax.storage.overlap import overlap

# The same examples in every run, and no deadline: the first call of a geometry compiles.
examples = settings(max_examples=150, deadline=None, derandomize=True)
few_examples = settings(examples, max_examples=12)

# Every new geometry is compiled, some of them in one program, so the fast suite sees a few of
# these programs and the slow one many.
IN_ONE_PROGRAM = 8
how_many = pytest.mark.parametrize("count", [2, pytest.param(16, marks=pytest.mark.slow)])

dims = st.integers(-4, 4)
small = st.integers(-2, 6)
index_parts = st.one_of(
    st.integers(-5, 5),
    st.just(None),
    st.just(Ellipsis),
    st.builds(slice, st.none() | small, st.none() | small, st.none() | st.integers(1, 3)),
)
# torch lets a second ellipsis pass and does nothing with it; NumPy, JAX and we refuse it.
INDEX = (
    st.lists(index_parts, max_size=4).filter(lambda parts: parts.count(Ellipsis) < 2).map(tuple)
)
SINGLE = st.one_of(
    st.tuples(st.just("__getitem__"), INDEX.map(lambda index: (index,))),
    st.tuples(st.sampled_from(["transpose", "swapaxes", "movedim"]), st.tuples(dims, dims)),
    st.tuples(st.just("permute"), st.permutations(range(3)).map(lambda order: (order,))),
    st.tuples(st.sampled_from(["unsqueeze", "squeeze"]), st.tuples(dims)),
    st.tuples(st.sampled_from(["squeeze", "t", "ravel", "clone", "contiguous"]), st.just(())),
    st.tuples(st.just("select"), st.tuples(dims, small)),
    st.tuples(st.just("narrow"), st.tuples(dims, small, small)),
    st.tuples(st.just("unfold"), st.tuples(dims, st.integers(0, 3), st.integers(1, 3))),
    st.tuples(st.just("diagonal"), st.tuples(st.integers(-3, 3), dims, dims)),
    st.tuples(
        st.sampled_from(["view", "reshape"]),
        st.lists(st.integers(-1, 12), max_size=3).map(lambda s: (s,)),
    ),
    st.tuples(
        st.just("expand"),
        st.lists(st.integers(-1, 4), min_size=1, max_size=4).map(lambda s: (s,)),
    ),
    st.tuples(st.just("flatten"), st.tuples(dims, dims)),
    st.tuples(
        st.just("unflatten"), st.tuples(dims, st.sampled_from([(2, -1), (-1, 3), (2, 2)]))
    ),
    st.tuples(
        st.just("as_strided"),
        st.tuples(
            st.lists(st.integers(0, 3), min_size=2, max_size=2),
            st.lists(st.integers(0, 9), min_size=2, max_size=2),
            st.none() | st.integers(0, 12),
        ),
    ),
)
CHAINS = st.lists(SINGLE, min_size=1, max_size=5)
SIZES = st.sampled_from(
    [(), (1,), (7,), (3, 4), (4, 1, 3), (2, 3, 4), (0, 3), (5, 5), (2, 1, 3, 2)]
)


def fresh(size: tuple[int, ...]) -> tuple[torch.Tensor, StridedTensor]:
    theirs = torch.arange(1.0, 1.0 + int(np.prod(size))).reshape(size)
    return theirs, storage.tensor(theirs.numpy())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def attempt(function, *args):
    """What the function returns, or the error with which it refuses."""
    try:
        return function(*args)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return error


def step(
    theirs: torch.Tensor, ours: StridedTensor, name: str, args: tuple
) -> tuple[torch.Tensor, StridedTensor]:
    """One view of each; where torch refuses, ours must too, with an error of the same kind."""
    their_view, our_view = (
        attempt(getattr(theirs, name), *args),
        attempt(getattr(ours, name), *args),
    )
    if isinstance(their_view, Exception):
        kinds = type(their_view), type(our_view)
        alike = issubclass(*kinds) or issubclass(*kinds[::-1])
        assert alike, f"{name}{args}: torch {their_view!r}, ours {our_view!r}"
        return theirs, ours
    assert isinstance(our_view, StridedTensor), f"{name}{args}: {our_view!r}"
    return their_view, our_view


def same(theirs: torch.Tensor, ours: StridedTensor) -> None:
    assert ours.shape == tuple(theirs.shape)
    assert ours.stride() == theirs.stride()
    assert ours.storage_offset() == theirs.storage_offset()
    assert ours.is_contiguous() == theirs.is_contiguous()
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@examples
@given(size=SIZES, chain=CHAINS)
def test_any_chain_of_views_is_torchs(size, chain):
    theirs, ours = fresh(size)
    for name, args in chain:
        theirs, ours = step(theirs, ours, name, args)
        same(theirs, ours)


@few_examples
@given(size=SIZES, first=CHAINS, second=CHAINS)
def test_every_alias_sees_what_was_written_through_another(size, first, second):
    whole_t, whole_s = fresh(size)
    aliases = []
    for chain in (first, second):
        theirs, ours = whole_t, whole_s
        for name, args in chain:
            theirs, ours = step(theirs, ours, name, args)
        if ours.storage is whole_s.storage:
            aliases.append((theirs, ours))
    current = whole_s.storage
    for number, (theirs, ours) in enumerate(aliases):
        view = ours.over(current)
        if overlap(view.layout):
            with pytest.raises(RuntimeError, match="single memory location"):
                view.set(0.0)
            continue
        theirs.copy_(torch.full(theirs.shape, -1.0 - number))
        current = view.set(-1.0 - number).storage
        for their_alias, alias in [(whole_t, whole_s), *aliases]:
            np.testing.assert_array_equal(alias.over(current).numpy(), their_alias.numpy())


LAYOUTS = st.builds(
    lambda pairs, offset: Layout(
        tuple(n for n, _ in pairs), tuple(t for _, t in pairs), offset
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=4),
    st.integers(0, 11),
)


SEVERAL = st.lists(
    st.tuples(LAYOUTS, st.integers(0, 9)), min_size=IN_ONE_PROGRAM, max_size=IN_ONE_PROGRAM
)


def numpy_positions(layout: Layout) -> np.ndarray:
    """The storage position of every element, by NumPy's strides."""
    line = np.arange(layout.end + layout.offset + 1)
    steps = [line.itemsize * step for step in layout.stride]
    return np.lib.stride_tricks.as_strided(line[layout.offset :], layout.size, steps)


@how_many
def test_any_layout_is_read_as_by_index(count):
    """Lowering without gathers against the definition, storage[offset + i·stride₀ + ...]."""

    @settings(examples, max_examples=count)
    @given(several=SEVERAL)
    def check(several):
        layouts = [layout for layout, _ in several]
        lines = [
            np.arange(float(layout.end + slack + 1), dtype=np.float32)
            for layout, slack in several
        ]
        ours = jax.jit(lambda lines: list(map(read, lines, layouts)))(lines)
        for layout, line, values in zip(layouts, lines, ours, strict=True):
            np.testing.assert_array_equal(values, line[numpy_positions(layout)])

    check()


@how_many
def test_any_layout_is_written_as_by_index(count):
    @settings(examples, max_examples=count)
    @given(several=SEVERAL)
    def check(several):
        layouts, lines, values = [], [], []
        for layout, slack in several:
            where = numpy_positions(layout)
            unique = np.unique(where).size == where.size
            assert (overlap(layout) is None) == unique
            if unique:
                layouts.append(layout)
                lines.append(np.zeros(layout.end + slack + 1, np.float32))
                ramp = np.arange(1.0, 1.0 + layout.numel, dtype=np.float32)
                values.append(ramp.reshape(layout.size))
        ours = jax.jit(lambda lines, values: list(map(write, lines, layouts, values)))
        written = ours(lines, values)
        for layout, line, value, got in zip(layouts, lines, values, written, strict=True):
            line[numpy_positions(layout)] = value
            np.testing.assert_array_equal(got, line)

    check()


@few_examples
@given(layout=LAYOUTS, slack=st.integers(0, 9))
def test_add_sums_where_indices_meet(layout, slack):
    line = np.ones(layout.end + slack + 1, np.float32)
    added = StridedTensor(jnp.asarray(line), layout).add(2.0)
    np.add.at(line, numpy_positions(layout), 2.0)
    # Small whole numbers are exact in any order.
    np.testing.assert_array_equal(added.storage, line)
