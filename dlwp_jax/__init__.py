"""dlwp-jax: the ideas of *Deep Learning with PyTorch* in functional JAX.

Modules are imported when they are first used, so `import dlwp_jax` costs nothing:
`dlwp_jax.train`, `dlwp_jax.storage`, `dlwp_jax.nn`, ... each stands for one idea of the book.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlwp_jax import (
        autograd,
        checkpoint,
        data,
        diagnose,
        hosts,
        losses,
        models,
        nn,
        optim,
        plots,
        regularization,
        runs,
        search,
        shard,
        storage,
        train,
        weights,
    )

__version__ = "0.1.0"
__all__ = [
    "autograd",
    "checkpoint",
    "data",
    "diagnose",
    "hosts",
    "losses",
    "models",
    "nn",
    "optim",
    "plots",
    "regularization",
    "runs",
    "search",
    "shard",
    "storage",
    "train",
    "weights",
]
_ON_REQUEST = ("parity",)  # imports torch, so `from dlwp_jax import *` leaves it out


def __getattr__(name: str) -> ModuleType:
    if name in __all__ or name in _ON_REQUEST:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ON_REQUEST])
