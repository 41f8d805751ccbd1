"""Measures the cases of cases.py against torch and writes docs/parity.md; fails where one is out of tolerance."""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import cases  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from flax import nnx  # noqa: E402

from dlwp_jax import losses, nn, optim, parity  # noqa: E402

PAGE = ROOT / "docs" / "parity.md"
HEAD = """# How near to torch

Written by `scripts/parity_table` with {libraries}, on the CPU. *Error* is the largest difference of an output, a
gradient or (of optimizers, over 200 steps) a parameter, relative to the largest value of its array. The tests go
through every option; this is one case or two of each. `python -m dlwp_jax.parity check` measures your own model
([how](parity_howto.md)).

| | case | error | tolerance | why that size |
| --- | --- | --- | --- | --- |
"""

Measured = Iterable[tuple[str, str, float]]


def expression(text: str) -> tuple[torch.nn.Module, nnx.Module]:
    """The layer that an expression makes in torch.nn, and in dlwp_jax.nn."""
    rngs = nnx.Rngs(0)

    def with_rngs(cls: Callable) -> Callable:
        takes = inspect.isclass(cls) and "rngs" in inspect.signature(cls.__init__).parameters
        return (lambda *args, **options: cls(*args, **options, rngs=rngs)) if takes else cls

    ours = {name: with_rngs(getattr(nn, name)) for name in dir(nn)}
    return eval(text, vars(torch.nn)), eval(text, ours)


def layers() -> Measured:
    """Outputs, gradients and statistics, in train mode where it is not random."""
    for text, shape in cases.LAYERS:
        theirs, ours = expression(text)
        loaded = parity.load_torch(ours, theirs)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        report = parity.compare(theirs, ours, x, loaded=loaded, train="Dropout" not in text)
        yield "layer", f"`{text}`", max(row.max_rel for row in report.rows)


def loss_functions() -> Measured:
    """Value and gradient by the first argument."""
    rng = np.random.default_rng(0)
    shape = (16, 10)
    make = {
        "x": lambda: rng.standard_normal(shape).astype(np.float32),
        "u": lambda: rng.uniform(0.05, 0.95, shape).astype(np.float32),
        "p": lambda: rng.dirichlet(np.ones(10), 16).astype(np.float32),
        "s": lambda: rng.choice([-1.0, 1.0], shape).astype(np.float32),
        "c": lambda: rng.integers(0, 10, 16),
    }
    for name, kinds, options in cases.LOSSES:
        first, *rest = (make[kind]() for kind in kinds)
        x = torch.tensor(first, requires_grad=True)
        theirs = getattr(torch.nn.functional, name)(x, *map(torch.tensor, rest), **options)
        theirs.backward()
        ours = jax.value_and_grad(getattr(losses, name))(jnp.asarray(first), *map(jnp.asarray, rest), **options)
        assert x.grad is not None
        pairs = zip(ours, (theirs.detach(), x.grad), strict=True)
        yield "loss", f"`{name}` {options or ''}", max(relative(a, b.numpy()) for a, b in pairs)


def optimizers() -> Measured:
    """The parameter after each of 200 steps with the same gradients."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 6)).astype(np.float32)
    grads = rng.standard_normal((200, 4, 6)).astype(np.float32)
    for name, options in cases.OPTIMIZERS:
        theirs = torch.nn.Parameter(torch.tensor(start))
        opt = getattr(torch.optim, name)([theirs], **options)
        tx, state = parity.torch_optimizer(opt)
        ours, step, worst = [jnp.asarray(start)], jax.jit(tx.update), 0.0
        for grad in grads:
            theirs.grad = torch.tensor(grad)
            opt.step()
            updates, state = step([jnp.asarray(grad)], state, ours)
            ours = optax.apply_updates(ours, updates)
            worst = max(worst, relative(ours[0], theirs.detach().numpy()))
        yield "optimizer", f"`{name}` {options or ''}", worst


def schedules() -> Measured:
    """The learning rate at each of 1000 steps."""
    for theirs, ours, options in cases.SCHEDULES:
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = getattr(torch.optim.lr_scheduler, theirs)(opt, *options)
        rates = []
        for _ in range(1000):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        schedule = getattr(optim, ours)(0.3, *options)
        found = np.asarray(jax.vmap(schedule)(jnp.arange(1000)))
        yield "schedule", f"`{theirs}`", relative(found, np.array(rates))


def relative(ours, theirs: np.ndarray) -> float:
    """The largest difference relative to the largest value of torch's."""
    error = float(np.max(np.abs(np.asarray(ours, np.float64) - theirs)))
    return error / max(float(np.max(np.abs(theirs))), 1e-30)


def main() -> int:
    """Measure, print and write; 1 where a case is out of tolerance."""
    warnings.simplefilter("ignore", UserWarning)  # torch's, about its own stepping order
    rows, failed = [], False
    for measured in (layers(), loss_functions(), optimizers(), schedules()):
        for kind, case, error in measured:
            name = case.split("`")[1]
            tolerance, why = cases.EXCEPTIONS.get(name, cases.TOLERANCES[kind])
            failed |= not error <= tolerance
            rows.append(f"| {kind} | {case} | {error:.1e} | {tolerance:.0e} | {why} |")
            print(rows[-1] + ("" if error <= tolerance else "   OUT OF TOLERANCE"), flush=True)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "torch"))
    partial = PAGE.with_suffix(".partial")
    partial.write_text(HEAD.format(libraries=libraries) + "\n".join(rows) + "\n")
    partial.replace(PAGE)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
