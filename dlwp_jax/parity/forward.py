"""Running both models on one input: torch's layout turns over here, and nowhere else."""

import copy
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx


def as_numpy(x: Any) -> np.ndarray:
    """An input given as numpy, JAX or torch, copied: a batch that its owner fills anew stays as it was."""
    return np.array(x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x)


def channels_last(x: np.ndarray) -> np.ndarray:
    """`[N C *spatial]` -> `[N *spatial C]`; rows and whole numbers (tokens, labels) stay as they are.

    >>> channels_last(np.zeros((2, 3, 4, 5))).shape, channels_last(np.zeros((2, 3))).shape
    ((2, 4, 5, 3), (2, 3))
    """
    return np.moveaxis(x, 1, -1) if x.ndim > 2 and np.issubdtype(x.dtype, np.floating) else x


def is_turned(theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether an output has torch's shape with channels last; a ValueError where it has neither that nor torch's."""
    if len(theirs) > 2 and (theirs[0], *theirs[2:], theirs[1]) == tuple(ours):
        return True
    if tuple(theirs) != tuple(ours):
        raise ValueError(f"an output has shape {tuple(theirs)} in torch and {tuple(ours)} here.")
    return False


def tensors(inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Inputs as torch takes them, copied."""
    return [torch.from_numpy(as_numpy(x)) for x in inputs]


def arrays(inputs: Sequence[Any]) -> list[jax.Array]:
    """The same inputs as the JAX model takes them."""
    return [jnp.asarray(channels_last(as_numpy(x))) for x in inputs]


def torch_outputs(module: torch.nn.Module, inputs: Sequence[Any]) -> list[np.ndarray]:
    """Outputs in eval mode, in torch's layout; the module's mode is put back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return [y.numpy() for y in outputs_of(module(*tensors(inputs)))]
    finally:
        module.train(training)


def jax_outputs(model: nnx.Module, inputs: Sequence[Any], theirs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs in eval mode, turned to torch's layout, whose shapes `theirs` give."""
    model = nnx.clone(model)
    model.eval()
    with jax.default_matmul_precision("highest"):
        outputs = outputs_of(model(*arrays(inputs)))
    return [to_torch_layout(y, t.shape) for y, t in zip(outputs, theirs, strict=True)]


def to_torch_layout(y: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An output in torch's layout."""
    y = np.asarray(y)
    return np.moveaxis(y, -1, 1) if is_turned(shape, y.shape) else y


def outputs_of(result: Any) -> list:
    """The arrays of what a model returned, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return jax.tree.leaves(result, is_leaf=lambda leaf: isinstance(leaf, torch.Tensor))


def twin(module: torch.nn.Module, train: bool) -> torch.nn.Module:
    """A copy to run: gradients and batch statistics of the original stay as they are."""
    module = copy.deepcopy(module).train(train)
    module.zero_grad(set_to_none=True)
    if train:
        refuse_random(module)
    return module


def random_layers(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The layers that draw random numbers in train mode, by name."""
    kinds = torch.nn.modules.dropout._DropoutNd | torch.nn.RReLU
    return [(n, layer) for n, layer in module.named_modules() if isinstance(layer, kinds) and getattr(layer, "p", 1)]


def refuse_random(module: torch.nn.Module) -> None:
    """In train mode dropout draws other numbers in torch than here, so nothing could agree."""
    for name, layer in random_layers(module):
        raise ValueError(
            f"{name} ({type(layer).__name__}) is random in train mode and cannot agree; "
            "set its p to 0 in both models, or compare in eval mode."
        )
