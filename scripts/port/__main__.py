"""Ports the models of cases.py and writes the table of docs/parity_port.md.

scripts/port_table            # all of them
scripts/port_table resnet18   # this one; the rows of the others stay
"""

import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import cases  # noqa: E402
import torch  # noqa: E402

from dlwp_jax import parity  # noqa: E402
from dlwp_jax.parity.port.prove import figures  # noqa: E402
from dlwp_jax.parity.port.write import rounded  # noqa: E402

PAGE = ROOT / "docs" / "parity_port.md"
START = "| model | | input | forward | gradient | step | lines | loops |\n"
LINE = "| --- | --- | --- | --- | --- | --- | --- | --- |\n"


def main(names: list[str]) -> int:
    """Measure, and write the page after every model."""
    known = cases.cases()
    failed = 0
    for name in names or known:
        began = time.time()
        text = row(name, known[name])
        failed += "refused" in text or "differs" in text
        print(text, f"{time.time() - began:.0f} s", flush=True)
        write(known, name, text)
    return min(failed, 1)


def row(name: str, case: cases.Case) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    inputs = cases.arrays(case)
    shape = " and ".join(" ".join(map(str, x.shape)) for x in inputs)
    start = f"| {name} | {case.group} | {shape}"
    try:
        ported = parity.port(case.make(), *inputs)
    except parity.Refused as error:
        reason = re.sub(r"\S*/", "", str(error)).replace("|", "/")
        return f"{start} | refused: {reason} | | | | |"
    found = figures(ported.report)
    step = "" if found.step is None else rounded(found.step)
    word = "" if ported.report.ok else " differs"
    lines = ported.source.count("\n")
    return (
        f"{start} | {rounded(found.forward)}{word} | {rounded(found.gradient)} | {step} | "
        f"{lines} | {ported.loops} |"
    )


def write(known: dict[str, cases.Case], name: str, text: str) -> None:
    """Put a row in its place on the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, table = page.partition(START)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[1:] if line}
    rows[name] = text
    ordered = [rows[other] for other in known if other in rows]
    PAGE.write_text(head + START + LINE + "\n".join(ordered) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
