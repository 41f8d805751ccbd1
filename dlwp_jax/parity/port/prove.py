"""The proof of a port: forward, gradients and training steps against torch, in float64."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch.overrides import TorchFunctionMode

from dlwp_jax import optim, train
from dlwp_jax.parity.compare import MOMENTUM_UNSEEN, compare
from dlwp_jax.parity.forward import as_numpy, outputs_of, without_dropout
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
    """Load torch's weights into the port, in place, and compare the two models.

    Compared are eval mode and five steps of SGD with momentum in train mode, with dropout set to 0
    in both, all in float64; and train mode by itself if the model computes something else in it.

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
    loaded = load_torch(ours, theirs)
    options: dict[str, Any] = {"double": True, "layout": layout}
    report = compare(theirs, ours, *inputs, loaded=loaded, **options)
    rows, notes = list(report.rows), report.notes
    if modes == "eval":
        return ParityReport(
            tuple(rows), (*notes, "train mode was not compared: torch does not run in it.")
        )
    pair = without_dropout(theirs), without_dropout(ours)
    with _NoDropout():
        return _in_train_mode(*pair, inputs, loaded, layout, modes, rows, notes)


class _NoDropout(TorchFunctionMode):
    """While it is entered, functions of dropout leave everything as it is, in torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", "") and (args or "input" in kwargs):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


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
    theirs = copy.deepcopy(theirs).train()

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
