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
from dlwp_jax.parity.forward import as_numpy, copied, outputs_of, without_dropout
from dlwp_jax.parity.report import ParityReport, Row
from dlwp_jax.parity.steps import compare_steps
from dlwp_jax.parity.weights import load_torch

STEPS = 5


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
) -> ParityReport:
    """Compare the two models, and load torch's weights into the port, in place.

    Compared are eval mode and five steps of SGD with momentum in train mode, with dropout set to 0
    in both, all in float64; and train mode by itself if the model computes something else in it.
    For this, parameters that are constant and running statistics are moved a little: behind a head
    that begins with zeros, every model has the same output and no gradient.

    Args:
      theirs: torch's model.
      ours: the port.
      inputs: in torch's layout.
      layout: of the inputs, as in `compare`.
      modes: "eval" if torch's model does not run in train mode on these inputs; "both" if its source
        says something else in train mode; "same" if not: then the steps compare that mode too.

    Returns:
      A report; rows of train mode and of the steps say so.
    """
    start, theirs = theirs, _moved(theirs)
    loaded = load_torch(ours, theirs)
    try:
        return _proof(theirs, ours, inputs, loaded, layout, modes)
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
        with _no_draws():
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
        f"with {number} examples the port differs: a number was made of the size in a way that the "
        "port does not see, as float(n), np.sqrt(n) or 1.0 / n (1 / n is seen), or was handed to "
        "another module."
    )
    return ParityReport((*report.rows, *rows), (*report.notes, note))


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    """A copy whose constant parameters and running statistics have values of their own."""
    module = copied(module)
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
    with _no_draws():
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
def _no_draws() -> Iterator[None]:
    """While it is entered, no dropout drops in torch, random numbers are constants, and numbers
    that a model makes or casts to float32 are float64.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _NoDropout(), contextlib.ExitStack() as stack:
            for name, constant in _CONSTANTS.items():
                stack.enter_context(patch.object(jax.random, name, constant))
            yield
    finally:
        torch.set_default_dtype(before)


class _NoDropout(TorchFunctionMode):
    """While it is entered, functions of dropout leave everything as it is, in torch, and random
    numbers are constants.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        args, kwargs = tuple(map(_wide, args)), {k: _wide(v) for k, v in (kwargs or {}).items()}
        name = getattr(func, "__name__", "")
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


def _steps(theirs: torch.nn.Module, ours: nnx.Module, inputs, loaded, layout) -> ParityReport:
    """Steps on the mean of y ** 2 + y of all outputs, with another batch each time."""
    ours = nnx.clone(ours)
    ours.train()
    theirs = copied(theirs).train()

    def torch_loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        found = [y for y in outputs_of(model(*batch)) if y.is_floating_point()]
        return torch.stack([y.square().mean() + y.mean() for y in found]).mean()

    def loss(model: Any, batch: Any) -> Any:
        found = [y for y in outputs_of(model(*batch)) if jnp.issubdtype(y.dtype, jnp.floating)]
        return jnp.mean(jnp.stack([jnp.mean(y**2) + jnp.mean(y) for y in found])), {}

    batches = [tuple(_changed(as_numpy(x), step) for x in inputs) for step in range(STEPS)]
    learner, state = train.make_learner(
        ours, loss, optim.sgd(0.01, momentum=0.9), key=jax.random.key(0)
    )
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
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


def _changed(x: Any, step: int) -> Any:
    """Another batch for every step: the same examples, floating ones scaled."""
    return x * (1 + 0.1 * step) if x.dtype.kind == "f" else x


def figures(report: ParityReport) -> Figures:
    """The largest errors of a report."""

    def largest(stage: str, of_step: bool) -> float:
        found = [
            min(row.max_rel, row.max_abs) if row.note == "below floor" else row.max_rel
            for row in report.rows
            if row.stage == stage and (row.step is not None) == of_step
        ]
        return max(found, default=0.0)

    stepped = any(row.step is not None for row in report.rows)
    step = max(largest(stage, True) for stage in ("forward", "gradient", "update"))
    return Figures(
        largest("forward", False), largest("gradient", False), step if stepped else None
    )
