"""What all tests share: the order in which their files start, and that their engines wait for nobody."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

LONGEST = "test_loop.py"
LOCK = "CODELUTRA_ACCELERATOR_LOCK"


def pytest_configure(config: pytest.Config) -> None:
    """A lock on the accelerator for each process that runs tests: their engines are tiny, and would wait for those of the
    other process and for a run on this machine."""
    begins = str(Path(tempfile.gettempdir(), "codelutra-tests-"))
    if os.environ.get(LOCK, begins).startswith(begins):  # a worker of pytest-xdist has that of its starter
        lock = Path(f"{begins}{os.getpid()}.lock")
        os.environ[LOCK] = str(lock)
        config.add_cleanup(lambda: (os.environ.pop(LOCK), lock.unlink(missing_ok=True)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: `make test` works on few files at a time, and the other processes do the rest meanwhile."""
    items.sort(key=lambda item: item.path.name != LONGEST)
