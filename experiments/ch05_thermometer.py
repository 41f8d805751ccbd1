"""Chapter 5: a line through eleven readings of an unlabelled thermometer, t_c = w t_u + b.

Run:    python -m experiments ch05_thermometer
Writes: runs/ch05_thermometer/{config.json,history.jsonl,fit.png,loss.png} Expect: every figure
the book's to float32 rounding (relative 1e-5), most in every printed digit; 6 s, 3 s when
compiled

The book's last digits are one machine's rounding: torch 2.13 itself prints other ones
(tests/reference/thermometer.py).
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

from dlwp_jax import autograd, data, runs, train
from experiments.book import Table


@dataclass(frozen=True)
class Config:
    seed: int = 0  # of the split into training and validation readings
    out: Path = Path("runs")  # where the run directory is made


class Line(nnx.Module):
    def __init__(self):
        self.w, self.b = nnx.Param(jnp.array(1.0)), nnx.Param(jnp.array(0.0))

    def __call__(self, t_u):  # [n] -> [n]
        return self.w[...] * t_u + self.b[...]


def loss_fn(line, batch):
    return jnp.mean((line(batch["t_u"]) - batch["t_c"]) ** 2), {}  # degrees C squared


def readings(scale=1.0):
    """The readings, t_u scaled: the book's cure for a gradient that is 50 times steeper in w
    than in b.
    """
    both = data.thermometer()
    return both | {"t_u": scale * both["t_u"]}


def train_line(tx, epochs, scale=1.0):
    learner, state = train.make_learner(Line(), loss_fn, tx, key=jax.random.key(0))
    return train.run(learner, state, readings(scale), epochs=epochs, batch_size=11)


def fitted(result):
    return float(result.state.params["w"]), float(result.state.params["b"])


def loss_at(p):
    both = readings()
    return jnp.mean((p["w"] * both["t_u"] + p["b"] - both["t_c"]) ** 2)


def gradient_by_hand(p):
    """dL/dw and dL/db, the book's dloss_fn times dmodel_dw and dmodel_db."""
    both = readings()
    dloss = 2 * (p["w"] * both["t_u"] + p["b"] - both["t_c"]) / 11
    return {"w": jnp.sum(dloss * both["t_u"]), "b": jnp.sum(dloss)}


def gradient_by_differences(p):
    """(L(p + 0.1) - L(p - 0.1)) / 0.2, in float64: the difference of two near numbers eats
    float32's digits.
    """
    with jax.enable_x64(True):
        return autograd.numerical_gradient(loss_at, jax.tree.map(jnp.float64, p), eps=0.1)


def show_losses(table, what, result, book):
    for epoch, figure in book.items():
        table.row(
            f"{what}, loss at epoch {epoch}",
            figure,
            float(result.history["train/loss"][epoch - 1]),
        )


def show_params(table, what, result, w, b):
    table.row(f"{what}, w", w, fitted(result)[0])
    table.row(f"{what}, b", b, fitted(result)[1])


def book_against_ours():
    """Everything the chapter trains, in its order; the fits that are worth drawing."""
    table, start = Table(), {"w": jnp.array(1.0), "b": jnp.array(0.0)}
    table.row("loss at w=1, b=0", "1763.8846", float(loss_at(start)))
    ways = {
        "hand": gradient_by_hand,
        "central difference": gradient_by_differences,
        "jax.grad": jax.grad(loss_at),
    }
    for way, gradient in ways.items():
        table.row(f"dL/dw by {way}", "4517.2969", float(gradient(start)["w"]))
        table.row(f"dL/db by {way}", "82.6000", float(gradient(start)["b"]))

    diverged = train_line(optax.sgd(1e-2), 100)
    show_losses(
        table, "SGD 1e-2, raw", diverged, {1: "1763.884644", 2: "5802485.5", 3: "19408035840"}
    )
    table.row("SGD 1e-2, raw, infinite at epoch", "11", int(diverged.failure[0]))

    small = train_line(optax.sgd(1e-4), 100)
    show_losses(table, "SGD 1e-4, raw", small, {99: "29.0236"})
    show_params(table, "SGD 1e-4, raw", small, "0.2327", "-0.0438")

    scaled = train_line(optax.sgd(1e-2), 5000, scale=0.1)
    first = {1: "80.364342", 2: "37.574917", 3: "30.871077", 100: "22.148710"}
    show_losses(
        table,
        "SGD 1e-2, 0.1 t_u",
        scaled,
        first | {500: "7.860118", 1000: "3.828538", 5000: "2.927648"},
    )
    show_params(table, "SGD 1e-2, 0.1 t_u", scaled, "5.3671", "-17.3012")

    adam = train_line(optax.adam(1e-1), 2000)
    show_losses(
        table,
        "Adam 1e-1, raw",
        adam,
        {500: "7.612903", 1000: "3.086700", 1500: "2.928578", 2000: "2.927646"},
    )
    show_params(table, "Adam 1e-1, raw", adam, "0.5367", "-17.3021")
    table.close()
    return {"SGD 1e-4, t_u": small, "SGD 1e-2, 0.1 t_u": scaled, "Adam 1e-1, t_u": adam}


def train_and_validate(config):
    """Nine readings to learn from, two to check: the same training, with validation after every
    epoch.
    """
    train_set, val_set = data.split(readings(0.1), val=2, key=jax.random.key(config.seed))
    learner, state = train.make_learner(
        Line(), loss_fn, optax.sgd(1e-2), key=jax.random.key(config.seed)
    )
    result = train.fit(learner, state, train_set, val_set, epochs=3000, batch_size=9)
    for epoch in (1, 500, 3000):
        losses = (
            f"{name} {float(values[epoch - 1]):9.4f}" for name, values in result.history.items()
        )
        print(f"split 9/2, epoch {epoch:4d}: {'  '.join(losses)}")
    no_grad = cost(functools.partial(train.evaluate, learner), state, train_set)
    with_grad = cost(
        functools.partial(train.train_epoch, learner, batch_size=9), state, train_set
    )
    for name, figures in {
        "validation, no gradient": no_grad,
        "a training step": with_grad,
    }.items():
        print(
            f"XLA's cost of {name:24s} {figures['flops']:6.0f} flops {figures['bytes accessed']:6.0f} bytes"
        )
    return result


def cost(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis() or {}


def draw(fits, split_run, run_dir):
    both = readings()
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.plot(both["t_u"], both["t_c"], "o", color="k", label="readings")
    w, b = fitted(fits["Adam 1e-1, t_u"])
    ends = jnp.array([20.0, 84.0])
    axes.plot(ends, w * ends + b, color="C1", label=f"fit: {w:.4f} t_u − {-b:.4f}")
    axes.plot(
        ends, (ends - 32) / 1.8, ":", color="gray", label="Fahrenheit: 0.5556 t_u − 17.7778"
    )
    axes.set(
        xlabel="t_u (unknown units)",
        ylabel="t_c (°C)",
        title="Eleven readings, and the line they ask for",
    )
    axes.legend()
    run_dir.figure(figure, "fit.png")

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    curves = {name: fit.history["train/loss"] for name, fit in fits.items()}
    curves |= {f"split 9/2, {name}": values for name, values in split_run.history.items()}
    for name, losses in curves.items():
        axes.loglog(range(1, len(losses) + 1), losses, label=name)
    axes.set(
        xlabel="epoch", ylabel="loss (°C²)", title="Learning rate and scale of the input decide"
    )
    axes.legend()
    run_dir.figure(figure, "loss.png")


def main(config: Config):
    run_dir = runs.start("ch05_thermometer", config, out=config.out)
    fits = book_against_ours()
    split_run = train_and_validate(config)
    run_dir.history(split_run.history)
    draw(fits, split_run, run_dir)
