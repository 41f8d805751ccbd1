"""What a training really was: rules on its test loss, its training loss and its future.

T(e) is the loss on 800 test rows, R(e) that on the training rows, both in eval mode after epoch
e; E is the last epoch of the history; B the trivial predictor's test loss; F the lowest test
loss that any run on such data had (family, examples, noise). S = max(min T up to E, B / 20).
The first rule that holds:

| truth | rule |
| --- | --- |
| diverged | not finite by E, or R(E) > 2 max(R(1), B) |
| uninformative data | the targets were made without the inputs |
| not learning | R fell by less than 5 % of R(1), and T(E) > (B + F) / 2: it had not \
learned before either |
| overfitting | T(E) − min T > 0.1 S: the last epoch is more than 10 % worse than the best \
one was, and R rose by less than half as much since then |
| not converged | T(E) − min T over three times the epochs > 0.1 S: longer training helps by \
more than 10 % |
| overfitting under control | T(E) − R(E) > 0.25 max(T(E), B / 20) |
| underfitting | T(E) − F > 0.1 (B − F): a better model explains 10 % more |
| good fit | otherwise |

The rules are older than the limits. Two of them were amended after a
first look at runs that were judged wrongly, before the first limits were fitted: losses that
bounce together are not overfitting, and a learning rate far too small is not underfitting.
"""

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Rules:
    """The numbers of the table above."""

    learned: float = 0.05
    harm: float = 0.10
    falling: float = 0.10
    gap: float = 0.25
    better: float = 0.10


@dataclass(frozen=True)
class Facts:
    """What the rules look at: `test` and `clean` over all epochs that were trained, the rest as
    above.
    """

    test: np.ndarray
    clean: np.ndarray
    epochs: int
    failed: int
    informative: bool
    trivial: float
    reachable: float


def truth(facts: Facts, rules: Rules = Rules()) -> str:
    """The verdict that is right, by the table."""
    if facts.failed and facts.failed <= facts.epochs:
        return "diverged"
    test, clean = facts.test[: facts.epochs], facts.clean[: facts.epochs]
    if clean[-1] > 2 * max(clean[0], facts.trivial):
        return "diverged"
    if not facts.informative:
        return "uninformative data"
    has_learned = clean[0] - clean[-1] > rules.learned * clean[0]
    if not has_learned and test[-1] > (facts.trivial + facts.reachable) / 2:
        return "not learning"
    floor = facts.trivial / 20
    rise, with_it = test[-1] - test.min(), clean[-1] - clean[test.argmin()]
    if rise > rules.harm * max(test.min(), floor) and with_it < rise / 2:
        return "overfitting"
    if test[-1] - np.nanmin(facts.test) > rules.falling * max(test.min(), floor):
        return "not converged"
    if test[-1] - clean[-1] > rules.gap * max(test[-1], floor):
        return "overfitting under control"
    return (
        "underfitting"
        if test[-1] - facts.reachable > rules.better * (facts.trivial - facts.reachable)
        else "good fit"
    )


def acceptable(facts: Facts, factor: float = 1.5) -> set[str]:
    """The truths of all rules with one number moved by the factor."""
    moved = [
        replace(Rules(), **{field.name: getattr(Rules(), field.name) * by})
        for field in fields(Rules)
        for by in (1 / factor, factor)
    ]
    return {truth(facts, rules) for rules in [Rules(), *moved]}
