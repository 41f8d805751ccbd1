"""Coming from PyTorch: ten things that will bite you

Each first line of JAX looks right, raises no error and gives other numbers than torch. The line under it gives torch's numbers.
"""

# %% A row of an array is not a view of it
row = x[0]
row += 1.0
x
# %% bites
row = x[0]
row += 1.0  # a new array, called row
x
# %% jax
# Arrays are values: `row += 1.0` makes a new array, and `x` does not change. Write through `.at`, and keep the result.
x = x.at[0].add(1.0)
x

# %% The same key draws the same numbers
a, b = torch.rand(3), torch.rand(3)
torch.equal(a, b)
# %% bites
a = jax.random.uniform(key, (3,))
b = jax.random.uniform(key, (3,))
bool((a == b).all())
# %% jax
# There is no global generator. Split a key for each draw, or fold the number of the step in, as `train` does.
keys = jax.random.split(key)
a = jax.random.uniform(keys[0], (3,))
b = jax.random.uniform(keys[1], (3,))
bool((a == b).all())

# %% Numbers have 32 bits
torch.tensor([2**31 - 1]) + 1
# %% bites
jnp.array([2**31 - 1]) + 1
# %% jax
# An integer overflows without an error, and a float loses digits. Switch 64 bits on for a block, or for the program by
# `jax.config.update("jax_enable_x64", True)`; most accelerators are slow at float64.
with jax.enable_x64(True):
    n = jnp.array([2**31 - 1]) + 1
n

# %% A flattened image has another order
images.flatten(1)
# %% bites
images.reshape(2, -1)
# %% jax
# `[N H W C]` flattens place by place, torch's `[N C H W]` channel by channel. It matters as soon as weights come from
# torch: the first Linear layer behind it has its rows in torch's order. `nn.Flatten` is the layer.
nn.flatten(images)

# %% Weights start smaller or larger | random
nn.Linear(100, 1000).weight.detach().T
# %% bites
nnx.Linear(100, 1000, rngs=rngs).kernel[...]
# %% jax
# Flax draws from LeCun's normal distribution (standard deviation 0.1 at 100 inputs) and sets biases to zero, torch
# draws both uniformly (0.058). A learning rate that was tuned for one start may be wrong for the other.
nn.Linear(100, 1000, rngs=rngs).kernel[...]

# %% Batch norm counts its momentum the other way round
net = nn.BatchNorm2d(3, momentum=0.1)
net(images)
net.running_var
# %% bites
net = nnx.BatchNorm(3, momentum=0.1, rngs=rngs)
net(images)
net.var[...]
# %% jax
# torch's 0.1 is the share of the new batch, Flax's that of the old value. With 0.9 Flax is near, but not the same:
# torch's running variance divides by n - 1, and its epsilon is 1e-5.
net = nn.BatchNorm2d(3, momentum=0.1)
net(images)
net.var[...]

# %% "SAME" is not padding=1 | channels last
kernel = torch.ones(4, 3, 3, 3)
F.conv2d(images, kernel, stride=2, padding=1)
# %% bites
kernel = jnp.ones((3, 3, 3, 4))
jax.lax.conv_general_dilated(
    images,
    kernel,
    window_strides=(2, 2),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)
# %% jax
# With stride 2 "SAME" pads one place on one side only, so every output is read one place further. Say the pairs.
kernel = jnp.ones((3, 3, 3, 4))
nn.conv(images, kernel, stride=2, padding=1)

# %% GELU is an approximation
F.gelu(x)
# %% bites
jax.nn.gelu(x)
# %% jax
# `jax.nn.gelu` takes the tanh formula unless told `approximate=False`. So it is with the epsilon of Flax's norms (1e-6)
# and the smoothing of `jax.image.resize`: the defaults are others.
nn.gelu(x)

# %% Adam's weight decay is not AdamW's
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.Adam([w], lr=0.1, weight_decay=0.1)
for _ in range(3):
    opt.zero_grad()
    (w**2).sum().backward()
    opt.step()
w.detach()
# %% bites
w = jnp.array([1.0, -1.0])
tx = optax.adamw(0.1, weight_decay=0.1)
state = tx.init(w)
for _ in range(3):
    updates, state = tx.update(2 * w, state, w)
    w = optax.apply_updates(w, updates)
w
# %% jax
# In torch's Adam it is added to the gradient before the moments; optax has only AdamW's, after them. AdamW's default is
# 1e-2 in torch and 1e-4 in optax. `parity.torch_optimizer` translates a live optimizer, with its state.
w = jnp.array([1.0, -1.0])
tx = optim.adam(0.1, weight_decay=0.1)
state = tx.init(w)
for _ in range(3):
    updates, state = tx.update(2 * w, state, w)
    w = optax.apply_updates(w, updates)
w

# %% Weights of classes divide by their sum
weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
F.cross_entropy(x, labels, weight=weight)
# %% bites
weight = jnp.array([1.0, 2.0, 3.0, 4.0])
each = optax.softmax_cross_entropy_with_integer_labels(
    x, labels
)
(weight[labels] * each).mean()
# %% jax
# torch's mean is weighted: by the weights of the labels that are there, not by their number.
weight = jnp.array([1.0, 2.0, 3.0, 4.0])
losses.cross_entropy(x, labels, weight=weight)
