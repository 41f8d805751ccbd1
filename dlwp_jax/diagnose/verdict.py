"""From the evidence to the verdicts that it allows, each with a weight.

The questions are asked in this order, and the first yes names the verdict. An answer is a
number from 0 (no) to 1 (yes); it is between them if a value is within a measured factor of its
threshold. Then the next questions share the weight that is left.

1. diverged: a loss was not finite, or ends far above its first value.
2. too few epochs to tell.
3. uninformative data: the reachable loss is known, and is hardly below the trivial one.
4. not learning: training loss did not fall, or by next to nothing (and was not low to begin
   with). If it fell a little and validation loss did not follow, the data are to blame.
5. uninformative data: validation loss was never better than the trivial predictor's; if that is
   unknown, never better than after the first epoch.
6. overfitting: validation loss has risen from its best by a share that matters, more than by
   noise, and training loss did not rise with it. If it did, the training is not converged.
7. not converged: validation loss would still fall by a share that matters, or jumps by as much.
8. overfitting under control: training and validation end apart.
9. underfitting: they end together, far above what can be reached, or leave most of the trivial
   loss unexplained.
10. good fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from dlwp_jax.diagnose.history import Curves


@dataclass(frozen=True)
class Limit:
    """A value `factor` times below `at` is a no, `factor` times above it a yes."""

    at: float
    factor: float

    def exceeded(self, value: float, unit: float = 1.0, least: float = 0.0) -> float:
        """How much speaks for `value` being above the threshold, from 0 to 1.

        Args:
          value: the measured value.
          unit: `at` is a share of it.
          least: the threshold is no lower than this: a multiple of a standard error.
        """
        threshold = max(self.at * unit, least)
        if value <= 0 or threshold <= 0:
            return float(value > 0)
        return min(max(0.5 + log(value / threshold) / log(self.factor) / 2, 0.0), 1.0)


@dataclass(frozen=True)
class Thresholds:
    """The numbers in the questions, fitted on trainings of known truth (docs/diagnose.md).

    Attributes:
      epochs: fewer tell nothing about trends.
      blind: the most that can speak for uninformative data if the trivial loss is unknown.
      sure: standard errors beyond which a difference is no chance (a best value is chosen among
        many).
      single: a verdict for which less speaks is not given alone.
      named, most: else so many are named, the likeliest first, that this speaks for them
        together.
      blown_up: rise above the loss it began with, as a share of that loss.
      learned: fall of training loss, as a share of its first value.
      follows: fall of validation loss, as a share of training loss's, both relative.
      better: fall of validation loss below the trivial one, as a share of it.
      improved: fall of validation loss below its first value, as a share of it.
      harm: rise of validation loss from its best, as a share of the scale.
      together: rise of training loss since then, as a share of validation loss's.
      bounce: noise of validation loss, as a share of the scale.
      falling: fall that is still to be expected, as a share of the scale.
      gap: distance of validation from training at the end, as a share of the scale.
      unexplained: share of `start` that is left at the end.
      above: share of the way from the reachable loss to `start` that is left.
    """

    epochs: int = 8
    blind: float = 0.8
    sure: float = 4.0
    single: float = 0.9
    named: float = 0.98
    most: int = 3
    blown_up: Limit = Limit(1.0, 1.5)
    learned: Limit = Limit(0.05, 2.0)
    follows: Limit = Limit(0.16, 1.2)
    better: Limit = Limit(0.03, 4.0)
    improved: Limit = Limit(0.025, 4.0)
    harm: Limit = Limit(0.1, 2.4)
    together: Limit = Limit(0.5, 1.9)
    bounce: Limit = Limit(0.13, 3.0)
    falling: Limit = Limit(0.1, 5.5)
    gap: Limit = Limit(0.24, 1.6)
    unexplained: Limit = Limit(0.33, 2.2)
    above: Limit = Limit(0.09, 3.0)


def weigh(
    curves: Curves,
    evidence: dict[str, float],
    trivial: float | None,
    reachable: float | None,
    limits: Thresholds = Thresholds(),
) -> dict[str, float]:
    """How much speaks for each verdict; the shares sum to 1."""
    weights: dict[str, float] = {}
    left = 1.0
    for verdict, answer in questions(curves, evidence, trivial, reachable, limits):
        weights[verdict] = weights.get(verdict, 0.0) + left * answer
        left *= 1 - answer
        if left == 0:
            break
    return weights


def choose(weights: dict[str, float], limits: Thresholds = Thresholds()) -> tuple[str, ...]:
    """The verdicts to name, the likeliest first: one if it is sure enough, else two or three.

    >>> choose({"overfitting": 0.9, "good fit": 0.1})
    ('overfitting',)
    >>> choose({"overfitting": 0.4, "good fit": 0.6})
    ('good fit', 'overfitting')
    """
    order = sorted(weights, key=lambda verdict: -weights[verdict])
    if weights[order[0]] >= limits.single:
        return (order[0],)
    count, together = 1, weights[order[0]]
    while count < min(limits.most, len(order)) and together < limits.named:
        together += weights[order[count]]
        count += 1
    return tuple(order[:count])


def questions(
    curves: Curves,
    e: dict[str, float],
    trivial: float | None,
    reachable: float | None,
    limits: Thresholds,
) -> Iterator[tuple[str, float]]:
    """The questions above in their order, each as the verdict it names and the answer."""
    learner = "train" if curves.train else "val"
    judge = "val" if curves.val else "train"
    first, last, noise = (e[f"{learner}_{name}"] for name in ("first", "last", "noise"))
    end = e[f"{judge}_last"]
    scale, start, lowest = e["scale"], e["start"], e["lowest"]

    highest = max(first, start)
    unit = highest if curves.is_positive else start - lowest
    yield "diverged", limits.blown_up.exceeded(last - highest, unit, limits.sure * noise)

    lengths = [len(curve.values) for curve in (curves.train, curves.val) if curve]
    yield "too few epochs to tell", float(min(lengths) < limits.epochs)

    if trivial is not None and reachable is not None:
        has_more = limits.better.exceeded(trivial - reachable, abs(trivial))
        yield "uninformative data", 1 - has_more

    unit = first if curves.is_positive else 0.0
    learned = limits.learned.exceeded(first - last, unit, limits.sure * noise)
    if trivial is not None and (curves.is_positive or reachable is not None):
        zero = 0.0 if reachable is None else reachable
        if end < (trivial + zero) / 2:  # a resumed training has learned before
            learned = 1.0
    follows = 1.0
    if curves.is_positive and "gap" in e and first - last > max(0.005 * first, 2 * noise):
        follows = limits.follows.exceeded(
            e["val_fall"] / e["val_first"], (first - last) / first
        )
    bounces = limits.bounce.exceeded(e[f"{judge}_noise"], scale)
    yield "not learning", (1 - learned) * follows * (1 - bounces)

    is_falling = e["last_fall"] > limits.sure * e["rise_error"]
    falls = limits.falling.exceeded(e["still_to_fall"], scale) if is_falling else 0.0
    restless = max(falls, bounces)
    if trivial is not None and reachable is None:
        no_better = 1 - limits.better.exceeded(trivial - lowest, abs(trivial))
        yield "uninformative data", no_better * (1 - restless)
    elif trivial is None and reachable is None and curves.is_positive and "gap" in e:
        no_better = 1 - limits.improved.exceeded(e["val_fall"], e["val_first"])
        yield "uninformative data", limits.blind * no_better * (1 - restless)

    rises = limits.harm.exceeded(e["rise"], scale, limits.sure * e["rise_error"])
    together = limits.together.exceeded(e.get("train_since_best", 0.0), e["rise"])
    yield "overfitting", rises * (1 - together)
    yield "not converged", rises * together

    yield "not converged", restless

    if "gap" in e:
        apart = limits.gap.exceeded(e["gap"], scale, limits.sure * e["gap_error"])
        yield "overfitting under control", apart

    if reachable is not None:
        yield "underfitting", limits.above.exceeded(end - reachable, start - reachable)
    elif curves.is_positive:
        yield "underfitting", limits.unexplained.exceeded(end, start)
    yield "good fit", 1.0
