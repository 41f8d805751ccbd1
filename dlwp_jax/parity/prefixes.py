"""Prefixes that wrappers put ahead of every name: DataParallel's `module.`, Lightning's
`model.`, and any other.
"""

import itertools
from collections.abc import Iterable, Mapping

import torch


def common_prefixes(
    names: Iterable[str], known: Iterable[str], *, least: int = 1
) -> tuple[str, str]:
    """The prefixes under which most names agree with the known ones.

    A prefix is taken off only if all names of its side begin with it (names without a dot, such
    as AveragedModel's `n_averaged`, aside).

    Args:
      names: of one state_dict.
      known: of the model it is meant for.
      least: so many names must agree; otherwise nothing is taken off.

    Returns:
      The prefix of `names` and that of `known`, each "" or ending in a dot.

    >>> common_prefixes(["net.model.0.weight", "net.model.2.weight"], ["0.weight", "2.weight"])
    ('net.model.', '')
    """
    names, known = list(names), list(known)
    best, found = least - 1, ("", "")
    pairs = itertools.product(_prefixes(names), _prefixes(known))
    for theirs, ours in sorted(pairs, key=lambda pair: len(pair[0] + pair[1])):
        agreeing = len(set(_stripped(names, theirs)) & set(_stripped(known, ours)))
        if agreeing > best:
            best, found = agreeing, (theirs, ours)
    return found


def prefixes_around(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The prefixes under which all known names are found, whatever stands beside them.

    >>> prefixes_around(["net.0.weight", "net.0.bias", "loss.weight"], ["0.weight", "0.bias"])
    ['net.']
    """
    names, known = set(names), list(known)
    if not known:
        return []
    prefixes = [
        name.removesuffix(known[0]) for name in names if f".{name}".endswith("." + known[0])
    ]
    return sorted(p for p in prefixes if all(p + name in names for name in known))


def _prefixes(names: list[str]) -> list[str]:
    """Every prefix that all names with a dot share, the empty one first."""
    split = [name.split(".")[:-1] for name in names if "." in name]
    shared = [""]
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{shared[-1]}{parts[0]}.")
    return shared


def _stripped(names: list[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def without_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries without the prefix, and without the wrapper's own counters beside it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if not is_counter(name, value, prefix)
    }


def is_counter(name: str, value: torch.Tensor, prefix: str) -> bool:
    """Whether an entry is a whole number that a wrapper keeps beside the model's entries."""
    whole = value.ndim == 0 and not value.is_floating_point()
    return bool(prefix) and not name.startswith(prefix) and "." not in name and whole
