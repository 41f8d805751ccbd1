"""Named data sets: embedded here, or fetched once and kept."""

import jax.numpy as jnp


def thermometer():
    """Eleven readings of a thermometer with unknown units beside the truth (chapter 5.2.1).

    Returns:
      `{"t_u": [11], "t_c": [11]}`: the reading in unknown units, and degrees Celsius; float32.

    >>> thermometer()["t_u"].shape
    (11,)
    """
    return {
        "t_u": jnp.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4]),
        "t_c": jnp.array([0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0]),
    }
