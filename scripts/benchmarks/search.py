"""Many trainings at once: a sweep of 64 small networks, and a search for the right width

The sweep: 64 networks 1-16-1 (tanh, squared error, gradient descent), each with its own initial
weights and learning rate, 1000 full-batch epochs on 64 examples. Torch trains them one by one
(eight are timed, times eight), and all at once by `torch.func`: `vmap(grad_and_value)` over
stacked parameters. The capacity search: ten widths 1 to 64, three seeds each, 1000 Adam epochs,
all inside the largest in one program, against a program compiled for each width. There
everything counts, since a search is run once: tracing, compiling (without a cache on disk),
training, verdicts.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from timing import interleaved, readable

from dlwp_jax import nn, search, train

MEMBERS, WIDTH, EPOCHS, SOME = 64, 16, 1000, 8
WIDTHS = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64]
RATES = np.geomspace(1e-3, 1e-1, MEMBERS).astype(np.float32)


def examples(n, seed):
    x = jax.random.uniform(jax.random.key(seed), (n, 1), minval=-1, maxval=1)
    return {
        "x": x,
        "y": jnp.sin(4 * x) + 0.3 * jax.random.normal(jax.random.key(seed + 1), x.shape),
    }


def loss_fn(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}


def network(width, key):
    rngs = nnx.Rngs(key)
    return nn.Sequential(
        nn.Linear(1, width, rngs=rngs), jnp.tanh, nn.Linear(width, 1, rngs=rngs)
    )


def our_sweep(data, over):
    def make(lr, key):
        return train.make_learner(network(WIDTH, key), loss_fn, optax.sgd(lr), key=key)

    return search.sweep(make, data, over=over, epochs=EPOCHS, batch_size=64)


def our_program(data, over):
    """The compiled program of that sweep, without tracing and compiling: what is compared with
    torch's loops.
    """
    keys = jax.vmap(jax.random.key)(jnp.array([member["key"] for member in over]))

    def member(lr, key):
        learner, state = train.make_learner(
            network(WIDTH, key), loss_fn, optax.sgd(lr), key=key
        )
        return train.run(learner, state, data, epochs=EPOCHS, batch_size=64)

    compiled = jax.jit(jax.vmap(member)).lower(jnp.asarray(RATES), keys).compile()
    return lambda: jax.block_until_ready(compiled(jnp.asarray(RATES), keys))


def torch_network():
    return torch.nn.Sequential(
        torch.nn.Linear(1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 1)
    )


def torch_one_by_one(x, y):
    """The loop a person writes, for SOME of the members."""
    for rate in RATES[:: MEMBERS // SOME]:
        model = torch_network()
        optimizer, losses = (
            torch.optim.SGD(model.parameters(), float(rate)),
            torch.empty(EPOCHS),
        )
        for epoch in range(EPOCHS):
            optimizer.zero_grad()
            loss = torch.mean((model(x) - y) ** 2)
            loss.backward()
            optimizer.step()
            losses[epoch] = loss.detach()


def torch_at_once(x, y):
    """torch.func: the parameters of all members stacked, one vmapped gradient a step."""
    params, buffers = torch.func.stack_module_state([torch_network() for _ in range(MEMBERS)])
    params = {name: value.detach() for name, value in params.items()}
    skeleton, rates = torch_network().to("meta"), torch.from_numpy(RATES)

    def loss(params, buffers):
        return torch.mean(
            (torch.func.functional_call(skeleton, (params, buffers), (x,)) - y) ** 2
        )

    step, losses = (
        torch.func.vmap(torch.func.grad_and_value(loss)),
        torch.empty(EPOCHS, MEMBERS),
    )
    for epoch in range(EPOCHS):
        grads, losses[epoch] = step(params, buffers)
        for name, value in params.items():
            value.sub_(rates.reshape(-1, *[1] * (value.ndim - 1)) * grads[name])


def capacity(how):
    """Seconds of a whole search, and what it recommends."""

    def make(width, key):
        return train.make_learner(network(width, key), loss_fn, optax.adam(2e-2), key=key)

    jax.clear_caches()
    begun = time.perf_counter()
    report = search.search_capacity(
        make,
        examples(30, 0),
        examples(200, 2),
        sizes=WIDTHS,
        seeds=3,
        epochs=EPOCHS,
        batch_size=30,
        how=how,
    )
    return time.perf_counter() - begun, report


def measure() -> list[dict[str, str]]:
    jax.config.update("jax_enable_compilation_cache", False)
    torch.set_num_threads(1)
    data = examples(64, 0)
    x, y = (torch.from_numpy(np.array(data[name])) for name in ("x", "y"))
    over = [{"lr": float(rate), "key": i} for i, rate in enumerate(RATES)]
    whole = our_sweep(data, over)
    forms = {
        "sweep of 64: ours, the compiled program": our_program(data, over),
        "sweep of 64: torch.func.vmap": lambda: torch_at_once(x, y),
        f"sweep of 64: torch one by one ({SOME} timed)": lambda: torch_one_by_one(x, y),
    }
    times = interleaved(forms, rounds=3)
    times[f"sweep of 64: torch one by one ({SOME} timed)"] *= MEMBERS / SOME
    ours = times["sweep of 64: ours, the compiled program"]
    rows = [_row(name, seconds, seconds / ours) for name, seconds in times.items()]
    rows.insert(
        1,
        _row(
            "sweep of 64: ours, `search.sweep` called once", whole.seconds, whole.seconds / ours
        ),
    )
    (at_once, nested), (each, single) = capacity("nested"), capacity("each")
    tried = {
        "nested": f"{len(nested.sizes)} sizes",
        "each": f"{len(single.sizes)} sizes, stopped when it knew",
    }
    rows.append(
        _row(
            f"capacity: one program ({tried['nested']}; takes {nested.recommended})",
            at_once,
            1.0,
        )
    )
    rows.append(
        _row(
            f"capacity: one a width ({tried['each']}; takes {single.recommended})",
            each,
            each / at_once,
        )
    )
    return rows


def _row(name: str, seconds: float, ratio: float) -> dict[str, str]:
    return {"work": name, "time": readable(seconds), "ratio": f"{ratio:.3g}"}
