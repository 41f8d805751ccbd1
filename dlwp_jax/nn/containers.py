"""Containers of layers, and the turn between images and rows in torch's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = [
    "Flatten",
    "LayerStack",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "Sequential",
    "Unflatten",
    "flatten",
    "unflatten",
]


class Sequential(nnx.Module):
    """Apply layers one after the other; torch.nn.Sequential.

    Layers are given by position and called "0", "1", ..., or with names: by an (ordered)
    mapping as torch, or by keyword. The names are attributes, and appear in NNX paths and
    checkpoints as in torch's state_dict.

    Args:
      layers: modules or any callables of one argument, or one mapping name -> layer.
      named: name=layer, in order.

    Raises:
      KeyError: if a name is empty, holds a dot, or is already an attribute of modules;
        TypeError: if a layer cannot be called.

    >>> from dlwp_jax import nn
    >>> rngs = nnx.Rngs(0)
    >>> hidden, output = nn.Linear(1, 8, rngs=rngs), nn.Linear(8, 1, rngs=rngs)
    >>> model = Sequential(hidden=hidden, act=jnp.tanh, output=output)
    >>> model(jnp.ones((5, 1))).shape, model.hidden is model[0], len(model)
    ((5, 1), True, 3)
    """

    def __init__(
        self,
        *layers: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]],
        **named: Callable[[Any], Any],
    ):
        self._names: tuple[str, ...] = ()
        first = layers[0] if len(layers) == 1 else None
        if isinstance(first, Mapping):
            pairs = list(first.items())
        else:
            pairs = [(str(i), layer) for i, layer in enumerate(layers)]
        for name, layer in [*pairs, *named.items()]:
            self._add(name, layer)

    def _add(self, name: str, layer: Any):
        if not callable(layer):
            raise TypeError(f"Sequential: layer {name!r} must be callable; it is {layer!r}.")
        if not isinstance(name, str) or not name or "." in name or hasattr(self, name):
            raise KeyError(
                f"Sequential: {name!r} cannot name a layer: empty, with a dot, or already "
                "an attribute."
            )
        setattr(self, name, layer)
        self._names = (*self._names, name)

    def append(self, layer: Callable[[Any], Any]) -> Self:
        """Add a layer behind the others, named by its position."""
        self._add(str(len(self)), layer)
        return self

    def __call__(self, x: Any) -> Any:
        """The last layer of ... of the first layer of `x`."""
        for layer in self:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self._names)

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """Name and layer, in order."""
        return zip(self._names, self, strict=True)

    def __getitem__(self, index: int | str | slice) -> Any:
        """A layer by position or name; a slice gives a Sequential of the same layers and
        names.
        """
        if isinstance(index, slice):
            return Sequential({name: getattr(self, name) for name in self._names[index]})
        if isinstance(index, str):
            if index not in self._names:
                raise KeyError(
                    f"Sequential has no layer {index!r}; it has {list(self._names)}."
                )
            return getattr(self, index)
        return getattr(self, self._names[index])


class LayerStack(nnx.Module):
    """Layers of one structure, one after the other, as a loop (`jax.lax.scan`): the function of
    `Sequential`.

    The arrays of the layers lie stacked in `layer`, with a leading axis. So a hundred blocks
    compile in the time of one, and their optimizer works on a few large arrays. Every layer
    must give back the shape and dtype it was given. `parity.load_torch` finds layers by their
    own names: load first, then stack.

    Args:
      layers: modules that differ in nothing but the values of their arrays; they are copied.

    Raises:
      ValueError: if two layers differ in structure.
      TypeError: (JAX's) if a layer changes shape or dtype.

    >>> from dlwp_jax import nn
    >>> rngs = nnx.Rngs(0)
    >>> layers = Sequential(*(nn.Linear(4, 4, rngs=rngs) for _ in range(3)))
    >>> stack = LayerStack(*layers)
    >>> x = jnp.ones((2, 4))
    >>> stack.layer.kernel.shape, bool(jnp.allclose(stack(x), layers(x), atol=1e-6))
    ((3, 4, 4), True)
    """

    def __init__(self, *layers: nnx.Module):
        if not layers:
            raise ValueError("LayerStack needs at least one layer.")
        graph, first = nnx.split(layers[0])
        states = [first]
        for i, layer in enumerate(layers[1:], start=1):
            other, state = nnx.split(layer)
            if other != graph or jax.tree.map(jnp.shape, state) != jax.tree.map(
                jnp.shape, first
            ):
                raise ValueError(
                    f"LayerStack: layer {i} differs in structure from layer 0; take Sequential."
                )
            states.append(state)
        self.layer: nnx.Module = nnx.merge(
            graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        )
        self._depth = len(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The last layer of ... of the first layer of `x`."""
        graph, *parts = nnx.split(self.layer, nnx.Param, ...)

        def step(x, parts):
            layer = nnx.merge(graph, *parts, copy=True)
            x = layer(x)
            return x, nnx.split(layer, nnx.Param, ...)[
                2
            ]  # running statistics, counts of random streams

        x, rest = jax.lax.scan(step, x, tuple(parts))
        nnx.update(self.layer, rest)
        return x

    def __len__(self) -> int:
        return self._depth

    def __iter__(self) -> Iterator[Any]:
        """The layers by themselves, copied out."""
        graph, state = nnx.split(self.layer)
        return (
            nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))
            for i in range(self._depth)
        )


class ModuleList(nnx.List):
    """Layers in a list, found by NNX as torch.nn.ModuleList's are by torch; calling them is up
    to you.

    >>> from dlwp_jax import nn
    >>> layers = ModuleList(nn.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(3))
    >>> len(layers), sorted(nnx.state(layers))
    (3, [0, 1, 2])
    """


class ModuleDict(nnx.Dict):
    """Layers by name, found by NNX as torch.nn.ModuleDict's are by torch.

    >>> from dlwp_jax import nn
    >>> layers = ModuleDict({"act": nn.ReLU(), "out": nn.Linear(4, 2, rngs=nnx.Rngs(0))})
    >>> list(layers), layers["out"](jnp.ones((1, 4))).shape
    (['act', 'out'], (1, 2))
    """

    def __init__(self, layers: Mapping[str, Any] = MappingProxyType({})):
        super().__init__(layers)


def _parameter(value: Any) -> Any:
    """An array as a parameter; anything else as it is."""
    return nnx.Param(jnp.asarray(value)) if isinstance(value, jax.Array | np.ndarray) else value


class ParameterList(nnx.List):
    """Parameters in a list; torch.nn.ParameterList. Arrays become `nnx.Param`.

    >>> parameters = ParameterList([jnp.ones(2), jnp.zeros(3)])
    >>> len(parameters), parameters[1].shape
    (2, (3,))
    """

    def __init__(self, values: Iterable[Any] = ()):
        super().__init__(map(_parameter, values))

    def append(self, value: Any) -> None:
        """Add a parameter behind the others."""
        super().append(_parameter(value))


class ParameterDict(nnx.Dict):
    """Parameters by name; torch.nn.ParameterDict. Arrays become `nnx.Param`.

    >>> parameters = ParameterDict({"scale": jnp.ones(2)})
    >>> parameters["scale"].shape
    (2,)
    """

    def __init__(self, values: Mapping[str, Any] = MappingProxyType({})):
        super().__init__({name: _parameter(value) for name, value in values.items()})

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, _parameter(value))


def flatten(x: jax.Array, start_dim: int = 1, end_dim: int = -1) -> jax.Array:
    """Flatten `[N *spatial C]` as torch flattens the same image, `[N C *spatial]`: channel by
    channel.

    So the columns of a Linear layer behind it have the meaning they have in torch. The axes are
    torch's (0 is N, 1 is C, ...). A result of more than two axes is returned channels last.

    Args:
      x: `[N *spatial C]`; rows `[N C]` stay as they are.
      start_dim, end_dim: the first and the last axis to merge, counted in torch's order.

    Raises:
      ValueError: if start_dim is 0 and some axes stay: it would be unclear which of them
        holds channels.

    >>> image = jnp.array([[[[0, 10], [1, 11]]]])  # [N=1 H=1 W=2 C=2]
    >>> flatten(image).tolist()
    [[0, 1, 10, 11]]
    """
    start, end = _dim(start_dim, x.ndim), _dim(end_dim, x.ndim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim}.")
    if start == 0 and 0 < end < x.ndim - 1:
        raise ValueError(
            f"flatten: start_dim=0 with end_dim={end_dim} leaves no channel axis; take "
            "start_dim=1."
        )
    first = jnp.moveaxis(x, -1, 1) if x.ndim > 2 else x
    merged = first.reshape(
        *first.shape[:start], math.prod(first.shape[start : end + 1]), *first.shape[end + 1 :]
    )
    return jnp.moveaxis(merged, 1, -1) if merged.ndim > 2 else merged


def unflatten(x: jax.Array, dim: int, sizes: tuple[int, ...]) -> jax.Array:
    """Give axis `dim`, in torch's order, the shape `sizes`, also in torch's order; the inverse
    of `flatten`.

    >>> unflatten(jnp.arange(12).reshape(1, 12), 1, (3, 2, 2)).shape  # torch's C=3, H=2, W=2
    (1, 2, 2, 3)
    """
    dim = _dim(dim, x.ndim)
    first = jnp.moveaxis(x, -1, 1) if x.ndim > 2 else x
    if -1 not in sizes and math.prod(sizes) != first.shape[dim]:
        raise RuntimeError(
            f"unflatten: sizes {tuple(sizes)} do not multiply to the {first.shape[dim]} of "
            f"axis {dim}."
        )
    spread = first.reshape(*first.shape[:dim], *sizes, *first.shape[dim + 1 :])
    return jnp.moveaxis(spread, 1, -1) if spread.ndim > 2 else spread


def _dim(dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], "
            f"but got {dim})."
        )
    return dim % ndim


class Flatten(nnx.Module):
    """`flatten` as a layer: images to rows in torch's C, H, W order; torch.nn.Flatten.

    >>> Flatten()(jnp.ones((2, 4, 4, 3))).shape
    (2, 48)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = start_dim
        self.end_dim = end_dim

    def __call__(self, x: jax.Array) -> jax.Array:
        """`flatten` of `x`."""
        return flatten(x, self.start_dim, self.end_dim)


class Unflatten(nnx.Module):
    """`unflatten` as a layer: axis `dim` gets the shape `unflattened_size`; torch.nn.Unflatten.

    For example rows in torch's C, H, W order become images.

    >>> Unflatten(1, (3, 4, 4))(jnp.ones((2, 48))).shape
    (2, 4, 4, 3)
    """

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]):
        self.dim = dim
        self.unflattened_size: tuple[int, ...] = tuple(unflattened_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`unflatten` of `x`."""
        return unflatten(x, self.dim, self.unflattened_size)
