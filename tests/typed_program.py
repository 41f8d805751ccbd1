# pyright: strict
"""A user's program over the whole package; tests/test_typing.py runs it, and has pyright check
it in strict mode.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

import dlwp_jax
from dlwp_jax import diagnose, losses, nn, optim, parity, search, storage, train

Batch = Mapping[str, jax.Array]


class Net(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nn.Linear(1, width, rngs=rngs)
        self.output = nn.Linear(width, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(nn.tanh(self.hidden(x)))


def loss_fn(model: Net, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    output = model(batch["x"])
    return losses.mse_loss(output, batch["y"], reduction="mean"), {
        "mae": losses.l1_loss(output, batch["y"])
    }


def make(lr: jax.Array, key: jax.Array) -> tuple[train.Learner, train.TrainState]:
    return train.make_learner(Net(4, rngs=nnx.Rngs(key)), loss_fn, optim.adam(lr), key=key)


def trained(batch: Batch, directory: str) -> tuple[str, float]:
    """The verdict and the last loss of a training that `fit` begins and `run` goes on with."""
    tx = optim.sgd(optim.step_lr(0.1, 10), momentum=0.9)
    learner, state = train.make_learner(
        Net(4, rngs=nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0)
    )
    stop = train.EarlyStopping(3, monitor="val/loss")
    result = train.fit(
        learner, state, batch, batch, epochs=4, batch_size=4, stop=stop, checkpoint=directory
    )
    verdict: str = diagnose.diagnose(result.history).verdict
    result = train.run(learner, result.state, batch, epochs=2, batch_size=4)
    last: jax.Array = result.history["train/loss"][-1]
    outputs = train.predict(learner, result.best, batch["x"])
    assert outputs.shape == (8, 1)
    return verdict, float(last)


def swept(batch: Batch) -> search.Setting:
    found = search.sweep(
        make, batch, batch, over={"lr": [0.1, 0.2], "key": [0, 1]}, epochs=2, batch_size=4
    )
    return found.best_setting()


def viewed() -> tuple[storage.StridedTensor, jax.Array, nnx.Param[jax.Array]]:
    points = storage.tensor([[4.0, 1.0], [5.0, 3.0]])
    second: storage.StridedTensor = points.t()[1].unsqueeze(0).expand(2, 2)
    doubled: jax.Array = points * 2
    points = points.over(points.select(0, 1).at[0].set(7.0).storage)
    convolution = dlwp_jax.nn.Conv2d(3, 8, 3, padding="same", rngs=nnx.Rngs(0))
    assert points.tolist() == [[4.0, 1.0], [7.0, 3.0]]
    return second, doubled, convolution.kernel


def compared(torch_model: Any, x: Any) -> bool:
    model = Net(4, rngs=nnx.Rngs(0))
    parity.load_torch(model, torch_model)
    return parity.compare(torch_model, model, x).ok
