"""Chapter 5: a network too big for eleven thermometer readings: see it overfit, cure it, and find the right size.

Run:    python -m experiments ch05_overfitting
Writes: runs/ch05_overfitting/{config.json,history.jsonl,cures.png,capacity.png}
Expect: without a cure 19.0 °C² on the readings left out, 4.7 at epoch 13; with an L2 penalty of 0.03 it ends at 3.8
        (seed 0, n = 11); one hidden unit is recommended; 45 s of CPU time, mostly compiling

Two readings held back are too few to judge by: every network is trained eleven times, each time without another
reading, and all of them, under every cure and strength, are members of one compiled program. Validation loss is the
mean over the readings left out, in squared degrees. Strengths are chosen by the same readings, so the figures flatter.
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

CURES = {
    "L2 penalty": {"l2": [3e-3, 1e-2, 3e-2]},
    "smoothness penalty": {"slope": [3e-3, 1e-2, 3e-2]},
    "noise on the input": {"noise": [0.1, 0.2, 0.4]},
    "dropout": {"dropout": [0.3, 0.5, 0.7]},
}


@dataclass(frozen=True)
class Config:
    width: int = 64  # hidden units of the network that is too big
    epochs: int = 3000
    lr: float = 1e-2
    seed: int = 0
    out: Path = Path("runs")


class Network(nnx.Module):
    def __init__(self, width, dropout, noise, rngs):
        self.noise = regularization.InputNoise(noise, rngs=rngs)
        self.first, self.second = nn.Linear(1, width, rngs=rngs), nn.Linear(width, width, rngs=rngs)
        self.dropout, self.output = nn.Dropout(dropout, rngs=rngs), nn.Linear(width, 1, rngs=rngs)

    def __call__(self, t_u):  # [n 1] -> [n 1]
        hidden = jnp.tanh(self.first(self.noise(t_u)))
        return self.output(self.dropout(jnp.tanh(self.second(hidden))))


def readings():
    """The readings, both scaled to mean 0 and deviation 1, and what a squared error of 1 is in degrees C squared."""
    both = {name: np.asarray(values, np.float32)[:, None] for name, values in data.thermometer().items()}
    scales = {name: data.Scale.standard(values) for name, values in both.items()}
    return {name: scales[name].apply(values) for name, values in both.items()}, scales


def simulated(scales, n, seed):
    """Readings to judge sizes by, scaled: Fahrenheit's law, with the noise that the eleven show around it."""
    both, rng = data.thermometer(), np.random.default_rng(seed)
    law = lambda t_u: (t_u - 32) / 1.8  # noqa: E731
    noise = np.std(both["t_c"] - law(both["t_u"]))
    t_u = rng.uniform(both["t_u"].min(), both["t_u"].max(), (n, 1))
    new = {"t_u": t_u, "t_c": law(t_u) + noise * rng.normal(size=(n, 1))}
    unit = float(scales["t_c"].unit.item())
    print(
        f"capacity: {n} simulated readings with noise of {noise:.2f} °C to judge by; a loss of 1 is {unit**2:.0f} °C²"
    )
    return {name: scales[name].apply(values).astype(np.float32) for name, values in new.items()}


def builder(config, unit):
    """`make` for every cure at once: strengths of 0 are the network without a cure."""

    def make(width=config.width, key=None, l2=0.0, slope=0.0, noise=0.0, dropout=0.0):
        key = jax.random.key(config.seed) if key is None else key

        def loss_fn(model, batch):
            error = jnp.mean((model(batch["t_u"]) - batch["t_c"]) ** 2)
            penalty = l2 * regularization.l2(model, biases=False)
            penalty += slope * regularization.smoothness(model, batch["t_u"])
            return error + penalty, {"error": unit**2 * error}  # degrees C squared

        network = Network(width, dropout, noise, nnx.Rngs(key))
        return train.make_learner(network, loss_fn, optax.adam(config.lr), key=key)

    return make


def errors(setting):
    """A setting's mean history, in degrees C squared and without the penalty, under the names diagnose knows."""
    return {f"{part}/loss": setting.history[f"{part}/error"] for part in ("train", "val")}


def cure(config, make, examples):
    """Every cure in every strength, leaving out each reading once; the best strength of each, and the rest."""
    none = {"l2": 0.0, "slope": 0.0, "noise": 0.0, "dropout": 0.0}
    choices = [("no cure", none)]
    choices += [(name, none | {k: v}) for name, over in CURES.items() for k, values in over.items() for v in values]
    folds = data.k_fold(11, 11, key=jax.random.key(config.seed))
    every = [values for _, values in choices]
    swept = search.sweep(make, examples, over=every, folds=folds, epochs=config.epochs, batch_size=11)
    times = f"{swept.seconds:.1f} s, {swept.compile_seconds:.1f} s of it compiling"
    print(f"{len(swept)} trainings by {swept.how} in {times}")
    found = {}
    for (name, values), setting in zip(choices, swept.settings(), strict=True):
        history, strength = errors(setting), max(values.values())
        if name not in found or history["val/loss"][-1] < found[name][1]["val/loss"][-1]:
            found[name] = (strength, history, values)
    return found


def report(found):
    before = found["no cure"][1]["val/loss"]
    rows = [{"cure": name, "strength": strength} | judged(history) for name, (strength, history, _) in found.items()]
    stopped = int(np.argmin(before)) + 1
    until = {name: values[:stopped] for name, values in found["no cure"][1].items()}
    rows.append({"cure": "early stopping", "strength": stopped} | judged(until))
    print(table(rows))
    better = [str(row["cure"]) for row in rows[1:] if row["val at the end"] < rows[0]["val at the end"]]
    print(f"{len(better)} of {len(rows) - 1} cures end lower than no cure: {', '.join(better)}\n")


def judged(history):
    val = history["val/loss"]
    ends: dict[str, Any] = {"train at the end": float(history["train/loss"][-1]), "val at the end": float(val[-1])}
    best = {"best val": float(val.min()), "at epoch": int(val.argmin()) + 1}
    return ends | best | {"verdict": diagnose(history).verdict}


def draw(config, make, examples, scales, found, run_dir):
    """Above, the functions that all eleven readings teach; below, the losses on the readings left out."""
    line = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]
    figure, axes = plt.subplots(2, len(found), figsize=(3 * len(found), 5.4), layout="constrained", sharey="row")
    best = [values for *_, values in found.values()]
    fits = search.sweep(make, examples, over=best, epochs=config.epochs, batch_size=11)
    for i, (column, (name, (strength, history, _))) in enumerate(zip(axes.T, found.items(), strict=True)):
        learner, _ = fits.member(i)
        last = jax.tree.map(lambda a, i=i: a[i], fits.run.state)
        x, y = scales["t_u"].undo(line), scales["t_c"].undo(train.predict(learner, last, line))
        column[0].plot(x, y, color="C2")
        column[0].plot(*(scales[k].undo(examples[k]) for k in ("t_u", "t_c")), "o", color="k", markersize=4)
        column[0].set(title=name if strength == 0 else f"{name} {strength:g}", xlabel="t_u (unknown units)")
        for part, color in (("train", "C0"), ("val", "C1")):
            column[1].loglog(np.arange(1, config.epochs + 1), history[f"{part}/loss"], color=color, label=part)
        column[1].set(xlabel="epoch", title=diagnose(history).verdict)
    axes[0, 0].set(ylabel="t_c (°C)", ylim=(-15, 40))
    axes[1, 0].set_ylabel("loss (°C²)")
    axes[1, 0].legend()
    run_dir.figure(figure, "cures.png")


def main(config: Config):
    run_dir = runs.start("ch05_overfitting", config, out=config.out)
    examples, scales = readings()
    make = builder(config, float(scales["t_c"].unit.item()))
    found = cure(config, make, examples)
    report(found)
    run_dir.history(found["no cure"][1])
    draw(config, make, examples, scales, found, run_dir)
    more = simulated(scales, 200, config.seed)
    sizes = [1, 2, 4, 8, 16, config.width]
    capacity = search.search_capacity(make, examples, more, sizes=sizes, epochs=config.epochs, batch_size=11)
    print(capacity)
    run_dir.figure(capacity.figure(), "capacity.png")
