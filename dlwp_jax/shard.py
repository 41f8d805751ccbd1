"""Many devices, one program: state and data on a mesh, and training as before.

mesh = shard.mesh()  # all devices
state, train_set, val_set = shard.put(mesh, state, train_set, val_set)
result = train.fit(learner, state, train_set, val_set, epochs=20, batch_size=256)
"""

from dlwp_jax.devices.shard import mesh, put

__all__ = ["mesh", "put"]
