"""Tensors and storage

A JAX array is a value: nothing changes it, and its memory is not shown. Where the book looks at storage, strides and
views (chapter 3), `dlwp_jax.storage` has them as values too: `s` is `x` with its storage.
"""

# %% torch.tensor
torch.tensor([[4.0, 1.0], [5.0, 3.0]])
# %% jax
jnp.array([[4.0, 1.0], [5.0, 3.0]])

# %% torch.zeros
torch.zeros(3, 2)
# %% jax
# The shape is one argument, a tuple.
jnp.zeros((3, 2))

# %% torch.ones
torch.ones(3, 2, dtype=torch.short)
# %% jax
jnp.ones((3, 2), dtype=jnp.int16)

# %% torch.empty | unset
torch.empty(3, 2)
# %% jax
# torch leaves whatever lay in the memory. An array that nobody can fill would be useless so; it holds zeros.
jnp.empty((3, 2))

# %% torch.zeros_like
torch.zeros_like(labels)
# %% jax
jnp.zeros_like(labels)

# %% torch.eye
torch.eye(3)
# %% jax
jnp.eye(3)

# %% torch.arange
torch.arange(0, 10, 2)
# %% jax
# Whole numbers are int32, not int64: 64 bits are off until asked for (`jax_enable_x64`).
jnp.arange(0, 10, 2)

# %% torch.linspace
torch.linspace(-1, 1, 5)
# %% jax
jnp.linspace(-1, 1, 5)

# %% torch.from_numpy
torch.from_numpy(np.arange(3.0))
# %% jax
# torch shares NumPy's memory; `jnp.array` copies, and float64 becomes float32.
jnp.array(np.arange(3.0))

# %% torch.Tensor.numpy
x.numpy()
# %% jax
# Waits until the value is computed (dispatch is asynchronous), and is read-only.
np.asarray(x)

# %% torch.Tensor.item
x.sum().item()
# %% jax
# Waits for the device; inside `jit` there is no number yet, and it is an error.
x.sum().item()

# %% torch.Tensor.tolist
labels.tolist()
# %% jax
labels.tolist()

# %% torch.Tensor.dtype, torch.float32
x.dtype, x.dtype == torch.float32
# %% jax
x.dtype, x.dtype == jnp.float32

# %% torch.long
torch.tensor([1, 2], dtype=torch.long)
# %% jax
# JAX's default integer has 32 bits; ask for `jnp.int64` and you get a warning and 32 bits, unless 64 are switched on.
jnp.array([1, 2], dtype=jnp.int32)

# %% torch.short
torch.tensor([1, 2], dtype=torch.short)
# %% jax
jnp.array([1, 2], dtype=jnp.int16)

# %% torch.uint8
torch.tensor([250, 7], dtype=torch.uint8) + 10
# %% jax
# A Python number takes the array's dtype in both, and 250 + 10 goes round to 4.
jnp.array([250, 7], dtype=jnp.uint8) + 10

# %% torch.double
torch.tensor([0.1], dtype=torch.double) * 3
# %% jax
# float64 is off until it is switched on: for a block as here, or for the program by
# `jax.config.update("jax_enable_x64", True)` before the first array is made.
with jax.enable_x64(True):
    d = jnp.array([0.1], dtype=jnp.float64) * 3
d

# %% torch.Tensor.double
index.double()
# %% jax
with jax.enable_x64(True):
    d = index.astype(jnp.float64)
d

# %% torch.Tensor.float
index.float()
# %% jax
index.astype(jnp.float32)

# %% torch.Tensor.int
x.int()
# %% jax
x.astype(jnp.int32)

# %% torch.Tensor.long
x.long()
# %% jax
# int32 again: a label or an index needs no more.
x.astype(jnp.int32)

# %% torch.Tensor.short
x.short()
# %% jax
x.astype(jnp.int16)

# %% torch.Tensor.bool
labels.bool()
# %% jax
labels.astype(bool)

# %% torch.Tensor.shape
z.shape
# %% jax
z.shape

# %% torch.Tensor.size
z.size(), z.size(1)
# %% jax
# `z.size` is the number of elements in JAX, as in NumPy.
z.shape, z.shape[1]

# %% torch.Tensor.dim
z.dim()
# %% jax
z.ndim

# %% torch.Tensor.numel
z.numel()
# %% jax
z.size

# %% torch.Tensor.stride
x.stride(), x.t().stride()
# %% jax
s.stride(), s.t().stride()

# %% torch.Tensor.storage_offset
x[1, 2:].storage_offset()
# %% jax
s[1, 2:].storage_offset()

# %% torch.Tensor.storage
x.t().storage().tolist()
# %% jax
# The storage is an ordinary 1-D array; the view holds the same one, `s.t().storage is s.storage`.
s.t().storage.tolist()

# %% torch.Tensor.is_contiguous
x.is_contiguous(), x.t().is_contiguous()
# %% jax
# A plain JAX array is always contiguous; XLA chooses the layout in memory.
s.is_contiguous(), s.t().is_contiguous()

# %% torch.Tensor.contiguous
x.t().contiguous().stride()
# %% jax
s.t().contiguous().stride()

# %% torch.Tensor.clone
x.clone()
# %% jax
# Nobody can write into `x`, so nobody needs a copy; `s.clone()` is a copy over its own storage.
x

# %% torch.Tensor.t
x.t()
# %% jax
x.T

# %% torch.Tensor.T
x.T
# %% jax
x.T

# %% torch.Tensor.transpose, torch.transpose
z.transpose(0, 2), torch.transpose(z, 0, 2)
# %% jax
# JAX's `transpose` is torch's `permute`; two axes are swapped by `swapaxes` (`s.transpose` is torch's).
z.swapaxes(0, 2), jnp.swapaxes(z, 0, 2)

# %% torch.Tensor.permute
z.permute(2, 0, 1)
# %% jax
z.transpose(2, 0, 1)

# %% torch.Tensor.view
z.view(6, 4)
# %% jax
# torch refuses a view that needs a copy; an array only has values. `s.view` keeps torch's rule.
z.reshape(6, 4)

# %% torch.Tensor.reshape
z.permute(2, 0, 1).reshape(4, -1)
# %% jax
z.transpose(2, 0, 1).reshape(4, -1)

# %% torch.Tensor.squeeze
index.squeeze(1)
# %% jax
# torch leaves an axis that is not of length 1 as it is; JAX refuses.
index.squeeze(1)

# %% torch.Tensor.unsqueeze, torch.unsqueeze
x.unsqueeze(1), torch.unsqueeze(x, -1)
# %% jax
x[:, None], jnp.expand_dims(x, -1)

# %% torch.Tensor.unsqueeze_
x.unsqueeze_(0)
x
# %% jax
# Every name that ends in `_` writes in place; here the result gets the name.
x = x[None]
x

# %% torch.Tensor.expand
index.expand(3, 4)
# %% jax
# `s.expand` has the stride of 0; here XLA decides whether memory is spent.
jnp.broadcast_to(index, (3, 4))

# %% torch.cat
torch.cat([x, y], dim=1)
# %% jax
jnp.concatenate([x, y], axis=1)

# %% torch.stack
torch.stack([x, y], dim=1)
# %% jax
jnp.stack([x, y], axis=1)

# %% torch.Tensor.gather
x.gather(1, index)
# %% jax
# An index out of range is no error: this read gives NaN, `x[9]` the last row, and a write is dropped.
jnp.take_along_axis(x, index, axis=1)

# %% torch.Tensor.scatter
x.scatter(1, index, 9.0)
# %% jax
jnp.put_along_axis(x, index, 9.0, axis=1, inplace=False)

# %% torch.Tensor.scatter_
target = torch.zeros(3, 4)
target.scatter_(1, index, 1.0)
# %% jax
# What the book uses it for, one-hot rows, has its own function.
jax.nn.one_hot(index[:, 0], 4)

# %% torch.Tensor.fill_
row = x[1]  # a view
row.fill_(7.0)
x
# %% jax
# Writing through a view gives a new storage, over which any other view can be laid; `x.at[1].set(7.0)` is the short
# way for arrays. Under `jit` XLA writes in place where the old value is not needed any more.
row = s[1]  # a view
s = s.over(row.set(7.0).storage)
s

# %% torch.Tensor.zero_
x[:, 0].zero_()
x
# %% jax
x = x.at[:, 0].set(0.0)
x

# %% torch.Tensor.clamp_
x.clamp_(-0.5, 0.5)
x
# %% jax
x = jnp.clip(x, -0.5, 0.5)
x
