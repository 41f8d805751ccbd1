"""Parameters and buffers of a model's own: how they are written, and how they begin."""

from __future__ import annotations

import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from dlwp_jax import nn
from dlwp_jax.parity.port.functions.common import dtype_text, literal
from dlwp_jax.parity.port.refuse import Refused


def constant_text(value: torch.Tensor | None, name: str) -> str:
    """A buffer that is in no state_dict, as the expression that makes it.

    Raises:
      Refused: if no short expression does.
    """
    assert value is not None
    text = _formula(value) or waves_text(value)
    if text is None and value.numel() <= 256:
        text = f"jnp.array({literal(value.tolist())})"
    if text is None:
        raise Refused(
            f"{name} is a buffer of {value.numel()} values that is in no state_dict; register "
            "it with persistent=True, so that load_torch can bring it over."
        )
    return text


def initial_text(value: torch.Tensor, name: str) -> str:
    """An expression for a parameter as it was found: its constant, its values if they are few
    and sorted, or a distribution with its mean and standard deviation.
    """
    text = _formula(value, short=True) or waves_text(value)
    if text is not None:
        return text
    shape = tuple(value.shape)
    if not value.is_floating_point():
        return f"jnp.zeros({shape}, {dtype_text(value.dtype)})"
    values = value.detach().double()
    if _is_sorted(values):
        text = buffer_text(value)
        if text is not None:
            return text
    std, mean = float(values.std(correction=0)), float(values.mean())
    if abs(mean) < 3 * std / values.numel() ** 0.5:
        mean = 0.0
    if values.numel() >= 16 and float((values - mean).abs().max()) < 1.9 * std:
        low, high = (float(f"{mean + side * std * 3**0.5:.2g}") for side in (-1, 1))
        return f"nn.init.uniform({low}, {high})(rngs.params(), {shape})"
    mean, std = float(f"{mean:.2g}"), float(f"{std:.2g}")
    return f"nn.init.normal({mean}, {std})(rngs.params(), {shape})"


def _is_sorted(values: torch.Tensor) -> bool:
    """Whether all rows rise or all fall, and are so long that nobody drew them so."""
    rows, length = values.numel() // values.shape[-1], values.shape[-1]
    if length < 4 or rows * math.lgamma(length + 1) < math.log(1e4):
        return False
    steps = values.diff(dim=-1)
    return bool((steps > 0).all() or (steps < 0).all())


_BEGIN = re.compile(
    r"nn\.init\.(?:normal|uniform)\((.+?), (.+?)\)\(rngs\.params\(\), \((.*?)\)\)"
)


def without_scales(text: str) -> str:
    """A text without the numbers of initial distributions, which are estimates.

    >>> without_scales("nnx.Param(nn.init.normal(0.0, 0.02)(rngs.params(), (9, 2)))")
    'nnx.Param(nn.init(rngs.params(), (9, 2)))'
    """
    return _BEGIN.sub(r"nn.init(rngs.params(), (\3))", text)


def begin_alike(text: str, other: str) -> bool:
    """Whether two texts that are equal without their scales may have the same distributions, to
    the error of an estimate from so many values.
    """
    pairs = zip(_BEGIN.finditer(text), _BEGIN.finditer(other), strict=True)
    for a, b in pairs:
        count = math.prod(map(int, re.findall(r"\d+", a[3])))
        first, second = (_mean_and_std(match) for match in (a, b))
        std = max(first[1], second[1])
        errors = (6 * std / count**0.5, 5 * std / (2 * count) ** 0.5 + 0.06 * std)
        if any(abs(x - y) > e for x, y, e in zip(first, second, errors, strict=True)):
            return False
    return True


def _mean_and_std(match: re.Match[str]) -> tuple[float, float]:
    low, high = float(match[1]), float(match[2])
    if ".normal(" in match[0]:
        return low, high
    return (low + high) / 2, (high - low) / 12**0.5


def buffer_text(value: torch.Tensor) -> str | None:
    """An expression whose value is a buffer's; None if no short one is."""
    texts = [_formula(value, short=True), waves_text(value)]
    if value.numel() <= 256:
        dtype = dtype_text(value.dtype)
        behind = f", {dtype}" if dtype not in ("", "bool", "jnp.int32") else ""
        texts.append(f"jnp.array({literal(_shortest(value))}{behind})")
    return next((text for text in texts if text and _makes(text, value)), None)


def _makes(text: str, value: torch.Tensor) -> bool:
    """Whether an expression gives the values of a tensor, to the rounding of float32."""
    try:
        made = np.asarray(eval(text, {"jnp": jnp, "nn": nn}))
    except OverflowError:  # a whole number beyond 32 bits
        return False
    if made.shape != tuple(value.shape):
        return False
    wanted = value.detach()
    if not value.is_floating_point() and not value.is_complex():
        return np.array_equal(made, wanted.numpy())
    wide = wanted.to(torch.complex128 if value.is_complex() else torch.float64).numpy()
    room = 1e-7 * max(len(made) if made.ndim else 1, 10)
    return np.allclose(made.astype(wide.dtype), wide, rtol=1e-6, atol=room, equal_nan=True)


def _shortest(value: torch.Tensor) -> Any:
    """The values as numbers with no more digits than float32 has."""
    value = value.detach()
    if value.dtype != torch.float32:
        return value.tolist()
    numbers = [float(str(x)) for x in value.numpy().ravel()]
    return np.reshape(numbers, tuple(value.shape)).tolist()


def _formula(value: torch.Tensor, short: bool = False) -> str | None:
    """zeros, ones, full, arange, a triangle of ones; None for anything else. A constant has all
    digits of its float64, or if `short` those that float32 needs.
    """
    shape, dtype = tuple(value.shape), dtype_text(value.dtype)
    behind = f", {dtype}" if dtype else ""
    value = value.detach()
    if value.numel() and not value.is_complex() and bool((value == value.flatten()[0]).all()):
        first = value.flatten()[0].item()
        for name, constant in (("zeros", 0), ("ones", 1)):
            if first == constant:
                return f"jnp.{name}({shape}{behind})"
        first = _shortest(value.flatten()[0]) if short else first
        return f"jnp.full({shape}, {literal(first)}{behind})"
    flat, count = value.flatten(), value.numel()
    if count > 1 and torch.equal(flat, torch.arange(count).to(value.dtype)):
        text = f"jnp.arange({count}{f', dtype={dtype}' if dtype else ', dtype=float'})"
        text = text.replace(", dtype=jnp.int32", "")
        return text if value.ndim == 1 else f"{text}.reshape({shape})"
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
    return None


def waves_text(value: torch.Tensor) -> str | None:
    """Tables of sines and cosines, and their frequencies: of rotary positions, and of those of
    "Attention is all you need". They are equal to torch's but for the rounding of float32.
    """
    if not value.is_floating_point() or value.numel() < 4:
        return None
    shape = tuple(value.shape)
    wide = value.detach().double()
    if value.ndim == 1:
        base = _exact_base(wide)
        return _powers(base, 2 * len(value)) if base else None
    table = wide.squeeze()
    if table.ndim != 2 or len(table) < 2:
        return None
    found = _table_text(table)
    return found and (found if shape == tuple(table.shape) else f"{found}.reshape({shape})")


def _table_text(table: torch.Tensor) -> str | None:
    length, width = table.shape
    half = width // 2
    step = table[1]  # of position 1: the sine or cosine of the frequencies
    is_cosine = bool((table[0] == 1).all())
    frequencies = torch.arccos(step) if is_cosine else torch.arcsin(step)
    forms = {
        "jnp.{f}(jnp.tile({angles}, 2))": (frequencies[:half], lambda a: a.repeat(1, 2)),
        "jnp.{f}(jnp.repeat({angles}, 2, 1))": (
            frequencies[::2],
            lambda a: a.repeat_interleave(2, 1),
        ),
        "jnp.{f}({angles})": (frequencies, lambda a: a),
    }
    places = torch.arange(length).double()
    for form, (some, spread) in forms.items():
        base = _base(some)
        if not base:
            continue
        size = 2 * len(some)
        angles = torch.outer(places, base ** (-torch.arange(0, size, 2).double() / size))
        wanted = spread(angles).cos() if is_cosine else spread(angles).sin()
        if _near(wanted, table):
            outer = f"jnp.outer(jnp.arange({length}), {_powers(base, size)})"
            return form.format(f="cos" if is_cosine else "sin", angles=outer)
    base = _base(torch.arcsin(step[::2])) if width % 2 == 0 else 0.0
    if not base:
        return None
    angles = torch.outer(places, base ** (-torch.arange(0, width, 2).double() / width))
    waves = torch.stack([angles.sin(), angles.cos()], -1).reshape(length, width)
    behind = "" if base == 10000 else f", {_number(base)}"
    if _near(waves, table):
        return f"nn.sinusoidal_positions({length}, {width}{behind})"
    return None


def _exact_base(frequencies: torch.Tensor) -> float:
    """The base of frequencies base ** (-2 i / size), to the rounding of float32; 0 if they are
    others.
    """
    if float(frequencies.min()) <= 0:
        return 0.0
    powers = torch.arange(len(frequencies)).double() / len(frequencies)
    fitted = -(powers * frequencies.log()).sum() / powers.square().sum()
    for digits in (3, 5, 8):
        base = float(f"{float(fitted.exp()):.{digits}g}")
        if torch.allclose(base**-powers, frequencies, rtol=1e-6, atol=0):
            return base
    return 0.0


def _base(frequencies: torch.Tensor) -> float:
    """A round base that roughly has these frequencies, of a table's sines; 0 if none has."""
    if len(frequencies) < 2 or not 0 < float(frequencies[1]) < 1:
        return 0.0
    base = float(f"{float(frequencies[1]) ** -len(frequencies):.3g}")
    wanted = base ** (-torch.arange(len(frequencies)).double() / len(frequencies))
    return base if torch.allclose(wanted, frequencies, rtol=1e-3, atol=1e-4) else 0.0


def _powers(base: float, size: int) -> str:
    return f"{_number(base)} ** (-jnp.arange(0, {size}, 2) / {size})"


def _number(base: float) -> str:
    """10000 and not 10000.0; no digit is left out."""
    return str(int(base)) if base.is_integer() and abs(base) < 2**31 else repr(base)


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the rounding of float32, whose angles are products."""
    return torch.allclose(a, b, rtol=0, atol=1e-7 * max(len(b), 10))
