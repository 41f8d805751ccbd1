"""Saving

What is saved is a tree of arrays, without code: a torch file may be a pickle, and a pickle is a program. Weights go to and
from torch by `parity.load_torch` and `parity.to_torch`.
"""

# %% torch.Tensor.cpu
x.cpu().numpy()
# %% jax
# Brings the array to the host, from wherever it is.
jax.device_get(x)

# %% torch.save, torch.load
torch.save({"index": index, "labels": labels}, "rows.pt")
saved = torch.load("rows.pt", weights_only=True)
saved["index"], saved["labels"]
# %% jax
# Any tool for NumPy arrays will do: `np.savez`, safetensors, HDF5; Orbax for many devices.
np.savez("rows.npz", index=index, labels=labels)
saved = np.load("rows.npz")
saved["index"], saved["labels"]

# %% torch.nn.Module.state_dict, torch.nn.Module.load_state_dict
net, other = nn.Linear(4, 2), nn.Linear(4, 2)
torch.save(net.state_dict(), "net.pt")
other.load_state_dict(torch.load("net.pt"))
torch.equal(other(x), net(x))
# %% jax
# `nnx.state` is the state_dict: parameters, statistics and the state of random streams, as a tree of arrays.
net = nn.Linear(4, 2, rngs=nnx.Rngs(0))
other = nn.Linear(4, 2, rngs=nnx.Rngs(1))
state = dict(nnx.to_flat_state(nnx.state(net)))
np.savez(
    "net.npz", **{".".join(k): v for k, v in state.items()}
)
saved = {
    tuple(k.split(".")): v
    for k, v in np.load("net.npz").items()
}
nnx.update(other, nnx.from_flat_state(saved))
bool((other(x) == net(x)).all())
