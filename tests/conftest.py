"""What all tests share: the order in which their files start."""

from __future__ import annotations

import pytest

LONGEST = "test_loop.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: `make test` works on two files at a time, and one process does all the others meanwhile."""
    items.sort(key=lambda item: item.path.name != LONGEST)
