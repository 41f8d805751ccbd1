"""Ports the models of cases.py and writes the table of docs/parity_port.md.

scripts/port_table            # all of them
scripts/port_table --missing  # those that have no row yet
scripts/port_table resnet18   # this one; the rows of the others stay
"""

import multiprocessing
import re
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import cases  # noqa: E402
import torch  # noqa: E402

from dlwp_jax import parity  # noqa: E402
from dlwp_jax.parity.port.prove import figures  # noqa: E402
from dlwp_jax.parity.port.write import rounded  # noqa: E402

SECONDS = 1200
PAGE = ROOT / "docs" / "parity_port.md"
START = "| model | | input | forward | gradient | step | lines | loops |\n"
LINE = "| --- | --- | --- | --- | --- | --- | --- | --- |\n"


def main(names: list[str]) -> int:
    """Measure, and write the page after every model."""
    known = cases.cases()
    failed = 0
    if names == ["--missing"]:
        names = [name for name in known if name not in rows_of_page()]
    for name in names or known:
        began = time.time()
        text = measured(name, known[name])
        failed += any(word in text for word in ("refused", "failed", "differs"))
        print(text, f"{time.time() - began:.0f} s", flush=True)
        write(known, name, text)
    return min(failed, 1)


def measured(name: str, case: cases.Case) -> str:
    """`row` in a process of its own, which gives its memory back and ends after `SECONDS`."""
    with multiprocessing.get_context("fork").Pool(1) as process:
        try:
            return process.apply_async(row, (name,)).get(SECONDS)
        except multiprocessing.TimeoutError:
            return f"{beginning(name, case)} | failed: longer than {SECONDS} s | | | | |"


def beginning(name: str, case: cases.Case) -> str:
    """The first cells of a line."""
    shape = " and ".join(" ".join(map(str, x.shape)) for x in cases.arrays(case))
    return f"| {name} | {case.group} | {shape}"


def row(name: str) -> str:
    """One line of the table."""
    case = cases.cases()[name]
    start = beginning(name, case)
    torch.manual_seed(0)
    try:
        ported = parity.port(case.make(), *cases.arrays(case))
    except Exception as error:  # noqa: BLE001  every failure stands in the table
        if not isinstance(error, parity.Refused):
            traceback.print_exc()
        word = (
            "refused"
            if isinstance(error, parity.Refused)
            else f"failed: {type(error).__name__}"
        )
        reason = re.sub(r"\S*/", "", " ".join(str(error).split())).replace("|", "/")
        return f"{start} | {word}: {reason[:160]} | | | | |"
    found = figures(ported.report)
    step = "" if found.step is None else rounded(found.step)
    word = "" if ported.report.ok else " differs"
    lines = ported.source.count("\n")
    return (
        f"{start} | {rounded(found.forward)}{word} | {rounded(found.gradient)} | {step} | "
        f"{lines} | {ported.loops} |"
    )


def rows_of_page() -> dict[str, str]:
    """The rows that the page has, by model."""
    table = PAGE.read_text(encoding="utf-8").partition(START)[2]
    return {line.split("|")[1].strip(): line for line in table.splitlines()[1:] if line}


def write(known: dict[str, cases.Case], name: str, text: str) -> None:
    """Put a row in its place on the page."""
    head = PAGE.read_text(encoding="utf-8").partition(START)[0]
    rows = rows_of_page() | {name: text}
    ordered = [rows[other] for other in known if other in rows]
    PAGE.write_text(head + START + LINE + "\n".join(ordered) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
