"""Real Docker, real containers. One warm pool serves the tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Pool, SandboxError, ensure_daemon_reachable, ensure_image
from sandbox.probe import fixture_database


@pytest.fixture(scope="session")
def image() -> str:
    try:
        ensure_daemon_reachable()
    except SandboxError as error:
        pytest.skip(str(error))
    return ensure_image("python")


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fixture_database(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="session")
def database(databases: dict[str, Path]) -> str:
    return next(iter(databases))


@pytest.fixture(scope="session")
def pool(image: str, databases: dict[str, Path]) -> Iterator[Pool]:
    """One container, so that what one program leaves behind would meet the next."""
    with Pool(image=image, workers=1, databases=databases, run="tests") as pool:
        yield pool
