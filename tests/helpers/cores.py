"""How many cores a test computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_core() -> Iterator[None]:
    """For this thread and what it starts, a core of its own in each process of pytest-xdist: threads that share as little
    work as a tiny model gives them mostly wait for each other."""
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw1").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
