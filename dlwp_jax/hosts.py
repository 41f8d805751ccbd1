"""One training in many processes, on one host or on many.

hosts.start("node1:12345", num_processes=2, process_id=0)  # before JAX touches a device
result = train.fit(learner, state, train_set, ...)  # the same call in every process
"""

from dlwp_jax.devices.processes import (
    PeerError,
    agree,
    attempt,
    by_writer,
    count,
    end,
    first,
    index,
    is_shared,
    is_writer,
    many,
    part,
    part_company,
    start,
)

__all__ = [
    "PeerError",
    "agree",
    "attempt",
    "by_writer",
    "count",
    "end",
    "first",
    "index",
    "is_shared",
    "is_writer",
    "many",
    "part",
    "part_company",
    "start",
]
