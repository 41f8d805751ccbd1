"""Optimizers

An optimizer is a pair of functions, and its moments are a value that is passed along. `dlwp_jax.optim` has torch's
formulas and defaults; optax's own differ in some (weight decay, epsilon, momentum).
"""

# %% torch.optim.SGD, torch.optim.Optimizer.step, torch.optim.Optimizer.zero_grad
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.SGD([w], lr=0.1, momentum=0.9)
for _ in range(5):
    loss = (w**2).sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
w.detach()
# %% jax
# `zero_grad` has no counterpart: gradients are new each time. `step` is `update` and `apply_updates`.
w = jnp.array([1.0, -1.0])
tx = optim.sgd(lr=0.1, momentum=0.9)
state = tx.init(w)
for _ in range(5):
    grads = jax.grad(lambda w: (w**2).sum())(w)
    updates, state = tx.update(grads, state, w)
    w = optax.apply_updates(w, updates)
w

# %% torch.optim.Adam
w = torch.tensor([1.0, -1.0], requires_grad=True)
opt = torch.optim.Adam([w], lr=0.1, weight_decay=0.01)
for _ in range(5):
    loss = (w**2).sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
w.detach()
# %% jax
# torch's `weight_decay` here is L2 in the gradient; AdamW's is `optim.adamw`. The same loop as one compiled program.
w = jnp.array([1.0, -1.0])
tx = optim.adam(lr=0.1, weight_decay=0.01)


def step(carry, _):
    w, state = carry
    loss, grads = jax.value_and_grad(
        lambda w: (w**2).sum()
    )(w)
    updates, state = tx.update(grads, state, w)
    return (optax.apply_updates(w, updates), state), loss


(w, state), history = jax.lax.scan(
    step, (w, tx.init(w)), length=5
)
w
