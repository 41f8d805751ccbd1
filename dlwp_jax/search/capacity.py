"""The right size of a model: grow until it fits, shrink until it no longer overfits (chapter
5.5.3).
"""

import dataclasses
import functools
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from dlwp_jax.diagnose import known_losses
from dlwp_jax.files import needs
from dlwp_jax.search import members, nested, text
from dlwp_jax.search.members import Make
from dlwp_jax.search.result import Sweep, deviation
from dlwp_jax.search.sweeps import sweep
from dlwp_jax.train import EarlyStopping, Learner, TrainState, checks

PyTree = Any
PATIENCE = 2  # sizes in a row without a better validation loss, after which growing ends
# A difference of validation losses, as a share of the best, that is not worth a larger model.
NEAR = 0.05
# Verdicts that say nothing about a size.
UNSETTLED = ("too few epochs to tell", "not converged", "not learning", "diverged")
# The number of sizes between the last that does not overfit and the first that does.
BETWEEN = 3


@dataclasses.dataclass(frozen=True)
class Size:
    """The results of the trainings of one size.

    Attributes:
      size, parameters: as given to `make`, and how many numbers are trained.
      val: the monitored value (the validation loss, if `stop` monitors nothing else) at each
        seed's best epoch, the mean over the seeds. spread: its
        standard deviation (n - 1); NaN for one seed.
      train_end, val_end: training loss and monitored value of the last epoch, means over the
        seeds.
      best_epoch: the median over the seeds.
      verdict: the most frequent one. verdicts: all of them, in the order of the seeds.
      seconds: of its trainings (its share, if they were in one program with other sizes).
      members: the numbers of its trainings in `sweep`.
      sweep: the sweep that holds its histories.
    """

    size: Any
    parameters: int
    val: float
    spread: float
    train_end: float
    val_end: float
    best_epoch: int
    verdict: str
    verdicts: tuple[str, ...]
    seconds: float
    members: tuple[int, ...]
    sweep: Sweep = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class CapacityReport:
    """The result of a capacity search.

    Attributes:
      sizes: every size that was trained, the smallest first.
      recommended: the size to take. reason: why, in a sentence or two.
      how: whether all sizes were trained in one program or each in its own, and why.
      seconds: of the whole search, compiling included.
      make: as given.
      interrupted: whether Ctrl-C ended the search.
    """

    sizes: tuple[Size, ...]
    recommended: Any
    reason: str
    how: str
    seconds: float
    make: Make = dataclasses.field(repr=False)
    interrupted: bool = False

    def __getitem__(self, size: Any) -> Size:
        """The results of one size."""
        for found in self.sizes:
            if found.size == size:
                return found
        raise KeyError(
            f"size {size!r} was not trained; there are {[found.size for found in self.sizes]}."
        )

    def member(self, size: Any = None) -> tuple[Learner, TrainState]:
        """Learner and state of the best seed of a size (None: the recommended one), to evaluate
        or train on.
        """
        found = self[self.recommended if size is None else size]
        scores = sign(found.sweep) * found.sweep.scores[list(found.members)]
        best = found.members[int(np.argmin(np.where(np.isnan(scores), np.inf, scores)))]
        state = jax.tree.map(lambda a: a[best], found.sweep.run.best)
        learner, small = self.make(found.size, state.key)
        return learner, nested.cut(state, small)

    def table(self) -> list[dict[str, Any]]:
        """One row for each size."""
        return [
            {
                "size": found.size,
                "parameters": found.parameters,
                "best val": text.spread(found.val, found.spread),
                "at epoch": found.best_epoch,
                "train at the end": found.train_end,
                "val at the end": found.val_end,
                "seconds": round(found.seconds, 2),
                "verdict": found.verdict
                + (" <-- recommended" if found.size == self.recommended else ""),
            }
            for found in self.sizes
        ]

    def __str__(self) -> str:
        timing = f"{self.how}; {self.seconds:.1f} s in all, compiling included"
        if self.interrupted:
            timing += "\ninterrupted: the sizes are judged by the epochs until then"
        return f"{text.table(self.table())}\n{self.reason}\n{timing}"

    def figure(self) -> Any:
        """Loss against size, the recommended one marked: a matplotlib figure."""
        with needs("experiments"):
            import matplotlib.pyplot as plt
        figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        x = [found.parameters for found in self.sizes]
        spreads = [0.0 if math.isnan(found.spread) else found.spread for found in self.sizes]
        axes.plot(
            x,
            [found.train_end for found in self.sizes],
            "o-",
            color="C0",
            label="training, last epoch",
        )
        axes.plot(
            x,
            [found.val_end for found in self.sizes],
            "s--",
            color="C1",
            label=f"{self.sizes[0].sweep.monitor}, last epoch",
        )
        axes.errorbar(
            x,
            [f.val for f in self.sizes],
            spreads,
            fmt="s-",
            color="C1",
            capsize=3,
            label=f"{self.sizes[0].sweep.monitor}, best epoch ± spread",
        )
        chosen = self[self.recommended]
        axes.axvline(chosen.parameters, color="gray", linestyle=":")
        axes.plot(
            chosen.parameters,
            chosen.val,
            "*",
            color="k",
            markersize=16,
            label=f"recommended: size {chosen.size}",
        )
        losses = np.array([(found.train_end, found.val_end, found.val) for found in self.sizes])
        finite = losses[np.isfinite(losses)]
        yscale = "log" if finite.size and finite.min() > 0 else "linear"
        axes.set(xscale="log", yscale=yscale, xlabel="trained parameters", ylabel="loss")
        axes.set_title("Grow until it fits, shrink until it does not overfit")
        axes.legend()
        return figure


def search_capacity(
    make: Make,
    train: PyTree,
    val: PyTree,
    *,
    sizes: Sequence[Any],
    seeds: int | Sequence[int] = 3,
    epochs: int,
    batch_size: int,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    baseline: Any = None,
    how: Literal["nested", "each"] | None = None,
    progress: bool = True,
) -> CapacityReport:
    """Find the size of a model: grow until it fits, then shrink until it no longer overfits.

    Growing goes through `sizes` and ends at the first that overfits, or after two that bring no
    lower validation loss. Shrinking tries whole numbers between that size and the one before
    it. (If the sizes are trained in one program, all of them are.) Recommended is the smallest
    size that does not overfit and whose validation loss is above the best by no more than a
    standard error, or a share of 0.05.

    Args:
      make: `make(size, key) -> (learner, state)`; `size` is a plain Python value, `key` a
        (traced) PRNG key. Loss and optimizer must be the same for all sizes.
      train, val: pytrees of arrays `[n ...]`, as for `run`.
      sizes: the values for `make`, the smallest first: widths, depths, tuples, anything.
      seeds: how many initial weights each size is trained from, or the seeds themselves.
      epochs, batch_size, stop, val_batch_size: as for `run`. If `stop` monitors another value
        than the validation loss, such as a `Ratio` that should rise, sizes are compared by it;
        verdicts are on losses.
      baseline: as for `diagnose`; the reachable loss is that of the best size.
      how: "nested" trains all sizes at once in one program, inside the largest one. This is
        possible if a size changes nothing but the shapes of the same arrays, as hidden widths
        and channels do. "each" compiles a program for each size and stops as soon as the answer
        is known. None takes nested if the family allows it.
      progress: as for `sweep`.

    Returns:
      A `CapacityReport`. Ctrl-C ends the search, which then judges the sizes so far by the
      epochs so far; KeyboardInterrupt if no size has finished one.

    Raises:
      ValueError: if `sizes` has fewer than two, has one twice, or is not ascending by
        parameters; or if `how="nested"` and the family does not nest, with the reason.

    >>> import jax.numpy as jnp, optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> def make(width, key):
    ...     rngs = nnx.Rngs(key)
    ...     first, last = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
    ...     model = nnx.Sequential(first, jnp.tanh, last)
    ...     return make_learner(model, loss_fn, optax.adam(1e-2), key=key)
    >>> x = jnp.linspace(-1, 1, 32)[:, None]
    >>> data = {"x": x, "y": jnp.sin(4 * x)}
    >>> options = {"seeds": 2, "epochs": 100, "batch_size": 32}
    >>> report = search_capacity(make, data, data, sizes=[1, 4], **options)
    >>> report.recommended, [found.parameters for found in report.sizes]
    (4, [4, 13])
    """
    begun = time.perf_counter()
    sizes = list(sizes) if np.iterable(sizes) else [sizes]
    numbers = list(seeds) if np.iterable(seeds) else range(checks.count(seeds, "seeds"))
    checks.count(batch_size, "batch_size")
    known_losses(baseline)  # a wrong one is refused now, not after the training
    if how not in (None, "nested", "each"):
        raise ValueError(f"how must be 'nested', 'each' or None; got {how!r}.")
    train, val = checks.dataset(train, "train"), checks.dataset(val, "val")
    if len(numbers) == 0 or not all(isinstance(number, int | np.integer) for number in numbers):
        raise ValueError(
            "seeds must be their number or a list of whole numbers, at least one; got "
            f"{seeds!r}."
        )
    if not all(isinstance(size, Hashable) for size in sizes) or len(set(sizes)) < len(sizes):
        raise ValueError(
            f"sizes must be numbers, words or tuples, each of them once; got {sizes}."
        )
    count = functools.cache(functools.partial(_parameters, make))
    counts = [count(size) for size in sizes]
    if len(sizes) < 2 or any(a > b for a, b in itertools.pairwise(counts)):
        raise ValueError(
            f"sizes must be two or more, the smallest first; {sizes} have {counts} parameters."
        )
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "progress": progress,
    }
    search = _Search(make, count, train, val, list(numbers), options, baseline)
    way, is_nested = search.choose_way(sizes, how)
    if not is_nested:
        search.grow(sizes)
        search.shrink()
    found = search.judged()
    recommended, reason = recommend(found)
    return CapacityReport(
        tuple(found),
        recommended,
        reason,
        way,
        time.perf_counter() - begun,
        make,
        search.interrupted,
    )


@dataclasses.dataclass
class _Search:
    """The sizes that have been trained so far: `size -> (sweep, its members, seconds)`."""

    make: Make
    count: Callable[[Any], int]
    train: PyTree
    val: PyTree
    seeds: list[int]
    options: dict[str, Any]
    baseline: Any
    done: dict[Any, tuple[Sweep, tuple[int, ...], float]] = dataclasses.field(
        default_factory=dict
    )
    overfits: dict[Any, bool] = dataclasses.field(default_factory=dict)
    interrupted: bool = False

    def choose_way(self, sizes: list, how: str | None) -> tuple[str, bool]:
        """Train all sizes at once if they nest; returns the way taken, in words, and whether it
        was this one.
        """
        if how == "each":
            return "each size was compiled by itself", False
        try:
            self.visit_nested(sizes)
        except nested.NotNested as error:
            if how == "nested":
                raise ValueError(f"how='nested' is not possible: {error}.") from error
            return f"each size was compiled by itself, since {error}", False
        return f"all {len(sizes)} sizes were trained in one program", True

    def visit_nested(self, sizes: list) -> None:
        """Train sizes in one program, inside the largest."""
        keys = members.as_arguments({"key": np.asarray(self.seeds)})["key"]
        few = jax.tree.map(lambda a: a[: self.options["batch_size"]], self.train)
        learner, states = nested.nest(self.make, sizes, keys, few)
        n = len(self.seeds)

        def member(number):
            return learner, jax.tree.map(lambda a: a[number], states)

        result = sweep(
            member, self.train, self.val, over={"number": range(n * len(sizes))}, **self.options
        )
        share = result.seconds / len(sizes)
        for i, size in enumerate(sizes):
            self._keep(size, result, tuple(range(i * n, i * n + n)), share)

    def _keep(self, size: Any, result: Sweep, its: tuple[int, ...], seconds: float) -> None:
        """Keep the trainings of a size, unless an interruption left one without an epoch."""
        self.interrupted |= result.interrupted
        if not result.interrupted or np.isfinite(result.scores[list(its)]).all():
            self.done[size] = (result, its, seconds)

    def visit(self, size: Any) -> None:
        """Train a size, with all seeds."""
        if size not in self.done:
            over = {"key": self.seeds}
            result = sweep(
                lambda key: self.make(size, key),
                self.train,
                self.val,
                over=over,
                **self.options,
            )
            self._keep(size, result, tuple(range(len(self.seeds))), result.seconds)

    def grow(self, sizes: list) -> None:
        """Train larger and larger sizes until one overfits, or they are no better."""
        best, since = math.inf, 0
        for size in sizes:
            self.visit(size)
            if self.interrupted:
                return
            result, its, _ = self.done[size]
            scores = sign(result) * result.scores[list(its)]
            if self.is_overfitting(size):
                return
            error = np.nan_to_num(deviation(scores) / math.sqrt(len(scores)))
            is_better = scores.mean() < best - error
            best, since = (float(scores.mean()), 0) if is_better else (best, since + 1)
            if since == PATIENCE:
                return

    def shrink(self) -> None:
        """Train smaller sizes, between the first one that overfits and the one before it."""
        if self.interrupted:
            return
        sizes = sorted(self.done, key=self.count)
        too_large = next((i for i, size in enumerate(sizes) if self.is_overfitting(size)), 0)
        low, high = sizes[too_large - 1], sizes[too_large]
        if too_large == 0 or not all(
            isinstance(size, int | np.integer) for size in (low, high)
        ):
            return
        between = sorted(
            {int(n) for n in np.linspace(low, high, BETWEEN + 2).round()} - {low, high},
            reverse=True,
        )
        for size in between:
            self.visit(size)
            if self.interrupted or not self.is_overfitting(size):
                return

    def is_overfitting(self, size: Any) -> bool:
        """Whether most of a size's seeds overfit."""
        if size not in self.overfits:
            self.overfits[size] = _most(self.verdicts(size, self.baseline)) == "overfitting"
        return self.overfits[size]

    def verdicts(self, size: Any, baseline: Any) -> tuple[str, ...]:
        """The likeliest verdict on each seed."""
        result, its, _ = self.done[size]
        return tuple(result.diagnose(i, baseline=baseline).candidates[0] for i in its)

    def judged(self) -> list[Size]:
        """Every size, the smallest first, judged by the loss of the best one."""
        if not self.done:
            raise KeyboardInterrupt
        means = {
            size: float(result.scores[list(its)].mean())
            for size, (result, its, _) in self.done.items()
        }
        baseline = (
            self.baseline if isinstance(self.baseline, dict) else {"trivial": self.baseline}
        )
        # Verdicts are on losses, whatever is monitored.
        lowest = [self._lowest_loss(result, its) for result, its, _ in self.done.values()]
        if finite := [loss for loss in lowest if math.isfinite(loss)]:
            baseline = {"reachable": min(finite)} | baseline
        order = sorted(self.done, key=self.count)
        return [self._size(size, means[size], baseline) for size in order]

    def _size(self, size: Any, mean: float, baseline: Any) -> Size:
        result, its, seconds = self.done[size]
        index = list(its)
        ends = {
            name: self._last(result, index, name) for name in ("train/loss", result.monitor)
        }
        verdicts = self.verdicts(size, baseline)
        return Size(
            size=size,
            parameters=self.count(size),
            val=mean,
            spread=deviation(result.scores[index]),
            train_end=ends["train/loss"],
            val_end=ends[result.monitor],
            best_epoch=int(np.median(np.asarray(result.run.best.epoch)[index])),
            verdict=_most(verdicts),
            verdicts=verdicts,
            seconds=seconds,
            members=its,
            sweep=result,
        )

    def _lowest_loss(self, result: Sweep, its: tuple[int, ...]) -> float:
        """The lowest validation loss, the mean over the seeds; NaN if one has none."""
        if result.monitor == "val/loss":
            return float(result.scores[list(its)].mean())
        columns = result.history["val/loss"][list(its)]
        return float(np.where(np.isnan(columns), np.inf, columns).min(axis=1).mean())

    def _last(self, result: Sweep, index: list[int], name: str) -> float:
        """The mean of the last values that the members recorded; NaN if one recorded none."""
        columns = [column[np.isfinite(column)] for column in result.history[name][index]]
        return float(np.mean([column[-1] if column.size else np.nan for column in columns]))


def sign(result: Sweep) -> int:
    """The factor with which lower values are the better ones."""
    return -1 if result.mode == "max" else 1


def recommend(sizes: Sequence[Size]) -> tuple[Any, str]:
    """The smallest size that is about as good as the best, preferably one that does not
    overfit; and the reason.
    """
    finite = [found for found in sizes if math.isfinite(found.val)]
    if not finite:
        reason = "No size could be trained: every one diverged. Lower the learning rate."
        return sizes[0].size, reason
    toward = sign(sizes[0].sweep)
    monitor = sizes[0].sweep.monitor
    best = min(finite, key=lambda found: toward * found.val)
    error = 0.0 if math.isnan(best.spread) else best.spread / math.sqrt(len(best.members))
    tolerance = max(error, NEAR * abs(best.val))
    near = [found for found in finite if toward * (found.val - best.val) <= tolerance]
    calm = [found for found in near if found.verdict != "overfitting"]
    chosen = (calm or near)[0]
    reason = f"Size {chosen.size} is recommended: the smallest "
    reason += "that does not overfit " if calm else ""
    name = "a validation loss" if monitor == "val/loss" else monitor
    reason += f"with {name}, {chosen.val:.4g}, "
    reason += f"not {'above' if toward > 0 else 'below'} the best by more than {tolerance:.2g}"
    reason += "." if chosen is best else f" ({best.val:.4g} at size {best.size})."
    if not calm:
        reason += " Every size this good overfits later: stop near epoch "
        reason += f"{chosen.best_epoch}, or regularise."
    elif chosen.verdict in UNSETTLED:
        reason += f" But its verdict is {chosen.verdict}: train longer, or with another rate, "
        reason += "before you believe it."
    elif chosen is sizes[-1]:
        reason += " It is the largest that was tried: grow further."
    return chosen.size, reason


def _most(verdicts: Sequence[str]) -> str:
    return Counter(verdicts).most_common(1)[0][0]


def _parameters(make: Make, size: Any) -> int:
    """The number of trained parameters, from shapes alone."""
    shapes = jax.eval_shape(
        lambda key: members.made(make, size, key)[1].params, jax.random.key(0)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
