"""What every line below may use"""

# %% torch
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import datasets, models, transforms

x, y = torch.randn(3, 4), torch.randn(3, 4)
p = torch.rand(3, 4) + 0.1  # positive
z = torch.randn(2, 3, 4)
index = torch.tensor([[0], [2], [1]])
labels = torch.tensor([1, 0, 3])
images = torch.randn(2, 3, 8, 8)  # [N C H W]
volumes = torch.randn(2, 3, 4, 4, 4)  # [N C D H W]
# %% jax
import functools
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlwp_jax import autograd, data, losses, nn, optim
from dlwp_jax import parity, storage, train

# x, y, p, z, index, labels: the same numbers
s = storage.tensor(x)  # with torch's strides
channels_last = data.image.channels_last
images = channels_last(images)  # [N H W C]
volumes = channels_last(volumes, spatial=3)
key = jax.random.key(0)
rngs = nnx.Rngs(0)
