"""Subjects: `dlwp_jax.search`, with `train.run` by itself as the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

from dlwp_jax import search, train
from tests.models import Scalar
from tests.properties.data import integer, number, numbers
from tests.properties.hostile import recipes
from tests.properties.subject import same, subject
from tests.properties.train import SETS, WRONG, WRONG_SIZES, pair, squared, trained, xy


def make(lr):
    return train.make_learner(Scalar(0.5), squared, optax.sgd(lr), key=jax.random.key(0))


@functools.partial(jax.jit, static_argnames="epochs")
def losses_of(lr, arrays, epochs):
    """Of one member by itself; in one program for all rates."""
    return train.run(*make(lr), arrays, epochs=epochs, batch_size=10).history["train/loss"]


def each_alone(data, over, epochs, how, chunk):
    """The members one by one."""
    xy(data)
    rates = numbers(over["lr"])
    if (
        set(over) != {"lr"}
        or rates.ndim != 1
        or not rates.size
        or how not in (None, "vmap", "map")
    ):
        raise ValueError("no sweep")
    if chunk is not None:
        integer(chunk, 1)
    integer(epochs, 1, 100)
    arrays = {name: jnp.asarray(numbers(column), jnp.float32) for name, column in data.items()}
    return np.stack(
        [np.asarray(losses_of(rate, arrays, int(epochs))) for rate in rates.tolist()]
    )


subject(
    "search.sweep",
    lambda data, over, epochs, how, chunk: search.sweep(
        make, data, over=over, epochs=epochs, batch_size=10, how=how, chunk=chunk
    ).history["train/loss"],
    takes={
        "data": SETS,
        "over": st.sampled_from([{"lr": [0.1, 0.2]}, {"lr": [0.05]}]),
        "epochs": st.just(2),
        "how": st.sampled_from([None, "map"]),
        "chunk": st.sampled_from([None, 1]),
    },
    reference=each_alone,
    near={
        "data": WRONG,
        "epochs": WRONG_SIZES,
        "chunk": WRONG_SIZES,
        "over": st.sampled_from(
            [
                {},
                [],
                {"lr": []},
                {"lr": ["x"]},
                {"lr": [[1.0]]},
                {"key": [0.5]},
                [{"lr": 1.0}, {"x": 1.0}],
            ]
        ),
    },
    words=("train", "x", "lr", "sweep", "batch"),
    fixed=(),
    examples=(12, 40),
)


def memory(data, examples, steps, share):
    x, y = xy(data)
    few = {"x": x[: integer(examples, 1)], "y": y[: integer(examples, 1)]}
    w, _, _ = trained(few, None, integer(steps, 1, 100), 10**6)
    losses = [np.mean((value * few["x"] - few["y"]) ** 2) for value in (0.5, w)]
    return [losses[1] < number(share, above=0) * losses[0], *losses]


subject(
    "search.memorises",
    lambda data, examples, steps, share: [
        (
            found := search.memorises(
                *pair(), data, examples=examples, steps=steps, share=share
            )
        ).learned,
        found.before,
        found.after,
    ],
    takes={
        "data": SETS,
        "examples": st.sampled_from([2, 8]),
        "steps": st.just(3),
        "share": st.sampled_from([0.05, 0.9]),
    },
    reference=memory,
    agrees=lambda result, expected: same(result, expected, rtol=1e-3),
    near={
        "data": WRONG,
        "examples": WRONG_SIZES,
        "steps": WRONG_SIZES,
        "share": st.sampled_from([0.0, -1.0]),
    },
    words=("x", "loss"),
    examples=(12, 60),
)


def no_rate(data, batch_size, low, high, steps):
    """Whether the arguments are a search at all; what it finds is left to
    tests/test_search_probes.py.
    """
    xy(data)
    integer(batch_size, 1, np.inf)
    if not 0 < number(low) < number(high) or integer(steps, 10) > 1000:
        raise ValueError("no range")


subject(
    "search.find_learning_rate",
    lambda data, batch_size, low, high, steps: search.find_learning_rate(
        make, data, batch_size=batch_size, low=low, high=high, steps=steps
    ),
    takes={
        "data": st.sampled_from(recipes("{'x': arange(6.0) / 6, 'y': ones(6)}")),
        "batch_size": st.just(6),
        "low": st.just(1e-4),
        "high": st.just(100.0),
        "steps": st.just(30),
    },
    reference=no_rate,
    agrees=lambda found, _: same(bool(1e-5 < found.suggestion < (found.limit or np.inf)), True),
    near={
        "batch_size": WRONG_SIZES,
        "steps": st.sampled_from([0, 9, 2.5]),
        "low": st.sampled_from([0.0, -1.0, 1e3]),
    },
    fixed=("data",),
    words=("rate", "loss"),
    examples=(12, 60),
)
