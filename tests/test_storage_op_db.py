"""dlwp_jax.storage against torch's own operator database: every view operator, on torch's own
samples.

For each sample (plain, noncontiguous, reference): size, stride, offset, values, whose storage
the result shares, the gradient of a weighted sum with respect to the whole storage, and the
storage after a write through the result.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from dlwp_jax import storage
from dlwp_jax.storage import Layout, StridedTensor

# ---------------------------------------------------------------- the operators, and ours for
# each


def copied(name: str) -> Callable:
    """torch's *_copy operators: the view, made contiguous over a storage of its own."""

    def copy(x: StridedTensor) -> StridedTensor:
        return storage.tensor(x.to_array())

    def operator(x, *args, **kwargs):
        out = getattr(x, name)(*args, **kwargs)
        return copy(out) if isinstance(out, StridedTensor) else tuple(map(copy, out))

    return operator


def scattered(name: str) -> Callable:
    """torch's *_scatter operators: the tensor over a new storage in which the view holds the
    source.
    """

    def operator(x, src, *args, **kwargs):
        if storage.overlap.overlap(x.layout):
            x = x.clone()
        return x.over(getattr(x, name)(*args, **kwargs).set(src).storage)

    return operator


def method(name: str) -> Callable:
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def attribute(name: str) -> Callable:
    return lambda x: getattr(x, name)


def with_memory_format(plain: Callable, contiguous: Callable) -> Callable:
    """clone and contiguous take a memory format; contiguous_format is the only one that we can
    say.
    """
    return lambda x, *, memory_format=None: (plain if memory_format is None else contiguous)(x)


METHODS = """
as_strided broadcast_to chunk diagonal dsplit expand expand_as flatten __getitem__ hsplit
movedim narrow permute ravel reshape reshape_as select slice split split_with_sizes squeeze
swapaxes swapdims t tensor_split transpose unbind unflatten unfold unsqueeze view view_as
view_as_complex view_as_real vsplit
""".split()  # noqa: SIM905
COPIES = """
as_strided diagonal expand narrow permute split_with_sizes squeeze t transpose unbind unfold
unsqueeze view
""".split()  # noqa: SIM905
OURS: dict[str, Callable] = {
    **{name: method(name) for name in METHODS},
    **{name: attribute(name) for name in ("T", "mT", "H", "mH", "real", "imag")},
    **{f"{name}_copy": copied(name) for name in COPIES},
    **{
        f"{name}_scatter": scattered(name)
        for name in ("as_strided", "diagonal", "select", "slice")
    },
    "clone": with_memory_format(StridedTensor.clone, lambda x: storage.tensor(x.to_array())),
    "contiguous": with_memory_format(StridedTensor.contiguous, StridedTensor.contiguous),
    "unsafe_chunk": method("chunk"),  # "unsafe" for autograd only: views like the others
    "unsafe_split": method("split"),
    "linalg.diagonal": lambda x, *, offset=0, dim1=-2, dim2=-1: x.diagonal(offset, dim1, dim2),
    "atleast_1d": lambda *xs: each(storage.atleast_1d, xs),
    "atleast_2d": lambda *xs: each(storage.atleast_2d, xs),
    "atleast_3d": lambda *xs: each(storage.atleast_3d, xs),
    "broadcast_tensors": storage.broadcast_tensors,
    "meshgrid": lambda *xs, **kwargs: storage.meshgrid(*flat(xs), **kwargs),
}


def each(function: Callable, xs: tuple) -> Any:
    xs = flat(xs)
    return function(xs[0]) if len(xs) == 1 else tuple(map(function, xs))


def flat(xs: Any) -> list:
    return [x for part in xs for x in (part if isinstance(part, list | tuple) else [part])]


# ---------------------------------------------------------------- what is not as in torch, and
# why

OWN_STORAGE = (
    "JAX cannot lay float32 and complex64 over the same bytes: values as torch's, over a new "
    "storage"
)
COMPLEX_ALIAS = {
    "view_as_real",
    "view_as_complex",
    "real",
    "imag",
    "H",
    "mH",
}  # for complex input (or output)

TORCH_GRADIENT_WRONG = {
    "as_strided_scatter": (
        "refuses noncontiguous inputs, and torch 2.13's own gradcheck fails on the others"
    ),
    "narrow_copy": "its backward raises for some sizes (found here; the forward is compared)",
}
OTHER_ERROR = {
    "narrow_copy": (
        "for a wrong dimension torch has RuntimeError here and IndexError in narrow, as we have"
    )
}
BEYOND_THE_INPUT = (
    "as_strided sees storage outside its input: torch gives that no gradient, we do"
)
MEMORY_FORMAT = "channels_last is a stride order of N C H W tensors; here .permute() says it"


# ---------------------------------------------------------------- samples


@dataclass
class Case:
    """One call: torch's bases (whole storages), and a rebuild of the call over bases of either
    kind.
    """

    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)
        return found

    def map(self, function: Callable[[torch.Tensor], Any]) -> tuple[tuple, dict]:
        """The arguments with every tensor replaced by function(tensor)."""

        def walk(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return function(value)
            if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
                return type(value)(walk(item) for item in value)
            return value

        return tuple(walk(value) for value in self.inputs), {
            k: walk(v) for k, v in self.kwargs.items()
        }

    def key(self) -> str:
        """Alike for calls of the same geometry: each is checked once."""
        return repr(
            (
                *self.map(
                    lambda t: (
                        tuple(t.shape),
                        t.stride(),
                        t.storage_offset(),
                        whole(t).numel(),
                        t.dtype,
                    )
                ),
            )
        )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The storage under a tensor, as a 1-D tensor."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def laid(base: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return base.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def layout_of(tensor: torch.Tensor) -> Layout:
    return Layout(tuple(tensor.size()), tensor.stride(), tensor.storage_offset())


def ours_of(tensor: torch.Tensor) -> StridedTensor:
    return StridedTensor(jnp.asarray(whole(tensor).numpy(), copy=True), layout_of(tensor))


def cases(op, dtype: torch.dtype, most: int | None) -> list[Case]:
    """At most so many of torch's samples, from all over its list, each in both of its forms."""
    torch.manual_seed(0)
    seen = set()
    forms = []  # of each sample
    for sample in (*op.sample_inputs("cpu", dtype), *op.reference_inputs("cpu", dtype)):
        if (
            sample.kwargs.get("memory_format", torch.contiguous_format)
            != torch.contiguous_format
        ):
            continue  # MEMORY_FORMAT
        forms.append([])
        for form in (sample, sample.noncontiguous()):
            inputs = form.input if isinstance(form.input, list | tuple) else (form.input,)
            case = Case((*inputs, *form.args), form.kwargs)
            # A lazily conjugated tensor is torch's affair; we take the numbers that it stands
            # for.
            inputs, kwargs = case.map(lambda t: t.detach().resolve_conj().resolve_neg())
            case = Case(inputs, kwargs)
            if case.key() not in seen:
                seen.add(case.key())
                forms[-1].append(case)
    forms = [some for some in forms if some]
    step = 1 if most is None else math.ceil(len(forms) / most)
    return [case for some in forms[::step] for case in some]


def torch_refuses(op, case: Case) -> bool:
    """A noncontiguous sample may be one that torch cannot view (view_as_complex needs stride
    1).
    """
    try:
        torch_call(op, case, [whole(tensor) for tensor in case.tensors])
    except RuntimeError:
        return True
    return False


def torch_call(op, case: Case, bases: list[torch.Tensor]) -> list[torch.Tensor]:
    remaining = iter(bases)
    args, kwargs = case.map(lambda tensor: laid(next(remaining), tensor))
    if op.name in ("meshgrid", "broadcast_tensors") or op.name.startswith("atleast"):
        out = getattr(torch, op.name)(*flat(args), **kwargs)
    else:
        out = op.op(*args, **kwargs)
    return list(out) if isinstance(out, list | tuple) else [out]


def our_call(op, case: Case, storages: list[jax.Array]) -> list[StridedTensor]:
    remaining = iter(storages)
    args, kwargs = case.map(lambda tensor: StridedTensor(next(remaining), layout_of(tensor)))
    out = OURS[op.name](*args, **kwargs)
    return list(out) if isinstance(out, list | tuple) else [out]


def is_advanced(case: Case) -> bool:
    """Whether the call indexes by an array, a list or a mask."""

    def copies(part: Any) -> bool:
        if isinstance(part, torch.Tensor):
            return part.ndim > 0 or part.dtype == torch.bool
        return isinstance(part, list | bool)

    index = case.inputs[1]
    return any(map(copies, index if isinstance(index, tuple) else (index,)))


OPS = [op for op in op_db if op.name in OURS]
IDS = [f"{op.name}-{op.variant_test_name}".rstrip("-") for op in OPS]
TALLY: Counter = Counter()  # what a run of this file compared


@pytest.fixture(autouse=True, scope="module")
def _report():
    """`pytest -s tests/test_storage_op_db.py` ends with how much was compared."""
    yield
    print("", *(f"{count:6d} {what}" for what, count in sorted(TALLY.items())), sep="\n")


def gives_views(op) -> bool:
    """Whether a write through the result can reach the storage of a float32 input."""
    copies = op.name.endswith(("_copy", "_scatter")) or op.name == "clone"
    return not copies and op.name not in COMPLEX_ALIAS - {"H", "mH", "real"}


every_operator = pytest.mark.parametrize("op", OPS, ids=IDS)
every_dtype = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, id="float32"),
        pytest.param(torch.complex64, id="complex64", marks=pytest.mark.slow),
    ],
)


def start(
    op, dtype: torch.dtype, most: int | None
) -> Iterator[tuple[Case, list[torch.Tensor], list[jax.Array]]]:
    """Of at most so many samples every case that we do not refuse on purpose, with the storages
    of its tensors on both sides.
    """
    if dtype not in op.supported_dtypes("cpu"):
        pytest.skip(f"torch's {op.name} does not take {dtype}")
    for case in cases(op, dtype, most):
        bases = [whole(tensor).clone() for tensor in case.tensors]
        storages = [jnp.array(base.numpy()) for base in bases]
        if op.name == "__getitem__" and is_advanced(case):
            with pytest.raises(TypeError, match=r"\.to_array\(\)"):
                our_call(op, case, storages)
            TALLY["advanced indexing refused"] += 1
            continue
        if torch_refuses(op, case):
            with pytest.raises(RuntimeError):
                our_call(op, case, storages)
            continue
        yield case, bases, storages


@every_operator
@every_dtype
def test_geometry_values_and_sharing(op, dtype):
    before = sum(TALLY.values())
    # Geometry is that of any dtype: of views complex64, in the slow tests, takes all samples.
    most = None
    if dtype == torch.float32 and torch.complex64 in op.supported_dtypes("cpu"):
        most = 12
    # A copy is a program for every sample, and its geometry that of the view which is copied.
    if op.name.endswith("_copy"):
        most = 4
    elif op.name.endswith("_scatter") or op.name in COMPLEX_ALIAS:
        most = 8
    for case, bases, storages in start(op, dtype, most):
        theirs, ours = torch_call(op, case, bases), our_call(op, case, storages)
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours, strict=True):
            fresh = op.name in COMPLEX_ALIAS and torch.complex64 in (dtype, their.dtype)
            message = f"{op.name}: {case.key()}"
            assert our.shape == tuple(their.size()), message
            assert our.stride() == their.stride(), message
            np.testing.assert_array_equal(
                our.numpy(), their.resolve_conj().numpy(), err_msg=message
            )
            if fresh:
                TALLY["reads, complex over a storage of their own"] += 1
                continue
            assert our.storage_offset() == their.storage_offset(), message
            for base, own in zip(bases, storages, strict=True):
                if base.numel():  # an empty storage has no address to tell it by
                    shared = base.data_ptr() == their.untyped_storage().data_ptr()
                    assert (our.storage is own) == shared, message
            TALLY["reads"] += 1
    assert sum(TALLY.values()) > before, "no sample was compared"


def weights_like(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.randn(out.shape, dtype=out.dtype) for out in outputs]


# Gradients and writes hang on the geometry of a view, of which all samples are compared: so
# many are enough here.
OF_EACH_VIEW = 5


def some_of(op) -> int | None:
    return None if op.name == "__getitem__" else OF_EACH_VIEW  # it refuses most of its samples


PROGRAM = 40  # cases that are compiled together


def gradients(losses: list, starts: list) -> list:
    """The gradient of each loss at its start, and the arrays that the loss gives beside."""
    pairs = zip(losses, starts, strict=True)
    return [jax.grad(loss, has_aux=True)(leaves) for loss, leaves in pairs]


@pytest.mark.slow
@every_operator
def test_gradient_of_a_weighted_sum(op):
    """With respect to every element of the whole storage, and the values, many cases in one
    compiled program.
    """
    if op.name in TORCH_GRADIENT_WRONG:
        pytest.skip(TORCH_GRADIENT_WRONG[op.name])
    tried = []  # (case, torch's storages and outputs, which storages are real)
    losses, starts = [], []  # ours
    for case, bases, storages in start(op, torch.float32, some_of(op)):
        real = [
            i for i, base in enumerate(bases) if base.is_floating_point()
        ]  # the others are lengths and indices
        for i in real:
            bases[i].requires_grad_()
        outputs = torch_call(op, case, bases)
        weights = weights_like(outputs)
        total = sum((w * out).real.sum() for w, out in zip(weights, outputs, strict=True))
        if not (outputs and total.requires_grad):
            continue
        total.backward()

        def loss(leaves, case=case, real=real, storages=storages, weights=weights):
            mixed = [leaves[real.index(i)] if i in real else s for i, s in enumerate(storages)]
            arrays = [out.to_array() for out in our_call(op, case, mixed)]
            return sum(
                jnp.sum((w.numpy() * out).real) for w, out in zip(weights, arrays, strict=True)
            ), arrays

        tried.append((case, bases, outputs, real))
        losses.append(loss)
        starts.append([storages[i] for i in real])

    assert tried, "no gradient was compared"
    found = []
    for first in range(0, len(losses), PROGRAM):
        some = losses[first : first + PROGRAM]
        found += jax.jit(partial(gradients, some))(starts[first : first + PROGRAM])
    for (case, bases, outputs, real), (grads, arrays) in zip(tried, found, strict=True):
        for array, out in zip(arrays, outputs, strict=True):
            np.testing.assert_array_equal(array, out.detach().numpy(), err_msg=case.key())
        for i, ours in zip(real, grads, strict=True):
            leaf = bases[i]
            theirs = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            seen = np.ones(leaf.shape, bool)
            if op.name.startswith("as_strided"):  # BEYOND_THE_INPUT
                seen = np.isin(
                    np.arange(leaf.numel()), laid(torch.arange(leaf.numel()), case.tensors[i])
                )
            # Sums of at most a few dozen weights of size 1, in another order: a few float32
            # roundings.
            np.testing.assert_allclose(
                np.asarray(ours)[seen],
                theirs.numpy()[seen],
                rtol=1e-5,
                atol=1e-5,
                err_msg=case.key(),
            )
            TALLY["gradients"] += 1


def reaches_twice(layout: Layout) -> bool:
    """Whether some storage element has two indices: by listing all of them."""
    positions = np.lib.stride_tricks.as_strided(
        np.arange(layout.end + 1)[layout.offset :], layout.size, [8 * s for s in layout.stride]
    )
    return np.unique(positions).size < layout.numel


@pytest.mark.slow
@pytest.mark.parametrize("op", [op for op in OPS if gives_views(op)], ids=lambda op: op.name)
def test_storage_after_a_write(op):
    """torch writes into the view with copy_; ours gives the storage that torch's has become."""
    checked = 0
    for case, bases, storages in start(op, torch.float32, some_of(op)):
        pairs = zip(torch_call(op, case, bases), our_call(op, case, storages), strict=True)
        for their, our in pairs:
            owners = [i for i, s in enumerate(storages) if our.storage is s]
            if not owners or not their.numel():
                continue
            checked += 1
            np.testing.assert_array_equal(
                our.to_array(), their.numpy(), err_msg=case.key()
            )  # eager, offset as data
            values = torch.randn(their.shape)
            if reaches_twice(our.layout):
                with pytest.raises(RuntimeError, match="single memory location"):
                    our.set(values.numpy())
                TALLY["writes refused, self-overlapping"] += 1
                continue
            base = bases[owners[0]].clone()
            laid(base, their).copy_(values)
            written = our.set(values.numpy())
            np.testing.assert_array_equal(written.storage, base.numpy(), err_msg=case.key())
            TALLY["writes"] += 1
    assert checked, "no write was compared"


WITH_ERRORS = [op for op in OPS if op.error_inputs_func is not None]


@pytest.mark.parametrize(
    "op", WITH_ERRORS, ids=lambda op: f"{op.name}-{op.variant_test_name}".rstrip("-")
)
def test_refuses_what_torch_refuses(op):
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        inputs = sample.input if isinstance(sample.input, list | tuple) else (sample.input,)
        case = Case((*inputs, *sample.args), sample.kwargs)
        bases = [whole(tensor).clone() for tensor in case.tensors]
        with pytest.raises(error.error_type):
            torch_call(op, case, bases)
        with pytest.raises((IndexError, RuntimeError, TypeError, ValueError)) as refusal:
            our_call(op, case, [jnp.array(base.numpy()) for base in bases])
        assert isinstance(refusal.value, error.error_type) or op.name in OTHER_ERROR, (
            f"ours: {refusal.value!r}"
        )
        TALLY["errors refused"] += 1
