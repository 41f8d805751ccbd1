import jax, jax.numpy as jnp


def numerical_gradient(f, x, eps=1e-2):
    leaves, t = jax.tree.flatten(x)
    return jax.tree.unflatten(
        t,
        [
            (
                f(jax.tree.unflatten(t, leaves[:i] + [l + eps] + leaves[i + 1 :]))
                - f(jax.tree.unflatten(t, leaves[:i] + [l - eps] + leaves[i + 1 :]))
            )
            / (2 * eps)
            for i, l in enumerate(leaves)
        ],
    )
