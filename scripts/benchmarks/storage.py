"""Storage and views (chapter 3)

Reading a view as a dense array against torch's `.contiguous()` and NumPy's `ascontiguousarray`,
interleaved; the gradient of a weighted sum through a view against torch's autograd; 64 rows
read in a loop; what one view operation costs. Plain `jnp` on the dense array tells what is ours
and what is XLA's; on the storage, reshaped, it starts from what we start from (XLA:CPU turns a
bare 2-D argument 3-4 times faster than a reshaped or computed one). Below 1 is in our favour.
"""

import math
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import interleaved, readable

from dlwp_jax import storage

# name -> (size of the tensor, the view in terms of torch and ours alike, the same elements in
# jnp)
READS: dict[str, tuple[tuple[int, ...], Callable, Callable]] = {
    "rows x[256:768]": ((1024, 1024), lambda x: x[256:768], lambda x: x[256:768]),
    "every second row and column": ((2048, 2048), lambda x: x[::2, ::2], lambda x: x[::2, ::2]),
    "every third from 1": ((3_000_001,), lambda x: x[1::3], lambda x: x[1::3]),
    "columns x[:, 100:900]": ((1024, 1024), lambda x: x[:, 100:900], lambda x: x[:, 100:900]),
    "expand to 64": (
        (1, 64_000),
        lambda x: x.expand(64, -1),
        lambda x: jnp.broadcast_to(x, (64, 64_000)),
    ),
    "unfold(0, 9, 1)": (
        (200_000,),
        lambda x: x.unfold(0, 9, 1),
        lambda x: x[windows(200_000, 9)],
    ),
    "im2col 3x3": (
        (8, 16, 66, 66),
        lambda x: x.unfold(2, 3, 1).unfold(3, 3, 1),
        lambda x: x[:, :, windows(66, 3)[:, None, :, None], windows(66, 3)[None, :, None, :]],
    ),
    "NCHW -> NHWC": (
        (16, 32, 64, 64),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    "transpose": ((1024, 1024), lambda x: x.transpose(0, 1), lambda x: x.T),
}
GRADIENTS = ("transpose", "unfold(0, 9, 1)", "im2col 3x3", "NCHW -> NHWC")


def windows(length: int, size: int) -> np.ndarray:
    return np.arange(length - size + 1)[:, None] + np.arange(size)


def dense(tensor: storage.StridedTensor) -> jax.Array:
    return tensor.to_array()


def reads(name: str) -> dict[str, float]:
    size, view, plain = READS[name]
    theirs = torch.randn(size)
    ours, array = storage.tensor(theirs.numpy()), jnp.asarray(theirs.numpy())
    jitted_view, jitted_plain = jax.jit(lambda t: dense(view(t))), jax.jit(plain)
    of_line = jax.jit(lambda line: plain(line.reshape(size)))
    line = view(theirs).numpy()
    np.testing.assert_array_equal(dense(view(ours)), line)
    return interleaved(
        {
            "ours, eager": lambda: dense(view(ours)).block_until_ready(),
            "ours, jit": lambda: jitted_view(ours).block_until_ready(),
            "jnp, jit": lambda: jitted_plain(array).block_until_ready(),
            "jnp of the storage, jit": lambda: of_line(ours.storage).block_until_ready(),
            "torch": lambda: view(theirs).clone(memory_format=torch.contiguous_format),
            "numpy": lambda: np.array(line, order="C"),
        }
    )


def gradients(name: str) -> dict[str, float]:
    size, view, plain = READS[name]
    theirs = torch.randn(size, requires_grad=True)
    weights = torch.randn(view(theirs).shape)
    ours, array = storage.tensor(theirs.detach().numpy()), jnp.asarray(theirs.detach().numpy())
    w = jnp.asarray(weights.numpy())
    # The weights are arguments: XLA would compute the gradient by constants while compiling.
    jitted_view = jax.jit(jax.grad(lambda t, w: jnp.sum(dense(view(t)) * w)))
    jitted_plain = jax.jit(jax.grad(lambda x, w: jnp.sum(plain(x) * w)))

    def torch_gradient():
        theirs.grad = None
        (view(theirs) * weights).sum().backward()

    return interleaved(
        {
            "ours, jit": lambda: jax.block_until_ready(jitted_view(ours, w)),
            "jnp, jit": lambda: jax.block_until_ready(jitted_plain(array, w)),
            "torch": torch_gradient,
        }
    )


def rows_in_a_loop() -> dict[str, float]:
    theirs = torch.randn(64, 1000)
    ours, array = storage.tensor(theirs.numpy()), jnp.asarray(theirs.numpy())
    return interleaved(
        {
            "ours, eager": lambda: jax.block_until_ready(
                [ours[i].to_array() for i in range(64)]
            ),
            "jnp, eager": lambda: jax.block_until_ready([array[i] for i in range(64)]),
            "torch": lambda: [theirs[i].clone() for i in range(64)],
            "numpy": lambda: [np.array(row) for row in ours.numpy()],
        }
    )


def one_view_operation() -> dict[str, float]:
    theirs = torch.zeros(64, 64)
    ours = storage.tensor(theirs.numpy())
    operations = (
        lambda x: x.transpose(0, 1),
        lambda x: x[3],
        lambda x: x[1:9, ::2],
        lambda x: x.view(-1, 32),
    )

    def all_of(x):
        for operation in operations:
            operation(x)

    times = interleaved(
        {"ours, eager": lambda: all_of(ours), "torch": lambda: all_of(theirs)}, inner=200
    )
    return {name: seconds / len(operations) for name, seconds in times.items()}


COLUMNS = (
    "ours, eager",
    "ours, jit",
    "jnp, jit",
    "jnp of the storage, jit",
    "jnp, eager",
    "torch",
    "numpy",
)


def row(what: str, times: dict[str, float]) -> dict[str, str]:
    """One line of the table: every form's median, and the best of ours in units of torch's."""
    best = min(seconds for name, seconds in times.items() if name.startswith("ours"))
    cells = {name: readable(times[name]) if name in times else "" for name in COLUMNS}
    return {"what": what, **cells, "best of ours / torch": f"{best / times['torch']:.2f}"}


def ratio(times: dict[str, float], form: str = "ours, jit") -> float:
    return times[form] / times["torch"]


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def measure() -> list[dict[str, str]]:
    torch.set_num_threads(
        1
    )  # with two, torch's small copies take milliseconds whenever another process runs
    read_times = {name: reads(name) for name in READS}
    table = [row(f"read: {name}", times) for name, times in read_times.items()]
    average = dict.fromkeys(table[0], "") | {
        "what": "read: average but the transpose (geometric)"
    }
    for form in ("ours, eager", "ours, jit"):
        ratios = [
            ratio(times, form) for name, times in read_times.items() if name != "transpose"
        ]
        average[form] = f"{geometric_mean(ratios):.2f} of torch"
    table.append(average)
    table += [row(f"gradient: {name}", gradients(name)) for name in GRADIENTS]
    table.append(row("64 rows x[i] in a loop", rows_in_a_loop()))
    table.append(row("one view operation", one_view_operation()))
    return table
