"""The arguments of a layer in help() and in notebooks: NNX's metaclass shows `(*args,
**kwargs)` for every module.
"""

import inspect
from typing import Any, TypeVar

Layer = TypeVar("Layer", bound=type)


def shown(layer: Layer) -> Layer:
    """The class, with the arguments of its `__init__` as its signature; so for classes derived
    from it.

    >>> from dlwp_jax import nn
    >>> list(inspect.signature(nn.GELU).parameters)
    ['approximate']
    """
    layer.__signature__ = _OfInit()  # pyright: ignore[reportAttributeAccessIssue]
    return layer


class _OfInit:
    def __get__(self, layer: Any, kind: type) -> inspect.Signature:
        if layer is not None:
            raise AttributeError("__signature__")  # a layer itself is called by its __call__
        if kind.__init__ is object.__init__:
            return inspect.Signature()
        parameters = list(inspect.signature(kind.__init__).parameters.values())
        return inspect.Signature(parameters[1:])
