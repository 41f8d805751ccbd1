"""What one of several processes does in tests/test_hosts.py:

    python -m tests.in_processes SCENARIO ROOT [COORDINATOR COUNT INDEX]

What it finds it leaves in ROOT, under its number.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from dlwp_jax import hosts

EPOCHS = 60  # of the training that is killed and told to stop


def main():
    scenario, root, *flags = sys.argv[1:]
    coordinator, count, index = flags if flags else (None, None, None)
    try:
        hosts.start(
            coordinator,
            count and int(count),
            index and int(index),
            timeout=float(os.environ["TIMEOUT"]),
        )
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    globals()[scenario](Path(root))


def leave(root, **found):
    (root / f"{hosts.index()}.json").write_text(json.dumps(found))


def meet(root):
    """Nothing but to be there."""
    import jax

    leave(
        root,
        said=hosts.agree("numbers", hosts.index()),
        devices=jax.device_count(),
        count=jax.process_count(),
    )


def compute(root):
    """All that a training does, against which one process is held."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from dlwp_jax import checkpoint, runs, shard, train, weights
    from tests.models import Stochastic, regression, squared_error

    print("said by", hosts.index())
    train_set, val_set = regression(37), regression(10, seed=1)
    learner, state = train.make_learner(
        Stochastic(nnx.Rngs(0)),
        squared_error,
        optax.sgd(1e-2, momentum=0.9),
        key=jax.random.key(0),
    )
    seen = []

    def look(progress):
        loss = train.evaluate(learner, progress.state, val_set)[
            "loss"
        ]  # all processes compute it
        seen.append(float(loss))

    options = {"epochs": 6, "batch_size": 8, "progress": False}
    result = train.fit(
        learner, state, train_set, val_set, callbacks=[train.every(3, look)], **options
    )
    predicted = train.predict(learner, result.state, val_set["x"])
    arrays = {"fit": result.history["val/loss"], "predicted": predicted, "seen": np.array(seen)}
    arrays |= {f"fit{name}": leaf for name, leaf in checkpoint.plain(result.state).items()}

    train_part = Batches(
        regression(33), lambda rows: np.array_split(rows, hosts.count())[hosts.index()]
    )
    val_part = Batches(
        regression(33, seed=1) | {"row": np.arange(33)}, hosts.part
    )  # other leaves than in training
    streamed = train.fit(learner, state, train_part, val_part, epochs=3, progress=False)
    arrays |= {
        "streamed": streamed.history["train/loss"],
        "streamed_val": streamed.history["val/loss"],
    }

    errors = {}
    if hosts.many():
        own = dict(train_set, y=train_set["y"] + hosts.index())
        errors["other data"] = told(train.fit, learner, state, own, **options)
        mine = options | {"epochs": 6 + hosts.index()}
        errors["other epochs"] = told(train.fit, learner, state, train_set, **mine)
        stop = [stumble] if hosts.index() == 1 else []
        errors["callback"] = told(
            train.fit, learner, state, train_set, callbacks=[*stop, lambda p: None], **options
        )
        errors["checkpoint"] = told(
            train.fit, learner, state, train_set, checkpoint="/proc/nowhere", **options
        )
        errors["too large"] = told(
            train.evaluate, learner, state, dict(val_set, row=np.full(10, 2**40))
        )
        errors["stream"] = told(
            train.fit, learner, state, Broken(train_set), epochs=1, progress=False
        )
        split = shard.put(shard.mesh(), state, params="sharded", min_size=8)
        sharded = train.fit(
            learner, split, train_set, val_set, checkpoint=root / "sharded", **options
        )
        arrays["health"] = train.unit_health(learner, sharded.state, val_set)["saturated"]
        errors["lies on"] = str(sharded.state.params["hidden"]["kernel"].sharding.spec)
        restored = train.restore(root / "sharded", state).state
        arrays |= {f"sharded{name}": leaf for name, leaf in checkpoint.plain(restored).items()}
    run = runs.start("demo", train.EarlyStopping(3), out=root / f"runs{hosts.index()}")
    run.history(result.history)
    weights.save_weights(root / f"weights{hosts.index()}.npz", result.state)
    np.savez(
        root / f"{hosts.index()}.npz",
        **{name: np.asarray(array) for name, array in arrays.items()},
    )
    leave(
        root,
        errors=errors,
        local=all(leaf.is_fully_addressable for leaf in jax.tree.leaves(result)),
    )


class Batches:
    """8 rows a step, of which this process has a part; of the last batch's single row all but
    one have nothing.
    """

    def __init__(self, data, part):
        self.data, self.part = data, part

    def __iter__(self):
        import numpy as np

        blocks = (self.part(np.arange(i, min(i + 8, 33))) for i in range(0, 33, 8))
        return (
            {name: np.asarray(leaf)[rows] for name, leaf in self.data.items()}
            for rows in blocks
            if len(rows)
        )


class Broken:
    """A stream that ends in an exception in process 1."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield {name: array[:4] for name, array in self.data.items()}
        if hosts.index() == 1:
            raise OSError("the disk is gone")
        yield {name: array[:4] for name, array in self.data.items()}


def stumble(progress):
    raise ZeroDivisionError("one by none")


def told(function, *args, **options):
    try:
        function(*args, **options)
    except Exception as error:  # noqa: BLE001 (whatever it is, the test reads it)
        return f"{type(error).__name__}: {error}"
    return "nothing"


def endure(root):
    """A training that is saved all the time, to be killed, told to stop, and begun again."""
    from tests.models import endure

    def awake(progress):
        (root / f"awake{hosts.index()}").write_text(str(progress.epoch))
        time.sleep(float(os.environ.get("PAUSE", "0")))

    me = hosts.index()
    endure(
        root / f"{me}.npz", epochs=EPOCHS, callback=awake, directory=root / f"checkpoints{me}"
    )


def vanish(root):
    """Process 1 ends in some way while process 0 waits for it."""
    (root / f"awake{hosts.index()}").touch()
    hosts.agree(
        "both are awake", None
    )  # one that ends before would take the other along before it has said so
    way = (root / "way").read_text()
    if hosts.index() == int((root / "who").read_text()):
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "raise":
            raise ZeroDivisionError("one by none")
        if way == "exit":
            sys.exit(0)
        hosts.agree("tea", 1)
    hosts.agree("coffee", 1)


if __name__ == "__main__":
    main()
