"""Autograd

torch records what happens to a tensor; JAX differentiates a function. Nothing is recorded, so nothing must be detached,
switched off or set to zero. Every other line of this page that has a gradient is compared by it as well.
"""

# %% torch.Tensor.backward, torch.Tensor.grad
w = torch.tensor([1.0, 2.0], requires_grad=True)
loss = (w**2).sum()
loss.backward()
w.grad
# %% jax
# The gradient is a result, as long as its argument, and is not kept in it; `jax.value_and_grad` gives the loss as well.
w = jnp.array([1.0, 2.0])
jax.grad(lambda w: (w**2).sum())(w)

# %% torch.Tensor.requires_grad
w = torch.tensor(3.0, requires_grad=True)
x = torch.tensor(2.0, requires_grad=False)
(w * x**2).backward()
w.grad
# %% jax
# No tensor carries a flag: `argnums` says with respect to which arguments one differentiates.
w, x = jnp.array(3.0), jnp.array(2.0)
jax.grad(lambda w, x: w * x**2, argnums=0)(w, x)

# %% torch.Tensor.detach
w = torch.tensor(3.0, requires_grad=True)
(w * w.detach()).backward()
w.grad
# %% jax
# `jax.lax.stop_gradient` by another name.
w = jnp.array(3.0)
jax.grad(lambda w: w * autograd.detach(w))(w)

# %% torch.no_grad
w = torch.tensor([1.0, 2.0], requires_grad=True)
with torch.no_grad():
    val_loss = (w**2).mean()
val_loss
# %% jax
# What `jax.grad` is not asked for costs nothing; `train.evaluate` is compiled without a backward pass.
w = jnp.array([1.0, 2.0])
val_loss = (w**2).mean()
val_loss


# %% torch.set_grad_enabled
def loss_of(w, is_train):
    with torch.set_grad_enabled(is_train):
        return (w**2).sum()


w = torch.tensor([1.0, 2.0], requires_grad=True)
loss_of(w, True).backward()
loss_of(w, False).item(), w.grad


# %% jax
# One function serves both: call it, or differentiate it.
def loss_of(w):
    return (w**2).sum()


w = jnp.array([1.0, 2.0])
grad = jax.grad(loss_of)(w)
loss_of(w).item(), grad

# %% torch.nn.Module.requires_grad_
net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
net[0].requires_grad_(False)
net(x).sum().backward()
[
    name
    for name, w in net.named_parameters()
    if w.grad is not None and name.endswith("bias")
]
# %% jax
# A filter chooses what is trained; the backward pass of the rest is not computed. `make_learner(trainable=...)` takes it.
net = nn.Sequential(
    nn.Linear(4, 8, rngs=rngs), nn.Linear(8, 1, rngs=rngs)
)
head = nnx.All(nnx.Param, nnx.PathContains("1"))
loss = lambda net, x: net(x).sum()
value, grads = autograd.grad_where(loss, head)(net, x)
[
    ".".join(path)
    for path, _ in nnx.to_flat_state(grads)
    if path[-1] == "bias"
]

# %% torch.nn.Module.zero_grad
net = nn.Linear(4, 1)
for _ in range(2):
    net.zero_grad()  # else gradients add up
    net(x).sum().backward()
net.bias.grad
# %% jax
# Each call starts from nothing. To add gradients up on purpose: `autograd.accumulate_gradients`.
net = nn.Linear(4, 1, rngs=rngs)
for _ in range(2):
    grads = nnx.grad(lambda net: net(x).sum())(net)
grads["bias"][...]
