"""From a recorded frame to the lines of a `__call__`.

Every value is marked as lying channels last (`[N *spatial C]`) or as torch has it; axes are
renumbered, and an array is turned only if an operation asks for the other order.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from dlwp_jax.parity.port import functions
from dlwp_jax.parity.port.functions.arithmetic import largest
from dlwp_jax.parity.port.functions.common import ATOM, UNARY, Val, literal, physical
from dlwp_jax.parity.port.functions.tables import PASSED_ON, SIGNS
from dlwp_jax.parity.port.loops import unpacked
from dlwp_jax.parity.port.nodes import Frame, Node
from dlwp_jax.parity.port.refuse import Refused

if TYPE_CHECKING:
    from dlwp_jax.parity.port.classes import Classes

_TAKEN = {
    "self",
    "nn",
    "nnx",
    "jax",
    "jnp",
    "math",
    "losses",
    "rngs",
    *dir(builtins),
    *keyword.kwlist,
}
_MARKS = re.compile("\x02\\d+\x03")
_TRIVIAL = re.compile(r"[\w.]+(\[[^\[\]]*\])*")


class Body:
    """Writes the lines of one frame; see the module."""

    def __init__(self, classes: Classes, frame: Frame, layouts: list[Any]):
        self.classes, self.frame, self.module = classes, frame, frame.module
        self.vals: dict[Node, Val] = {}
        self.lines: list[str] = []
        self.arguments: list[str] = []
        self.functional: list[tuple[str, str]] = []  # attributes made for functions (dropout)
        self.holder: dict[str, Node] = {}
        self.aliases: dict[Node, list[Node]] = defaultdict(list)
        self.lists: dict[str, list[Node]] = {}
        self.ndims: dict[str, set[int]] = defaultdict(set)
        self._find_uses()
        self.kept_lists = self._wanted_lists()
        given = iter(layouts)
        for name, value in frame.inputs.items():
            self.arguments.append(name)
            layout = next(given, False)
            if isinstance(value, Node):
                self.vals[value] = Val(name, layout)
                self.holder[name] = value
        for node in frame.nodes:
            if node in self.statements:
                self._statement(node)
        text, self.output = self._output(frame.output)
        self.lines.append(f"return {text}")
        self.lines = unpacked(self.lines, self.ndims)

    # Which values get a line of their own, and how long each is needed.

    def _find_uses(self) -> None:
        self.uses: dict[Node, int] = defaultdict(int)
        self.end: dict[Node, float] = defaultdict(float)
        needed: set[Node] = set()
        for node in nodes_in(self.frame.output):
            needed.add(node)
            self.uses[node] += 1
            self.end[node] = float("inf")
        for node in reversed(self.frame.nodes):
            if node.kind == "call" and _has_statistics(node.module):
                needed.add(node)
            if node in needed:
                for arg in nodes_in((node.args, node.kwargs)):
                    needed.add(arg)
                    self.uses[arg] += 1
        position = {node: i for i, node in enumerate(self.frame.nodes)}
        self.statements: set[Node] = set()
        for node in reversed(self.frame.nodes):
            if node not in needed:
                continue
            if self._own_line(node):
                self.statements.add(node)
            root = position[node] if node in self.statements else self.end[node]
            for arg in nodes_in((node.args, node.kwargs)):
                self.end[arg] = max(self.end[arg], root)
        self.position = position

    def _own_line(self, node: Node) -> bool:
        if node.kind == "size":
            return bool(node.names) or (node.name != "shape" and self.uses[node] > 1)
        if node.kind == "array" and self.uses[node] > 1:
            return len(self._of_array(node).text) > 60  # a formula
        if node.kind not in ("function", "call"):
            return False
        passed_on = node.kind == "function" and node.name in PASSED_ON
        if passed_on and not node.names:
            return False
        if node.name in ("max", "min") and not node.is_tensor and self._of_one_part(node):
            return False
        structure = not node.is_tensor
        return bool(node.names) or self.uses[node] != 1 or (structure and self.uses[node] > 0)

    def _of_one_part(self, node: Node) -> bool:
        """Whether one item of a structure is all that is used."""
        parts = [n for n in self.frame.nodes if n.kind == "item" and n.args[0] is node]
        used = [part for part in parts if self.uses[part]]
        return len(used) == 1 and self.uses[node] == 1

    def _statement(self, node: Node) -> None:
        val = self.expression(node)
        if not self.uses[node]:
            self.lines.append(val.text)
            return
        if _TRIVIAL.fullmatch(val.text) and node.kind != "size":
            self.vals[node] = val
            self._keep(val.text, node)
            return
        if not node.is_tensor and node.kind != "size" and self._take_apart(node, val):
            return
        if node.in_list and not node.names and self._append(node, val):
            return
        self._name(node, val)
        if node.in_list:
            self._append(node, self.vals[node])

    def _keep(self, text: str, node: Node) -> None:
        """A value that is written as another one's name needs that name as long as itself."""
        owner = self.holder.get(re.split(r"\W", text)[0])
        if owner is None:
            return
        self.end[owner] = max(self.end[owner], self.end[node])
        self.aliases[owner].append(node)
        if text.isidentifier():
            owner.names += [name for name in node.names if name not in owner.names]

    def _rename(self, owner: Node, text: str) -> None:
        """From here a value, and what is written with its name, stands under another name."""
        before = self.vals[owner].text
        for node in (owner, *self.aliases[owner]):
            val = self.vals[node]
            self.vals[node] = val._replace(text=text + val.text.removeprefix(before))

    def _take_apart(self, node: Node, val: Val) -> bool:
        """a, b = ... for the items of a structure, if all of them have names."""
        if not isinstance(node.value, list | tuple):
            return False
        parts = {
            n.args[1]: n for n in self.frame.nodes if n.kind == "item" and n.args[0] is node
        }
        used = {key: part for key, part in parts.items() if self.uses[part]}
        names = [
            used[i].names[0] if i in used and used[i].names else ""
            for i in range(len(node.value))
        ]
        given = [name for name in names if name]
        direct = sum(self.uses[part] > 0 for part in used.values())
        if (
            self.uses[node] > len(parts)
            or len(given) != direct
            or len(set(given)) != len(given)
        ):
            return False
        if any(
            name in _TAKEN or not self._is_free(name, self.position[node]) for name in given
        ):
            return False
        self.vals[node] = val
        layouts = {i: self._of_item(part).last for i, part in used.items()}
        for i, part in used.items():
            self.holder[names[i]] = part
            self.vals[part] = Val(names[i], layouts[i])
        self.lines.append(f"{', '.join(name or '_' for name in names)} = {val.text}")
        return True

    # Lists that the model fills: features.append(x).

    def _wanted_lists(self) -> set[str]:
        """The local lists that are read as a whole, or hold values without another name."""
        wanted = {n.in_list[0] for n in self.statements if n.in_list and not n.names}
        for node in self.frame.nodes:
            for arg in (*node.args, *node.kwargs.values()):
                hints = (
                    [n.in_list for n in arg if isinstance(n, Node)]
                    if isinstance(arg, list | tuple)
                    else []
                )
                name = hints[0][0] if hints and hints[0] else ""
                if len(hints) > 1 and hints == [(name, i) for i in range(len(arg))]:
                    wanted.add(name)
        return {name for name in wanted if name not in self.frame.inputs and name not in _TAKEN}

    def _append(self, node: Node, val: Val) -> bool:
        assert node.in_list is not None
        name, place = node.in_list
        if name not in self.kept_lists:
            return False
        if name not in self.lists:
            before = [self._at(name, i) for i in range(place)]
            if None in before:
                return False
            self.lists[name] = [n for n in before if n is not None]
            inside = ", ".join(self.vals[n].text for n in self.lists[name])
            self.lines.insert(len(self.lines) - bool(node.names), f"{name} = [{inside}]")
        if len(self.lists[name]) != place:
            return False
        self.lists[name].append(node)
        self.lines.append(f"{name}.append({val.text})")
        if not node.names:
            self.vals[node] = Val(f"{name}[{place}]", val.last)
        return True

    def _at(self, name: str, place: int) -> Node | None:
        found = [n for n in self.vals if n.in_list == (name, place)]
        return found[0] if found else None

    def whole_list(self, parts: Any) -> str:
        """The name of the list that holds these values and no others, if there is one."""
        for name, held in self.lists.items():
            if len(held) == len(parts) and all(
                a is b for a, b in zip(held, parts, strict=True)
            ):
                return name
        return self._whole_input(parts)

    def _whole_input(self, parts: Any) -> str:
        """The name of the argument that is a list of these values."""
        items = [part for part in parts if isinstance(part, Node) and part.kind == "item"]
        owners = {item.args[0] for item in items}
        if len(items) != len(parts) or len(owners) != 1:
            return ""
        owner = owners.pop()
        listed = owner.kind == "input" and isinstance(owner.value, list | tuple)
        if listed and [item.args[1] for item in items] == list(range(len(owner.value))):
            return self.vals[owner].text
        return ""

    def _name(self, node: Node, val: Val) -> None:
        wanted = node.names[0] if node.names else _default_name(node)
        name = wanted if wanted not in _TAKEN else f"{wanted}_"
        other = self.holder.get(name)
        here = self.position[node]
        if other is not None and other is not node and self.end[other] > here:
            kept, place = other.in_list or ("", 0)
            second = [n for n in other.names if n != name and n not in _TAKEN]
            # The copy is ahead of this line, which may be the last to read the name's value.
            free = [n for n in second if self._is_free(n, here - 1)]
            if other in self.lists.get(kept, []):
                self._rename(other, f"{kept}[{place}]")
            elif free:
                self.lines.append(f"{free[0]} = {name}")
                self._rename(other, free[0])
                self.holder[free[0]] = other
            else:
                number = 2
                while not self._is_free(f"{wanted}_{number}", here):
                    number += 1
                name = f"{wanted}_{number}"
        self.holder[name] = node
        self.lines.append(f"{name} = {val.text}")
        self.vals[node] = Val(name, val.last)

    def _is_free(self, name: str, here: float) -> bool:
        other = self.holder.get(name)
        known = {*self.arguments, *self.kept_lists}
        return name not in known and (other is None or self.end[other] <= here)

    # Expressions.

    def val(self, node: Any) -> Any:
        """The value of a node, of a structure of nodes, or of a constant."""
        if isinstance(node, Node):
            if node not in self.vals:
                found = self.expression(node)
                if node.kind not in ("function", "call") or node.name in PASSED_ON:
                    return found  # its text may change with the name of another value
                self.vals[node] = found
            return self.vals[node]
        if isinstance(node, list | tuple):
            return [self.val(part) for part in node]
        return Val(self.number(node) if _is_number(node) else literal(node), False)

    def number(self, value: Any, name: str = "") -> str:
        """A constant of the model, which may be another in another instance of the class."""
        if isinstance(value, Node):
            return self.text(value)
        if not name:
            held = vars(self.module).items()
            name = next(
                (
                    n
                    for n, v in held
                    if type(v) is type(value)
                    and v == value
                    and value not in (0, 1)
                    and n != "training"
                ),
                "size",
            )
        return self.classes.slot(name, value)

    def draws(self) -> str:
        """A key for random numbers, from a stream that the module gets."""
        self.functional.append(("rngs", "rngs.dropout.fork()"))
        return "self.rngs()"

    def text(self, arg: Any) -> str:
        """A node or constant as an argument, in torch's layout."""
        if isinstance(arg, list | tuple):
            inner = ", ".join(self.text(part) for part in arg)
            if isinstance(arg, list):
                return f"[{inner}]"
            return f"({inner},)" if len(arg) == 1 else f"({inner})"
        if isinstance(arg, slice):
            return self._slice(arg)
        if isinstance(arg, Node):
            return self.plain(arg).text
        if arg is Ellipsis:
            return "..."
        return self.val(arg).text

    def _slice(self, arg: slice) -> str:
        """a:b, with spaces around the colon if a part is more than a name or a number."""
        parts = ["" if p is None else self.text(p) for p in (arg.start, arg.stop)]
        parts += [] if arg.step is None else [self.text(arg.step)]
        shown = [_MARKS.sub("0", part) for part in parts]
        if all(re.fullmatch(r"-?[\w]*", part) for part in shown):
            return ":".join(parts)
        return " : ".join(parts).strip()

    def part(self, val: Val, binds: int, right: bool = False) -> str:
        """An operand, in parentheses if it needs them."""
        loose = val.binds > binds or (right and val.binds == binds and binds != ATOM)
        return f"({val.text})" if loose else val.text

    def plain(self, node: Node) -> Val:
        """The value with the axes in torch's order."""
        val = self.val(node)
        if not isinstance(val.last, bool) or not val.last or node.ndim < 3:
            return val
        if node.ndim == 3:
            return Val(f"jnp.swapaxes({val.text}, 1, 2)", False)
        return Val(f"jnp.moveaxis({val.text}, -1, 1)", False)

    def last(self, node: Node) -> Val:
        """The value with the channels last."""
        val = self.val(node)
        if val.last or node.ndim < 3:
            return val
        if node.ndim == 3:
            return Val(f"jnp.swapaxes({val.text}, 1, 2)", True)
        return Val(f"jnp.moveaxis({val.text}, 1, -1)", True)

    def axis(self, node: Node, axis: int, ndim: int | None = None) -> int:
        """Where torch's axis of a value is here."""
        ndim = node.ndim if ndim is None else ndim
        return physical(axis, ndim) if self.val(node).last is True and ndim > 2 else axis

    def expression(self, node: Node) -> Val:
        """What computes a node."""
        try:
            write = getattr(self, f"_of_{node.kind}")
            val = write(node)
            twice = [*self._written_twice(node, val.text)]
            for arg in twice:
                self._name(arg, self.vals[arg])
            return write(node) if twice else val
        except Refused as error:
            if error.where is None and node.where is not None:
                raise Refused(str(error), node.where) from error
            raise
        except (TypeError, AttributeError) as error:
            ratios = [n for n in nodes_in((node.args, node.kwargs)) if type(n.value) is float]
            if not ratios:
                raise
            raise Refused(
                f"{node.name} of a number computed from sizes is not known to the port.",
                node.where,
            ) from error

    def _written_twice(self, node: Node, text: str) -> Iterator[Node]:
        """The calls among a node's arguments that its text repeats, as for their shapes."""
        for arg in nodes_in((node.args, node.kwargs)):
            while arg.kind == "function" and arg.name in PASSED_ON and arg not in self.vals:
                arg = arg.args[0]
            val = self.vals.get(arg)
            if val is None or arg.kind not in ("function", "call"):
                continue
            if not _TRIVIAL.fullmatch(val.text) and text.count(val.text) > 1:
                yield arg

    def _of_input(self, node: Node) -> Val:
        return self.vals[node]

    def _of_item(self, node: Node) -> Val:
        owner, key = node.args
        if owner.name in ("max", "min") and key in (0, 1) and owner not in self.vals:
            return largest(self, owner, key)
        whole = self.val(owner)
        layout = whole.last[key] if isinstance(whole.last, list | dict | tuple) else False
        if isinstance(whole.last, bool) and node.is_tensor:
            layout = whole.last and node.ndim > 2
        return Val(f"{self.part(whole, ATOM)}[{key!r}]", layout)

    def _of_size(self, node: Node) -> Val:
        if node.name == "shape":
            owner, axis = node.args
            if owner not in self.vals:
                if owner.kind == "array":
                    self.vals[owner] = self.expression(owner)
                elif owner.kind not in ("item",):
                    self._name(owner, self.expression(owner))
            text = self.val(owner).text
            self.ndims[text].add(owner.ndim)
            return Val(f"{text}.shape[{self.axis(owner, axis)}]")
        if node.name.startswith("math.") or node.name in ("int", "float", "round"):
            return Val(f"{node.name}({', '.join(self.val(arg).text for arg in node.args)})")
        if node.name == "neg":
            return Val(f"-{self.part(self.val(node.args[0]), UNARY)}", False, UNARY)
        sign, binds = SIGNS[node.name]
        a, b = (self.val(arg) for arg in node.args)
        left = self.part(a, binds)
        if node.name == "pow" and (a.binds or _is_negative(node.args[0])):
            left = f"({a.text})"
        return Val(f"{left} {sign} {self.part(b, binds, True)}", False, binds)

    def _of_constant(self, node: Node) -> Val:
        values = node.value.tolist()
        return Val(literal(values) if node.ndim == 0 else f"jnp.array({literal(values)})")

    def _of_array(self, node: Node) -> Val:
        return Val(self.classes.array(self.module, self.frame.name, node.name))

    def _of_function(self, node: Node) -> Val:
        return functions.write(self, node)

    def _of_call(self, node: Node) -> Val:
        return self.classes.call(self, node)

    def access(self, name: str) -> str:
        """The path of a submodule from `self`."""
        relative = name.removeprefix(f"{self.frame.name}.") if self.frame.name else name
        if self.frame.name and relative == name:
            called = self.classes.modules[name]
            within = self.module.named_modules(remove_duplicate=False)
            relative = next((n for n, m in within if m is called), name)
        if self.frame.name and relative == name:
            raise Refused(
                f"{name} is outside of {self.frame.name}, which calls it; "
                "hand it over as an argument."
            )
        return access(self.module, relative)

    def _output(self, value: Any) -> tuple[str, Any]:
        if isinstance(value, Node):
            at_root = not self.frame.name
            val = self.val(value)
            if at_root and value.ndim > 2 and val.last is False and self._is_image(value):
                val = self.last(value)
            return val.text, val.last
        if isinstance(value, dict):
            parts = {key: self._inner_output(part) for key, part in value.items()}
            inner = ", ".join(f"{key!r}: {text}" for key, (text, _) in parts.items())
            return f"{{{inner}}}", {key: layout for key, (_, layout) in parts.items()}
        if isinstance(value, list | tuple):
            pairs = [self._inner_output(part) for part in value]
            inner = ", ".join(text for text, _ in pairs)
            layouts = [layout for _, layout in pairs]
            if isinstance(value, list):
                return f"[{inner}]", layouts
            return f"({inner},)" if len(pairs) == 1 else f"{inner}", layouts
        return repr(value), False

    def _inner_output(self, value: Any) -> tuple[str, Any]:
        """A part of a result: tuples in parentheses."""
        text, layout = self._output(value)
        return (f"({text})" if isinstance(value, tuple) and len(value) != 1 else text), layout

    def _is_image(self, value: Node) -> bool:
        given = [n for n in self.frame.inputs.values() if isinstance(n, Node) and n.is_tensor]
        return any(self.vals[n].last is True and n.ndim == value.ndim for n in given)


def access(module: torch.nn.Module, relative: str) -> str:
    """`self.layers[0].conv` for the path layers.0.conv."""
    text = "self"
    here: Any = module
    for step in relative.split("."):
        if isinstance(here, torch.nn.Sequential | torch.nn.ModuleList):
            text += f"[{list(here._modules).index(step)}]"
        elif (
            isinstance(here, torch.nn.ModuleDict | torch.nn.ParameterDict)
            and here is not module
        ):
            text += f"[{step!r}]"
        elif isinstance(here, torch.nn.ParameterList) and here is not module:
            text += f"[{step}]"
        elif step.isidentifier() and not keyword.iskeyword(step):
            text += f".{step}"
        else:
            text = f"getattr({text}, {step!r})"
        here = (
            getattr(here, step)
            if hasattr(here, step)
            else here._modules.get(step, here)
            if isinstance(here, torch.nn.Module)
            else here
        )
    return text


def nodes_in(value: Any) -> Iterator[Node]:
    """All nodes in a structure."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from nodes_in(part)
    elif isinstance(value, dict):
        yield from nodes_in(list(value.values()))
    elif isinstance(value, slice):
        yield from nodes_in((value.start, value.stop, value.step))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_negative(value: Any) -> bool:
    return _is_number(value) and value < 0


def _default_name(node: Node) -> str:
    if node.kind in ("call", "array"):
        last = node.name.rpartition(".")[2]
        return last if last.isidentifier() else node.called or "y"
    name = node.name.rstrip("_")
    return name if name.isidentifier() and not keyword.iskeyword(name) else "y"


def _has_statistics(module: torch.nn.Module | None) -> bool:
    kinds = torch.nn.modules.batchnorm._NormBase
    return module is not None and any(isinstance(m, kinds) for m in module.modules())
