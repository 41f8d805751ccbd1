"""torch's autograd as functions (chapter 5.5).

- `requires_grad=True` on some parameters: `grad_where(loss, trainable)`.
- `x.detach()`: `detach(x)`, which is `lax.stop_gradient`.
- `with torch.no_grad()`: nothing is needed; only functions under `jax.grad` are recorded.
- `backward()` twice without `zero_grad()`: `accumulate_gradients(loss, params, batches)` sums
  gradients.
- `torch.autograd.gradcheck`: `check_gradients`, by `numerical_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from dlwp_jax import filters

PyTree = Any
_T = TypeVar("_T")


def numerical_gradient(
    f: Callable[[Any], ArrayLike], x: PyTree, eps: float | None = None
) -> PyTree:
    """Slope of a scalar function by central differences, the book's first gradient (chapter
    5.4.3).

    (f(x + eps e_i) - f(x - eps e_i)) / (2 eps) for each entry i of each leaf. Two evaluations
    per entry: for tests and explanations.

    Args:
      f: takes `x`, returns a scalar.
      x: pytree of floating point arrays.
      eps: the step; without it the cube root of the machine epsilon times max(1, |x_i|), which
        balances the error of the formula against rounding.

    Returns:
      A pytree like `x` of numpy arrays.

    Raises:
      TypeError: for leaves that are not real floating point.
      ValueError: if f does not return a scalar.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array(3.0), "b": jnp.array(1.0)}
    >>> slope = numerical_gradient(lambda p: p["w"] * p["w"] + p["b"], params)
    >>> round(float(slope["w"]), 2), round(float(slope["b"]), 2)
    (6.0, 1.0)
    """
    leaves, tree = jax.tree.flatten(x)
    leaves = [_floating(leaf) for leaf in leaves]

    def value(i, leaf):
        result = np.asarray(
            f(tree.unflatten([*leaves[:i], jnp.asarray(leaf), *leaves[i + 1 :]]))
        )
        if result.shape != ():
            raise ValueError(
                f"f returns shape {result.shape}; a gradient is taken of a scalar."
            )
        return result.astype(np.float64)

    def slopes(i, leaf):
        result = np.zeros(leaf.shape, leaf.dtype)
        for index in np.ndindex(leaf.shape):
            balanced = float(np.finfo(leaf.dtype).eps) ** (1 / 3) * max(1.0, abs(leaf[index]))
            step = eps or balanced
            above, below = leaf.copy(), leaf.copy()
            above[index] += step
            below[index] -= step
            # In float32 the stored x + eps is not exactly eps away from x.
            width = float(above[index]) - float(below[index])
            result[index] = (value(i, above) - value(i, below)) / width
        return result

    return tree.unflatten([slopes(i, leaf) for i, leaf in enumerate(leaves)])


def _floating(leaf) -> np.ndarray:
    array = np.array(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"an argument has dtype {array.dtype}; slopes are taken of real floating point "
            "numbers."
        )
    return array


def check_gradients(
    f: Callable[..., ArrayLike],
    *args: PyTree,
    eps: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Compare `jax.grad` with central differences and name the worst entry
    (`torch.autograd.gradcheck`).

    A result that is not a scalar is reduced to one by fixed random weights, so that every entry
    of it counts.

    Args:
      f: the function; it returns one floating point array.
      *args: pytrees of floating point arrays, each of which is checked.
      eps: as for `numerical_gradient`.
      rtol: relative tolerance; by default 1e-5 in float64 and 1e-2 in float32, which is the
        precision of central differences.
      atol: absolute tolerance; by default `rtol`'s default times the largest slope.

    Raises:
      AssertionError: if they disagree, or one is nan, with the leaf, the index and both slopes
        of the largest difference.
      TypeError: for arguments that are not real floating point.

    >>> import jax, jax.numpy as jnp
    >>> check_gradients(jnp.tanh, jnp.array([0.5, -1.0]))
    >>> @jax.custom_jvp
    ... def cube(x): return x**3
    >>> _ = cube.defjvp(lambda x, dx: (cube(*x), 2 * x[0] ** 2 * dx[0]))  # wrong: 2 for 3
    >>> check_gradients(lambda p: jnp.sum(cube(p["w"])), {"w": jnp.array([0.0, 2.0])})
    Traceback (most recent call last):
      ...
    AssertionError: the gradient is wrong at args[0]['w'][1]: jax.grad gives 8..., central
      differences give 12...
    """
    args = jax.tree.map(_floating, args)
    result = jnp.asarray(f(*args))
    weights = (
        np.random.default_rng(0).uniform(0.5, 1.5, result.shape) if result.ndim else np.ones(())
    )
    weights = weights.astype(result.dtype)

    def scalar(args):
        return jnp.sum(f(*args) * weights)

    exact = jax.grad(scalar)(jax.tree.map(jnp.asarray, args))
    numeric = numerical_gradient(scalar, args, eps)
    default = 1e-5 if result.dtype == jnp.float64 else 1e-2
    rtol = default if rtol is None else rtol
    worst = max(_disagreements(exact, numeric, rtol, atol, default), default=None)
    if worst is not None:
        _, place, ours, theirs = worst
        raise AssertionError(
            f"the gradient is wrong at args{place}: jax.grad gives {ours:.6g}, central "
            f"differences give {theirs:.6g}."
        )


def _disagreements(exact, numeric, rtol, atol, default):
    """(excess, leaf and index, slope, slope) of each leaf's worst entry outside the
    tolerance.
    """
    paths = jax.tree_util.tree_leaves_with_path(exact)
    largest = max(
        (np.max(np.abs(n), initial=0.0) for n in jax.tree.leaves(numeric)), default=0.0
    )
    atol = default * largest if atol is None else atol
    for (path, ours), theirs in zip(paths, jax.tree.leaves(numeric), strict=True):
        ours = np.asarray(ours)
        excess = np.abs(ours - theirs) - atol - rtol * np.abs(theirs)
        excess = np.where(np.isnan(excess), np.inf, excess)
        if excess.size and excess.max() > 0:
            index = np.unravel_index(np.argmax(excess), excess.shape)
            place = jax.tree_util.keystr(path)
            place += f"[{', '.join(map(str, index))}]" if index else ""
            yield float(excess[index]), place, float(ours[index]), float(theirs[index])


def detach(x: _T) -> _T:
    """The same values, which are constants for every derivative (`Tensor.detach`):
    `lax.stop_gradient`.

    >>> import jax
    >>> float(jax.grad(lambda x: x * detach(x))(3.0))  # not 6: one factor is a constant
    3.0
    """
    return lax.stop_gradient(x)


def grad_where(
    loss_fn: Callable[..., jax.Array], trainable: Any
) -> Callable[..., tuple[jax.Array, nnx.State[Any, Any]]]:
    """Value and gradient with respect to some of the parameters (torch's `requires_grad`).

    The other parameters are not differentiated, so their backward pass is not computed. The
    book saves this by `requires_grad=False` when it fine-tunes the last layers (chapter 14).

    Args:
      loss_fn: `loss_fn(model, *args) -> scalar`, with `model` an `nnx.Module`.
      trainable: an NNX filter, e.g. `nnx.All(nnx.Param, nnx.PathContains("head"))`.

    Returns:
      `f(model, *args) -> (value, grads)` where `grads` is an `nnx.State` of the trainable
      parameters alone. It refuses a filter with a name that the model does not have.

    >>> import jax.numpy as jnp
    >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    >>> loss = lambda model, x: jnp.mean(model(x) ** 2)
    >>> value, grads = grad_where(loss, nnx.PathContains("bias"))(model, jnp.ones((2, 3)))
    >>> list(grads)
    ['bias']
    """

    def f(model, *args):
        chosen = filters.checked(trainable, model)
        graph, trained, rest = nnx.split(model, chosen, ...)

        def of_trained(trained):
            return loss_fn(nnx.merge(graph, trained, rest, copy=True), *args)

        return jax.value_and_grad(of_trained)(trained)

    return f


def accumulate_gradients(
    loss_fn: Callable[[Any, Any], jax.Array], params: PyTree, batches: PyTree
) -> tuple[jax.Array, PyTree]:
    """Sum of the gradients of several batches, as torch sums into `.grad` until `zero_grad()`.

    It is one compiled loop with the memory of one batch: the step of a large batch on a small
    device. The sum starts from zero; divide by the number of batches (or scale the loss) for
    the mean.

    Args:
      loss_fn: `loss_fn(params, batch) -> scalar`.
      params: pytree of floating point arrays.
      batches: pytree of arrays `[n_batches ...]`; each index of the leading axis is one batch.

    Returns:
      `(losses, grads)`: the loss of each batch `[n_batches]`, and the sum of the gradients,
      like `params`.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: jnp.sum(w * x)
    >>> batches = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> losses, grads = accumulate_gradients(loss, jnp.array([1.0, 2.0]), batches)
    >>> losses.tolist(), grads.tolist()
    ([1.0, 3.0], [2.0, 1.0])
    """

    def add(total, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        return jax.tree.map(jnp.add, total, grads), loss

    grads, losses = lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)
    return losses, grads
