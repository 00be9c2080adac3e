"""The rules of the house: which way imports point, what an import costs, and that the locks hold what is declared."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
HOUSE = {"flows", "tasks", "codelutra", "sandbox"}
MAY_IMPORT = {
    "flows": {"flows", "tasks", "codelutra"},
    "tasks": {"tasks", "codelutra"},
    "codelutra": {"codelutra", "sandbox"},
    "sandbox": {"sandbox"},
}
HEAVY = {"accelerate", "datasets", "gguf", "matplotlib", "peft", "prefect", "torch", "transformers", "trl", "vllm"}
TORCHVISION_FAMILY = {"torchvision", "torchaudio", "torchcodec"}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything `file` imports, inside functions as well."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                module = ".".join([*base, *([module] if module else [])])
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module")):
                if isinstance(name := getattr(node.args[0], "value", None), str):
                    yield node.lineno, name


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source found in {package}/: this test looks in the wrong place"
    return files


def offenders(files: list[Path], allowed: set[str]) -> list[str]:
    """Imports whose top-level name is not in `allowed`, as file:line name."""
    found = ((file, line, name) for file in files for line, name in imports(file))
    return [f"{f.relative_to(ROOT)}:{line} {name}" for f, line, name in found if name.split(".")[0] not in allowed]


@pytest.mark.parametrize("package", sorted(HOUSE))
def test_imports_point_from_flows_to_sandbox_and_never_back(package: str) -> None:
    others = HOUSE - MAY_IMPORT[package] | ({"prefect"} if package in {"codelutra", "sandbox"} else set())
    seen = {name.split(".")[0] for file in sources(package) for _, name in imports(file)}
    assert offenders(sources(package), seen - others) == []


def test_the_sandbox_needs_only_the_standard_library_and_docker() -> None:
    """`requests` is the docker SDK's transport: what it raises when no daemon answers comes through unwrapped."""
    host = [f for f in sources("sandbox") if "runner" not in f.parts and "images" not in f.parts]
    assert offenders(host, set(sys.stdlib_module_names) | {"sandbox", "docker", "requests"}) == []


def test_what_runs_inside_the_container_needs_only_the_standard_library_and_itself() -> None:
    runner = sources("sandbox/runner")
    assert offenders(runner, set(sys.stdlib_module_names) | {"sandbox"}) == []
    ours = [n for f in runner for _, n in imports(f) if n.startswith("sandbox") and not n.startswith("sandbox.runner")]
    assert ours == []


IMPORT_EVERYTHING = """
import json, os, pkgutil, importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"{name} is not to be imported here", name=name)

def watch(event, args):
    if event == "open":
        path, mode, flags = args
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            opened.append(f"writes {path}")
    elif event in ("subprocess.Popen", "os.fork", "os.system", "socket.connect", "os.mkdir"):
        opened.append(f"{event} {args}")

HEAVY, opened = set(json.loads(sys.argv[1])), []
sys.meta_path.insert(0, Absent())
sys.addaudithook(watch)
names, started_alone = [], ("__main__", ".worker.")  # what only `python -m` starts
for top in ("sandbox", "codelutra"):
    package = importlib.import_module(top)
    names += [top, *(m.name for m in pkgutil.walk_packages(package.__path__, top + "."))]
names = [name for name in names if not any(part in name for part in started_alone)]
for name in names:
    importlib.import_module(name)
watching, report = False, {"names": names, "opened": opened, "heavy": sorted(HEAVY & set(sys.modules))}
sys.__stderr__.write("REPORT " + json.dumps(report))
"""


def test_importing_everything_prints_nothing_opens_nothing_and_works_without_models_and_prefect() -> None:
    run = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_EVERYTHING, json.dumps(sorted(HEAVY))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    noise, _, report = run.stderr.rpartition("REPORT ")
    assert noise == ""
    found = json.loads(report)
    assert {"codelutra.pipeline.stages", "codelutra.cli.app", "sandbox.protocol"} <= set(found["names"])
    assert found["opened"] == []
    assert found["heavy"] == []


def test_help_answers_in_under_a_second() -> None:
    """CPU seconds, which are wall seconds on an idle machine and hold on a busy one too; the best of three."""
    spent = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-m", "codelutra.cli", "--help"], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as stdout:
            help_text = stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert "run" in help_text
        spent.append(usage.ru_utime + usage.ru_stime)
    assert min(spent) < 1.0


def locked(extra: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if re.match(r"[a-z0-9]", line))


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_a_lock_satisfies_every_declared_dependency(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    declared = [*project["dependencies"], *(r for g in (extra, "prefect", "train", "dev") for r in groups[g])]
    requirements = [r for r in map(Requirement, declared) if r.name != "codelutra"]
    lock = locked(extra)
    unmet = [str(r) for r in requirements if not r.specifier.contains(lock.get(r.name.lower(), "0"), prereleases=True)]
    assert unmet == []
    assert [r.name for r in requirements if r.name.lower() not in lock] == []


def test_the_cpu_lock_leaves_out_what_breaks_transformers_beside_cpu_torch() -> None:
    assert TORCHVISION_FAMILY & set(locked("cpu")) == set()
    assert locked("cpu")["torch"].endswith("+cpu")


def test_the_locks_differ_only_where_vllm_and_torch_make_them() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differing <= {"apache-tvm-ffi", "torch", "triton"}
