"""Plain text tables, as the reports print them."""

from collections.abc import Iterable, Sequence


def text_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned to the left, two spaces apart.

    >>> print(text_table(["name", "n"], [["a", 1], ["long", 2]]))
    name  n
    a     1
    long  2
    """
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(padded)


def listed(names: Sequence[str], most: int = 12) -> str:
    """The names; of a deep network's hundreds the first ones and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
