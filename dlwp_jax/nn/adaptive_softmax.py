"""A softmax over many classes, of which the rare ones stand in clusters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from dlwp_jax.labels import labels
from dlwp_jax.nn.containers import ModuleList, Sequential
from dlwp_jax.nn.linear import Linear

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class LogProbabilityAndLoss(NamedTuple):
    """What `AdaptiveLogSoftmaxWithLoss` returns.

    Attributes:
      output: the log-probability of each target, `[N]`.
      loss: minus their mean.
    """

    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(nnx.Module):
    """Log-probabilities of many classes, sorted by falling frequency;
    torch.nn.AdaptiveLogSoftmaxWithLoss.

    The head decides among the frequent classes and the clusters of rare ones; each cluster has
    two Linear layers of its own, the first to fewer features. Every cluster is computed for
    every row, as shapes are static here.

    Args:
      in_features: features of the input.
      n_classes: number of classes.
      cutoffs: the class that each cluster begins with, rising.
      div_value: by how much the features of each further cluster are reduced.
      head_bias: whether the head has a bias.
      rngs: its `params` stream draws the layers.

    Parameters: `head`, a Linear, and `tail`, pairs of Linear layers without bias.

    Raises:
      ValueError: if the cutoffs do not rise from 1 to less than `n_classes`, or no feature is
        left for the last cluster.

    >>> layer = AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10], rngs=nnx.Rngs(0))
    >>> output, loss = layer(jnp.ones((3, 16)), jnp.array([0, 7, 19]))
    >>> output.shape, layer.log_prob(jnp.ones((3, 16))).shape
    ((3,), (3, 20))
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        bounds = [0, *cutoffs, n_classes]
        if len(bounds) < 3 or any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ValueError(
                f"cutoffs={list(cutoffs)} must rise, each between 1 and n_classes - 1 = "
                f"{n_classes - 1}."
            )
        if in_features < div_value ** len(cutoffs):
            raise ValueError(
                f"in_features={in_features} leaves no feature for cluster {len(cutoffs)}: "
                f"it is divided by {div_value} ** {len(cutoffs)}."
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs: tuple[int, ...] = tuple(bounds[1:])
        self.div_value = div_value
        self.n_clusters: int = len(cutoffs)
        self.head = Linear(
            in_features, self.cutoffs[0] + self.n_clusters, bias=head_bias, rngs=rngs
        )

        def cluster(number, size):
            features = int(in_features // div_value ** (number + 1))
            return Sequential(
                Linear(in_features, features, bias=False, rngs=rngs),
                Linear(features, size, bias=False, rngs=rngs),
            )

        sizes = [b - a for a, b in itertools.pairwise(self.cutoffs)]
        self.tail = ModuleList(cluster(i, size) for i, size in enumerate(sizes))

    def log_prob(self, x: jax.Array) -> jax.Array:  # [... in_features] -> [... n_classes]
        """The log-probabilities of all classes."""
        head = jax.nn.log_softmax(self.head(x))
        common = self.cutoffs[0]
        parts = [head[..., :common]]
        for i, cluster in enumerate(self.tail):
            parts.append(jax.nn.log_softmax(cluster(x)) + head[..., common + i, None])
        return jnp.concatenate(parts, -1)

    def predict(self, x: jax.Array) -> jax.Array:  # [... in_features] -> [...]
        """The most probable class."""
        return self.log_prob(x).argmax(-1)

    def __call__(self, x: jax.Array, target: ArrayLike) -> LogProbabilityAndLoss:
        """The log-probability of each target, and minus their mean.

        Args:
          x: `[N in_features]`, or `[in_features]`.
          target: classes, `[N]` or a number.

        Raises:
          RuntimeError: for targets that are no classes; under jit they are not known, and give
            NaN instead.
        """
        target = labels("target", target)
        if not isinstance(target, Tracer) and target.size:
            known = np.asarray(target)
            low, high = known.min(), known.max()
            if low < 0 or high >= self.n_classes:
                raise RuntimeError(
                    f"targets are classes 0 to {self.n_classes - 1}; they go from {low} to "
                    f"{high}."
                )
        every = self.log_prob(x)
        index = target[..., None]
        output = jnp.take_along_axis(
            every, jnp.where(index < 0, self.n_classes, index), -1, mode="fill"
        )[..., 0]
        return LogProbabilityAndLoss(output, -output.mean())
