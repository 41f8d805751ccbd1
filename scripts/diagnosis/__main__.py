"""Measures how often `diagnose` is right where the truth is known, and writes the tables of
docs/diagnose.md.
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import families  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import truth  # noqa: E402
from known import Case, cases  # noqa: E402

from dlwp_jax.diagnose import VERDICTS, diagnose, known_losses  # noqa: E402
from dlwp_jax.diagnose.history import read  # noqa: E402
from dlwp_jax.diagnose.measure import measure  # noqa: E402
from dlwp_jax.diagnose.verdict import Thresholds, decide  # noqa: E402

PAGE = ROOT / "docs" / "diagnose.md"
CLEAR = 0.2  # a verdict of this margin is called clear
OPPOSITES = {"overfitting", "underfitting"}


KNOWN = {
    "the history alone": lambda case: None,
    "and the trivial loss": lambda case: case.trivial,
    "and the reachable loss": lambda case: {
        "trivial": case.trivial,
        "reachable": case.reachable,
    },
}
FITTED = {
    "harm": (0.04, 0.05, 0.06, 0.08, 0.1, 0.12),
    "falling": (0.04, 0.05, 0.06, 0.08, 0.1, 0.12),
    "gap": (0.15, 0.2, 0.25, 0.3, 0.35),
    "unexplained": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5),
    "above": (0.06, 0.08, 0.1, 0.12, 0.15),
}


def fit(half: list[Case]) -> Thresholds:
    """The thresholds that are right most often, one after the other, twice; the middle of those
    that are equal.
    """
    measured = []
    for case in half:
        curves = read(case.history)
        for known in KNOWN.values():
            if not curves.failed_epoch:
                trivial, reachable = known_losses(known(case))
                measured.append(
                    (case.truth, (curves, measure(curves, trivial), trivial, reachable))
                )

    def right(limits):
        return sum(decide(*arguments, limits)[0] == t for t, arguments in measured)

    best = Thresholds()
    for name, values in 2 * list(FITTED.items()):
        scores = {value: right(replace(best, **{name: value})) for value in values}
        winners = [value for value, score in scores.items() if score == max(scores.values())]
        best = replace(best, **{name: winners[len(winners) // 2]})
        print(name, scores, file=sys.stderr)
    return best


def report(half: list[Case]) -> str:
    """The tables, in Markdown."""
    rows, matrices = [], []
    for what, known in KNOWN.items():
        told = [diagnose(case.history, baseline=known(case)) for case in half]
        right = np.array([d.verdict == c.truth for d, c in zip(told, half, strict=True)])
        fair = np.array(
            [d.verdict in truth.acceptable(c.facts) for d, c in zip(told, half, strict=True)]
        )
        clear = np.array([d.evidence.get("margin", 1.0) >= CLEAR for d in told])
        crossed = np.array(
            [{d.verdict, c.truth} == OPPOSITES for d, c in zip(told, half, strict=True)]
        )
        rows.append(
            f"| {what} | {right.mean():.1%} | {fair.mean():.1%} | {fair[clear].mean():.1%} of {clear.mean():.0%} "
            f"| {crossed.sum()} | {(crossed & clear).sum()} |"
        )
        matrices.append(
            matrix(what, Counter((c.truth, d.verdict) for d, c in zip(told, half, strict=True)))
        )
    head = (
        "| `diagnose` is told | right | right or on the border | the same, margin at least "
        f"{CLEAR} | over- for underfitting or the reverse | of these, margin at least {CLEAR} |"
    )
    return "\n".join([head, "| --- " * 6 + "|", *rows, "", *matrices])


def matrix(what: str, counts: Counter) -> str:
    """How often which truth got which verdict."""
    verdicts = [v for v in VERDICTS if any(v in pair for pair in counts)]
    lines = [
        f"Told {what} (rows: truth, columns: verdict):",
        "",
        "| | " + " | ".join(verdicts) + " |",
    ]
    lines.append("| --- " * (len(verdicts) + 1) + "|")
    for t in verdicts:
        lines.append(f"| {t} | " + " | ".join(str(counts[t, v] or "") for v in verdicts) + " |")
    return "\n".join([*lines, ""])


def write(text: str) -> None:
    """Put the tables between their marks in the page."""
    begin, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, _, rest = PAGE.read_text().partition(begin)
    partial = PAGE.with_suffix(".partial")
    partial.write_text(before + begin + text + end + rest.partition(end)[2])
    partial.replace(PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/diagnosis_table", description=__doc__)
    parser.add_argument(
        "--fit", action="store_true", help="fit the thresholds on one half, and print them"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the tables on the other half into docs/diagnose.md",
    )
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    every = cases()
    if args.fit:
        print(fit(every[0::2]))
        return
    half = every[1::2]
    text = (
        f"{len(every)} trainings in {len(families.GROUPS)} programs. The thresholds "
        f"({', '.join(f'{name} {getattr(Thresholds(), name)}' for name in FITTED)}) were fitted on every second "
        f"of them (`--fit`); these are the {len(half)} others.\n\n{report(half)}\n### What the truth is\n\n"
        f"{(truth.__doc__ or '').partition(chr(10))[2].strip()}\n"
    )
    print(text)
    if args.write:
        write(text)


if __name__ == "__main__":
    main()
