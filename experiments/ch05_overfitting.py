"""Chapter 5: see a network overfit, cure it, and find the size that needs no cure.

Run:    python -m experiments ch05_overfitting
Writes: runs/ch05_overfitting/{config.json,history.jsonl,cures.png,capacity.png}
Expect: without a cure the validation loss ends between 22 and 29 °C²;
        with an L2 penalty of 0.01 it ends at 3.7 (mean of five seeds);
        every cure is better than none with each seed; the smallest size,
        one hidden unit, is recommended; 60 s of processor time

A network of two hidden layers learns the eleven readings of the thermometer by heart. To see
how it does on new readings, each reading is left out once: eleven trainings, each on the ten
other readings. The validation loss is the mean of the eleven squared errors on the readings
left out, in °C².

The strength of each cure was chosen out of three by the same readings, and so was the epoch at
which early stopping ends. New readings would show them a little worse.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, regularization, runs, search, train
from dlwp_jax.diagnose import diagnose
from experiments import _drawing

# Each cure, as arguments of `Lab.make`.
CURES = {
    "no cure": {},
    "L2 penalty 0.01": {"l2": 0.01},
    "smoothness penalty 0.01": {"slope": 0.01},
    "noise on the input 0.2": {"noise": 0.2},
    "dropout 0.3": {"dropout": 0.3},
}
ARGUMENTS = ("l2", "slope", "noise", "dropout")
SIZES = (1, 2, 4, 8, 16)  # hidden units that may be enough


@dataclass(frozen=True)
class Config:
    width: int = 32  # hidden units of the network that is too large
    epochs: int = 2000  # of every training
    lr: float = 1e-2  # of Adam
    seeds: int = 5  # how often each cure is tried, with other random weights
    seed: int = 0  # the first of them
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        largest = SIZES[-1]
        if self.width <= largest:
            raise ValueError(f"--width must be larger than {largest}; got {self.width}.")
        if self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; got {self.epochs}.")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1; got {self.seeds}.")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"--lr must be a positive number; got {self.lr:g}.")


class Network(nnx.Module):
    """1-width-width-1, with noise on its input and dropout if they are not 0."""

    def __init__(self, width, noise, dropout, rngs):
        self.noise = regularization.InputNoise(noise, rngs=rngs)
        self.first = nn.Linear(1, width, rngs=rngs)
        self.second = nn.Linear(width, width, rngs=rngs)
        self.dropout = nn.Dropout(dropout, rngs=rngs)
        self.output = nn.Linear(width, 1, rngs=rngs)

    def __call__(self, t_u):  # [n 1] -> [n 1]
        hidden = jnp.tanh(self.first(self.noise(t_u)))
        hidden = jnp.tanh(self.second(hidden))
        return self.output(self.dropout(hidden))


class Lab:
    """The readings, and how a network is made for them."""

    def __init__(self, config):
        self.config = config
        self.interrupted = False  # by Ctrl-C: then nothing more is trained
        both = data.thermometer()
        columns = {
            name: np.asarray(values, np.float32)[:, None] for name, values in both.items()
        }
        # Mean 0 and standard deviation 1; a scale leads back to degrees.
        self.scales = {name: data.Scale.standard(column) for name, column in columns.items()}
        self.readings = self.scaled(columns)  # {"t_u": [11 1], "t_c": [11 1]}

    def scaled(self, columns):
        return {name: self.scales[name].apply(column) for name, column in columns.items()}

    def make(self, width=None, key=None, l2=0.0, slope=0.0, noise=0.0, dropout=0.0):
        """A network, its loss and its optimizer; a strength of 0 is no cure."""
        width = width or self.config.width
        key = jax.random.key(self.config.seed) if key is None else key
        degrees = float(self.scales["t_c"].unit.item())

        def loss_fn(model, batch):
            error = jnp.mean((model(batch["t_u"]) - batch["t_c"]) ** 2)
            penalty = l2 * regularization.l2(model, biases=False)
            penalty += slope * regularization.smoothness(model, batch["t_u"])
            return error + penalty, {"error": degrees**2 * error}  # in °C²

        network = Network(width, noise, dropout, nnx.Rngs(key))
        return train.make_learner(network, loss_fn, optax.adam(self.config.lr), key=key)

    def leave_one_out(self, settings):
        """Train each of the settings eleven times, each time without another reading.

        Returns training and validation losses in °C², `[settings epochs]`: means over the
        eleven. All of the trainings are one compiled program, `search.sweep`. After Ctrl-C the
        losses end with the last epoch that all of them have finished.
        """
        folds = data.k_fold(11, 11, key=jax.random.key(self.config.seed))
        over = [dict.fromkeys(ARGUMENTS, 0.0) | setting for setting in settings]
        swept = search.sweep(
            self.make,
            self.readings,
            over=over,
            folds=folds,
            epochs=self.config.epochs,
            batch_size=11,
        )
        print(f"{len(swept)} trainings in {swept.seconds + swept.compile_seconds:.1f} s")
        epochs = self.config.epochs
        if swept.interrupted:
            epochs = int(np.isfinite(swept.history["val/error"]).all(axis=0).sum())
            self.interrupted = True
            print(f"interrupted after {epochs} of {self.config.epochs} epochs")
        shape = (len(settings), len(folds), epochs)
        train_losses = np.reshape(swept.history["train/error"][:, :epochs], shape)
        val_losses = np.reshape(swept.history["val/error"][:, :epochs], shape)
        return train_losses.mean(axis=1), val_losses.mean(axis=1)

    def fitted(self, setting, t_u):
        """What a network that has learned all eleven readings says of t_u `[n 1]`, in °C."""
        learner, state = self.make(**setting)
        result = train.run(
            learner, state, self.readings, epochs=self.config.epochs, batch_size=11
        )
        scaled = self.scales["t_u"].apply(t_u)
        return self.scales["t_c"].undo(train.predict(learner, result.state, scaled))


# 1. One cure by itself: the same network without and with an L2 penalty


def one_cure(lab):
    """Print and return the histories of both; the only difference is the penalty."""
    names = ("no cure", "L2 penalty 0.01")
    print(f"the same network with {names[0]} and with an {names[1]}", flush=True)
    train_losses, val_losses = lab.leave_one_out([CURES[name] for name in names])
    histories = {}
    if not val_losses.size:
        return histories
    for i, name in enumerate(names):
        history = {"train/loss": train_losses[i], "val/loss": val_losses[i]}
        histories[name] = history
        best = int(val_losses[i].argmin())
        print(f"\n{name}: {diagnose(history).verdict}")
        print(f"  training loss at the end    {train_losses[i, -1]:6.2f} °C²")
        print(f"  validation loss at the end  {val_losses[i, -1]:6.2f} °C²")
        print(f"  and at its best             {val_losses[i, best]:6.2f} °C², epoch {best + 1}")
    print()
    return histories


# 2. All cures, each with several seeds


def all_cures(lab):
    """The validation losses at the end, in °C²: `{cure: [seeds]}`."""
    seeds = range(lab.config.seed, lab.config.seed + lab.config.seeds)
    settings = [setting | {"key": seed} for setting in CURES.values() for seed in seeds]
    _, val_losses = lab.leave_one_out(settings)
    if not val_losses.size:
        return {}
    by_cure = val_losses.reshape(len(CURES), len(seeds), -1)
    ends = dict(zip(CURES, by_cure[:, :, -1], strict=True))
    # Early stopping is the training without a cure, ended at its best epoch.
    ends["early stopping"] = by_cure[0].min(axis=1)
    return ends


def show_cures(ends):
    if not ends:
        return
    none = ends["no cure"]
    print(f"\nvalidation loss at the end, {len(none)} seeds, in °C²")
    print(f"{'':24s} lowest    mean  highest   better than no cure")
    for name, losses in ends.items():
        figures = f"{losses.min():7.1f} {losses.mean():7.1f} {losses.max():8.1f}"
        better = f"with {np.sum(losses < none)} of {len(none)} seeds"
        print(f"{name:24s}{figures}   {better if name != 'no cure' else ''}".rstrip())
    print()


# 3. The size that needs no cure


def simulated(lab, n):
    """New readings to judge sizes by: Fahrenheit's law, with the noise of the eleven."""
    both, rng = data.thermometer(), np.random.default_rng(lab.config.seed)
    noise = np.std(both["t_c"] - (both["t_u"] - 32) / 1.8)
    t_u = rng.uniform(both["t_u"].min(), both["t_u"].max(), (n, 1))
    t_c = (t_u - 32) / 1.8 + noise * rng.normal(size=(n, 1))
    unit = float(lab.scales["t_c"].unit.item())
    print(f"sizes are judged by {n} simulated readings with a noise of {noise:.2f} °C;")
    print(f"a loss of 1 is {unit**2:.0f} °C²")
    return lab.scaled({"t_u": np.float32(t_u), "t_c": np.float32(t_c)})


def find_size(lab):
    return search.search_capacity(
        lab.make,
        lab.readings,
        simulated(lab, 200),
        sizes=[*SIZES, lab.config.width],
        epochs=lab.config.epochs,
        batch_size=11,
    )


def main(config: Config):
    run_dir = runs.start("ch05_overfitting", config, out=config.out)
    lab = Lab(config)
    histories = one_cure(lab)
    if histories:
        run_dir.history(histories["no cure"])
    if lab.interrupted:
        return
    ends = all_cures(lab)
    show_cures(ends)
    if lab.interrupted:
        return
    t_u = np.linspace(20, 84, 200, dtype=np.float32)[:, None]
    fits = {name: lab.fitted(CURES[name], t_u) for name in histories}
    figure = _drawing.cures(data.thermometer(), t_u, fits, histories, ends)
    run_dir.figure(figure, "cures.png")
    capacity = find_size(lab)
    print(capacity)
    run_dir.figure(capacity.figure(), "capacity.png")
