"""Trainings with what is known about them; each group of them is trained once and kept."""

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import families
import numpy as np
import truth

CACHE = Path(__file__).parents[2] / ".cache" / "diagnosis"


@dataclass(frozen=True)
class Case:
    """A history with what is known about its training."""

    name: str
    history: dict[str, np.ndarray]
    trivial: float
    facts: truth.Facts

    @property
    def reachable(self) -> float:
        """What a better model reaches; nothing is to be reached where the targets were made
        without the inputs.
        """
        return self.facts.reachable if self.facts.informative else self.trivial

    @property
    def truth(self) -> str:
        return truth.truth(self.facts)


def outcomes(group: families.Group, seed: int, cache: Path = CACHE) -> dict[str, np.ndarray]:
    """The group's trainings, from the cache where they were made by the same code before."""
    code = Path(families.__file__).read_bytes() + repr((group, seed)).encode()
    path = cache / f"{hashlib.sha256(code).hexdigest()[:16]}.npz"
    if not path.exists():
        begin = time.perf_counter()
        made = families.train_group(group, seed)
        print(
            f"{group.name}: {group.members} trainings in {time.perf_counter() - begin:.1f} s",
            file=sys.stderr,
        )
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **made)
        partial.replace(path)
    with np.load(path) as kept:
        return dict(kept)


def cases(
    groups: tuple[families.Group, ...] = families.GROUPS, seed: int = 0, cache: Path = CACHE
) -> list[Case]:
    """All trainings, with their facts."""
    made = {group: outcomes(group, seed + i, cache) for i, group in enumerate(groups)}
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


def case(
    group: families.Group, member: dict[str, np.ndarray], best: dict[tuple, float]
) -> Case:
    columns = ("train/loss", "val/loss", "train/eval_loss")
    history = {name: member[name][: group.epochs] for name in columns if name in member}
    informative, test_trivial = (
        bool(member["member/informative"]),
        float(member["test_trivial"]),
    )
    facts = truth.Facts(
        test=member["val/test"],
        clean=member["val/clean"],
        epochs=group.epochs,
        failed=int(member["failed"]),
        informative=informative,
        trivial=test_trivial,
        reachable=best[group.family, group.n, float(member["member/noise"])]
        if informative
        else test_trivial,
    )
    return Case(group.name, history, float(member["trivial"]), facts)
