"""Examples decoded from disk while training runs (extra: needs grain).

Data that fits in memory is faster without a stream: a permutation and a `take` give millions of
examples a second, a loader that handles them one by one gives tens of thousands.
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
      items: the things to decode, such as paths: a sequence with a length and an index.
      decode: one item -> pytree of arrays, all of one shape.
      batch_size: items in a batch.
      seed: shuffles anew in every epoch; None keeps the order.
      epochs: the number of passes over the items; None never ends.
      drop_last: leave out the short last batch of each epoch (torch's `DataLoader` keeps it by
        default, as here).
      threads: the number of items that are decoded at once.

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

    if not len(items):
        raise ValueError("items must hold one item at least, and are empty.")
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
