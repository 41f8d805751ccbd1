"""Chapter 6: activation functions, where they saturate, and what four neurons can draw.

Run:    python -m experiments ch06_activations
Writes: runs/ch06_activations/{config.json,activations.png,composition.png}
Expect: tanh saturates beyond ±3.35, sigmoid beyond ±5.29, softplus and relu on the left only,
        leaky relu nowhere; 6 s of processor time
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dlwp_jax import data, nn, runs
from experiments import _drawing

ACTIVATIONS = {
    "tanh": nn.tanh,
    "hardtanh": nn.hardtanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
}
# The book's four neurons (figure 6.6): tanh(w x + b).
NEURONS = {"A": (-2.0, -1.25), "B": (1.0, 0.75), "C": (4.0, 1.0), "D": (-3.0, -1.5)}


@dataclass(frozen=True)
class Config:
    flat: float = 0.005  # a function is saturated where its derivative is smaller than this
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if not 0 < self.flat < 1:  # the steepest slope of any of them is 1
            raise ValueError(f"--flat must be between 0 and 1; got {self.flat:g}.")


def derivative(function):
    return jax.vmap(jax.grad(function))


def saturated(function, x, flat):
    """The stretches of x `[n]` on which |f'(x)| < flat, as pairs (first, last)."""
    below = np.abs(np.asarray(derivative(function)(x))) < flat
    # In turn the index at which a stretch begins, and the one behind its end.
    edges = np.flatnonzero(np.diff(below, prepend=False, append=False))
    return [(float(x[begin]), float(x[end - 1])) for begin, end in edges.reshape(-1, 2)]


def show_saturation(x, flat):
    print(f"stretches from {x[0]:g} to {x[-1]:g} on which the derivative is below {flat:g}:")
    print("an error there teaches the neuron nothing")
    for name, function in ACTIVATIONS.items():
        stretches = saturated(function, x, flat)
        words = " and ".join(f"{first:.2f} to {last:.2f}" for first, last in stretches)
        largest = float(jnp.abs(derivative(function)(x)).max())
        print(f"  {name:12s} {words or 'nowhere':36s} steepest {largest:.2f}")


def measured(x, flat):
    """Values, slopes and saturated stretches of each function."""
    found = {}
    for name, function in ACTIVATIONS.items():
        found[name] = function(x), derivative(function)(x), saturated(function, x, flat)
    return found


def four_neurons():
    """A network 1-4-1: the hidden neurons are the book's four, the output is their sum."""
    hidden = nn.Linear(1, 4, rngs=nnx.Rngs(0))
    output = nn.Linear(4, 1, bias=False, rngs=nnx.Rngs(0))
    weights, biases = jnp.array(list(NEURONS.values())).T
    hidden.kernel, hidden.bias = nnx.Param(weights[None]), nnx.Param(biases)  # [1 4], [4]
    output.kernel = nnx.Param(jnp.ones((4, 1)))
    return nn.Sequential(hidden, nn.Tanh(), output)


def compose(x):
    """The book's shapes, each from those before it."""
    a, b, c, d = (jnp.tanh(w * x + bias) for w, bias in NEURONS.values())
    curves = {}
    for (name, (w, bias)), curve in zip(NEURONS.items(), (a, b, c, d), strict=True):
        curves[f"{name} = tanh({w:g}x {bias:+g})"] = curve
    curves |= {"A + B": a + b, "C + D": c + d, "A + B + C + D": a + b + c + d}
    w, bias = NEURONS["C"]
    return curves | {"C applied to A + B": jnp.tanh(w * (a + b) + bias)}


def show_shapes():
    """Print the shapes of a weight as a number and as a matrix, and shapes that do not fit."""
    t_u, t_c = data.thermometer().values()
    column, rngs = t_u[:, None], nnx.Rngs(0)
    w, b = jnp.array(1.0), jnp.array(0.0)
    print("\nw as a number and as a matrix")
    shapes = f"w {w.shape} * x {t_u.shape} + b {b.shape} -> {(w * t_u + b).shape}"
    print(f"  {shapes}: one neuron, one number for each example")
    layer = nn.Linear(1, 8, rngs=rngs)
    w, b = layer.kernel[...], jnp.zeros(8)
    shapes = f"x {column.shape} @ w {w.shape} + b {b.shape} -> {(column @ w + b).shape}"
    print(f"  {shapes}: eight neurons; torch has w.T")
    wrong = {
        f"x {t_u.shape} @ w {w.shape}": lambda: t_u @ w,
        f"x {column.shape} @ w {w.T.shape}, torch's way round": lambda: column @ w.T,
        f"x @ w + b {(3,)}": lambda: column @ w + jnp.zeros(3),
        f"nn.Linear(1, 8) of x {t_u.shape}": lambda: layer(t_u),
    }
    for what, attempt in wrong.items():
        try:
            print(f"  {what} -> {attempt().shape}")
        except (TypeError, ValueError, RuntimeError) as error:
            print(f"  {what} -> {type(error).__name__}: {str(error).splitlines()[0]}")
    error = column - t_c
    shapes = f"t_p {column.shape} - t_c {t_c.shape} -> {error.shape}"
    print(f"  {shapes}: no error is raised, and the loss is of the wrong pairs")


def main(config: Config):
    run_dir = runs.start("ch06_activations", config, out=config.out)
    wide, narrow = jnp.arange(-1000, 1001) / 100, jnp.arange(-300, 301) / 100
    show_saturation(wide, config.flat)
    curves, net = compose(narrow), four_neurons()
    off = float(jnp.abs(net(narrow[:, None])[:, 0] - curves["A + B + C + D"]).max())
    print(f"\nA + B + C + D is a network 1-4-1: they differ by {off:.1e} at most")
    show_shapes()
    run_dir.figure(_drawing.activations(wide, measured(wide, config.flat)), "activations.png")
    run_dir.figure(_drawing.compositions(narrow, curves), "composition.png")
