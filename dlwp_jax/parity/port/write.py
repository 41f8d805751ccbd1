"""The text of the file."""

from __future__ import annotations

import io
import re
import tokenize
from typing import Any

import numpy as np

from dlwp_jax.parity.port.classes import Classes
from dlwp_jax.parity.port.marks import Written
from dlwp_jax.parity.port.style import broken


def source(classes: Classes, head: str) -> str:
    """The whole file; `head` is its docstring's text."""
    body = "\n\n\n".join(_class_text(classes, written) for written in classes.written.values())
    imports = ["import math", ""] if re.search(r"\bmath\.", body) else []
    if re.search(r"\bjax\.", body):
        imports.append("import jax")
    if "jnp." in body:
        imports.append("import jax.numpy as jnp")
    imports.append("from flax import nnx")
    used = [name for name in ("losses", "nn") if re.search(rf"\b{name}\.", body)]
    own = ["", f"from dlwp_jax import {', '.join(used)}"] if used else []
    body = _in_double_quotes(body)
    return f'"""{head}"""\n\n' + "\n".join([*imports, *own]) + f"\n\n\n{body}\n"


def _in_double_quotes(text: str) -> str:
    tokens = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        simple = (
            token.type == tokenize.STRING
            and token.string[0] == "'"
            and not {'"', "\\"} & set(token.string)
        )
        tokens.append(token._replace(string=f'"{token.string[1:-1]}"') if simple else token)
    return tokenize.untokenize(tokens)


def _class_text(classes: Classes, written: Written) -> str:
    init, methods = classes.render(written)
    lines = [f"class {written.name}({written.base}):"]
    if init or written.base == "nnx.Module":
        given = [
            f"{name}: {_kind(written, number)}" for name, number in written.parameters().items()
        ]
        lines += broken(
            f"def __init__({', '.join(['self', *given, '*', 'rngs: nnx.Rngs'])}):", 4
        )
        if not any("rngs" in line for line in init):
            init.append("del rngs")
        for line in init:
            lines += broken(line, 8)
        lines += [""] if methods else []
    if methods:
        arguments = [f"{name}: {kind}" for name, kind in written.arguments.items()]
        lines += broken(
            f"def __call__({', '.join(['self', *arguments])}) -> {written.returns}:", 4
        )
        lines += _method(methods)
    return "\n".join(lines)


def _method(methods: list[list[str]]) -> list[str]:
    if len(methods) == 1:
        return _block(methods[0], 8)
    evaluated, trained = methods
    same = 0
    while same < min(len(evaluated), len(trained)) and evaluated[same] == trained[same]:
        same += 1
    lines = _block(evaluated[:same], 8)
    lines += ["        if self.deterministic:", *_block(evaluated[same:], 12)]
    return lines + _block(trained[same:], 8)


def _block(lines: list[str], indent: int) -> list[str]:
    found = []
    for line in lines:
        inner = len(line) - len(line.lstrip(" "))
        if line.lstrip().startswith("#"):
            found.append(" " * indent + line[: 96 - indent])
            continue
        found += broken(line.lstrip(" "), indent + inner)
    return found


def _kind(written: Written, number: int) -> str:
    kinds = {_type_name(use[number].value) for use in written.flat}
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _type_name(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"tuple[{', '.join(_type_name(v) for v in value)}]"
    return type(value).__name__


def rounded(error: float) -> str:
    """2.3e-15, or 0 for an exact result."""
    return "0" if error == 0 else np.format_float_scientific(error, precision=1, trim="0")
