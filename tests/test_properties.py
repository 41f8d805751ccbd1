"""Every public function of storage, data, train, search and diagnose against values that nobody should pass.

Each is registered (tests/properties) with what it takes and with an independent reference. It is called with valid
arguments, which must succeed, and with hostile ones in the place of one or two of them; then the result is right by the
reference, or an error of our own says clearly what is wrong (tests/properties/judge.py tells what counts as that).

`DLWP_HYPOTHESIS=deep python -m pytest -n 0 -q tests/test_properties.py` tries thousands and prints what came of them.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.properties import data as _data  # noqa: F401 (registers)
from tests.properties import storage as _storage  # noqa: F401
from tests.properties import train as _train  # noqa: F401
from tests.properties.subject import SUBJECTS, hostile, try_hostile, try_valid

DEEP = os.environ.get("DLWP_HYPOTHESIS") == "deep"


def trying(name, *, share=1.0):
    """The same examples in every run (other ones each time where it goes deep), and no deadline: shapes compile."""
    fast, deep = SUBJECTS[name].examples
    return settings(
        max_examples=max(1, round(share * (deep if DEEP else fast))),
        deadline=None,
        database=None,
        derandomize=not DEEP,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", [name for name, one in SUBJECTS.items() if one.right])
def test_what_is_right_is_taken(name):
    @trying(name, share=0.5)
    @given(arguments=SUBJECTS[name].valid)
    def check(arguments):
        try_valid(SUBJECTS[name], arguments)

    check()


@pytest.mark.parametrize("name", [name for name, one in SUBJECTS.items() if one.replaceable])
def test_what_is_wrong_is_refused_or_right_all_the_same(name):
    @trying(name)
    @given(arguments=hostile(SUBJECTS[name]))
    def check(arguments):
        try_hostile(SUBJECTS[name], arguments)

    check()
