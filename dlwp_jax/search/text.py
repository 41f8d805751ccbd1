"""Tables as plain text."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as an aligned table, numbers to the right, words to the left.

    >>> print(table([{"lr": 0.1, "verdict": "good fit"}, {"lr": 12.0, "verdict": "diverged"}]))
     lr  verdict
    0.1  good fit
     12  diverged
    """
    cells = [[*rows[0]], *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [isinstance(value, str) for value in rows[0].values()]
    lines = [
        "  ".join(
            cell.ljust(w) if is_word else cell.rjust(w)
            for cell, w, is_word in zip(line, widths, words, strict=True)
        )
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def shown(value: Any) -> str:
    """A number to four figures, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def spread(mean: float, deviation: float) -> str:
    """A mean with its spread, both to the spread's second figure.

    >>> spread(3.14159, 0.042), spread(3.14159, float("nan")), spread(1234.5, 230.0)
    ('3.142 ± 0.042', '3.142', '1230 ± 230')
    """
    if not np.isfinite(mean) or not np.isfinite(deviation) or deviation <= 0:
        return shown(float(mean))
    digits = 1 - int(np.floor(np.log10(deviation)))
    mean, deviation, places = round(mean, digits), round(deviation, digits), max(digits, 0)
    return f"{mean:.{places}f} ± {deviation:.{places}f}"
