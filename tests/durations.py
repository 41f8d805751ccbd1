"""Writes tests/slow.txt, the list of tests that took more than 2 seconds of processor time;
conftest.py marks them as slow.

A pytest plugin, for a machine that does nothing else. Tests that do not run stay as they are in
the list:

    python -m pytest -n 0 -p tests.durations
"""

import resource
from pathlib import Path

import pytest

SECONDS = 2.0
# Worth their time in every run: several devices and processes, the loops that must be equal,
# and the first page that anybody reads.
NEVER = {
    (
        "tests/test_devices_processes.py"
        "::test_one_that_ends_ends_all_with_a_sentence[tea 1-messages0]"
    ),
    "tests/test_shard.py::test_on_eight_devices",
    "tests/test_docs.py::test_the_pages_code_runs_and_prints_what_is_shown[README]",
    "tests/test_thermometer.py::test_the_three_training_loops_are_equal_to_the_bit",
}

taken: dict[str, float] = {}


def processor_seconds() -> float:
    """Of this process, and of those that it has waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    before = processor_seconds()
    result = yield
    taken[item.nodeid] = processor_seconds() - before
    return result


def pytest_sessionfinish():
    path = Path(__file__).with_name("slow.txt")
    others = set(path.read_text().splitlines()) - set(taken)
    slow = {name for name, seconds in taken.items() if seconds > SECONDS} - NEVER
    path.write_text("\n".join(sorted(slow | others)) + "\n")
