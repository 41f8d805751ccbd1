"""Do a torch module and an NNX module compute the same, forward and backward?"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.forward import (
    DOUBLE_TOLERANCE,
    HALF_TOLERANCES,
    TOLERANCE,
    Layout,
    arrays,
    as_numpy,
    copied,
    dtype_of,
    input_turns,
    random_in_train_mode,
    refuse_drawing,
    tensors,
    twin,
    whole_attention,
)
from dlwp_jax.parity.leaves import dotted, to_numpy
from dlwp_jax.parity.locate import first_layer
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.pairs import (
    aligned,
    frozen_notes,
    leaf_values,
    matched,
    silent_notes,
    uncompared,
    unlike_statistics,
    unlike_variables,
)
from dlwp_jax.parity.report import ParityReport, Row, floors_of_means, rows_of
from dlwp_jax.parity.rules import Rule
from dlwp_jax.parity.sides import (
    NUMBER,
    WHOLE,
    Run,
    doubled,
    doubled_model,
    jax_run,
    torch_run,
    turned_leaves,
)
from dlwp_jax.parity.symptoms import gradient_notes, statistics_notes
from dlwp_jax.parity.table import listed
from dlwp_jax.parity.ulps import OwnDistances, rounding_notes
from dlwp_jax.parity.weights import LoadReport

MOMENTUM_UNSEEN = "warning: the momentum of batch norm not compared"


def compare(
    torch_module: torch.nn.Module,
    model: nnx.Module,
    *inputs: Any,
    loaded: LoadReport | None = None,
    rules: Sequence[Rule] = (),
    train: bool = False,
    double: bool = False,
    tolerance: float | None = None,
    layout: Layout = "auto",
) -> ParityReport:
    """Compare weights, outputs, gradients and (in train mode) batch statistics of two models.

    If outputs differ, the first layer that differs is named, and what the difference looks
    like. What has no counterpart is named as not compared, and then the report is not ok.
    Outputs of whole numbers or truths, and Python numbers, must be equal. In float32, what
    differs by more than torch's own rounding explains is decided in float64. In float64, where
    torch's own numbers move if its parameters move by an ulp, 10 times that is allowed, up to
    1e-5 of an array's largest value, and a note says so.

    The gradients are those of a weighted sum of all outputs, with random weights, with respect
    to every floating input and every parameter that is not frozen in torch; where nothing flows
    back in torch they must be zero. Neither model is changed. The JAX side runs under jit.

    Args:
      torch_module: the referee.
      model: the NNX module, its weights loaded (`load_torch`).
      *inputs: arrays in torch's layout, `[N C ...]` or `[N T C]`; see `layout`. Floating ones
        are given in the dtype of torch's parameters.
      loaded: the report of `load_torch`; without it the layers are matched anew, with `rules`.
      train: compare in train mode: batch norm by the batch's statistics. Refused where dropout
        is on.
      double: compute in float64 in both. Where max pooling or ReLU stand on a tie, float32's
        rounding may choose another side in each framework, and gradients then differ by more
        than rounding; in float64 they do not.
      tolerance: allowed difference relative to the largest value of an array. By default 1e-4,
        and no more than torch's own rounding explains; 1e-9 in float64; eight roundings of a
        torch model in float16 or bfloat16 (whose port computes in its own dtype, or in
        float32).
      layout: which inputs have channels in axis 1, and are given to the JAX model channels
        last: "channels_first" or "as_is", for all or one for each; "auto" sees it from the
        first layer that reads an input (a convolution, or a Linear over the last axis) and
        takes channels first where it cannot.

    Returns:
      A `ParityReport`: print it, or call `.raise_if_different()`.

    Raises:
      ValueError: if the models do not fit together, or outputs have different keys or shapes,
        or there are none.
      TypeError: for models of another kind, as the two in the wrong order.

    >>> from dlwp_jax import nn, parity
    >>> theirs = torch.nn.Linear(3, 2)
    >>> ours = nn.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> report = parity.load_torch(ours, theirs)
    >>> parity.compare(theirs, ours, np.ones((4, 3), np.float32)).raise_if_different().ok
    True
    """
    refuse_other_models(torch_module, model)
    if not inputs or not all(map(np.size, inputs)):
        raise ValueError(
            "compare needs at least one input, with values; shapes: "
            f"{list(map(np.shape, inputs))}."
        )
    options = _Options(loaded, tuple(rules), train, layout, double, tolerance)
    if double:
        return _compare_double(torch_module, model, inputs, options)
    rounding = options.tolerance is None and dtype_of(torch_module) in (None, torch.float32)
    report = _compare(torch_module, model, inputs, options, locate=not rounding)
    if not rounding or _weights_differ(report):
        return report
    return _judged(report, torch_module, model, inputs, options)


class _Options(NamedTuple):
    """The options of `compare`."""

    loaded: LoadReport | None
    rules: tuple[Rule, ...]
    train: bool
    layout: Layout
    double: bool
    tolerance: float | None


def _compare_double(
    torch_module: torch.nn.Module, model: nnx.Module, inputs: Sequence[Any], options: _Options
) -> ParityReport:
    tolerance = DOUBLE_TOLERANCE if options.tolerance is None else options.tolerance
    with jax.enable_x64(True):
        return _compare(
            copied(torch_module).double(),
            doubled_model(model),
            [doubled(as_numpy(x)) for x in inputs],
            options._replace(double=True, tolerance=tolerance),
        )


def _compare(
    torch_module: torch.nn.Module,
    model: nnx.Module,
    inputs: Sequence[Any],
    options: _Options,
    locate: bool = True,
) -> ParityReport:
    train, tolerance = options.train, options.tolerance
    if tolerance is None:
        tolerance = HALF_TOLERANCES.get(dtype_of(torch_module) or torch.float32, TOLERANCE)
    reference = twin(torch_module, train)
    random = _random_names(reference, inputs, train)
    entries = _entries(reference, model, inputs, options)
    turns = input_turns(reference, inputs, options.layout)
    xs = arrays(inputs, turns, dtype_of(reference))
    weights = _weight_rows(reference, model, entries)
    buffers = {name: value.clone() for name, value in reference.named_buffers()}
    scout = copied(reference)
    theirs = torch_run(reference, inputs, entries, turns)
    ours = jax_run(model, xs, theirs, train)
    theirs = theirs._replace(numbers=ours.numbers)
    own = None
    if options.double:
        own = OwnDistances(
            lambda: copied(scout),
            lambda module: _numbers(module, inputs, entries, turns, ours.numbers),
        )
    rows, notes = uncompared(reference, model, entries, options.loaded, options.rules)
    rows += weights
    forward = [
        row
        for exact in (False, True)
        for row in _rows_of(
            "forward",
            ours.named_outputs(exact),
            theirs.named_outputs(exact),
            0.0 if exact else tolerance,
            None if exact else own,
        )
    ]
    if locate and _differ(forward) and not _differ(rows):
        given = tensors(inputs, dtype_of(reference))
        found, note = first_layer(copied(scout), model, given, xs, entries, train, tolerance)
        rows, notes = rows + found, (*notes, note)
    rows += forward
    parts = [unlike_variables(entries, buffers, theirs, ours)]
    if train:
        parts = [
            _statistics(reference, buffers, entries, ours, tolerance, own),
            unlike_statistics(reference, entries, buffers, ours.after),
            *parts,
        ]
    known = theirs.gradients, ours.gradients
    parts.append(_gradients(*known, tolerance, own, _differ(forward)))
    for more, words in parts:
        rows, notes = [*rows, *more], (*notes, *words)
    notes += silent_notes(theirs, ours)
    if random:
        notes += (
            "warning: dropout not compared (random, and off in eval mode): "
            f"{', '.join(random)}",
        )
    running = [name for name in buffers if name.endswith("running_mean")]
    if running and not train:
        names = listed([name.rpartition(".")[0] or "the model" for name in running])
        notes += (f"{MOMENTUM_UNSEEN} (eval mode does not use it, train=True does): {names}",)
    notes = frozen_notes(reference, entries) + notes + rounding_notes(rows)
    return ParityReport(tuple(rows), notes)


def _numbers(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    entries: Sequence[Entry],
    turns: Sequence[bool],
    numbers: set[int],
) -> dict[str, dict[str, np.ndarray]]:
    """What torch's model computes, by kind and name."""
    run = torch_run(module, inputs, entries, turns)._replace(numbers=numbers)
    after = turned_leaves(entries, dict(module.named_buffers()))
    outputs = run.named_outputs(exact=False)
    return {"forward": outputs, "statistics": after, "gradient": run.gradients}


def _rows_of(
    stage: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    tolerance: float,
    own: OwnDistances | None,
    floors: Mapping[str, float] | None = None,
) -> list[Row]:
    """Rows, in float64 judged by torch's own distances; only statistics have floors."""
    rows = rows_of(stage, ours, theirs, tolerance=tolerance, floors=floors)
    kind = stage if floors is None else "statistics"
    return own.judged(kind, rows, theirs, tolerance) if own else rows


def _entries(
    reference: torch.nn.Module, model: nnx.Module, inputs: Sequence[Any], options: _Options
) -> tuple[Entry, ...]:
    if options.loaded:
        return aligned(reference, options.loaded)
    return matched(reference, model, inputs, options.rules)


def _differ(rows: Sequence[Row]) -> bool:
    return any(not row.ok for row in rows)


def _gradients(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    tolerance: float,
    own: OwnDistances | None,
    outputs_differ: bool,
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of the gradients that both models have, and what wrong ones look like."""
    compared = {name: value for name, value in theirs.items() if name in ours}
    rows = _rows_of("gradient", ours, compared, tolerance, own)
    return rows, () if outputs_differ else gradient_notes(theirs, ours, rows)


def _statistics(
    reference: torch.nn.Module,
    buffers: Mapping[str, torch.Tensor],
    entries: Sequence[Entry],
    ours: Run,
    tolerance: float,
    own: OwnDistances | None,
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of running statistics after a run, and what a wrong one looks like."""
    before = turned_leaves(entries, buffers)
    after = turned_leaves(entries, dict(reference.named_buffers()))
    after = {name: value for name, value in after.items() if name in ours.after}
    floors = floors_of_means(after)
    rows = _rows_of("forward", ours.after, after, tolerance, own, floors)
    return rows, statistics_notes(before, ours.after, after, rows)


def _weights_differ(report: ParityReport) -> bool:
    return any(row.stage == "weights" and not row.ok for row in report.rows)


def _judged(
    report: ParityReport,
    torch_module: torch.nn.Module,
    model: nnx.Module,
    inputs: Sequence[Any],
    options: _Options,
) -> ParityReport:
    """Judge float32 by how far torch's own float32 lies from its float64.

    Float64 decides if something is too far apart, or an output farther than torch's own
    rounding explains. A ReLU or a max pooling on a tie chooses another side after another
    rounding, and then the gradients ahead of it jump, in torch as much as here.
    """
    own = _own_rounding(torch_module, model, inputs, options)
    farthest = _farthest(report, TOLERANCE, *_CONTINUOUS)
    rounding = _LEAST + (own.forward if own else 0.0)
    small = bool(own) and _small_gradients_differ(report, own)
    if own and report.ok and farthest <= _ASKED * rounding and not small:
        return report
    wide = None
    if own:
        with contextlib.suppress(TypeError, ValueError):  # a model of float32 alone
            wide = _compare_double(torch_module, model, inputs, options)
    if own is None or wide is None:
        which = "the JAX model" if own else "torch"
        note = f"{which} does not run in float64, which would decide."
        narrow = report if report.ok else _compare(torch_module, model, inputs, options)
        return narrow if report.ok else _with_note(narrow, note)
    words = (
        f"torch's own float32 lies up to {own.forward:.1e} (forward) and "
        f"{own.gradient:.1e} (gradients) from its float64."
    )
    if not wide.ok:
        # Nearer in float64: a part is computed in float32 there too, and rounded otherwise.
        nearer = _farthest(wide, DOUBLE_TOLERANCE, *_CONTINUOUS) < 0.7 * farthest
        if report.ok and nearer and not small:
            return report
        apart = _apart(wide, report)
        return _with_note(wide, f"decided in float64, whose figures these are: {apart}{words}")
    rows = []
    for row in report.rows:
        # Outputs are continuous, so that their rounding is bounded by torch's own.
        bounded = row.max_rel <= _ROUNDINGS * rounding or row.stage == "gradient"
        if not row.ok and (bounded or _is_whole(row)) and math.isfinite(row.max_abs):
            row = dataclasses.replace(row, allowed=row.max_abs, note="rounding")
        rows.append(row)
    report = dataclasses.replace(report, rows=tuple(rows))
    passed = [row.max_rel for row in rows if row.note == "rounding"]
    if not passed:
        return report if report.ok else _with_note(report, "float64 agrees.")
    note = (
        f"rounding: {len(passed)} arrays differ in float32, by up to {max(passed):.1e}, and "
        f"agree in float64. {words}"
    )
    notes = report.notes + rounding_notes(wide.rows) + (note,)
    return dataclasses.replace(report, notes=notes)


def _with_note(report: ParityReport, note: str) -> ParityReport:
    return dataclasses.replace(report, notes=(*report.notes, note))


# Kinds of arrays that move by no more than rounding if a rounding moves.
_CONTINUOUS = ("outputs", "statistics")


def _kind(row: Row) -> str:
    """What a row compares, as a sentence calls it."""
    if row.stage != "forward":
        return f"{row.stage}s"
    if _is_whole(row):
        return "outputs of whole numbers"
    if row.leaf.endswith(NUMBER):
        return "Python numbers"
    return "outputs" if re.fullmatch(r"output( \d+)?", row.leaf) else "statistics"


def _apart(wide: ParityReport, narrow: ParityReport) -> str:
    """What differs in float64, and by how much it does in float32; "" if nothing compared."""
    away = {_kind(row) for row in wide.rows if not row.ok and not row.note}
    for kind in (
        "outputs",
        "outputs of whole numbers",
        "Python numbers",
        "statistics",
        "gradients",
    ):
        if kind in away:
            farthest = _farthest(narrow, TOLERANCE, kind)
            return f"the {kind} differ by up to {farthest:.1e} in float32, and "
    return ""


def _is_whole(row: Row) -> bool:
    return row.leaf.endswith(WHOLE)


def _farthest(report: ParityReport, tolerance: float, *kinds: str) -> float:
    """The largest difference among arrays of these kinds, in units of its size."""
    return max(
        (
            row.max_abs / (row.allowed / tolerance or 1.0)
            for row in report.rows
            if _kind(row) in kinds
        ),
        default=0.0,
    )


def _small_gradients_differ(report: ParityReport, own: "_Rounding") -> bool:
    """Whether gradients too small to be judged differ by far more than torch's rounding."""
    return any(
        row.note == "below floor"
        and row.max_rel > _FAR * (own.of_gradients.get(row.leaf, math.inf) + _LEAST)
        for row in report.rows
    )


# Float32 in another order of sums may err by more than torch's does, but not by orders of
# magnitude: from _ASKED times on, float64 is asked.
_ASKED = 6
_ROUNDINGS = 16
_FAR = 50
# torch's error may be small by chance; a sum of some terms errs by this.
_LEAST = 1.2e-7


class _Rounding(NamedTuple):
    """How far torch's float32 lies from its float64.

    Attributes:
      forward, gradient: the largest difference of an output or statistic, and of a gradient, in
        units of its size.
      of_gradients: that of each gradient, relative to its own largest value.
    """

    forward: float
    gradient: float
    of_gradients: dict[str, float]


def _own_rounding(
    torch_module: torch.nn.Module, model: nnx.Module, inputs: Sequence[Any], options: _Options
) -> _Rounding | None:
    """torch's rounding; None if the model runs in float32 only."""
    narrow = twin(torch_module, options.train)
    wide = copied(narrow).double()
    entries = _entries(narrow, model, inputs, options)
    turns = (False,) * len(inputs)
    try:
        runs = [torch_run(module, inputs, entries, turns) for module in (narrow, wide)]
    except (RuntimeError, ValueError, TypeError):
        return None
    outputs = [run.named_outputs(exact=False) for run in runs]
    states = [
        {name: to_numpy(value) for name, value in module.named_buffers()}
        for module in (narrow, wide)
    ]
    forward = rows_of("forward", *outputs, tolerance=1.0)
    forward += rows_of("forward", *states, tolerance=1.0, floors=floors_of_means(states[1]))
    gradient = rows_of("gradient", *(run.gradients for run in runs), tolerance=1.0)
    return _Rounding(
        _largest(forward), _largest(gradient), {row.leaf: row.max_rel for row in gradient}
    )


def _largest(rows: Sequence[Row]) -> float:
    return max((row.max_abs / (row.allowed or 1.0) for row in rows), default=0.0)


def _random_names(reference: torch.nn.Module, inputs: Sequence[Any], train: bool) -> list[str]:
    """What is random in train mode and so is not compared in eval mode.

    Raises:
      ValueError: if random numbers are drawn in the mode that is compared.
    """
    given = tensors(inputs, dtype_of(reference))
    run = functools.partial(_call, inputs=given)
    refuse_drawing(copied(reference), run, "train" if train else "eval")
    return [] if train else random_in_train_mode(reference, run)


def _call(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    with torch.no_grad(), whole_attention():
        module(*inputs)


def refuse_other_models(torch_module: Any, model: Any) -> None:
    """Two models in the wrong order, or of another kind."""
    for which, given, kind in (
        ("first", torch_module, torch.nn.Module),
        ("second", model, nnx.Module),
    ):
        if not isinstance(given, kind):
            raise TypeError(
                f"the {which} model is a {type(given).__name__}; a "
                f"{kind.__module__}.{kind.__name__} is wanted."
            )


def _weight_rows(
    reference: torch.nn.Module, model: nnx.Module, entries: Sequence[Entry]
) -> list[Row]:
    """The weights must be equal to the bit; one row, or one for each that is not."""
    here = {dotted(path): value for path, value in leaf_values(model).items()}
    if alien := [dotted(e.path) for e in entries if dotted(e.path) not in here]:
        raise ValueError(
            f"the JAX model has no {listed(alien)}, which load_torch filled: give the report "
            "of load_torch(model, ...) of this very model."
        )
    there = turned_leaves(entries, reference.state_dict(keep_vars=True))
    there = {
        name: value for name, value in there.items() if not name.endswith("num_batches_tracked")
    }
    rows = rows_of("weights", here, there, tolerance=0.0)
    return [row for row in rows if not row.ok] or [
        Row(None, "weights", f"all {len(rows)}", 0.0, 0.0, 0.0, 0.0)
    ]
