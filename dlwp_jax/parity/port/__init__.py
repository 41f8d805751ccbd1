"""Write the JAX twin of a torch model as a source file, and prove it equal.

A model is run once and recorded (`record`); every module of a class of its own becomes a class
(`classes`), its forward a `__call__` (`body`, with `functions` for torch's functions and
`layers` for its layers), and all of it one file (`write`, `style`), which is then loaded and
compared (`prove`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import linecache
import math
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from dlwp_jax import nn
from dlwp_jax.parity.files import fill
from dlwp_jax.parity.forward import as_numpy, copied, dtype_of, input_turns, tensors, unwrapped
from dlwp_jax.parity.port import functions
from dlwp_jax.parity.port.classes import Classes
from dlwp_jax.parity.port.fold import fold
from dlwp_jax.parity.port.layers import layer_name
from dlwp_jax.parity.port.nodes import Frame
from dlwp_jax.parity.port.prove import OTHERS_DIFFER, figures, prove, with_more
from dlwp_jax.parity.port.record import record
from dlwp_jax.parity.port.refuse import Refused
from dlwp_jax.parity.port.write import rounded, source
from dlwp_jax.parity.report import ParityReport, Row
from dlwp_jax.parity.ulps import NOTE

__all__ = ["Ported", "Refused", "port"]


@dataclasses.dataclass(frozen=True)
class Ported:
    """A torch model as JAX.

    Attributes:
      source: the text of a Python file without torch; its last class is the model's.
      model: that class, made and filled with torch's weights.
      report: the comparison in float64: eval mode, train mode, five training steps.
      holes: what `partial=True` left for you to write.
      loops: how many loops of the model are loops in the source.
    """

    source: str
    model: nnx.Module
    report: ParityReport
    holes: tuple[str, ...] = ()
    loops: int = 0


def port(
    module: torch.nn.Module,
    *inputs: Any,
    weights: Any = None,
    partial: bool = False,
    command: str = "",
) -> Ported:
    """Write a torch model as source of Flax NNX on `dlwp_jax.nn`, and prove it equal.

    Classes, attributes and the names of local variables are torch's, so `load_torch` brings
    weights over by name. Images are channels last inside, and arrays are turned only if an
    operation needs the other order. Branches on shapes and on options are those that the inputs
    take; loops over like blocks stay loops.

    Args:
      module: torch's model; it is not changed.
      *inputs: arrays in torch's layout, as the model takes them.
      weights: a state_dict or a file of one, which the model is filled with first.
      partial: write a method that raises for every module that is refused, and go on.
      command: what the docstring of the source says it was written by.

    Returns:
      A `Ported`; `report.ok` says whether it is proved.

    Raises:
      Refused: (a NotImplementedError) for what cannot be carried, with file and line: branches
        on values, writes in place that alias, custom autograd functions, unknown operators.

    >>> import numpy as np
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> ported = port(net, np.ones((5, 3), np.float32))
    >>> ported.report.ok
    True
    >>> print(ported.source[ported.source.index("class") :])
    class Net(nn.Sequential):
        def __init__(self, *, rngs: nnx.Rngs):
            super().__init__(nn.Linear(3, 4, rngs=rngs), nn.Tanh(), nn.Linear(4, 2, rngs=rngs))
    <BLANKLINE>
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"port takes a torch.nn.Module, not a {type(module).__name__}.")
    if not inputs:
        raise ValueError("port needs the inputs of the model: arrays in torch's layout.")
    if any(as_numpy(x).dtype.kind not in "biufc" for x in inputs):
        kinds = ", ".join(type(x).__name__ for x in inputs)
        raise TypeError(
            f"inputs must be arrays, not {kinds}; wrap the model in a module whose forward "
            "takes arrays and makes of them what the model takes."
        )
    module = copied(unwrapped(module))
    if weights is not None:
        fill(module, weights)
    folded = fold(module)
    with _one_thread():
        ported = _port(module, inputs, partial, command)
    if not folded:
        return ported
    note = f"folded: the weights of {', '.join(folded)}; the port trains the product."
    report = dataclasses.replace(ported.report, notes=(*ported.report.notes, note))
    return dataclasses.replace(ported, report=report)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one core: a depthwise convolution in float64 makes as many small jobs as it has
    channels, and MobileNetV2 took 25 times longer on two cores that others used too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# A port with a hole is not proved.
_NOT_COMPARED = Row(
    None, "forward", "output", math.nan, math.nan, math.nan, 0.0, "not compared"
)


# What source that is wrong raises.
_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)


def _port(
    module: torch.nn.Module, inputs: tuple[Any, ...], partial: bool, command: str
) -> Ported:
    root = module
    for place, parameter in module.named_parameters():
        if parameter.is_complex():
            raise Refused(
                f"{place} is a complex parameter, which the port does not know; "
                "keep its real and imaginary parts as two parameters."
            )
    frames, untrained = _record(root, inputs, partial)
    classes, turns = _with_fewest_turns(root, frames, inputs, partial)
    name = classes.constructed()
    layout = ["channels_first" if turn else "as_is" for turn in turns]
    head = _head(type(module).__name__, "", command)
    text = source(classes, head)
    made = loaded(text)
    try:
        model = _constructed(getattr(made, name))
    except _ERRORS as error:
        raise Refused(_failure(error, made)) from error
    if classes.holes:
        words = "not proved: " + "; ".join(classes.holes)
        return Ported(
            source(classes, _head(type(module).__name__, words, command)),
            model,
            ParityReport((_NOT_COMPARED,), (words,)),
            tuple(classes.holes),
            classes.loops,
        )
    modes = "eval" if untrained else "both" if "self.deterministic = False" in text else "same"
    more = () if untrained else _more(inputs)
    fixed = bool(more) and _is_fixed(root, more, turns, head, text)
    if classes.waves:
        root = _with_waves(root.double(), classes.waves)
    large = any(map(_is_large, frames.values()))
    try:
        report = prove(root, model, inputs, layout, modes, large)
    except _ERRORS as error:
        words = f"not proved: {_failure(error, made)}"
        text = source(classes, _head(type(module).__name__, words, command))
        return Ported(text, model, ParityReport((_NOT_COMPARED,), (words,)), (), classes.loops)
    places = sorted(set().union(*map(_constants, frames.values())))
    if OTHERS_DIFFER in report.notes and places:
        note = f"constants that may be it: {', '.join(places)}."
        report = dataclasses.replace(report, notes=(*report.notes, note))
    if untrained:
        report = dataclasses.replace(report, notes=(*report.notes, untrained))
    if fixed and report.ok:
        report = with_more(report, root, model, more, layout)
    proof = _proof(report, inputs, bool(untrained))
    if classes.zeros:
        names = ", ".join(classes.zeros)
        note = f"{names}: of zeros until torch's weights are loaded (load_torch)."
        report = dataclasses.replace(report, notes=(*report.notes, note))
        proof += "\n\nBuffers without a short expression, which load_torch brings over:\n"
        proof += "\n".join(f"{name} begins as zeros." for name in classes.zeros)
    text = source(classes, _head(type(module).__name__, proof, command))
    return Ported(text, model, report, (), classes.loops)


def _failure(error: Exception, made: ModuleType) -> str:
    """What went wrong in the written source, in a sentence; another error is raised again."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == made.__file__]
    if not own:
        raise error
    words = " ".join(str(error).split())[:300]
    return (
        f"the written source fails at {own[-1].line!r} ({type(error).__name__}: {words}); "
        "please report the torch line that it was written from."
    )


def _constants(frame: Frame) -> set[str]:
    """The lines of torch's source that read a tensor which is written as its values."""
    found = {str(node.where) for node in frame.nodes if node.kind == "constant"}
    return found.union(*(_constants(node.frame) for node in frame.nodes if node.frame))


def _is_large(frame: Frame) -> bool:
    """Whether a whole number is given or computed that 32 bits do not keep."""
    for node in frame.nodes:
        given = (*node.args, *node.kwargs.values(), node.value)
        if any(isinstance(number, int) and not _is_short(number, number) for number in given):
            return True
        value = node.value
        whole = isinstance(value, torch.Tensor) and value.dtype == torch.int64
        if whole and value.numel() and not _is_short(value.min(), value.max()):
            return True
        if node.frame is not None and _is_large(node.frame):
            return True
    return False


def _is_short(least: Any, largest: Any) -> bool:
    return bool(least >= -(2**31) and largest < 2**31)


def _constructed(kind: Callable[..., nnx.Module]) -> nnx.Module:
    """A model with zeros for weights, which torch's replace: compiling what draws its own takes
    longer than the rest of the port.
    """
    model = nnx.eval_shape(lambda: kind(rngs=nnx.Rngs(0)))
    state = nnx.state(model)
    leaves, structure = jax.tree.flatten(state)
    key = jax.random.key(0)
    made = []
    for number, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            made.append(jax.random.split(jax.random.fold_in(key, number), leaf.shape))
        else:
            made.append(jnp.asarray(np.zeros(leaf.shape, leaf.dtype)))
    nnx.update(model, structure.unflatten(made))
    return model


def _more(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with one example more; () if they do not begin with an axis of examples."""
    arrays = [as_numpy(x) for x in inputs if getattr(x, "shape", None)]
    if len(arrays) < len(inputs) or len({len(x) for x in arrays}) != 1:
        return ()
    return tuple(np.concatenate([x, x[:1]]) for x in arrays)


def _is_fixed(
    root: torch.nn.Module, inputs: tuple[Any, ...], layouts: list[bool], head: str, text: str
) -> bool:
    """Whether torch takes these inputs, and another source than this is written for them."""
    try:
        frames, _ = _record(root, inputs, False)
        classes = Classes(root, frames, layouts, False)
        classes.constructed()
        return source(classes, head) != text
    except (Refused, RuntimeError, ValueError, TypeError, LookupError, AssertionError):
        return False


def _with_waves(root: torch.nn.Module, waves: dict[str, str]) -> torch.nn.Module:
    """The model in float64 with tables of sines in float64, as the port computes them there."""
    with jax.enable_x64(True):
        for name, text in waves.items():
            table = np.array(eval(text, {"jnp": jnp, "nn": nn}))
            root.get_buffer(name).copy_(torch.from_numpy(table))
    return root


def _with_fewest_turns(
    root: torch.nn.Module, frames: dict[str, Frame], inputs: tuple[Any, ...], partial: bool
) -> tuple[Classes, list[bool]]:
    """The classes, and which inputs are channels last in them. Images always are. An input of
    three axes stays as torch has it if no more arrays are turned then.
    """
    turns = list(input_turns(root, inputs))
    classes = Classes(root, frames, turns, partial)
    for place, x in enumerate(inputs):
        if not turns[place] or x.ndim != 3:
            continue
        other = [*turns[:place], False, *turns[place + 1 :]]
        as_given = Classes(root, frames, other, partial)
        if _count_of_turns(as_given) <= _count_of_turns(classes):
            classes, turns = as_given, other
    return classes, turns


def _count_of_turns(classes: Classes) -> int:
    text = source(classes, "")
    return sum(text.count(f"jnp.{name}(") for name in ("swapaxes", "moveaxis", "transpose"))


def _record(
    root: torch.nn.Module, inputs: tuple[Any, ...], partial: bool
) -> tuple[dict[str, Frame], str]:
    """What the model does in eval and in train mode, and why it does not run in the latter."""
    given = tuple(tensors(inputs, dtype_of(root)))
    how: dict[str, Any] = {
        "is_layer": lambda module: bool(layer_name(module)),
        "is_known": functions.is_known,
        "partial": partial,
    }
    root.eval()
    state = torch.random.get_rng_state()
    frames = {"eval": record(root, given, **how)}
    kept = copy.deepcopy(root.state_dict())
    root.train()
    why = ""
    try:
        frames["train"] = record(root, given, **how)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, Refused):
            raise
        why = f"train mode was not looked at: {str(error).splitlines()[0]}"
    finally:
        root.load_state_dict(kept)
        root.eval()
        torch.random.set_rng_state(state)
    return frames, why


def _head(name: str, proof: str, command: str) -> str:
    lines = [f"{name}, written from its torch source by dlwp_jax.parity.port.", ""]
    if proof:
        lines += [proof, ""]
    if command:
        lines += [f"Command: {command}", ""]
    return "\n".join([*lines, "Images are channels last: [N H W C] for torch's [N C H W].", ""])


def _proof(report: ParityReport, inputs: tuple[Any, ...], untrained: bool) -> str:
    found = figures(report)
    shapes = " and ".join(str(list(getattr(x, "shape", ()))) for x in inputs)
    word = "Proved equal to torch" if report.ok else "DIFFERS from torch"
    steps = "" if found.step is None else f", five training steps {rounded(found.step)}"
    if untrained:
        word += " in eval mode,"
    text = (
        f"{word} in float64 for input {shapes}, largest relative errors:\n"
        f"forward {rounded(found.forward)}, gradients {rounded(found.gradient)}{steps}."
    )
    text += "".join(f"\n{note}" for note in report.notes if note.startswith(f"{NOTE}:"))
    if untrained:
        text += "\nTrain mode is not compared: torch does not run in it on this input."
    return text


def loaded(text: str, name: str = "ported") -> ModuleType:
    """A source as a module; tracebacks show its lines."""
    made = ModuleType(name)
    made.__file__ = file = f"<{name} {abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    exec(compile(text, file, "exec"), made.__dict__)
    return made
