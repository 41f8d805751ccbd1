"""Classes of the written file: one for all modules of a torch class that compute the same."""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from dlwp_jax.parity.port.arrays import (
    begin_alike,
    buffer_text,
    constant_text,
    initial_text,
    waves_text,
    without_scales,
)
from dlwp_jax.parity.port.body import Body, access, nodes_in
from dlwp_jax.parity.port.constructors import Constructors, base_of, children_of
from dlwp_jax.parity.port.functions import losses
from dlwp_jax.parity.port.functions.common import Val, dtype_text, literal
from dlwp_jax.parity.port.layers import LAYERS, layer_name
from dlwp_jax.parity.port.loops import folded
from dlwp_jax.parity.port.marks import MARK, Written
from dlwp_jax.parity.port.nodes import Frame, Node, all_frames, by_module
from dlwp_jax.parity.port.refuse import Refused
from dlwp_jax.parity.port.sequentials import (
    begins_with_images,
    chained,
    lengths_of,
    with_super,
)
from dlwp_jax.parity.port.signatures import arguments_of, returned_by
from dlwp_jax.parity.port.values import packed_node


class Classes(Constructors):
    """All classes of a port; see the module.

    Args:
      root: the model.
      frames: what was recorded, in eval mode and (if it differs or could be run) in train mode.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        frames: dict[str, Frame],
        layouts: list[bool],
        partial: bool = False,
    ):
        self.partial = partial
        super().__init__(root)
        self.root = root
        self.frames = {mode: by_module(frame) for mode, frame in frames.items()}
        self.modules = dict(root.named_modules())
        self.done: dict[int, tuple[str, list[Any], Any]] = {}
        self.waiting: dict[int, list[Body]] = {}  # of a Sequential that is not made yet
        self.owner: dict[int, str] = {}
        self.scopes: list[dict[int, str]] = [
            {}
        ]  # of each __init__: module -> its place in self
        self.waves: dict[str, str] = {}  # buffers that are written as a formula
        self.zeros: list[str] = []  # buffers that no short expression makes
        self.holes: list[str] = []
        self.constructor, _, self.outputs = self.of(root, layouts)
        self.resolve()

    # Arrays.

    def array(self, module: torch.nn.Module, frame: str, name: str) -> str:
        """The text of a parameter or buffer."""
        owner_name, _, leaf = name.rpartition(".")
        owner: Any = self.modules[owner_name]
        if leaf in owner._buffers and leaf in owner._non_persistent_buffers_set:
            text = constant_text(owner._buffers[leaf], name)
            if text == waves_text(owner._buffers[leaf]):
                self.waves[name] = text
            return text
        inside = not frame or name.startswith(f"{frame}.")
        if not inside:
            raise Refused(
                f"{name} is outside of {frame}, which reads it; hand it over as an argument."
            )
        place = access(module, name.removeprefix(f"{frame}.") if frame else name)
        kind = layer_name(owner)
        if not kind or owner is module or leaf not in ("weight",):
            return f"{place}[...]"
        here = place.rpartition(".")[0]
        if kind == "Linear":
            return f"{here}.kernel[...].T"
        if kind == "Embedding":
            return f"{here}.embedding[...]"
        if kind.startswith("Conv"):
            n = owner.weight.ndim
            return f"jnp.transpose({here}.kernel[...], {(n - 1, n - 2, *range(n - 2))})"
        if "Norm" in kind:
            return f"{here}.scale[...]"
        raise Refused(f"{name} is read outside of its layer, which the port does not know.")

    # Calls.

    def call(self, body: Body, node: Node) -> Val:
        """The expression of a module's call."""
        module = node.module
        assert module is not None
        kind = layer_name(module)
        if kind:
            return self._call_layer(body, node, kind)
        if self._is_in_place(module, node.name):
            return losses.in_place(body, node)
        frame = node.frame
        assert frame is not None
        given = dict(zip(frame.inputs, node.args, strict=False)) | node.kwargs
        given = {name: value for name, value in given.items() if list(nodes_in(value))}
        known = self.done.get(id(module))
        layouts = []
        for value in given.values():
            layout = _layout(body, value)
            if layout is False and isinstance(value, Node) and value.ndim > 2:
                layout = begins_with_images(module)
            layouts.append(layout)
        if known is None:
            _, _, output = self.of(module, layouts)
        else:
            _, layouts, output = known
            self._check_same(module, frame, layouts)
        names = [*given]
        texts = []
        for i, (name, value) in enumerate(given.items()):
            text = self._argument(body, value, layouts[i] if i < len(layouts) else False)
            by_keyword = name in node.kwargs
            texts.append(f"{name}={text}" if by_keyword else text)
        del names
        return Val(f"{body.access(node.name)}({', '.join(texts)})", output)

    def _is_in_place(self, module: torch.nn.Module, name: str) -> bool:
        """Whether a module is a loss, and not in a list."""
        listed = torch.nn.Sequential | torch.nn.ModuleList | torch.nn.ModuleDict
        held = self.modules.get(name.rpartition(".")[0])
        return losses.is_loss(module) and not isinstance(held, listed)

    def _argument(self, body: Body, value: Any, layout: Any) -> str:
        if isinstance(value, Node):
            if value.is_tensor:
                return (body.last(value) if layout is True else body.plain(value)).text
            return body.val(value).text
        if isinstance(value, dict):
            parts = [
                f"{key!r}: {self._argument(body, part, (layout or {}).get(key))}"
                for key, part in value.items()
            ]
            return f"{{{', '.join(parts)}}}"
        if isinstance(value, list | tuple):
            layout = layout if isinstance(layout, list) else [False] * len(value)
            whole = body.whole_list(value)
            if whole and [_layout(body, part) for part in value] == list(layout):
                return whole
            parts = [
                self._argument(body, part, of) for part, of in zip(value, layout, strict=True)
            ]
            return (
                f"[{', '.join(parts)}]" if isinstance(value, list) else f"({', '.join(parts)},)"
            )
        return literal(value)

    def _check_same(self, module: torch.nn.Module, frame: Frame, layouts: list[Any]) -> None:
        """A module that is called again must compute the same."""
        first = next(found[id(module)] for found in self.frames.values() if id(module) in found)
        if frame is first or frame.hole:
            return
        modes = [mode for mode, found in self.frames.items() if frame in all_frames(found)]
        mode = modes[0] if modes else ""
        for name, found in self.frames.items():
            if name == mode and id(module) in found:
                first = found[id(module)]
        if frame is first:
            return
        a, b = (Body(self, one, layouts) for one in (first, frame))
        if [*map(self.concrete, a.lines)] != [*map(self.concrete, b.lines)]:
            raise Refused(
                f"{frame.name} ({type(module).__name__}) is called twice "
                "and computes in another way the second time (other shapes "
                "or arguments); make it two modules, or two methods."
            )

    def _call_layer(self, body: Body, node: Node, kind: str) -> Val:
        module: Any = node.module
        if kind == "Embedding" and (module.max_norm is not None or module.scale_grad_by_freq):
            raise Refused(
                f"{node.name}: an Embedding with max_norm "
                "or scale_grad_by_freq is not known to the port."
            )
        x = node.args[0] if node.args else next(iter(node.kwargs.values()))
        layout = LAYERS[kind].kind if kind in LAYERS else "any"
        tied = getattr(module, "weight", None)
        if (
            tied is not None
            and self.canonical.get(id(tied), f"{node.name}.weight") != f"{node.name}.weight"
        ):
            return self._tied(body, node, kind, tied)
        if layout == "sequences":
            texts = [self._argument(body, arg, None) for arg in node.args]
            texts += [f"{n}={self._argument(body, v, None)}" for n, v in node.kwargs.items()]
            if isinstance(x, Node) and isinstance(x.value, PackedSequence):
                texts.append(f"lengths={body.text(packed_node(x).args[1])}")
            return Val(f"{body.access(node.name)}({', '.join(texts)})", False)
        val = body.val(x)
        ndim = x.ndim
        if (
            kind == "LayerNorm"
            and val.last is True
            and len(module.normalized_shape) == ndim - 1
        ):
            self.first_layout[id(module)] = ("turned", ndim)
            return Val(f"{body.access(node.name)}({val.text})", True)
        if layout == "axis":
            axis = body.axis(x, module.dim if module.dim is not None else -1)
            axis = -1 if axis == ndim - 1 else axis
            if self.axes.setdefault(id(module), axis) != axis:
                raise Refused(f"{node.name} ({kind}) works over two axes; make it two layers.")
            return Val(f"{body.access(node.name)}({val.text})", val.last)
        if layout == "flatten":
            whole = module.start_dim == 1 and module.end_dim == -1
            if val.last is not True and ndim > 2 and whole:
                return Val(f"{body.part(val, 0)}.reshape({val.text}.shape[0], -1)")
            val = body.last(x)
            return Val(f"{body.access(node.name)}({val.text})", node.ndim > 2)
        if layout == "last":
            val = body.last(x)
        elif layout == "as_is":
            val = body.plain(x)
        self.first_layout.setdefault(id(module), (val.last, ndim))
        out = val.last if layout == "any" else layout == "last" and node.ndim > 2
        if len(node.args) > 1 or (node.kwargs and node.args):
            raise Refused(f"{node.name} ({kind}) is called with more than its input.")
        return Val(f"{body.access(node.name)}({val.text})", out)

    def _tied(self, body: Body, node: Node, kind: str, weight: torch.Tensor) -> Val:
        """A layer that reads the weight of another one, written as a function."""
        module: Any = node.module
        shared = self.array(body.module, body.frame.name, self.canonical[id(weight)])
        x = node.args[0]
        if kind == "Linear":
            turned = shared.removesuffix(".T") if shared.endswith(".T") else f"{shared}.T"
            behind = ""
            if module.bias is not None:
                behind = f", {self.array(body.module, body.frame.name, f'{node.name}.bias')}"
            return Val(f"nn.linear({body.plain(x).text}, {turned}{behind})")
        if kind == "Embedding" and module.padding_idx is None:
            return Val(f"{shared}[{body.plain(x).text}]")
        raise Refused(
            f"{node.name} ({kind}) shares its weight with another layer; use one layer twice."
        )

    # Constructors.

    def constructed(self) -> str:
        """The name of the model's class."""
        mark = MARK.fullmatch(self.constructor)
        return self.calls[int(mark[2])][0].name  # type: ignore[index]

    def of(self, module: torch.nn.Module, layouts: list[Any]) -> tuple[str, list[Any], Any]:
        """(constructor, layouts of the inputs, and of the output) of a module with a frame."""
        if id(module) in self.done:
            return self.done[id(module)]
        frames = [found[id(module)] for found in self.frames.values() if id(module) in found]
        hole = next((frame.hole for frame in frames if frame.hole), "")
        if hole:
            return self._hole(module, frames[0], layouts, hole)
        try:
            bodies = [Body(self, frame, layouts) for frame in frames]
        except Refused as error:
            if not self.partial:
                raise
            return self._hole(module, frames[0], layouts, str(error))
        name = frames[0].name
        if type(module).forward is torch.nn.Sequential.forward and module is self.root:
            made = self._root_sequential(module, bodies)
            self.done[id(module)] = (made, layouts, bodies[0].output)
            return self.done[id(module)]
        if type(module).forward is torch.nn.Sequential.forward:
            self.waiting[id(module)] = bodies  # it is made where its parent is made
            self.done[id(module)] = ("", layouts, bodies[0].output)
            return self.done[id(module)]
        if base_of(module) == "nn.Sequential":
            for body in bodies:
                body.lines = [with_super(line, module) for line in body.lines]
        lengths = lengths_of(module)
        methods = [folded(self.unified(body.lines), lengths) for body in bodies]
        self.loops += sum(
            any(line.startswith("for ") for line in lines) for lines in methods[:1]
        )
        functional = dict(pair for body in bodies for pair in body.functional)
        same = len({self.concrete("\n".join(lines)) for lines in methods}) == 1
        methods = methods[:1] if same else methods
        init = self._init(module, name, functional)
        if not same:
            init.append("self.deterministic = False")
        made = self._class(
            module,
            name,
            init,
            methods,
            arguments_of(bodies[0].frame),
            base_of(module),
            returned_by(bodies),
        )
        self.done[id(module)] = (made, layouts, bodies[0].output)
        return self.done[id(module)]

    def _hole(self, module: torch.nn.Module, frame: Frame, layouts: list[Any], why: str):
        self.holes.append(f"{frame.name or type(module).__name__}: {why}")
        output = False  # as torch has it
        init = self._init(module, frame.name, {})
        words = f"write {type(module).__name__} by hand: {why}"
        method = [f"# HOLE: {why}", f"raise NotImplementedError({words!r})"]
        made = self._class(
            module, frame.name, init, [method], arguments_of(frame), base_of(module)
        )
        self.done[id(module)] = (made, layouts, output)
        return self.done[id(module)]

    def _class(
        self,
        module: torch.nn.Module,
        name: str,
        init: list[str],
        methods: list[list[str]],
        arguments: dict[str, str],
        base: str = "nnx.Module",
        returns: str = "jax.Array",
    ) -> str:
        text = "\n".join(
            [base, *init, "--", *("\n".join(lines) for lines in methods), *arguments]
        )
        kind = type(module).__name__
        kind = "Net" if kind == "Sequential" else kind
        shape = self.shape_of(without_scales(text))
        known, text = (kind, shape, 0), self.concrete(text)
        while known in self.written and not begin_alike(self.written[known].text, text):
            known = (kind, shape, known[2] + 1)
        if known not in self.written:
            number = sum(other[0] == kind for other in self.written)
            self.written[known] = Written(
                kind + (str(number + 1) if number else ""), base, [], arguments, returns, text
            )
        written = self.written[known]
        written.uses.append((init, methods))
        self.calls.append((written, len(written.uses) - 1))
        return f"\x04{len(self.calls) - 1}\x05"

    def _init(
        self, module: torch.nn.Module, name: str, functional: dict[str, str]
    ) -> list[str]:
        """The lines of __init__: own arrays, children in torch's order, what functions need."""
        lines = []
        for key, value in module._parameters.items():
            if value is not None:
                if self.canonical[id(value)] != f"{name}.{key}".lstrip("."):
                    raise Refused(
                        f"{name}.{key} is the same array "
                        f"as {self.canonical[id(value)]}; use one of them."
                    )
                text = self._with_sizes(initial_text(value, key), module, value)
                lines.append(_assign(key, f"nnx.Param({text})"))
        for key, value in module._buffers.items():
            if value is not None and key not in module._non_persistent_buffers_set:
                text = buffer_text(value)
                if text is None:
                    self.zeros.append(f"{name}.{key}".lstrip("."))
                    dtype = dtype_text(value.dtype)
                    text = f"jnp.zeros({tuple(value.shape)}{f', {dtype}' if dtype else ''})"
                lines.append(_assign(key, f"nnx.Variable({text})"))
        scope: dict[int, str] = {}
        self.scopes.append(scope)
        if base_of(module) != "nnx.Module":
            children = self._made(module, name)
            self.scopes.pop()
            maker = self.chain if base_of(module) == "nn.Sequential" else self.listed
            lines.insert(0, maker(module, children, "super().__init__"))
            return lines + [_assign(key, text) for key, text in functional.items()]
        for key, child in children_of(module):
            expression = self.make(child, f"{name}.{key}".lstrip("."))
            for below, part in child.named_modules(prefix=key):
                scope.setdefault(id(part), access(module, below))
            if expression:
                lines.append(_assign(key, expression))
        self.scopes.pop()
        return lines + [_assign(key, text) for key, text in functional.items()]

    def _with_sizes(self, text: str, module: torch.nn.Module, value: torch.Tensor) -> str:
        """The text of a parameter's beginning, with marks for its sizes: they may be others in
        another module of the class.
        """
        sizes = []
        for size in value.shape:
            held = [n for n, v in vars(module).items() if type(v) is int and v == size]
            sizes.append(self.slot(held[0] if held else "size", size) if size > 1 else "1")
        marked = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        return text.replace(str(tuple(value.shape)), marked) if sizes else text

    def make(self, module: torch.nn.Module, name: str) -> str:
        """The expression that makes a module; "" if nothing is needed."""
        if id(module) in self.scopes[-1]:
            return self.scopes[-1][id(module)]
        if _holds(module) and self.owner.setdefault(id(module), name) != name:
            raise Refused(
                f"{name} and {self.owner[id(module)]} are one module in two places; "
                "give it to one parent."
            )
        if self._is_in_place(module, name):
            return ""
        kind = layer_name(module)
        if kind:
            return self.layer(module, kind, name)
        if id(module) in self.waiting:
            return self._sequential(module, name, self.waiting[id(module)])
        if id(module) in self.done:
            return self.done[id(module)][0]
        if any(id(module) in found for found in self.frames.values()):
            frame = next(
                found[id(module)] for found in self.frames.values() if id(module) in found
            )
            self.of(module, [False] * len(frame.inputs))
            return self.make(module, name)
        children = self._made(module, name)
        if children and not any(text for _, text in children):
            return ""
        if isinstance(module, torch.nn.ModuleList):
            return self.listed(module, children)
        if isinstance(module, torch.nn.ModuleDict):
            children = [(key, text) for key, text in children if text]
            return f"nnx.Dict({{{', '.join(f'{key!r}: {text}' for key, text in children)}}})"
        if isinstance(module, torch.nn.ParameterList | torch.nn.ParameterDict):
            parts = {}
            for key, value in module._parameters.items():
                if value is not None:
                    parts[key] = f"nnx.Param({initial_text(value, key)})"
            if isinstance(module, torch.nn.ParameterList):
                return f"nnx.List([{', '.join(parts.values())}])"
            named = ", ".join(f"{key!r}: {text}" for key, text in parts.items())
            return f"nnx.Dict({{{named}}})"
        if type(module).forward is torch.nn.Sequential.forward:
            return self.chain(module, children)
        if not _holds(module):
            return ""
        return self._class(module, name, self._init(module, name, {}), [], {}, base_of(module))

    def _made(self, module: torch.nn.Module, name: str) -> list[tuple[str, str]]:
        """The expressions of a container's children; one that stands there n times in a row is
        one module, written `*[module] * n`.
        """
        children: list[tuple[str, str]] = []
        in_list = isinstance(module, torch.nn.ModuleList)  # which may have gaps
        pairs = [*module._modules.items()] if in_list else children_of(module)
        for _, group in itertools.groupby(pairs, key=lambda pair: id(pair[1])):
            same = list(group)
            key, child = same[0]
            if child is None:
                children += [(key, "None") for key, _ in same]
                continue
            text = self.make(child, f"{name}.{key}".lstrip("."))
            if len(same) == 1 or not text or not _holds(child):
                children += [(key, text) for key, _ in same]
            else:
                children.append((key, f"*[{text}] * {len(same)}"))
        return children

    def _sequential(self, module: torch.nn.Module, name: str, bodies: list[Body]) -> str:
        children = self._made(module, name)
        (argument,) = bodies[0].arguments
        text = chained(module, argument)
        if all(body.lines == [f"return {text}"] for body in bodies):
            return self.chain(module, children)
        words = re.split(r"\W|_", name)
        kind = "".join(word.capitalize() for word in words if not word.isdigit()) or "Chain"
        lines = [folded(body.lines, lengths_of(module)) for body in bodies[:1]]
        key = ("nn.Sequential", self.concrete(repr(lines)))
        if key not in self.written:
            taken = [w.name for w in self.written.values()]
            kind = kind if kind not in taken else f"{kind}{len(taken)}"
            self.written[key] = Written(
                kind, "nn.Sequential", [([], lines)], {argument: "jax.Array"}
            )
        return self.chain(module, children, self.written[key].name)

    def _root_sequential(self, module: torch.nn.Module, bodies: list[Body]) -> str:
        children = self._made(module, "")
        (argument,) = bodies[0].arguments
        text = chained(module, argument)
        simple = all(body.lines == [f"return {text}"] for body in bodies)
        methods = [] if simple else [folded(bodies[0].lines, lengths_of(module))]
        init = [self.chain(module, children, "super().__init__")]
        return self._class(module, "", init, methods, {argument: "jax.Array"}, "nn.Sequential")


def _assign(name: str, text: str) -> str:
    return (
        f"self.{name} = {text}" if name.isidentifier() else f"setattr(self, {name!r}, {text})"
    )


def _holds(module: torch.nn.Module) -> bool:
    """Whether a module has arrays."""
    return any(True for _ in (*module.parameters(), *module.buffers()))


def _layout(body: Body, value: Any) -> Any:
    if isinstance(value, Node):
        val = body.val(value)
        return val.last
    if isinstance(value, dict):
        return {key: _layout(body, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_layout(body, part) for part in value]
    return False
