"""Whether a checkpoint is of the training that a call of `fit` asks for."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.leaves import differing, fingerprint, shapes
from dlwp_jax.saving.store import About
from dlwp_jax.train.loop import Loop
from dlwp_jax.train.plan import Plan, rows_of_parts
from dlwp_jax.train.state import Learner, TrainState
from dlwp_jax.train.step import step
from dlwp_jax.train.transform import evaluation_half, training_half

PyTree = Any
ONE_DEVICE = "one device"
FORMAT = 2  # of the contents of a checkpoint; other formats are refused
LIBRARIES = ("dlwp-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def describe_call(
    learner: Learner, loop: Loop, batch: PyTree, plan: Plan, data: dict[str, PyTree]
) -> About:
    """All that decides the result of a training, in JSON: leaves, settings, data, start,
    program, versions.
    """
    settings = {
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "val_batch_size": plan.val_batch_size,
        "monitor": plan.monitor,
        "stop": None if plan.stop is None else dataclasses.asdict(plan.stop),
        "skip_nonfinite": plan.skip_nonfinite,
        "drop_last": plan.drop_last,
        "sampler": plan.sampler is not None,
        "transform": [half is not None for half in plan.transform],
    }
    return {
        "format": FORMAT,
        "asked": settings | {"history": sorted(loop.history), "batch": shapes(batch)},
        "state": shapes(loop.state),
        "data": fingerprint(joint.gathered(data)),
        "start": {
            "epoch": int(loop.state.epoch),
            "step": int(loop.state.step),
            "leaves": fingerprint(joint.gathered(loop.state)),
        },
        "program": program(learner, loop.state, batch, plan),
        "devices": _devices(learner),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _devices(learner: Learner) -> str:
    devices = ONE_DEVICE if learner.placement is None else str(learner.placement)
    return f"{devices}, in {hosts.count()} processes" if hosts.many() else devices


def program(learner: Learner, state: TrainState, batch: PyTree, plan: Plan) -> str:
    """A checksum of the computation of a step, constants included; the same in every process.

    Sampler and transform are part of it, both halves of the transform on a training batch.
    """
    state = jax.tree.map(_anywhere, state)

    def computation(state, batch):
        evaluated = None
        if plan.transform[1] is not None:
            evaluated = evaluation_half(plan.transform, state.key, batch)
        rows = rows_of_parts(learner, plan, state.key, batch)
        batch = training_half(plan.transform, state.key, batch)
        order = None if plan.sampler is None else plan.sampler(state.key, state.epoch)
        outcome = step(learner.unplaced, state, batch, state.key, jnp.array(True), rows=rows)
        return outcome, order, evaluated

    jaxpr = jax.make_jaxpr(computation)(state, batch)
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr.jaxpr))  # addresses of functions
    constants = []
    for inner in jaxprs_in(jaxpr):
        constants.extend(getattr(inner, "consts", ()))
    return hashlib.sha256((text + json.dumps(fingerprint(constants))).encode()).hexdigest()


def jaxprs_in(jaxpr: Any) -> Iterator[Any]:
    """A jaxpr and all those inside it: of its loops, branches and jitted functions."""

    def is_jaxpr(value):
        return hasattr(value, "eqns")

    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from jaxprs_in(value)


def _anywhere(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """A leaf to be traced with, on whichever devices it is."""
    weak_type = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=weak_type)


# Each of these gives the reason why a checkpoint cannot be taken, or None.


def wrong_format(about: About) -> str | None:
    """Another format of checkpoints."""
    if about.get("format") == FORMAT:
        return None
    return (
        f"has format {about.get('format')!r}, written by another version of dlwp-jax; this one "
        f"reads {FORMAT}."
    )


def wrong_leaves(now: dict[str, list], then: dict[str, list]) -> str | None:
    """Another model or optimizer, by the shapes and dtypes of the leaves of its state."""
    name = differing(now, then)
    if name is None:
        return None
    if name not in now or name not in then:
        owner = "the checkpoint" if name in then else "this training"
        return f"is of another model or optimizer: only {owner} has a leaf {name}."
    dtype, shape = now[name]
    old_dtype, old_shape = then[name]
    return (
        f"is of another model or optimizer: the leaf {name} is {old_dtype}{old_shape} there "
        f"and {dtype}{shape} here."
    )


def wrong_call(then: About, now: About, *, exact: bool, extend: bool) -> str | None:
    """Another training, or one whose bits could not be those of an uninterrupted one.

    Args:
      then, now: of the checkpoint, and of this call.
      exact: whether the bits must be the same.
      extend: whether more epochs may be asked for than before.
    """
    wrong = (
        wrong_leaves(now["state"], then["state"])
        or _wrong_settings(then["asked"], now["asked"], exact=exact, extend=extend)
        or _wrong_data_size(then["data"], now["data"])
        or _wrong_processes(then["place"])
    )
    if wrong is not None or not exact:
        return wrong
    wrong = _inexact(then, now)
    if wrong is None:
        return None
    return f"{wrong} Checkpoint(..., exact=False) goes on without the promise of equal bits."


def _wrong_settings(then: dict, now: dict, *, exact: bool, extend: bool) -> str | None:
    cure = ""
    added = set(now["history"]) - set(then["history"])
    if added and set(then["history"]) < set(now["history"]):
        if exact:
            names = ", ".join(sorted(added))
            return (
                f"has no values of {names}, which this call records. Checkpoint(..., "
                "exact=False) goes on, with NaN in the epochs before."
            )
        then = then | {"history": now["history"]}
    if now["epochs"] > then["epochs"]:
        if extend:
            then = then | {"epochs": now["epochs"]}
        else:
            cure = " Checkpoint(..., extend=True) allows more of them."
    name = differing(now, then)
    if name is None:
        return None
    return f"was begun with {name}={then.get(name)!r}, not {now.get(name)!r}.{cure}"


def _wrong_data_size(then: dict, now: dict) -> str | None:
    """The place in an epoch is one among so many examples, so their number must be the same."""
    old = {name: leaf[:2] for name, leaf in then.items()}
    new = {name: leaf[:2] for name, leaf in now.items()}
    name = differing(new, old)
    if name is None:
        return None
    return f"was trained on other data: {name} was {old.get(name)}, not {new.get(name)}."


def _wrong_processes(place: Any) -> str | None:
    places = place if isinstance(place, list) else [place]
    if not any(places) or len(places) == hosts.count():
        return None
    return (
        f"was written by {len(places)} processes, each with its part of the stream; this is "
        f"{hosts.count()}."
    )


def _inexact(then: About, now: About) -> str | None:
    if name := differing(now["versions"], then["versions"]):
        return (
            f"was written with {name} {then['versions'].get(name)}, and this is "
            f"{now['versions'].get(name)}."
        )
    if name := differing(now["data"], then["data"]):
        return f"was trained on other data: {name} differs."
    if name := differing(now["start"]["leaves"], then["start"]["leaves"]):
        return f"was begun from another state: {name} differs{_starts(then, now)}."
    if now["program"] != then["program"]:
        return (
            "is of another program: the model, loss, optimizer, sampler, transform or a "
            "constant in them (a learning rate) differs."
        )
    old = then.get("devices", ONE_DEVICE)
    if now["devices"] != old:
        return (
            f"was written on {old}, and this is {now['devices']}: the same training, but for "
            "the rounding of sums."
        )
    return None


def _starts(then: About, now: About) -> str:
    """A remark if the two trainings do not start at the same step."""
    starts = []
    for about in (then, now):
        starts.append(f"epoch {about['start']['epoch']}, step {about['start']['step']}")
    if starts[0] == starts[1]:
        return ""
    return f" (that one was at {starts[0]}, the state given is at {starts[1]})"


def changed_at_start(then: About, now: About) -> list[str]:
    """The leaves of the optimizer's state that this call begins with other values of."""
    old = then["start"]["leaves"]
    new = now["start"]["leaves"]
    return [
        name
        for name in new
        if name.startswith(".opt_state") and name in old and new[name] != old[name]
    ]
