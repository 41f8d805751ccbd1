"""Reads the cells: Python files of pairs, a cell in torch and a cell in JAX that compute the same.

    # %% torch.Tensor.permute, torch.Tensor.T | channels last      names that are paired | how to compare
    z.permute(2, 0, 1)
    # %% jax
    # Why the two differ, where they do.
    z.transpose(2, 0, 1)

The last line of a cell is its value. A file's docstring is the heading and the words under it. How values are
compared, where they are not simply equal: `random` (shape, dtype and distribution), `unset` (shape and dtype),
`channels last` (JAX's value is turned to torch's order first), `on NAME` (two modules, called with the input NAME).
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

CELLS = Path(__file__).parent / "cells"
GROUPS = (
    *("tensors", "functions", "random", "autograd", "optimizers", "modules"),
    *("data", "saving", "devices", "deployment"),
)
FLAGS = ("random", "unset", "channels last")


@dataclass(frozen=True)
class Pair:
    """What torch calls `names`: the line of torch, ours, and why they differ."""

    names: tuple[str, ...]
    torch: str
    jax: str
    why: str
    flags: tuple[str, ...] = ()

    @property
    def input(self) -> str | None:
        """The name of the input that two modules are called with."""
        return next((flag.removeprefix("on ") for flag in self.flags if flag.startswith("on ")), None)


@dataclass(frozen=True)
class Group:
    """One file of cells."""

    title: str
    words: str
    pairs: tuple[Pair, ...]


def read(name: str) -> Group:
    """The cells of one file.

    Raises:
      ValueError: where a cell stands without its other half, or a name without a line that uses it.
    """
    source = (CELLS / f"{name}.py").read_text()
    title, _, words = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    _, *parts = re.split(r"^# %% (.*)\n", source, flags=re.MULTILINE)
    headers, bodies = parts[::2], [body.strip() for body in parts[1::2]]
    if "jax" in headers[::2] or set(headers[1::2]) != {"jax"} or len(headers) % 2:
        raise ValueError(f"{name}.py: each cell of torch names must be followed by a cell of jax; it has {headers}.")
    pairs = [_pair(*cells) for cells in zip(headers[::2], bodies[::2], bodies[1::2], strict=True)]
    return Group(title, words.strip(), tuple(pairs))


def read_all() -> list[Group]:
    """Every group, in the order of the page."""
    return [read(name) for name in GROUPS]


def _pair(header: str, torch_cell: str, jax_cell: str) -> Pair:
    names, *flags = (part.strip() for part in header.split("|"))
    unknown = [flag for flag in flags if flag not in FLAGS and not flag.startswith("on ")]
    if unknown:
        raise ValueError(f"# %% {header}: {unknown[0]!r} is unknown; take {', '.join(FLAGS)} or 'on INPUT'.")
    why, code = _split_comment(jax_cell)
    if not torch_cell or not code:
        raise ValueError(f"# %% {header}: a cell is empty.")
    return Pair(tuple(re.split(r",\s*", names)), torch_cell, code, why, tuple(flags))


def _split_comment(cell: str) -> tuple[str, str]:
    """The comment lines that a cell begins with, as one sentence, and the code."""
    lines = cell.splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first]), "\n".join(lines[first:]).strip()


def unused_names(pair: Pair) -> list[str]:
    """Names that the line of torch does not use: a pair would be claimed for something that was never run."""
    used = set()
    for node in ast.walk(ast.parse(textwrap.dedent(pair.torch))):
        used |= {getattr(node, field, None) for field in ("attr", "id", "arg")}
    return [name for name in pair.names if name.rpartition(".")[2] not in used]
