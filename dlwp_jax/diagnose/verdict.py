"""From the evidence to a verdict.

The rules are asked in this order, and the first that holds names the verdict:

1. diverged: a loss was not finite, or ends far above where it began. 2. too few epochs to tell.
3. not learning: training loss did not fall, or by next to nothing (and was not low to begin
with). 4. overfitting: validation loss has risen from its best by a share that matters, more
than by noise, and training loss
   did not rise with it. Where data are known to carry no information: uninformative data.
5. not converged: validation loss would still fall by a share that matters; or both losses jump
up and down by as much. 6. uninformative data: validation loss never was better than the trivial
predictor's. 7. overfitting under control: training and validation end apart. 8. underfitting:
they end together, far above what can be reached, or leave most of the trivial loss unexplained.
9. good fit.
"""

from dataclasses import dataclass

from dlwp_jax.diagnose.history import Curves


@dataclass(frozen=True)
class Thresholds:
    """The numbers in the rules; docs/diagnose.md tells on what the last five were fitted, and
    how well they do.

    Attributes:
      epochs: fewer tell nothing about trends.
      sure: standard errors beyond which a difference is no chance (a best value is chosen among
        many).
      blown_up: ends at so many times the loss it began with: diverged, though finite.
      learned: share of its first value by which training loss must have fallen; also of the
        trivial loss, below which validation must have come.
      harm: rise of validation loss from its best, as a share of the scale.
      falling: fall that is still to be expected, as a share of the scale.
      gap: distance of validation from training at the end, as a share of the scale.
      unexplained: share of `start` that is left at the end, above which the model is too
        simple.
      above: share of the way from the reachable loss to `start` that is left, where the
        reachable loss is known.
    """

    epochs: int = 8
    sure: float = 4.0
    blown_up: float = 2.0
    learned: float = 0.05
    harm: float = 0.1
    falling: float = 0.1
    gap: float = 0.3
    unexplained: float = 0.15
    above: float = 0.12


def decide(
    curves: Curves,
    evidence: dict[str, float],
    trivial: float | None,
    reachable: float | None,
    limits: Thresholds = Thresholds(),
) -> tuple[str, float]:
    """The verdict, and its margin.

    Returns:
      The verdict by the rules above; and how far the nearest of the questions asked was from
      the other answer, as a
      share of its threshold: below 0.2 or so a verdict is close.
    """
    e, margins = evidence, []

    def exceeds(value: float, *thresholds: float) -> bool:
        threshold = max(thresholds)
        margins.append(abs(value - threshold) / threshold if threshold > 0 else 1.0)
        return value > threshold

    def verdict() -> str:
        learner, judge = (
            ("train" if curves.train else "val"),
            ("val" if curves.val else "train"),
        )
        first, last, learner_noise = (
            e[f"{learner}_{name}"] for name in ("first", "last", "noise")
        )
        highest = max(first, e["start"])
        blown_up = (
            (limits.blown_up - 1) * highest if curves.is_positive else e["start"] - e["lowest"]
        )
        if last - highest > max(blown_up, limits.sure * learner_noise):
            return "diverged"
        if (
            min(len(curve.values) for curve in (curves.train, curves.val) if curve)
            < limits.epochs
        ):
            return "too few epochs to tell"

        zero = 0.0 if curves.is_positive and reachable is None else reachable
        halfway = None if trivial is None or zero is None else (trivial + zero) / 2
        was_low = (
            halfway is not None and e[f"{judge}_last"] < halfway
        )  # a resumed training has learned before
        matters = limits.learned * first if curves.is_positive else 0.0
        if not was_low and not exceeds(first - last, matters, limits.sure * learner_noise):
            return "not learning"

        best = e["lowest"] if reachable is None else reachable
        hopeless = trivial is not None and not exceeds(
            trivial - best, limits.learned * abs(trivial)
        )
        if exceeds(e["rise"], limits.harm * e["scale"], limits.sure * e["rise_error"]):
            if e.get("train_since_best", 0.0) > e["rise"] / 2:
                return "not converged"
            return "uninformative data" if hopeless else "overfitting"
        if exceeds(e[f"{judge}_noise"], limits.harm * e["scale"]):
            return "not converged"
        is_falling = e["last_fall"] > limits.sure * e["rise_error"]
        if is_falling and exceeds(e["still_to_fall"], limits.falling * e["scale"]):
            return "not converged"
        if hopeless:
            return "uninformative data"
        if "gap" in e and exceeds(
            e["gap"], limits.gap * e["scale"], limits.sure * e["gap_error"]
        ):
            return "overfitting under control"

        end = e[f"{judge}_last"]
        if reachable is not None:
            is_high = exceeds(end - reachable, limits.above * (e["start"] - reachable))
        else:
            is_high = curves.is_positive and exceeds(end, limits.unexplained * e["start"])
        return "underfitting" if is_high else "good fit"

    return verdict(), min(margins, default=1.0)
