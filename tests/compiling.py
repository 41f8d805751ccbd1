"""How XLA compiles the programs of tests.

A default run leaves out the slow tests and compiles quickly: most of its programs run once or
twice, and XLA's last optimisations take longer than they save. (Measured on the tests of the
training loop and of attention: 51 s of processor time, 38 s quickly.) A run with the slow tests,
as CI's, compiles as a user's program is compiled. Processes that are started to see how they
share arrays or how they end compile quickly in every run: each compiles the same programs again.
"""

import os

import jax
import pytest

# XLA's flag --xla_cpu_use_fusion_emitters=false would save as much again, and gives other losses of
# validation in tests/test_train_loop.py (jaxlib 0.10.2).
OPTION = "jax_disable_most_optimizations"


def quick_environment() -> dict[str, str]:
    """The environment of a process that compiles quickly."""
    return os.environ | {OPTION.upper(): "1"}


def compile_quickly() -> None:
    """From now on, and in the processes that this one starts."""
    jax.config.update(OPTION, True)
    os.environ.update(quick_environment())


@pytest.fixture
def compiled_as_for_users():
    """For a test whose digits hang on the compiler."""
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, False)
    yield
    jax.config.update(OPTION, before)
