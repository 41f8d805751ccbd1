"""The library is built as docs/architecture.md draws it. The referee is Python's own parser."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

LIBRARY = ROOT / "dlwp_jax"


def module_of(path: Path) -> str:
    """`train.fit` of dlwp_jax/train/fit.py, `train` of dlwp_jax/train/__init__.py."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in LIBRARY.rglob("*.py")}


def imports_at_once(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that are made when a module is imported, and not when a function is called or
    types are checked.
    """
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        elif isinstance(statement, ast.Try):
            yield from imports_at_once(statement.body)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.dump(statement.test):
            yield from imports_at_once([*statement.body, *statement.orelse])


def absolute(statement: ast.ImportFrom, module: str) -> str:
    """The module that `from . import` means, in full."""
    name = statement.module or ""
    if statement.level == 0:
        return name
    package = ["dlwp_jax", *module.split(".")]
    if MODULES[module].name != "__init__.py":
        package.pop()
    above = package[: len(package) - statement.level + 1]
    return ".".join([*above, name] if name else above)


def imported(module: str) -> set[str]:
    """The modules of the library that are imported with a module, packages around them too."""
    names = set()
    for statement in imports_at_once(ast.parse(MODULES[module].read_text()).body):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            base = absolute(statement, module)
            names |= {base} | {f"{base}.{alias.name}" for alias in statement.names}
    found = set()
    for name in names:
        parts = name.removeprefix("dlwp_jax.").split(".")
        while name.startswith("dlwp_jax.") and parts:
            found.add(".".join(parts))
            parts.pop()
    # A package around a module is there before the module is read.
    return {one for one in found & set(MODULES) if not f"{module}.".startswith(f"{one}.")}


def floors() -> dict[str, int]:
    """The floor of each room in the first picture of the page."""
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    found, floor = {}, 0
    for line in picture.splitlines():
        if heading := re.match(r" *subgraph f(\d)", line):
            floor = int(heading[1])
        elif room := re.match(r'    (\w+)(?:\["([^:"]+))?', line):
            found |= dict.fromkeys((room[2] or room[1]).split(", "), floor)
    return found


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported(module) for module in MODULES}
    assert {"train.loop", "train.identity"} <= graph["train.resume"]
    order = list(TopologicalSorter(graph).static_order())  # a circle is named by its error
    assert order.index("train.step") < order.index("train.fit") < order.index("train")


def test_no_room_imports_from_a_floor_above():
    floor = floors()
    rooms = {module.split(".")[0] for module in MODULES} - {""}
    assert rooms == {
        room for room, level in floor.items() if level < 6 and room != "experiments"
    }
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imported(module)
        if module and floor[module.split(".")[0]] < floor[other.split(".")[0]]
    ]
    assert upward == []
