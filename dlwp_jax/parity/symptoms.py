"""What a difference looks like: of outputs, gradients, statistics and steps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from dlwp_jax.parity.report import Row, largest
from dlwp_jax.parity.table import listed


def as_torchs(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
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


def compared(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """The kind of a difference, of arrays as each model has them."""
    here = as_torchs(ours, theirs)
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


def options_that_differ(theirs: torch.nn.Module, ours: nnx.Module) -> str:
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
    if theirs.training == here.get("use_running_average") and "running_mean" in theirs._buffers:
        modes = ("train", "eval") if theirs.training else ("eval", "train")
        words.append(f"it is in {modes[0]} mode in torch and in {modes[1]} mode here")
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


def applied(
    given: np.ndarray | None, theirs: np.ndarray, ours: np.ndarray, place: str, tolerance: float
) -> tuple[bool, str]:
    """Which functions of the same array two arrays are.

    Args:
      given: the array, in torch's layout.
      theirs, ours: what the models made of it.
      place: where, as the sentence says it.
      tolerance: relative to the largest value.

    Returns:
      Whether both functions are known, and a sentence.
    """
    if given is None:
        return False, ""
    names = [_function(given, made, tolerance) for made in (theirs, ours)]
    if not any(names) or names[0] == names[1]:
        return False, ""
    theirs_is, ours_is = (name or "something else" for name in names)
    return all(names), f"{place} torch applies {theirs_is}, the port {ours_is}"


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
    elif (turned := as_torchs(made, np.empty(shape))) is not None:
        yield turned, ""


def _elementwise(given: np.ndarray, made: np.ndarray, tolerance: float) -> str:
    y = torch.from_numpy(given)
    for name, function in _FUNCTIONS.items():
        if near(function(y).numpy(), made, tolerance):
            return name
    for axis in range(y.ndim):
        for name, function in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
            values = function(y, dim=axis).numpy()
            if near(values, made, tolerance):
                return f"{name} over axis {axis}"
    slope = _factor(made[given < 0], given[given < 0])
    if near(np.where(given < 0, slope * given, given), made, tolerance):
        return f"leaky_relu with slope {slope:.4g}"
    return ""


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays differ by no more than `tolerance` times the largest value of b."""
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
    if factor and not _is_one(f"{factor:.6g}") and near(ours, factor * theirs, tolerance):
        return f"is {factor:.6g} times that of torch"
    if near(ours - theirs, np.full_like(ours, np.mean(ours - theirs)), tolerance):
        return f"is that of torch plus {np.mean(ours - theirs):.4g}"
    if theirs.ndim > 1 and _channels_permuted(ours, theirs, tolerance):
        return "is the same up to a permutation of channels"
    if theirs.ndim > 2 and _channels_permuted(
        np.moveaxis(ours, -1, 1), np.moveaxis(theirs, -1, 1), tolerance
    ):
        return "is the same up to a permutation along the last axis"
    border = _border(ours, theirs, tolerance) if theirs.ndim > 2 else 0
    if border:
        cause = "padding, its mode, or a mean that counts it"
        return f"agrees but for a border {border} wide: {cause}"
    square = theirs.ndim == 4 and theirs.shape[2] == theirs.shape[3]
    if square and near(np.swapaxes(ours, 2, 3), theirs, tolerance):
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
    if near(np.sort(ours, axis=None), np.sort(theirs, axis=None), tolerance):
        return "has the same values in another order: a reshape, a transpose, or an axis"
    size = _error(ours, theirs) / (largest(theirs) or 1.0)
    return f"differs in {np.mean(away):.0%} of its values, by up to {size:.1e} of the largest"


def _factor(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The factor of least squares, through zero."""
    square = float(np.vdot(theirs, theirs))
    return float(np.vdot(theirs, ours)) / square if square else 0.0


def _is_one(factor: str) -> bool:
    """Whether a factor is printed as 1, which would say nothing."""
    return factor == "1"


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
        times = f"{factor:.4g}"
        told = np.count_nonzero(b) > 1 and not _is_one(times)  # one number is any factor away
        if factor and told and near(a, factor * b, 1e-3):
            factors.setdefault(times, []).append(name)
    if stopped:
        words.append(f"zero here and not in torch: {listed(stopped)} (a stop_gradient)")
    if flowing:
        words.append(f"zero in torch and not here: {listed(flowing)} (a detach or no_grad)")
    words += [f"{times} times those of torch: {listed(n)}" for times, n in factors.items()]
    known = {*stopped, *flowing, *(name for names in factors.values() for name in names)}
    others = [name for name in away if name not in known]
    if others:
        inputs = [name for name in others if name.startswith("input ")]
        parameters = [name for name in others if name not in inputs]
        words.append(f"wrong, from the output back: {listed([*parameters[::-1], *inputs])}")
    right = [row.leaf for row in rows if row.ok and not row.leaf.startswith("input ")]
    if right:
        words.append(f"right: {listed(right)}")
    return (f"the outputs agree, and gradients differ; {'; '.join(words)}.",)


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
    if not _is_one(f"{factor:.4g}") and near(moved - wanted, (factor - 1) * wanted, 1e-2):
        return (
            f"moved {factor:.4g} times as far as in torch: the momentum of its batch norm "
            "(Flax's is one minus torch's)."
        )
    # (1 - m) old + m v / n * (n - 1) - ((1 - m) old + m v) = - m v / n
    columns = np.stack([theirs.ravel(), old.ravel()], 1)
    (share, other), *_ = np.linalg.lstsq(columns, (ours - theirs).ravel(), rcond=None)
    fits = near(columns @ [share, other], (ours - theirs).ravel(), 1e-3)
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
    times = f"{_factor(moved, wanted):.4g}"
    words = []
    if not moved.any():
        words.append("did not move: it is frozen here, or in no group of the optimizer")
    elif not wanted.any():
        words.append("moved, and did not in torch: it is frozen there, or in no group")
    elif not _is_one(times) and near(off, (_factor(moved, wanted) - 1) * wanted, 1e-2):
        words.append(f"moved {times} times as far: the learning rate")
    elif old.size > 2 and near(off, (factor - 1) * wanted + decay * old, 1e-2):
        words.append(f"moved by {decay:.3g} times itself besides: the weight decay")
    if step:
        words.append(
            f"step {step} is the first that differs: momentum, betas, a schedule, or what the "
            "optimizer counts"
        )
    elif len(words) == 0:
        words.append("moved otherwise: the rule, its eps, betas or weight decay")
    return (f"update of {name}: {'; '.join(words)}.",)
