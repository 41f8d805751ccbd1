"""Measures how often `diagnose` is right where the truth is known, and writes the tables of docs/diagnose.md."""

import argparse
import hashlib
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import families  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import truth  # noqa: E402

from dlwp_jax.diagnose import VERDICTS, diagnose  # noqa: E402

CACHE = ROOT / ".cache" / "diagnosis"
SEED = 0


@dataclass(frozen=True)
class Case:
    """A history with what is known about its training."""

    name: str
    history: dict[str, np.ndarray]
    trivial: float
    facts: truth.Facts

    @property
    def truth(self) -> str:
        return truth.truth(self.facts)


def outcomes(group: families.Group, seed: int) -> dict[str, np.ndarray]:
    """The group's trainings, from the cache where they were made by the same code before."""
    code = Path(families.__file__).read_bytes() + repr((group, seed)).encode()
    path = CACHE / f"{hashlib.sha256(code).hexdigest()[:16]}.npz"
    if not path.exists():
        begin = time.perf_counter()
        made = families.train_group(group, seed)
        print(f"{group.name}: {group.members} trainings in {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **made)
        partial.replace(path)
    with np.load(path) as kept:
        return dict(kept)


def cases(groups: tuple[families.Group, ...] = families.GROUPS, seed: int = SEED) -> list[Case]:
    """All trainings, with their facts."""
    made = {group: outcomes(group, seed + i) for i, group in enumerate(groups)}
    best: dict[tuple, float] = {}
    for group, outcome in made.items():
        for i, noise in enumerate(outcome["member/noise"]):
            if outcome["member/informative"][i]:
                key = (group.family, group.n, float(noise))
                best[key] = min(best.get(key, np.inf), float(np.nanmin(outcome["val/test"][i])))
    return [
        case(group, {name: values[i] for name, values in outcome.items()}, best)
        for group, outcome in made.items()
        for i in range(group.members)
    ]


def case(group: families.Group, member: dict[str, np.ndarray], best: dict[tuple, float]) -> Case:
    columns = ("train/loss", "val/loss", "train/eval_loss")
    history = {name: member[name][: group.epochs] for name in columns if name in member}
    informative, test_trivial = bool(member["member/informative"]), float(member["test_trivial"])
    facts = truth.Facts(
        test=member["val/test"],
        clean=member["val/clean"],
        epochs=group.epochs,
        failed=int(member["failed"]),
        informative=informative,
        trivial=test_trivial,
        reachable=best[group.family, group.n, float(member["member/noise"])] if informative else test_trivial,
    )
    return Case(group.name, history, float(member["trivial"]), facts)


KNOWN = {
    "history alone": lambda case: None,
    "with the trivial loss": lambda case: case.trivial,
    "with the trivial and the reachable loss": lambda case: {
        "trivial": case.trivial,
        "reachable": case.facts.reachable if case.facts.informative else case.trivial,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/diagnosis_table", description=__doc__)
    parser.add_argument("--half", choices=("fit", "report"), default="report", help="thresholds were fitted on `fit`")
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    every = cases()
    half = every[0::2] if args.half == "fit" else every[1::2]
    print(len(every), "runs;", Counter(c.truth for c in half))
    for what, known in KNOWN.items():
        verdicts = [diagnose(c.history, baseline=known(c)).verdict for c in half]
        strict = [v == c.truth for v, c in zip(verdicts, half, strict=True)]
        fair = [v in truth.acceptable(c.facts) for v, c in zip(verdicts, half, strict=True)]
        print(f"\n{what}: {np.mean(strict):.3f} right, {np.mean(fair):.3f} with the border")
        for t in VERDICTS:
            row = Counter(v for v, c in zip(verdicts, half, strict=True) if c.truth == t)
            print(f"{t:28s}", {v: row[v] for v in VERDICTS if row[v]})


if __name__ == "__main__":
    main()
