"""The proof of a port: forward, gradients and training steps against torch, in float64."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.overrides import TorchFunctionMode

from dlwp_jax import optim, train
from dlwp_jax.parity.compare import MOMENTUM_UNSEEN, compare
from dlwp_jax.parity.forward import (
    arrays,
    as_numpy,
    copied,
    dtype_of,
    output_turns,
    outputs_of,
    tensors,
    whole_attention,
    without_dropout,
)
from dlwp_jax.parity.leaves import to_numpy
from dlwp_jax.parity.report import ParityReport, Row, rows_of
from dlwp_jax.parity.steps import compare_steps
from dlwp_jax.parity.table import listed
from dlwp_jax.parity.ulps import NOTE
from dlwp_jax.parity.weights import load_torch

STEPS = 5
_OTHER = 2  # the first step whose batch is another one, and not the inputs scaled
OTHERS_DIFFER = (
    "the port differs on inputs of other values: something that follows "
    "the values of the input was written as a constant (torch.jit.script "
    "computes out of the port's sight), or a branch was taken on them."
)
_BITS_DIFFER = (
    "the port agrees in 64 bits and differs in the 32 that JAX computes in, with whole numbers "
    "beyond 2 ** 31 or floating ones beyond the digits of float32."
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The largest relative errors of a proof; None for what was not compared.

    Attributes:
      forward, gradient: of one pass, in eval mode and in train mode.
      step: of the training steps.
    """

    forward: float
    gradient: float
    step: float | None


def prove(
    theirs: torch.nn.Module,
    ours: nnx.Module,
    inputs: tuple[Any, ...],
    layout: list[str],
    modes: str,
    narrow: bool = False,
) -> ParityReport:
    """Compare the two models, and load torch's weights into the port, in place.

    Compared are eval mode and five steps of SGD with momentum in train mode, with dropout set
    to 0 in both, all in float64; and train mode by itself if the model computes something else
    in it. For this, parameters that are constant and running statistics are moved a little:
    behind a head that begins with zeros, every model has the same output and no gradient.

    Args:
      theirs: torch's model.
      ours: the port.
      inputs: in torch's layout.
      layout: of the inputs, as in `compare`.
      modes: "eval" if torch's model does not run in train mode on these inputs; "both" if its
        source says something else in train mode; "same" if not: then the steps compare that
        mode too.
      narrow: compare outputs in 32 bits too, and those of other inputs. It is done by itself if
        the steps do not compare eval mode.

    Returns:
      A report; rows of train mode and of the steps say so.
    """
    start, theirs = theirs, _moved(theirs)
    loaded = load_torch(ours, theirs)
    narrow |= modes != "same" or not any(p.requires_grad for p in theirs.parameters())
    try:
        report = _proof(theirs, ours, inputs, loaded, layout, modes)
        frozen = [name for name, p in start.named_parameters() if not p.requires_grad]
        if frozen:
            note = f"frozen in torch, and not in the port: {listed(frozen)}."
            report = dataclasses.replace(report, notes=(*report.notes, note))
        return _in_32_bits(report, theirs, ours, inputs, layout) if narrow else report
    finally:
        load_torch(ours, start)


def with_more(
    report: ParityReport,
    theirs: torch.nn.Module,
    ours: nnx.Module,
    inputs: tuple[Any, ...],
    layout: list[str],
) -> ParityReport:
    """The report of a port whose source has a number that the count of examples decides, with a
    comparison for another count. An error of the port is a note, because it is seen.
    """
    number = len(inputs[0])
    start, theirs = theirs, _moved(theirs)
    loaded = load_torch(ours, theirs)
    options: dict[str, Any] = {"double": True, "layout": layout}
    try:
        with no_draws():
            more = compare(theirs, ours, *inputs, loaded=loaded, **options)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        words = " ".join(str(error).split())[:200]
        note = f"the port is for this number of examples only; {number} of them: {words}"
        return dataclasses.replace(report, notes=(*report.notes, note))
    finally:
        load_torch(ours, start)
    rows = [
        dataclasses.replace(row, leaf=f"{row.leaf} ({number} examples)")
        for row in more.rows
        if not row.ok
    ]
    if not rows:
        return report
    note = (
        f"with {number} examples the port differs: a number was made of the size in a way that "
        "the port does not see, as np.sqrt(n), 1.0 / n (1 / n is seen) or int(n / 2) in a "
        "file without a forward, or was handed to another module."
    )
    return ParityReport((*report.rows, *rows), (*report.notes, note))


def _in_32_bits(
    report: ParityReport,
    theirs: torch.nn.Module,
    ours: nnx.Module,
    inputs: tuple[Any, ...],
    layout: list[str],
) -> ParityReport:
    """The report, with the outputs in eval mode that differ in 32 bits, of these inputs and of
    others.
    """
    if not report.ok:
        return report
    wide, given = copied(theirs).double().eval(), tuple(map(as_numpy, inputs))
    with no_draws():
        others = [_others(wide, given, seed) for seed in (2, 3)]
    ours = nnx.clone(ours)
    ours.eval()
    graph, state = nnx.split(ours)

    @jax.jit
    def forward(state: Any, xs: Any) -> Any:
        return outputs_of(nnx.merge(graph, state, copy=True)(*xs))

    def run(xs: Any) -> Any:
        with jax.enable_x64(False), jax.default_matmul_precision("highest"):
            turned = [word == "channels_first" for word in layout]
            return forward(state, arrays(xs, turned, torch.float32))

    for batch in (given, *others):
        rows = _rows_of_32_bits(theirs, wide, run, batch)
        if rows is None:
            return report
        if rows:
            note = _BITS_DIFFER if batch is given else OTHERS_DIFFER
            return ParityReport((*report.rows, *rows), (*report.notes, note))
    return report


def _rows_of_32_bits(theirs, wide, run, batch) -> list[Row] | None:
    """The outputs that differ by more than torch's own rounding; None if torch does not run."""
    with no_draws():
        exact = _outputs(wide, batch)
    with no_draws(double=False):
        try:
            wanted = _outputs(copied(theirs).float().eval(), batch)
        except (RuntimeError, ValueError, TypeError):
            return None  # a model of float64 alone
        found = run(batch)
    turns = output_turns(found, wanted)
    rows = []
    for number, (y, want, far, turn) in enumerate(
        zip(found, wanted, exact, turns, strict=True)
    ):
        y = np.moveaxis(np.asarray(y), -1, 1) if turn else np.asarray(y)
        floating = want.dtype.kind in "fc"
        if not want.size or not (floating or np.array_equal(want, far)):
            continue
        size = np.max(np.abs(far)) if floating else 0.0
        own = np.max(np.abs(want - far)) / size if size else 0.0
        name = f"output {number} (32 bits)"
        wide_of = np.complex128 if want.dtype.kind == "c" else np.float64
        rows += rows_of(
            "forward",
            {name: y.astype(wide_of)},
            {name: want.astype(wide_of)},
            tolerance=max(1e-3, 30 * float(own)) if floating else 0.0,
        )
    return [row for row in rows if not row.ok]


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    """A copy whose constant parameters and running statistics have values of their own, and in
    which nothing is frozen: what is trained, an optimizer decides here.
    """
    module = copied(module)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    rng = np.random.default_rng(0)
    for layer in module.modules():
        statistics = isinstance(layer, torch.nn.modules.batchnorm._NormBase)
        for name, value in [*layer._parameters.items(), *layer._buffers.items()]:
            known = name in ("running_mean", "running_var") and statistics
            if value is None or not value.is_floating_point() or not value.numel():
                continue
            if name in layer._parameters:
                known = bool((value == value.flatten()[0]).all())
            if known:
                share = torch.from_numpy(rng.uniform(-0.2, 0.2, tuple(value.shape)))
                moved = value + torch.where(value == 0, 1.0, value) * share
                value.detach().copy_(moved.float())
    return module


def _proof(theirs, ours, inputs, loaded, layout, modes) -> ParityReport:
    options: dict[str, Any] = {"double": True, "layout": layout}
    with no_draws():
        report = compare(theirs, ours, *inputs, loaded=loaded, **options)
        rows, notes = list(report.rows), report.notes
        if modes == "eval":
            return ParityReport(
                tuple(rows), (*notes, "train mode was not compared: torch does not run in it.")
            )
        pair = without_dropout(theirs), without_dropout(ours)
        return _in_train_mode(*pair, inputs, loaded, layout, modes, rows, notes)


# What every random number is while two models are compared, so that both see the same; limits,
# mean and standard deviation move it, so that theirs are compared too.
_NORMAL, _UNIFORM = 0.5, 0.25
_DRAWN = {"normal": _NORMAL, "randn": _NORMAL, "randn_like": _NORMAL}
_DRAWN |= {"rand": _UNIFORM, "rand_like": _UNIFORM}


def _normal(key: Any, shape: Any = (), dtype: Any = None) -> jax.Array:
    del key
    return jnp.full(shape, _NORMAL, dtype)


def _uniform(
    key: Any, shape: Any = (), dtype: Any = None, minval: Any = 0.0, maxval: Any = 1.0
) -> jax.Array:
    del key
    low, high = jnp.asarray(minval, dtype), jnp.asarray(maxval, dtype)
    return jnp.broadcast_to(low + _UNIFORM * (high - low), shape)


def _bernoulli(key: Any, p: Any = 0.5, shape: Any = None, mode: str = "low") -> jax.Array:
    """The probability itself, which counts as true."""
    del key, mode
    share = jax.lax.stop_gradient(jnp.asarray(p, float))
    return jnp.broadcast_to(share, share.shape if shape is None else shape)


_CONSTANTS = {"normal": _normal, "uniform": _uniform, "bernoulli": _bernoulli}


@contextlib.contextmanager
def no_draws(double: bool = True) -> Iterator[None]:
    """While it is entered, no dropout drops in torch, random numbers are constants, and numbers
    that a model makes or casts to float32 are float64, if `double`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        with _NoDropout(double), contextlib.ExitStack() as stack:
            for name, constant in _CONSTANTS.items():
                stack.enter_context(patch.object(jax.random, name, constant))
            yield
    finally:
        torch.set_default_dtype(before)


class _NoDropout(TorchFunctionMode):
    """While it is entered, functions of dropout leave everything as it is, in torch, and random
    numbers are constants.
    """

    def __init__(self, double: bool):
        super().__init__()
        self.double = double

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self.double:
            args, kwargs = tuple(map(_wide, args)), {k: _wide(v) for k, v in kwargs.items()}
            if name == "float":
                return args[0].double()
        if "dropout" in name and (args or "input" in kwargs):
            return args[0] if args else kwargs["input"]
        if name == "scaled_dot_product_attention":
            args, kwargs = args[:4], kwargs | dict(zip(_ATTENTION, args[4:], strict=False))
            kwargs["dropout_p"] = 0.0
        if name in _INTO:
            return _drawn_into(name, *args, **kwargs)
        if name == "bernoulli":
            x = args[0] if args else kwargs.pop("input")
            return _drawn_into("bernoulli_", x.detach().clone(), *args[1:], **{"p": x} | kwargs)
        value = _DRAWN.get(name)
        if value is None:
            return func(*args, **kwargs)
        with torch.random.fork_rng(devices=[]):
            return torch.full_like(func(*args, **kwargs), value)


# The two numbers behind x of a draw into x, and their defaults.
_INTO: dict[str, dict[str, Any]] = {
    "normal_": {"mean": 0.0, "std": 1.0},
    "uniform_": {"from": 0.0, "to": 1.0},
    "bernoulli_": {"p": 0.5},
}


def _drawn_into(name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What x.normal_(), x.uniform_() or x.bernoulli_() leaves in x."""
    given = _INTO[name] | kwargs | dict(zip(_INTO[name], args, strict=False))
    numbers = [given[key] for key in _INTO[name]]
    if name == "bernoulli_":
        value = numbers[0]
    elif name == "normal_":
        value = numbers[0] + _NORMAL * numbers[1]
    else:
        value = numbers[0] + _UNIFORM * (numbers[1] - numbers[0])
    return x.copy_(torch.as_tensor(value).detach())


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


_ATTENTION = ("dropout_p", "is_causal", "scale", "enable_gqa")


def _in_train_mode(theirs, ours, inputs, loaded, layout, modes, rows, notes) -> ParityReport:
    options: dict[str, Any] = {"double": True, "layout": layout}
    pair = theirs, ours
    if modes == "both":
        trained = compare(*pair, *inputs, loaded=loaded, train=True, **options)
        rows += [_marked(row) for row in trained.rows if row.stage != "weights" or not row.ok]
        notes += trained.notes
    if not any(parameter.requires_grad for parameter in theirs.parameters()):
        return ParityReport(tuple(rows), notes)
    steps = _steps(*pair, inputs, loaded, layout)
    notes = [note for note in notes if not note.startswith(MOMENTUM_UNSEEN)]  # steps show it
    return ParityReport((*rows, *steps.rows), tuple(dict.fromkeys((*notes, *steps.notes))))


def _marked(row: Row) -> Row:
    return dataclasses.replace(row, leaf=f"{row.leaf} (train mode)")


# Of the training steps; the second if torch's numbers overflow with the first.
_RATES = (0.01, 1e-6)


def _steps(
    theirs: torch.nn.Module, ours: nnx.Module, inputs, loaded, layout, rate=_RATES[0]
) -> ParityReport:
    """Steps on the mean of y ** 2 + y of all outputs, with another batch each time."""
    given = ours, inputs, loaded, layout
    ours = nnx.clone(ours)
    ours.train()
    reference, theirs = theirs, copied(theirs).train()

    def torch_loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        found = [y for y in outputs_of(model(*batch)) if y.is_floating_point()]
        return torch.stack([y.square().mean() + y.mean() for y in found]).mean()

    def loss(model: Any, batch: Any) -> Any:
        found = [y for y in outputs_of(model(*batch)) if jnp.issubdtype(y.dtype, jnp.floating)]
        return jnp.mean(jnp.stack([jnp.mean(y**2) + jnp.mean(y) for y in found])), {}

    batches = _batches(copied(theirs).double(), inputs)
    learner, state = train.make_learner(
        ours, loss, optim.sgd(rate, momentum=0.9), key=jax.random.key(0)
    )
    sgd = torch.optim.SGD(theirs.parameters(), lr=rate, momentum=0.9)

    def report(batches: Any) -> ParityReport:
        return compare_steps(
            theirs,
            sgd,
            learner,
            state,
            batches,
            torch_loss,
            loaded=loaded,
            double=True,
            layout=layout,
        )

    found = report(batches)
    first = found.first_difference
    if first and first.note == "all nan" and rate == _RATES[0]:  # torch's steps were too long
        return _steps(reference, *given, _RATES[1])
    if first is None or first.step is None or first.step < _OTHER:
        return found
    scaled = (batches[step % 2] for step in range(STEPS))
    if not report(scaled).ok:
        return found
    return ParityReport(found.rows, (*found.notes, OTHERS_DIFFER))


def _batches(theirs: torch.nn.Module, inputs: Any) -> list[tuple[np.ndarray, ...]]:
    """A batch for every step: the inputs, the same with floating numbers scaled, then others,
    so that it is seen if what follows the values of the input was written as a constant.
    """
    given = tuple(map(as_numpy, inputs))
    batches = [given, tuple(_scaled(x, np.random.default_rng(1)) for x in given)]
    return batches + [_others(theirs, given, step) for step in range(_OTHER, STEPS)]


def _others(
    theirs: torch.nn.Module, given: tuple[np.ndarray, ...], seed: int
) -> tuple[np.ndarray, ...]:
    """Other inputs of the same shapes and dtypes that torch takes and has numbers for: all
    values drawn anew, or those that were given in another order, or floating ones scaled.
    """
    for draw in (_redrawn, _permuted):
        rng = np.random.default_rng(seed)
        batch = tuple(draw(x, rng) for x in given)
        try:
            found = _outputs(theirs, batch)
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError):
            continue  # as lengths that are not sorted
        if all(np.isfinite(y).all() for y in found):
            return batch
    return tuple(_scaled(x, np.random.default_rng(seed)) for x in given)


def _outputs(theirs: torch.nn.Module, batch: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Torch's outputs, in the mode and dtype that the model is in."""
    dtype = dtype_of(theirs) or torch.get_default_dtype()
    with torch.no_grad(), whole_attention():
        return [to_numpy(y) for y in outputs_of(theirs(*tensors(batch, dtype)))]


def _redrawn(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Floats of both signs, whole numbers from the least to the largest, which is kept."""
    if x.dtype.kind == "f":
        size = np.sqrt(np.mean(np.square(x, dtype=float))) or 1.0
        return (size * rng.standard_normal(x.shape)).astype(x.dtype)
    if x.dtype.kind == "b":
        return rng.random(x.shape) < 0.5
    if x.dtype.kind in "iu":
        found = rng.integers(x.min(), x.max(), x.size, x.dtype, endpoint=True)
        found[rng.integers(x.size)] = (
            x.max()
        )  # the longest of lengths is a size of other inputs
        return found.reshape(x.shape)
    return _permuted(x, rng)


def _permuted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(x.ravel()).reshape(x.shape)


def _scaled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (x * rng.uniform(1.1, 1.5)).astype(x.dtype) if x.dtype.kind == "f" else x


# Notes of rows that may have nothing but rounding.
_SMALL = ("below floor", NOTE)


def figures(report: ParityReport) -> Figures:
    """The largest errors of a report."""

    def largest(stage: str, of_step: bool) -> float:
        found = [
            min(row.max_rel, row.max_abs) if row.note in _SMALL else row.max_rel
            for row in report.rows
            if row.stage == stage and (row.step is not None) == of_step
        ]
        return max(found, default=0.0)

    stepped = any(row.step is not None for row in report.rows)
    step = max(largest(stage, True) for stage in ("forward", "gradient", "update"))
    return Figures(
        largest("forward", False), largest("gradient", False), step if stepped else None
    )
