"""Modules

`dlwp_jax.nn` has torch's names, arguments, defaults and initial distributions, as Flax NNX modules with images channels
last and kernels `[in out]`. Where the value is a layer with weights, both get the same (`parity.load_torch`), and
outputs, all gradients and running statistics are compared.
"""

# %% torch.nn.Linear | on x
nn.Linear(4, 2)
# %% jax
# Weights are drawn from keys that the caller gives: no `rngs`, no layer. Flax's own `nnx.Linear` starts wider.
nn.Linear(4, 2, rngs=rngs)

# %% torch.nn.Conv2d | on images
nn.Conv2d(3, 4, 3, stride=2, padding=1)
# %% jax
# Takes `[N H W C]`. Flax's "SAME" padding differs from `padding=1` where the stride is not 1.
nn.Conv2d(3, 4, 3, stride=2, padding=1, rngs=rngs)

# %% torch.nn.Conv3d | on volumes
nn.Conv3d(3, 2, 3, padding=1)
# %% jax
nn.Conv3d(3, 2, 3, padding=1, rngs=rngs)

# %% torch.nn.ConvTranspose2d | on images
nn.ConvTranspose2d(3, 4, 2, stride=2)
# %% jax
nn.ConvTranspose2d(3, 4, 2, stride=2, rngs=rngs)

# %% torch.nn.ConvTranspose3d | on volumes
nn.ConvTranspose3d(3, 2, 2, stride=2)
# %% jax
nn.ConvTranspose3d(3, 2, 2, stride=2, rngs=rngs)

# %% torch.nn.BatchNorm2d | on images
nn.BatchNorm2d(3)
# %% jax
# torch's momentum 0.1 is the share of the new value, Flax's 0.99 that of the old; torch's running variance is unbiased.
nn.BatchNorm2d(3)

# %% torch.nn.BatchNorm3d | on volumes
nn.BatchNorm3d(3)
# %% jax
nn.BatchNorm3d(3)

# %% torch.nn.InstanceNorm2d | channels last
nn.InstanceNorm2d(3)(images)
# %% jax
nn.InstanceNorm2d(3)(images)

# %% torch.nn.Dropout2d | random | channels last
nn.Dropout2d(0.3)(torch.ones(100, 100, 2, 2))
# %% jax
# Whole channels are dropped, by a stream of keys that the layer keeps.
nn.Dropout2d(0.3, rngs=rngs)(jnp.ones((100, 2, 2, 100)))

# %% torch.nn.MaxPool2d | channels last
nn.MaxPool2d(2)(images)
# %% jax
nn.MaxPool2d(2)(images)

# %% torch.nn.MaxPool3d | channels last
nn.MaxPool3d(2)(volumes)
# %% jax
nn.MaxPool3d(2)(volumes)

# %% torch.nn.ReflectionPad2d | channels last
nn.ReflectionPad2d(2)(images)
# %% jax
nn.ReflectionPad2d(2)(images)

# %% torch.nn.Upsample | channels last
nn.Upsample(scale_factor=2, mode="bilinear")(images)
# %% jax
# `jax.image.resize` smooths where it shrinks (antialias), torch does not.
nn.Upsample(scale_factor=2, mode="bilinear")(images)

# %% torch.nn.ReLU
nn.ReLU()(x)
# %% jax
nn.ReLU()(x)

# %% torch.nn.LeakyReLU
nn.LeakyReLU()(x)
# %% jax
nn.LeakyReLU()(x)

# %% torch.nn.Tanh
nn.Tanh()(x)
# %% jax
nn.Tanh()(x)

# %% torch.nn.Hardtanh
nn.Hardtanh()(x)
# %% jax
nn.Hardtanh()(x)

# %% torch.nn.Sigmoid
nn.Sigmoid()(x)
# %% jax
nn.Sigmoid()(x)

# %% torch.nn.Softplus
nn.Softplus()(x)
# %% jax
nn.Softplus()(x)

# %% torch.nn.Softmax
nn.Softmax(dim=1)(x)
# %% jax
nn.Softmax(dim=1)(x)

# %% torch.nn.LogSoftmax
nn.LogSoftmax(dim=1)(x)
# %% jax
nn.LogSoftmax(dim=1)(x)

# %% torch.nn.MSELoss
nn.MSELoss()(x, y)
# %% jax
# A loss has no state, so it is a function. Different shapes are refused, where torch warns and broadcasts.
losses.mse_loss(x, y)

# %% torch.nn.CrossEntropyLoss
nn.CrossEntropyLoss()(x, labels)
# %% jax
# Logits in. Classes are the last axis: `[n ... C]`, where torch has `[n C ...]`.
losses.cross_entropy(x, labels)

# %% torch.nn.NLLLoss
nn.NLLLoss()(nn.LogSoftmax(dim=1)(x), labels)
# %% jax
losses.nll_loss(nn.log_softmax(x, dim=1), labels)

# %% torch.nn.Sequential | on images
nn.Sequential(
    nn.Conv2d(3, 4, 3),
    nn.Tanh(),
    nn.Flatten(),
    nn.Linear(4 * 6 * 6, 2),
)
# %% jax
# `nn.Flatten` gives torch's C H W order, so that the Linear behind it has torch's rows; `x.reshape(n, -1)` would not.
nn.Sequential(
    nn.Conv2d(3, 4, 3, rngs=rngs),
    nn.Tanh(),
    nn.Flatten(),
    nn.Linear(4 * 6 * 6, 2, rngs=rngs),
)


# %% torch.nn.Module | on x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.output = nn.Linear(8, 1)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


Net()


# %% jax
# Layers are found as attributes, in both. The forward pass is `__call__`.
class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nn.Linear(4, 8, rngs=rngs)
        self.output = nn.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.output(jnp.tanh(self.hidden(x)))


Net(rngs)


# %% torch.nn.ModuleList | on x
class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(4, 4) for _ in range(3)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


Stack()


# %% jax
# A plain Python list of modules is refused by NNX, where torch silently overlooks it; `ModuleList` is an `nnx.List`.
class Stack(nnx.Module):
    def __init__(self, rngs):
        self.layers = nn.ModuleList(
            nn.Linear(4, 4, rngs=rngs) for _ in range(3)
        )

    def __call__(self, x):
        for layer in self.layers:
            x = nn.relu(layer(x))
        return x


Stack(rngs)

# %% torch.nn.Module.train | channels last
net = nn.BatchNorm2d(3)
net.train()
net(images), net.running_mean
# %% jax
# Statistics change inside the module that is called; under `jit` and `grad` they come out as state, which `train` does.
net = nn.BatchNorm2d(3)
net.train()
net(images), net.mean[...]

# %% torch.nn.Module.eval | channels last
net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
net.eval()
net(images)
# %% jax
# The same, in place. The functions of `train` need no switch: training and evaluation have a compiled graph each.
net = nn.Sequential(
    nn.BatchNorm2d(3), nn.Dropout(0.5, rngs=rngs)
)
net.eval()
net(images)

# %% torch.nn.Module.parameters
net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
sum(w.numel() for w in net.parameters())
# %% jax
# `nnx.state(net, nnx.Param)` is the pytree of what is trained: what `jax.grad`, `jax.tree.map` and optax take.
net = nn.Sequential(
    nn.Linear(4, 8, rngs=rngs), nn.Linear(8, 1, rngs=rngs)
)
params = nnx.state(net, nnx.Param)
sum(w.size for w in jax.tree.leaves(params))

# %% torch.nn.Module.named_parameters
net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
{
    name: w.shape
    for name, w in net.named_parameters()
    if name.endswith("bias")
}
# %% jax
# Names are paths. A weight is called `kernel` and lies `[in out]`; norms have a `scale`.
net = nn.Sequential(
    nn.Linear(4, 8, rngs=rngs), nn.Linear(8, 1, rngs=rngs)
)
{
    ".".join(path): w.shape
    for path, w in nnx.to_flat_state(
        nnx.state(net, nnx.PathContains("bias"))
    )
}

# %% torch.nn.Module.named_children
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
[name for name, _ in net.named_children()]
# %% jax
net = nn.Sequential(nn.Linear(4, 8, rngs=rngs), nn.Tanh())
[name for name, _ in nnx.iter_children(net)]

# %% torch.nn.Module.modules
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
sum(isinstance(m, nn.Linear) for m in net.modules())
# %% jax
# Gives paths as well. The module itself comes last; in torch it is the first.
net = nn.Sequential(nn.Linear(4, 8, rngs=rngs), nn.Tanh())
sum(
    isinstance(m, nn.Linear)
    for _, m in nnx.iter_modules(net)
)

# %% torchvision.models.AlexNet
with torch.device("meta"):  # shapes only
    net = models.AlexNet()
    logits = net(torch.zeros(1, 3, 224, 224))
logits.shape, sorted(w.numel() for w in net.parameters())


# %% jax
# `eval_shape` is the meta device: it runs a function on shapes alone.
def logits_and_params(x):
    net = nn.AlexNet(rngs=nnx.Rngs(0))
    return net(x), nnx.state(net, nnx.Param)


logits, params = nnx.eval_shape(
    logits_and_params, jnp.zeros((1, 224, 224, 3))
)
(
    logits.shape,
    sorted(w.size for w in jax.tree.leaves(params)),
)

# %% torchvision.models.resnet101
with torch.device("meta"):
    net = models.resnet101()
sorted(w.numel() for w in net.state_dict().values())

# %% jax
# Dropout and batch norm hold their state in the module; `rngs` is where the initial weights come from.
net = nnx.eval_shape(lambda: nn.resnet101(rngs=nnx.Rngs(0)))
sorted(w.size for w in jax.tree.leaves(nnx.state(net)))
