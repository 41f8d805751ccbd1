"""How XLA compiles the programs of tests; a plugin, which conftest.py registers.

Most programs of tests run once or twice, and XLA's last optimisations take longer than they
save. (Measured on the tests of the training loop and of attention: 51 s of processor time, 38 s
quickly.) So:

- A run without the slow tests compiles everything quickly.
- Any other run, as CI's, compiles the rooms of `AS_USERS` as a user's program is compiled: the
  layers, losses and optimizers against torch, the training loops against each other to the bit,
  the book's recorded trainings, the pages and chapters 5 to 8 with the digits they show. A
  fault that only XLA's optimisations bring forth, such as sums in another order or a fusion
  that rounds in another way, is met there.
- The other rooms look at files, errors, texts, shapes and numbers that are moved, or put those
  layers and loops together, or show a few digits of a layer in its docstring: quickly in every
  run. (Their convolutional networks compile in half of the time.) What is lost is a fault of
  the compiler in a program that only they have.
- Processes that are started to see how they share arrays or how they end compile quickly in
  every run: each compiles the same programs again.
"""

import os

import jax
import pytest

# XLA's flag --xla_cpu_use_fusion_emitters=false would save as much again, and gives other
# losses of validation in tests/test_train_loop.py (jaxlib 0.10.2).
OPTION = "jax_disable_most_optimizations"
ALWAYS_QUICKLY = jax.config.values[OPTION]  # the environment asks for it
# The beginnings of the paths of tests that compare digits which XLA computes.
AS_USERS = (
    "tests/test_autograd",
    "tests/test_docs.py::test_the_pages_code",
    "tests/test_golden",
    "tests/test_losses",
    "tests/test_network_experiments",
    "tests/test_nn",
    "tests/test_optim",
    "tests/test_parity_book",
    "tests/test_search_shown",  # its long trainings would take three times as long
    "tests/test_thermometer",
    "tests/test_train",
)
# Of these the rooms that compare a training with itself, its files and its errors.
QUICKLY = ("tests/test_train_identity", "tests/test_train_resume")


def quick_environment() -> dict[str, str]:
    """The environment of a process that compiles quickly."""
    return os.environ | {OPTION.upper(): "1"}


def is_quick_run(config: pytest.Config) -> bool:
    """Whether the slow tests are left out."""
    return config.getoption("markexpr") == "not slow"


def compiles_as_users(item: pytest.Item) -> bool:
    if is_quick_run(item.config) or ALWAYS_QUICKLY or item.nodeid.startswith(QUICKLY):
        return False
    return item.nodeid.startswith(AS_USERS)


def pytest_configure():
    jax.config.update(OPTION, True)  # what modules compile while tests are collected


def pytest_collection_modifyitems(items):
    items.sort(key=compiles_as_users)  # a process seldom changes how it compiles


@pytest.hookimpl(tryfirst=True)  # before a fixture compiles
def pytest_runtest_setup(item):
    quickly = not compiles_as_users(item)
    os.environ[OPTION.upper()] = str(int(quickly))  # of processes that the test starts
    _compile(quickly)


def _compile(quickly: bool) -> None:
    if quickly != jax.config.values[OPTION]:
        jax.config.update(OPTION, quickly)
        jax.clear_caches()  # they do not tell how a program was compiled


@pytest.fixture
def compiled_as_for_users():
    """For a test whose digits depend on the compiler."""
    before = jax.config.values[OPTION]
    _compile(quickly=False)
    yield
    _compile(before)
