"""Runs every pair against torch and writes docs/torch_to_jax.md; fails where a pair differs."""

import os
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from scripts.rosetta import execute, page, pairs  # noqa: E402

PAGE = ROOT / "docs" / "torch_to_jax.md"


def failures(groups: list[pairs.Group]) -> int:
    """Run every pair in a folder of its own; how many differ, each with its reason on the screen."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        execute.sample_files(Path(folder))
        for pair in (pair for group in groups for pair in group.pairs):
            try:
                execute.check(pair)
            except AssertionError as error:
                failed += 1
                print(f"{', '.join(pair.names)}: {error}")
        os.chdir(ROOT)
    return failed


def main() -> int:
    """Check and write; 1 where a pair differs."""
    warnings.simplefilter("error")
    groups = pairs.read_all()
    failed = failures(groups)
    print(f"{len(page.names_of(groups))} of {page.BOOK_NAMES} torch names have a pair; {failed} pairs differ")
    if failed:
        return 1
    partial = PAGE.with_suffix(".partial")
    partial.write_text(page.render(groups))
    partial.replace(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
