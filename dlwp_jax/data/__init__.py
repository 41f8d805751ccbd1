"""From files to well-shaped arrays (chapters 4, 7 and 10).

A data set in memory is any pytree of arrays with a common leading axis: one example per row.
"""

from dlwp_jax.data.arrays import split
from dlwp_jax.data.sources import thermometer

__all__ = ["split", "thermometer"]
