"""Many devices and many processes.

`placement` keeps arrays on a mesh of devices inside compiled programs, `processes` joins the
processes of one training, and `joint` makes one call of all of theirs. `dlwp_jax.shard` puts a
training on a mesh.
"""
