"""A live torch optimizer as an optax transformation that goes on where torch stopped."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from dlwp_jax import optim
from dlwp_jax.parity.leaves import Path, dotted, to_numpy
from dlwp_jax.parity.rules import KERNEL, SAME, Transform
from dlwp_jax.parity.weights import LoadReport

_FACTORIES = {
    torch.optim.SGD: optim.sgd,
    torch.optim.Adam: optim.adam,
    torch.optim.AdamW: optim.adamw,
    torch.optim.Adamax: optim.adamax,
    torch.optim.NAdam: optim.nadam,
    torch.optim.RAdam: optim.radam,
    torch.optim.RMSprop: optim.rmsprop,
    torch.optim.Adagrad: optim.adagrad,
    torch.optim.Adadelta: optim.adadelta,
    torch.optim.ASGD: optim.asgd,
    torch.optim.Rprop: optim.rprop,
    torch.optim.Adafactor: optim.adafactor,
    torch.optim.Muon: optim.muon,
}
# Their rules look at rows and columns, so they work on torch's layout, and so does their state.
_IN_TORCH_LAYOUT = (torch.optim.Adafactor, torch.optim.Muon)
# How torch computes, and what its schedulers keep there: no part of the rule.
_IGNORED = {
    "params",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "initial_lr",
    "max_lr",
    "min_lr",
}


def torch_optimizer(
    opt: torch.optim.Optimizer, loaded: LoadReport | None = None
) -> tuple[optax.GradientTransformation, Any]:
    """The optax transformation with a torch optimizer's rule and options, and its state:
    moments, buffers, steps.

    The learning rate is the present one, held constant. Parameter groups become `optim.groups`
    by path; parameters that are frozen or in no group stay as they are (`optax.set_to_zero`).

    Args:
      opt: an optimizer of torch.optim.
      loaded: the report of `load_torch(model, torch_module)`, the module being the one whose
        parameters `opt` trains. The state then fits the nested dict of parameters in
        `TrainState.params`. Without it, it fits the list of the optimizer's parameters in
        torch's own layout.

    Returns:
      `(tx, opt_state)`. To train on: `make_learner(model, loss_fn, tx, key=...)`, then
      `dataclasses.replace(state, opt_state=opt_state)`.

    Raises:
      NotImplementedError: for LBFGS (its state is a history of closures' results), SparseAdam
        and optimizers that are not torch's own.
      ValueError: for parameters that were not loaded, or that have made different numbers of
        steps.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> opt = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.grad = torch.tensor([1.0, 2.0])
    >>> opt.step()
    >>> tx, state = torch_optimizer(opt)
    >>> state.momentum_buffer[0].tolist()
    [1.0, 2.0]
    """
    places = _places(opt, loaded)
    structure = _params(places | _parameters(loaded), nested=loaded is not None)
    tx = _transformation(opt, places, loaded)
    steps = _steps(opt, places)

    def fill(path, leaf):
        field, below = _split(path)
        if field is None:
            return leaf
        if field == "step":
            return jnp.asarray(steps, leaf.dtype)
        parameter, transform = places[below]
        value = opt.state.get(parameter, {}).get(field)
        if value is None:  # torch makes its state at the first step
            return leaf
        value = np.asarray(to_numpy(value) if isinstance(value, torch.Tensor) else value)
        if value.ndim == parameter.ndim and not isinstance(opt, _IN_TORCH_LAYOUT):
            value = transform.apply(value)
        if value.shape != leaf.shape:
            raise ValueError(
                f"{field} of {dotted(below)} has shape {value.shape} in torch and {leaf.shape} "
                "here."
            )
        return jnp.asarray(value, leaf.dtype)

    return tx, jax.tree_util.tree_map_with_path(fill, tx.init(structure))


def to_torch_optimizer(
    opt: torch.optim.Optimizer, opt_state: Any, loaded: LoadReport | None = None
) -> None:
    """The way back: put the state of a transformation made by `torch_optimizer` into the live
    torch optimizer.

    Args:
      opt: the optimizer, in place. It must have made a step, so that torch has made its state.
      opt_state: the state after training here.
      loaded: as for `torch_optimizer`.

    Raises:
      ValueError: where torch has no state yet to be overwritten.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> opt = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.grad = torch.ones(2)
    >>> opt.step()
    >>> tx, state = torch_optimizer(opt)
    >>> to_torch_optimizer(opt, jax.tree.map(lambda x: 2 * x, state))
    >>> opt.state[weight]["momentum_buffer"].tolist()
    [2.0, 2.0]
    """
    places = _places(opt, loaded)
    steps = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(opt_state)[0]:
        field, below = _split(path)
        if field == "step":
            steps = int(leaf)
        elif field is not None:
            parameter, transform = places[below]
            kept = opt.state.get(parameter, {})
            value = np.asarray(leaf)
            if field not in kept and value.size:
                raise ValueError(
                    f"torch's optimizer has no {field} of {dotted(below)} yet; let it make one "
                    "step first."
                )
            if not value.size:
                continue
            if value.ndim == parameter.ndim and not isinstance(opt, _IN_TORCH_LAYOUT):
                if transform.undo is None:
                    raise ValueError(f"the transform of {dotted(below)} has no way back.")
                value = transform.undo(value)
            with torch.no_grad():
                kept[field] = torch.from_numpy(np.array(value, order="C")).to(kept[field])
    for kept in opt.state.values():
        if "step" in kept:
            kept["step"] = (
                torch.full_like(kept["step"], steps) if torch.is_tensor(kept["step"]) else steps
            )


Places = dict[Path, tuple[torch.nn.Parameter, Transform]]


def _places(opt: torch.optim.Optimizer, loaded: LoadReport | None) -> Places:
    parameters = [p for group in opt.param_groups for p in group["params"]]
    if loaded is None:
        return {(i,): (p, SAME) for i, p in enumerate(parameters)}
    by_name = loaded.map.by_name()
    entries = {
        id(tensor): by_name[name] for name, tensor in loaded.state.items() if name in by_name
    }
    if any(id(p) not in entries for p in parameters):
        raise ValueError(
            "the optimizer trains parameters that were not loaded; give the report of "
            "load_torch(model, torch_module) with the very module whose parameters it was "
            "made for (not its state_dict or a file)."
        )
    return {entries[id(p)].path: (p, entries[id(p)].transform) for p in parameters}


def _parameters(loaded: LoadReport | None) -> Places:
    """Every parameter of the model, trained or not."""
    if loaded is None:
        return {}
    by_name = loaded.map.by_name()
    parameters = {
        n: t
        for n, t in loaded.state.items()
        if n in by_name and isinstance(t, torch.nn.Parameter)
    }
    return {by_name[n].path: (p, by_name[n].transform) for n, p in parameters.items()}


def _params(places: Places, *, nested: bool) -> Any:
    arrays = {path: jnp.asarray(turn.apply(to_numpy(p))) for path, (p, turn) in places.items()}
    if not nested:
        return list(arrays.values())
    tree: dict = {}
    for path, array in arrays.items():
        below = tree
        for name in path[:-1]:
            below = below.setdefault(name, {})
        below[path[-1]] = array
    return tree


def _transformation(
    opt: torch.optim.Optimizer, places: Places, loaded: LoadReport | None
) -> optax.GradientTransformation:
    factory = _FACTORIES.get(type(opt))
    if factory is None:
        known = ", ".join(cls.__name__ for cls in _FACTORIES)
        raise NotImplementedError(
            f"{type(opt).__name__} is not carried over; these are: {known}."
        )
    made = [_of_group(type(opt), factory, group) for group in opt.param_groups]
    if isinstance(opt, _IN_TORCH_LAYOUT):
        made = [_in_torch_layout(tx, places) for tx in made]
    path_of = {id(p): path for path, (p, _) in places.items() if p.requires_grad}
    paths = [
        frozenset(path_of[id(p)] for p in group["params"] if id(p) in path_of)
        for group in opt.param_groups
    ]
    whole = len(path_of) == len(places | _parameters(loaded))
    if len(made) == 1 and whole:
        return made[0]
    used = {_OneOf(mine): tx for mine, tx in zip(paths, made, strict=True) if mine}
    return optim.groups(used, default=None if whole else optax.set_to_zero())


def _in_torch_layout(
    tx: optax.GradientTransformation, places: Places
) -> optax.GradientTransformation:
    """`tx` given every array just as torch has it, where `optim.torch_layout` takes each for a
    kernel.
    """
    kernels = {
        path for path, (_, transform) in places.items() if transform is KERNEL
    }  # for these a transposition does
    others = {
        path: _numbers(path, p, t) for path, (p, t) in places.items() if t not in (KERNEL, SAME)
    }

    def to_torch(path, x):
        if _keys(path) in kernels:
            return jnp.moveaxis(x, (-1, -2), (0, 1))
        if (numbers := others.get(_keys(path))) is None:
            return x
        return x.ravel()[np.argsort(numbers, axis=None)].reshape(places[_keys(path)][0].shape)

    def back(path, x):
        if _keys(path) in kernels:
            return jnp.moveaxis(x, (0, 1), (-1, -2))
        return x if (numbers := others.get(_keys(path))) is None else x.ravel()[numbers]

    def update(updates, state, params=None):
        there = [jax.tree_util.tree_map_with_path(to_torch, tree) for tree in (updates, params)]
        updates, state = tx.update(there[0], state, there[1])
        return jax.tree_util.tree_map_with_path(back, updates), state

    return optax.GradientTransformation(
        lambda params: tx.init(jax.tree_util.tree_map_with_path(to_torch, params)), update
    )


def _numbers(path: Path, parameter: torch.nn.Parameter, transform: Transform) -> np.ndarray:
    """Which of torch's values stands at each place here."""
    every = np.arange(parameter.numel())
    numbers = transform.apply(every.reshape(tuple(parameter.shape)))
    if not np.array_equal(np.sort(numbers, axis=None), every):
        raise ValueError(
            f"the transform of {dotted(path)} changes values; this optimizer's state cannot "
            "follow it."
        )
    return numbers


class _OneOf:
    """An NNX filter: the paths of one parameter group."""

    def __init__(self, paths: frozenset[Path]):
        self.paths = paths

    def __call__(self, path, value) -> bool:
        return tuple(path) in self.paths

    def __repr__(self) -> str:
        return f"paths {sorted(map(dotted, self.paths))}"


def _of_group(cls, factory, group: Mapping[str, Any]) -> optax.GradientTransformation:
    options = {name: _plain(value) for name, value in group.items() if name not in _IGNORED}
    if cls in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = options.pop("decoupled_weight_decay", cls is torch.optim.AdamW)
        factory = optim.adamw if decoupled else optim.adam
    taken = inspect.signature(factory).parameters
    unknown = [name for name in options if name not in taken]
    if unknown:
        raise NotImplementedError(f"{cls.__name__}'s options {unknown} are not carried over.")
    return factory(**options)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    return tuple(_plain(v) for v in value) if isinstance(value, tuple | list) else value


def _steps(opt: torch.optim.Optimizer, places: Places) -> int:
    """How many steps torch has made; SGD and Muon do not count, any number above 0 says that
    buffers are filled.
    """
    idle = {
        id(p)
        for group in opt.param_groups
        if group.get("momentum") == 0
        for p in group["params"]
    }
    skipped = idle if isinstance(opt, torch.optim.SGD) else set()
    kept: Sequence[Mapping] = [
        opt.state.get(p, {})
        for p, _ in places.values()
        if p.requires_grad and id(p) not in skipped
    ]
    counts = {
        int(k["step"]) if "step" in k else int(any(v is not None for v in k.values()))
        for k in kept
    }
    if len(counts) > 1:
        raise ValueError(
            f"the parameters have made different numbers of steps, {sorted(counts)}; here they "
            "are counted alike."
        )
    return counts.pop() if counts else 0


def _split(path) -> tuple[str | None, Path]:
    """The field of a state and the parameter below it, from the key path of a leaf."""
    fields = [i for i, key in enumerate(path) if isinstance(key, jax.tree_util.GetAttrKey)]
    if not fields:
        return None, ()
    last = fields[-1]
    return path[last].name, _keys(path[last + 1 :])


def _keys(path) -> Path:
    return tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path)
