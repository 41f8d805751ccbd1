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
