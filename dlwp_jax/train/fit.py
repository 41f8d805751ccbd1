"""The same training driven from the host: progress, callbacks, Ctrl-C, checkpoints, streams."""

import functools
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from dlwp_jax.checks import describe, whole
from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.leaves import strongly
from dlwp_jax.optim.hyperparameters import with_hyperparameters
from dlwp_jax.train import checks
from dlwp_jax.train.failure import blame
from dlwp_jax.train.identity import describe_call, program
from dlwp_jax.train.loop import Loop, Run, history_until, is_going, result, start
from dlwp_jax.train.minibatches import Sampler, minibatch_shape, steps_key
from dlwp_jax.train.plan import EarlyStopping, Plan, make_plan, rows_of_parts
from dlwp_jax.train.progress import display
from dlwp_jax.train.resume import Checkpoint, Saver, Unsaved, as_checkpoint, saving
from dlwp_jax.train.signals import Signals, collected
from dlwp_jax.train.sources import InMemory, Stream
from dlwp_jax.train.state import Learner, TrainState, check_pair
from dlwp_jax.train.streams import Replayable, is_stream
from dlwp_jax.train.transform import training_half

PyTree = Any


@dataclass
class Job:
    """A training that is going on.

    Attributes:
      loop: the newest one. A chunk gives away the buffers of the loop before it, so there must
        be one place to look.
      source: of minibatches; its `advance(loop)` gives the next loop.
    """

    learner: Learner
    plan: Plan
    loop: Loop
    source: InMemory | Stream
    callbacks: list["every"]


@dataclass(frozen=True)
class Progress:
    """The argument of a callback.

    Attributes:
      epoch: epochs finished in this call.
      epochs: epochs asked for.
      history: as in `Run`, up to this epoch, NumPy arrays.
    """

    epoch: int
    epochs: int
    history: dict[str, np.ndarray]
    _job: Job = field(repr=False)

    @property
    def state(self) -> TrainState:
        """The state after this epoch, yours to keep."""
        return joint.given_back(jax.tree.map(jnp.copy, self._job.loop.state))

    @property
    def best(self) -> TrainState:
        """The best state so far, yours to keep."""
        return joint.given_back(jax.tree.map(jnp.copy, self._job.loop.best))

    def set_hyperparameters(self, **values: ArrayLike) -> None:
        """Change hyperparameters of the optimizer for the epochs that follow.

        They are those that `optax.inject_hyperparams` put into the optimizer's state:
        `make_learner(..., optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))`, and in a
        callback `progress.set_hyperparameters(learning_rate=0.01)`. The new values are part of
        the state, so a resumed training goes on with them.

        Raises:
          ValueError: if the optimizer has no such hyperparameter, a schedule sets it, or it is
            a whole number and the new value is not.
        """
        loop = self._job.loop
        opt_state = with_hyperparameters(loop.state.opt_state, values)
        self._job.loop = replace(loop, state=replace(loop.state, opt_state=opt_state))


Callback = Callable[[Progress], bool | None]


@dataclass(frozen=True)
class every:  # reads as a word: callbacks=[every(100, show)]
    """A callback called after every `epochs` epochs instead of after each one."""

    epochs: int
    callback: Callback

    def __post_init__(self) -> None:
        whole(self.epochs, "epochs", 1)
        if not callable(self.callback):
            raise TypeError(
                f"callback must be a function of a Progress; got {describe(self.callback)}."
            )

    def __call__(self, progress: Progress) -> bool | None:
        """Call the callback."""
        return self.callback(progress)


def fit(
    learner: Learner,
    state: TrainState,
    train: PyTree | Iterable[PyTree],
    val: PyTree | Iterable[PyTree] | None = None,
    *,
    epochs: int,
    batch_size: int | None = None,
    stop: EarlyStopping | None = None,
    val_batch_size: int | None = None,
    skip_nonfinite: bool = False,
    drop_last: bool = False,
    sampler: Sampler | None = None,
    transform: Any = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Run:
    """Train from the host in compiled chunks: parameters and history are those of `run`.

    They agree to float32 rounding, and most often to the last bit: the compiler may order the
    sums of the two programs in different ways. A program is compiled for each learner and
    number of epochs, and kept; to change a learning rate between calls without compiling anew
    use `optax.inject_hyperparams`.

    Args:
      learner, state, val, epochs, batch_size, stop, val_batch_size, skip_nonfinite, drop_last,
        sampler, transform: as for `run`. `state` stays usable.
      train: pytree of arrays `[n ...]`; or a stream: an iterable of batches that is iterated
        anew for every epoch (anything that is not itself a pytree of arrays, such as a loader).
        Then `batch_size`, `drop_last` and `sampler` are left out, since a stream brings its own
        batches, and `val` may be a stream too.
      callbacks: each is called with a `Progress` after every epoch, or as `every(n, callback)`
        after every n; one that returns True ends the training. Without callbacks chunks may
        span many epochs.
      checkpoint: a directory's path, or a `Checkpoint`. The training is saved there as it goes.
        A call that finds it interrupted finishes it, with the bits it would have had; one that
        finds it finished returns it. A callback is called again for an epoch if the training
        was interrupted before that was saved.
      progress: a bar with epochs, losses, the monitored value and time left on a terminal, a
        dozen plain lines elsewhere; on standard error. False: nothing.

    An exception from a callback or a stream is passed on, and without `checkpoint` the training
    of this call is lost with it.

    Returns:
      A `Run`, its history trimmed to the epochs that were trained. Ctrl-C ends the chunk that
      is running and returns the training so far (the state may then be in the midst of an
      epoch, the history ends before it); a second Ctrl-C raises KeyboardInterrupt.

    Warns:
      RuntimeWarning: naming epoch, step, and the leaf of gradient or parameters, if loss or
        parameters became non-finite; the `Run` holds the last finite state. And if a checkpoint
        could not be written (a full disk), while training goes on.

    Raises:
      ValueError, TypeError: as `run`; and if a stream is empty or cannot be iterated a second
        time.
      CheckpointError (a ValueError): if the directory is in use, or its newest checkpoint is
        damaged or of another training; it says what differs, and names the newest that can be
        taken.
      OSError: if the directory cannot be written to.
    """
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks must be a list of functions of a Progress; got {describe(callbacks)}."
        )
    callbacks = [call if isinstance(call, every) else every(1, call) for call in callbacks]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError(
            "fit drives training from the host and cannot be jitted, mapped or differentiated; "
            "use run."
        )
    check_pair(learner, state)
    checkpoint = as_checkpoint(checkpoint)
    settings = {
        "epochs": epochs,
        "stop": stop,
        "val_batch_size": val_batch_size,
        "skip_nonfinite": skip_nonfinite,
        "drop_last": drop_last,
        "sampler": sampler,
        "transform": transform,
    }
    arrays = {}
    for name, given in {"train": train, "val": val}.items():
        arrays[name] = None if is_stream(given) else given
    agreed = settings | {"batch_size": batch_size}
    call = joint.enter("fit", state, arrays, agreed)
    state = call.state
    if is_stream(train):
        _check_stream(batch_size=batch_size, drop_last=drop_last, sampler=sampler)
        if val is not None and not is_stream(val):
            val = checks.dataset(call.data[1], "val")
        stream = Replayable(train, is_saved=checkpoint is not None)
        batch = joint.whole_shape(stream.peek)
        data = {"val": None if is_stream(val) else val}
        learner = learner.placed(state, **data)
        plan = make_plan(learner, state, batch, val, **settings)
        source = Stream(learner, plan, stream, val, batch)
    else:
        if batch_size is None:
            raise ValueError(
                f"batch_size is missing: {describe(train)} is taken as arrays in memory, to be "
                "cut into batches. To stream batches, pass an object that can be iterated (not "
                "a list, tuple or dict, nor a function)."
            )
        if val is not None and is_stream(val):
            raise TypeError(
                "val streams while train is in memory; give both in memory, or stream train "
                "too."
            )
        train = checks.dataset(call.data[0], "train")
        val = None if val is None else checks.dataset(call.data[1], "val")
        batch = minibatch_shape(state, train, batch_size, sampler, drop_last)
        data = {"train": train, "val": val}
        learner = learner.placed(state, **data)
        plan = make_plan(learner, state, batch, val, **settings)
        stream = None
        source = InMemory(learner, plan, train, val, _stride(callbacks, checkpoint, plan))
    loop = _first_loop(learner, state, batch, val is not None, plan)
    job = Job(learner, plan, loop, source, callbacks)
    if hosts.many():
        step = program(learner, loop.state, batch, plan)
        parts = {"the program of a step (model, loss, optimizer or a constant in them)": step}
        joint.same("fit", parts, "the learner")
    identity = functools.partial(describe_call, learner, loop, batch, plan, data)
    numbers = [signal.SIGINT]
    if checkpoint is not None or hosts.many():  # there is something to save, or to tell others
        numbers.append(signal.SIGTERM)
    with collected(*numbers) as signals, saving(checkpoint, identity, stream) as saver:
        job.loop = saver.resumed(job.loop)
        return call.leave(drive(job, saver, signals, shown=progress))


def drive(job: Job, saver: Saver | Unsaved, signals: Signals, *, shown: bool) -> Run:
    """Take chunk after chunk; show, call back and save between them."""
    is_shared = True
    with display(job.plan.epochs, shown=shown and hosts.is_writer()) as bar:
        try:
            over = is_over(job, saver, signals)  # callbacks may wait since before the resuming
            while not over:
                job.loop, fraction = job.source.advance(job.loop)
                if fraction is None:
                    continue
                bar.update(int(job.loop.done) + fraction, _latest(job.loop, job.plan.monitor))
                over = is_over(job, saver, signals)
                saver.save_if_due(job.loop)
        except KeyboardInterrupt:  # from a callback or a stream; a second Ctrl-C is meant
            if signal.SIGINT in signals.here:
                raise
        except BaseException as error:
            # If the other processes do not have the error, there is no saving with them.
            is_shared = hosts.is_shared(error)
            raise
        finally:
            if is_shared:
                saver.finish(job.loop)
                signals.share()
    return _finished(job)


def is_over(job: Job, saver: Saver | Unsaved, signals: Signals) -> bool:
    """Call the callbacks that are due; whether training ends here."""
    done = int(job.loop.done)
    is_new = done > saver.called

    def answer() -> bool:
        return is_new and _call_back(job, done)

    is_asked_to_stop = any(hosts.attempt("the end of a chunk", answer))
    signals.share()
    if is_asked_to_stop:
        return True
    saver.called = max(done, saver.called)
    return bool(signals.anywhere) or not bool(is_going(job.loop, job.plan))


def _call_back(job: Job, done: int) -> bool:
    """Call the callbacks whose turn it is; whether one of them asks to stop."""
    plan = job.plan
    due = [call for call in job.callbacks if done % call.epochs == 0 or done == plan.epochs]
    if not due:
        return False
    progress = Progress(done, plan.epochs, history_until(job.loop, done), job)
    answers = [call(progress) for call in due]
    return any(_is_true(answer) for answer in answers)


def _is_true(answer: Any) -> bool:
    """Whether an answer is True: Python's, NumPy's (as comparing values of the history gives
    it) or JAX's.
    """
    return answer is True or (getattr(answer, "dtype", None) == np.bool_ and bool(answer))


def _check_stream(**settings: Any) -> None:
    """Refuse settings that a stream decides itself."""
    for name, value in settings.items():
        if value is not None and value is not False:
            raise ValueError(
                f"{name}={value!r} does not apply to a stream, which brings its own batches."
            )


def _stride(callbacks: list[every], checkpoint: Checkpoint | None, plan: Plan) -> int:
    """The number of epochs after which a chunk must end, for callbacks and checkpoints."""
    periods = [call.epochs for call in callbacks]
    if checkpoint is not None and checkpoint.every_epochs:
        periods.append(checkpoint.every_epochs)
    return math.gcd(*periods) or plan.epochs


def _first_loop(
    learner: Learner, state: TrainState, batch: PyTree, has_val: bool, plan: Plan
) -> Loop:
    """The loop before its first step, in buffers of its own: chunks give theirs away, and the
    caller keeps `state`.
    """
    loop = start(learner, jax.tree.map(strongly, state), batch, has_val, plan)
    return learner.constrain(jax.tree.map(jnp.copy, loop))


def _latest(loop: Loop, monitor: str) -> dict[str, float]:
    """The latest losses and the monitored value, for the display."""
    losses = {}
    for name, column in loop.history.items():
        is_shown = name in ("train/loss", "val/loss", monitor)
        # In the midst of the first epoch there is a loss of training, and none of validation.
        if is_shown and (name.startswith("train/") or int(loop.done)):
            losses[name] = float(np.asarray(column)[max(int(loop.done) - 1, 0)])
    return losses


def _finished(job: Job) -> Run:
    """The `Run` of a job; a failure is warned of."""
    done = int(job.loop.done)
    if not bool(job.loop.alive):
        done += 1  # the epoch that failed is in the history: its losses tell how
        look = (
            " In the first epoch look for a label that is no class, too." if done == 1 else ""
        )
        if hosts.is_writer():
            warnings.warn(
                f"loss or parameters stopped being finite at epoch {done}, step "
                f"{int(job.loop.step)}{_reason(job)}; training ended there, and the last "
                "finite state is returned. A smaller learning rate or normalised inputs are "
                f"the usual cure.{look}",
                RuntimeWarning,
                stacklevel=4,  # the line that called `fit`
            )
    history = history_until(job.loop, done)
    return result(job.loop, {name: jnp.asarray(column) for name, column in history.items()})


def _reason(job: Job) -> str:
    """The leaf that was not finite, if the batch of the step that failed is still at hand."""
    batch = job.source.latest(job.loop)
    if batch is None:
        return ""
    state = job.loop.state
    key = jax.random.fold_in(steps_key(state), job.loop.step - 1)
    rows = rows_of_parts(job.learner, job.plan, key, batch)
    batch = training_half(job.plan.transform, key, batch)
    return f" ({blame(job.learner, state, batch, key, rows)})"
