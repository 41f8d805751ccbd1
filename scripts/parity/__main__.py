"""Measures the cases of cases.py against torch and writes docs/parity.md; fails where one is
out of tolerance.
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import cases  # noqa: E402
import differences  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from flax import nnx  # noqa: E402

from dlwp_jax import losses, nn, optim, parity  # noqa: E402

PAGE = ROOT / "docs" / "parity.md"
HEAD = """# How near to torch

Written by `scripts/parity_table` with {libraries}, on the CPU. \
*Error* is the largest difference of an output, a
gradient or (of optimizers, over 200 steps) a parameter, \
relative to the largest value of its array. The tests go
through every option; this is one case or two of each. \
`python -m dlwp_jax.parity check` measures your own model
([how](parity_howto.md)).

Public names without a row, and why, stand in `scripts/parity/cases.py`.

| | case | error | tolerance | reason |
| --- | --- | --- | --- | --- |
"""
REASONS = "\nThe reasons for the size of a tolerance:\n\n"
DIFFERENCES = """
## Where the JAX side differs by default

What torch does and plain JAX, Flax or Optax do not, \
each with the tests that hold ours to torch's.

| what | torch | JAX side by default | tests |
| --- | --- | --- | --- |
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
    for text, shapes in cases.LAYERS:
        theirs, ours = expression(text)
        loaded = parity.load_torch(ours, theirs)
        rng = np.random.default_rng(0)
        several = shapes if isinstance(shapes[0], tuple) else (shapes,)
        if "Embedding" in text:
            xs = [rng.integers(0, 20, shape) for shape in several]
        else:
            xs = [rng.standard_normal(shape).astype(np.float32) for shape in several]
        is_random = "Dropout" in text or "RReLU" in text
        report = parity.compare(theirs, ours, *xs, loaded=loaded, train=not is_random)
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
        "t": lambda: rng.choice([-1.0, 1.0], 16).astype(np.float32),
        "m": lambda: np.where(
            np.arange(10) < 3, rng.permuted(np.tile(np.arange(10), (16, 1)), axis=1), -1
        ),
    }
    for name, kinds, options in cases.LOSSES:
        first, *rest = (make[kind]() for kind in kinds)
        theirs = functools.partial(getattr(torch.nn.functional, name), **options)
        ours = functools.partial(getattr(losses, name), **options)
        yield (
            "loss",
            f"`{name}` {options or ''}",
            value_and_gradient(ours, theirs, first, *rest),
        )
    log_probs = np.log(rng.dirichlet(np.ones(5), (12, 3))).astype(np.float32)  # [T n C]
    arguments = (rng.integers(1, 5, (3, 4)), np.array([12, 10, 11]), np.array([4, 3, 2]))
    yield (
        "loss",
        "`ctc_loss` (by optax)",
        value_and_gradient(losses.ctc_loss, ctc, log_probs, *arguments),
    )
    prediction, mask = rng.uniform(0, 1, (4, 16, 16)), rng.uniform(0, 1, (4, 16, 16)) > 0.7
    pair = prediction.astype(np.float32)[..., None], mask.astype(np.float32)[..., None]
    yield "loss", "`dice_loss` (the book's)", value_and_gradient(losses.dice_loss, dice, *pair)


def ctc(log_probs, *arguments):
    """torch's, by its gradient through the log-softmax, which optax takes on itself."""
    return torch.nn.functional.ctc_loss(log_probs.log_softmax(-1), *arguments)


def dice(prediction, mask):
    """The book's soft Dice loss, chapter 13: 1 - (2 |a b| + 1) / (|a| + |b| + 1), the mean over
    the images.
    """
    overlap, total = ((x.sum(dim=(1, 2, 3))) for x in (prediction * mask, prediction + mask))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def value_and_gradient(
    ours: Callable, theirs: Callable, first: np.ndarray, *rest: np.ndarray
) -> float:
    """The larger of the errors of a scalar function and of its gradient by the first
    argument.
    """
    x = torch.tensor(first, requires_grad=True)
    value = theirs(x, *map(torch.tensor, rest))
    value.backward()
    assert x.grad is not None
    found = jax.jit(jax.value_and_grad(ours))(jnp.asarray(first), *rest)
    return max(
        relative(a, b.numpy()) for a, b in zip(found, (value.detach(), x.grad), strict=True)
    )


def functions() -> Measured:
    """Sampling, and where it samples."""
    rng = np.random.default_rng(0)
    for n in (2, 3):
        theta, size = rng.standard_normal((2, n, n + 1)).astype(np.float32) / 2, (5, 6, 4)[:n]
        grid = nn.affine_grid(jnp.asarray(theta), (2, *size, 3))
        want = torch.nn.functional.affine_grid(
            torch.tensor(theta), [2, 3, *size], align_corners=False
        )
        yield "function", f"`affine_grid` over {n} axes", relative(grid, want.numpy())
        images = rng.standard_normal((2, *(6, 5, 7)[:n], 3)).astype(np.float32)
        weights = rng.standard_normal((2, *size, 3)).astype(np.float32)

        def ours(grid, images, weights):
            return jnp.sum(nn.grid_sample(images, grid, padding_mode="border") * weights)

        def theirs(grid, images, weights):
            images, weights = (torch.movedim(x, -1, 1) for x in (images, weights))
            sampled = torch.nn.functional.grid_sample(
                images, grid, padding_mode="border", align_corners=False
            )
            return (sampled * weights).sum()

        yield (
            "function",
            f"`grid_sample` over {n} axes",
            value_and_gradient(ours, theirs, np.asarray(grid), images, weights),
        )


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
    yield "optimizer", "`LBFGS` {'line_search_fn': 'strong_wolfe'}", lbfgs()


def lbfgs() -> float:
    """Where both end, on a small sum of logarithms: torch takes 20 iterations a step, optax
    one.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((12, 4), (12,)))
    p = torch.zeros(4, requires_grad=True)
    opt = torch.optim.LBFGS([p], line_search_fn="strong_wolfe", max_iter=200)

    def closure():
        opt.zero_grad()
        value = (
            torch.log(1 + (torch.tensor(a) @ p - torch.tensor(b)) ** 2).mean()
            + 0.1 * (p**2).sum()
        )
        value.backward()
        return value

    opt.step(closure)
    tx = optim.lbfgs(line_search_fn="strong_wolfe")

    def value_fn(p):
        return jnp.log(1 + (a @ p - b) ** 2).mean() + 0.1 * (p**2).sum()

    def step(_, carry):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(
            grad, state, params, value=value, grad=grad, value_fn=value_fn
        )
        return params + updates, state

    ours, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 40, step, carry))(
        (jnp.zeros(4), tx.init(jnp.zeros(4)))
    )
    return relative(ours, p.detach().numpy())


def clipping() -> Measured:
    """Gradients after torch.nn.utils.clip_grad_norm_ and clip_grad_value_."""
    grads = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    for name, bound in (("clip_grad_norm", 0.5), ("clip_grad_value", 0.3)):
        theirs = [torch.nn.Parameter(torch.zeros(5, 6)) for _ in grads]
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = torch.tensor(grad)
        getattr(torch.nn.utils, f"{name}_")(theirs, bound)
        ours, _ = getattr(optim, name)(bound).update(
            list(jnp.asarray(grads)), optax.EmptyState()
        )
        pairs = ((a, p.grad) for a, p in zip(ours, theirs, strict=True))
        yield (
            "clipping",
            f"`{name}_`",
            max(relative(a, b.numpy()) for a, b in pairs if b is not None),
        )


def schedules() -> Measured:
    """The learning rate, or the momentum, at each of 1000 steps."""
    for name, (schedule, make, entry) in cases.SCHEDULES.items():
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cases.RATE, momentum=0.9)
        scheduler, rates = make(opt), []
        for _ in range(cases.STEPS):
            rates.append(opt.param_groups[0][entry])
            opt.step()
            scheduler.step()
        found = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(cases.STEPS)))
        yield "schedule", f"`{name}`", relative(found, np.array(rates))
    yield "schedule", "`ReduceLROnPlateau`", plateau()


def plateau() -> float:
    """1000 noisy losses that fall and stall."""
    losses_seen = 1 / (1 + np.arange(cases.STEPS) / 50) + 0.05 * np.random.default_rng(
        0
    ).standard_normal(cases.STEPS)
    losses_seen = losses_seen.astype(np.float32)
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cases.RATE)
    scheduler, rates = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.7), []
    tx = optim.reduce_lr_on_plateau(cases.RATE, factor=0.7)
    for value in losses_seen.tolist():
        scheduler.step(value)
        rates.append(opt.param_groups[0]["lr"])

    def step(state, value):
        _, state = tx.update(jnp.ones(()), state, value=value)
        return state, state.lr

    found = jax.jit(lambda values: jax.lax.scan(step, tx.init(jnp.ones(())), values)[1])(
        losses_seen
    )
    return relative(found, np.array(rates))


def relative(ours, theirs: np.ndarray) -> float:
    """The largest difference relative to the largest value of torch's."""
    error = float(np.max(np.abs(np.asarray(ours, np.float64) - theirs)))
    return error / max(float(np.max(np.abs(theirs))), 1e-30)


def main() -> int:
    """Measure, print and write; 1 where a case is out of tolerance."""
    warnings.simplefilter("ignore", UserWarning)  # torch's, about its own stepping order
    rows, failed = [], False
    reasons: dict[str, int] = {}  # with the number that stands in the table
    for measured in (
        layers(),
        functions(),
        loss_functions(),
        optimizers(),
        clipping(),
        schedules(),
    ):
        for kind, case, error in measured:
            name = case.split("`")[1]
            tolerance, why = cases.EXCEPTIONS.get(name, cases.TOLERANCES[kind])
            failed |= not error <= tolerance
            number = reasons.setdefault(why, len(reasons) + 1)
            rows.append(f"| {kind} | {case} | {error:.1e} | {tolerance:.0e} | {number} |")
            print(rows[-1] + ("" if error <= tolerance else "   OUT OF TOLERANCE"), flush=True)
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("jax", "flax", "optax", "torch")
    )
    partial = PAGE.with_suffix(".partial")
    page = HEAD.format(libraries=libraries) + "\n".join(rows) + "\n" + REASONS
    page += "".join(f"{number}. {why}\n" for why, number in reasons.items()) + DIFFERENCES
    page += "".join(
        f"| {what} | {there} | {here} | {', '.join(tests)} |\n"
        for what, there, here, tests in differences.ROWS
    )
    partial.write_text(page)
    partial.replace(PAGE)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
