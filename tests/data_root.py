"""Fixtures for the real data: unpacked once a session, or taken from DLWP_DATA where it is
unpacked already.
"""

import importlib.util
import os
from pathlib import Path

import pytest


def _unpacker(shared_data):
    spec = importlib.util.spec_from_file_location("unpack", shared_data / "unpack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _already(relative: str) -> Path | None:
    root = Path(os.environ.get("DLWP_DATA", "/nonexistent"))
    return root if (root / relative).exists() else None


@pytest.fixture(scope="session")
def real_book(request, tmp_path_factory) -> Path:
    """A data root that holds the book's small files (seconds)."""
    if root := _already("book/p1ch4/ct-series"):
        return root
    shared_data = request.getfixturevalue("shared_data")
    root = tmp_path_factory.mktemp("book")
    _unpacker(shared_data).unpack_book(root)
    return root


@pytest.fixture(scope="session")
def real_cifar(request, tmp_path_factory) -> Path:
    """A data root that holds CIFAR-10 in the official layout (20 s where it must be
    unpacked).
    """
    if root := _already("cifar-10-batches-py/batches.meta"):
        return root
    shared_data = request.getfixturevalue("shared_data")
    root = tmp_path_factory.mktemp("cifar")
    _unpacker(shared_data).unpack_cifar10(root)
    return root
