"""Random numbers

torch draws from one hidden stream; JAX computes from a key that is passed by hand, so the same key always gives the same
numbers, in any order and on any device. The two sides are compared by shape, dtype and distribution.
"""

# %% torch.manual_seed
torch.manual_seed(7)
a = torch.rand(3)
torch.manual_seed(7)
b = torch.rand(3)
torch.equal(a, b)
# %% jax
# There is nothing to reset: the key is the state. A key is used once; `split` or `fold_in` makes new ones.
key = jax.random.key(7)
a = jax.random.uniform(key, (3,))
b = jax.random.uniform(key, (3,))
bool((a == b).all())

# %% torch.rand | random
torch.rand(100, 100)
# %% jax
jax.random.uniform(key, (100, 100))

# %% torch.randn | random
torch.randn(100, 100)
# %% jax
jax.random.normal(key, (100, 100))

# %% torch.randn_like | random
torch.randn_like(torch.ones(100, 100))
# %% jax
jax.random.normal(key, jnp.ones((100, 100)).shape)

# %% torch.randint | random
torch.randint(0, 10, (100, 100))
# %% jax
jax.random.randint(key, (100, 100), 0, 10)

# %% torch.randperm
torch.randperm(100).sort().values
# %% jax
jax.random.permutation(key, 100).sort()

# %% torch.nn.init.normal_ | random
w = torch.empty(100, 100)
nn.init.normal_(w, mean=1.0, std=0.1)
# %% jax
# An initializer is a function of key and shape; a layer takes it as `kernel_init=`.
nn.init.normal(mean=1.0, std=0.1)(key, (100, 100))

# %% torch.nn.init.kaiming_normal_ | random
w = torch.empty(200, 100)  # [out in]
nn.init.kaiming_normal_(w, nonlinearity="relu")
w.T
# %% jax
# Kernels lie `[in out]`. JAX's own `kaiming_normal` is He's too, but cut off at two standard deviations.
nn.init.kaiming_normal(nonlinearity="relu")(key, (100, 200))

# %% torch.nn.init.constant_
nn.init.constant_(torch.empty(3, 4), 0.5)
# %% jax
nn.init.constant(0.5)(key, (3, 4))

# %% torch.nn.init.zeros_
nn.init.zeros_(torch.empty(3, 4))
# %% jax
nn.init.zeros()(key, (3, 4))
