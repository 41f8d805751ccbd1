"""One run of each model: outputs, gradients and statistics, under the JAX model's names."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.forward import (
    NUMBERS,
    Place,
    dtype_of,
    fits_both_ways,
    in_order,
    output_turns,
    places_of,
    tensors,
    whole_attention,
)
from dlwp_jax.parity.leaves import dotted, to_numpy
from dlwp_jax.parity.mapping import Entry

# The ends of the names of outputs that are compared exactly.
WHOLE = " (whole numbers)"
NUMBER = " (a Python number)"


class Run(NamedTuple):
    """What a model computed.

    Attributes:
      outputs: in torch's layout, in order; a complex one as its real and its imaginary part, a
        Python number as an array of no axes.
      places: of the outputs.
      floating: for each output, whether it is of floats.
      numbers: which outputs are Python numbers; of the JAX model, those that torch's are too.
      gradients: of the parameters, by the JAX model's names, and of the inputs.
      cotangents: the numbers by which the outputs are weighted in the sum that is
        differentiated.
      after: the JAX model's variables that are no parameters, after the run, by name.
    """

    outputs: list[np.ndarray]
    places: list[Place]
    floating: list[bool]
    numbers: set[int]
    gradients: dict[str, Any]
    cotangents: list[np.ndarray]
    after: dict[str, Any]

    def named_outputs(self, exact: bool) -> dict[str, np.ndarray]:
        """The outputs that are compared exactly, or the others, by name."""
        several = len(self.outputs) > 1
        return {
            (f"output {i}" if several else "output") + self._end(i): y
            for i, y in enumerate(self.outputs)
            if bool(self._end(i)) == exact
        }

    def _end(self, i: int) -> str:
        """The end of the name of an output."""
        if i in self.numbers:
            return NUMBER
        return "" if self.floating[i] else WHOLE


def torch_run(
    reference: torch.nn.Module,
    inputs: Sequence[Any],
    entries: Sequence[Entry],
    turns: Sequence[bool],
) -> Run:
    """Run torch's model forward and backward; its gradients and statistics are left in it.

    Raises:
      ValueError: if it returns nothing that could be compared.
    """
    xs = [x.requires_grad_(x.is_floating_point()) for x in tensors(inputs, dtype_of(reference))]
    with whole_attention():
        found = places_of(reference(*xs))
    if not found:
        raise ValueError(
            "torch's model returns neither an array nor a number, so nothing can be compared: "
            "let both models return their outputs."
        )
    known = [
        (p, y if isinstance(y, torch.Tensor) else torch.from_numpy(np.array(y)))
        for p, y in found
    ]
    parts = _parts(known, torch.is_complex)
    places, outputs = [p for p, _ in parts], [y for _, y in parts]
    numbers = {place for place, y in found if isinstance(y, NUMBERS)}
    # A seed that nobody draws inputs from: weighted by x itself, a norm of x has no gradient
    # but rounding.
    rng = np.random.default_rng(271828)
    cotangents = [rng.standard_normal(tuple(y.shape)).astype(np.float32) for y in outputs]
    floating = [y.is_floating_point() for y in outputs]
    loss = sum(
        (y * torch.from_numpy(c).to(y.dtype)).sum()
        for y, c in zip(outputs, cotangents, strict=True)
        if y.is_floating_point()
    )
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.backward()
    of_inputs = {i: to_numpy(gradient_of(x)) for i, x in enumerate(xs) if x.requires_grad}
    return Run(
        [to_numpy(y) for y in outputs],
        places,
        floating,
        {i for i, place in enumerate(places) if place in numbers},
        turned_leaves(entries, gradients(reference))
        | {
            f"input {i}": np.moveaxis(g, 1, -1) if turns[i] else g for i, g in of_inputs.items()
        },
        cotangents,
        {},
    )


def _parts(outputs: Sequence[tuple[Place, Any]], is_complex: Any) -> list[tuple[Place, Any]]:
    """The outputs behind their places, complex ones as their two parts."""
    found = []
    for place, y in outputs:
        if is_complex(y):
            found += [((*place, "real part"), y.real), ((*place, "imaginary part"), y.imag)]
        else:
            found.append((place, y))
    return found


def jax_run(model: nnx.Module, xs: Sequence[jax.Array], theirs: Run, train: bool) -> Run:
    """Run the JAX model under jit, with the cotangents of torch's run."""
    model = nnx.clone(model)
    (model.train if train else model.eval)()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    floating = {i: x for i, x in enumerate(xs) if jnp.issubdtype(x.dtype, jnp.floating)}
    numbers: dict[int, Any] = {}  # under jit they would become arrays of 32 bits

    def forward(params, some):
        merged = nnx.merge(graph, params, rest, copy=True)
        result = merged(*(some.get(i, x) for i, x in enumerate(xs)))
        outputs = in_order(_parts(places_of(result), jnp.iscomplexobj), theirs.places)
        numbers.update((i, y) for i, y in enumerate(outputs) if isinstance(y, NUMBERS))
        outputs = [np.float32(0) if i in numbers else y for i, y in enumerate(outputs)]
        return outputs, nnx.split(merged, nnx.Param, ...)[2]

    def run(params, some, cotangents):
        outputs, after = forward(params, some)
        terms = zip(outputs, cotangents, theirs.floating, strict=True)
        loss = sum(jnp.sum(y * c) for y, c, is_float in terms if is_float)
        return jnp.asarray(loss, float), (outputs, after)

    with jax.default_matmul_precision("highest"):
        look = (
            jax.jit(forward)
            if any(map(fits_both_ways, theirs.outputs))
            else functools.partial(jax.eval_shape, forward)
        )
        turns = output_turns(look(params, floating)[0], theirs.outputs)
        cotangents = [
            np.moveaxis(c, 1, -1) if turn else c
            for c, turn in zip(theirs.cotangents, turns, strict=True)
        ]
        grad = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
        (grads, input_grads), (outputs, after) = grad(params, floating, cotangents)
    outputs = [np.asarray(numbers.get(i, y)) for i, y in enumerate(outputs)]
    return Run(
        [np.moveaxis(y, -1, 1) if turn else y for y, turn in zip(outputs, turns, strict=True)],
        theirs.places,
        theirs.floating,
        theirs.numbers & numbers.keys(),
        _by_name(grads) | {f"input {i}": np.asarray(g) for i, g in input_grads.items()},
        cotangents,
        _by_name(after),
    )


def _by_name(state: Any) -> dict[str, Any]:
    return {dotted(path): value for path, value in flat(nnx.to_pure_dict(state)).items()}


def doubled_model(model: nnx.Module) -> nnx.Module:
    """A copy of a model with its arrays in float64."""
    graph, state = nnx.split(nnx.clone(model))
    return nnx.merge(graph, jax.tree.map(doubled, state))


def doubled(x: Any) -> Any:
    """An array in float64, if it is of floats."""
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


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
        n: gradient_of(p)
        for n, p in module.named_parameters(remove_duplicate=False)
        if p.requires_grad
    }


def gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    """The gradient of a tensor; zero if nothing flowed back."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
