"""Run a torch model once and record what every module computes, operation by operation.

The model runs as it is, with its own values, so that branches on shapes, lists, dicts and calls
of helper functions are no obstacle. Each module's forward becomes a `Frame`: a list of `Node`s,
which refer to each other. `values.py` knows which node each tensor and each size is.
"""

from __future__ import annotations

import builtins
import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from dlwp_jax.parity.port.casts import casts
from dlwp_jax.parity.port.nodes import Dim, Frame, Node, Ratio
from dlwp_jax.parity.port.refuse import Refused, here, user_frame
from dlwp_jax.parity.port.values import Values, leaves, number, packed_node, plain

# What a person looks up and does not compute with.
_LOOKED_UP = {
    "dtype", "device", "requires_grad", "is_cuda", "layout", "is_sparse", "is_quantized",
    "grad_fn", "is_leaf", "is_mps", "is_xla", "is_meta", "is_cpu", "names", "is_nested",
    "is_mkldnn", "grad", "is_xpu", "is_ort", "is_vulkan", "is_ipu", "is_maia",
}  # fmt: skip
_ASKED = {
    "dim", "ndimension", "ndim", "is_floating_point", "is_complex", "is_contiguous",
    "get_device", "element_size", "stride", "data_ptr", "is_tensor", "is_grad_enabled",
    "is_inference", "is_autocast_enabled", "device",
}  # fmt: skip
_READS = {
    "item", "tolist", "numpy", "bool", "int", "float", "index", "array", "equal", "allclose",
    "is_nonzero", "nonzero", "contains", "unique", "masked_select", "complex",
}  # fmt: skip
_OF_MATH = ("sqrt", "log", "log2", "log10", "exp", "pow", "ceil", "floor")
# x.float() is a cast, float(x) reads a value.
_CASTS = {"bool", "int", "float"}
# Their other forms have other arguments: x.bernoulli() draws with the shares x.
_DRAWN_INTO = {"bernoulli_", "normal_", "uniform_"}
_IN_PLACE = {
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "div", "pow", "floordiv", "mod")
}

# The functions that draw from the generators of Python and NumPy.
_DRAWS = [
    (module, name, draw)
    for module, kind in ((random, random.Random), (np.random, np.random.RandomState))
    for name, draw in vars(module).items()
    if isinstance(getattr(draw, "__self__", None), kind) and "seed" not in name
    if "state" not in name
]


class Recorder(Values, TorchFunctionMode):
    """Records one run of a torch model; see `record`.

    Args:
      root: the model.
      is_layer: whether a module is written as a known layer, and its inside not looked at.
      is_known: whether a function of that name can be written.
      partial: make a hole of a module that is refused, and go on.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        is_layer: Callable[[torch.nn.Module], bool],
        is_known: Callable[[str], bool],
        partial: bool,
    ):
        super().__init__(root)
        self.root, self.is_layer, self.is_known, self.partial = (
            root,
            is_layer,
            is_known,
            partial,
        )
        self.names = {id(m): name for name, m in root.named_modules()}
        self.call_module = torch.nn.Module.__call__

    # Functions.

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or not self.stack:
            return func(*args, **kwargs)
        self.look_for_names()
        self.paused = True
        try:
            return self.function(func, args, kwargs)
        finally:
            self.paused = False

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one of torch's functions and record it."""
        raw = getattr(func, "__name__", str(func))
        if raw == "__get__":
            return self.attribute(func.__self__.__name__, func, args)
        if raw in ("__set__", "__delete__"):
            raise Refused(
                f"this sets {func.__self__.__name__} of a tensor, which has no counterpart.",
                here(),
            )
        name = raw if raw in _DRAWN_INTO else raw.strip("_")
        if name in _ASKED:
            return func(*args, **kwargs)
        if any(map(_is_wrapped, leaves((args, kwargs)))):
            raise Refused(
                "the port does not see what is computed inside of torch.func.vmap, "
                "grad or jvp; write the axis of the batch out.",
                here(),
            )
        if name in ("size", "len"):
            sizes = self.sizes(args[0])
            axis = args[1] if len(args) > 1 else kwargs.get("dim", 0 if name == "len" else None)
            return sizes if axis is None else sizes[axis]
        if name == "numel":
            return self.sizes(args[0]).numel()
        if name == "iter":
            return iter(self.function(torch.unbind, args, {}))
        if name in ("format", "repr", "str"):
            return func(*args, **kwargs)
        if name == "assert":
            return None
        if name in _READS and (name not in _CASTS or raw.startswith("__")):
            raise Refused(
                f"the values of a tensor decide here ({name}), so that another input would "
                "take another way; write it with torch.where, or move it out of the model.",
                here(),
            )
        if name == "getitem" and _is_masked(args[1]):
            raise Refused(
                "the values of a mask decide here how many are taken (x[mask]); write it with "
                "torch.where, or multiply by the mask.",
                here(),
            )
        if kwargs.get("out") is not None:
            raise Refused(
                f"{name}(out=...) writes into a tensor; use what {name} returns.", here()
            )
        if not self.is_known(name):
            raise Refused(
                f"{_full_name(func, raw)} is not known to the port; write it in operations "
                "that are, or port with --partial and write this method by hand.",
                here(),
            )
        changes = (raw.endswith("_") and not raw.startswith("__")) or raw in _IN_PLACE
        changes = changes or bool(kwargs.get("inplace")) or raw in ("__setitem__",)
        before = args[0] if changes and args else None
        if before is not None and id(before) in self.arrays:
            raise Refused(
                f"{name} changes {self.arrays[id(before)]} of the model in its forward; a "
                "port has no place for such a change but batch norm's statistics.",
                here(),
            )
        own_view = name == "setitem" and _is_that_view(*args)
        if own_view:
            self.stale.pop(id(before), None)
        node = Node("function", name, self.node_of(args), self.node_of(kwargs), where=here())
        owner = self.owner_of_view(before) if changes and name != "setitem" else None
        result = func(*plain(args), **plain(kwargs))
        if changes:
            self.changed(before)
            result = before if name == "setitem" else result
        if owner is not None:
            whole, view = owner
            result = self.result(node, result, fresh=False)
            args = (view.args[0], view.args[1], node)
            self.result(Node("function", "setitem", args, where=here()), whole, fresh=False)
            return result
        return self.result(node, result, fresh=not changes)

    def attribute(self, name: str, func: Any, args: tuple[Any, ...]) -> Any:
        """A property of a tensor."""
        x = args[0]
        if name == "shape":
            return self.sizes(x)
        if name in _LOOKED_UP or name in _ASKED:
            return func(*args)
        if name == "data":
            return self.function(torch.Tensor.detach, args, {})
        if name in ("real", "imag"):
            return self.function(getattr(torch, name), args, {})
        if name in ("T", "mT", "H", "mH"):
            if x.is_complex():
                raise Refused("complex tensors are not known to the port.", here())
            last = (x.ndim - 2, x.ndim - 1)
            return self.function(torch.transpose, (x, *last), {}) if x.ndim > 1 else x
        raise Refused(f"the property {name} of a tensor is not known to the port.", here())

    # Modules.

    def call(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run a module: a known layer as a whole, another one with a frame of its own."""
        if self.paused or (not self.stack and module is not self.root):
            return self.call_module(module, *args, **kwargs)
        self.paused = True
        try:
            if not self.stack:
                return self.into(module, args, kwargs)
            return self.called(module, args, kwargs)
        finally:
            self.paused = False

    def called(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The call of a module inside of another one."""
        self.look_for_names()
        if id(module) not in self.names:
            raise Refused(
                f"{type(module).__name__} is made inside of forward; make it in __init__.",
                here(),
            )
        _refuse_hooks(module, self.names[id(module)])
        node = Node(
            "call", self.names[id(module)], where=here(), module=module, called=_local(module)
        )
        # Sizes that are handed over are numbers of the other forward.
        node.args = self.node_of(tuple(map(number, args)))
        node.kwargs = self.node_of({key: number(value) for key, value in kwargs.items()})
        given = [v for v in leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        versions = [v._version for v in given]
        if self.is_layer(module):
            result = self.call_module(module, *plain(args), **plain(kwargs))
        else:
            result = self.into(module, args, kwargs)
            node.frame = self.left
        changed = [v for v, n in zip(given, versions, strict=True) if v._version != n]
        for tensor in changed:
            self.changed(tensor)
            if result is not tensor:
                self.stale[id(tensor)] = here()
        return self.result(node, result, fresh=not changed)

    def into(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module in a frame of its own."""
        frame = Frame(module, self.names[id(module)], training=module.training)
        depth = len(self.stack)
        self.stack.append(frame)
        buffers = dict(module._buffers)
        given = _arguments(module, args, kwargs)
        for name, value in given.items():
            frame.inputs[name] = self.entered(name, value)
        try:
            with self.own_functions(module):
                self.paused = False
                result = self.call_module(module, *args, **kwargs)
                self.paused = True
            frame.output = self.node_of(result)
            for name, before in buffers.items():
                if module._buffers.get(name) is not before:
                    raise Refused(
                        f"{type(module).__name__} replaces its buffer {name} in forward; a "
                        "port has no place for such a change but batch norm's statistics."
                    )
        except Refused as error:
            self.paused = True
            if not self.partial:
                raise
            frame.hole, frame.nodes, frame.output = str(error), [], None
            del self.stack[depth + 1 :]
            result = self.call_module(module, *plain(args), **plain(kwargs))
        self.left = self.stack.pop()
        return result

    @contextmanager
    def own_functions(self, module: torch.nn.Module) -> Iterator[None]:
        """In the file where a forward stands, len(x) and math.sqrt(n) keep their nodes, and
        sequences that are packed keep their lengths.
        """
        scope = getattr(type(module).forward, "__globals__", None) or {}
        recorded = {id(pack_padded_sequence): self.packed, id(pad_packed_sequence): self.padded}
        followed = {name: self.followed(name) for name in _OF_MATH}
        recorded |= {id(getattr(math, name)): call for name, call in followed.items()}
        recorded |= {id(draw): self.drawing(draw) for _, _, draw in _DRAWS}
        recorded[id(math)] = SimpleNamespace(**vars(math) | followed)
        changed = {n: recorded[id(v)] for n, v in scope.items() if id(v) in recorded}
        before = {name: scope[name] for name in changed}
        if "len" not in scope:
            changed["len"] = _length
        changed |= casts(scope)
        scope.update(changed)
        try:
            yield
        finally:
            for name in changed:
                scope.pop(name, None)
            scope.update(before)

    def followed(self, name: str) -> Callable[..., Any]:
        """A function of `math`, which remembers the sizes that it is given."""

        def call(*args: Any) -> Any:
            value = getattr(math, name)(*map(number, args))
            if any(isinstance(arg, Dim | Ratio) for arg in args):
                return self.size_of(f"math.{name}", args, value)
            return value

        return call

    def drawing(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `random` or `numpy.random`, which a forward must not call."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.paused or not self.stack:
                return draw(*args, **kwargs)
            raise Refused(
                f"this draws a number outside of torch ({draw.__name__} of "
                "Python or NumPy), of which a port would write one "
                "outcome; draw with torch.rand and choose with torch.where.",
                here(),
            )

        return call

    def packed(self, input: Any, lengths: Any, *args: Any, **kwargs: Any) -> PackedSequence:
        """torch.nn.utils.rnn.pack_padded_sequence: here, the lengths for a recurrent layer."""
        if self.paused or not self.stack:
            return pack_padded_sequence(input, lengths, *args, **kwargs)
        self.look_for_names()
        node = Node("function", "packed", where=here())
        node.args = self.node_of((input, lengths))
        self.paused = True
        try:
            node.value = pack_padded_sequence(input, plain(lengths), *args, **kwargs)
        finally:
            self.paused = False
        self.add(node)
        self.bind(node.value, node)
        return node.value

    def padded(self, sequence: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """torch.nn.utils.rnn.pad_packed_sequence: here, the output of the layer as it is."""
        if self.paused or not self.stack:
            return pad_packed_sequence(sequence, *args, **kwargs)
        self.look_for_names()
        node = Node("function", "padded", (self.node_of(sequence),), where=here())
        start = packed_node(node.args[0])
        self.paused = True
        try:
            output, lengths = pad_packed_sequence(sequence, *args, **plain(kwargs))
            if sorted(output.shape[:2]) != sorted(start.args[0].shape[:2]):
                raise Refused(
                    "pad_packed_sequence cuts the output at the longest sequence, which "
                    "depends on the values; give it total_length=x.size(1).",
                    here(),
                )
            output = self.result(node, output, fresh=True)
        finally:
            self.paused = False
        if isinstance(start.args[1], Node):
            self.bind(lengths, start.args[1])
        return output, lengths


def record(
    root: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    is_layer: Callable[[torch.nn.Module], bool],
    is_known: Callable[[str], bool],
    partial: bool = False,
) -> Frame:
    """Run a model, in the mode it is in, and return what was recorded.

    Raises:
      Refused: for what cannot be written as source.
    """
    recorder = Recorder(root, is_layer, is_known, partial)

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.call(module, *args, **kwargs)

    def apply(cls: type, *args: Any) -> Any:
        del args
        raise Refused(
            f"{cls.__name__} is a custom autograd function, whose backward is its own; write "
            "it with jax.custom_vjp by hand (--partial leaves a place for it).",
            here(),
        )

    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(patch.object(torch.nn.Module, "__call__", call))
        stack.enter_context(patch.object(torch.autograd.Function, "apply", classmethod(apply)))
        rnn = torch.nn.utils.rnn
        stack.enter_context(patch.object(rnn, "pack_padded_sequence", recorder.packed))
        stack.enter_context(patch.object(rnn, "pad_packed_sequence", recorder.padded))
        for module, name, draw in _DRAWS:
            stack.enter_context(patch.object(module, name, recorder.drawing(draw)))
        stack.enter_context(recorder)
        before = _generators()
        recorder.call(root, *inputs)
    if not partial and _generators() != before:
        raise Refused(
            "the model draws numbers outside of torch (by Python or NumPy), of which a port "
            "would write one outcome; draw with torch.rand and choose with torch.where."
        )
    return recorder.left


def _generators() -> tuple[Any, ...]:
    """The states of the generators of Python and NumPy."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[1].tobytes(), state[2:]


def _length(x: Any) -> int:
    return x.size(0) if isinstance(x, torch.Tensor) else builtins.len(x)


def _arguments(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names that forward gives them; those of *args are numbered."""
    import inspect

    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            found.update({f"*{name}{i}": part for i, part in enumerate(value)})
        elif parameter.kind is parameter.VAR_KEYWORD:
            found.update(value)
        else:
            found[name] = value
    return {name.lstrip("*"): value for name, value in found.items()}


def _is_wrapped(value: Any) -> bool:
    """Whether a tensor stands for one example in a transform of torch.func."""
    return isinstance(value, torch.Tensor) and is_functorch_wrapped_tensor(value)


def _is_masked(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in parts)


def _is_that_view(base: Any, index: Any, value: Any) -> bool:
    """Whether `base[index] = value` writes a view back to where it came from (x[i] += 1)."""
    if not isinstance(value, torch.Tensor):
        return False
    view = base[plain(index)]
    same = view.data_ptr() == value.data_ptr() and view.shape == value.shape
    return same and view.stride() == value.stride()


def _refuse_hooks(module: torch.nn.Module, name: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise Refused(
            f"{name} ({type(module).__name__}) has forward hooks (weight_norm, spectral_norm, "
            "pruning, or your own), which are not part of its source; remove them first "
            "(torch.nn.utils.remove_weight_norm folds one)."
        )
    if hasattr(module, "parametrizations"):
        raise Refused(
            f"{name} ({type(module).__name__}) is parametrized; fold the weight first: "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')."
        )


def _local(module: torch.nn.Module) -> str:
    """The local variable that holds a module, as in `for block in self.blocks`."""
    frame = user_frame()
    held = frame.f_locals.items() if frame else ()
    return next((name for name, value in held if value is module and name != "self"), "")


def _full_name(func: Any, raw: str) -> str:
    owner = getattr(func, "__module__", None) or "torch.Tensor"
    return f"{owner}.{raw}".replace("torch._C._nn", "torch.nn.functional").replace(
        "torch._VF", "torch"
    )
