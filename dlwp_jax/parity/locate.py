"""The first layer whose output differs, and what the difference looks like."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from jax.core import Tracer

from dlwp_jax.parity.forward import outputs_of, whole_attention
from dlwp_jax.parity.leaves import dotted, to_numpy
from dlwp_jax.parity.mapping import Entry
from dlwp_jax.parity.report import Row, largest, rows_of
from dlwp_jax.parity.table import listed


class Call(NamedTuple):
    """One call of a layer: its dotted name, its class, its first input and first output.

    Arrays are None if the layer was called inside of one of JAX's loops.
    """

    name: str
    layer: Any
    input: np.ndarray | None
    output: np.ndarray | None

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.layer).__name__


def first_layer(
    reference: torch.nn.Module,
    model: nnx.Module,
    torch_inputs: Sequence[torch.Tensor],
    jax_inputs: Sequence[jax.Array],
    entries: Sequence[Entry],
    train: bool,
    tolerance: float,
) -> tuple[list[Row], str]:
    """Run both models, and compare the output of every layer that has a counterpart.

    Layers are counterparts if their weights are matched, or if they have the same path; the n-th
    call of one is compared with the n-th call of the other.

    Args:
      reference: torch's model, in the mode to be compared.
      model: the NNX module.
      torch_inputs, jax_inputs: as each model takes them.
      entries: the map between the weights.
      train: whether the NNX module runs in train mode.
      tolerance: relative to the largest value of an output.

    Returns:
      The row of the first output that differs (none if no layer with a counterpart does), and a
      sentence.
    """
    walk = _Walk(reference, entries, _jax_calls(model, jax_inputs, train), tolerance)
    for theirs in _torch_calls(reference, torch_inputs):
        if found := walk.difference(theirs):
            return found
    behind = f"behind {walk.last.name} " if walk.last else ""
    return [], f"{FIRST}: none of those that both models have; what comes {behind}differs."


# How the sentence begins.
FIRST = "first layer that differs"


class _Walk:
    """A walk along torch's calls, until an output differs.

    Attributes:
      last: torch's last call whose output agrees.
    """

    def __init__(
        self,
        reference: torch.nn.Module,
        entries: Sequence[Entry],
        ours: Sequence[Call],
        tolerance: float,
    ):
        self.place = {_layer(entry.names[0]): dotted(entry.path[:-1]) for entry in entries}
        self.turned = {_layer(entry.names[0]) for entry in entries if _is_turned_array(entry)}
        self.leaves = {n for n, m in reference.named_modules() if not any(m.children())}
        self.tolerance = tolerance
        self.left = list(ours)
        self.last: Call | None = None
        self.alone: list[str] = []

    def difference(self, theirs: Call) -> tuple[list[Row], str] | None:
        """The row and the sentence of a call, if it is the first that differs."""
        own = self.place.get(theirs.name, theirs.name)
        here = next((call for call in self.left if call.name == own), None)
        if here is None and theirs.name in self.place:
            self.alone.append(theirs.name)
        if here is None or theirs.name in self.turned:
            return None
        ahead = [call.name for call in self.left[: self.left.index(here)]]
        self.left.remove(here)
        if here.output is None or theirs.output is None:
            return None
        name = theirs.name or "output of the model"
        output = _as_torchs(here.output, theirs.output)
        if output is None and here.output.size == theirs.output.size:
            return None  # a layout of its own
        if output is None:
            return [Row(None, "forward", name, np.inf, np.inf, np.inf, 0.0)], self._sentence(
                name, theirs, here, ahead
            )
        rows = rows_of(
            "forward", {name: output}, {name: theirs.output}, tolerance=self.tolerance
        )
        if rows[0].ok:
            self.last, self.alone = theirs, []
            return None
        return rows, self._sentence(name, theirs, here, ahead)

    def _sentence(self, name: str, theirs: Call, here: Call, ahead: list[str]) -> str:
        assert theirs.output is not None
        assert here.output is not None
        if _inputs_agree(here, theirs, self.tolerance):
            inside = self.last if any(theirs.layer.children()) else None
            words = [
                f"{FIRST}: {name} ({theirs.kind} in torch, {here.kind} here)",
                "its input agrees",
                f"its output {_compared(here.output, theirs.output, self.tolerance)}",
            ]
            if inside:
                words += [
                    f"right until the output of {inside.name}",
                    self._functions(inside, theirs.output, here.output),
                ]
            elif options := _options_that_differ(theirs.layer, here.layer):
                words.append(options)
            else:
                arrays = theirs.input, theirs.output, here.output
                words.append(_applied(*arrays, f"in {name}", self.tolerance))
        else:
            words = [
                f"{FIRST}: {name} ({theirs.kind}), and already its input {self._input(theirs, here)}",
                self.last and f"right until the output of {self.last.name}",
                self._functions(self.last, theirs.input, here.input),
            ]
        known = {*self.place.values(), *self.leaves}
        more = [n for n in dict.fromkeys(ahead) if n in known and n]
        if more:
            words.append(f"the port calls {listed(more)} ahead of it, torch does not")
        if self.alone:
            words.append(f"torch calls {listed(self.alone)} ahead of it, the port does not")
        if len([word for word in words if word]) < 3:
            words.append(
                f"look for an activation, pooling, padding, reshape or another order ahead of "
                f"{name}"
            )
        return "; ".join(word for word in words if word) + "."

    def _input(self, theirs: Call, here: Call) -> str:
        if here.input is None or theirs.input is None:
            return "differs"
        return _compared(here.input, theirs.input, self.tolerance)

    def _functions(
        self, last: Call | None, theirs: np.ndarray | None, ours: np.ndarray | None
    ) -> str:
        if last is None or theirs is None or ours is None:
            return ""
        return _applied(last.output, theirs, ours, f"behind {last.name}", self.tolerance)


def _compared(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """The kind of a difference, of arrays as each model has them."""
    here = _as_torchs(ours, theirs)
    if here is None:
        return f"has shape {theirs.shape} in torch and {ours.shape} here"
    return looks_like(here, theirs, tolerance)


# Flax's names of options, and torch's.
_OPTIONS = {
    "epsilon": "eps",
    "strides": "stride",
    "kernel_dilation": "dilation",
    "feature_group_count": "groups",
}
# What channels last has in another order or elsewhere, and what no output depends on.
_NO_OPTIONS = {"dim", "start_dim", "end_dim", "normalized_shape", "padding", "momentum"}


def _options_that_differ(theirs: torch.nn.Module, ours: nnx.Module) -> str:
    """The options of two layers that have the same name and other values."""
    here = {_OPTIONS.get(name, name): value for name, value in vars(ours).items()}
    skipped = (
        _NO_OPTIONS
        if any("Pad" in type(x).__name__ for x in (theirs, ours))
        else {*_NO_OPTIONS} - {"padding"}
    )
    words = [
        f"{name} is {value} in torch and {here[name]} here"
        for name, value in vars(theirs).items()
        if name in here and name not in skipped and _are_other(value, here[name])
    ]
    return ", ".join(words)


def _are_other(theirs: Any, ours: Any) -> bool:
    plain = bool | int | float | str | tuple
    if not all(value is None or isinstance(value, plain) for value in (theirs, ours)):
        return False
    a, b = (np.ravel(np.asarray(value or 0)) for value in (theirs, ours))
    if a.dtype.kind != b.dtype.kind and "U" in (a.dtype.kind, b.dtype.kind):
        return False
    return bool(np.any(a != b)) if 1 in (len(a), len(b)) or len(a) == len(b) else True


# Functions of one array, by the name that a reader knows them by.
_FUNCTIONS: dict[str, Any] = {
    "nothing": lambda y: y,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "mish": F.mish,
    "softsign": F.softsign,
    "gelu with tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def _applied(
    given: np.ndarray | None, theirs: np.ndarray, ours: np.ndarray, place: str, tolerance: float
) -> str:
    """Which functions of the same array two arrays are, if they are known.

    Args:
      given: the array, in torch's layout.
      theirs, ours: what the models made of it.
      place: where, as the sentence says it.
      tolerance: relative to the largest value.
    """
    if given is None:
        return ""
    names = [_function(given, made, tolerance) for made in (theirs, ours)]
    if all(names) and names[0] != names[1]:
        return f"{place} torch applies {names[0]}, the port {names[1]}"
    if names[0] and not names[1]:
        return f"{place} torch applies {names[0]}, the port something else"
    if names[1] and not names[0]:
        return f"{place} the port applies {names[1]}, torch something else"
    return ""


def _function(given: np.ndarray, made: np.ndarray, tolerance: float) -> str:
    """The name of the function that makes one array of the other; "" if none is known."""
    for turned, words in _unflattened(made, given.shape):
        name = _elementwise(given.astype(np.float64), turned, tolerance)
        if name:
            return name + words
    return ""


def _unflattened(made: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, str]]:
    """An array in a shape, in each way in which it may have been flattened or turned."""
    made = made.astype(np.float64)
    if made.ndim < len(shape) and made.size == np.prod(shape):
        yield made.reshape(shape), " and flattens C first"
        last = made.reshape((shape[0], *shape[2:], shape[1]))
        yield np.moveaxis(last, -1, 1), " and flattens C last"
    elif (turned := _as_torchs(made, np.empty(shape))) is not None:
        yield turned, ""


def _elementwise(given: np.ndarray, made: np.ndarray, tolerance: float) -> str:
    y = torch.from_numpy(given)
    for name, function in _FUNCTIONS.items():
        if _near(function(y).numpy(), made, tolerance):
            return name
    for axis in range(y.ndim):
        for name, function in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
            values = function(y, dim=axis).numpy()
            if _near(values, made, tolerance):
                return f"{name} over axis {axis}"
    slope = _factor(made[given < 0], given[given < 0])
    if _near(np.where(given < 0, slope * given, given), made, tolerance):
        return f"leaky_relu with slope {slope:.4g}"
    return ""


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_turned_array(entry: Entry) -> bool:
    """Whether a layer computes on features in another order than torch's."""
    return len(entry.torch_shape) == 1 and entry.transform.name.startswith("rows turned")


def _torch_calls(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[Call]:
    calls: list[Call] = []

    def watch(name: str, layer: torch.nn.Module) -> Any:
        def hook(layer, args, result):
            found = [y for y in outputs_of(result) if isinstance(y, torch.Tensor)]
            if found and found[0].is_floating_point():
                given = args[0] if args and isinstance(args[0], torch.Tensor) else None
                x = None if given is None else to_numpy(given)
                calls.append(Call(name, layer, x, to_numpy(found[0])))

        return layer.register_forward_hook(hook)

    hooks = [watch(name, layer) for name, layer in module.named_modules()]
    try:
        with torch.no_grad(), whole_attention():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _jax_calls(model: nnx.Module, inputs: Sequence[jax.Array], train: bool) -> list[Call]:
    """The calls of all layers of a copy of the model, which runs without jit."""
    model = nnx.clone(model)
    (model.train if train else model.eval)()
    calls: list[Call] = []
    for name, layer in _named_modules(model):
        layer.__class__ = _recording(type(layer), name, calls)
    with jax.default_matmul_precision("highest"):
        model(*inputs)
    return calls


def _named_modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Every module by its path; the list inside of Flax's own Sequential has no name."""
    nodes = [
        (path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)
    ]
    for path, node in nodes:
        if callable(node):
            yield dotted(path), node


def _recording(kind: type, name: str, calls: list[Call]) -> type:
    """A subclass whose calls are recorded; the arrays of layers in jax's loops are not."""

    run: Any = kind.__call__

    def call(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        seen = [y for y in jax.tree.leaves(result) if isinstance(y, jax.Array)]
        if seen and jnp.issubdtype(seen[0].dtype, jnp.floating):
            given = args[0] if args and isinstance(args[0], jax.Array) else None
            calls.append(Call(name, self, _values(given), _values(seen[0])))
        return result

    return type(kind)(kind.__name__, (kind,), {"__call__": call})


def _values(array: jax.Array | None) -> np.ndarray | None:
    return None if array is None or isinstance(array, Tracer) else np.asarray(array)


def _as_torchs(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """An output here in torch's layout: as it is, channels first, or `[T N C]` for `[N T C]`;
    None if none of them fits.
    """
    ours = ours.astype(np.float64)
    forms = [ours]
    if ours.ndim > 2:
        forms.append(np.moveaxis(ours, -1, 1))
    if ours.ndim == 3:
        forms.append(np.swapaxes(ours, 0, 1))
    fitting = [form for form in forms if form.shape == theirs.shape]
    return min(fitting, key=lambda form: _error(form, theirs), default=None)


def _inputs_agree(here: Call, theirs: Call, tolerance: float) -> bool:
    if here.input is None or theirs.input is None:
        return False
    x = _as_torchs(here.input, theirs.input)
    return x is not None and _near(x, theirs.input, tolerance)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def _near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return _error(a, b) <= tolerance * largest(b)


def looks_like(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """What kind of difference there is between two outputs in torch's layout, `[N C ...]`.

    >>> y = np.array([[1.0, -2.0, 3.0]])
    >>> looks_like(2 * y, y, 1e-9)
    'is 2 times that of torch'
    >>> looks_like(y[:, ::-1], y, 1e-9)
    'is the same up to a permutation of channels'
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    if not ours.any():
        return "is zero"
    factor = _factor(ours, theirs)
    if factor and _near(ours, factor * theirs, tolerance):
        return f"is {factor:.4g} times that of torch"
    if _near(ours - theirs, np.full_like(ours, np.mean(ours - theirs)), tolerance):
        return f"is that of torch plus {np.mean(ours - theirs):.4g}"
    if theirs.ndim > 1 and _channels_permuted(ours, theirs, tolerance):
        return "is the same up to a permutation of channels"
    if theirs.ndim > 2 and _channels_permuted(
        np.moveaxis(ours, -1, 1), np.moveaxis(theirs, -1, 1), tolerance
    ):
        return "is the same up to a permutation along the last axis"
    border = _border(ours, theirs, tolerance) if theirs.ndim > 2 else 0
    if border:
        return f"agrees but for a border {border} wide: padding, its mode, or a mean that counts it"
    square = theirs.ndim == 4 and theirs.shape[2] == theirs.shape[3]
    if square and _near(np.swapaxes(ours, 2, 3), theirs, tolerance):
        return "is the same with height and width exchanged"
    away = np.abs(ours - theirs) > tolerance * largest(theirs)
    if not away.all() and not away[theirs > 0].any() and (theirs > 0).any():
        return "agrees where that of torch is positive: an activation's negative side"
    if (
        theirs.ndim > 1
        and theirs.size > 3 * theirs.shape[1]
        and _affine(ours, theirs, tolerance)
    ):
        return (
            "is a multiple of that of torch plus an offset, in each channel: the eps, the "
            "statistics or the weights of a norm"
        )
    if _near(np.sort(ours, axis=None), np.sort(theirs, axis=None), tolerance):
        return "has the same values in another order: a reshape, a transpose, or an axis"
    size = _error(ours, theirs) / (largest(theirs) or 1.0)
    return f"differs in {np.mean(away):.0%} of its values, by up to {size:.1e} of the largest"


def _factor(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The factor of least squares, through zero."""
    square = float(np.vdot(theirs, theirs))
    return float(np.vdot(theirs, ours)) / square if square else 0.0


def _channels_permuted(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    left = list(range(ours.shape[1]))
    allowed = tolerance * largest(theirs)
    for channel in range(theirs.shape[1]):
        fits = [c for c in left if _error(ours[:, c], theirs[:, channel]) <= allowed]
        if not fits:
            return False
        left.remove(fits[0])
    return True


def _border(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> int:
    """How wide the border is outside of which two images agree; 0 if there is none."""
    allowed = tolerance * largest(theirs)
    for width in range(1, (min(theirs.shape[2:]) + 1) // 2):
        inside = (slice(None), slice(None)) + (slice(width, -width),) * (theirs.ndim - 2)
        if _error(ours[inside], theirs[inside]) <= allowed:
            away = np.abs(ours - theirs) > allowed
            share = away.sum() / (away.size - away[inside].size)
            return width if share > 1 / 4 else 0
    return 0


def _affine(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    a = np.moveaxis(ours, 1, 0).reshape(ours.shape[1], -1)
    b = np.moveaxis(theirs, 1, 0).reshape(theirs.shape[1], -1)
    allowed = tolerance * largest(theirs)
    for mine, their in zip(a, b, strict=True):
        factor = _factor(mine - mine.mean(), their - their.mean())
        offset = mine.mean() - factor * their.mean()
        if _error(mine, factor * their + offset) > allowed:
            return False
    return True


def gradient_notes(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], rows: Sequence[Row]
) -> tuple[str, ...]:
    """Sentences for gradients that differ although the outputs agree."""
    away = [row.leaf for row in rows if not row.ok]
    if not away:
        return ()
    words = []
    stopped = [n for n in away if not np.any(ours[n])]
    flowing = [n for n in away if not np.any(theirs[n])]
    factors: dict[str, list[str]] = {}
    for name in away:
        a, b = (np.asarray(run[name], np.float64) for run in (ours, theirs))
        factor = _factor(a, b)
        if factor and _near(a, factor * b, 1e-3):
            factors.setdefault(f"{factor:.4g}", []).append(name)
    if stopped:
        words.append(f"zero here and not in torch: {listed(stopped)} (a stop_gradient)")
    if flowing:
        words.append(f"zero in torch and not here: {listed(flowing)} (a detach or no_grad)")
    words += [f"{times} times those of torch: {listed(n)}" for times, n in factors.items()]
    right = [row.leaf for row in rows if row.ok and not row.leaf.startswith("input ")]
    if right:
        words.append(f"right: {listed(right)}")
    return (f"the outputs agree, and gradients differ; {'; '.join(words)}.",) if words else ()


def statistics_notes(
    before: Mapping[str, np.ndarray],
    ours: Mapping[str, Any],
    theirs: Mapping[str, np.ndarray],
    rows: Sequence[Row],
) -> tuple[str, ...]:
    """A sentence for the first running statistics that moved otherwise than torch's."""
    for row in rows:
        if not row.ok and row.leaf in before:
            old, new = np.asarray(before[row.leaf], np.float64), theirs[row.leaf]
            words = _movement(old, np.asarray(ours[row.leaf], np.float64), new)
            return (f"{row.leaf} {words}",) if words else ()
    return ()


def _movement(old: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    moved, wanted = (ours - old).ravel(), (theirs - old).ravel().astype(np.float64)
    if not moved.any():
        return "did not move: its batch norm is in eval mode here, or was not called."
    factor = _factor(moved, wanted)
    if _near(moved - wanted, (factor - 1) * wanted, 1e-2):
        return (
            f"moved {factor:.4g} times as far as in torch: the momentum of its batch norm "
            "(Flax's is one minus torch's)."
        )
    # (1 - m) old + m v / n * (n - 1) - ((1 - m) old + m v) = - m v / n
    columns = np.stack([theirs.ravel(), old.ravel()], 1)
    (share, other), *_ = np.linalg.lstsq(columns, (ours - theirs).ravel(), rcond=None)
    fits = _near(columns @ [share, other], (ours - theirs).ravel(), 1e-3)
    if fits and old.size > 2 and share < 0 < other:
        return (
            "moved to a smaller variance: that of the batch was divided by n = "
            f"{-1 / share:.0f}, and torch divides by n - 1."
        )
    return ""


def update_notes(
    before: Mapping[str, np.ndarray],
    ours: Mapping[str, Any],
    theirs: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    step: int,
) -> tuple[str, ...]:
    """A sentence for the first parameter that an optimizer moved otherwise than torch's."""
    away = [row.leaf for row in rows if not row.ok]
    if not away:
        return ()
    name = away[0]
    old = np.asarray(before[name], np.float64).ravel()
    moved = np.asarray(ours[name], np.float64).ravel() - old
    wanted = np.asarray(theirs[name], np.float64).ravel() - old
    columns = np.stack([wanted, old], 1)
    (factor, decay), *_ = np.linalg.lstsq(columns, moved, rcond=None)
    off = moved - wanted
    words = []
    if not moved.any():
        words.append("did not move: it is frozen here, or in no group of the optimizer")
    elif not wanted.any():
        words.append("moved, and did not in torch: it is frozen there, or in no group")
    elif _near(off, (_factor(moved, wanted) - 1) * wanted, 1e-2):
        words.append(f"moved {_factor(moved, wanted):.4g} times as far: the learning rate")
    elif old.size > 2 and _near(off, (factor - 1) * wanted + decay * old, 1e-2):
        words.append(f"moved by {decay:.3g} times itself besides: the weight decay")
    if step:
        words.append(
            f"step {step} is the first that differs: momentum, betas, a schedule, or what the "
            "optimizer counts"
        )
    elif len(words) == 0:
        words.append("moved otherwise: the rule, its eps, betas or weight decay")
    return (f"update of {name}: {'; '.join(words)}.",)
