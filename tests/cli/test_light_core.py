"""The package without extras: what it can do it does, and what it cannot is one message that names what to install."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from codelutra.errors import EXTRAS

ROOT = Path(__file__).parents[2]
WITHOUTEXTRAS = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(EXTRAS)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from codelutra.cli.app import main
sys.argv = ["codelutra", *sys.argv[1:]]
main()
"""
WORKS = ["--help", "--version", "suites", "presets", "models", "models --json", "doctor", "init sql --help", "promoted demo"]
NEEDS = {
    "run demo": "prefect",
    "compare demo --methods base": "prefect",
    "evaluate demo --model qwen2.5-coder-0.5b": "prefect",
    "retrain demo": "prefect",
    "plan demo --set model=path:{here}": "train",
}


def command(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CODELUTRA_HOME": str(home), "COLUMNS": "200"}
    arguments = line.format(here=home).split()
    return subprocess.run(
        [sys.executable, "-c", WITHOUTEXTRAS, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("line", WORKS)
def test_it_answers(line: str, tmp_path: Path) -> None:
    done = command(line, tmp_path)
    assert "Traceback" not in done.stderr
    assert "which is not installed: pip" not in done.stderr or line == "doctor"


@pytest.mark.parametrize("line", NEEDS)
def test_it_says_what_to_install(line: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # whole, and without a tensor
    done = command(line, tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert f"pip install 'codelutra[{NEEDS[line]}]'" in done.stderr, done.stderr


def test_every_library_of_an_extra_is_known() -> None:
    """A dependency that is added to an extra has its message too."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("prefect", "train"):
        for requirement in extras[extra]:
            assert EXTRAS[requirement.split(">")[0].split("=")[0]] == extra
