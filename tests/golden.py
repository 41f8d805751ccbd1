"""The recorded outputs of the book's own published code, which lie beside the shared data.

The README.md in that folder says how each file was made. Arrays there are channels first.
"""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    """The folder of recorded outputs; a test that needs it skips by name if it is not there."""
    folder = shared_data.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"the book's recorded outputs are not at {folder}")
    return folder


def last(array: np.ndarray) -> np.ndarray:
    """Channels first to channels last, in float32: `[n c ...] -> [n ... c]`."""
    return np.moveaxis(np.asarray(array, np.float32), 1, -1)


def first(array) -> np.ndarray:
    """Channels last to channels first: `[n ... c] -> [n c ...]`."""
    return np.moveaxis(np.asarray(array), -1, 1)
