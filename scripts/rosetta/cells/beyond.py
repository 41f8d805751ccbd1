"""Beyond the list

The hub has no counterpart by nature. Named tensors, which the book shows, have gone from torch 2.13 itself; here as there
a comment says what the axes are, `# [N H W C]`, and `einsum` names them for one line.
"""

# %% torch.hub.load
net = torch.hub.load(".", "line", source="local")
torch.save(net.state_dict(), "line.pt")
net(x).detach()
# %% jax
# Nothing fetches a stranger's code and runs it. Import the model's code as a package, and read its weights:
# `parity.read` takes torch's files and safetensors, and refuses a pickle that wants to run something.
net = nn.Linear(4, 1, rngs=rngs)
parity.load_torch(net, parity.read("line.pt"))
net(x)

# %% torch.nn.functional.scaled_dot_product_attention
F.scaled_dot_product_attention(z, z, z, is_causal=True)
# %% jax
# `jax.nn.dot_product_attention` has the heads behind the positions, and its softmax in float32.
nn.scaled_dot_product_attention(z, z, z, is_causal=True)

# %% torch.nn.TransformerEncoderLayer | on z
nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
# %% jax
# Sequences are `[N L E]` with `batch_first=True`, `[L N E]` without, as in torch. `MultiheadAttention`,
# `TransformerDecoderLayer` and `Transformer` are here too.
nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, rngs=rngs)

# %% torch.nn.TransformerEncoder | on z
nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 2)
# %% jax
# Every layer is drawn anew; torch copies the first, so that all start equal.
nn.TransformerEncoder(
    nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, rngs=rngs), 2, rngs=rngs
)

# %% torch.nn.Transformer.generate_square_subsequent_mask
nn.Transformer.generate_square_subsequent_mask(3)
# %% jax
# `is_causal=True` does it without a mask.
nn.Transformer.generate_square_subsequent_mask(3)
