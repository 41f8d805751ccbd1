"""What every test shares: compiled programs kept between runs, torch on few threads, where the
real data is.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings

from tests import compiling
from tests.data_root import real_book, real_cifar  # noqa: F401 (fixtures)
from tests.golden import golden, real_scan  # noqa: F401 (fixtures)

ROOT = Path(__file__).parents[1]

jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# The same examples in every run, however slow the machine is; tests/test_properties.py can be
# asked for other ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

SHARED_DATA = Path(os.environ.get("DLWP_SHARED_DATA", ROOT.parent / "shared" / "data"))

# Tests that took more than 2 seconds; tests/durations.py writes the list.
SLOW = frozenset(Path(__file__).with_name("slow.txt").read_text().splitlines())


def pytest_configure(config):
    config.pluginmanager.register(compiling)  # so that it sees the doctests of dlwp_jax too


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not select
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _torch_on_one_thread_and_warning_every_time():
    import torch

    torch.set_num_threads(1)
    torch.set_warn_always(
        True
    )  # what torch warns of once a process would fail whichever test comes first


@pytest.fixture(autouse=True)
def _random_numbers_that_do_not_hang_on_other_tests(request):
    """Which tests a process runs before this one is chance; what this one draws is not."""
    import torch

    torch.manual_seed(0)
    module = getattr(request.node, "module", None)  # a doctest has none
    for value in vars(module).values() if module else ():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture(autouse=True)
def _figures_are_closed():
    """With twenty left open in one process matplotlib warns, in whichever test comes next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard():
    """A job in the background is deaf to Ctrl-C, which `fit` respects; the tests that press it
    want to be heard.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _few_programs_at_a_time():
    """Every compiled program takes memory maps; a process has 65,530, and XLA dies of a
    segmentation fault without.
    """
    yield
    maps = Path("/proc/self/maps")  # of Linux
    if maps.exists() and maps.read_text().count("\n") > 15_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that needs it skips by name where it
    is not.
    """
    if not (SHARED_DATA / "README.md").exists():
        pytest.skip(f"the real data is not at {SHARED_DATA} (set DLWP_SHARED_DATA)")
    return SHARED_DATA
