"""Weights that are computed from others, and parameters as one vector; torch.nn.utils.

A parametrized layer computes a weight each time it reads it. Its parameters are called as
torch calls them, `parametrizations.weight.original` for the kernel of a Linear or a
convolution, and `parity.load_torch` finds them by name.

Gradients are clipped by `optim.clip_grad_norm` and `optim.clip_grad_value`, and sequences
padded by `nn.pad_sequence`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree
from numpy.lib.array_utils import normalize_axis_index

from dlwp_jax.nn.distance import normalize

__all__ = [
    "parameters_to_vector",
    "register_parametrization",
    "remove_parametrizations",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]

Layer = TypeVar("Layer", bound=nnx.Module)
Tree = TypeVar("Tree")


def parameters_to_vector(parameters: Any) -> jax.Array:
    """All parameters behind one another; torch.nn.utils.parameters_to_vector.

    Args:
      parameters: a pytree of arrays, as `nnx.state(model, nnx.Param)`; they stand in the order
        of its leaves.

    >>> parameters_to_vector({"b": jnp.ones(2), "a": jnp.zeros((1, 1))}).tolist()
    [0.0, 1.0, 1.0]
    """
    return ravel_pytree(parameters)[0]


def vector_to_parameters(vector: jax.Array, parameters: Tree) -> Tree:
    """The way back from `parameters_to_vector`; torch.nn.utils.vector_to_parameters.

    Args:
      vector: as long as all parameters together.
      parameters: a pytree of the shapes and dtypes that are wanted; it is not changed.

    >>> parameters = {"b": jnp.ones(2), "a": jnp.zeros(1)}
    >>> vector_to_parameters(jnp.arange(3.0), parameters)["b"].tolist()
    [1.0, 2.0]
    """
    return ravel_pytree(parameters)[1](vector)


class Parametrizations(nnx.Module):
    """The originals of one weight, and the functions that it is computed by, one after the
    other.

    Attributes:
      of_kernel: whether the weight is a kernel, whose axes torch has in another order.
    """

    def __init__(self, value: jax.Array, of_kernel: bool):
        self.of_kernel = of_kernel
        self._count: int = 0
        self._originals: tuple[str, ...] = ("original",)
        self.original: nnx.Param[jax.Array] = nnx.Param(value)

    def add(self, function: Callable[..., Any]) -> None:
        """Append a function; the first may have a `right_inverse` giving several originals."""
        inverse = getattr(function, "right_inverse", None)
        if inverse is not None:
            if self._count:
                raise ValueError(
                    "a parametrization with right_inverse must be the first of its weight."
                )
            values = inverse(self.original[...])
            if isinstance(values, tuple):
                del self.original
                self._originals = tuple(f"original{i}" for i in range(len(values)))
            else:
                values = (values,)
            for name, value in zip(self._originals, values, strict=True):
                setattr(self, name, nnx.Param(value))
        setattr(self, str(self._count), function)
        self._count += 1

    def originals(self) -> list[jax.Array]:
        """The arrays that the weight is computed from."""
        return [getattr(self, name)[...] for name in self._originals]

    def __call__(self) -> jax.Array:
        """The weight."""
        value: Any = getattr(self, "0")(*self.originals())
        for number in range(1, self._count):
            value = getattr(self, str(number))(value)
        return value


def register_parametrization(
    layer: Layer, name: str, parametrization: Callable[..., jax.Array]
) -> Layer:
    """Compute a weight of a layer from its parameter;
    torch.nn.utils.parametrize.register_parametrization.

    Args:
      layer: changed in place: `name` is computed from `parametrizations` from now on.
      name: of a parameter, as 'kernel'.
      parametrization: a function or module, original -> weight. If it has
        `right_inverse(weight)`, that gives the original, or a tuple of several, to start with.

    Returns:
      The layer.

    Raises:
      ValueError: if the layer has no parameter of that name.

    >>> from dlwp_jax import nn
    >>> layer = nn.Linear(3, 3, rngs=nnx.Rngs(0))
    >>> _ = register_parametrization(layer, "kernel", lambda w: jnp.triu(w) + jnp.triu(w, 1).T)
    >>> bool((layer.kernel == layer.kernel.T).all())
    True
    """
    every = getattr(layer, "parametrizations", None)
    theirs = _torch_name(name)
    if every is None or theirs not in every:
        parameter = vars(layer).get(name)
        if not isinstance(parameter, nnx.Param):
            raise ValueError(f"{type(layer).__name__} has no parameter {name!r}.")
        if every is None:
            layer.parametrizations = nnx.Dict()  # pyright: ignore[reportAttributeAccessIssue]
        made = Parametrizations(parameter[...], _is_kernel(name))
        layer.parametrizations[theirs] = made  # pyright: ignore[reportAttributeAccessIssue]
        delattr(layer, name)
        names = (*getattr(type(layer), "parametrized", ()), name)
        layer.__class__ = _computing(_plain(type(layer)), names)
    layer.parametrizations[theirs].add(parametrization)  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def remove_parametrizations(layer: Layer, name: str, leave_parametrized: bool = True) -> Layer:
    """Make a computed weight a parameter again;
    torch.nn.utils.parametrize.remove_parametrizations.

    Args:
      layer: changed in place.
      name: of the weight.
      leave_parametrized: keep its value; otherwise that of the original.

    Raises:
      ValueError: if the weight is not parametrized, or has no single original to go back to.

    >>> from dlwp_jax import nn
    >>> layer = weight_norm(nn.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> sorted(nnx.state(remove_parametrizations(layer, "kernel")))
    ['bias', 'kernel']
    """
    names = getattr(type(layer), "parametrized", ())
    if name not in names:
        raise ValueError(f"{name!r} of {type(layer).__name__} is not parametrized.")
    every = layer.parametrizations  # pyright: ignore[reportAttributeAccessIssue]
    made = every[_torch_name(name)]
    if leave_parametrized:
        value = getattr(layer, name)
    elif len(made.originals()) == 1:
        (value,) = made.originals()
    else:
        raise ValueError(f"{name!r} has several originals: take leave_parametrized=True.")
    left = tuple(other for other in names if other != name)
    kind = _plain(type(layer))
    layer.__class__ = _computing(kind, left) if left else kind
    delattr(every, _torch_name(name))
    if not left:
        del layer.parametrizations  # pyright: ignore[reportAttributeAccessIssue]
    setattr(layer, name, nnx.Param(value))
    return layer


def _torch_name(name: str) -> str:
    if _is_kernel(name):
        return name.removesuffix("kernel") + "weight"
    return {"embedding": "weight", "scale": "weight"}.get(name, name)


def _is_kernel(name: str) -> bool:
    """Whether a parameter's axes are torch's in another order: `kernel`, `in_proj_kernel`."""
    return name == "kernel" or name.endswith("_kernel")


def _plain(kind: type) -> type:
    return kind.__mro__[1] if hasattr(kind, "parametrized") else kind


@functools.cache
def _computing(kind: type, names: tuple[str, ...]) -> type:
    """A class of layers that compute these weights; one for all layers, as jit compares it."""

    def weight(name):
        return property(lambda self: self.parametrizations[_torch_name(name)]())

    own = {"parametrized": names, **{name: weight(name) for name in names}}
    return type(kind)(f"Parametrized{kind.__name__}", (kind,), own)


def _axis(layer: nnx.Module, name: str, dim: int) -> int:
    """Torch's axis of a weight as an axis here."""
    ndim = getattr(layer, name).ndim
    dim = normalize_axis_index(dim, ndim)
    if not _is_kernel(name):
        return dim
    return ndim - 1 - dim if dim < 2 else dim - 2


class _WeightNorm(nnx.Module):
    """`g v / |v|`, the length over all axes but one."""

    def __init__(self, axis: int | None):
        self.axis = axis

    def _length(self, v):
        axes = tuple(i for i in range(v.ndim) if i != self.axis)
        return jnp.sqrt(jnp.square(v).sum(axes, keepdims=self.axis is not None))

    def __call__(self, g, v):
        return v * (g / self._length(v))

    def right_inverse(self, weight):
        return self._length(weight), weight


def weight_norm(layer: Layer, name: str = "kernel", dim: int | None = 0) -> Layer:
    """Lengths and directions of a weight as parameters of their own;
    torch.nn.utils.parametrizations.weight_norm.

    Args:
      layer: changed in place.
      name: of its weight.
      dim: the axis, counted in torch's weight (0 are the outputs), along which every slice has
        a length; None, and -1 as in torch, for one length.

    Returns:
      The layer, with parameters `parametrizations.weight.original0` (lengths) and `original1`
      (directions) in place of the weight.

    >>> from dlwp_jax import nn
    >>> layer = weight_norm(nn.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> layer.parametrizations["weight"].original0.shape, layer(jnp.ones((1, 3))).shape
    ((1, 2), (1, 2))
    """
    axis = None if dim in (None, -1) else _axis(layer, name, dim)
    return register_parametrization(layer, name, _WeightNorm(axis))


class _SpectralNorm(nnx.Module):
    """A weight divided by its largest singular value."""

    def __init__(self, weight, dim: int, of_kernel: bool, iterations: int, eps: float, rngs):
        self.dim = dim
        self.of_kernel = of_kernel
        self.n_power_iterations = iterations
        self.eps = eps
        self.use_running_average = False  # nnx's model.train() and model.eval() set it
        matrix = self._matrix(weight)
        sides = (
            jax.random.normal(rngs.params(), (size,), weight.dtype) for size in matrix.shape
        )
        u, v = (normalize(side, dim=0, eps=eps) for side in sides)
        u, v = self._power(matrix, u, v, 15)
        self._u: nnx.BatchStat[jax.Array] = nnx.BatchStat(u)
        self._v: nnx.BatchStat[jax.Array] = nnx.BatchStat(v)

    def _matrix(self, weight):
        """`[outputs, all others]`, these in torch's order."""
        if self.of_kernel:
            weight = jnp.moveaxis(weight, (-1, -2), (0, 1))
        return jnp.moveaxis(weight, self.dim, 0).reshape(weight.shape[self.dim], -1)

    def _power(self, matrix, u, v, iterations):
        for _ in range(iterations):
            u = normalize(matrix @ v, dim=0, eps=self.eps)
            v = normalize(u @ matrix, dim=0, eps=self.eps)
        return u, v

    def __call__(self, weight):
        matrix, u, v = self._matrix(weight), self._u[...], self._v[...]
        if not self.use_running_average:
            u, v = self._power(jax.lax.stop_gradient(matrix), u, v, self.n_power_iterations)
            self._u[...], self._v[...] = u, v
        return weight / (u @ matrix @ v)


def spectral_norm(
    layer: Layer,
    name: str = "kernel",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    rngs: nnx.Rngs,
) -> Layer:
    """Divide a weight by its largest singular value;
    torch.nn.utils.parametrizations.spectral_norm.

    The singular vectors are improved by power iteration whenever the weight is read in train
    mode, once in each call of the layer.

    Args:
      layer: changed in place.
      name: of its weight.
      n_power_iterations: for each reading.
      eps: the smallest divisor of a vector.
      dim: the axis of the outputs, counted in torch's weight; None takes 0, or 1 for transposed
        convolutions.
      rngs: its `params` stream draws the first vectors.

    Returns:
      The layer, with the parameter `parametrizations.weight.original` in place of the weight.

    Raises:
      ValueError: for a weight of fewer than two axes.

    >>> from dlwp_jax import nn
    >>> layer = spectral_norm(nn.Linear(3, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    >>> print(jnp.linalg.norm(layer.kernel, 2).round(3))
    1.0
    """
    weight = getattr(layer, name)[...]
    if weight.ndim < 2:
        raise ValueError(f"spectral_norm takes a weight of two axes or more, not {name!r}.")
    if dim is None:
        dim = int("Transpose" in type(layer).__name__)
    options = _is_kernel(name), n_power_iterations, eps, rngs
    return register_parametrization(layer, name, _SpectralNorm(weight, dim, *options))
