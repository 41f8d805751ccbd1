"""Subjects: `dlwp_jax.train`. The model is one number, so that plain Python can train it
too.
"""

import functools
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from hypothesis import strategies as st

from dlwp_jax import train
from tests.models import Scalar
from tests.properties.data import integer, leaves, need_key, number, numbers
from tests.properties.hostile import recipes
from tests.properties.subject import same, subject

RATE = 0.1


def squared(model, batch):
    """(w x - y)², and a metric."""
    error = model(batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


@functools.cache
def pair():
    return train.make_learner(Scalar(0.5), squared, optax.sgd(RATE), key=jax.random.key(0))


# Of six rows each, since every number of rows compiles programs of its own.
SETS = st.sampled_from(
    recipes(
        "{'x': arange(6.0) / 6, 'y': ones(6)}", "{'x': jnp.arange(6.0) / 3, 'y': jnp.ones(6)}"
    )
)
WRONG = st.sampled_from(
    recipes(
        *(
            "{'x': ones(6), 'y': ones(5)}",
            "{'x': ones(6)}",
            "{'x': zeros(0), 'y': zeros(0)}",
            "ones((6, 2))",
        ),
        *(
            "{'x': array([nan] * 6), 'y': ones(6)}",
            "{'x': array([inf] * 6), 'y': ones(6)}",
            "{'x': 1.0, 'y': ones(6)}",
        ),
        *(
            "{'x': ones(6, '>f4'), 'y': ones(6)}",
            "{'x': torch.ones(6), 'y': Frame(ones(6))}",
            "{'x': list('abcdef')}",
        ),
        *(
            "{'x': array([2**40] * 6), 'y': ones(6)}",
            "{'x': jax.random.split(jax.random.key(0), 6), 'y': ones(6)}",
        ),
        *(
            "{'x': ma.array([1.0] * 6, mask=[1] * 6), 'y': ones(6)}",
            "{'x': ones(6, 'datetime64[D]'), 'y': ones(6)}",
        ),
    )
)
SIZES = st.sampled_from([4, 6, 10**9])
WRONG_SIZES = st.sampled_from([0, -1, 2.0, True, "4", 10**30])


def xy(data):
    """Two columns of real finite numbers, as many rows in each."""
    x, y = (numbers(data[name]).astype(np.float64) for name in ("x", "y"))
    if (
        x.ndim != 1
        or x.shape != y.shape
        or not x.size
        or set(data) != {"x", "y"}
        or np.isnan([x, y]).any()
    ):
        raise ValueError("no data")
    return x, y


def size(value, n):
    return n if value is None else min(integer(value, 1, math.inf), n)


def losses(w, x, y):
    with np.errstate(all="ignore"):
        return {"loss": np.mean((w * x - y) ** 2), "mae": np.mean(np.abs(w * x - y))}


def mean(w, data, batch_size=None):
    x, y = xy(data)
    size(batch_size, len(x))
    return losses(w, x, y)


def close(result, expected):
    expected = {name: np.float64(value) for name, value in expected.items()}
    same(
        {name: np.asarray(value) for name, value in sorted(result.items())},
        dict(sorted(expected.items())),
        rtol=1e-4,
    )


WORDS = ("data", "train", "val", "x", "loss_fn", "batch", "example")
subject(
    "train.evaluate",
    lambda data, batch_size: train.evaluate(*pair(), data, batch_size=batch_size),
    takes={"data": SETS, "batch_size": st.none() | SIZES},
    reference=lambda data, batch_size: mean(0.5, data, batch_size),
    agrees=close,
    near={"data": WRONG, "batch_size": WRONG_SIZES},
    words=WORDS,
    examples=(30, 40),
)


def epoch_of(data, batch_size):
    """An epoch by hand, in batches of the whole (their order does not matter) or by the order
    that the state tells.
    """
    return trained(data, None, 1, batch_size)


def trained(data, val, epochs, batch_size, stop=None):
    """A plain loop: batches in the order of the keys, as training documents them."""
    x, y = xy(data)
    if val is not None:
        xy(val)
    epochs, batch = integer(epochs, 1, 100), size(batch_size, len(x))
    w, history, best, waited, reference = 0.5, {}, math.inf, 0, math.inf
    for epoch in range(epochs):
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), epoch))[0]
        order = (
            np.arange(len(x))
            if batch == len(x)
            else np.asarray(jax.random.permutation(key, len(x)))
        )
        logs = []
        for i in range(0, len(x), batch):
            rows = order[i : i + batch]
            logs.append(losses(w, x[rows], y[rows]))
            w -= RATE * np.mean(2 * (w * x[rows] - y[rows]) * x[rows])
        for name in ("loss", "mae"):
            history.setdefault(f"train/{name}", []).append(np.mean([log[name] for log in logs]))
            if val is not None:
                history.setdefault(f"val/{name}", []).append(losses(w, *xy(val))[name])
        value = history["train/loss" if val is None else "val/loss"][-1]
        best = min(best, value)
        waited, reference = (
            (0, value)
            if value < reference - (stop.min_delta if stop else 0)
            else (waited + 1, reference)
        )
        if stop is not None and waited >= stop.patience:
            break
    if not np.isfinite(w):
        raise ValueError("not finite")
    return w, {name: np.array(values) for name, values in history.items()}, best


def is_trained(result, expected):
    w, history, _ = expected
    np.testing.assert_allclose(np.asarray(result.state.params["w"]), w, rtol=1e-4)
    assert sorted(result.history) == sorted(history)
    for name, values in history.items():
        mine = np.asarray(result.history[name])
        np.testing.assert_allclose(mine[: len(values)], values, rtol=1e-3, atol=1e-6)
        assert np.isnan(mine[len(values) :]).all()


def is_epoch(result, expected):
    w, history, _ = expected
    np.testing.assert_allclose(np.asarray(result[0].params["w"]), w, rtol=1e-4)
    for name in ("loss", "mae"):
        np.testing.assert_allclose(
            np.mean(result[1][name]), history[f"train/{name}"][0], rtol=1e-4
        )


subject(
    "train.train_epoch",
    lambda data, batch_size: train.train_epoch(*pair(), data, batch_size=batch_size),
    takes={"data": SETS, "batch_size": SIZES},
    reference=epoch_of,
    agrees=is_epoch,
    near={"data": WRONG, "batch_size": WRONG_SIZES},
    words=WORDS,
    examples=(30, 40),
)


def stops(stop):
    if stop is not None and not isinstance(stop, train.EarlyStopping):
        raise TypeError("no early stopping")
    return stop


def called(
    train_data, val, epochs, batch_size, stop, val_batch_size=None, skip_nonfinite=False
):
    if not isinstance(skip_nonfinite, bool | np.bool_):
        raise TypeError("no bool")
    if val_batch_size is not None:
        integer(val_batch_size, 1, math.inf)
    return trained(train_data, val, epochs, batch_size, stops(stop))


for _name in ("run", "fit"):
    more = {"progress": False} if _name == "fit" else {}

    def _drive(train_data, val, drive=_name, more=more, **asked):
        return getattr(train, drive)(*pair(), train_data, val, **asked, **more)

    subject(
        f"train.{_name}",
        _drive,
        takes={
            "train_data": SETS,
            "val": st.sampled_from(
                [None, *recipes("{'x': jnp.arange(4.0), 'y': jnp.ones(4)}")]
            ),
            "epochs": st.just(2),
            "batch_size": SIZES,
            "stop": st.just(None),
            "val_batch_size": st.none(),
            "skip_nonfinite": st.just(False),
        },
        reference=called,
        agrees=is_trained,
        near={
            "train_data": WRONG,
            "val": WRONG,
            "epochs": WRONG_SIZES,
            "batch_size": WRONG_SIZES,
        },
        words=(*WORDS, "stop", "skip_nonfinite", "epochs"),
        examples=(30, 40),
    )


def predicted(inputs, batch_size):
    inputs = numbers(inputs, "biuf")
    if batch_size is not None:
        integer(batch_size, 1, math.inf)
        if not inputs.ndim or not len(inputs):
            raise ValueError("no rows")
    return 0.5 * inputs.astype(np.float64)


def outputs(result, expected):
    narrow = np.abs(expected) < 1e30
    same(np.asarray(result, np.float64)[narrow], expected[narrow], rtol=1e-2)


subject(
    "train.predict",
    lambda inputs, batch_size: train.predict(*pair(), inputs, batch_size=batch_size),
    takes={
        "inputs": st.sampled_from(recipes("jnp.arange(6.0)", "ones((6, 2))")),
        "batch_size": st.sampled_from([None, 4, 6]),
    },
    reference=predicted,
    agrees=outputs,
    near={
        "batch_size": WRONG_SIZES,
        "inputs": st.sampled_from(recipes("ones(3, '>f4')", "zeros((0, 2))")),
    },
    words=WORDS,
    examples=(30, 40),
)


def health(data):
    """Nothing is dead in one number, which is no layer; the loss is not even asked."""
    if any(np.isnan(numbers(leaf)).any() for leaf in leaves(data)):
        raise ValueError("NaN")
    return {"dead": 0.0, "saturated": 0.0}


subject(
    "train.unit_health",
    lambda data: train.unit_health(*pair(), data),
    takes={"data": SETS},
    reference=health,
    agrees=close,
    near={"data": WRONG},
    words=WORDS,
    examples=(20, 40),
)


def stopping(patience, min_delta, monitor, mode):
    if not isinstance(monitor, str) or mode not in ("min", "max") or not isinstance(mode, str):
        raise TypeError("no name")
    return integer(patience, 1), number(min_delta, 0), monitor, mode


subject(
    "train.EarlyStopping",
    lambda patience, min_delta, monitor, mode: tuple(
        vars(train.EarlyStopping(patience, min_delta, monitor, mode)).values()
    ),
    takes={
        "patience": st.integers(1, 5),
        "min_delta": st.floats(0, 2),
        "monitor": st.just("val/loss"),
        "mode": st.sampled_from(["min", "max"]),
    },
    reference=stopping,
    near={"patience": WRONG_SIZES},
)
subject(
    "train.every",
    lambda epochs, callback: vars(train.every(epochs, callback)),
    takes={"epochs": st.integers(1, 9), "callback": st.just(print)},
    reference=lambda epochs, callback: {
        "epochs": integer(epochs, 1),
        "callback": callback if callable(callback) else 1 / 0,
    },
    near={"epochs": WRONG_SIZES},
)


def learner(model, loss_fn, tx, key, record):
    need_key(key)
    names = {"norms", "dead_units", "eval_loss"}
    if (
        not isinstance(model, nnx.Module)
        or not callable(loss_fn)
        or not isinstance(tx, optax.GradientTransformation)
    ):
        raise TypeError("no learner")
    if not isinstance(record, tuple | list | set | dict) or not set(record) <= names:
        raise ValueError("no record")
    return 0.5


subject(
    "train.make_learner",
    lambda model, loss_fn, tx, key, record: train.make_learner(
        model, loss_fn, tx, key=key, record=record
    ),
    takes={
        "model": st.just(Scalar(0.5)),
        "loss_fn": st.just(squared),
        "tx": st.just(optax.sgd(RATE)),
        "key": st.sampled_from(recipes("jax.random.key(0)", "jax.random.PRNGKey(1)")),
        "record": st.sampled_from([(), ("norms",), ["eval_loss", "dead_units"]]),
    },
    reference=learner,
    agrees=lambda made, w: same(np.asarray(made[1].params["w"]), np.float32(w)),
    near={"record": st.sampled_from(["norms", ("nonsense",), [["norms"]]])},
    examples=(20, 40),
)


def checkpointing(directory, every_epochs, every_seconds, keep):
    if (
        not isinstance(directory, str | pathlib.Path)
        or not str(directory)
        or "\0" in str(directory)
    ):
        raise TypeError("no path")
    every = None if every_epochs is None else integer(every_epochs, 1)
    seconds = None if every_seconds is None else number(every_seconds, 0)
    return [str(directory), every, seconds, integer(keep, 1)]


subject(
    "train.Checkpoint",
    lambda directory, every_epochs, every_seconds, keep: [
        str(found.directory)
        if (found := train.Checkpoint(directory, every_epochs, every_seconds, keep))
        else "",
        found.every_epochs,
        found.every_seconds,
        found.keep,
    ],
    takes={
        "directory": st.sampled_from(["runs", pathlib.Path("runs")]),
        "every_epochs": st.sampled_from([None, 3]),
        "every_seconds": st.sampled_from([None, 0, 2.5]),
        "keep": st.integers(1, 3),
    },
    reference=checkpointing,
    near={"every_epochs": WRONG_SIZES, "keep": WRONG_SIZES},
    words=("checkpoint",),
)


def restored(directory, state):
    raise ValueError("there is no checkpoint")


subject(
    "train.restore",
    lambda directory, state: train.restore(
        directory, pair()[1] if isinstance(state, str) and state == "good" else state
    ),
    takes={
        "directory": st.just(tempfile.gettempdir() + "/no such checkpoint"),
        "state": st.just("good"),
    },
    where=lambda arguments: True,
    reference=restored,
    words=("checkpoint",),
    right=False,
)
