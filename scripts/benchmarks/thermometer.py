"""Chapter 5's thermometer: 5000 epochs of gradient descent on eleven readings

Ours is `train.run`: one compiled program for all epochs, history of every epoch kept. Torch is
the book's loop (autograd and `torch.optim.SGD`), and the fastest form of it that we could
write: the gradient by hand, in place, on one thread. *First call* counts tracing and compiling;
the other figures do not.
"""

import jax
import optax
import torch
from timing import first_call, interleaved, readable

from dlwp_jax import train
from experiments.ch05_thermometer import Line, loss_fn, readings
from tests.reference.thermometer import T_C, T_U
from tests.reference.thermometer import train as book_loop

EPOCHS = 5000


def ours():
    learner, state = train.make_learner(Line(), loss_fn, optax.sgd(1e-2), key=jax.random.key(0))
    readings_ = readings(0.1)
    return lambda: jax.block_until_ready(
        train.run(learner, state, readings_, epochs=EPOCHS, batch_size=11)
    )


def ours_jitted():
    """The same, with the checks of `run` traced away by an outer jit."""
    learner, state = train.make_learner(Line(), loss_fn, optax.sgd(1e-2), key=jax.random.key(0))
    jitted = jax.jit(
        lambda state, data: train.run(learner, state, data, epochs=EPOCHS, batch_size=11)
    )
    readings_ = readings(0.1)
    return lambda: jax.block_until_ready(jitted(state, readings_))


def torch_by_hand():
    """d(loss)/d(w, b) written out: one matrix product with [t_u 1] a step, everything in
    place.
    """
    design = torch.stack([0.1 * torch.tensor(T_U), torch.ones(11)], dim=1)  # [11 2]
    target, scaled = torch.tensor(T_C), design.T.contiguous() * (2 / 11)

    @torch.inference_mode()
    def run():
        params, losses, error = torch.tensor([1.0, 0.0]), torch.empty(EPOCHS), torch.empty(11)
        for epoch in range(EPOCHS):
            torch.mv(design, params, out=error).sub_(target)
            losses[epoch] = torch.dot(error, error)
            params.addmv_(scaled, error, alpha=-1e-2)
        return params, losses / 11

    return run


def measure() -> list[dict[str, str]]:
    torch.set_num_threads(1)
    forms = {
        "dlwp_jax, train.run": ours(),
        "dlwp_jax, train.run under jit": ours_jitted(),
        "torch, the book's loop": lambda: book_loop(
            torch.optim.SGD, 1e-2, epochs=EPOCHS, scale=0.1
        ),
        "torch, gradient by hand": torch_by_hand(),
    }
    first = {name: first_call(form) for name, form in forms.items()}
    times = interleaved(forms, rounds=7)
    fastest = min(times.values())
    return [
        {
            "form": name,
            "first call": readable(first[name]),
            "median of 7": readable(seconds),
            "ratio": f"{seconds / fastest:.3g}",
        }
        for name, seconds in times.items()
    ]
