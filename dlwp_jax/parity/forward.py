"""Running both models on one input: torch's layout turns over here, and nowhere else."""

import contextlib
import copy
import dataclasses
import functools
import pickle
import random
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.overrides import TorchFunctionMode

from dlwp_jax.parity.leaves import to_numpy
from dlwp_jax.parity.table import listed

Layout = str | Sequence[str]  # "auto", or one word for each input
# Float32 keeps 6e-8 a rounding; sums over thousands of products, in another order, ten layers
# deep and through batch norms reach some 1e-6 to 1e-5 of the largest value. Most wrong options
# show at 1e-3 and above; for smaller ones `compare` asks float64.
TOLERANCE = 1e-4
# The same sums in float64 (1e-16 a rounding), with room for functions whose own float64
# versions differ (erf, exp).
DOUBLE_TOLERANCE = 1e-9
# 16-bit floats round every layer's output by half of these; some layers deep, forward and
# backward, errors of some roundings were seen (tests/test_parity_compare.py), and eight are
# allowed.
HALF_TOLERANCES = {torch.float16: 8 * 2.0**-10, torch.bfloat16: 8 * 2.0**-7}
_WORDS = ("auto", "channels_first", "as_is")


def as_numpy(x: Any) -> np.ndarray:
    """An input given as numpy, JAX or torch, copied: a batch that its owner fills anew stays as
    it was.

    bfloat16, which numpy has not, comes as float32.
    """
    array = np.array(to_numpy(x) if isinstance(x, torch.Tensor) else x)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def input_turns(
    module: torch.nn.Module,
    inputs: Sequence[Any],
    layout: Layout = "auto",
    run: Callable[[Sequence[torch.Tensor]], Any] | None = None,
) -> tuple[bool, ...]:
    """For each input, whether its axis 1 holds the channels, which are last in the JAX model.

    Args:
      module: torch's model, which is run to see the first layer or function that reads each
        input.
      inputs: in torch's layout.
      layout: "channels_first" (`[N C ...]`: turned), "as_is" (`[N T C]`: both models take the
        same), or "auto": as is if a Linear or LayerNorm reads the last axis first, or if every
        layer that tells reads the last axis; else turned. One word for all inputs, or one for
        each. Rows and whole numbers are never turned.
      run: how the model is run on the inputs, where it is not `module(*inputs)`.

    Raises:
      ValueError: for another word, or where there are not as many words as inputs.
    """
    words = [layout] * len(inputs) if isinstance(layout, str) else list(layout)
    if len(words) != len(inputs) or not set(words) <= set(_WORDS):
        raise ValueError(
            f"layout={layout!r}: give one of {', '.join(_WORDS)}, or one for each of "
            f"{len(inputs)} inputs."
        )
    given = tensors(inputs, dtype_of(module))
    run = run or functools.partial(_run, module)
    axes = _feature_axes(given, run) if "auto" in words else [None] * len(given)
    return tuple(
        x.is_floating_point()
        and x.ndim > 2
        and (axis == 1 if word == "auto" else word == "channels_first")
        for x, axis, word in zip(given, axes, words, strict=True)
    )


class Watch(TorchFunctionMode):
    """While it is entered, `seen(name, first, arguments, result)` is called after every
    function of torch's.

    `name` is the function's, as in torch.nn.functional; `first` its first tensor (None where it
    has none).
    """

    def __init__(
        self,
        seen: Callable[[str, torch.Tensor | None, dict[str, Any] | tuple[Any, ...], Any], None],
    ):
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, then say so."""
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        first = args[0] if args else kwargs.get("input")
        rest = args[1:] or tuple(kwargs.values())
        self.seen(
            getattr(func, "__name__", ""),
            first if isinstance(first, torch.Tensor) else None,
            rest,
            result,
        )
        return result


# Functions of torch.nn.functional whose input has its channels in axis 1, and those that read
# the last axis.
_CHANNELS = re.compile(
    r"(conv(_transpose)?|(adaptive_)?(max|avg)_pool|lp_pool|dropout)[123]d"
    r"|(batch|instance|group)_norm"
)
_LAST_AXIS = re.compile(
    r"linear|layer_norm|rms_norm|lstm|gru|rnn_tanh|rnn_relu|multi_head_attention_forward"
)
_NORM = re.compile(r".*_norm")


def _feature_axes(
    inputs: Sequence[torch.Tensor], run: Callable[[Sequence[torch.Tensor]], Any]
) -> list[int]:
    """Which axis of each input the first function that tells reads as channels or features."""
    known = {x.data_ptr(): i for i, x in enumerate(inputs) if x.numel()}
    found: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # so that no address is given out twice
    read: set[str] = set()

    def seen(name, x, arguments, y):
        if x is None or x.ndim < 2:
            return
        sizes = ()  # of a norm over the last axes
        if _NORM.fullmatch(name):
            sizes = next((a for a in arguments if isinstance(a, tuple | list)), ())
        reads_last = bool(_LAST_AXIS.fullmatch(name))
        if reads_last or _CHANNELS.fullmatch(name):
            last = reads_last and len(sizes) < 2  # a norm over C H W is one of images
            if x.ndim > 2:  # a Linear over rows says nothing of images that were flattened
                read.add("last" if last else "channels")
            axis, here = x.ndim - 1 if last else 1, known.get(x.data_ptr())
            if here is not None:
                there = (x.shape[axis], x.stride(axis))
                own = list(zip(inputs[here].shape, inputs[here].stride(), strict=True))
                found.setdefault(here, own.index(there) if there in own else 1)
        elif isinstance(y, torch.Tensor) and x.data_ptr() in known and x.shape == y.shape:
            known.setdefault(
                y.data_ptr(), known[x.data_ptr()]
            )  # one of those that treat all axes alike
            kept.append(y)

    with Watch(seen):
        run(inputs)
    return [found.get(i, x.ndim - 1 if read == {"last"} else 1) for i, x in enumerate(inputs)]


def dtype_of(module: torch.nn.Module) -> torch.dtype | None:
    """The floating dtype of a model's parameters; None where it has none, or several."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def tensors(inputs: Sequence[Any], dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Inputs as torch takes them, copied; floating ones in the model's own dtype."""
    given = [torch.from_numpy(as_numpy(x)) for x in inputs]
    return [x.to(dtype) if dtype is not None and x.is_floating_point() else x for x in given]


def arrays(
    inputs: Sequence[Any], turns: Sequence[bool], dtype: torch.dtype | None = None
) -> list[jax.Array]:
    """The same inputs as the JAX model takes them."""
    name = (
        None
        if dtype is None
        else jax.dtypes.canonicalize_dtype(str(dtype).removeprefix("torch."))
    )
    given = [(as_numpy(x), turn) for x, turn in zip(inputs, turns, strict=True)]
    return [
        jnp.asarray(
            np.moveaxis(x, 1, -1) if turn else x,
            name if np.issubdtype(x.dtype, np.floating) else None,
        )
        for x, turn in given
    ]


def torch_outputs(module: torch.nn.Module, inputs: Sequence[Any]) -> list[np.ndarray]:
    """Outputs in eval mode, in torch's layout; the module's mode is put back."""
    return [to_numpy(y) for y in outputs_of(_run(module, tensors(inputs, dtype_of(module))))]


@contextlib.contextmanager
def whole_attention() -> Iterator[None]:
    """No shortcut of torch's for transformers in evaluation: it zeroes padded positions, and
    gives other outputs there than the same model in training.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _run(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), whole_attention():
            return module(*inputs)
    finally:
        module.train(training)


def jax_outputs(
    model: nnx.Module,
    inputs: Sequence[Any],
    theirs: Sequence[np.ndarray],
    turns: Sequence[bool],
    dtype: torch.dtype | None = None,
) -> list[np.ndarray]:
    """Outputs in eval mode, turned to the layout of torch's, which are `theirs`."""
    model = nnx.clone(model)
    model.eval()
    with jax.default_matmul_precision("highest"):
        outputs = outputs_of(model(*arrays(inputs, turns, dtype)))
    turned = output_turns(outputs, theirs)
    return [
        np.moveaxis(np.asarray(y), -1, 1) if turn else np.asarray(y)
        for y, turn in zip(outputs, turned, strict=True)
    ]


def output_turns(ours: Sequence[Any], theirs: Sequence[np.ndarray]) -> tuple[bool, ...]:
    """For each output, whether it has torch's channels last.

    Its shape tells; where it fits both ways (`[N 8 8]`), the way in which the values are nearer
    to torch's.

    Raises:
      ValueError: where the models return different numbers of arrays, or one of another shape.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"torch's model returns {len(theirs)} arrays, the JAX model {len(ours)}."
        )
    return tuple(_is_turned(y, want) for y, want in zip(ours, theirs, strict=True))


def fits_both_ways(theirs: np.ndarray) -> bool:
    """Whether an output has the same shape with its channels last."""
    return theirs.ndim > 2 and len(set(theirs.shape[1:])) == 1


def _is_turned(ours: Any, theirs: np.ndarray) -> bool:
    moved = np.moveaxis(theirs, 1, -1) if theirs.ndim > 2 else theirs
    if ours.shape not in (moved.shape, theirs.shape):
        raise ValueError(f"an output has shape {theirs.shape} in torch and {ours.shape} here.")
    if not fits_both_ways(theirs):
        return ours.shape != theirs.shape
    y = np.asarray(ours, np.float64)
    with np.errstate(invalid="ignore"):
        return bool(np.nansum(np.abs(y - moved)) <= np.nansum(np.abs(y - theirs)))


# Where an array is in what a model returned: keys of dicts, names of attributes, positions.
Place = tuple[str | int, ...]
_ARRAYS = torch.Tensor | jax.Array | np.ndarray | jax.ShapeDtypeStruct
NUMBERS = int | float | complex | np.number | np.bool_


def outputs_of(result: Any) -> list[Any]:
    """The arrays of what a model returned, in order; those of a dict in the order of its keys'
    names, whatever kind of dict it is.
    """
    return [value for _, value in places_of(result) if not isinstance(value, NUMBERS)]


def places_of(result: Any, place: Place = ()) -> list[tuple[Place, Any]]:
    """The arrays and the Python numbers of what a model returned, each behind its place."""
    if isinstance(result, _ARRAYS | NUMBERS):
        return [(place, result)]
    if isinstance(result, Mapping):
        parts = [(str(key), result[key]) for key in sorted(result, key=str)]
    elif isinstance(result, tuple | list):
        parts = list(zip(getattr(result, "_fields", range(len(result))), result, strict=True))
    elif dataclasses.is_dataclass(result):
        parts = list(vars(result).items())
    else:
        parts = [x for x in enumerate(jax.tree.leaves(result)) if x[1] is not result]
    return [found for key, part in parts for found in places_of(part, (*place, key))]


def in_order(ours: Sequence[tuple[Place, Any]], theirs: Sequence[Place]) -> list[Any]:
    """The JAX model's outputs in the order of torch's: by their places if these are the same,
    else one by one, as a tuple for a dict.

    Raises:
      ValueError: if there are more or fewer than torch's, or they have other keys.
    """
    values = dict(ours)
    if values.keys() == set(theirs):
        return [values[place] for place in theirs]
    if len(ours) != len(theirs) or any(map(_have_other_keys, values, theirs)):
        raise ValueError(
            f"torch's model returns {_counted(theirs)}, the JAX model "
            f"{_counted(list(values))}; return the same ones, under the same keys."
        )
    return [value for _, value in ours]


def _have_other_keys(ours: Place, theirs: Place) -> bool:
    """Whether two places have names, and not the same ones."""
    pairs = zip(ours, theirs, strict=False)
    return any(isinstance(a, str) and isinstance(b, str) and a != b for a, b in pairs)


def _counted(places: Sequence[Place]) -> str:
    """How many outputs there are, and their keys if they have some."""
    count = f"{len(places)} output{'s' * (len(places) != 1)}"
    named = any(isinstance(key, str) for place in places for key in place)
    keys = [".".join(map(str, place)) for place in places]
    return f"{count} ({listed(keys)})" if named else count


_WRAPPERS = (
    torch.nn.DataParallel
    | torch.nn.parallel.DistributedDataParallel
    | torch.optim.swa_utils.AveragedModel
)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The model inside of DataParallel, AveragedModel or torch.compile, however nested."""
    while True:
        if isinstance(module, _WRAPPERS):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), torch.nn.Module):
            module = inner
        else:
            return module


def copied(model: Any) -> Any:
    """A deep copy of a torch model, or of a tuple of it and others.

    Functions that a module keeps and that read modules around them (`self.mlpf = lambda x:
    m.act(x)`) read those of the copy, which `copy.deepcopy` does not see to.
    """
    memo: dict[int, Any] = {}
    given = model if isinstance(model, tuple) else (model,)
    for part in (p for m in given if isinstance(m, torch.nn.Module) for p in m.modules()):
        for value in vars(part).values():  # torch copies no computed tensor, as weight_norm's
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    result = copy.deepcopy(model, memo)
    models = result if isinstance(result, tuple) else (result,)
    for part in (p for m in models if isinstance(m, torch.nn.Module) for p in m.modules()):
        for name, value in vars(part).items():
            if isinstance(value, types.FunctionType):
                part.__dict__[name] = _reading_copies(value, memo)
    return result


def _reading_copies(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """The function, with what it reads from around it replaced by its copy, if there is one."""
    cells = list(function.__closure__ or ())
    changed = False
    for i, cell in enumerate(cells):
        try:
            copy_ = memo.get(id(cell.cell_contents))
        except ValueError:  # the cell is empty
            continue
        if copy_ is not None:
            cells[i] = types.CellType(copy_)
            changed = True
    if not changed:
        return function
    code, scope = function.__code__, function.__globals__
    new = types.FunctionType(
        code, scope, function.__name__, function.__defaults__, tuple(cells)
    )
    new.__kwdefaults__ = function.__kwdefaults__
    new.__dict__.update(function.__dict__)
    return new


def twin(module: torch.nn.Module, train: bool) -> torch.nn.Module:
    """A copy to run: gradients and batch statistics of the original stay as they are."""
    module = copied(unwrapped(module)).train(train)
    module.zero_grad(set_to_none=True)
    if train:
        refuse_random(module)
    return module


def random_layers(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The layers that draw random numbers in train mode, by name."""
    kinds = torch.nn.modules.dropout._DropoutNd | torch.nn.RReLU
    return [
        (n, layer)
        for n, layer in module.named_modules()
        if (isinstance(layer, kinds) and getattr(layer, "p", 1))
        or (isinstance(layer, torch.nn.MultiheadAttention) and layer.dropout)
    ]


def without_dropout(model: Any) -> Any:
    """A copy of a torch or NNX model whose dropout layers leave everything as it is."""
    if isinstance(model, torch.nn.Module):
        model = copied(model)
        layers = list(model.modules())
    else:
        model = nnx.clone(model)
        layers = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    for layer in layers:
        name = type(layer).__name__
        # Of a recurrent layer, or of attention; a port numbers those of several attentions.
        options = [
            "dropout",
            *filter(re.compile(r"(functional_)?dropout_p(_\d+)?").fullmatch, dir(layer)),
        ]
        if re.search(r"Drop|StochasticDepth", name):
            options += ["p", "rate", "drop_prob"]
        for option in options:
            if isinstance(getattr(layer, option, None), float | int | jax.Array):
                setattr(layer, option, 0.0)
    return model


def drawing_layers(
    module: torch.nn.Module, run: Callable[[torch.nn.Module], Any]
) -> list[tuple[str, torch.nn.Module]]:
    """The layers that draw random numbers while `run(module)` runs, by name.

    The states of the generators tell, so that functions (torch.nn.functional.dropout) and
    layers of any library are seen. A layer is named only if no layer inside of it draws.
    """
    found: list[tuple[str, torch.nn.Module]] = []
    entered: list[tuple[Any, int]] = []

    def leave(name, layer, args, result):
        del args, result
        before, number = entered.pop()
        if len(found) == number and before != _generators():
            found.append((name, layer))

    hooks = []
    for name, layer in module.named_modules():
        hooks.append(
            layer.register_forward_pre_hook(
                lambda layer, args: entered.append((_generators(), len(found)))
            )
        )
        hooks.append(layer.register_forward_hook(functools.partial(leave, name)))
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            run(module)
    finally:
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)
        for hook in hooks:
            hook.remove()
    return found


def _generators() -> tuple[Any, ...]:
    numpys = pickle.dumps(np.random.get_state())  # noqa: NPY002
    own = torch.get_rng_state().numpy().tobytes()
    return own, numpys, random.getstate()


def random_in_train_mode(
    module: torch.nn.Module, run: Callable[[torch.nn.Module], Any]
) -> list[str]:
    """The names of what is random in train mode, of a module in eval mode."""
    scout = copied(module).train()
    for layer in scout.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._NormBase):
            layer.eval()  # a batch of one has no statistics
    try:
        drawing = drawing_layers(scout, run)
    except (RuntimeError, ValueError, TypeError, AssertionError):
        drawing = []  # in train mode it takes other inputs (an auxiliary head, targets)
    names = [name or "the model" for name, _ in (*random_layers(module), *drawing)]
    return list(dict.fromkeys(names))


def refuse_drawing(
    module: torch.nn.Module, run: Callable[[torch.nn.Module], Any], mode: str
) -> None:
    """Refuse a model that draws random numbers in the mode it is in."""
    for name, layer in drawing_layers(module, run):
        raise ValueError(
            f"{name or 'the model'} ({type(layer).__name__}) is random in {mode} mode and "
            "cannot agree; set its probability to 0 in both models, or compare in eval mode."
        )


def refuse_random(module: torch.nn.Module) -> None:
    """In train mode dropout draws other numbers in torch than here, so nothing could agree."""
    for name, layer in random_layers(module):
        raise ValueError(
            f"{name} ({type(layer).__name__}) is random in train mode and cannot agree; "
            "set its p to 0 in both models (--no-dropout does so in the shell), or compare in "
            "eval mode."
        )
