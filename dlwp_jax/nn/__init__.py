"""Torch's layers as Flax NNX modules: torch's names, defaults and numbers, channels last
(chapters 6 and 8).

Arrays are `[N ... C]`; kernels lie as Flax has them, `[in out]` and `[*window in out]`. Every
layer that draws random numbers takes `rngs=nnx.Rngs(seed)`; `param_dtype` is the dtype of the
parameters, `dtype` that of the computation. `model.train()` and `model.eval()` are NNX's own
and work in place.

The networks of `dlwp_jax.models` are found here too: `nn.UNet` is `models.UNet`.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from flax import nnx as _nnx

from dlwp_jax.nn import init as init
from dlwp_jax.nn import utils as utils
from dlwp_jax.nn.activation_layers import *  # noqa: F403
from dlwp_jax.nn.activations import *  # noqa: F403
from dlwp_jax.nn.adaptive_pool import *  # noqa: F403
from dlwp_jax.nn.adaptive_softmax import *  # noqa: F403
from dlwp_jax.nn.attention import *  # noqa: F403
from dlwp_jax.nn.attention_layer import *  # noqa: F403
from dlwp_jax.nn.batch_norm import *  # noqa: F403
from dlwp_jax.nn.containers import *  # noqa: F403
from dlwp_jax.nn.convolution import *  # noqa: F403
from dlwp_jax.nn.convolution_transpose import *  # noqa: F403
from dlwp_jax.nn.distance import *  # noqa: F403
from dlwp_jax.nn.dropout import *  # noqa: F403
from dlwp_jax.nn.embedding import *  # noqa: F403
from dlwp_jax.nn.embedding_bag import *  # noqa: F403
from dlwp_jax.nn.generation import *  # noqa: F403
from dlwp_jax.nn.layer_norm import *  # noqa: F403
from dlwp_jax.nn.linear import *  # noqa: F403
from dlwp_jax.nn.padding import *  # noqa: F403
from dlwp_jax.nn.pool import *  # noqa: F403
from dlwp_jax.nn.positions import *  # noqa: F403
from dlwp_jax.nn.recurrent import *  # noqa: F403
from dlwp_jax.nn.resize import *  # noqa: F403
from dlwp_jax.nn.signature import shown as _shown
from dlwp_jax.nn.spatial import *  # noqa: F403
from dlwp_jax.nn.transformer import *  # noqa: F403
from dlwp_jax.nn.unfold import *  # noqa: F403
from dlwp_jax.nn.unpool import *  # noqa: F403

if _TYPE_CHECKING:
    from dlwp_jax.models import *  # noqa: F403

for _layer in list(globals().values()):
    if isinstance(_layer, type) and issubclass(_layer, _nnx.Module):
        _shown(_layer)
del _layer


# `dlwp_jax.models` imports the layers above, so an import of it here would be a circle: its
# networks are looked up when they are asked for.
def __getattr__(name: str) -> _Any:
    if not name.startswith("_"):
        models = _importlib.import_module("dlwp_jax.models")
        if name in models.__all__:
            return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_importlib.import_module("dlwp_jax.models").__all__])
