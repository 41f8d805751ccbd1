"""And quieter ones

Smaller differences, of the same kind. Some have no line to show: `grid_sample` and `affine_grid` are absent from JAX
(`nn` has them); a GPU may multiply float32 in TensorFloat-32, which `jax.default_matmul_precision("highest")` forbids;
Flax's recurrent cells have one bias and an orthogonal kernel, and its `seq_lengths=` leaves numbers behind the end of a
sequence, where torch's padded output (and `nn.LSTM(...)(x, lengths=...)`) has zeros.
"""

# %% An embedding starts narrower | random
nn.Embedding(100, 50).weight.detach()
# %% bites
nnx.Embed(100, 50, rngs=rngs).embedding[...]
# %% jax
# torch draws from N(0, 1).
nn.Embedding(100, 50, rngs=rngs).embedding[...]

# %% The epsilon of a layer norm
F.layer_norm(1e-3 * x, (4,))
# %% bites
nnx.LayerNorm(4, rngs=rngs)(1e-3 * x)
# %% jax
# 1e-5 in torch's norms, 1e-6 in Flax's; and torch's InstanceNorm has no scale and bias unless they are asked for.
nn.LayerNorm(4)(1e-3 * x)

# %% Pooling goes on by one | channels last
F.max_pool2d(images, 2)
# %% bites
nnx.max_pool(images, (2, 2))
# %% jax
# torch's stride is the window's size.
nn.max_pool(images, 2)

# %% A transposed convolution | channels last
kernel = torch.arange(108.0).view(3, 4, 3, 3)
F.conv_transpose2d(
    images, kernel, stride=2, padding=1, output_padding=1
)
# %% bites
kernel = jnp.arange(108.0).reshape(3, 4, 3, 3)
kernel = kernel.transpose(2, 3, 0, 1)  # [H W in out]
jax.lax.conv_transpose(images, kernel, (2, 2), "SAME")
# %% jax
# torch's kernel is the transpose of a convolution's, and its padding is cut off on both sides.
kernel = jnp.arange(108.0).reshape(3, 4, 3, 3)
kernel = kernel.transpose(2, 3, 1, 0)  # [H W out in]
nn.conv_transpose(
    images, kernel, stride=2, padding=1, output_padding=1
)

# %% Shrinking a picture | channels last
F.interpolate(images, scale_factor=0.5, mode="bilinear")
# %% bites
jax.image.resize(images, (2, 4, 4, 3), "linear")
# %% jax
# `jax.image.resize` smooths first, unless told `antialias=False`.
nn.interpolate(images, scale_factor=0.5, mode="bilinear")

# %% Weight decay and momentum
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.SGD(
    [w], lr=0.1, momentum=0.9, weight_decay=0.1
)
for _ in range(3):
    opt.zero_grad()
    (w**2).sum().backward()
    opt.step()
w.detach()
# %% bites
w = jnp.array([1.0, -1.0])
tx = optax.chain(
    optax.trace(0.9),
    optax.add_decayed_weights(0.1),
    optax.scale(-0.1),
)
state = tx.init(w)
for _ in range(3):
    updates, state = tx.update(2 * w, state, w)
    w = optax.apply_updates(w, updates)
w
# %% jax
# torch's SGD adds the decay to the gradient, before the momentum.
w = jnp.array([1.0, -1.0])
tx = optim.sgd(0.1, momentum=0.9, weight_decay=0.1)
state = tx.init(w)
for _ in range(3):
    updates, state = tx.update(2 * w, state, w)
    w = optax.apply_updates(w, updates)
w

# %% RMSprop's defaults
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.RMSprop([w], lr=0.01)
(w**2).sum().backward()
opt.step()
w.detach()
# %% bites
w = jnp.array([1.0, -1.0])
tx = optax.rmsprop(0.01)
w + tx.update(2 * w, tx.init(w), w)[0]
# %% jax
# A decay of 0.99 and an epsilon outside of the root in torch; 0.9, and inside, in optax.
w = jnp.array([1.0, -1.0])
tx = optim.rmsprop(0.01)
w + tx.update(2 * w, tx.init(w), w)[0]

# %% Adagrad's first sum
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.Adagrad([w], lr=0.1)
(w**2).sum().backward()
opt.step()
w.detach()
# %% bites
w = jnp.array([1.0, -1.0])
tx = optax.adagrad(0.1)
w + tx.update(2 * w, tx.init(w), w)[0]
# %% jax
# 0 in torch, 0.1 in optax. `optim` has torch's formula for the others, too: Adamax, NAdam, RAdam, ASGD, Rprop, L-BFGS.
w = jnp.array([1.0, -1.0])
tx = optim.adagrad(0.1)
w + tx.update(2 * w, tx.init(w), w)[0]

# %% Patience on a plateau
w = torch.zeros(1, requires_grad=True)
opt = torch.optim.SGD([w], lr=1.0)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
schedule = plateau(opt, patience=2)
rates = []
for loss in (1.0, 1.0, 1.0, 1.0, 1.0):
    opt.step()
    schedule.step(loss)
    rates.append(opt.param_groups[0]["lr"])
rates
# %% bites
tx = optax.contrib.reduce_on_plateau(factor=0.1, patience=2)
state = tx.init(jnp.zeros(1))
rates = []
for loss in (1.0, 1.0, 1.0, 1.0, 1.0):
    _, state = tx.update(jnp.ones(1), state, value=loss)
    rates.append(float(state.scale))
rates
# %% jax
# optax reduces the rate one epoch earlier.
tx = optim.reduce_lr_on_plateau(1.0, patience=2)
state = tx.init(jnp.zeros(1))
rates = []
for loss in (1.0, 1.0, 1.0, 1.0, 1.0):
    _, state = tx.update(jnp.ones(1), state, value=loss)
    rates.append(float(state.lr))
rates

# %% Clipping small gradients
w = torch.zeros(2, requires_grad=True)
w.grad = torch.tensor([3e-4, 4e-4])
torch.nn.utils.clip_grad_norm_([w], max_norm=1e-4)
w.grad
# %% bites
tx = optax.clip_by_global_norm(1e-4)
tx.update(jnp.array([3e-4, 4e-4]), tx.init(None))[0]
# %% jax
# torch divides by the norm and 1e-6.
tx = optim.clip_grad_norm(1e-4)
tx.update(jnp.array([3e-4, 4e-4]), tx.init(None))[0]
