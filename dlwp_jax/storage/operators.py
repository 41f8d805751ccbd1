"""Arithmetic and comparison of tensors, by `jax.numpy` on their elements."""

import operator
from collections.abc import Callable
from typing import Any

import jax


def dense(value: Any) -> Any:
    """The elements of a tensor as an array; anything else as it is."""
    return value.to_array() if isinstance(value, DenseOperators) else value


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], jax.Array]:
    return lambda self, other: function(dense(self), dense(other))


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], jax.Array]:
    return lambda self, other: function(dense(other), dense(self))


def _unary(function: Callable[[Any], Any]) -> Callable[[Any], jax.Array]:
    return lambda self: function(dense(self))


class DenseOperators:
    """Arithmetic and comparison for a class with `.to_array()`, without bitwise operators;
    every result is dense.

    >>> from dlwp_jax import storage
    >>> storage.tensor([[4.0, 1.0], [5.0, 3.0]]).t()[0] * 2
    Array([ 8., 10.], dtype=float32)
    """

    # NumPy arrays leave operators between them and tensors to this class, as with jax.Array.
    __array_priority__ = 100

    def to_array(self) -> jax.Array:
        """The elements as a dense array."""
        raise NotImplementedError

    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _binary(operator.matmul), _reflected(operator.matmul)
    __eq__ = _binary(operator.eq)  # type: ignore[assignment]
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]
    __lt__, __le__ = _binary(operator.lt), _binary(operator.le)
    __gt__, __ge__ = _binary(operator.gt), _binary(operator.ge)
    __neg__, __pos__, __abs__ = _unary(operator.neg), _unary(operator.pos), _unary(abs)
    __hash__ = None  # compared element by element, like jax.Array  # type: ignore[assignment]
