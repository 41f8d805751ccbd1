"""Measures how often `diagnose` is right where the truth is known, and writes the tables of
docs/diagnose.md.
"""

import argparse
import sys
from collections import Counter
from dataclasses import fields, replace
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
from dlwp_jax.diagnose.verdict import Limit, Thresholds, weigh  # noqa: E402

PAGE = ROOT / "docs" / "diagnose.md"
OPPOSITES = {"overfitting", "underfitting"}


KNOWN = {
    "the history alone": lambda case: None,
    "history and trivial loss": lambda case: case.trivial,
    "history, trivial and reachable loss": lambda case: {
        "trivial": case.trivial,
        "reachable": case.reachable,
    },
}
CHOSEN = ("blown_up", "bounce", "unexplained")
LIMITS = tuple(f.name for f in fields(Thresholds) if isinstance(f.default, Limit))
FITTED = tuple(name for name in LIMITS if name not in CHOSEN)
MORE_SEEDS = (5000, 6000)  # of further trainings that are fitted on
HELD_OUT_SEED = 7000  # of further trainings that nothing was fitted on
STEPS = (0.6, 0.8, 1.25, 1.6)


def fit(fitted: list[Case]) -> Thresholds:
    """The limits under which the truth is most likely, one after the other, twice."""
    measured = []
    for case in fitted:
        curves = read(case.history)
        for known in KNOWN.values():
            if not curves.failed_epoch:
                trivial, reachable = known_losses(known(case))
                evidence = measure(curves, trivial)
                measured.append((case.truth, (curves, evidence, trivial, reachable)))

    def likelihood(limits):
        weights = [weigh(*arguments, limits).get(t, 0.0) for t, arguments in measured]
        return float(np.mean(np.log(0.005 + 0.995 * np.array(weights))))

    best = Thresholds()
    for name in 2 * FITTED:
        for part in ("at", "factor"):
            limit = getattr(best, name)
            tried = [
                replace(limit, at=limit.at * step)
                if part == "at"
                else replace(limit, factor=limit.factor**step)
                for step in (1.0, *STEPS)
            ]
            best = max((replace(best, **{name: each}) for each in tried), key=likelihood)
        print(name, getattr(best, name), file=sys.stderr)
    return best


def report(half: list[Case]) -> str:
    """The tables, in Markdown."""
    rows, matrices = [], []
    for what, known in KNOWN.items():
        pairs = [(case.truth, diagnose(case.history, baseline=known(case))) for case in half]
        named = np.array([t in d.candidates for t, d in pairs])
        count = np.array([len(d.candidates) for _, d in pairs])
        crossed = sum({t, d.verdict} == OPPOSITES for t, d in pairs)
        first = np.mean([t == d.candidates[0] for t, d in pairs])
        rows.append(
            f"| {what} | {np.mean(count == 1):.1%} | {named[count == 1].mean():.1%} "
            f"| {named.mean():.1%} | {np.mean(count == 2):.1%}, {np.mean(count == 3):.1%} "
            f"| {first:.1%} | {crossed} |"
        )
        alone = Counter((t, d.verdict) for t, d in pairs if len(d.candidates) == 1)
        matrices.append(matrix(what, alone))
        unsure = Counter(frozenset(d.candidates) for _, d in pairs if len(d.candidates) > 1)
        sets = [
            f"{' / '.join(v for v in VERDICTS if v in names)} ({n})"
            for names, n in unsure.most_common(6)
        ]
        matrices.append(f"Most often named together: {'; '.join(sets)}.\n")
    head = (
        "| `diagnose` knows | gives one verdict | it is right | the truth is among those named "
        "| two, three named | the first is right | over- for underfitting or the reverse |"
    )
    return "\n".join([head, "| --- " * 7 + "|", *rows, "", *matrices])


def matrix(what: str, counts: Counter) -> str:
    """How often which truth got which verdict, where one was given alone."""
    verdicts = [v for v in VERDICTS if any(v in pair for pair in counts)]
    lines = [
        f"One verdict, from {what} (rows: truth, columns: verdict):",
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
        "--fit",
        action="store_true",
        help="fit the limits on one half and on more trainings, and print them",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the tables on the others into docs/diagnose.md",
    )
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    every = cases()
    if args.fit:
        more = [case for seed in MORE_SEEDS for case in cases(seed=seed)]
        print(fit(every[0::2] + more))
        return
    others = every[1::2] + cases(seed=HELD_OUT_SEED)
    limits = (
        f"| {name} | {limit.at} | {limit.at / limit.factor:.2g} | "
        f"{limit.at * limit.factor:.2g} |"
        for name, limit in ((name, getattr(Thresholds(), name)) for name in LIMITS)
    )
    text = "\n".join(
        [
            f"{len(families.GROUPS)} programs of {len(every)} trainings, drawn four times. The "
            "limits were fitted on half of the first draw and on two more (`--fit`); these "
            "are "
            f"the {len(others)} trainings of the other half and of the fourth draw.",
            "",
            report(others),
            "| limit | threshold | surely below | surely above |",
            "| --- " * 4 + "|",
            *limits,
            "",
            "### What the truth is",
            "",
            (truth.__doc__ or "").partition("\n")[2].strip(),
            "",
        ]
    )
    print(text)
    if args.write:
        write(text)


if __name__ == "__main__":
    main()
