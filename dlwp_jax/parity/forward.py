"""Running both models on one input: torch's layout turns over here, and nowhere else."""

import copy
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.overrides import TorchFunctionMode

from dlwp_jax.parity.leaves import to_numpy

Layout = str | Sequence[str]  # "auto", or one word for each input
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
        same), or "auto":
        as is where a Linear or LayerNorm reads the last axis first, or where every layer that tells reads the last
        axis; else turned. One word for all inputs, or one for each. Rows and whole numbers are never turned.
      run: how the model is run on the inputs, where it is not `module(*inputs)`.

    Raises:
      ValueError: for another word, or where there are not as many words as inputs.
    """
    words = [layout] * len(inputs) if isinstance(layout, str) else list(layout)
    if len(words) != len(inputs) or not set(words) <= set(_WORDS):
        raise ValueError(
            f"layout={layout!r}: give one of {', '.join(_WORDS)}, or one for each of {len(inputs)} inputs."
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
    r"(conv(_transpose)?|(adaptive_)?(max|avg)_pool|lp_pool|dropout)[123]d|(batch|instance|group)_norm"
)
_LAST_AXIS = re.compile(r"linear|layer_norm|rms_norm")


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
        sizes = next(
            (a for a in arguments if isinstance(a, tuple | list)), ()
        )  # of a norm over the last axes
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


def _run(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
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


def outputs_of(result: Any) -> list[Any]:
    """The arrays of what a model returned, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return jax.tree.leaves(result, is_leaf=lambda leaf: isinstance(leaf, torch.Tensor))


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The model inside of DataParallel or torch.compile; its names have no prefix."""
    while isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        module = module.module
    return getattr(module, "_orig_mod", module)


def twin(module: torch.nn.Module, train: bool) -> torch.nn.Module:
    """A copy to run: gradients and batch statistics of the original stay as they are."""
    module = copy.deepcopy(unwrapped(module)).train(train)
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
        if isinstance(layer, kinds) and getattr(layer, "p", 1)
    ]


def refuse_random(module: torch.nn.Module) -> None:
    """In train mode dropout draws other numbers in torch than here, so nothing could agree."""
    for name, layer in random_layers(module):
        raise ValueError(
            f"{name} ({type(layer).__name__}) is random in train mode and cannot agree; "
            "set its p to 0 in both models, or compare in eval mode."
        )
