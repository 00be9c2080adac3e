"""What all tests share: the order in which their files start, and that their engines wait for nobody."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sandbox import Pool, ensure_image

LONGEST = (
    "test_loop.py",
    "test_serving.py",
    "test_setup.py",
    "test_run_of_0_1_0.py",
    "test_launch.py",
    "test_export.py",
    "test_matrix.py",
    "test_notify.py",
    "test_server.py",
    "test_replicas.py",
    "test_sharded.py",
)
LOCK = "CODELUTRA_ACCELERATOR_LOCK"
MANY = 200
settings.register_profile("busy", deadline=None)  # the machine may be: how long an example takes says nothing
settings.load_profile("busy")
_modules = 0  # that were imported at the last freeze


def pytest_configure(config: pytest.Config) -> None:
    """A lock on the accelerator for each process that runs tests: their engines are tiny, and would wait for those of the
    other process and for a run on this machine."""
    begins = str(Path(tempfile.gettempdir(), "codelutra-tests-"))
    if os.environ.get(LOCK, begins).startswith(begins):  # a worker of pytest-xdist has that of its starter
        lock = Path(f"{begins}{os.getpid()}.lock")
        os.environ[LOCK] = str(lock)
        config.add_cleanup(lambda: (os.environ.pop(LOCK), lock.unlink(missing_ok=True)))
    config.add_cleanup(gc.unfreeze)  # at the end triton counts what nobody has freed, and says so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: `make test` works on few files at a time, and none of the last should keep it waiting."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a command that asks this Prefect server: one of its own takes longer to start than a small run."""
    from tests.helpers.loop import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect"), "--no-services") as api:
        yield {"PREFECT_API_URL": api}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Imports make millions of objects and hardly any garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        leave_out_what_is_imported()


def pytest_runtest_logfinish() -> None:
    leave_out_what_is_imported()


def leave_out_what_is_imported() -> None:
    """Have garbage collections skip the objects of torch, TRL and the like: a training in this process collects at its end,
    and going through all of them took longer than the training of a tiny model."""
    global _modules
    if len(sys.modules) > _modules + MANY:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A container of the Python image, for a module's tests."""
    with Pool(image=ensure_image("python"), workers=1, run="tests") as opened:
        yield opened
