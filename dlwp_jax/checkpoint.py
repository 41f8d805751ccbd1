"""Checkpoints: the names that programs use. The code is in `saving.store` and `leaves`."""

from dlwp_jax.leaves import fingerprint, plain, shapes
from dlwp_jax.saving.store import (
    CheckpointError,
    Store,
    damage,
    load,
    newest,
    saved,
)

__all__ = [
    "CheckpointError",
    "Store",
    "damage",
    "fingerprint",
    "load",
    "newest",
    "plain",
    "saved",
    "shapes",
]
