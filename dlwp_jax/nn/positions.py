"""Positions in a sequence as features: sines and cosines, and rotations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.nn.shapes import floating

__all__ = ["rotary", "sinusoidal_embedding", "sinusoidal_positions"]


def sinusoidal_positions(
    length: int, size: int, base: float = 10000.0, *, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """The table of *Attention is all you need*: feature 2 i of position p is
    sin(p / base^(2 i / size)), feature 2 i + 1 the cosine.

    Args:
      length: number of positions.
      size: features, an even number.
      base: the ratio of the longest to the shortest wavelength.
      dtype: of the result.

    Returns:
      `[length size]`.

    >>> sinusoidal_positions(3, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    angles = _angles(jnp.arange(length), size, base)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(length, size).astype(dtype)


def sinusoidal_embedding(x: ArrayLike, size: int, scale: float = 1.0) -> jax.Array:
    """Numbers as features, the form of the book's chapter 10: size / 2 sines, then as many
    cosines, of `x` times frequencies from 1 down to 1 / 10000.

    Args:
      x: `[...]`, steps of a diffusion or coordinates.
      size: features, an even number of at least 4.
      scale: multiplies `x`.

    Returns:
      `[... size]`.

    >>> sinusoidal_embedding(jnp.array([0.0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    half = _half(size)
    if half < 2:
        raise ValueError(
            f"size={size} must be at least 4: the frequencies go down to the last."
        )
    x = floating(x)
    powers = jnp.arange(half, dtype=x.dtype) / (half - 1)
    angles = x[..., None] * scale * 10000.0**-powers
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rotary(
    x: ArrayLike,
    positions: ArrayLike | None = None,
    base: float = 10000.0,
    interleaved: bool = False,
) -> jax.Array:
    """Rotary positions: pairs of features of queries and keys turn by an angle that grows with
    the position, so that their product depends on the distance alone.

    Args:
      x: queries or keys, `[... L size]`, size even.
      positions: `[L]`, or what broadcasts to `[... L]`; None takes 0, 1, 2, ...
      base: the ratio of the slowest to the fastest turn.
      interleaved: whether a pair is features 2 i and 2 i + 1; if not, i and i + size / 2.

    Returns:
      As `x`.

    >>> x = jnp.ones((3, 2))
    >>> q, k = rotary(x), rotary(x, jnp.arange(3) + 5)
    >>> bool(jnp.allclose(q @ q.T, k @ k.T, atol=1e-5))
    True
    """
    x = floating(x)
    size = x.shape[-1]
    positions = jnp.arange(x.shape[-2]) if positions is None else positions
    angles = _angles(jnp.asarray(positions), size, base)
    sin, cos = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = jnp.split(x, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        return jnp.stack(turned, axis=-1).reshape(x.shape)
    return jnp.concatenate(turned, axis=-1)


def _angles(positions: jax.Array, size: int, base: float) -> jax.Array:
    """`[... size / 2]`: the position times each frequency."""
    positions = floating(positions)
    powers = jnp.arange(_half(size), dtype=positions.dtype) * (2 / size)
    return positions[..., None] * base**-powers


def _half(size: int) -> int:
    if size % 2:
        raise ValueError(f"size={size} must be even: sines and cosines come in pairs.")
    return size // 2
