"""Runs every pair against torch; writes docs/torch_to_jax.md and docs/coming_from_torch.md if
none differs.
"""

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from scripts.rosetta import execute, page, pairs  # noqa: E402

DOCS = ROOT / "docs"


def failures(groups: list[pairs.Group], bites: list[pairs.Group]) -> int:
    """Run every pair in a folder of its own; how many fail, each with its reason on the
    screen.
    """
    checks = [(execute.check, pair) for group in (*groups, *bites) for pair in group.pairs]
    checks += [(execute.check_that_it_bites, pair) for group in bites for pair in group.pairs]
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        execute.sample_files(Path(folder))
        for check, pair in checks:
            try:
                check(pair)
            except AssertionError as error:
                failed += 1
                print(f"{', '.join(pair.names)}: {error}")
    return failed


def main() -> int:
    """Check and write; 1 where a pair differs."""
    warnings.simplefilter("error")
    groups, bites = pairs.read_all(), [pairs.read("bites"), pairs.read("quiet")]
    failed = failures(groups, bites)
    print(
        f"{len(pairs.book_names(groups))} of {page.BOOK_NAMES} torch names have a pair; "
        f"{failed} checks failed"
    )
    if failed:
        return 1
    for name, text in {
        "torch_to_jax": page.render(groups),
        "coming_from_torch": page.render_bites(*bites),
    }.items():
        partial = DOCS / f"{name}.partial"
        partial.write_text(text)
        partial.replace(DOCS / f"{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
