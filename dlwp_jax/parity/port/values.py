"""Which node of a recording each value is.

Tensors are known by identity; sizes are whole numbers that remember where they come from
(`Dim`). The names of local variables are read from the running frames.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from dlwp_jax.parity.port.nodes import Dim, Frame, Node, Ratio, Shape, forgotten, remembered
from dlwp_jax.parity.port.refuse import Refused, Where, here, user_frames


class Values:
    """The values that the frames of a recording know.

    Args:
      root: the model.
    """

    def __init__(self, root: torch.nn.Module):
        super().__init__()
        self.paused = False
        self.stack: list[Frame] = []
        self.stale: dict[int, Where | None] = {}
        self.arrays: dict[int, str] = {}
        for name, array in _own_arrays(root):
            self.arrays.setdefault(id(array), name)  # of tied arrays, the first owner

    @property
    def frame(self) -> Frame:
        """Of the module that is running."""
        return self.stack[-1]

    def add(self, node: Node) -> Node:
        """Record a node."""
        self.frame.nodes.append(node)
        return node

    def bind(self, value: Any, node: Node) -> None:
        """From now on `value` is what the node computes."""
        self.frame.known[id(value)] = (value, node)
        self.stale.pop(id(value), None)

    def size_of(self, name: str, args: tuple[Any, ...], value: Any) -> Any:
        """A number computed from sizes."""
        if isinstance(value, complex):
            return value
        node = Node("size", name, tuple(map(self.node_of, args)), value=value, where=here())
        if self.paused or not self.stack:
            return remembered(value, node, self)
        self.look_for_names()
        return remembered(value, self.add(node), self)

    def node_of(self, value: Any) -> Any:
        """A structure with nodes in the place of tensors and sizes."""
        if isinstance(value, torch.Tensor | PackedSequence):
            return self.tensor(value)
        if isinstance(value, Dim | Ratio):
            return value.node if value.home is self.frame else forgotten(value)
        if isinstance(value, tuple | list):
            return (
                [*map(self.node_of, value)]
                if isinstance(value, list)
                else tuple(map(self.node_of, value))
            )
        if isinstance(value, dict):
            return {key: self.node_of(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*map(self.node_of, (value.start, value.stop, value.step)))
        return value

    def tensor(self, value: Any) -> Node:
        """The node of a tensor, or of a packed sequence."""
        if id(value) in self.stale:
            raise Refused(
                "this reads a tensor that shares its memory with one that was "
                f"changed in place at {self.stale[id(value)]}; write the change "
                "as a new tensor (x = x + y, torch.where, or clone() first).",
                here(),
            )
        known = self.frame.known.get(id(value))
        if known:
            return known[1]
        if isinstance(value, PackedSequence):
            raise Refused("a packed sequence is used in the module that packs it.", here())
        name = self.arrays.get(id(value))
        if name is None:
            if any(id(value) in frame.known for frame in self.stack[:-1]):
                raise Refused(
                    "this reads a tensor of another module's forward; "
                    "hand it over as an argument.",
                    here(),
                )
            if value.numel() > 1000 or value.grad_fn is not None:
                raise Refused(
                    f"this reads a tensor of shape {list(value.shape)} that is neither an "
                    "input, a parameter nor a buffer; give it by register_buffer.",
                    here(),
                )
            node = self.add(Node("constant", "", value=value, where=here()))
        else:
            node = self.add(Node("array", name, value=value, where=here()))
        self.bind(value, node)
        return node

    def look_for_names(self) -> None:
        """Note which local variables hold which values."""
        forward = getattr(type(self.frame.module).forward, "__code__", None)
        held = [pair for frame in user_frames(forward) for pair in frame.f_locals.items()]
        for name, value in held:
            if isinstance(value, torch.Tensor | PackedSequence):
                known = self.frame.known.get(id(value))
                if known and name not in known[1].names and name.isidentifier():
                    known[1].names.append(name)
            elif isinstance(value, Dim | Ratio):
                if value.home is not self.frame or name in value.node.names:
                    continue
                value.node.names.append(name)
            elif isinstance(value, list) and name.isidentifier():
                for i, item in enumerate(value):
                    known = isinstance(item, torch.Tensor) and self.frame.known.get(id(item))
                    if known and known[1].in_list is None:
                        known[1].in_list = (name, i)

    def owner_of_view(self, view: Any) -> tuple[torch.Tensor, Node] | None:
        """The tensor of which a tensor is `tensor[index]`, and the node of that."""
        known = self.frame.known.get(id(view))
        if known is None or known[1].kind != "function" or known[1].name != "getitem":
            return None
        for other, node in self.frame.known.values():
            shared = node is known[1].args[0] and id(other) not in self.stale
            if (
                shared
                and view.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
            ):
                return other, known[1]
        return None

    def changed(self, tensor: Any) -> None:
        """Whoever shares a changed tensor's memory may not be read any more."""
        storage = tensor.untyped_storage().data_ptr()
        for frame in self.stack:
            for other, _ in frame.known.values():
                if (
                    isinstance(other, torch.Tensor)
                    and other is not tensor
                    and other.untyped_storage().data_ptr() == storage
                ):
                    self.stale[id(other)] = here()

    def result(self, node: Node, value: Any, fresh: bool) -> Any:
        """Record what a function or module gave; parts of a structure are items."""
        node.value = value
        self.add(node)
        if isinstance(value, torch.Tensor):
            if fresh and id(value) in self.frame.known | dict.fromkeys(self.arrays):
                # The same object as an input: another one, so that both keep their own names.
                value = node.value = torch.ops.aten.alias(value)
            self.bind(value, node)
            return value
        return self.items(node, value)

    def items(self, node: Node, value: Any) -> Any:
        """Bind the tensors in a structure to the items of a node."""
        if isinstance(value, dict):
            for key in list(value):
                value[key] = self.item(node, key, value[key])
            return value
        if isinstance(value, tuple | list):
            parts = [self.item(node, i, part) for i, part in enumerate(value)]
            if isinstance(value, list):
                return parts
            if hasattr(value, "n_sequence_fields"):  # torch.return_types.max, with .values
                return type(value)(parts)
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    def item(self, node: Node, key: Any, value: Any) -> Any:
        """One part of a structure."""
        if isinstance(value, PackedSequence):
            part = self.add(Node("item", "", (node, key), value=value, where=node.where))
            self.bind(value, part)
            return value
        if isinstance(value, torch.Tensor):
            part = Node("item", "", (node, key), value=value, where=node.where)
            return self.result(part, value, fresh=True)
        if isinstance(value, tuple | list | dict):
            part = self.add(Node("item", "", (node, key), value=value, where=node.where))
            return self.items(part, value)
        return value

    def sizes(self, x: torch.Tensor) -> Shape:
        """The shape of a tensor, each size with its node."""
        owner, sizes = self.tensor(x), []
        for axis, size in enumerate(x.shape):
            node = Node("size", "shape", (owner, axis), value=int(size), where=here())
            sizes.append(remembered(int(size), self.add(node), self))
        return Shape(sizes)

    def entered(self, name: str, value: Any) -> Any:
        """An argument of a module: its tensors become inputs of the frame."""
        if isinstance(value, torch.Tensor):
            node = self.add(Node("input", name, value=value, names=[name]))
            self.bind(value, node)
            return node
        holds = any(isinstance(part, torch.Tensor) for part in leaves(value))
        if isinstance(value, tuple | list | dict) and holds:
            kept = copy.copy(value)  # the caller may append to it later
            whole = self.add(Node("input", name, value=kept, names=[name]))
            self.structure(whole, value)
            return whole
        return number(value)

    def structure(self, whole: Node, value: Any) -> None:
        """The tensors inside of a structure that was handed over, as items."""
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            if isinstance(part, torch.Tensor | tuple | list | dict):
                node = self.add(Node("item", "", (whole, key), value=part))
                if isinstance(part, torch.Tensor):
                    self.bind(part, node)
                else:
                    self.structure(node, part)


def packed_node(node: Node) -> Node:
    """Where a packed sequence was packed: behind it are layers."""
    while node.name != "packed":
        node = node.args[0]
    return node


def plain(value: Any) -> Any:
    """A structure with numbers instead of sizes that remember."""
    if isinstance(value, Dim | Ratio):
        return forgotten(value)
    if type(value) in (tuple, list, Shape):
        parts = [plain(item) for item in value]
        return parts if isinstance(value, list) else tuple(parts)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*map(plain, (value.start, value.stop, value.step)))
    return value


def number(value: Any) -> Any:
    """A number instead of a size that remembers."""
    return forgotten(value) if isinstance(value, Dim | Ratio) else value


def leaves(value: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def _own_arrays(root: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for owner, module in root.named_modules():
        held = {**module._parameters, **module._buffers}
        for name, value in held.items():
            if value is not None:
                yield f"{owner}.{name}".lstrip("."), value
