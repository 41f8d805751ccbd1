"""Do a torch module and an NNX module compute the same, forward and backward?"""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.flatten import flattened, replace, turned
from dlwp_jax.parity.forward import (
    DOUBLE_TOLERANCE,
    HALF_TOLERANCES,
    TOLERANCE,
    Layout,
    arrays,
    as_numpy,
    copied,
    dtype_of,
    fits_both_ways,
    input_turns,
    output_turns,
    outputs_of,
    random_in_train_mode,
    refuse_drawing,
    tensors,
    twin,
    whole_attention,
)
from dlwp_jax.parity.leaves import (
    dotted,
    jax_layers,
    refuse_hooked_weights,
    to_numpy,
    torch_layers,
)
from dlwp_jax.parity.locate import first_layer, statistics_notes
from dlwp_jax.parity.mapping import Entry, make_map, own_names
from dlwp_jax.parity.prefixes import common_prefixes
from dlwp_jax.parity.report import ParityReport, Row, floors_of_means, rows_of
from dlwp_jax.parity.rules import Rule, compiled
from dlwp_jax.parity.table import listed
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
      tolerance: allowed difference relative to the largest value of an array; 1e-4, or 1e-9 in
        float64, or eight roundings of a torch model in float16 or bfloat16 (whose port computes
        in its own dtype, or in float32).
      layout: which inputs have channels in axis 1, and are given to the JAX model channels
        last: "channels_first" or "as_is", for all or one for each; "auto" sees it from the
        first layer that reads an input (a convolution, or a Linear over the last axis) and
        takes channels first where it cannot.

    Returns:
      A `ParityReport`: print it, or call `.raise_if_different()`.

    Raises:
      ValueError: where the models do not fit together, or outputs have different shapes.
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
    report = _compare(torch_module, model, inputs, options)
    rounding = options.tolerance is None and dtype_of(torch_module) in (None, torch.float32)
    if report.ok or not rounding or _weights_differ(report):
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
            _doubled(model),
            [doubled(as_numpy(x)) for x in inputs],
            options._replace(double=True, tolerance=tolerance),
        )


def _compare(
    torch_module: torch.nn.Module, model: nnx.Module, inputs: Sequence[Any], options: _Options
) -> ParityReport:
    train, tolerance = options.train, options.tolerance
    if tolerance is None:
        tolerance = HALF_TOLERANCES.get(dtype_of(torch_module) or torch.float32, TOLERANCE)
    reference = twin(torch_module, train)
    random = _random_names(reference, inputs, train)
    if options.loaded:
        entries = aligned(reference, options.loaded)
    else:
        entries = matched(reference, model, inputs, options.rules)
    before = turned_leaves(entries, dict(reference.named_buffers()))
    turns = input_turns(reference, inputs, options.layout)
    xs = arrays(inputs, turns, dtype_of(reference))
    weights = _weight_rows(reference, model, entries)
    scout = copied(reference)
    theirs = _torch_side(reference, inputs, entries, turns)
    ours = _jax_side(model, xs, theirs["outputs"], theirs["cotangents"], train)
    left, notes = uncompared(reference, model, entries, options.loaded, options.rules)
    rows = [*left, *weights]
    outputs = _named("output", ours["outputs"]), _named("output", theirs["outputs"])
    forward = rows_of("forward", *outputs, tolerance=tolerance)
    if any(not row.ok for row in forward) and all(row.ok for row in rows):
        given = tensors(inputs, dtype_of(reference))
        found, note = first_layer(scout, model, given, xs, entries, train, tolerance)
        rows, notes = rows + found, (*notes, note)
    rows += forward
    if train:
        after = {dotted(path): value for path, value in flat(ours["rest"]).items()}
        buffers = turned_leaves(entries, dict(reference.named_buffers()))
        buffers = {name: value for name, value in buffers.items() if name in after}
        statistics = rows_of(
            "forward", after, buffers, tolerance=tolerance, floors=floors_of_means(buffers)
        )
        rows += statistics
        notes += statistics_notes(before, after, buffers, statistics)
    ours_grads = {dotted(path): value for path, value in flat(ours["grads"]).items()}
    rows += rows_of(
        "gradient",
        ours_grads | ours["input_grads"],
        theirs["grads"] | theirs["input_grads"],
        tolerance=tolerance,
    )
    if random:
        notes += (
            "warning: dropout not compared (random, and off in eval mode): "
            f"{', '.join(random)}",
        )
    running = [name for name, _ in reference.named_buffers() if name.endswith("running_mean")]
    if running and not train:
        names = listed([name.rpartition(".")[0] or "the model" for name in running])
        notes += (f"{MOMENTUM_UNSEEN} (eval mode does not use it, train=True does): {names}",)
    return ParityReport(tuple(rows), frozen_notes(reference, entries) + notes)


def _weights_differ(report: ParityReport) -> bool:
    return any(row.stage == "weights" and not row.ok for row in report.rows)


def _judged(
    report: ParityReport,
    torch_module: torch.nn.Module,
    model: nnx.Module,
    inputs: Sequence[Any],
    options: _Options,
) -> ParityReport:
    """Let differences in float32 pass that are rounding: those which float64 does not confirm.

    A ReLU or a max pooling on a tie chooses another side after another rounding, and then the
    gradients ahead of it jump, in torch as much as here.
    """
    wide = _compare_double(torch_module, model, inputs, options)
    confirmed = {(row.stage, row.leaf): row.ok for row in wide.rows}
    own = _own_rounding(torch_module, inputs, options)
    rows = []
    for row in report.rows:
        right = confirmed.get((row.stage, row.leaf), False)
        # Outputs are continuous, so that their rounding is bounded by torch's own.
        bounded = row.stage == "gradient" or row.max_rel <= _ROUNDINGS * own["forward"]
        if not row.ok and wide.ok and right and bounded and math.isfinite(row.max_abs):
            row = dataclasses.replace(row, allowed=row.max_abs, note="rounding")
        rows.append(row)
    if not wide.ok:
        found = [row for row in wide.rows if row.stage == "forward" and not row.ok][:1]
        known = {(row.stage, row.leaf) for row in rows}
        rows = [row for row in found if (row.stage, row.leaf) not in known] + rows
        kept = [note for note in report.notes if not note.startswith("first layer")]
        new = [note for note in wide.notes if note not in kept]
        return ParityReport(tuple(rows), (*kept, *new, "float64 differs too."))
    passed = [row.max_rel for row in rows if row.note == "rounding"]
    if not passed:
        return ParityReport(tuple(rows), (*report.notes, "float64 agrees."))
    note = (
        f"rounding: {len(passed)} arrays differ in float32, by up to {max(passed):.1e}, and "
        "agree "
        f"in float64. torch's own float32 lies up to {own['forward']:.1e} (forward) and "
        f"{own['gradient']:.1e} (gradients) from its float64."
    )
    kept = tuple(n for n in report.notes if not n.startswith("first layer"))
    return ParityReport(
        tuple(row for row in rows if row.ok or (row.stage, row.leaf) in confirmed),
        (*kept, note),
    )


# Float32 in another order of sums may err by more than torch's does, but not by orders of
# magnitude.
_ROUNDINGS = 16


def _own_rounding(
    torch_module: torch.nn.Module, inputs: Sequence[Any], options: _Options
) -> dict[str, float]:
    """How far torch's float32 lies from its float64, relative to an array's largest value."""
    narrow = twin(torch_module, options.train)
    wide = copied(narrow).double()
    turns = (False,) * len(inputs)
    near, far = (_torch_side(module, inputs, (), turns) for module in (narrow, wide))
    outputs = _named("output", near["outputs"]), _named("output", far["outputs"])
    forward = rows_of("forward", *outputs, tolerance=0.0)
    buffers = [
        {name: to_numpy(value) for name, value in module.named_buffers()}
        for module in (narrow, wide)
    ]
    forward += rows_of("forward", *buffers, tolerance=0.0)
    grads = [
        {name: to_numpy(value) for name, value in gradients(module).items()}
        for module in (narrow, wide)
    ]
    backward = rows_of("gradient", *grads, tolerance=0.0)
    return {
        "forward": max((row.max_rel for row in forward), default=0.0),
        "gradient": max((row.max_rel for row in backward), default=0.0),
    }


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


def aligned(module: torch.nn.Module, loaded: LoadReport) -> tuple[Entry, ...]:
    """The entries of a report under the names that the module itself gives to its arrays.

    The names may have come from a file under another prefix, or may have been changed by the
    user; then arrays of the same values are the same.
    """
    state = dict(module.state_dict(keep_vars=True))
    renamed = {name: name for name in loaded.state if name in state}
    theirs, own = common_prefixes(loaded.state, state)
    for name in loaded.state:
        if name not in renamed and own + name.removeprefix(theirs) in state:
            renamed[name] = own + name.removeprefix(theirs)
    taken = set(renamed.values())
    groups: dict[tuple, list[list[str]]] = defaultdict(list)
    for layer in torch_layers({n: v for n, v in state.items() if n not in taken}):
        names = _by_value(layer.leaves.values(), state)
        groups[tuple(_bytes(state[name]) for name in names)].append(names)
    for layer in torch_layers({n: v for n, v in loaded.state.items() if n not in renamed}):
        names = _by_value(layer.leaves.values(), loaded.state)
        same = groups.get(tuple(_bytes(loaded.state[name]) for name in names))
        if same:
            renamed.update(zip(names, same.pop(0), strict=True))
    return tuple(
        dataclasses.replace(entry, names=tuple(renamed.get(n, n) for n in entry.names))
        for entry in loaded.map.entries
    )


def _by_value(names: Iterable[str], state: Mapping[str, torch.Tensor]) -> list[str]:
    kept = [name for name in names if not name.endswith("num_batches_tracked")]
    return sorted(kept, key=lambda name: (_bytes(state[name]), name))


def _bytes(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    value = to_numpy(tensor)
    wide = value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
    return tuple(tensor.shape), wide.tobytes()


def uncompared(
    module: torch.nn.Module,
    model: nnx.Module,
    entries: Sequence[Entry],
    loaded: LoadReport | None,
    rules: Sequence[Rule],
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows for parameters on either side that have no counterpart, and a note that names them.

    What a rule dropped is only noted if it has no effect on the outputs (no gradient).
    """
    named = {name for entry in entries for name in entry.names}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    covered = {id(parameters[name]) for name in named if name in parameters}
    alone = {n: p for n, p in parameters.items() if id(p) not in covered}
    dropped = set(loaded.map.dropped) if loaded else set()
    patterns = [compiled(rule[0]) for rule in rules if rule[1] is None]
    dropped |= {n for n in alone if any(pattern.fullmatch(n) for pattern in patterns)}
    idle = [n for n, p in alone.items() if n in dropped and not _gradient(p).any()]
    paths = {entry.path for entry in entries}
    here = [
        dotted(leaf.path)
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
        if leaf.path not in paths and isinstance(leaf.variable, nnx.Param)
    ]
    away = [name for name in alone if name not in idle]
    rows = [
        Row(None, "weights", name, math.nan, math.nan, math.nan, 0.0, "not compared")
        for name in dict.fromkeys([*away, *here])
    ]
    notes = []
    if away:
        notes.append(
            f"not compared: torch's {listed(away)}: the map has no place for them (load the "
            "module itself, or its own state_dict)."
        )
    if here:
        notes.append(f"not compared: {listed(here)} of the JAX model: nothing of torch's.")
    if idle:
        notes.append(
            f"not compared: torch's {listed(idle)}, dropped by a rule and without effect here."
        )
    return rows, tuple(notes)


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


def _doubled(model: nnx.Module) -> nnx.Module:
    graph, state = nnx.split(nnx.clone(model))
    return nnx.merge(graph, jax.tree.map(doubled, state))


def doubled(x: Any) -> Any:
    """An array in float64, if it is of floats."""
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def matched(
    torch_module: torch.nn.Module,
    model: nnx.Module,
    inputs: Sequence[Any],
    rules: Sequence[Rule],
) -> tuple[Entry, ...]:
    """The map between two models whose weights are loaded already: a flatten turned then is
    recognised.
    """
    state = dict(torch_module.state_dict(keep_vars=True))
    refuse_hooked_weights(state, rules, own_names(model))
    mapped = make_map(state, model, rules)
    mapped.raise_if_incomplete()
    here = leaf_values(model)
    plain = {entry.path: entry for entry in mapped.entries}

    def fits(group: Sequence[Entry]) -> bool:
        return all(
            np.array_equal(e.transform.apply(to_numpy(state[e.names[0]])), here[e.path])
            for e in group
        )

    chains = flattened(torch_module, inputs) if inputs else []
    groups = [turned(mapped.entries, chain) for chain in chains]
    turns = [
        e
        for group in groups
        if fits(group) and not fits([plain[e.path] for e in group])
        for e in group
    ]
    return replace(mapped.entries, turns)


def leaf_values(model: nnx.Module) -> dict[tuple[Any, ...], np.ndarray]:
    """Every array of a model by path."""
    return {
        leaf.path: np.asarray(leaf.variable[...])
        for layer in jax_layers(model)
        for leaf in layer.leaves.values()
    }


def flat(tree: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Nested dicts of arrays as one dict of paths."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        key: leaf
        for name, below in tree.items()
        for key, leaf in flat(below, (*path, name)).items()
    }


def turned_leaves(
    entries: Sequence[Entry], values: Mapping[str, torch.Tensor | None]
) -> dict[str, np.ndarray]:
    """torch's arrays under the JAX model's names and in its layout; those without a value are
    left out.
    """
    found = {}
    for entry in entries:
        value = next(
            (values[name] for name in entry.names if values.get(name) is not None), None
        )
        if value is not None:
            found[dotted(entry.path)] = entry.transform.apply(to_numpy(value))
    return found


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of what is not frozen, by name; torch's None (nothing flowed back) is
    zero.
    """
    return {
        n: _gradient(p)
        for n, p in module.named_parameters(remove_duplicate=False)
        if p.requires_grad
    }


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def frozen_notes(module: torch.nn.Module, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Parameters whose gradients torch does not compute."""
    frozen = {
        n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    names = [dotted(entry.path) for entry in entries if frozen & set(entry.names)]
    return (f"gradients frozen in torch, not compared: {', '.join(names)}",) if names else ()


def _weight_rows(
    reference: torch.nn.Module, model: nnx.Module, entries: Sequence[Entry]
) -> list[Row]:
    """The weights must be equal to the bit; one row, or one for each that is not."""
    here = {dotted(path): value for path, value in leaf_values(model).items()}
    there = turned_leaves(entries, reference.state_dict(keep_vars=True))
    there = {
        name: value for name, value in there.items() if not name.endswith("num_batches_tracked")
    }
    rows = rows_of("weights", here, there, tolerance=0.0)
    return [row for row in rows if not row.ok] or [
        Row(None, "weights", f"all {len(rows)}", 0.0, 0.0, 0.0, 0.0)
    ]


def _named(name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {
        name if len(values) == 1 else f"{name} {i}": value for i, value in enumerate(values)
    }


def _torch_side(
    reference: torch.nn.Module,
    inputs: Sequence[Any],
    entries: Sequence[Entry],
    turns: Sequence[bool],
) -> dict[str, Any]:
    xs = [x.requires_grad_(x.is_floating_point()) for x in tensors(inputs, dtype_of(reference))]
    with whole_attention():
        outputs = [y for y in outputs_of(reference(*xs)) if y.is_floating_point()]
    # A seed that nobody draws inputs from: weighted by x itself, a norm of x has no gradient
    # but rounding.
    rng = np.random.default_rng(271828)
    cotangents = [rng.standard_normal(tuple(y.shape)).astype(np.float32) for y in outputs]
    loss = sum(
        (y * torch.from_numpy(c).to(y.dtype)).sum()
        for y, c in zip(outputs, cotangents, strict=True)
    )
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.backward()
    input_grads = {i: to_numpy(_gradient(x)) for i, x in enumerate(xs) if x.requires_grad}
    return {
        "outputs": [to_numpy(y) for y in outputs],
        "cotangents": cotangents,
        "grads": turned_leaves(entries, gradients(reference)),
        "input_grads": {
            f"input {i}": np.moveaxis(g, 1, -1) if turns[i] else g
            for i, g in input_grads.items()
        },
    }


def _jax_side(
    model: nnx.Module, xs: Sequence[jax.Array], theirs, cotangents, train: bool
) -> dict[str, Any]:
    model = nnx.clone(model)
    (model.train if train else model.eval)()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    floating = {i: x for i, x in enumerate(xs) if jnp.issubdtype(x.dtype, jnp.floating)}

    def forward(params, some):
        merged = nnx.merge(graph, params, rest, copy=True)
        outputs = outputs_of(merged(*(some.get(i, x) for i, x in enumerate(xs))))
        return [y for y in outputs if jnp.issubdtype(y.dtype, jnp.floating)], nnx.split(
            merged, nnx.Param, ...
        )[2]

    def run(params, some, cotangents):
        outputs, after = forward(params, some)
        return sum(jnp.sum(y * c) for y, c in zip(outputs, cotangents, strict=True)), (
            outputs,
            after,
        )

    with jax.default_matmul_precision("highest"):
        look = (
            jax.jit(forward)
            if any(map(fits_both_ways, theirs))
            else functools.partial(jax.eval_shape, forward)
        )
        turns = output_turns(look(params, floating)[0], theirs)
        cotangents = [
            np.moveaxis(c, 1, -1) if turn else c
            for c, turn in zip(cotangents, turns, strict=True)
        ]
        grad = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
        (grads, input_grads), (outputs, after) = grad(params, floating, cotangents)
    return {
        "outputs": [
            np.moveaxis(y, -1, 1) if turn else y for y, turn in zip(outputs, turns, strict=True)
        ],
        "rest": nnx.to_pure_dict(after),
        "grads": nnx.to_pure_dict(grads),
        "input_grads": {f"input {i}": np.asarray(g) for i, g in input_grads.items()},
    }
