"""Many devices and many processes.

`shard` puts arrays on a mesh of devices, `placement` keeps them there inside compiled programs,
`processes` joins the processes of one training, and `joint` makes one call of all of theirs.
"""
