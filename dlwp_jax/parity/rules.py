"""How one array of torch's is laid out here: each turn with its way back."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Rule = (
    tuple[str, str | None] | tuple[str, str | None, Any]
)  # (regex, path) or (regex, path, transform)


@dataclasses.dataclass(frozen=True)
class Transform:
    """A turn of layout and its inverse, on numpy arrays.

    Attributes:
      name: as the reports print it.
      apply: torch's array -> ours.
      undo: ours -> torch's, or None where there is no way back (`to_torch` then refuses).
    """

    name: str
    apply: Callable[[Array], Array]
    undo: Callable[[Array], Array] | None


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a rule."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the rule {pattern!r} is no regular expression: {error}.") from error


def _same(x: Array) -> Array:
    return x


def _kernel(x: Array) -> Array:
    return np.transpose(x, (*range(2, x.ndim), 1, 0))


def _kernel_back(x: Array) -> Array:
    return np.transpose(x, (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)))


def _flipped(x: Array) -> Array:
    return np.flip(np.moveaxis(x, (0, 1), (-2, -1)), tuple(range(x.ndim - 2)))


def _flipped_back(x: Array) -> Array:
    return np.moveaxis(np.flip(x, tuple(range(x.ndim - 2))), (-2, -1), (0, 1))


SAME = Transform("as it is", _same, _same)
# [out in *window] -> [*window in out]; a transposed convolution's [in out *window] -> [*window
# out in] likewise.
KERNEL = Transform("kernel", _kernel, _kernel_back)
# flax.nnx.ConvTranspose's default: [in out *window] -> [*window in out], the window turned
# around.
FLIPPED = Transform("flipped kernel", _flipped, _flipped_back)
# [C *spatial] -> [*spatial C], for LayerNorm over more than one axis.
CHANNELS_LAST = Transform(
    "channels last", lambda x: np.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, -1, 0)
)
# [N C *spatial] -> [N *spatial C], for a model's own arrays.
OF_BATCH_LAST = Transform(
    "channels last", lambda x: np.moveaxis(x, 1, -1), lambda x: np.moveaxis(x, -1, 1)
)


def flatten_rows(*sizes: int) -> Transform:
    """The arrays of a layer behind a flatten, for a model that flattens its images with
    `x.reshape(n, -1)`.

    torch numbers the features channel by channel, C H W; such a model numbers them place by
    place, H W C. The kernel of a Linear turns from `[out, C * H * W]` to `[H * W * C, out]`, an
    array with one number for each feature (of a BatchNorm1d ahead of the Linear) from `[C * H *
    W]` to `[H * W * C]`. `dlwp_jax.nn.Flatten` flattens as torch does and needs no turn.

    Args:
      *sizes: channels, height, width (or channels, depth, height, width) of the image that is
        flattened.

    Returns:
      A transform for `load_torch(rules=...)`.

    >>> turn = flatten_rows(2, 1, 2)
    >>> rows = np.array([0, 1, 10, 11])
    >>> turn.apply(rows[None]).ravel().tolist(), turn.apply(rows).tolist()
    ([0, 10, 1, 11], [0, 10, 1, 11])
    """
    features = np.arange(np.prod(sizes)).reshape(sizes)
    order = np.moveaxis(features, 0, -1).ravel()  # torch's number of our n-th feature
    back = np.argsort(order)

    def apply(x: Array) -> Array:
        if x.ndim not in (1, 2) or x.shape[-1] != order.size:
            raise ValueError(
                f"flatten_rows{sizes} takes [out, {order.size}] or [{order.size}], not "
                f"{list(x.shape)}."
            )
        return x[..., order].T

    def undo(x: Array) -> Array:
        return x.T[..., back]

    return Transform(f"rows turned from {' '.join(map(str, sizes))}", apply, undo)


def as_transform(transform: Any) -> Transform | None:
    """A rule's third entry: None (the layer's own turn), a `Transform`, or a function of one
    array.
    """
    if transform is None or isinstance(transform, Transform):
        return transform
    if not callable(transform):
        raise TypeError(
            f"a rule's transform is {transform!r}; give a function of one numpy array, or a "
            "Transform."
        )
    apply: Callable[..., Any] = transform
    return Transform(getattr(transform, "__name__", "a function"), apply, None)
