"""Chapter 5: a network too big for eleven thermometer readings: see it overfit, cure it, and
find the right size.

Run:    python -m experiments ch05_overfitting
Writes: runs/ch05_overfitting/{config.json,history.jsonl,cures.png,capacity.png} Expect: without
a cure 19.0 °C² on the readings left out, 4.7 at epoch 13; with an L2 penalty of 0.03 it ends at
3.8
        (seed 0, n = 11); one hidden unit is recommended; 47 s on two cores, nothing compiled before

Two readings held back are too few to judge by: every network is trained eleven times, each time
without another reading, and all of them, under every cure and strength, are members of one
compiled program. Validation loss is the mean over the readings left out, in squared degrees.
Strengths are chosen by the same readings, so the figures flatter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, regularization, runs, search, train
from dlwp_jax.diagnose import diagnose
from dlwp_jax.search.text import table

CURES = {  # of which argument of `make`, in which strengths
    "L2 penalty": ("l2", (3e-3, 1e-2, 3e-2)),
    "smoothness penalty": ("slope", (3e-3, 1e-2, 3e-2)),
    "noise on the input": ("noise", (0.1, 0.2, 0.4)),
    "dropout": ("dropout", (0.3, 0.5, 0.7)),
}
SIZES = (1, 2, 4, 8, 16)  # hidden units that may do
NO_CURE = {argument: 0.0 for argument, _ in CURES.values()}


@dataclass(frozen=True)
class Config:
    width: int = 64  # hidden units of the network that is too big
    epochs: int = 3000  # of every training
    lr: float = 1e-2  # Adam's
    seed: int = 0  # of weights, noise and dropout
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if self.width <= SIZES[-1]:
            raise ValueError(
                f"--width must be above {SIZES[-1]}, to be too big; got {self.width}."
            )


class Network(nnx.Module):
    def __init__(self, width, dropout, noise, rngs):
        self.noise = regularization.InputNoise(noise, rngs=rngs)
        self.first, self.second = (
            nn.Linear(1, width, rngs=rngs),
            nn.Linear(width, width, rngs=rngs),
        )
        self.dropout, self.output = (
            nn.Dropout(dropout, rngs=rngs),
            nn.Linear(width, 1, rngs=rngs),
        )

    def __call__(self, t_u):  # [n 1] -> [n 1]
        hidden = jnp.tanh(self.first(self.noise(t_u)))
        return self.output(self.dropout(jnp.tanh(self.second(hidden))))


def readings():
    """The eleven readings `[11 1]`, scaled to mean 0 and deviation 1, and the scales that lead
    back.
    """
    both = {
        name: np.asarray(values, np.float32)[:, None]
        for name, values in data.thermometer().items()
    }
    scales = {name: data.Scale.standard(values) for name, values in both.items()}
    return {name: scales[name].apply(values) for name, values in both.items()}, scales


def simulated(scales, n, seed):
    """Readings to judge sizes by, scaled: Fahrenheit's law, with the noise that the eleven show
    around it.
    """
    both, rng = data.thermometer(), np.random.default_rng(seed)
    noise = np.std(both["t_c"] - (both["t_u"] - 32) / 1.8)
    t_u = rng.uniform(both["t_u"].min(), both["t_u"].max(), (n, 1))
    new = {"t_u": t_u, "t_c": (t_u - 32) / 1.8 + noise * rng.normal(size=(n, 1))}
    told = f"a loss of 1 is {scales['t_c'].unit.item() ** 2:.0f} °C²"
    print(f"which size: judged by {n} simulated readings with noise of {noise:.2f} °C; {told}")
    return {name: scales[name].apply(values).astype(np.float32) for name, values in new.items()}


def builder(config, unit):
    """`make` for every cure at once: strengths of 0 are the network without a cure. `unit`: of
    t_c, in °C.
    """

    def make(width=config.width, key=None, l2=0.0, slope=0.0, noise=0.0, dropout=0.0):
        key = jax.random.key(config.seed) if key is None else key

        def loss_fn(model, batch):
            error = jnp.mean((model(batch["t_u"]) - batch["t_c"]) ** 2)
            penalty = l2 * regularization.l2(model, biases=False)
            penalty += slope * regularization.smoothness(model, batch["t_u"])
            return error + penalty, {"error": unit**2 * error}  # °C²

        network = Network(width, dropout, noise, nnx.Rngs(key))
        return train.make_learner(network, loss_fn, optax.adam(config.lr), key=key)

    return make


def cure(config, make, examples):
    """Every cure in every strength, each reading left out once: of each cure the best history,
    and what `make` got.
    """
    choices = [("no cure", NO_CURE)]
    choices += [
        (name, NO_CURE | {k: value}) for name, (k, values) in CURES.items() for value in values
    ]
    folds = data.k_fold(11, 11, key=jax.random.key(config.seed))
    every = [arguments for _, arguments in choices]
    swept = search.sweep(
        make, examples, over=every, folds=folds, epochs=config.epochs, batch_size=11
    )
    told = f"in {swept.seconds:.1f} s, {swept.compile_seconds:.1f} s of it compiling"
    print(f"{len(swept)} trainings by {swept.how} {told}; losses in °C²")
    found = {}
    for (name, arguments), setting in zip(choices, swept.settings(), strict=True):
        # Without the penalty, under the names that diagnose knows.
        history = {
            f"{part}/loss": setting.history[f"{part}/error"] for part in ("train", "val")
        }
        if name not in found or history["val/loss"][-1] < found[name][0]["val/loss"][-1]:
            found[name] = history, arguments
    return found


def report(found):
    """One row a cure; early stopping is the history without a cure up to its best epoch."""

    def row(name, strength, history) -> dict[str, Any]:
        val = history["val/loss"]
        ends = {
            "train at the end": float(history["train/loss"][-1]),
            "val at the end": float(val[-1]),
        }
        best = {"best val": float(val.min()), "at epoch": int(val.argmin()) + 1}
        return (
            {"cure": name, "strength": strength}
            | ends
            | best
            | {"verdict": diagnose(history).verdict}
        )

    none, *cured = (
        row(name, max(arguments.values()), history)
        for name, (history, arguments) in found.items()
    )
    until = {name: values[: none["at epoch"]] for name, values in found["no cure"][0].items()}
    cured.append(row("early stopping", none["at epoch"], until))
    print(table([none, *cured]))
    better = [
        str(row["cure"]) for row in cured if row["val at the end"] < none["val at the end"]
    ]
    print(f"{len(better)} of {len(cured)} cures end lower than no cure: {', '.join(better)}\n")


def draw(config, make, examples, scales, found):
    """Above, the functions that all eleven readings teach; below, the losses on the readings
    left out.
    """
    line = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]
    figure, axes = plt.subplots(
        2, len(found), figsize=(3 * len(found), 5.6), layout="constrained", sharey="row"
    )
    best = [arguments for _, arguments in found.values()]
    fits = search.sweep(make, examples, over=best, epochs=config.epochs, batch_size=11)
    for i, ((above, below), (name, (history, arguments))) in enumerate(
        zip(axes.T, found.items(), strict=True)
    ):
        learner, _ = fits.member(i)
        last = jax.tree.map(lambda a, i=i: a[i], fits.run.state)
        above.plot(
            scales["t_u"].undo(line),
            scales["t_c"].undo(train.predict(learner, last, line)),
            color="C2",
        )
        above.plot(
            *(scales[k].undo(examples[k]) for k in ("t_u", "t_c")), "o", color="k", markersize=4
        )
        above.set(
            title=f"{name} {max(arguments.values()) or ''}".strip(),
            xlabel="t_u (unknown units)",
        )
        for part, losses in history.items():
            below.loglog(np.arange(1, config.epochs + 1), losses, label=part)
        below.set(xlabel="epoch", title=diagnose(history).verdict)
    axes[0, 0].set(ylabel="t_c (°C)", ylim=(-15, 40))
    axes[1, 0].set_ylabel("loss (°C²)")
    axes[1, 0].legend()
    figure.suptitle(
        "Above: fits to eleven readings. Below: losses where one of them is left out, mean of eleven"
    )
    return figure


def main(config: Config):
    run_dir = runs.start("ch05_overfitting", config, out=config.out)
    examples, scales = readings()
    make = builder(config, float(scales["t_c"].unit.item()))
    found = cure(config, make, examples)
    report(found)
    run_dir.history(found["no cure"][0])
    run_dir.figure(draw(config, make, examples, scales, found), "cures.png")
    sizes, more = [*SIZES, config.width], simulated(scales, 200, config.seed)
    capacity = search.search_capacity(
        make, examples, more, sizes=sizes, epochs=config.epochs, batch_size=11
    )
    print(capacity)
    run_dir.figure(capacity.figure(), "capacity.png")
