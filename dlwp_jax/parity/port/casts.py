"""int(n / 2) and float(n) of a size n: while a forward runs, they remember the size.

Python makes a plain number of whatever `int` is given. So in the files where a forward stands,
the names `int` and `float` mean classes that take their place: calls of them keep the size, and
`isinstance(x, int)` is answered as before.
"""

from __future__ import annotations

import ast
import builtins
import functools
from pathlib import Path
from typing import Any

from dlwp_jax.parity.port.nodes import Dim, Ratio, forgotten


class _Cast(type):
    """The class of what stands for a type of numbers."""

    plain: type

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.plain)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or not isinstance(args[0], Dim | Ratio):
            return cls.plain(*args, **kwargs)
        number = args[0]
        if isinstance(number, cls.plain):
            return number
        made = cls.plain(forgotten(number))
        return number.recorder.size_of(cls.plain.__name__, (number,), made)


class _Int(metaclass=_Cast):
    plain = builtins.int


class _Float(metaclass=_Cast):
    plain = builtins.float


def casts(scope: dict[str, Any]) -> dict[str, Any]:
    """What stands for `int` and `float` in the globals of a file; {} if it gives the names
    another meaning, or uses them as a dtype.
    """
    found = {"int": _Int, "float": _Float}
    file = scope.get("__file__")
    allowed = _called_only(file) if isinstance(file, str) else frozenset()
    return {name: cast for name, cast in found.items() if name in allowed - scope.keys()}


@functools.cache
def _called_only(file: str) -> frozenset[str]:
    """Which of int and float the functions of a file call, and name for isinstance alone."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    fine: set[int] = set()
    inside: list[ast.Name] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside += [name for name in ast.walk(node) if isinstance(name, ast.Name)]
        for part in _without_a_value(node):
            fine.update(map(id, ast.walk(part)))
    others = {name.id for name in inside if id(name) not in fine}
    return frozenset({"int", "float"} - others)


def _without_a_value(node: ast.AST) -> list[ast.AST]:
    """The parts of a node in which another class may stand for int: it is called there, is a
    type of arguments, or is asked for by isinstance.
    """
    if isinstance(node, ast.Call):
        asked = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        called = isinstance(node.func, ast.Name)
        return [*([node.func] if called else []), *(node.args[1:] if asked else [])]
    parts = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [part for part in parts if isinstance(part, ast.AST)]
