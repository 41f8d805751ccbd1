"""Sequences: recurrent layers, forward and backward, beside torch's

float32, 128 features in and out, 64 steps, batches of 32; gradients of the input and of every
parameter. Torch is the faster of all its threads and one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from timing import interleaved, readable

from dlwp_jax import nn

STEPS, BATCH, SIZE = 64, 32, 128


def lstm() -> dict[str, str]:
    return recurrent("LSTM")


def gru() -> dict[str, str]:
    return recurrent("GRU")


def recurrent(kind: str) -> dict[str, str]:
    layer = getattr(nn, kind)(SIZE, SIZE, rngs=nnx.Rngs(0))
    shape = (STEPS, BATCH, SIZE)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs = getattr(torch.nn, kind)(SIZE, SIZE)
    return compare(f"{kind}, {STEPS} steps", step(layer, x), torch_step(theirs, x))


def step(layer: nnx.Module, x: np.ndarray) -> Callable[[], object]:
    """Output and every gradient, the output standing for its own cotangent."""
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    @jax.jit
    def both(params, x):
        y, pull = jax.vjp(lambda p, x: nnx.merge(graph, p, rest)(x)[0], params, x)
        return pull(y)

    x = jnp.asarray(x)
    return lambda: jax.block_until_ready(both(params, x))


def torch_step(layer: torch.nn.Module, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same in torch, by number of threads."""
    given = torch.tensor(x, requires_grad=True)

    def run(threads):
        torch.set_num_threads(threads)
        layer.zero_grad()
        y = layer(given)[0]
        y.backward(y.detach())

    every = sorted({1, torch.get_num_threads()})
    return {f"torch {threads}": lambda threads=threads: run(threads) for threads in every}


def compare(
    what: str, ours: Callable[[], object], theirs: dict[str, Callable[[], object]]
) -> dict[str, str]:
    threads = torch.get_num_threads()
    times = interleaved({"ours": ours, **theirs})
    torch.set_num_threads(threads)
    best = min(seconds for name, seconds in times.items() if name != "ours")
    return {
        "": what,
        "ours": readable(times["ours"]),
        "torch": readable(best),
        "ours / torch": f"{times['ours'] / best:.2f}",
    }


def measure() -> list[dict[str, str]]:
    return [lstm(), gru()]
