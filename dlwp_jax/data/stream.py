"""Examples decoded from disk while training runs (extra: needs grain).

For data that fits in memory this is the slow way: a permutation and a `take` give millions of
examples a second, a loader that handles them one by one tens of thousands.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dlwp_jax import checks
from dlwp_jax.data.files import needs


def stream(
    items: Sequence[Any],
    decode: Callable[[Any], Any],
    *,
    batch_size: int,
    seed: int | None = None,
    epochs: int | None = 1,
    drop_last: bool = False,
    threads: int = 4,
) -> Any:
    """Batches of decoded items, read ahead by threads.

    Args:
      items: what to decode, such as paths; anything with a length and an index.
      decode: one item -> pytree of arrays, all of one shape.
      batch_size: items in a batch.
      seed: shuffles anew in every epoch; None keeps the order.
      epochs: how often to go through; None never ends.
      drop_last: leave out the short last batch of each epoch (torch's `DataLoader` default
        keeps it, as here).
      threads: how many items are decoded at once.

    Returns:
      A `grain.IterDataset` of pytrees of NumPy arrays `[batch_size ...]`. Its iterator's
      `get_state` and `set_state` save and resume the place exactly.

    Raises:
      Whatever `decode` raises, when the batch is asked for.

    >>> [batch.tolist() for batch in stream([1, 2, 3], lambda n: n * 10, batch_size=2)]
    [[10, 20], [30]]
    """
    with needs():
        import grain

    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")) or isinstance(
        items, dict
    ):
        raise TypeError(
            f"items must have a length and an index, as a list of paths; got {checks.describe(items)}."
        )
    if not len(items):
        raise ValueError("items must hold one item at least, and are empty.")
    if not callable(decode):
        raise TypeError(
            f"decode must be a function of one item; got {checks.describe(decode)}."
        )
    batch_size = checks.whole(batch_size, "batch_size", 1)
    seed = None if seed is None else checks.whole(seed, "seed", 0, 2**32 - 1)
    epochs = None if epochs is None else checks.whole(epochs, "epochs", 1)
    threads = checks.whole(threads, "threads", 1, 2**10)
    data = grain.MapDataset.source(items)
    if seed is not None:
        data = data.shuffle(seed=seed)
    data = data.map(decode).batch(batch_size, drop_remainder=drop_last).repeat(epochs)
    return data.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    )
