"""Training in both frameworks, step by step, until they part."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from dlwp_jax.parity.compare import refuse_other_models
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
    refuse_drawing,
    refuse_random,
    unwrapped,
)
from dlwp_jax.parity.leaves import dotted, to_numpy
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.pairs import aligned, frozen_notes, matched, uncompared
from dlwp_jax.parity.report import ParityReport, Row, floors_of_means, largest, rows_of
from dlwp_jax.parity.rules import Rule
from dlwp_jax.parity.sides import doubled, flat, gradients, turned_leaves
from dlwp_jax.parity.symptoms import gradient_notes, statistics_notes, update_notes
from dlwp_jax.parity.ulps import NOTE, OwnDistances, rounding_notes
from dlwp_jax.parity.weights import LoadReport
from dlwp_jax.train import Learner, TrainState

TorchLoss = Callable[[torch.nn.Module, Any], torch.Tensor]


def compare_steps(
    torch_model: torch.nn.Module,
    torch_opt: torch.optim.Optimizer,
    learner: Learner,
    state: TrainState,
    batches: Iterable[Any],
    torch_loss: TorchLoss,
    *,
    loaded: LoadReport | None = None,
    rules: Sequence[Rule] = (),
    double: bool = False,
    tolerance: float | None = None,
    layout: Layout = "auto",
) -> ParityReport:
    """Take the same training steps in torch and here, and say where they first differ.

    Each step has three stages. *Forward*: the loss, and batch statistics. *Gradient*: of every
    parameter that is not frozen in torch. *Update*: the parameters after the optimizer, both
    optimizers being given torch's gradients. Every step starts from torch's parameters, so a
    difference is found at the step, leaf and stage where it arises; what rounding alone would
    grow into over the steps is not counted. The optimizers' own states are never brought into
    line.

    Args:
      torch_model, torch_opt: the reference and its optimizer; copies are trained. Its learning
        rate stays as it is: compare schedules by themselves.
      learner, state: from `dlwp_jax.train.make_learner`, the weights loaded (`load_torch`), and
        the optimizer's state if torch's is not fresh (`torch_optimizer`).
      batches: pytrees of arrays in torch's layout. The learner gets images channels last; see
        `layout`.
      torch_loss: `torch_loss(model, batch)` is what `learner.loss_fn` computes, as a scalar
        tensor.
      loaded: the report of `load_torch`; without it the layers are matched anew, with `rules`.
      double: train both in float64, where no rounding puts a pooling or a ReLU on another side
        than in torch.
      tolerance: allowed difference relative to the largest value of an array (1e-4, or 1e-9 in
        float64); of an update, to the largest change, and two ulp of the parameter besides. In
        float64 more is allowed where torch's own numbers move, as in `compare`.
      layout: as in `compare`, for the arrays of a batch in the order of `jax.tree.leaves`.

    Returns:
      A `ParityReport`. Of a step without a difference it keeps the worst row of each stage; the
      first step with one is the last, and its `first_difference` names step, stage and leaf.

    Raises:
      ValueError: where the models do not fit together, a random layer (dropout) is on, or there
        is no batch.
      NotImplementedError: for a torch model in 16-bit floats, whose rounding hides a wrong
        step.

    >>> from flax import nnx
    >>> from dlwp_jax import nn, optim, parity, train
    >>> theirs, ours = torch.nn.Linear(2, 1), nn.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> loaded = parity.load_torch(ours, theirs)
    >>> learner, state = train.make_learner(
    ...     ours, lambda m, b: (jnp.mean(m(b) ** 2), {}), optim.sgd(0.2), key=jax.random.key(0)
    ... )
    >>> opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    >>> batches = [np.ones((3, 2), np.float32)] * 2
    >>> loss = lambda m, b: (m(b) ** 2).mean()
    >>> report = compare_steps(theirs, opt, learner, state, batches, loss)
    >>> report.first_difference.step, report.first_difference.stage  # 0.2 is not 0.1
    (0, 'update')
    """
    refuse_other_models(torch_model, learner.model(state))
    torch_model, torch_opt = copied((torch_model, torch_opt))
    if double:
        _double_in_place(torch_model, torch_opt)
        with jax.enable_x64(True):
            wide = (jax.tree.map(lambda x: doubled(as_numpy(x)), batch) for batch in batches)
            state = jax.tree.map(doubled, state)
            options = {"loaded": loaded, "rules": rules, "layout": layout}
            tolerance = DOUBLE_TOLERANCE if tolerance is None else tolerance
            return compare_steps(
                torch_model,
                torch_opt,
                learner,
                state,
                wide,
                torch_loss,
                tolerance=tolerance,
                **options,
            )
    tolerance = TOLERANCE if tolerance is None else tolerance
    torch_model = unwrapped(torch_model)
    torch_model.train()
    refuse_random(torch_model)
    if dtype_of(torch_model) in HALF_TOLERANCES:
        raise NotImplementedError(
            f"steps in {dtype_of(torch_model)} are not compared; train both models in float32."
        )
    model = learner.model(state)
    if loaded:
        entries = aligned(torch_model, loaded)
    else:
        entries = matched(torch_model, model, (), rules)
    left, notes = uncompared(torch_model, model, entries, loaded, rules)
    if rows := left + _weights(torch_model, state, entries):
        return ParityReport(tuple(rows), notes)
    jax_step = jax.jit(_JaxStep(learner))
    kept: list[Row] = []
    rounded: list[Row] = []
    turns: tuple[bool, ...] | None = None
    for number, batch in enumerate(batches):
        if turns is None:
            turns = _turns(torch_model, torch_loss, batch, layout)
        with jax.default_matmul_precision("highest"):
            state, rows, words = _step(
                torch_model,
                torch_opt,
                torch_loss,
                jax_step,
                state,
                entries,
                batch,
                turns,
                number,
                tolerance,
            )
        differing = [row for row in rows if not row.ok]
        kept += differing or _worst(rows)
        rounded += [row for row in rows if row.ok]
        if differing:
            notes += words
            break
    if not kept:
        raise ValueError(
            "compare_steps needs at least one batch; `batches` is empty (a generator that was "
            "used up?)."
        )
    # Now that there are gradients: which parameters that a rule dropped have one.
    more, words = uncompared(torch_model, model, entries, loaded, rules)
    notes = (*words, *(note for note in notes if not note.startswith("not compared")))
    notes += rounding_notes(rounded)
    return ParityReport((*more, *kept), frozen_notes(torch_model, entries) + notes)


def _double_in_place(torch_model: torch.nn.Module, torch_opt: torch.optim.Optimizer) -> None:
    torch_model.double()  # the parameters stay the same objects, which the optimizer trains
    for kept in torch_opt.state.values():
        wide = {
            n: v.double()
            for n, v in kept.items()
            if isinstance(v, torch.Tensor) and v.is_floating_point()
        }
        kept.update({name: value for name, value in wide.items() if name != "step"})


@dataclasses.dataclass(frozen=True)
class _JaxStep:
    """Loss, statistics and gradients here; and the parameters that torch's gradients, where
    given, lead to.
    """

    learner: Learner

    def __call__(self, state: TrainState, batch: Any, torch_grads: dict[str, Any]):
        def loss_fn(params):
            return self.learner.loss(state, params, batch, state.key, train=True)

        (loss, (_, extra)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        given = jax.tree_util.tree_map_with_path(
            lambda path, grad: torch_grads.get(dotted(tuple(key.key for key in path)), grad),
            grads,
        )
        more = {"value": loss, "grad": given, "value_fn": lambda params: loss_fn(params)[0]}
        tx = optax.with_extra_args_support(self.learner.tx)
        updates, opt_state = tx.update(given, state.opt_state, state.params, **more)
        params = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.params, updates)
        new = dataclasses.replace(
            state, params=params, extra=extra, opt_state=opt_state, step=state.step + 1
        )
        return loss, grads, new


def _turns(
    torch_model: torch.nn.Module, torch_loss: TorchLoss, batch: Any, layout: Layout
) -> tuple[bool, ...]:
    """Which arrays of a batch have their channels in axis 1, seen from a copy of the model at
    work.
    """
    leaves, structure = jax.tree.flatten(batch)
    scout = copied(torch_model)
    given = _torch_batch(batch)
    refuse_drawing(copied(scout), lambda module: torch_loss(module, given), "train")
    return input_turns(
        scout, leaves, layout, lambda tensors: torch_loss(scout, structure.unflatten(tensors))
    )


def _weights(
    torch_model: torch.nn.Module, state: TrainState, entries: Sequence[Entry]
) -> list[Row]:
    """Parameters that are not torch's to begin with."""
    there = turned_leaves(entries, dict(torch_model.named_parameters(remove_duplicate=False)))
    rows = rows_of("weights", _arrays(state), there, tolerance=0.0, step=0)
    return [row for row in rows if not row.ok]


def _step(
    torch_model,
    torch_opt,
    torch_loss,
    jax_step,
    state,
    entries,
    batch,
    turns,
    number,
    tolerance,
):
    leaves, structure = jax.tree.flatten(batch)
    ours_batch = structure.unflatten(arrays(leaves, turns))
    theirs_batch = _torch_batch(batch)
    before = _parameters(torch_model, entries)
    buffers = {name: value.clone() for name, value in torch_model.named_buffers()}
    old = _floating(turned_leaves(entries, buffers))

    torch_opt.zero_grad()
    torch_model.zero_grad()  # what is in no group of the optimizer's would add its gradients up
    numbers = _torch_pass(torch_model, torch_loss, theirs_batch, entries)
    loss, statistics = numbers["forward"], numbers["statistics"]
    torch_grads = numbers["gradient"]
    jax_loss, grads, new = jax_step(state, ours_batch, torch_grads)
    ours = _arrays(new)
    ours_grads = {dotted(path): grad for path, grad in flat(grads).items()}
    trained = {name: grad for name, grad in torch_grads.items() if name in ours_grads}
    rows = rows_of("forward", {"loss": jax_loss}, loss, tolerance=tolerance, step=number)
    moved = rows_of(
        "forward",
        ours,
        statistics,
        tolerance=tolerance,
        step=number,
        floors=floors_of_means(statistics),
    )
    gradient = rows_of("gradient", ours_grads, trained, tolerance=tolerance, step=number)
    if dtype_of(torch_model) is torch.float64:
        own = OwnDistances(
            lambda: _with_buffers(torch_model, buffers),
            lambda model: _torch_pass(model, torch_loss, theirs_batch, entries),
        )
        rows = own.judged("forward", rows, loss, tolerance)
        moved = own.judged("statistics", moved, statistics, tolerance)
        gradient = own.judged("gradient", gradient, trained, tolerance)

    torch_opt.step()
    after = _parameters(torch_model, entries)
    changes = {name: largest(after[name] - before[name]) for name in after}
    update = rows_of(
        "update", ours, after, tolerance=tolerance, sizes=changes, rounding=2, step=number
    )
    notes = statistics_notes(old, ours, statistics, moved)
    if all(row.ok for row in rows):
        notes += gradient_notes(trained, ours_grads, gradient)
    notes += update_notes(before, ours, after, update, number)
    return _follow(new, after | statistics), [*rows, *moved, *gradient, *update], notes


def _torch_batch(batch: Any) -> Any:
    return jax.tree.map(lambda x: torch.from_numpy(as_numpy(x)), batch)


def _torch_pass(
    model: torch.nn.Module, torch_loss: TorchLoss, batch: Any, entries: Sequence[Entry]
) -> dict[str, dict[str, np.ndarray]]:
    """What a torch step computes, by kind and name: the loss, buffers after it, gradients."""
    loss = torch_loss(model, batch)
    loss.backward()
    statistics = _floating(turned_leaves(entries, dict(model.named_buffers())))
    return {
        "forward": {"loss": to_numpy(loss)},
        "statistics": statistics,
        "gradient": turned_leaves(entries, gradients(model)),
    }


def _with_buffers(model: torch.nn.Module, buffers: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A copy of the model with these buffers."""
    model = copied(model)
    for name, value in buffers.items():
        model.get_buffer(name).copy_(value)
    return model


def _parameters(
    torch_model: torch.nn.Module, entries: Sequence[Entry]
) -> dict[str, np.ndarray]:
    parameters = dict(torch_model.named_parameters(remove_duplicate=False))
    return turned_leaves(entries, parameters)


def _floating(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: value for name, value in values.items() if np.issubdtype(value.dtype, np.floating)
    }


def _arrays(state: TrainState) -> dict[str, Any]:
    return {
        dotted(path): value
        for part in (state.params, state.extra)
        for path, value in flat(part).items()
    }


def _follow(state: TrainState, values: dict[str, np.ndarray]) -> TrainState:
    """The state with torch's parameters and statistics."""

    def theirs(path, leaf):
        value = values.get(dotted(tuple(key.key for key in path)))
        return leaf if value is None else jnp.asarray(value, leaf.dtype)

    params, extra = (
        jax.tree_util.tree_map_with_path(theirs, part) for part in (state.params, state.extra)
    )
    return dataclasses.replace(state, params=params, extra=extra)


def _worst(rows: Sequence[Row]) -> list[Row]:
    """The row of each stage that is nearest to what is allowed; before it, the farthest of
    those that pass because torch's own numbers move.
    """
    stages: dict[str, Row] = {}
    for row in rows:
        best = stages.get(row.stage)
        if best is None or _is_worse(row, best):
            stages[row.stage] = row
    return list(stages.values())


def _is_worse(row: Row, best: Row) -> bool:
    rounded = row.note == NOTE, best.note == NOTE
    if rounded == (True, True):
        return min(row.max_rel, row.max_abs) > min(best.max_rel, best.max_abs)
    if any(rounded):
        return rounded[0]
    return row.max_abs * best.allowed > best.max_abs * row.allowed
