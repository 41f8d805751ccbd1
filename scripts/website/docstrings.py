"""Our docstrings as Markdown: sections as lists, examples as code. Read by mkdocstrings, as an
extension of griffe.

Griffe's own reader of this style wants one argument in each entry, and a heading over examples.
"""

import re
import textwrap

import griffe

SECTION = re.compile(
    r"^(Args|Attributes|Returns|Raises|Warns|Yields):\n((?:[ ]+.*\n|\n)+)", re.MULTILINE
)
EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
ENTRY = re.compile(r"^([*\w.]+(?:, [*\w.]+)*(?: \([^)\n]*\))?):(?=\s)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    text = SECTION.sub(_section, text.rstrip() + "\n\n")
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)


def _section(match: re.Match) -> str:
    title, body = match[1], textwrap.dedent(match[2]).strip("\n")
    if title in ("Returns", "Yields") or not ENTRY.match(body):
        return f"**{title}**: {body}\n\n"
    entries = re.split(r"\n(?=\S)", body)
    lines = [ENTRY.sub(lambda entry: f"`{entry[1]}`:", entry, count=1) for entry in entries]
    return (
        f"**{title}**\n\n"
        + "\n".join("- " + line.replace("\n", "\n  ") for line in lines)
        + "\n\n"
    )
