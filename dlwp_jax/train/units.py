"""Which units learn: the size of the gradient that reaches each one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dlwp_jax.devices import joint
from dlwp_jax.train import checks
from dlwp_jax.train.state import Learner, TrainState, check_pair

PyTree = Any
SATURATED = 0.01  # of the gradient of the layer's strongest unit


def unit_gradients(grads: PyTree) -> list[jax.Array]:
    """The largest magnitude of a gradient over the weights that lead into each unit, `[units]`
    a layer.

    A unit is an entry of the last axis of a layer's kernel (dense, convolution: a channel);
    weights of the same layer that have one entry a unit (bias, scale) count with it. A
    rectifier that is never active, or a sigmoid driven to its limit, lets no gradient through:
    its unit gets exactly 0.

    Args:
      grads: gradients in the model's nested dicts, `TrainState.params` in shape.

    >>> layer = {"kernel": jnp.array([[0.0, 2.0], [0.0, -3.0]]), "bias": jnp.array([0.0, 1.0])}
    >>> [units.tolist() for units in unit_gradients({"hidden": layer})]
    [[0.0, 3.0]]
    """
    layers: dict[tuple, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        layers.setdefault(path[:-1], []).append(jnp.abs(leaf))
    return [
        _strongest(leaves)
        for leaves in layers.values()
        if any(leaf.ndim > 1 for leaf in leaves)
    ]


def dead_share(grads: PyTree) -> jax.Array:
    """The share of all units that no gradient reaches, float32; 0 for a model without layers.

    >>> float(dead_share({"hidden": {"kernel": jnp.array([[0.0, 2.0], [0.0, -3.0]])}}))
    0.5
    """
    units = unit_gradients(grads)
    return jnp.mean(jnp.concatenate(units) == 0, dtype=jnp.float32) if units else jnp.zeros(())


def unit_health(learner: Learner, state: TrainState, data: PyTree) -> dict[str, jax.Array]:
    """The share of units that no example moves, and of those that examples hardly move, in eval
    mode.

    Args:
      learner, state: from `make_learner`, or a `Run`'s `state` or `best`.
      data: pytree of arrays `[n ...]`, examples as in training.

    Returns:
      `{"dead": share, "saturated": share}` of all units, the output's included. Dead: no
      example gives the unit a gradient. Saturated: not dead, but its mean gradient is below a
      hundredth of the layer's strongest, as that of a tanh beyond 0.995 is.

    >>> import optax
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> def loss_fn(model, batch):
    ...     return jnp.mean((nnx.relu(model(batch["x"])) - 1) ** 2), {}
    >>> model = nnx.Linear(1, 2, rngs=nnx.Rngs(0))
    >>> model.kernel[...], model.bias[...] = jnp.array([[1.0, 1.0]]), jnp.array([0.0, -9.0])
    >>> learner, state = make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    >>> health = unit_health(learner, state, {"x": jnp.array([[2.0], [3.0]])})
    >>> {name: float(share) for name, share in health.items()}
    {'dead': 0.5, 'saturated': 0.0}
    """
    check_pair(learner, state)
    call = joint.enter("unit_health", state, {"data": data})
    data = checks.dataset(call.data[0], "data")
    return call.leave(_health(learner, call.state, data))


@functools.partial(jax.jit, static_argnums=0)
def _health(learner: Learner, state: TrainState, data: PyTree) -> dict[str, jax.Array]:
    def of_example(example):
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        gradient = jax.grad(
            lambda params: learner.loss(state, params, batch, state.key, train=False)[0]
        )
        return unit_gradients(gradient(state.params))

    if not unit_gradients(state.params):
        return {"dead": jnp.zeros(()), "saturated": jnp.zeros(())}
    layers = [
        each.mean(axis=0) for each in jax.lax.map(of_example, data)
    ]  # each example's own: they may cancel
    share = jnp.concatenate(
        [units / jnp.maximum(units.max(), jnp.finfo(units.dtype).tiny) for units in layers]
    )
    return {
        "dead": jnp.mean(share == 0),
        "saturated": jnp.mean((share > 0) & (share < SATURATED)),
    }


def _strongest(leaves: list[jax.Array]) -> jax.Array:
    units = max(leaves, key=jnp.ndim).shape[-1]
    mine = [leaf for leaf in leaves if leaf.ndim and leaf.shape[-1] == units]
    return jnp.stack([leaf.max(axis=tuple(range(leaf.ndim - 1))) for leaf in mine]).max(axis=0)
