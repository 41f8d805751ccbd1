"""Layers of chapters 8 and 11, forward and backward: ours, JAX's own gradient, and torch's

Batches of 64 (4 of volumes), float32. *Plain* is `lax.conv_general_dilated` with JAX's own
gradient, outside a loop and inside a `lax.scan` (where XLA:CPU keeps the layouts of that
gradient), and batch norm without a derivative of its own. A scan is timed over four steps and
divided. Torch is the faster of channels first and last, with all its threads and with one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from timing import interleaved, readable

from dlwp_jax import nn
from dlwp_jax.nn.batch_norm import moments, normalize, normalize_by_moments

# spatial size, channels in and out of the 3 x 3 convolutions of chapter 8's networks
CONVOLUTIONS = ((32, 3, 16), (16, 16, 8), (32, 3, 32), (16, 32, 16), (8, 16, 16), (16, 32, 32))
# sizes of a volume, channels in and out of LunaModel's 3 x 3 x 3 convolutions
VOLUMES = (
    ((32, 48, 48), 1, 8),
    ((16, 24, 24), 8, 16),
    ((16, 24, 24), 16, 16),
    ((8, 12, 12), 32, 32),
    ((4, 6, 6), 64, 64),
)
LOOP = 4


def plain_conv(x, kernel):
    axes = "DHW"[-kernel.ndim + 2 :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(
        x, kernel, (1,) * len(axes), ((1, 1),) * len(axes), dimension_numbers=numbers
    )


def our_conv(x, kernel):
    return nn.conv(x, kernel, padding=1)


def plain_norm(x, scale, bias):
    mean, var = moments(x, (0, 1, 2))
    return normalize(x, mean, var, 1e-5, scale, bias)


def our_norm(x, scale, bias):
    return normalize_by_moments(x, scale, bias, 1e-5, (0, 1, 2))[0]


def step(function: Callable, *primals) -> Callable[[], object]:
    """Output and every gradient, the output standing for its own cotangent."""

    def both(*primals):
        y, pull = jax.vjp(function, *primals)
        return pull(y)

    jitted = jax.jit(both)
    return lambda: jax.block_until_ready(jitted(*primals))


def steps_in_a_loop(function: Callable, *primals) -> Callable[[], object]:
    """The same `LOOP` times inside a scan, each step fed by the gradients of the one before."""

    def body(primals, _):
        y, pull = jax.vjp(function, *primals)
        return tuple(p + 1e-6 * g for p, g in zip(primals, pull(y), strict=True)), None

    jitted = jax.jit(lambda primals: lax.scan(body, primals, length=LOOP)[0])
    return lambda: jax.block_until_ready(jitted(primals))


def torch_step(
    layer: torch.nn.Module, x: np.ndarray, threads: int, memory
) -> Callable[[], object]:
    layer = layer.to(memory_format=memory)
    x = torch.tensor(np.moveaxis(x, -1, 1)).to(memory_format=memory).requires_grad_()

    def run():
        torch.set_num_threads(threads)
        y = layer(x)
        y.backward(y.detach())

    return run


def compare(
    what: str, ours: Callable, plain: Callable, layer: torch.nn.Module, x, *others
) -> dict[str, str]:
    forms = {
        "ours": step(ours, x, *others),
        "ours, in a loop": steps_in_a_loop(ours, x, *others),
        "plain": step(plain, x, *others),
        "plain, in a loop": steps_in_a_loop(plain, x, *others),
    }
    for threads in sorted({1, torch.get_num_threads()}):
        for memory in (
            torch.contiguous_format,
            torch.channels_last if x.ndim == 4 else torch.channels_last_3d,
        ):
            forms[f"torch {threads} {memory}"] = torch_step(
                layer, np.asarray(x), threads, memory
            )
    times = {
        name: seconds / (LOOP if "loop" in name else 1)
        for name, seconds in interleaved(forms, rounds=9).items()
    }
    theirs = min(seconds for name, seconds in times.items() if name.startswith("torch"))
    shown = {
        name: readable(times[name])
        for name in ("ours", "ours, in a loop", "plain", "plain, in a loop")
    }
    return {
        "layer": what,
        **shown,
        "torch": readable(theirs),
        "ours / torch": f"{times['ours'] / theirs:.2f}",
    }


def measure() -> list[dict[str, str]]:
    threads = torch.get_num_threads()
    rng, rows = np.random.default_rng(0), []

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape).astype(np.float32))

    for size, channels, out in CONVOLUTIONS:
        torch.set_num_threads(threads)
        layer = torch.nn.Conv2d(channels, out, 3, padding=1, bias=False)
        x, kernel = normal(64, size, size, channels), normal(3, 3, channels, out)
        rows.append(
            compare(
                f"3x3, {channels} -> {out} at {size}x{size}",
                our_conv,
                plain_conv,
                layer,
                x,
                kernel,
            )
        )
    for sizes, channels, out in VOLUMES:
        torch.set_num_threads(threads)
        layer = torch.nn.Conv3d(channels, out, 3, padding=1, bias=False)
        x, kernel = normal(4, *sizes, channels), normal(3, 3, 3, channels, out)
        what = f"3x3x3, {channels} -> {out} at {'x'.join(map(str, sizes))}"
        rows.append(compare(what, our_conv, plain_conv, layer, x, kernel))
    torch.set_num_threads(threads)
    x, ones = normal(64, 16, 16, 32), jnp.ones(32)
    rows.append(
        compare(
            "batch norm, 32 at 16x16",
            our_norm,
            plain_norm,
            torch.nn.BatchNorm2d(32),
            x,
            ones,
            ones,
        )
    )
    return rows
