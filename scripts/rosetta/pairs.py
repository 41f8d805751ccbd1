"""Reads the cells: Python files of pairs, a cell in torch and a cell in JAX that compute the
same.

    # %% torch.Tensor.permute, torch.Tensor.T | channels last
    z.permute(2, 0, 1)
    # %% jax
    # Why the two differ, where they do.
    z.transpose(2, 0, 1)

The first line has the names that are paired, and behind the bar how to compare. The last line
of a cell is its value. A cell `# %% bites` before that of JAX shows what looks right and is
not. A file's docstring is the heading and the words under it. How values are compared, where
they are not simply equal: `random` (shape, dtype and distribution), `unset` (shape and dtype),
`channels last` (JAX's value is turned to torch's order first), `on NAME` (two modules, called
with the input NAME).
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

CELLS = Path(__file__).parent / "cells"
GROUPS = (
    *("tensors", "functions", "random", "autograd", "optimizers", "modules"),
    *("data", "saving", "devices", "deployment", "layers", "beyond"),
)
FLAGS = ("random", "unset", "channels last")


@dataclass(frozen=True)
class Pair:
    """What torch calls `names`: its line, ours, why they differ, and perhaps a line that gives
    another value.
    """

    names: tuple[str, ...]
    torch: str
    jax: str
    why: str
    flags: tuple[str, ...] = ()
    bites: str = ""

    @property
    def input(self) -> str | None:
        """The name of the input that two modules are called with."""
        return next(
            (flag.removeprefix("on ") for flag in self.flags if flag.startswith("on ")), None
        )


@dataclass(frozen=True)
class Group:
    """One file of cells."""

    name: str
    title: str
    words: str
    pairs: tuple[Pair, ...]


def read(name: str) -> Group:
    """The cells of one file.

    Raises:
      ValueError: where a cell stands without its other half, or is empty, or a flag is unknown.
    """
    source = (CELLS / f"{name}.py").read_text()
    title, _, words = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    _, *parts = re.split(r"^# %% (.*)\n", source, flags=re.MULTILINE)
    pairs: list[dict[str, str]] = []
    for header, body in zip(parts[::2], parts[1::2], strict=True):
        if header not in ("bites", "jax"):
            pairs.append({"header": header, "torch": body.strip()})
        elif not pairs or "jax" in pairs[-1] or header in pairs[-1]:
            raise ValueError(f"{name}.py: a cell of {header} follows no cell of torch.")
        else:
            pairs[-1][header] = body.strip()
    return Group(name, title, words.strip(), tuple(_pair(**cells) for cells in pairs))


def read_all() -> list[Group]:
    """Every group, in the order of the page."""
    return [read(name) for name in GROUPS]


def book_names(groups: list[Group]) -> set[str]:
    """The names that have a pair, but for those that the list of the book's names has not."""
    return {
        name
        for group in groups
        if group.name not in ("layers", "beyond")
        for pair in group.pairs
        for name in pair.names
    }


def _pair(header: str, torch: str, jax: str = "", bites: str = "") -> Pair:
    names, *flags = (part.strip() for part in header.split("|"))
    unknown = [flag for flag in flags if flag not in FLAGS and not flag.startswith("on ")]
    if unknown:
        raise ValueError(
            f"# %% {header}: {unknown[0]!r} is unknown; take {', '.join(FLAGS)} or 'on INPUT'."
        )
    why, code = _split_comment(jax)
    if not torch or not code:
        raise ValueError(
            f"# %% {header}: needs a cell of torch and, after '# %% jax', one of JAX; one is "
            "empty."
        )
    torch, code, bites = (re.sub(r"\n{3,}", "\n\n", cell) for cell in (torch, code, bites))
    return Pair(tuple(re.split(r",\s*", names)), torch, code, why, tuple(flags), bites)


def _split_comment(cell: str) -> tuple[str, str]:
    """The comment lines that a cell begins with, as one sentence, and the code."""
    lines = cell.splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first]), "\n".join(
        lines[first:]
    ).strip()


def unused_names(pair: Pair) -> list[str]:
    """Names that the line of torch does not use: a pair would be claimed for something that was
    never run.
    """
    used = set()
    for node in ast.walk(ast.parse(textwrap.dedent(pair.torch))):
        used |= {getattr(node, field, None) for field in ("attr", "id", "arg")}
    return [name for name in pair.names if name.rpartition(".")[2] not in used]
