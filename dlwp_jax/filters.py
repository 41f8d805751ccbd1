"""NNX filters that choose parts of a model: names that the model does not have are refused.

`trainable="head"` is a filter of NNX, but of variables that were tagged "head", and
`nnx.Not(nnx.PathContains("bakbone"))` chooses everything. Both are answered with the model's
own names.
"""

import difflib
from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import jax
from flax import nnx

Path = tuple[Any, ...]
MOST_SHOWN = 12  # paths in a message


def checked(filter: Any, model: nnx.Module, argument: str = "trainable") -> Any:
    """An NNX filter, hashable; refused if a name in it is not one of the model.

    Raises:
      TypeError: if it is no filter, such as a part of the model itself.
      ValueError: if a name in it is no tag, or is in no path of the model.

    >>> checked("bias", nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    Traceback (most recent call last):
    ValueError: trainable='bias' names a tag of NNX, which chooses no leaf of the model; \
write nnx.All(nnx.Param, nnx.PathContains('bias')). The parameters are bias, kernel.
    """
    if isinstance(filter, list):
        filter = tuple(filter)  # a list is no key of a compiled program
    variables = nnx.to_flat_state(nnx.state(model))
    paths = [path for path, _ in variables]
    tags = {getattr(variable, "tag", None) for _, variable in variables}
    parameters = [path for path, variable in variables if isinstance(variable, nnx.Param)]
    known = f"The parameters are {shown(parameters or paths)}."
    for part in _parts(filter):
        if isinstance(part, nnx.Module | nnx.Variable | jax.Array | dict | set | frozenset):
            words = _place(part, model)
            raise TypeError(
                f"{argument} must be an NNX filter; got a {type(part).__name__}"
                f"{_cure(words, paths)}. {known}"
            )
        if isinstance(part, nnx.WithTag) and part.tag not in tags:
            raise ValueError(
                f"{argument}={filter!r} names a tag of NNX, which chooses no leaf of the "
                f"model{_cure(_words(part.tag), paths)}. {known}"
            )
        if isinstance(part, nnx.PathContains) and not any(part(path, None) for path in paths):
            raise ValueError(
                f"{argument}={filter!r}: {part.key!r} chooses no leaf of the model"
                f"{_cure(_words(part.key), paths)}. {known}"
            )
    return filter


def shown(paths: list[Path]) -> str:
    """Paths with dots, the first few of many.

    >>> shown([("head", "bias"), ("layers", 0, "bias")])
    'head.bias, layers.0.bias'
    """
    names = [".".join(map(str, path)) for path in paths]
    if len(names) > MOST_SHOWN:
        parts = list(dict.fromkeys(str(path[0]) for path in paths))
        rest = f"{len(names)} in {', '.join(parts[:MOST_SHOWN])}"
        return f"{', '.join(names[:3])}, ... ({rest})"
    return ", ".join(names)


def _parts(filter: Any) -> Iterator[Any]:
    """The filters that a filter is made of; a word as the tag that NNX takes it for."""
    if isinstance(filter, str):
        yield nnx.WithTag(filter)
    elif isinstance(filter, list | tuple):
        for part in filter:
            yield from _parts(part)
    elif isinstance(filter, nnx.All | nnx.Any):
        for part in filter.predicates:
            yield from _parts(part)
    elif isinstance(filter, nnx.Not):
        yield from _parts(filter.predicate)
    elif not isinstance(filter, type | bool | EllipsisType | None):
        yield filter


def _words(name: Any) -> list[Any]:
    return name.replace("/", ".").split(".") if isinstance(name, str) else [name]


def _place(part: Any, model: nnx.Module) -> list[Any]:
    """Where a part of the model is; or the words that it holds."""
    if isinstance(part, dict | set | frozenset):
        return [word for word in part if isinstance(word, str)][:1]
    for path, node in nnx.iter_graph(model):
        if node is part:
            return list(path)
    return []


def _cure(words: list[Any], paths: list[Path]) -> str:
    """The filter that was meant, if the words are like names of the model."""
    names = {str(name): name for path in paths for name in path}
    meant = []
    for word in words:
        close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.7)
        if not close:
            return ""
        meant.append(names[close[0]])
    if len(meant) == 1:
        return f"; write nnx.All(nnx.Param, nnx.PathContains({meant[0]!r}))"
    n = len(meant)
    if n == 0 or not any(path[:n] == tuple(meant) for path in paths):
        return ""
    return f"; write nnx.All(nnx.Param, lambda path, _: path[:{n}] == {tuple(meant)!r})"
