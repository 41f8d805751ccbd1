"""Compares the ratios of all benchmarks with those of `ratios.json`, in a few minutes.

Every benchmark runs in its short form: three rounds, 20 residual blocks in place of 100, and no
`torch.compile`. A ratio is our time over that of the other side, so smaller is better. A
benchmark with a row that got worse runs once more, and the better figure counts.
"""

import importlib
import json
from pathlib import Path

import timing

KEPT = Path(__file__).with_name("ratios.json")
WORSE = 1.25
# A checkpoint is a matter of the disk, data need the real files, and nodules make a cohort
# first.
LEFT_OUT = ("checkpoint", "data", "nodules")
COLUMNS = ("ratio", "ours / torch", "best of ours / torch")


def run(names: list[str], *, write: bool) -> bool:
    """Print every row with its ratio of then and now.

    Args:
      names: of the benchmarks.
      write: whether the ratios are kept.

    Returns:
      Whether no row got worse by more than 25 %.
    """
    timing.Rounds.most = 3
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    worse = []
    for name in [name for name in names if name not in LEFT_OUT]:
        before = kept.get(name, {})
        now = measured(name)
        if any(is_worse(before, row, now[row]) for row in now):
            again = measured(name)
            now = {row: min(ratio, again.get(row, ratio)) for row, ratio in now.items()}
        for row, ratio in now.items():
            then = f"{before[row]:8.3f}" if row in before else " " * 8
            mark = "  WORSE" if is_worse(before, row, ratio) else ""
            print(f"{then} {ratio:8.3f}  {name}: {row}{mark}", flush=True)
            if mark:
                worse.append(f"{name}: {row}")
        kept[name] = now
    if write:
        KEPT.write_text(json.dumps(kept, indent=2) + "\n")
        print(f"Kept in {KEPT.name}.")
        return True
    print(f"{len(worse)} rows got worse by more than 25 %.", *worse, sep="\n  ")
    return not worse


def is_worse(before: dict[str, float], row: str, ratio: float) -> bool:
    rounding = 0.005
    return row in before and ratio > WORSE * before[row] + rounding


def measured(name: str) -> dict[str, float]:
    """The ratios of a benchmark's rows."""
    ratios = {}
    for row in importlib.import_module(name).measure():
        label = next(iter(row.values()))
        for column in COLUMNS:
            if row.get(column):
                ratio = float(row[column])
                # In some tables the other side has rows of its own.
                ratios[label] = 1 / ratio if "torch" in label else ratio
    return ratios
