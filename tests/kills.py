"""A training that is killed at random moments, called again, and compared with one that was
left alone.

Run:    python -m tests.kills --kills 30 --kind memory
Prints: one line of JSON: how many kills, how many of them while a checkpoint was being written,
the verdict

The parent never starts JAX's backend, so its forks are whole lives: they start it, find their
program in the compile cache, take the newest checkpoint and train on. Dropout, shuffling, batch
norm, Adam and early stopping are all at work; a checkpoint is begun whenever the one before is
written.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as _  # noqa: F401 (imported here, once for all lives)

from dlwp_jax import checkpoint
from tests.models import endure

EPOCHS = 600
LIFE = 0.3  # seconds from a life's first epoch to its end, at most
LONG = 600  # seconds that only a life that hangs takes


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


def live(kind, directory, root):
    """One life: train (on), and write down the result if the end is reached."""

    def awake(progress):
        (root / "awake").touch()
        time.sleep(0.005)

    endure(
        root / ("resumed.npz" if directory else "whole.npz"),
        epochs=EPOCHS,
        callback=awake,
        directory=directory,
        stream=Shuffled if kind == "stream" else None,
    )


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
    """The exit code of a process that ends within so many seconds, as subprocess gives it; else
    None.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def halted(pid):
    """Bring a process to a stand; its exit code where it has ended before, else None."""
    os.kill(pid, signal.SIGSTOP)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    return None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def kill_and_compare(kind, kills, seed, root):
    rng, directory = random.Random(seed), root / "checkpoints"
    counts = {
        "kill -9": 0,
        "of them while saving": 0,
        "SIGTERM": 0,
        "lives that came to the end": 0,
    }
    assert ended(born(live, kind, None, root), LONG) == 0

    def compare():
        whole, resumed = (np.load(root / f"{name}.npz") for name in ("whole", "resumed"))
        assert whole.files == resumed.files
        assert all(whole[name].tobytes() == resumed[name].tobytes() for name in whole.files)
        counts["lives that came to the end"] += 1
        shutil.rmtree(directory)

    while counts["kill -9"] < kills:
        (root / "awake").unlink(missing_ok=True)
        pid, code = born(live, kind, directory, root), None
        if rng.random() < 0.8:  # the others die while they start
            while code is None and not (root / "awake").exists():
                code = ended(pid, 0.01)
        code = ended(pid, rng.uniform(0, LIFE)) if code is None else code
        code = (
            halted(pid) if code is None else code
        )  # else one may come to its end before the signal reaches it
        assert code in (None, 0), f"a life ended by itself with {code}"
        if code == 0:
            compare()
            continue
        number = signal.SIGTERM if sum(counts.values()) % 7 == 6 else signal.SIGKILL
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        assert ended(pid, LONG) == -number
        counts["kill -9" if number == signal.SIGKILL else "SIGTERM"] += 1
        counts["of them while saving"] += number == signal.SIGKILL and any(
            directory.glob(".partial-*")
        )
        assert all(checkpoint.damage(path) is None for path in checkpoint.saved(directory))
    assert ended(born(live, kind, directory, root), LONG) == 0
    compare()
    return {"kind": kind} | counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--kind", choices=["memory", "stream"], default="memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        jax.config.update(
            "jax_compilation_cache_dir", f"{root}/cache"
        )  # its own: a kill may leave half an entry
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        print(json.dumps(kill_and_compare(args.kind, args.kills, args.seed, Path(root))))


if __name__ == "__main__":
    main()
