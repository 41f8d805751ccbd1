"""Checkpoints: the names that programs use. The code is in `dlwp_jax.saving.store`."""

from dlwp_jax.saving.store import (
    CheckpointError,
    Store,
    damage,
    fingerprint,
    load,
    newest,
    plain,
    saved,
    shapes,
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
