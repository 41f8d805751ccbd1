"""The arrays of both models, layer by layer, in the order in which the layers were made."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx

from dlwp_jax.parity.rules import (
    CHANNELS_LAST,
    FLIPPED,
    KERNEL,
    OF_BATCH_LAST,
    SAME,
    Rule,
    Transform,
    compiled,
)

Path = tuple[Any, ...]

# Kernels `[in out]` are torch's weights, transposed.
_KERNELS = {"kernel": "weight"} | {
    f"{part}_proj_kernel": f"{part}_proj_weight" for part in ("in", "q", "k", "v")
}
# Our name of a leaf -> torch's. Others are called the same.
TORCH_NAMES = {**_KERNELS, "scale": "weight", "embedding": "weight"}
_STATISTICS = {
    "mean": "running_mean",
    "var": "running_var",
}  # of a batch norm; a model's own `mean` keeps its name


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a JAX model: where it is, and the layer it belongs to."""

    path: Path
    variable: nnx.Variable[Any]
    owner: Any

    @property
    def torch_name(self) -> str:
        """What torch calls it inside its layer."""
        names = _STATISTICS if isinstance(self.variable, nnx.BatchStat) else TORCH_NAMES
        return names.get(self.path[-1], self.own_name)

    @property
    def own_name(self) -> str:
        """What the JAX model calls it inside its layer."""
        return str(self.path[-1])

    @property
    def _is_kernel(self) -> bool:
        """Whether it is a kernel, or one of the arrays that `nn.utils` computes one from."""
        original = getattr(self.owner, "of_kernel", False) and self.variable.ndim > 1
        return self.path[-1] in _KERNELS or original

    @property
    def expected_shape(self) -> tuple[int, ...]:
        """The shape torch's array has, if the layer is laid out as `dlwp_jax.nn`'s are."""
        shape = tuple(self.variable.shape)
        if self.own_name not in (*TORCH_NAMES, "bias") and not self._is_kernel:
            return shape
        turn = self.transform((*shape[-1:], *shape[:-1]))
        assert turn.undo is not None  # the turns of layers all have a way back
        return turn.undo(np.broadcast_to(np.float32(0), shape)).shape

    def transform(self, torch_shape: tuple[int, ...]) -> Transform:
        """How an array of torch's with that shape turns into this one."""
        name, shape = self.path[-1], tuple(self.variable.shape)
        if self._is_kernel:
            flipped = (
                isinstance(self.owner, nnx.ConvTranspose) and not self.owner.transpose_kernel
            )
            return FLIPPED if flipped else KERNEL
        if name in ("scale", "bias") and len(shape) > 1:
            return CHANNELS_LAST if (*torch_shape[1:], *torch_shape[:1]) == shape else SAME
        same = torch_shape == shape or len(torch_shape) != len(shape) or len(shape) < 3
        return SAME if same else _the_one_that_fits(torch_shape, shape)


def _the_one_that_fits(torch_shape: tuple[int, ...], shape: tuple[int, ...]) -> Transform:
    """For a loose parameter or buffer, as `[1 C H W]`: which of torch's first two axes holds
    the channels.
    """
    array = np.broadcast_to(np.float32(0), torch_shape)
    fitting = [
        turn for turn in (CHANNELS_LAST, OF_BATCH_LAST) if turn.apply(array).shape == shape
    ]
    return fitting[0] if len(fitting) == 1 else SAME


@dataclasses.dataclass
class Layer:
    """The arrays of one layer by torch's names; `names` are all the names the layer goes by,
    dotted.
    """

    names: list[str]
    leaves: dict[str, Any] = dataclasses.field(default_factory=dict)

    def signature(
        self, shape: Callable[[Any], tuple[int, ...]]
    ) -> frozenset[tuple[str, tuple[int, ...]]]:
        """What two layers must agree in to be matched by order; `shape(leaf)` is torch's."""
        return frozenset(
            (name, tuple(shape(leaf)))
            for name, leaf in self.leaves.items()
            if name != "num_batches_tracked"
        )


def dotted(path: Path) -> str:
    """A path as the reports print it."""
    return ".".join(map(str, path))


def jax_layers(model: nnx.Module) -> list[Layer]:
    """The layers of an NNX model that hold arrays; one that is used under several names is
    listed once.
    """
    canonical = {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    found: dict[str, Layer] = {}
    by_id: dict[int, Leaf] = {}
    for path, name, variable, owner in _walk(model, (), ()):
        leaf = Leaf(path, variable, owner)
        if path in canonical:
            by_id[id(variable)] = leaf
        layer = found.setdefault(dotted(name), Layer([dotted(name)]))
        layer.leaves[leaf.own_name] = leaf
    for layer in found.values():
        layer.leaves = _by_torch_names(
            {name: by_id[id(leaf.variable)] for name, leaf in layer.leaves.items()}
        )
    return _without_repeats(found.values(), lambda leaf: leaf.path)


def _by_torch_names(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """A layer's leaves under torch's names, or their own where torch's is taken (a `scale`
    beside a `kernel`).
    """
    named: dict[str, Leaf] = {}
    for own, leaf in leaves.items():
        taken = leaf.torch_name != own and (
            leaf.torch_name in leaves or leaf.torch_name in named
        )
        named[own if taken else leaf.torch_name] = leaf
    return named


def _walk(node: Any, path: Path, name: Path, above: tuple[int, ...] = ()) -> Iterator:
    """(graph path, torch's name of the layer, variable, owner), attributes in the order of
    their making.
    """
    if id(node) in above:  # a cycle
        return
    items = enumerate(node) if isinstance(node, nnx.List) else _attributes(node)
    for key, value in items:
        if isinstance(value, nnx.RngState | nnx.Rngs | nnx.RngStream | nnx.Intermediate):
            continue
        if isinstance(value, nnx.Variable):
            yield (*path, key), name, value, node
        elif isinstance(value, nnx.Module | nnx.Dict | nnx.List):
            # flax's own Sequential keeps its layers in a list that torch's names do not have.
            hidden = key == "layers" and isinstance(node, nnx.Sequential)
            yield from _walk(
                value, (*path, key), name if hidden else (*name, key), (*above, id(node))
            )


def _attributes(node: Any) -> list[tuple[str, Any]]:
    return [
        (name, value) for name, value in vars(node).items() if not name.startswith("_pytree__")
    ]


def torch_layers(state: Mapping[str, torch.Tensor]) -> list[Layer]:
    """The layers of a state_dict; leaves are its names. A layer used under several names is
    listed once.
    """
    found: dict[str, Layer] = {}
    for name in state:
        layer, _, leaf = name.rpartition(".")
        found.setdefault(layer, Layer([layer])).leaves[leaf] = name
    return _without_repeats(found.values(), lambda name: same_storage(state[name], name))


def same_storage(tensor: torch.Tensor, name: str) -> tuple[Any, ...]:
    """Equal for tensors that are one and the same memory."""
    if tensor.numel() == 0:
        return (name,)
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
    )


def _without_repeats(layers, identity) -> list[Layer]:
    kept: dict[tuple, Layer] = {}
    for layer in layers:
        key = tuple(
            (name, identity(leaf))
            for name, leaf in sorted(layer.leaves.items(), key=lambda item: item[0])
        )
        if key in kept:
            kept[key].names += layer.names
        else:
            kept[key] = layer
    return list(kept.values())


def refuse_hooked_weights(
    state: Mapping[str, torch.Tensor],
    rules: Sequence[Rule] = (),
    known: Sequence[str] = (),
) -> None:
    """Refuse hooked weights that no rule has placed.

    Parametrizations that the JAX model has too (its names are `known`) are no matter.
    """
    placed = [compiled(pattern) for pattern, *_ in rules]
    left = [name for name in state if not any(rule.fullmatch(name) for rule in placed)]
    for name in left:
        leaf = name.rpartition(".")[2]
        if "parametrizations." in name and not name.endswith(tuple(known)):
            raise NotImplementedError(
                f"{name} is a parametrization, which the JAX model has not there: apply "
                "nn.utils.weight_norm, spectral_norm or register_parametrization to its layer, "
                "or fold torch's into the weight: "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')."
            )
        if leaf in ("weight_g", "weight_orig"):
            raise NotImplementedError(
                f"{name} is part of a weight that hooks put together; fold it into the weight "
                "first: torch.nn.utils.remove_weight_norm, "
                "torch.nn.utils.remove_spectral_norm or torch.nn.utils.prune.remove."
            )


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's values on the host; bfloat16, which numpy has not, as float32.

    A copy, because JAX takes over numpy's memory where it can, and torch's optimizers write
    into theirs.
    """
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
