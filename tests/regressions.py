"""Data that several tests of training share.

It is no part of tests/models.py, since making arrays starts JAX's backend: a process that forks
(tests/kills.py) must not have one.
"""

from tests.models import regression

TRAIN = regression(37)
VAL = regression(10, seed=1)
EVEN = regression(32)  # no short last batch: XLA compiles the step once and not twice
