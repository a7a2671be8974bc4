"""Shared fixtures: where real data lies, if anywhere."""

from __future__ import annotations

import pytest

from covtoken.paths import data_root


@pytest.fixture(scope="session")
def covtoken_data():
    """The folder of real data; tests that need it are skipped, with this reason, where it is absent."""
    root = data_root()
    if root is None or not root.is_dir():
        pytest.skip("COVTOKEN_DATA names no folder of real data")
    return root
