"""The library is built as docs/architecture.md draws it. The referee is Python's own parser."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

from tests.conftest import ROOT


def module_of(path: Path) -> str:
    """`dlwp_jax.train.fit` of dlwp_jax/train/fit.py, `dlwp_jax.train` of its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in (ROOT / "dlwp_jax").rglob("*.py")}


def imports_at_once(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that are made when a module is imported, and not when a function is called or
    types are checked.
    """
    inside = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).lstrip("_") == "TYPE_CHECKING":
        inside = iter(node.orelse)
    for child in inside:
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_at_once(child)


def around(name: str) -> set[str]:
    """The packages `a` and `a.b` of `a.b.c`."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))}


@cache
def imported(module: str) -> set[str]:
    """The modules of the library that are imported with a module, packages around them too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names, read = set(), set()  # read: modules of which a name is taken
    for statement in imports_at_once(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
            continue
        base = resolve_name("." * statement.level + (statement.module or ""), package)
        inner = {f"{base}.{alias.name}" for alias in statement.names}
        names |= {base} | inner
        if not inner <= set(MODULES):
            read.add(base)
    outside = {name.split(".")[0] for name in names} & {"experiments", "scripts", "tests"}
    assert not outside, f"{module} imports {outside}"
    # A package around a module is begun before the module, but its names may not be there yet.
    found = names.union(*map(around, names)) - around(module) | read
    return (found - {module}) & set(MODULES)


def floors() -> dict[str, int]:
    """The floor of each room in the first picture of the page."""
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    found, floor = {}, 0
    for line in picture.splitlines():
        if heading := re.match(r" *subgraph f(\d)", line):
            floor = int(heading[1])
        elif room := re.match(r'    (\w+)(?:\["([^:"]+))?', line):
            for name in (room[2] or room[1]).split(", "):
                assert name not in found, f"{name} is drawn twice"
                found[name] = floor
    return found


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported(module) for module in MODULES}
    assert {"dlwp_jax.train.loop", "dlwp_jax.train.identity"} <= graph["dlwp_jax.train.resume"]
    order = list(TopologicalSorter(graph).static_order())  # a circle is named by its error
    stair = [order.index(f"dlwp_jax.{name}") for name in ("train.step", "train.fit", "train")]
    assert stair == sorted(stair)


def test_no_room_imports_from_a_floor_above():
    floor = floors()
    room = {module: module.split(".")[1] for module in MODULES if module != "dlwp_jax"}
    assert set(room.values()) == {name for name, level in floor.items() if level < 6}
    upward = [
        f"{module} imports {other}"
        for module in room
        for other in imported(module) & set(room)
        if floor[room[module]] < floor[room[other]]
    ]
    assert upward == []
