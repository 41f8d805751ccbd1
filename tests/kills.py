"""A training that is killed at random moments, called again, and compared with one that was left alone.

Run:    python -m tests.kills --kills 30 --kind memory
Prints: one line of JSON: how many kills, how many of them while a checkpoint was being written, the verdict

The parent never starts JAX's backend, so its forks are whole lives: they start it, find their program in the compile
cache, take the newest checkpoint and train on. Dropout, shuffling, batch norm, Adam and early stopping are all at work;
a checkpoint is begun whenever the one before is written.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
import traceback
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from orbax.checkpoint import v1 as _  # noqa: F401 (imported here, once for all lives)

from dlwp_jax import checkpoint, train
from tests.models import Stochastic, regression, squared_error

EPOCHS = 300
LIFE = 1.6  # seconds from the call of `fit`, at most


class Shuffled:
    """Batches in a new order every epoch, from a generator that can tell where it is."""

    def __init__(self, data):
        self.data, self.rng = jax.tree.map(np.asarray, data), np.random.default_rng(0)

    def get_state(self):
        return self.rng.bit_generator.state

    def set_state(self, state):
        self.rng.bit_generator.state = state

    def __iter__(self):
        order = self.rng.permutation(37)
        for i in range(0, 37, 8):
            time.sleep(0.001)  # some time within the epoch to be killed in
            yield {name: array[order[i : i + 8]] for name, array in self.data.items()}


def live(kind, directory, out):
    """One life: train (on), and write down the result if the end is reached."""
    train_set, val_set = regression(37), regression(10, seed=1)
    learner, state = train.make_learner(Stochastic(nnx.Rngs(0)), squared_error, optax.adam(1e-3), key=jax.random.key(0))
    result = train.fit(
        learner,
        state,
        Shuffled(train_set) if kind == "stream" else train_set,
        val_set,
        epochs=EPOCHS,
        batch_size=None if kind == "stream" else 8,
        stop=train.EarlyStopping(patience=EPOCHS - 1),
        callbacks=[lambda progress: time.sleep(0.01)],
        checkpoint=directory and train.Checkpoint(directory, every_seconds=0.0),
        progress=False,
    )
    leaves = jax.tree.leaves(jax.tree.map(lambda x: jax.random.key_data(x) if x.dtype == "key<fry>" else x, result))
    np.savez(out, *leaves)


def born(function, *args):
    """A forked process that runs a function and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
            os._exit(0)
        finally:  # only an exception comes this far
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid, seconds):
    """The exit code of a process that ends within so many seconds, as subprocess gives it; else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill_and_compare(kind, kills, seed, root):
    rng = random.Random(seed)
    directory = root / "checkpoints"
    assert ended(born(live, kind, None, root / "whole.npz"), 120) == 0
    killed = terminated = while_saving = 0
    while killed < kills:
        pid = born(live, kind, directory, root / "resumed.npz")
        code = ended(pid, rng.uniform(0.2, LIFE))
        assert code in (None, 0), f"a life ended by itself with {code}"
        if code == 0:
            break  # trained to the end in spite of all
        number = signal.SIGTERM if (killed + terminated) % 6 == 5 else signal.SIGKILL
        os.kill(pid, number)
        assert ended(pid, 60) == -number
        killed, terminated = killed + (number == signal.SIGKILL), terminated + (number == signal.SIGTERM)
        while_saving += number == signal.SIGKILL and any(directory.glob(".partial-*"))
    saved = checkpoint.saved(directory)
    assert all(checkpoint.damage(path) is None for path in saved)
    epochs = json.loads((saved[-1] / "about.json").read_text())["called"] if saved else 0
    assert ended(born(live, kind, directory, root / "resumed.npz"), 120) == 0
    whole, resumed = (np.load(root / f"{name}.npz") for name in ("whole", "resumed"))
    same = whole.files == resumed.files and all(whole[f].tobytes() == resumed[f].tobytes() for f in whole.files)
    return {
        "kind": kind,
        "kill -9": killed,
        "of them while saving": while_saving,
        "SIGTERM": terminated,
        "epochs by then": epochs,
        "same bits": same,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--kind", choices=["memory", "stream"], default="memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        jax.config.update("jax_compilation_cache_dir", f"{root}/cache")  # its own: a kill may leave half an entry
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        print(json.dumps(kill_and_compare(args.kind, args.kills, args.seed, Path(root))))


if __name__ == "__main__":
    main()
