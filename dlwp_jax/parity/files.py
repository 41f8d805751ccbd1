"""Reading torch's files without running what is in them."""

import operator
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlwp_jax.parity.prefixes import (
    common_prefixes,
    is_counter,
    prefixes_around,
    without_prefix,
)
from dlwp_jax.parity.table import listed


def read(path: str | Path) -> Any:
    """What a checkpoint file holds: tensors, numbers and dicts of them, nothing that runs.

    Args:
      path: a file of `torch.save`, whatever its suffix (read by torch.load with
        `weights_only=True`), or a `.safetensors` file.

    Returns:
      The state_dict, or the dict around it, or the one tensor that was saved.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the file, for another kind of file, a damaged one, or a pickle that
        wants to run code.

    >>> path = getfixture("tmp_path") / "ourpoints.t"
    >>> torch.save(torch.tensor([[4.0, 1.0], [5.0, 3.0]]), path)
    >>> read(path).tolist()
    [[4.0, 1.0], [5.0, 3.0]]
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path}: this is a folder; name a file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused; {_refusal(path, error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged, or no torch file: {_first_line(error)}") from error


def _refusal(path: Path, error: Exception) -> str:
    """Which Python objects stand in a pickle, and how a person who trusts it lets them in."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError):  # no zip file of torch's
        names = []
    if not names:
        return (
            "it is no plain checkpoint of tensors, and reading it could run code; save "
            f"model.state_dict() rather than the model. torch says: {_first_line(error)}"
        )
    if any(name.startswith("numpy.") for name in names):
        # torch asks for the class of an array's or a number's dtype, and does not list it.
        names = list(dict.fromkeys([*names, "numpy.dtype"]))
        names.append("*map(type, map(numpy.dtype, '?bhilqefdFDBHILQSUOMm'))")
    return (
        "beside tensors it holds Python objects, and reading those could run code: "
        f"{listed(names)}. Save model.state_dict() rather than these, or, if you trust the "
        f"file, read it under `with torch.serialization.safe_globals([{', '.join(names)}]):`."
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("safetensors is needed: pip install 'dlwp-jax[parity]'") from error
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: damaged, or no safetensors file: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    text = repr(error) if isinstance(error, KeyError) else str(error) or type(error).__name__
    return re.sub(r"\x1b\[\d*m", "", text).splitlines()[0].strip()  # torch prints parts in bold


def state_dict_of(source: Any) -> dict[str, torch.Tensor]:
    """The state_dict of a module, of a file, or inside a checkpoint's dict; prefixes of
    wrappers are taken off.

    Of a module, the entries are its Parameters themselves. Of a checkpoint such as `{"epoch":
    3, "model_state": {...}, "optimizer_state": {...}}` it is the one entry that is a dict of
    tensors.

    Raises:
      TypeError: for another kind of object. ValueError: where a checkpoint holds no state_dict,
        or several.
    """
    if isinstance(source, torch.nn.Module):
        state = dict(source.state_dict(keep_vars=True))
    elif isinstance(source, str | Path):
        return state_dict_of(read(source))
    elif isinstance(source, Mapping):
        state = dict(_only_state_dict(source))
    else:
        raise TypeError(
            "weights come from a torch module, a state_dict or a file of one; this is a "
            f"{type(source).__name__}."
        )
    while prefix := _prefix_of_torchs_wrappers(state):
        state = without_prefix(state, prefix)
    for name, value in state.items():
        _refuse_odd(name, value)
    return state


def _prefix_of_torchs_wrappers(state: Mapping[str, torch.Tensor]) -> str:
    """The outermost prefix of DataParallel, AveragedModel or torch.compile, if there is one."""
    for prefix in ("module.", "_orig_mod."):
        inside = [name.startswith(prefix) for name in state]
        beside = [is_counter(name, value, prefix) for name, value in state.items()]
        if any(inside) and all(map(operator.or_, inside, beside)):
            return prefix
    return ""


def _refuse_odd(name: str, value: torch.Tensor) -> None:
    """Values that are not simply there."""
    is_lazy = torch.nn.parameter.is_lazy(value)
    kinds = {
        "has no values yet (a lazy layer): run the torch model once": is_lazy,
        "has no values (device='meta'): load the torch model's weights first": value.is_meta,
        "is quantized: give it dequantized": value.is_quantized,
        "is sparse: give it as .to_dense()": value.layout != torch.strided,
    }
    for why, found in kinds.items():
        if found:
            raise ValueError(f"{name} {why}.")


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(v, torch.Tensor) for v in value.values())
    )


def _only_state_dict(source: Mapping) -> Mapping:
    if not source or _is_state_dict(source):
        return source
    inside = [name for name, value in source.items() if _is_state_dict(value)]
    if len(inside) == 1:
        return source[inside[0]]
    if inside:
        choice = f"load_torch(model, parity.read(path)[{inside[0]!r}])"
        found = f"has several: {inside}; choose one, as {choice}"
    else:
        others = [
            str(name) for name, value in source.items() if not isinstance(value, torch.Tensor)
        ]
        found = f"has none, nor is it one: these entries are no tensors: {listed(others)}"
    raise ValueError(
        f"a checkpoint with one state_dict (a dict of tensors) is wanted; this one {found}."
    )


def fill(model: torch.nn.Module, weights: Any) -> None:
    """Put a state_dict, or that of a file, into torch's model.

    If a wrapper has entries of its own beside those of the model (a Lightning module the
    weights of its loss), they are left out with a warning.

    Raises:
      ValueError: if the entries are not those of the model, or are so under several prefixes (a
        model and its average).
    """
    state = state_dict_of(weights)
    around = prefixes_around(state, model.state_dict())
    if len(around) > 1:
        raise ValueError(
            f"the model's names are found under {' and '.join(map(repr, around))}: give the "
            "entries of one of them."
        )
    prefix, own = common_prefixes(state, model.state_dict())
    if around and around[0]:
        prefix, own = around[0], ""
        others = [name for name in without_prefix(state, prefix) if prefix + name not in state]
        if others:
            warnings.warn(
                f"not under {prefix!r}, where the model is, and left out: {listed(others)}.",
                stacklevel=2,
            )
            state = {name: x for name, x in state.items() if name not in others}
    state = {own + name: value for name, value in without_prefix(state, prefix).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        words = weights if isinstance(weights, str | Path) else "the state_dict"
        why = " ".join(str(error).split())
        raise ValueError(
            f"{words} does not fit the torch model. torch says: {why[:400]}"
        ) from error
