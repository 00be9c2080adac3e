"""scripts/setup.sh on a small lock: killed anywhere, the same command finishes; finished, it costs nothing."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKED = ["uv", "hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers", "typing-extensions", "tomlkit", "numpy"]
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "codelutra"
version = "0"
[tool.hatch.build]
dev-mode-dirs = ["."]
[tool.hatch.build.targets.wheel]
packages = ["codelutra"]
"""
MISSING_FILES = """
import importlib.metadata as m, json
print(json.dumps({d.name: [str(f) for f in d.files if not f.locate().exists()] for d in m.distributions()}))
"""


def locked(name: str) -> str:
    """A package of the lock with its hashes."""
    found = re.search(rf"^{name}==.*(\n    --hash=.*)+", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
    assert found, name
    return found[0]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return check_out(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is set up: every test that has it leaves it whole, and none minds what the ones before changed."""
    made = check_out(tmp_path_factory.mktemp("whole"))
    assert set_up(made).returncode == 0
    return made


def check_out(folder: Path) -> Path:
    """A small project of its own with this project's set-up script and nine of its locked packages."""
    lock = [locked(name) for name in LOCKED]
    ask = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "wheel"), "packaging"]
    if subprocess.run(ask, capture_output=True, check=False).returncode:
        pytest.skip("no package index answers")
    root = folder / "checkout"
    for part in ("requirements", "codelutra", "scripts"):
        (root / part).mkdir(parents=True)
    for extra in ("cpu", "gpu"):
        (root / "requirements" / f"{extra}.txt").write_text("\n".join(lock) + "\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "codelutra" / "__init__.py").touch()
    shutil.copy2(ROOT / "scripts" / "setup.sh", root / "scripts")
    return root


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts" / "setup.sh", "python"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env=os.environ | environment,
    )


def kill_set_up_when(checkout: Path, moment: Callable[[Path], bool]) -> None:
    """Start the set-up and SIGKILL its whole process group as soon as `moment` holds for .venv."""
    process = subprocess.Popen(
        [checkout / "scripts" / "setup.sh", "python"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not moment(checkout / ".venv"):
        assert process.poll() is None, "the set-up ended before the moment it was to be killed at"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_whole(checkout: Path) -> None:
    names = set(LOCKED) | {"codelutra", "pip"}
    found = subprocess.run([checkout / ".venv/bin/python", "-c", MISSING_FILES], capture_output=True, text=True, check=True)
    missing = {re.sub(r"[-_.]+", "-", name).lower(): files for name, files in json.loads(found.stdout).items()}
    assert names <= missing.keys()
    assert {name: files for name, files in missing.items() if name in names and files} == {}


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_finishes(checkout: Path) -> None:
    packages = "lib/python3.11/site-packages"
    moments: list[Callable[[Path], bool]] = [
        lambda venv: (venv / ".unfinished").exists(),
        lambda venv: (venv / "bin/python").exists(),
        lambda venv: (venv / packages / "uv").exists(),
        lambda venv: any((venv / packages).glob("numpy*")),
    ]
    for moment in moments:
        kill_set_up_when(checkout, moment)
        assert not list((checkout / ".venv").glob(".whole-*"))
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    assert "half-made" in done.stdout
    assert_whole(checkout)
    assert not list((checkout / ".setup").glob("old-venv-*"))


@pytest.mark.slow
def test_what_looks_installed_but_is_not_is_installed_again_and_what_is_whole_costs_nothing(whole: Path) -> None:
    (stamp,) = (whole / ".venv").glob(".whole-*")

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = set_up(whole)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5

    # What a kill in the middle of an installation leaves: metadata is there, files are not.
    stamp.rename(whole / ".venv" / ".unfinished")
    (whole / ".venv/lib/python3.11/site-packages/tomlkit/parser.py").unlink()
    assert set_up(whole).returncode == 0
    assert_whole(whole)


def test_another_lock_is_noticed(whole: Path) -> None:
    for lock in (whole / "requirements").iterdir():
        lock.write_text(lock.read_text() + locked("six") + "\n")
    changed = set_up(whole)
    assert (changed.returncode, "installs the 10 packages" in changed.stdout) == (0, True), changed
    subprocess.run([whole / ".venv/bin/python", "-c", "import six"], check=True)


def test_a_package_that_is_not_the_locked_one_is_refused(checkout: Path) -> None:
    for lock in (checkout / "requirements").iterdir():
        lock.write_text(
            re.sub(r"(?m)(^tomlkit==.*)(\n    --hash=.*)+", rf"\1\n    --hash=sha256:{'0' * 64}", lock.read_text())
        )
    refused = set_up(checkout)
    assert refused.returncode == 2
    assert "hash" in refused.stderr.lower()
    assert "tomlkit" in refused.stderr
    assert not list((checkout / ".venv").glob(".whole-*"))


def test_where_a_gpu_has_come_nothing_of_the_cpu_packages_is_left(whole: Path, tmp_path: Path) -> None:
    (left := whole / ".venv/lib/python3.11/site-packages/torch_for_cpus.py").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\necho GPU 0: a stand-in\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    changed = set_up(whole, PATH=path)
    assert (changed.returncode, "it is made again" in changed.stdout, left.exists()) == (0, True, False), changed
    assert_whole(whole)
    assert set_up(whole, PATH=path).stdout == ""
