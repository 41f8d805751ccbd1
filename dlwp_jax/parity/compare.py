"""Do a torch module and an NNX module compute the same, forward and backward?"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.flatten import flattened, replace, turned
from dlwp_jax.parity.forward import (
    Layout,
    arrays,
    as_numpy,
    dtype_of,
    fits_both_ways,
    input_turns,
    output_turns,
    outputs_of,
    random_layers,
    tensors,
    twin,
)
from dlwp_jax.parity.leaves import dotted, jax_layers, refuse_unsupported, to_numpy
from dlwp_jax.parity.mapping import Entry, make_map
from dlwp_jax.parity.report import ParityReport, Row, rows_of
from dlwp_jax.parity.rules import Rule
from dlwp_jax.parity.weights import LoadReport

# Float32 keeps 6e-8 a rounding; sums over thousands of products, in another order, ten layers
# deep and through
# batch norms reach some 1e-6 to 1e-5 of the largest value. Most wrong options show at 1e-3 and
# above, but a small
# one (an eps of 1e-6 for 1e-5) may not: `double=True` finds that.
TOLERANCE = 1e-4
# The same sums in float64 (1e-16 a rounding), with room for functions whose own float64
# versions differ (erf, exp).
DOUBLE_TOLERANCE = 1e-9
# 16-bit floats round every layer's output by half of these; some layers deep, forward and
# backward, errors of some
# roundings were seen (tests/test_parity_compare.py), and eight are allowed.
HALF_TOLERANCES = {torch.float16: 8 * 2.0**-10, torch.bfloat16: 8 * 2.0**-7}


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
            f"compare needs at least one input, with values; shapes: {list(map(np.shape, inputs))}."
        )
    if double:
        with jax.enable_x64(True):
            return compare(
                copy.deepcopy(torch_module).double(),
                _doubled(model),
                *(doubled(as_numpy(x)) for x in inputs),
                loaded=loaded,
                rules=rules,
                train=train,
                tolerance=DOUBLE_TOLERANCE if tolerance is None else tolerance,
                layout=layout,
            )
    if tolerance is None:
        tolerance = HALF_TOLERANCES.get(dtype_of(torch_module) or torch.float32, TOLERANCE)
    reference = twin(torch_module, train)
    entries = loaded.map.entries if loaded else matched(reference, model, inputs, rules)
    rows = _weight_rows(reference, model, entries)
    turns = input_turns(reference, inputs, layout)
    theirs = _torch_side(reference, inputs, entries, turns)
    ours = _jax_side(
        model,
        arrays(inputs, turns, dtype_of(reference)),
        theirs["outputs"],
        theirs["cotangents"],
        train,
    )
    ours_named, theirs_named = (
        _named("output", ours["outputs"]),
        _named("output", theirs["outputs"]),
    )
    rows += rows_of("forward", ours_named, theirs_named, tolerance=tolerance)
    if train:
        after = {dotted(path): value for path, value in flat(ours["rest"]).items()}
        buffers = turned_leaves(entries, dict(reference.named_buffers()))
        buffers = {name: value for name, value in buffers.items() if name in after}
        rows += rows_of("forward", after, buffers, tolerance=tolerance)
    ours_grads = {dotted(path): value for path, value in flat(ours["grads"]).items()} | ours[
        "input_grads"
    ]
    theirs_grads = theirs["grads"] | theirs["input_grads"]
    rows += rows_of("gradient", ours_grads, theirs_grads, tolerance=tolerance)
    return ParityReport(
        tuple(rows), frozen_notes(reference, entries) + _dropout_notes(reference, train)
    )


def refuse_other_models(torch_module: Any, model: Any) -> None:
    """Two models in the wrong order, or of another kind."""
    for which, given, kind in (
        ("first", torch_module, torch.nn.Module),
        ("second", model, nnx.Module),
    ):
        if not isinstance(given, kind):
            raise TypeError(
                f"the {which} model is a {type(given).__name__}; a {kind.__module__}.{kind.__name__} is wanted."
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
    refuse_unsupported(torch_module, state)
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


def _dropout_notes(module: torch.nn.Module, train: bool) -> tuple[str, ...]:
    names = [] if train else [name for name, _ in random_layers(module)]
    return (
        (f"warning: dropout not compared (random, and off in eval mode): {', '.join(names)}",)
        if names
        else ()
    )


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
