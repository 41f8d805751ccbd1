"""Every recorded file of the book is tested, or waits for a feature that is not built yet."""

import re

from tests.conftest import ROOT
from tests.golden import WAITING


def test_every_file_is_tested_or_waits(golden):
    files = {path.name for path in golden.iterdir()} - {"README.md"}
    assert set(WAITING) <= files
    tested = set()
    for path in (ROOT / "tests").glob("test_golden_*.py"):
        tested |= set(re.findall(r'"(\w+\.(?:npz|pt|json))"', path.read_text()))
    assert tested <= files
    assert not tested & set(WAITING)
    assert files == tested | set(WAITING)
