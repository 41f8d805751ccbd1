"""What one of several processes does in tests/test_devices_processes.py:

    python -m tests.in_processes SCENARIO ROOT [COORDINATOR COUNT INDEX]

Each process leaves what it found in ROOT, under its number.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from dlwp_jax import hosts

EPOCHS = 24  # of the training that is killed and stopped


def main():
    scenario, root, *flags = sys.argv[1:]
    coordinator, count, index = flags or (None, None, None)
    numbers = (None, None) if count is None else (int(count), int(index))
    hosts.start(coordinator, *numbers, timeout=300.0)
    globals()[scenario](Path(root))


def leave(root, **found):
    (root / f"{hosts.index()}.json").write_text(json.dumps(found))


def save(root, arrays):
    import numpy as np

    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(root / f"{hosts.index()}.npz", **arrays)


def meet(root):
    """Nothing but to be there."""
    import jax

    said = hosts.agree("numbers", hosts.index())
    long = hosts.first("a long text", "x" * 5000 * (1 + hosts.index()))
    leave(root, said=said, devices=jax.device_count(), long=len(long))


def learner_and_data():
    import jax
    import optax
    from flax import nnx

    from dlwp_jax import train
    from tests.models import Stochastic, regression, squared_error

    model, tx = Stochastic(nnx.Rngs(0)), optax.sgd(1e-2, momentum=0.9)
    made = train.make_learner(model, squared_error, tx, key=jax.random.key(0))
    return *made, regression(37), regression(10, seed=1)


OPTIONS = {"epochs": 6, "batch_size": 8, "progress": False}


def compute(root):
    """All that a training does, and what it refuses."""
    import jax
    import numpy as np

    from dlwp_jax import runs, train, weights

    print("said by", hosts.index())
    learner, state, train_set, val_set = learner_and_data()
    result, arrays = trained(learner, state, train_set, val_set)
    errors = {}
    if hosts.many():
        other = dict(train_set, y=train_set["y"] + hosts.index())
        errors["data"] = message(train.fit, learner, state, other, val_set, **OPTIONS)
        stop = [stumble] if hosts.index() == 1 else [lambda progress: None]
        errors["callback"] = message(
            train.fit, learner, state, train_set, val_set, callbacks=stop, **OPTIONS
        )
        mine = OPTIONS | {"epochs": 6 + hosts.index()}
        errors["epochs"] = message(train.fit, learner, state, train_set, **mine)
        errors["checkpoint"] = message(
            train.fit, learner, state, train_set, checkpoint="/proc/nowhere", **OPTIONS
        )
        large = dict(val_set, row=np.full(10, 2**40))
        errors["large"] = message(train.evaluate, learner, state, large)
        stream = Broken(train_set)
        errors["stream"] = message(train.fit, learner, state, stream, epochs=1, progress=False)
        end, saved = trained_in_pieces(root, learner, state, train_set, val_set)
        arrays |= saved
        arrays["health"] = train.unit_health(learner, end, val_set)["saturated"]
        errors["spec"] = str(end.params["hidden"]["kernel"].sharding.spec)
    run = runs.start("demo", train.EarlyStopping(3), out=root / f"runs{hosts.index()}")
    run.history(result.history)
    weights.save_weights(root / f"weights{hosts.index()}.npz", result.state)
    save(root, arrays)
    is_local = all(leaf.is_fully_addressable for leaf in jax.tree.leaves(result))
    leave(root, errors=errors, local=is_local)


def trained(learner, state, train_set, val_set):
    """A training from arrays, and one from streams, of which each process reads its part."""
    import numpy as np

    from dlwp_jax import train
    from dlwp_jax.saving import store
    from tests.models import regression

    seen = []

    def look(progress):  # all processes compute it
        seen.append(float(train.evaluate(learner, progress.state, val_set)["loss"]))

    callbacks = [train.every(3, look)]
    result = train.fit(learner, state, train_set, val_set, callbacks=callbacks, **OPTIONS)
    predicted = train.predict(learner, result.state, val_set["x"])
    arrays = {"fit": result.history["val/loss"], "predicted": predicted, "seen": np.array(seen)}
    arrays |= {f"fit{name}": leaf for name, leaf in store.plain(result.state).items()}
    train_part = Batches(
        regression(33), lambda rows: np.array_split(rows, hosts.count())[hosts.index()]
    )
    more_leaves = regression(33, seed=1) | {"row": np.arange(33)}
    val_part = Batches(more_leaves, hosts.part)
    streamed = train.fit(learner, state, train_part, val_part, epochs=3, progress=False)
    arrays["streamed"] = streamed.history["train/loss"]
    arrays["streamed_val"] = streamed.history["val/loss"]
    return result, arrays


def trained_in_pieces(root, learner, state, train_set, val_set):
    """The end of a training with parameters split over the processes; what is read of it."""
    from dlwp_jax import shard, train
    from dlwp_jax.saving import store

    split = shard.put(shard.mesh(), state, params="sharded", min_size=8)
    ended = train.fit(
        learner, split, train_set, val_set, checkpoint=root / "sharded", **OPTIONS
    )
    restored = train.restore(root / "sharded", state).state
    return ended.state, {f"sharded{name}": leaf for name, leaf in store.plain(restored).items()}


class Batches:
    """8 rows a step, of which this process has a part; the last batch is a single row."""

    def __init__(self, data, part):
        self.data, self.part = data, part

    def __iter__(self):
        import numpy as np

        for i in range(0, 33, 8):
            rows = self.part(np.arange(i, min(i + 8, 33)))
            if len(rows):
                yield {name: np.asarray(leaf)[rows] for name, leaf in self.data.items()}


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


def message(function, *args, **options):
    try:
        function(*args, **options)
    except Exception as error:  # noqa: BLE001 (the test reads it, whatever it is)
        return f"{type(error).__name__}: {error}"
    return "nothing"


def endure(root):
    """A training that is saved all the time, to be killed, stopped, and begun again."""
    from tests.models import endure

    def awake(progress):
        (root / f"awake{hosts.index()}").write_text(str(progress.epoch))
        time.sleep(float(os.environ.get("PAUSE", "0")))

    me = hosts.index()
    endure(
        root / f"{me}.npz", epochs=EPOCHS, callback=awake, directory=root / f"checkpoints{me}"
    )


def vanish(root):
    """One process ends in some way while the other waits for it."""
    way, who = (root / "way").read_text().split()
    hosts.agree("both are awake", None)
    if hosts.index() == int(who):
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
