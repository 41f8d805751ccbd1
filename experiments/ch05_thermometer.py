"""Chapter 5: a line through eleven readings of a thermometer of unknown units.

Run:    python -m experiments ch05_thermometer
Writes: runs/ch05_thermometer/{config.json,history.jsonl,fit.png,loss.png}
Expect: every figure equals the book's to float32 rounding (relative 1e-5), and the three
        training loops give the same numbers; 7 s on two cores, 4 s when run again

Each reading is a temperature t_c in °C and a number t_u that the thermometer shows. The model
is a line, t_c = w t_u + b. This script writes the training loop three times: with the gradient
and the update written out, with an optimizer of Optax, and with `train.run`.

The book's last digits are the rounding of one machine: torch 2.13 prints other ones.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import autograd, data, runs, train
from experiments import _drawing
from experiments.book import Table


@dataclass(frozen=True)
class Config:
    seed: int = 0  # of the split into training and validation readings
    out: Path = Path("runs")  # where the run directory is made


def readings(scale=1.0):
    """The eleven readings `{"t_u": [11], "t_c": [11]}`, with t_u multiplied by `scale`.

    A scale of 0.1 is the book's cure for a gradient that is 50 times steeper in w than in b.
    """
    both = data.thermometer()
    return both | {"t_u": scale * both["t_u"]}


# 1. A model, its loss, and the gradient of the loss in three ways

START = {"w": np.float32(1.0), "b": np.float32(0.0)}


def model(params, t_u):
    return params["w"] * t_u + params["b"]


def loss(params, batch):
    """The mean squared error, in degrees C squared."""
    return jnp.mean((model(params, batch["t_u"]) - batch["t_c"]) ** 2)


def gradient_by_hand(params, batch):
    """dL/dw and dL/db by the chain rule, as the book derives them."""
    dloss = 2 * (model(params, batch["t_u"]) - batch["t_c"]) / len(batch["t_c"])
    return {"w": jnp.sum(dloss * batch["t_u"]), "b": jnp.sum(dloss)}


def gradient_by_differences(params, batch):
    """(L(p + 0.1) - L(p - 0.1)) / 0.2 for each parameter p.

    In float64, because the difference of two nearly equal float32 numbers has few digits.
    """
    with jax.enable_x64(True):
        doubles = jax.tree.map(jnp.float64, params)
        return autograd.numerical_gradient(lambda p: loss(p, batch), doubles, eps=0.1)


def gradient_by_autograd(params, batch):
    return jax.grad(loss)(params, batch)


# 2. The training loop, first with everything written out


@jax.jit
def step_by_hand(params, batch, learning_rate):
    """One step of gradient descent; also the loss before it."""
    value, gradient = jax.value_and_grad(loss)(params, batch)
    w = params["w"] - learning_rate * gradient["w"]
    b = params["b"] - learning_rate * gradient["b"]
    return {"w": w, "b": b}, value


def train_by_hand(batch, learning_rate, epochs):
    """The book's loop: in each epoch a gradient and an update."""
    params, losses = START, []
    for _ in range(epochs):
        params, value = step_by_hand(params, batch, learning_rate)
        losses.append(value)
    return params, np.array(losses)


# 3. The same loop with an optimizer


def train_with_optax(batch, optimizer, epochs):
    """The optimizer turns a gradient into an update, and may remember something for later."""

    @jax.jit
    def step(params, memory):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        update, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, update), memory, value

    params, memory, losses = START, optimizer.init(START), []
    for _ in range(epochs):
        params, memory, value = step(params, memory)
        losses.append(value)
    return params, np.array(losses)


# 4. The same training by `train.run`, which takes a Flax module in place of a function


class Line(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.array(1.0))
        self.b = nnx.Param(jnp.array(0.0))

    def __call__(self, t_u):  # [n] -> [n]
        return self.w[...] * t_u + self.b[...]


def loss_fn(line, batch):
    """The loss, and a dict of other numbers to record, which is empty here."""
    return jnp.mean((line(batch["t_u"]) - batch["t_c"]) ** 2), {}


def train_with_run(batch, optimizer, epochs):
    learner, state = train.make_learner(Line(), loss_fn, optimizer, key=jax.random.key(0))
    return train.run(learner, state, batch, epochs=epochs, batch_size=11)


def parameters(result):
    return {"w": float(result.state.params["w"]), "b": float(result.state.params["b"])}


def compare_loops():
    """Train with each of the three loops, and print how far their results differ."""
    batch, epochs = readings(0.1), 5000
    by_hand, losses = train_by_hand(batch, 1e-2, epochs)
    with_optax, optax_losses = train_with_optax(batch, optax.sgd(1e-2), epochs)
    result = train_with_run(batch, optax.sgd(1e-2), epochs)
    print(f"w and b after {epochs} epochs, and the largest difference of a loss:")
    print(f"  by hand     {by_hand['w']:.6f} {by_hand['b']:.6f}")
    for name, params, others in (
        ("with optax ", with_optax, optax_losses),
        ("train.run  ", parameters(result), result.history["train/loss"]),
    ):
        difference = float(np.abs(losses - others).max())
        print(f"  {name} {params['w']:.6f} {params['b']:.6f}  {difference:g}")
    print()


# 5. Everything that the chapter trains, beside the book's figures


def show_start(table):
    batch = readings()
    table.row("loss at w=1, b=0", "1763.8846", float(loss(START, batch)))
    for name, gradient in (
        ("hand", gradient_by_hand),
        ("central difference", gradient_by_differences),
        ("jax.grad", gradient_by_autograd),
    ):
        found = gradient(START, batch)
        table.row(f"dL/dw by {name}", "4517.2969", float(found["w"]))
        table.row(f"dL/db by {name}", "82.6000", float(found["b"]))


def show_result(table, name, result, losses, w=None, b=None):
    """Rows for some losses, given as `{epoch: the book's loss}`, and for w and b."""
    for epoch, figure in losses.items():
        ours = float(result.history["train/loss"][epoch - 1])
        table.row(f"{name}, loss at epoch {epoch}", figure, ours)
    if w and b:
        table.row(f"{name}, w", w, parameters(result)["w"])
        table.row(f"{name}, b", b, parameters(result)["b"])


def compare_with_book():
    """Print the book's figures and ours; return the trainings that are worth drawing."""
    table = Table()
    show_start(table)

    name, diverged = "SGD 1e-2, raw", train_with_run(readings(), optax.sgd(1e-2), 100)
    losses = {1: "1763.884644", 2: "5802485.5", 3: "19408035840"}
    show_result(table, name, diverged, losses)
    table.row(f"{name}, infinite at epoch", "11", int(diverged.failure[0]))

    small = train_with_run(readings(), optax.sgd(1e-4), 100)
    show_result(table, "SGD 1e-4, raw", small, {99: "29.0236"}, "0.2327", "-0.0438")

    scaled = train_with_run(readings(0.1), optax.sgd(1e-2), 5000)
    losses = {1: "80.364342", 2: "37.574917", 3: "30.871077", 100: "22.148710"}
    losses |= {500: "7.860118", 1000: "3.828538", 5000: "2.927648"}
    show_result(table, "SGD 1e-2, 0.1 t_u", scaled, losses, "5.3671", "-17.3012")

    adam = train_with_run(readings(), optax.adam(1e-1), 2000)
    losses = {500: "7.612903", 1000: "3.086700", 1500: "2.928578", 2000: "2.927646"}
    show_result(table, "Adam 1e-1, raw", adam, losses, "0.5367", "-17.3021")
    table.close()
    return {"SGD 1e-4, t_u": small, "SGD 1e-2, 0.1 t_u": scaled, "Adam 1e-1, t_u": adam}


# 6. Validation: nine readings to learn from, two to check


def train_and_validate(config):
    """The same training, with the loss of the two other readings after every epoch."""
    key = jax.random.key(config.seed)
    train_set, val_set = data.split(readings(0.1), val=2, key=key)
    learner, state = train.make_learner(Line(), loss_fn, optax.sgd(1e-2), key=key)
    result = train.fit(learner, state, train_set, val_set, epochs=3000, batch_size=9)
    for epoch in (1, 500, 3000):
        train_loss = float(result.history["train/loss"][epoch - 1])
        val_loss = float(result.history["val/loss"][epoch - 1])
        print(f"epoch {epoch:4d}: training loss {train_loss:8.4f}, validation {val_loss:8.4f}")

    def validation(state):
        return train.evaluate(learner, state, train_set)

    def training(state):
        return train.train_epoch(learner, state, train_set, batch_size=9)

    for name, function in (("validation", validation), ("a training step", training)):
        cost = jax.jit(function).lower(state).compile().cost_analysis() or {}
        print(f"XLA's cost of {name}: {cost['flops']:.0f} flops")
    return result


def main(config: Config):
    run_dir = runs.start("ch05_thermometer", config, out=config.out)
    compare_loops()
    trained = compare_with_book()
    validated = train_and_validate(config)
    run_dir.history(validated.history)

    curves = {name: result.history["train/loss"] for name, result in trained.items()}
    for side in ("train", "val"):
        curves[f"split 9/2, {side}/loss"] = validated.history[f"{side}/loss"]
    line = parameters(trained["Adam 1e-1, t_u"])
    run_dir.figure(_drawing.thermometer_line(readings(), line), "fit.png")
    run_dir.figure(_drawing.losses_by_epoch(curves), "loss.png")
