"""Real trainings whose truth is known, many in one program: polynomials, small networks,
digits.

Each run is trained three times as long as its history shows, and its test loss and eval-mode
training loss are recorded beside it: they are what truth.py judges by, and what `diagnose`
never sees.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import train

LONGER = 3  # the training goes on for so many times the epochs of its history
MAX_DEGREE = 12
TEST = 800  # rows


@dataclass(frozen=True)
class Group:
    """Trainings of one shape: one program, vmapped over its members.

    Attributes:
      family: poly, net or digits.
      n: training rows.
      size: hidden units, `None` for polynomials, whose degree differs from member to member.
      dropout: of the hidden units.
      val: validation rows.
      epochs, batch_size: of the history that is judged.
      members: how many.
    """

    family: str
    n: int
    size: int | None
    epochs: int
    batch_size: int
    members: int
    dropout: float = 0.0
    val: int = 300

    @property
    def name(self) -> str:
        what = {
            "poly": "degree 1 to 12",
            "net": f"{self.size} units",
            "digits": f"{self.size} units",
        }[self.family]
        what += f", dropout {self.dropout}" * (self.dropout > 0)
        return f"{self.family}: {what}, {self.n} examples, {self.epochs} epochs"


GROUPS = (
    *(Group("poly", n, None, epochs, n, 80) for n in (15, 40, 200) for epochs in (60, 300)),
    *(Group("net", n, size, 100, 20, 48) for n in (40, 300) for size in (1, 4, 32)),
    *(Group("digits", n, size, 60, 32, 40) for n in (60, 600) for size in (1, 3, 32)),
    *(Group("digits", n, 32, 60, 32, 24, dropout=0.5) for n in (60, 600)),
)


def draw(group: Group, seed: int) -> dict[str, np.ndarray]:
    """What differs between the members of a group, `{name: [members]}`."""
    rng = np.random.default_rng(seed)
    n = group.members
    kind = rng.choice(["good", "low", "high", "shuffled"], n, p=[0.7, 0.1, 0.1, 0.1])
    low, good, high = {
        "poly": (1e-5, (0.01, 0.3), (1.5, 5)),
        "net": (1e-6, (1e-3, 3e-2), (3, 30)),
    }.get(group.family, (1e-7, (1e-3, 1e-2), (1, 10)))

    def between(ends):
        return np.exp(rng.uniform(*np.log(ends), n))

    rates = {"low": np.full(n, low), "high": between(high), "good": between(good)}
    return {
        "seed": rng.integers(0, 2**31, n).astype(np.uint32),
        "lr": np.select(
            [kind == "low", kind == "high"], [rates["low"], rates["high"]], rates["good"]
        ),
        "informative": (kind != "shuffled").astype(np.float32),
        "noise": rng.choice([0.0, 0.3] if group.family == "digits" else [0.1, 0.3, 1.0], n),
        "degree": rng.integers(1, MAX_DEGREE + 1, n),
        "target_degree": rng.integers(1, 6, n),
    }


# The data: {"x": [rows features], "y": [rows] or labels}, train, val and test rows one after
# the other.


def poly_data(member, key, rows):
    """Legendre features of x in (-1, 1), of which the model sees those up to its degree."""
    x_key, target_key, noise_key = jax.random.split(key, 3)
    x = jax.random.uniform(x_key, (rows,), minval=-1.0, maxval=1.0)
    degrees = np.arange(MAX_DEGREE + 1)
    recurrence = [jnp.ones_like(x), x]
    for d in degrees[1:-1]:
        recurrence.append(((2 * d + 1) * x * recurrence[-1] - d * recurrence[-2]) / (d + 1))
    features = jnp.stack(recurrence, axis=1) * np.sqrt(2 * degrees + 1)  # each of mean square 1
    weights = (
        jax.random.normal(target_key, (MAX_DEGREE + 1,))
        * (degrees <= member["target_degree"])
        * (degrees > 0)
    )
    target = features @ (weights / jnp.linalg.norm(weights))  # variance 1
    y = member["informative"] * target + member["noise"] * jax.random.normal(noise_key, (rows,))
    return {"x": features * (degrees <= member["degree"]), "y": y}


def net_data(member, key, rows):
    """Friedman's function of five inputs, to variance 1."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (rows, 5))
    target = (
        10 * jnp.sin(jnp.pi * x[:, 0] * x[:, 1])
        + 20 * (x[:, 2] - 0.5) ** 2
        + 10 * x[:, 3]
        + 5 * x[:, 4]
    )
    target = (target - 14.4) / 4.9
    y = member["informative"] * target + member["noise"] * jax.random.normal(noise_key, (rows,))
    return {"x": 2 * x - 1, "y": y}


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: 1797 pictures of 8 x 8, and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.float32(pixels / 16), np.int32(labels)


def digits_data(member, key, rows):
    """A random subset; a share `noise` of the labels is drawn anew, all of them where they
    shall not inform.
    """
    pixels, labels = digits()
    subset_key, which_key, label_key = jax.random.split(key, 3)
    chosen = jax.random.permutation(subset_key, len(labels))[:rows]
    share = jnp.where(member["informative"] > 0, member["noise"], 1.0)
    drawn = jax.random.bernoulli(which_key, share, (rows,))
    y = jnp.where(
        drawn, jax.random.randint(label_key, (rows,), 0, 10), jnp.asarray(labels)[chosen]
    )
    return {"x": jnp.asarray(pixels)[chosen], "y": y}


DATA = {"poly": poly_data, "net": net_data, "digits": digits_data}


# The models and their losses.


class Net(nnx.Module):
    def __init__(self, group: Group, *, rngs: nnx.Rngs):
        inputs, outputs = {"poly": (MAX_DEGREE + 1, 1), "net": (5, 1), "digits": (64, 10)}[
            group.family
        ]
        self.hidden = None if group.size is None else nnx.Linear(inputs, group.size, rngs=rngs)
        self.dropout = nnx.Dropout(group.dropout, rngs=rngs) if group.dropout else None
        zeros = {"kernel_init": nnx.initializers.zeros} if group.size is None else {}
        self.output = nnx.Linear(
            group.size or inputs, outputs, use_bias=group.size is not None, rngs=rngs, **zeros
        )

    def __call__(self, x):  # [n inputs] -> [n] or [n 10]
        if self.hidden is not None:
            x = jnp.tanh(self.hidden(x))
        if self.dropout is not None:
            x = self.dropout(x)
        y = self.output(x)
        return y[:, 0] if y.shape[1] == 1 else y


def each_loss(output, y):
    """The loss of each row, `[n]`."""
    if output.ndim == 1:
        return (output - y) ** 2
    return optax.softmax_cross_entropy_with_integer_labels(output, y)


def loss_fn(model, batch):
    """The loss of the rows in role 0 (training, or validation); as metrics, of the rows in
    roles 1 and 2.
    """
    losses = each_loss(model(batch["x"]), batch["y"])

    def mean(role):
        mine = batch["role"] == role
        return jnp.sum(jnp.where(mine, losses, 0.0)) / jnp.maximum(mine.sum(), 1)

    return mean(0), {"test": mean(1), "clean": mean(2)}


def trivial(train_y, y):
    """The loss on `y` of the best constant prediction for `train_y`."""
    if jnp.issubdtype(y.dtype, jnp.integer):
        share = (jnp.bincount(train_y, length=10) + 1) / (len(train_y) + 10)
        return -jnp.mean(jnp.log(share)[y])
    return jnp.mean((y - train_y.mean()) ** 2)


def train_one(group: Group, member: dict[str, Any]) -> dict[str, jax.Array]:
    """The history of one member over all its epochs, and the trivial losses."""
    data_key, model_key = jax.random.split(jax.random.key(member["seed"]))
    n, val = group.n, group.val
    rows = n + val + TEST
    data = DATA[group.family](member, data_key, rows)
    train_set = {name: values[:n] for name, values in data.items()} | {
        "role": jnp.zeros(n, jnp.int32)
    }
    roles = jnp.repeat(
        jnp.array([2, 0, 1]), jnp.array([n, val, TEST]), total_repeat_length=rows
    )
    optimizer = optax.sgd if group.family == "poly" else optax.adam
    tx = optax.inject_hyperparams(optimizer)(learning_rate=member["lr"])
    learner, state = train.make_learner(
        Net(group, rngs=nnx.Rngs(model_key)),
        loss_fn,
        tx,
        key=model_key,
        record=("eval_loss",) if group.dropout else (),
    )
    run = train.run(
        learner,
        state,
        train_set,
        data | {"role": roles},
        epochs=LONGER * group.epochs,
        batch_size=group.batch_size,
        val_batch_size=rows,
    )
    y, train_y = data["y"], data["y"][:n]
    constants = {
        "trivial": trivial(train_y, y[n : n + val]),
        "test_trivial": trivial(train_y, y[n + val :]),
    }
    return run.history | constants | {"failed": run.failure[0]}


def train_group(group: Group, seed: int) -> dict[str, np.ndarray]:
    """All members' histories, `{name: [members epochs]}`, and what they were drawn with."""
    members = draw(group, seed)
    outcome = jax.jit(jax.vmap(functools.partial(train_one, group)))(
        jax.tree.map(jnp.asarray, members)
    )
    return {f"member/{name}": values for name, values in members.items()} | {
        name: np.asarray(values) for name, values in outcome.items()
    }
