"""Devices

Arrays are made on the accelerator where there is one, and a compiled function runs where its arguments are: the same program
on a CPU, a GPU or a TPU, without a line about it. Here both sides run on the CPU.
"""

# %% torch.cuda.is_available
torch.cuda.is_available()
# %% jax
# "cpu", "gpu" or "tpu".
jax.default_backend() == "gpu"

# %% torch.cuda.device_count
torch.cuda.device_count()
# %% jax
# `jax.device_count()` counts what arrays are made on by default: the CPU too, where there is nothing else.
sum(d.platform == "gpu" for d in jax.devices())

# %% torch.device, torch.Tensor.device
device = torch.device("cpu")
torch.zeros(3, device=device).device
# %% jax
device = jax.devices("cpu")[0]
jnp.zeros(3, device=device).device

# %% torch.Tensor.cuda
if torch.cuda.is_available():
    x = x.cuda()
x
# %% jax
# Needed only to choose among several; arrays are on the first accelerator from the start.
x = jax.device_put(x, jax.devices()[0])
x

# %% torch.Tensor.to
x.to("cpu"), x.to(torch.short)
# %% jax
# Two functions: one for the device, one for the dtype. A module's arrays are moved as a tree: `device_put(state, device)`.
(
    jax.device_put(x, jax.devices("cpu")[0]),
    x.astype(jnp.int16),
)

# %% torch.nn.DataParallel
net = nn.DataParallel(nn.Tanh())
net(z)
# %% jax
# Lay the batch over a mesh of devices, and the compiled program runs on all of them and sums the gradients itself.
mesh = jax.make_mesh(
    (jax.device_count(),),
    ("data",),
    axis_types=(jax.sharding.AxisType.Auto,),
)
rows = jax.NamedSharding(mesh, jax.P("data"))
net = jax.jit(nn.tanh, in_shardings=rows)
net(z)
