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
    names, read = set(), set()  # read: modules of which a name is taken
    for statement in imports_at_once(ast.parse(MODULES[module].read_text())):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
            continue
        base = absolute(statement, module)
        for alias in statement.names:
            inner = f"{base}.{alias.name}"
            names |= {base, inner}
            if inner.removeprefix("dlwp_jax.") not in MODULES:
                read.add(base.removeprefix("dlwp_jax."))
    outside = {name.split(".")[0] for name in names} & {"experiments", "scripts", "tests"}
    assert not outside, f"{module} imports {outside}"
    found = set()
    for name in names:
        parts = name.removeprefix("dlwp_jax.").split(".")
        while name.startswith("dlwp_jax.") and parts:
            found.add(".".join(parts))
            parts.pop()
    # A package around a module is begun before the module, but its names may not be there yet.
    around = {one for one in found if f"{module}.".startswith(f"{one}.")}
    return (found - around | read - {module}) & set(MODULES)


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
    assert {"train.loop", "train.identity"} <= graph["train.resume"]
    order = list(TopologicalSorter(graph).static_order())  # a circle is named by its error
    assert order.index("train.step") < order.index("train.fit") < order.index("train")


def test_no_room_imports_from_a_floor_above():
    floor = floors()
    rooms = {module.split(".")[0] for module in MODULES} - {""}
    assert rooms == {room for room, level in floor.items() if level < 6}
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imported(module)
        if module and floor[module.split(".")[0]] < floor[other.split(".")[0]]
    ]
    assert upward == []
