"""Parameters and buffers of a model's own: how they are written, and how they begin."""

from __future__ import annotations

import torch

from dlwp_jax.parity.port.functions import dtype_text, literal
from dlwp_jax.parity.port.refuse import Refused


def constant_text(value: torch.Tensor | None, name: str) -> str:
    """A buffer that is in no state_dict, as the expression that makes it.

    Raises:
      Refused: if no short expression does.
    """
    assert value is not None
    text = _formula(value)
    if text is None and value.numel() <= 256:
        text = f"jnp.array({literal(value.tolist())})"
    if text is None:
        raise Refused(
            f"{name} is a buffer of {value.numel()} values that is in no state_dict; register it with "
            "persistent=True, so that load_torch can bring it over."
        )
    return text


def initial_text(value: torch.Tensor, name: str) -> str:
    """An expression for an array as it was found: its constant, or a distribution with its
    standard deviation.
    """
    text = _formula(value)
    if text is not None:
        return text
    shape = tuple(value.shape)
    if value.numel() <= 16 and not isinstance(value, torch.nn.Parameter):
        return f"jnp.array({literal(value.tolist())})"
    if not value.is_floating_point():
        return f"jnp.zeros({shape}, {dtype_text(value.dtype)})"
    values = value.detach().double()
    std = float(values.std(correction=0)) if value.numel() > 1 else 0.0
    if value.numel() < 16 or abs(float(values.mean())) > std / 2:
        return f"jnp.zeros({shape})"
    if float(values.abs().max()) < 1.9 * std:
        bound = float(f"{std * 3**0.5:.2g}")
        return f"nn.init.uniform({-bound}, {bound})(rngs.params(), {shape})"
    return f"nn.init.normal(0.0, {float(f'{std:.2g}')})(rngs.params(), {shape})"


def _formula(value: torch.Tensor) -> str | None:
    """zeros, ones, full, arange, a triangle of ones; None for anything else."""
    shape, dtype = tuple(value.shape), dtype_text(value.dtype)
    behind = f", {dtype}" if dtype else ""
    value = value.detach()
    if value.numel() and not value.is_complex() and bool((value == value.flatten()[0]).all()):
        first = value.flatten()[0].item()
        for name, constant in (("zeros", 0), ("ones", 1)):
            if first == constant:
                return f"jnp.{name}({shape}{behind})"
        return f"jnp.full({shape}, {literal(first)}{behind})"
    if (
        value.ndim == 1
        and value.numel() > 1
        and torch.equal(value, torch.arange(value.numel()).to(value.dtype))
    ):
        return f"jnp.arange({value.numel()}{'' if dtype else ', dtype=float'})"
    if value.ndim >= 2 and shape[-1] == shape[-2] and shape[:-2] == (1,) * (value.ndim - 2):
        ones = torch.ones(shape, dtype=value.dtype)
        for name, triangle in (("tril", torch.tril), ("triu", torch.triu)):
            for diagonal in (-1, 0, 1):
                if torch.equal(value, triangle(ones, diagonal)):
                    where = f", {diagonal}" if diagonal else ""
                    return f"jnp.{name}(jnp.ones({shape}{behind}){where})"
                if value.is_floating_point():
                    masked = torch.zeros(shape).masked_fill(
                        triangle(ones, diagonal).bool(), -torch.inf
                    )
                    if torch.equal(value, masked.to(value.dtype)):
                        where = f", {diagonal}" if diagonal else ""
                        inner = f"jnp.{name}(jnp.ones({shape}, bool){where})"
                        return f"jnp.where({inner}, -jnp.inf, 0.0)"
    if value.ndim == 1 and value.is_floating_point():
        size = 2 * value.numel()
        steps = torch.arange(0, size, 2).double() / size
        if torch.allclose(value.double(), 10000.0**-steps, rtol=1e-6, atol=0):
            return f"1 / 10000 ** (jnp.arange(0, {size}, 2) / {size})"
    return None
