"""Functions

`dim` is `axis`. Functions of arrays are in `jnp`, those of networks in `nn` and `losses`, channels last.
"""

# %% torch.Tensor.add
x.add(y)
# %% jax
x + y

# %% torch.Tensor.sub
x.sub(y)
# %% jax
x - y

# %% torch.Tensor.pow
x.pow(2)
# %% jax
x**2

# %% torch.Tensor.log, torch.log
p.log(), torch.log(p)
# %% jax
jnp.log(p), jnp.log(p)

# %% torch.exp
torch.exp(x)
# %% jax
jnp.exp(x)

# %% torch.sqrt
torch.sqrt(p)
# %% jax
jnp.sqrt(p)

# %% torch.tanh
torch.tanh(x)
# %% jax
jnp.tanh(x)

# %% torch.relu, torch.nn.functional.relu
torch.relu(x), F.relu(x)
# %% jax
# The gradient at 0 is 0 in both; `jnp.maximum(x, 0)` would give 1/2.
nn.relu(x), jax.nn.relu(x)

# %% torch.Tensor.sum, torch.sum
x.sum(), torch.sum(x, dim=0)
# %% jax
x.sum(), jnp.sum(x, axis=0)

# %% torch.Tensor.mean, torch.mean
x.mean(), torch.mean(x, dim=(0, 1), keepdim=True)
# %% jax
x.mean(), jnp.mean(x, axis=(0, 1), keepdims=True)

# %% torch.Tensor.std, torch.std
x.std(), torch.std(x, dim=0)
# %% jax
# torch divides by n - 1, NumPy and JAX by n unless told otherwise.
x.std(ddof=1), jnp.std(x, axis=0, ddof=1)

# %% torch.var
torch.var(x, dim=1)
# %% jax
# The same n - 1.
jnp.var(x, axis=1, ddof=1)

# %% torch.Tensor.max, torch.max
x.max(), torch.max(x, dim=1)
# %% jax
# Along an axis torch gives values and places, JAX one function for each.
x.max(), (jnp.max(x, axis=1), jnp.argmax(x, axis=1))

# %% torch.Tensor.min, torch.min
x.min(), torch.min(x, dim=1).values
# %% jax
x.min(), jnp.min(x, axis=1)

# %% torch.Tensor.argmax
x.argmax(dim=1), x.argmax()
# %% jax
x.argmax(axis=1), x.argmax()

# %% torch.sort
torch.sort(x, dim=1)
# %% jax
jnp.sort(x, axis=1), jnp.argsort(x, axis=1)

# %% torch.lt
torch.lt(x, y)
# %% jax
x < y

# %% torch.Tensor.isfinite, torch.isfinite
(x / 0).isfinite(), torch.isfinite(x)
# %% jax
jnp.isfinite(x / 0), jnp.isfinite(x)

# %% torch.Tensor.nonzero
(x > 0).nonzero()
# %% jax
# The shape depends on the values, so it is not for `jit`, which wants `size=`; a mask (`jnp.where`) mostly does better.
jnp.argwhere(x > 0)

# %% torch.einsum
torch.einsum("nij,kj->nik", z, x)
# %% jax
# On a GPU, matrix products may use TF32 unless `jax.default_matmul_precision("highest")` is set.
jnp.einsum("nij,kj->nik", z, x)

# %% torch.nn.functional.softmax
F.softmax(x, dim=1)
# %% jax
nn.softmax(x, dim=1)

# %% torch.nn.functional.log_softmax
F.log_softmax(x, dim=1)
# %% jax
nn.log_softmax(x, dim=1)

# %% torch.nn.functional.cross_entropy
F.cross_entropy(x, labels)
# %% jax
# Of logits, in both: no softmax before it. Optax gives one loss for each row, without the mean.
losses.cross_entropy(x, labels)

# %% torch.nn.functional.nll_loss
F.nll_loss(F.log_softmax(x, dim=1), labels)
# %% jax
losses.nll_loss(nn.log_softmax(x, dim=1), labels)

# %% torch.nn.functional.dropout | random
F.dropout(torch.ones(100, 100), 0.3)
# %% jax
# A draw needs a key; the layer keeps its own stream of them.
nn.Dropout(0.3, rngs=rngs)(jnp.ones((100, 100)))

# %% torch.nn.functional.max_pool2d | channels last
F.max_pool2d(images, 2)
# %% jax
# The step is the window, as in torch; `flax.linen.max_pool` steps by 1.
nn.max_pool(images, (2, 2))

# %% torch.nn.functional.avg_pool2d | channels last
F.avg_pool2d(images, 3, padding=1)
# %% jax
nn.avg_pool(images, (3, 3), padding=1)

# %% torch.nn.functional.affine_grid
turn = torch.tensor([[0.9, 0.2, 0.1], [-0.2, 0.9, 0.0]])
F.affine_grid(
    turn.expand(2, 2, 3), images.shape, align_corners=False
)
# %% jax
# Coordinates stay (x, y), last axis first, also where images lie channels last.
turn = jnp.array([[0.9, 0.2, 0.1], [-0.2, 0.9, 0.0]])
nn.affine_grid(
    jnp.broadcast_to(turn, (2, 2, 3)), images.shape
)

# %% torch.nn.functional.grid_sample | channels last
grid = 0.9 * torch.tanh(z[..., :2].reshape(2, 1, 3, 2))
F.grid_sample(images, grid, align_corners=False)
# %% jax
# Neither JAX nor Flax has it; `nn.grid_sample` is differentiable in image and grid.
grid = 0.9 * jnp.tanh(z[..., :2].reshape(2, 1, 3, 2))
nn.grid_sample(images, grid, align_corners=False)
