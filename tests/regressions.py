"""Data and an optimizer that several tests of training share.

They are no part of tests/models.py, since making arrays starts JAX's backend: a process that forks
(tests/kills.py) must not have one.
"""

import optax

from tests.models import regression

TRAIN = regression(37)
VAL = regression(10, seed=1)
EVEN = regression(32)  # no short last batch: XLA compiles the step once and not twice
ADAM = optax.adam(1e-2)  # one object: equal learners share compiled programs
