"""Chapter 9: made-up chest CTs with known nodules, written in LUNA16's own files.

Run:    python -m experiments nodules cohort -o DIR
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Config:
    # the folder to write into; it must not exist, or be empty
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("cohort")
    seed: int = 0


def main(config: Config):
    raise ValueError("the cohort is being written")
