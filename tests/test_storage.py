"""dlwp_jax.storage: the book's examples, reading and writing under JAX's transformations,
NumPy, errors.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dlwp_jax import storage
from dlwp_jax.storage import Layout, StridedTensor
from dlwp_jax.storage import lowering as lowered
from tests.models import compilations

POINTS = [[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]]


@pytest.fixture
def points() -> StridedTensor:
    return storage.tensor(POINTS)


def arange(*size: int) -> StridedTensor:
    return storage.tensor(jnp.arange(float(np.prod(size))).reshape(size))


# ---------------------------------------------------------------- the book


def test_the_books_example_of_two_views(points):
    second = points[1]
    assert (second.storage_offset(), second.size(), second.stride()) == (2, (2,), (1,))
    assert second.storage is points.storage
    changed = points.over(second.at[0].set(10.0).storage)
    assert changed.tolist() == [[4.0, 1.0], [10.0, 3.0], [2.0, 1.0]]
    assert points.tolist() == POINTS, "what there was before the write is still there"


def test_a_clone_does_not_see_the_write(points):
    second = points[1].clone()
    assert second.storage is not points.storage
    assert second.at[0].set(10.0).tolist() == [10.0, 3.0]
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(2,\)"):
        points.over(second.at[0].set(10.0).storage)


def test_the_books_transposes(points):
    assert points.t().stride() == (1, 2)
    assert points.t().storage is points.storage
    some = storage.tensor(jnp.ones((3, 4, 5)))
    assert some.transpose(0, 2).shape == (5, 4, 3)
    assert some.transpose(0, 2).stride() == (1, 5, 20)
    columns = points.t()
    assert columns.contiguous().stride() == (3, 1)
    assert np.asarray(columns.contiguous().storage).tolist() == [4, 5, 2, 1, 3, 1]


def test_repr_shows_values_size_stride_and_offset(points):
    assert repr(points[1:, 0]) == (
        "StridedTensor([5., 2.],\n              size=(2,), stride=(2,), offset=2, "
        "dtype=float32)"
    )
    assert "size=(3, 2)" in str(jax.jit(lambda p: str(p) and p)(points))


# ---------------------------------------------------------------- reading under the
# transformations

VIEWS = {
    "all": lambda x: x,
    "transpose": lambda x: x.t(),
    "row": lambda x: x[-1],
    "columns": lambda x: x[:, 1:3],
    "every second": lambda x: x[1::2, ::2],
    "diagonal": lambda x: x.diagonal(1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1),
    "windows": lambda x: x.unfold(1, 3, 1),
    "patches": lambda x: x.unfold(0, 2, 1).unfold(1, 3, 2),
    "interleaved": lambda x: x.as_strided((2, 3), (3, 2), 1),
    "copy": lambda x: x.t().reshape(-1),
    "empty": lambda x: x[2:2],
    "element": lambda x: x[1, 2],
}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


@every_view
def test_reads_and_gradients_are_torchs_with_and_without_jit(view):
    x = torch.randn(5, 6, requires_grad=True)
    theirs = view(x)
    weights = torch.randn(theirs.shape)
    (theirs * weights).sum().backward()
    ours = storage.tensor(x.detach().numpy())

    def loss(tensor):
        return jnp.sum(view(tensor).to_array() * weights.numpy())

    for transform in (lambda f: f, jax.jit):
        np.testing.assert_array_equal(
            transform(lambda t: view(t).to_array())(ours), theirs.detach().numpy()
        )
        gradient = transform(jax.grad(loss))(ours)
        assert isinstance(gradient, StridedTensor)
        # A few weights of size 1 are summed in another order: float32 rounding.
        np.testing.assert_allclose(gradient.numpy(), x.grad.numpy(), rtol=1e-5, atol=1e-6)


@every_view
def test_vmap_over_storages_reads_every_one(view):
    lines = jnp.arange(60.0).reshape(2, 30)
    layout = Layout.contiguous((5, 6))
    batch = jax.vmap(lambda line: view(StridedTensor(line, layout)).to_array())(lines)
    for line, read in zip(lines, batch, strict=True):
        np.testing.assert_array_equal(read, view(StridedTensor(line, layout)).numpy())


def test_a_batch_of_tensors_goes_through_vmap_and_says_where_it_belongs():
    batch = jax.vmap(storage.StridedTensor, in_axes=(0, None))(
        jnp.arange(12.0).reshape(2, 6), Layout((3, 2), (2, 1))
    )
    np.testing.assert_array_equal(
        jax.vmap(lambda t: t.T.to_array())(batch)[1], [[6, 8, 10], [7, 9, 11]]
    )
    for use in (lambda t: t.to_array(), lambda t: t.numpy(), lambda t: t.T):
        with pytest.raises(RuntimeError, match=r"jax\.vmap"):
            use(batch)
    assert "size=(3, 2)" in repr(batch)


def test_scan_carries_a_tensor_and_writes_it():
    def step(tensor, row):
        return tensor.over(tensor.T[0].set(row).storage), tensor[0].to_array()

    last, firsts = jax.lax.scan(step, arange(3, 2), jnp.ones((4, 3)))
    assert last.tolist() == [[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]]
    assert firsts.shape == (4, 2)


def test_jnp_functions_and_operators_take_a_tensor(points):
    array = jnp.asarray(POINTS).T
    columns = points.T
    for function in (
        jnp.sin,
        jnp.sum,
        jnp.asarray,
        jnp.linalg.norm,
        lambda x: jnp.dot(x, x.T),
        lambda x: jnp.stack([x, x]),
    ):
        np.testing.assert_array_equal(function(columns), function(array))
    np.testing.assert_array_equal(
        jnp.einsum("ij,ij->i", columns, columns), jnp.einsum("ij,ij->i", array, array)
    )
    for expression in (
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x * array,
        lambda x: array * x,
        lambda x: np.asarray(array) - x,
        lambda x: 2 / x,
        lambda x: x @ x.T,
        lambda x: -x,
        lambda x: abs(x) ** 2 % 3,
        lambda x: x == array,
        lambda x: x != 5,
        lambda x: x < 2,
    ):
        assert isinstance(expression(columns), jax.Array)
        np.testing.assert_array_equal(expression(columns), expression(array))


def test_numpy_is_a_read_only_view_of_the_storage(points):
    line = np.asarray(points.storage)
    columns = points.t().numpy()
    assert np.shares_memory(line, columns)
    assert columns.strides == (4, 8)
    with pytest.raises(ValueError, match="read-only"):
        columns[0] = 0
    assert np.array(points.t(), dtype=np.int32).tolist() == [[4, 5, 2], [1, 3, 1]]
    with pytest.raises(ValueError, match="copy"):
        np.array(points, dtype=np.float64, copy=False)


def test_scalars(points):
    assert points[1, 0].item() == 5.0
    assert float(points[1, 0]) == 5.0
    assert bool(points[1, 0])
    assert list(range(4))[storage.tensor(2)] == 2
    with pytest.raises(RuntimeError, match="6 elements cannot be converted to Scalar"):
        points.item()
    with pytest.raises(TypeError, match="0-dim integer"):
        [0, 1][points[0, 0]]
    with pytest.raises(TypeError, match="0-d"):
        len(points[0, 0])
    with pytest.raises(TypeError, match="0-d"):
        iter(points[0, 0])
    assert [row.tolist() for row in points] == POINTS
    assert len(points) == 3


def test_64_rows_share_one_program_of_reading_and_of_writing():
    table = arange(64, 7)
    table[0].to_array(), table[0].set(0.0)
    with compilations() as compiled:
        rows = [table[i].to_array() for i in range(64)]
        for i in range(1, 64):
            table = table.at[i].set(float(i))
    assert compiled == []
    np.testing.assert_array_equal(jnp.stack(rows), np.arange(64 * 7.0).reshape(64, 7))
    assert table.tolist()[5] == [5.0] * 7


def test_no_gather_in_the_usual_views():
    for name in (
        "transpose",
        "columns",
        "every second",
        "diagonal",
        "expand",
        "windows",
        "patches",
    ):
        program = str(
            jax.make_jaxpr(lambda t, view=VIEWS[name]: view(t).to_array())(arange(5, 6))
        )
        assert "gather" not in program, name


# ---------------------------------------------------------------- writing


@every_view
def test_set_and_add_are_torchs_with_and_without_jit(view):
    x, values = torch.arange(30.0).reshape(5, 6), None
    ours = storage.tensor(x.numpy())
    part = view(ours)
    values = np.arange(1.0, 1.0 + part.numel(), dtype=np.float32).reshape(part.shape)
    overlapping = storage.overlap.overlap(part.layout)
    if part.storage is ours.storage:
        view(x).copy_(torch.tensor(values)) if not overlapping else None
    for transform in (lambda f: f, jax.jit):
        if overlapping:
            with pytest.raises(RuntimeError, match="single memory location"):
                transform(lambda t, v: view(t).set(v))(ours, values)
        else:
            written = transform(lambda t, v: view(t).set(v))(ours, values)
            np.testing.assert_array_equal(written.numpy(), values)
            if part.storage is ours.storage:
                np.testing.assert_array_equal(written.storage, x.numpy().ravel())
        added = transform(lambda t, v: view(t).add(v))(ours, values)
        expected = np.array(part.storage)
        np.add.at(expected, np.asarray(lowered.positions(part.layout)), values)
        np.testing.assert_array_equal(
            added.storage, expected
        )  # whole numbers: exact in any order


@pytest.mark.parametrize(
    "view",
    [
        VIEWS[n]
        for n in ("transpose", "columns", "every second", "diagonal", "expand", "windows")
    ],
)
def test_the_gradient_through_add_is_that_of_an_array(view):
    x = arange(5, 6)
    values = jnp.ones(view(x).shape)
    index = lowered.positions(view(x).layout)
    weights = jnp.arange(30.0)

    def ours(line, values):
        return jnp.sum(view(StridedTensor(line, x.layout)).add(values).storage * weights)

    def plain(line, values):
        return jnp.sum(line.at[index].add(values) * weights)

    for mine, reference in zip(
        *(jax.grad(f, (0, 1))(x.storage, values) for f in (ours, plain)), strict=True
    ):
        np.testing.assert_array_equal(mine, reference)  # products with whole numbers: exact


def test_a_donated_storage_is_written_in_place():
    layout = Layout.contiguous((256, 512))

    def loop(line, view):
        def body(i, line):
            return view(StridedTensor(line, layout)).set(jnp.float32(i)).storage

        return jax.lax.fori_loop(0, 5, body, line)

    for view in (
        lambda t: t[3],
        lambda t: t[:, 7],
        lambda t: t.T[1:4, 2:],
        lambda t: t[1::2, 1:9],
        lambda t: t.diagonal(),
    ):
        line = jnp.zeros(256 * 512)
        compiled = jax.jit(loop, donate_argnums=0, static_argnums=1).lower(line, view).compile()
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes == line.nbytes
        assert memory.temp_size_in_bytes < line.nbytes / 8, (
            "a copy of the storage would be there"
        )
        address = line.unsafe_buffer_pointer()
        assert compiled(line).unsafe_buffer_pointer() == address
        assert line.is_deleted()


def test_set_casts_and_add_refuses_as_torch_does():
    whole = storage.tensor([1, 2, 3])
    assert whole.at[0].set(7.9).tolist() == [7, 2, 3]  # copy_ truncates
    with pytest.raises(
        RuntimeError,
        match=r"result type float32 can't be cast to the desired output type int32",
    ):
        whole.add(0.5)
    with pytest.raises(RuntimeError, match="complex64"):
        storage.tensor([1.0]).set(1j)
    assert storage.tensor([True, False]).add(True).tolist() == [True, True]
    assert storage.tensor([False]).expand(3).add(
        jnp.array([False, True, True])
    ).storage.tolist() == [True]
    windows = (
        storage.tensor([False] * 4)
        .unfold(0, 2, 1)
        .add(jnp.array([[True, False], [False, False], [False, True]]))
    )
    assert windows.storage.tolist() == [True, False, False, True]
    assert storage.tensor([1.0, 2.0]).at[1].add(storage.tensor([5.0, 6.0])[0]).tolist() == [
        1.0,
        7.0,
    ]


# ---------------------------------------------------------------- what is refused

MATRIX = arange(3, 2)
REFUSED = {
    "index out of range": (
        lambda t: t[3],
        IndexError,
        "index 3 is out of bounds for dimension 0 with size 3",
    ),
    "too many indices": (lambda t: t[0, 0, 0], IndexError, "too many indices"),
    "step 0": (lambda t: t[::0], ValueError, "greater than zero, got 0"),
    "negative step": (lambda t: t[::-1], ValueError, "greater than zero, got -1"),
    "index by list": (lambda t: t[[0, 1]], TypeError, r"list; index \.to_array\(\)"),
    "index by array": (lambda t: t[jnp.array([0])], TypeError, r"\.to_array\(\)"),
    "index by mask": (lambda t: t[t > 1], TypeError, r"\.to_array\(\)"),
    "index by bool": (lambda t: t[True], TypeError, r"bool; index \.to_array\(\)"),
    "index by float": (lambda t: t[1.5], TypeError, "float"),
    "wrong permutation": (lambda t: t.permute(0, 0), RuntimeError, "duplicate dims"),
    "short permutation": (lambda t: t.permute(0), RuntimeError, r"input.dim\(\) = 2"),
    "dimension": (lambda t: t.transpose(0, 2), IndexError, r"range of \[-2, 1\], but got 2"),
    "view of a transpose": (lambda t: t.t().view(-1), RuntimeError, r"Use \.reshape"),
    "view as another dtype": (lambda t: t.view(jnp.int32), TypeError, "must be integers"),
    "view of another count": (lambda t: t.view(4), RuntimeError, "invalid for input of size 6"),
    "expand": (lambda t: t.expand(3, 4), RuntimeError, r"expanded size of the tensor \(4\)"),
    "as_strided out of bounds": (
        lambda t: t.as_strided((4, 2), (2, 1)),
        RuntimeError,
        "need a storage of 8 elements",
    ),
    "as_strided backwards": (
        lambda t: t.as_strided((2,), (-1,)),
        RuntimeError,
        "negative strides",
    ),
    "as_strided before the start": (
        lambda t: t.as_strided((2,), (1,), -1),
        RuntimeError,
        "got -1",
    ),
    "assignment": (lambda t: t.__setitem__(0, 1.0), TypeError, r"t\.at\[index\]\.set"),
    "attribute": (lambda t: setattr(t, "storage", None), AttributeError, "immutable"),
    "set of another size": (
        lambda t: t.set(jnp.ones(3)),
        RuntimeError,
        r"values of size \[3\]",
    ),
    "set of more dimensions": (
        lambda t: t.set(jnp.ones((1, 3, 2))),
        RuntimeError,
        "must broadcast",
    ),
    "over a tensor": (lambda t: t.over(t), TypeError, r"pass its \.storage"),
    "over a list": (lambda t: t.over([0.0] * 6), TypeError, "got list"),
    "over another length": (lambda t: t.over(jnp.ones(5)), ValueError, r"got \(5,\)"),
    "over another dtype": (lambda t: t.over(jnp.ones(6, int)), TypeError, "got int32"),
    "complex of one": (
        lambda t: t[:, :1].view_as_complex(),
        RuntimeError,
        "last dimension of size 2",
    ),
    "real of real": (lambda t: t.view_as_real(), RuntimeError, "complex tensors"),
    "H of a batch": (lambda t: t[None].H, RuntimeError, "2-D"),
}


@pytest.mark.parametrize(("use", "error", "sentence"), REFUSED.values(), ids=REFUSED)
def test_wrong_use_gives_one_sentence(use, error, sentence):
    with pytest.raises(error, match=sentence):
        use(MATRIX)


def test_a_layout_is_checked_when_it_is_made():
    with pytest.raises(RuntimeError, match="mismatch in length"):
        Layout((2, 3), (1,))
    with pytest.raises(RuntimeError, match="non-negative"):
        Layout((-1,), (1,))
    with pytest.raises(TypeError):
        Layout((1.5,), (1,))  # type: ignore[arg-type]
    assert Layout([2, np.int64(3)], [3, 1]) == Layout((2, 3), (3, 1))  # type: ignore[arg-type]
    assert hash(Layout([2], [1])) == hash(Layout((2,), (1,)))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="need a storage of 6"):
        StridedTensor(jnp.zeros(5), Layout.contiguous((3, 2)))
    with pytest.raises(RuntimeError, match="1-D"):
        StridedTensor(jnp.zeros((3, 2)), Layout.contiguous((3, 2)))
    with pytest.raises(TypeError, match="ndarray"):
        StridedTensor(np.zeros(6), Layout.contiguous((3, 2)))  # type: ignore[arg-type]


def test_making_tensors():
    source = np.arange(6.0, dtype=np.float32)
    copy = storage.tensor(source)
    source[:] = 0
    assert copy.tolist() == [0, 1, 2, 3, 4, 5]
    array = jnp.arange(3.0)
    assert (
        storage.tensor(array).storage.unsafe_buffer_pointer() != array.unsafe_buffer_pointer()
    )
    assert storage.tensor(3).shape == ()
    assert storage.tensor([]).shape == (0,)
    assert storage.tensor([1, 2]).dtype == jnp.int32
    assert storage.tensor([1, 2], dtype=jnp.bfloat16).numpy().dtype == jnp.bfloat16
    assert storage.tensor(copy.view(2, 3).t()).stride() == (2, 1)
    assert storage.tensor(copy[0]).item() == 0
    with pytest.raises(ValueError, match="jax_enable_x64"):
        storage.tensor([1.0], dtype=jnp.float64)
    with pytest.raises(ValueError, match="inhomogeneous"):
        storage.tensor([[1, 2], [3]])
    for too_large in (2**40, np.array([2**40]), np.int64(-(2**40))):
        with pytest.raises(OverflowError):
            storage.tensor(too_large)


def test_a_position_past_int32_is_refused_where_it_would_be_needed():
    with pytest.raises(OverflowError, match="2147483647"):
        lowered.positions(Layout((2, 2), (2**31, 1)))
    nested = jax.eval_shape(
        lambda line: lowered.read(line, Layout((3,), (2**30,), 5)),
        jax.ShapeDtypeStruct((2**32,), jnp.int8),
    )
    assert nested.shape == (3,), "reads by slices have no such limit"


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jnp.cumsum(arange(3, 2).t().at[0].add(1.0))


# ---------------------------------------------------------------- storages cut by a tree map,
# mixed types


@pytest.mark.parametrize(
    "use",
    [lambda t: t.tolist(), lambda t: t.to_array(), lambda t: t.set(0.0), lambda t: t.add(1.0)],
)
def test_a_storage_shorter_than_the_layout_is_not_used(use):
    cut = jax.tree.map(lambda a: a[:1], storage.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(
        RuntimeError, match="the layout needs a storage of 3 elements, and this one has 1"
    ):
        use(cut)
    assert "storage=" in repr(cut)


@pytest.mark.parametrize(
    ("dtype", "start", "values"),
    [
        ("bfloat16", 1.0, np.float32([-0.9995])),
        ("float16", -60000.0, np.float32([70000.0])),
        ("bfloat16", 1.0, -0.9995),
        ("float16", 1.0, np.float16([0.0005])),
        ("float32", 1.0, 1),
    ],
)
def test_add_sums_in_the_type_that_torch_sums_in(dtype, start, values):
    added = storage.tensor(jnp.asarray([start], dtype)).add(values)
    theirs = torch.tensor([start], dtype=getattr(torch, dtype))
    theirs.add_(torch.from_numpy(values) if isinstance(values, np.ndarray) else values)
    assert added.dtype == dtype
    assert added.tolist() == theirs.tolist()
