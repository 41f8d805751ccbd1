"""Sequences and rarer layers

Names that the book does not use, if their line here is another than torch's; the others are counted
[below](#torchnn-name-by-name).
"""

# %% torch.nn.LSTM | on z
nn.LSTM(4, 5, num_layers=2, batch_first=True)
# %% jax
# The parameters have torch's names and layout: two biases, gates i f g o. Flax's `nnx.LSTMCell` has one bias.
nn.LSTM(4, 5, num_layers=2, batch_first=True, rngs=rngs)

# %% torch.nn.GRU | on z
nn.GRU(4, 5, bidirectional=True)
# %% jax
nn.GRU(4, 5, bidirectional=True, rngs=rngs)

# %% torch.nn.RNN | on z
nn.RNN(4, 5, nonlinearity="relu")
# %% jax
nn.RNN(4, 5, nonlinearity="relu", rngs=rngs)

# %% torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
rnn = nn.RNN(4, 5)
for parameter in rnn.parameters():
    nn.init.constant_(parameter, 0.1)
packed = nn.utils.rnn.pack_padded_sequence(
    z, [2, 1, 1]
)
padded, last = rnn(packed)
padded, lengths = nn.utils.rnn.pad_packed_sequence(padded)
padded, last
# %% jax
# There is no packed sequence: the layer is given the lengths, and returns the padded output and the state at each
# sequence's own end.
rnn = nn.RNN(4, 5, rngs=rngs)
state = nnx.state(rnn, nnx.Param)
nnx.update(rnn, jax.tree.map(lambda p: jnp.full_like(p, 0.1), state))
rnn(z, lengths=[2, 1, 1])

# %% torch.nn.utils.rnn.pad_sequence
nn.utils.rnn.pad_sequence([x[0], x[1, :2]], batch_first=True)
# %% jax
nn.pad_sequence([x[0], x[1, :2]], batch_first=True)

# %% torch.nn.LSTMCell
cell = nn.LSTMCell(4, 5)
h, c = cell(x)
h.shape, c.shape
# %% jax
# One step; `jax.lax.scan` makes the loop.
cell = nn.LSTMCell(4, 5, rngs=rngs)
h, c = cell(x)
h.shape, c.shape

# %% torch.nn.MaxUnpool2d, torch.nn.MaxPool2d | channels last
pooled, places = nn.MaxPool2d(2, return_indices=True)(images)
nn.MaxUnpool2d(2)(pooled, places)
# %% jax
# Places are numbered row by row within their channel, as in torch.
pooled, places = nn.MaxPool2d(2, return_indices=True)(images)
nn.MaxUnpool2d(2)(pooled, places)

# %% torch.nn.Unfold, torch.nn.Fold | channels last
columns = nn.Unfold(3)(images)  # [N C*9 windows]
nn.Fold((8, 8), 3)(columns)
# %% jax
# A window is a row here.
rows = nn.Unfold(3)(images)  # [N windows C*9]
nn.Fold((8, 8), 3)(rows)

# %% torch.nn.EmbeddingBag | on index
nn.EmbeddingBag(3, 2, mode="sum")
# %% jax
nn.EmbeddingBag(3, 2, mode="sum", rngs=rngs)

# %% torch.nn.CosineSimilarity
nn.CosineSimilarity(dim=1)(x, y)
# %% jax
# `dim` counts the axes of the array itself: the channels of an image are -1 here.
nn.CosineSimilarity(dim=1)(x, y)

# %% torch.nn.functional.normalize
F.normalize(x, dim=1)
# %% jax
nn.normalize(x, dim=1)

# %% torch.nn.functional.one_hot
F.one_hot(labels, num_classes=4)
# %% jax
# Floats unless a dtype is given.
jax.nn.one_hot(labels, 4, dtype=int)

# %% torch.nn.functional.alpha_dropout | random
y = F.alpha_dropout(torch.ones(100, 100), 0.3, training=True)
(y > 0).float()
# %% jax
y = nn.alpha_dropout(jnp.ones((100, 100)), 0.3, training=True, key=key)
(y > 0).astype(jnp.float32)

# %% torch.nn.utils.parametrizations.weight_norm
layer = nn.Linear(4, 2)
layer = nn.utils.parametrizations.weight_norm(layer)
[tuple(p.shape) for _, p in sorted(layer.named_parameters())]
# %% jax
# Kernels are `[in out]`: the lengths stand along their last axis.
layer = nn.Linear(4, 2, rngs=rngs)
layer = nn.utils.weight_norm(layer)
state = parity.to_torch(layer)
[tuple(state[name].shape) for name in sorted(state)]

# %% torch.nn.utils.parametrize.register_parametrization
class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


layer = nn.Linear(4, 2)
nn.init.ones_(layer.weight)
nn.utils.parametrize.register_parametrization(
    layer, "weight", Halved()
)
layer.weight.detach().T
# %% jax
# A function will do; the weight of a Linear is its `kernel`.
layer = nn.Linear(4, 2, rngs=rngs)
layer.kernel[...] = jnp.ones((4, 2))
nn.utils.register_parametrization(
    layer, "kernel", lambda weight: weight / 2
)
layer.kernel

# %% torch.nn.utils.parameters_to_vector, torch.nn.utils.vector_to_parameters
vector = nn.utils.parameters_to_vector([x, y])
nn.utils.vector_to_parameters(vector.flip(0), [x, y])
x.tolist(), y.tolist()
# %% jax
# Any pytree, such as `nnx.state(model, nnx.Param)`; new arrays are returned.
vector = nn.utils.parameters_to_vector([x, y])
x, y = nn.utils.vector_to_parameters(vector[::-1], [x, y])
x.tolist(), y.tolist()

# %% torch.nn.LazyLinear
layer = nn.LazyLinear(2)
layer(x).shape
# %% jax
# A layer is given its sizes; where they follow from what comes before, `jax.eval_shape` tells them without computing.
features = jax.eval_shape(lambda x: x, x).shape[-1]
layer = nn.Linear(features, 2, rngs=rngs)
layer(x).shape
