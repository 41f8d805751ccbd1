"""Runs benchmarks by name, prints their tables, and with --write puts them into
docs/performance.md. `scripts/bench check [NAME ...]` compares with the ratios that are kept.

A benchmark is a module beside this file with a docstring (what is compared, and how) and
`measure() -> list[dict[str, str]]`: the rows of its table, one key a column.
"""

import argparse
import importlib
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

from dlwp_jax import terminal

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
HEAD = """# Performance

Every table below was written by the command above it. Ratios compare runs on one machine, \
interleaved.
"""


def names() -> list[str]:
    helpers = ("__main__", "timing", "check")
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in helpers)


def machine() -> str:
    import jax

    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("jax", "flax", "optax", "torch")
    )
    device, python = jax.devices()[0].device_kind, platform.python_version()
    return f"{device}, {os.cpu_count()} cores, Python {python}, {libraries}"


def table(rows: list[dict[str, str]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def write(name: str, section: str) -> None:
    """Replace this benchmark's section of the page, or append it; a CPU and a GPU have one
    each.
    """
    import jax

    page = PAGE.read_text() if PAGE.exists() else HEAD
    mark = name if jax.default_backend() == "cpu" else f"{name}, {jax.default_backend()}"
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
    block = begin + section + end
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = (
        pattern.sub(lambda _: block, page) if begin in page else page.rstrip() + "\n\n" + block
    )
    partial = PAGE.with_suffix(".partial")
    partial.write_text(page)
    partial.replace(PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"all, or any of: {', '.join(names())}; after check: those to compare",
    )
    parser.add_argument("--list", action="store_true", help="one line for each benchmark")
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the tables into docs/performance.md; with check: keep the ratios",
    )
    args = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    if args.list or not args.names:
        for name in names():
            print(f"{name:14s} {(importlib.import_module(name).__doc__ or '').splitlines()[0]}")
        return
    is_check = args.names[0] == "check"
    given = args.names[1:] if is_check else args.names
    wanted = names() if given == ["all"] or not given else given
    if unknown := [name for name in wanted if name not in names()]:
        parser.error(
            f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names())}"
        )
    if is_check:
        import check

        sys.exit(not check.run(wanted, write=args.write))
    for name in wanted:
        module = importlib.import_module(name)
        title, _, text = (module.__doc__ or name).partition("\n")
        rows = table(module.measure())
        head = f"## {title}\n\n    scripts/bench {name} --write\n\n{machine()}\n"
        section = f"{head}{text.rstrip()}\n\n{rows}\n"
        print(section)
        if args.write:
            write(name, section)


if __name__ == "__main__":
    with terminal.output():
        main()
