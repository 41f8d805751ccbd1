"""What was recorded: values, forwards, and sizes that remember where they come from."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port.refuse import Where

if TYPE_CHECKING:
    from dlwp_jax.parity.port.values import Values


@dataclasses.dataclass(eq=False)
class Node:
    """One value in the forward of a module.

    Attributes:
      kind: "input", "array" (a parameter or buffer), "constant", "function", "call" (of a
        module), "size" (of an axis), or "item" (of what a call or function returned).
      name: of the function, of the array, or of the argument.
      args, kwargs: as given, with nodes in the place of tensors and sizes.
      value: the tensor, whole number or structure that was seen.
      where: the line of the torch source.
      names: the local variables that held it, in order.
      in_list: the local list that held it, and its place there.
      module: the module that was called.
      frame: what that module recorded, if it is not a known layer.
    """

    kind: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    value: Any = None
    where: Where | None = None
    names: list[str] = dataclasses.field(default_factory=list)
    in_list: tuple[str, int] | None = None
    module: torch.nn.Module | None = None
    frame: Frame | None = None
    called: str = ""  # the local variable that held the module

    @property
    def ndim(self) -> int:
        """The number of axes; 0 for what is no tensor."""
        return self.value.ndim if isinstance(self.value, torch.Tensor) else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that were seen."""
        return tuple(map(int, self.value.shape))

    @property
    def is_tensor(self) -> bool:
        """Whether the value is a tensor."""
        return isinstance(self.value, torch.Tensor)


@dataclasses.dataclass(eq=False)
class Frame:
    """One run of a module's forward.

    Attributes:
      module: whose forward it was.
      inputs: argument's name -> structure of nodes and constants.
      nodes: in the order of their computation.
      output: the structure of nodes that was returned.
      hole: why the forward could not be recorded, if it could not.
      training: whether the module was in train mode.
      known: the node of every tensor, by the tensor's identity.
    """

    module: torch.nn.Module
    name: str
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    output: Any = None
    hole: str = ""
    training: bool = False
    known: dict[int, tuple[Any, Node]] = dataclasses.field(default_factory=dict)


def by_module(frame: Frame) -> dict[int, Frame]:
    """The first forward of each module in a forward, by the id of the module."""
    found: dict[int, Frame] = {}
    for one in all_frames({0: frame}):
        found.setdefault(id(one.module), one)
    return found


def all_frames(found: dict[int, Frame]) -> list[Frame]:
    """These forwards and all that they contain."""
    frames, waiting, seen = [], list(found.values()), set()
    while waiting:
        frame = waiting.pop(0)
        if id(frame) in seen:
            continue
        seen.add(id(frame))
        frames.append(frame)
        waiting += [node.frame for node in frame.nodes if node.frame is not None]
    return frames


class Dim(int):
    """The size of an axis: a whole number that remembers how it was computed."""

    node: Node
    recorder: Values
    home: Frame | None  # of another module's forward it is a number like any other


class Ratio(float):
    """A number computed from sizes, as 1 / x.shape[0]: it remembers how."""

    node: Node
    recorder: Values
    home: Frame | None  # of another module's forward it is a number like any other


def remembered(value: float, node: Node, recorder: Values) -> Dim | Ratio:
    """The number, with its node."""
    number = Dim(value) if isinstance(value, int) else Ratio(value)
    number.node, number.recorder = node, recorder
    number.home = recorder.stack[-1] if recorder.stack else None
    return number


def forgotten(number: Dim | Ratio) -> int | float:
    """The number alone."""
    return int(number) if isinstance(number, Dim) else float(number)


def _arithmetic(name: str, turned: bool = False) -> Callable[..., Any]:
    compute = getattr(operator, name)

    def method(self: Dim | Ratio, other: Any) -> Any:
        if not isinstance(other, int | float) or isinstance(other, bool):
            return NotImplemented
        a, b = (other, self) if turned else (self, other)
        plain = [forgotten(x) if isinstance(x, Dim | Ratio) else x for x in (a, b)]
        return self.recorder.size_of(name, (a, b), compute(*plain))

    return method


def _negative(self: Dim | Ratio) -> Any:
    return self.recorder.size_of("neg", (self,), -forgotten(self))


def _rounded(self: Ratio, *digits: Any) -> Any:
    if digits:
        return round(forgotten(self), *digits)
    return self.recorder.size_of("round", (self,), round(forgotten(self)))


def _divided(self: Dim, other: Any) -> tuple[Any, Any]:
    return self // other, self % other


Dim.__neg__ = Ratio.__neg__ = _negative
setattr(Dim, "__divmod__", _divided)  # noqa: B010  as the others below
setattr(Ratio, "__round__", _rounded)  # noqa: B010
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _kind in (Dim, Ratio):
        setattr(_kind, f"__{_name}__", _arithmetic(_name))
        setattr(_kind, f"__r{_name}__", _arithmetic(_name, turned=True))


class Shape(tuple):
    """A torch.Size of `Dim`s."""

    def numel(self) -> int:
        """The product of all sizes."""
        total: int = 1
        for size in self:
            total = size * total
        return total
