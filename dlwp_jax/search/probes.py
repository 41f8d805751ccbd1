"""Questions to answer before a long training: which learning rate? Can the model learn at all?
Would more data help?
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax.checks import real
from dlwp_jax.search import members, text
from dlwp_jax.search.members import Make
from dlwp_jax.search.result import Sweep, deviation
from dlwp_jax.search.sweeps import train_members
from dlwp_jax.train import (
    EarlyStopping,
    Learner,
    TrainState,
    checks,
    evaluate,
    run,
    train_epoch,
)
from dlwp_jax.train.state import check_pair

PyTree = Any
SMOOTHING = 0.9  # of the losses of a rate finder, per step
BLOWN_UP = 4.0  # times the lowest loss means that the rate is too high
# The powers of the number of examples with which a learning curve may fall.
POWERS = np.linspace(0.25, 2.0, 36)
# The smallest gain, as a share of the validation loss, that is worth gathering data for.
MATTERS = 0.02


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """The result of `find_learning_rate`.

    Attributes:
      rates, losses, smoothed: `[steps]`, up to the step at which the loss blew up.
      suggestion: the rate at which the smoothed loss fell fastest (per factor of the rate).
      limit: the rate at which the loss blew up; None if it did not.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float
    limit: float | None

    def __str__(self) -> str:
        end = "never blew up" if self.limit is None else f"blew up at {self.limit:.2g}"
        suggestion = f"learning rate {self.suggestion:.2g} is suggested"
        return f"{suggestion}: the loss falls fastest there, and {end}"


def find_learning_rate(
    make: Make,
    data: PyTree,
    *,
    batch_size: int,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
) -> LearningRates:
    """Train with a learning rate that grows from step to step, to find the rate at which the
    loss falls fastest and the one at which it blows up (Smith 2017).

    Args:
      make: `make(lr) -> (learner, state)`; `lr` comes as a schedule, which every optimizer of
        `optim` and optax takes in place of a number.
      data: pytree of arrays `[n ...]`.
      batch_size: as in the training to come.
      low, high: the first and the last rate, in geometric progression over `steps` steps.

    Raises:
      ValueError: if the loss fell at no rate.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> def make(lr):
    ...     model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    ...     return make_learner(model, loss_fn, optax.sgd(lr), key=jax.random.key(0))
    >>> data = {"x": jnp.linspace(-1, 1, 16)[:, None], "y": jnp.linspace(-3, 3, 16)[:, None]}
    >>> found = find_learning_rate(make, data, batch_size=16, low=1e-4, high=100.0)
    >>> 0.01 < found.suggestion < 2 < found.limit
    True
    """
    low, high = real(low, "low", above=0), real(high, "high", above=0)
    if not 0 < low < high < math.inf:
        raise ValueError(f"low and high must be 0 < low < high; got {low!r} and {high!r}.")
    if checks.count(steps, "steps") < 10:
        raise ValueError(f"steps={steps} are too few to see a loss fall; take 50 or more.")
    learner, state = members.made(make, lambda step: low * (high / low) ** (step / (steps - 1)))
    losses, is_finite = np.empty(0), True
    while len(losses) < steps and is_finite:
        before = int(state.epoch)
        state, logs = train_epoch(learner, state, data, batch_size=batch_size)
        is_finite, values = int(state.epoch) > before, np.asarray(logs["loss"], np.float64)
        taken = values[~np.isnan(values)]  # a step that float16 left out has no rate either
        losses = np.concatenate([losses, taken, [] if is_finite else [np.inf]])
    rates, losses = low * (high / low) ** (np.arange(steps) / (steps - 1)), losses[:steps]
    smoothed = _smoothed(np.where(np.isfinite(losses), losses, np.inf))
    blown = smoothed > BLOWN_UP * np.minimum.accumulate(np.abs(smoothed))
    end = int(np.argmax(blown)) if blown.any() else len(losses)
    lowest = int(np.argmin(smoothed[:end])) if end else 0
    if lowest < 2 or not smoothed[lowest] < smoothed[0]:
        raise ValueError(
            f"the loss fell at no rate from {low:g} to {high:g}; start lower, or check model "
            "and loss."
        )
    suggestion = float(rates[_steepest(smoothed[: lowest + 1], steps)])
    limit = float(rates[end]) if end < len(losses) else None
    return LearningRates(rates[:end], losses[:end], smoothed[:end], suggestion, limit)


def _steepest(smoothed: np.ndarray, steps: int) -> int:
    """The step around which the loss falls most within a tenth of all steps.

    From one step to the next the batches decide. The first values are left out, since they are
    means of few batches.
    """
    settled = min(round(1 / (1 - SMOOTHING)), len(smoothed) // 3)
    half = max(1, min(steps // 20, (len(smoothed) - settled - 1) // 2))
    falls = smoothed[settled : -2 * half] - smoothed[settled + 2 * half :]
    return settled + half + int(np.argmax(falls))


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Exponential moving average, without a bias towards zero at the start."""
    weights = SMOOTHING ** np.arange(len(values))
    sums = np.array([np.dot(weights[: i + 1], values[i::-1]) for i in range(len(values))])
    return sums / np.cumsum(weights)


@dataclasses.dataclass(frozen=True)
class Memory:
    """The result of `memorises`: true if the model learned the examples by heart.

    Attributes:
      learned: whether it did.
      before, after: the losses in eval mode.
      examples, steps: the number of examples, and of steps of the optimizer.
    """

    learned: bool
    before: float
    after: float
    examples: int
    steps: int

    def __bool__(self) -> bool:
        return self.learned

    def __str__(self) -> str:
        losses = f"loss {self.before:.4g} -> {self.after:.4g}"
        losses += f" on {self.examples} examples in {self.steps} steps"
        if self.learned:
            return f"memorised: {losses}"
        advice = "look for a fault in model, loss, data or learning rate before anything else"
        return f"NOT memorised: {losses}; {advice}"


def memorises(
    learner: Learner,
    state: TrainState,
    data: PyTree,
    *,
    examples: int = 8,
    steps: int = 500,
    share: float = 0.05,
) -> Memory:
    """Whether a model can learn the first few examples by heart. If it cannot, it has a fault
    that no amount of data mends.

    Args:
      learner, state: from `make_learner`; the state is not changed.
      data: pytree of arrays `[n ...]`, of which the first `examples` are taken.
      steps: full-batch steps.
      share: the loss must fall to less than this share of its first value. A loss whose lowest
        value is not zero, such as one with label smoothing or a penalty, needs a larger share.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
    >>> data = {"x": jnp.eye(8), "y": jnp.arange(8.0)[:, None]}
    >>> model = nnx.Linear(8, 1, rngs=nnx.Rngs(0))
    >>> pair = make_learner(model, loss_fn, optax.sgd(0.5), key=jax.random.key(0))
    >>> bool(memorises(*pair, data)), bool(memorises(*pair, data | {"x": jnp.zeros((8, 8))}))
    (True, False)
    """
    check_pair(learner, state)
    data, steps = checks.dataset(data, "data"), checks.count(steps, "steps")
    share = real(share, "share", above=0)
    examples = min(checks.count(examples, "examples"), checks.rows(data, "data"))
    few = jax.tree.map(lambda a: a[:examples], data)
    result = run(learner, state, few, epochs=steps, batch_size=examples)
    before, after = (float(evaluate(learner, s, few)["loss"]) for s in (state, result.state))
    learned = not bool(result.failure[0]) and after < share * before
    return Memory(learned, before, after, examples, steps)


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """Loss against the number of training examples.

    Attributes:
      sizes: numbers of examples, ascending. train, val: losses at the best epoch, `[sizes
        draws]`.
      doubled: the validation loss that is expected from twice as many examples as there are,
        `[draws]`.
      sweeps: the trainings, one `Sweep` a size.
    """

    sizes: tuple[int, ...]
    train: np.ndarray
    val: np.ndarray
    doubled: np.ndarray
    sweeps: tuple[Sweep, ...] = dataclasses.field(repr=False)

    @property
    def gain(self) -> tuple[float, float]:
        """By how much twice the data should lower the validation loss: the mean over the draws
        and its standard error.
        """
        gains = self.val[-1] - self.doubled
        error = float(np.nan_to_num(deviation(gains))) / math.sqrt(len(gains))
        return float(gains.mean()), error

    @property
    def more_data_would_help(self) -> bool:
        """Whether the gain is larger than its error, and large enough to matter."""
        gain, error = self.gain
        return gain > max(2 * error, MATTERS * float(self.val[-1].mean()))

    def __str__(self) -> str:
        rows = [
            {"examples": n, "train": _mean(train), "val": _mean(val)}
            for n, train, val in zip(self.sizes, self.train, self.val, strict=True)
        ]
        last, gain, error = float(self.val[-1].mean()), *self.gain
        if not math.isfinite(gain):
            unknown = (
                "no telling whether more data would help: not every training stayed finite"
            )
            return f"{text.table(rows)}\n{unknown}"
        expected = f"{last:.4g} to {last - gain:.4g} ± {error:.2g}"
        expected = f"{2 * self.sizes[-1]} examples should bring it from {expected}"
        hardly = "" if self.more_data_would_help else "hardly "
        return f"{text.table(rows)}\n{expected}: more data would {hardly}help"


def _mean(values: np.ndarray) -> str:
    return text.spread(float(values.mean()), deviation(values))


def learning_curve(
    make: Make,
    train: PyTree,
    val: PyTree,
    *,
    key: jax.Array,
    epochs: int,
    batch_size: int,
    sizes: Sequence[int] | None = None,
    draws: int = 3,
    stop: EarlyStopping | None = None,
    progress: bool = True,
) -> LearningCurve:
    """Whether more data would help: train on more and more of the examples, and extrapolate the
    curve to twice as many.

    Every size is trained for as many optimizer steps as the whole set in `epochs` epochs. The
    curve floor + b n^-c is fitted to the validation losses of each draw; if it is at its floor,
    more examples of this kind bring nothing.

    Args:
      make: `make(key) -> (learner, state)`.
      train, val: pytrees of arrays `[n ...]`.
      key: a PRNG key for the draws.
      sizes: numbers of examples, ascending; None takes n/8, n/4, n/2 and n.
      draws: the number of random subsets of each size, each trained from other initial weights.
      epochs, batch_size, stop: as for `run`.
      progress: as for `sweep`.

    Returns:
      A `LearningCurve`. After Ctrl-C it has the sizes that were finished; KeyboardInterrupt if
      they are fewer than three.
    """
    train, val, key = (
        checks.dataset(train, "train"),
        checks.dataset(val, "val"),
        checks.key(key),
    )
    epochs, batch_size = checks.count(epochs, "epochs"), checks.count(batch_size, "batch_size")
    n, m = checks.rows(train, "train"), checks.rows(val, "val")
    sizes = [n // 8, n // 4, n // 2, n] if sizes is None else sizes
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(
            f"sizes must be a list of numbers of examples; got {checks.describe(sizes)}."
        )
    sizes = [checks.count(size, "each of sizes") for size in sizes]
    if len(sizes) < 3 or not all(
        0 < a < b <= n for a, b in zip([0.5, *sizes], sizes, strict=False)
    ):
        raise ValueError(
            f"sizes must be three or more, ascending, from 1 to the {n} examples of train; got "
            f"{sizes}."
        )
    kinds, others = checks.row_kinds(train), checks.row_kinds(val)
    if kinds != others:
        raise ValueError(
            f"train and val must hold arrays of the same kinds; train has {kinds}, and val "
            f"{others}."
        )
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), train, val)
    keys = jax.random.split(key, 2 * checks.count(draws, "draws"))
    orders = [np.asarray(jax.random.permutation(k, n)) for k in keys[:draws]]
    steps = epochs * -(-n // batch_size)

    numbers, val_rows = {"draw": np.arange(draws)}, np.arange(n, n + m)
    sweeps = []
    for size in sizes:
        rows = [(order[:size], val_rows) for order in orders]
        its_epochs = -(-steps // -(-size // batch_size))
        options = {"epochs": its_epochs, "batch_size": batch_size, "stop": stop}
        result = train_members(
            lambda draw: make(keys[draws:][draw]),
            both,
            None,
            numbers,
            rows,
            progress=progress,
            **options,
        )
        if result.interrupted:
            break
        sweeps.append(result)
    sizes = sizes[: len(sweeps)]
    if len(sizes) < 3:
        raise KeyboardInterrupt
    losses = [s.history["train/loss"][np.arange(draws), s.best_index] for s in sweeps]
    val_losses = np.stack([s.scores for s in sweeps])
    doubled = np.array(
        [carried_on(np.array(sizes), val_losses[:, i], 2 * sizes[-1]) for i in range(draws)]
    )
    return LearningCurve(tuple(sizes), np.stack(losses), val_losses, doubled, tuple(sweeps))


def carried_on(sizes: np.ndarray, losses: np.ndarray, n: int) -> float:
    """floor + b n^-c, fitted by least squares with b >= 0 and the floor between 0 and the
    lowest loss; NaN if a training diverged.
    """
    if not np.isfinite(losses).all():
        return math.nan
    best, value = math.inf, float(losses[-1])
    for power in POWERS:
        x = (sizes / sizes[-1]) ** -power
        b = max(0.0, float(np.polyfit(x, losses, 1)[0]))
        floor = float(np.clip(np.mean(losses - b * x), 0, losses.min()))
        b = max(0.0, float(np.dot(x, losses - floor) / np.dot(x, x)))
        error = float(np.sum((floor + b * x - losses) ** 2))
        if error < best:
            best, value = error, floor + b * (n / sizes[-1]) ** -power
    return value
