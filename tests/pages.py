"""Runs the Python of the documentation's pages, and compares what it prints with what the page
says it prints.

The ```python blocks of a page run in order, in one namespace, in a folder of their own. A block
with `title="x.py"` is a file, and is written there instead. A ```text block right behind a
block is what it prints: words to the letter, whole numbers exactly, others to a unit of their
last digit or 2 % (trainings end in other last digits on other machines), `...` for anything.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"


class Block(NamedTuple):
    """A fenced block: its language, the file it is to be, its lines, and what it prints, where
    the page says so.
    """

    language: str
    title: str | None
    code: str
    line: int  # of the page, where the code begins
    printed: str | None = None


def blocks(page: Path, language: str = "python") -> list[Block]:
    """The blocks of one language on a page."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    shown = {}
    for block, behind in pairwise(found):
        if behind[1] == "text" and not text[block.end() : behind.start()].strip():
            shown[block.start()] = behind[3]
    return [
        Block(
            match[1],
            match[2],
            match[3],
            text[: match.start(3)].count("\n") + 1,
            shown.get(match.start()),
        )
        for match in found
        if match[1] == language
    ]


def run(page: Path, names: dict) -> Iterator[tuple[Block, str]]:
    """Run a page in the current folder and in the given namespace; each block, and what it
    printed.
    """
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.code, encoding="utf-8")
            continue
        out = io.StringIO()
        code = (
            "\n" * (block.line - 1) + block.code
        )  # so that a traceback names the line of the page
        with contextlib.redirect_stdout(out):
            exec(compile(code, page.name, "exec"), names)
        yield block, out.getvalue()


def difference(printed: str, expected: str) -> str | None:
    """The first line of `expected` that was not printed, or None."""
    got, wanted = (
        [line.rstrip() for line in text.strip("\n").splitlines()]
        for text in (printed, expected)
    )
    if len(got) != len(wanted):
        return f"{len(wanted)} lines are shown and {len(got)} were printed:\n{printed}"
    for ours, shown in zip(got, wanted, strict=True):
        if not same(ours, shown):
            return f"the page shows\n  {shown}\nand this was printed:\n  {ours}"
    return None


def same(printed: str, shown: str) -> bool:
    """Whether a printed line is the one that is shown."""
    # Blanks count once: columns move where a number is printed one digit longer.
    printed, shown = (" ".join(line.split()) for line in (printed, shown))
    words, numbers = (
        re.split(rf"\.\.\.|{NUMBER}", shown),
        re.findall(rf"\.\.\.|{NUMBER}", shown),
    )
    gaps = [".*?" if number == "..." else f"({NUMBER})" for number in numbers]
    pattern = "".join(
        re.escape(word) + gap for word, gap in zip(words, [*gaps, ""], strict=True)
    )
    match = re.fullmatch(pattern, printed)
    return match is not None and all(
        map(near, match.groups(), (n for n in numbers if n != "..."))
    )


def near(printed: str, shown: str) -> bool:
    """Whether a number is the one that is shown: a whole one exactly, others to a unit of their
    last digit, or 2 %.
    """
    digits, _, exponent = shown.partition("e")
    is_whole = "." not in digits and not exponent
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(printed) - float(shown)) <= (
        0 if is_whole else max(1.001 * unit, 0.02 * abs(float(shown)))
    )
