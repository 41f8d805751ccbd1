"""Ports the models of cases.py and writes the table of docs/parity_port.md.

scripts/port_table            # all of them
scripts/port_table --missing  # those that have no row yet
scripts/port_table resnet18   # this one; the rows of the others stay
scripts/port_table --count    # none; only the percentages are counted anew
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

SECONDS = 3600
PAGE = ROOT / "docs" / "parity_port.md"
FAILED = r"\| (refused|failed)|differs \|"
KINDS = "| kind | models | proved | not measured | |\n"
START = "| model | | input | forward | gradient | step | lines | loops |\n"
LINE = "| --- | --- | --- | --- | --- | --- | --- | --- |\n"


def main(names: list[str]) -> int:
    """Measure, and write the page after every model."""
    known = cases.cases()
    failed = 0
    wanted = names or list(known)
    if names == ["--missing"]:
        wanted = [name for name in known if name not in rows_of_page()]
    if names == ["--count"]:
        wanted = []
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"cases.py has no model {', '.join(unknown)}; it has {', '.join(known)}.")
    for name in wanted:
        began = time.time()
        text = measured(name, known[name])
        failed += bool(re.search(FAILED, text))
        print(text, f"{time.time() - began:.0f} s", flush=True)
        write(known, {name: text})
    write(known, {})
    print(coverage(known, rows_of_page()))
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


def coverage(known: dict[str, cases.Case], rows: dict[str, str]) -> str:
    """How many models of every kind are proved, in numbers and percent."""
    proved = {name for name, text in rows.items() if not re.search(FAILED, text)}
    kinds = dict.fromkeys(case.group for case in known.values())
    counted = {
        kind: [name for name, case in known.items() if case.group == kind] for kind in kinds
    }
    lines = []
    for kind, names in (counted | {"all": list(known)}).items():
        right = len(proved.intersection(names))
        missing = sum(name not in rows for name in names)
        share = f"{100 * right / len(names):.0f} %"
        lines.append(f"| {kind} | {len(names)} | {right} | {missing} | {share} |\n")
    return KINDS + "| --- | --- | --- | --- | --- |\n" + "".join(lines)


def write(known: dict[str, cases.Case], found: dict[str, str]) -> None:
    """Put rows in their places on the page, and count anew."""
    head = PAGE.read_text(encoding="utf-8").partition(START)[0].partition(KINDS)[0]
    rows = rows_of_page() | found
    ordered = [rows[other] for other in known if other in rows]
    counts = coverage(known, rows)
    text = f"{head}{counts}\n{START}{LINE}" + "\n".join(ordered) + "\n"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
