"""The rules of the house: which way imports point, what an import costs, that a reader finds things, and that the locks
hold what is declared.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
HEAVY = {
    "accelerate",
    "botocore",
    "datasets",
    "gguf",
    "matplotlib",
    "peft",
    "prefect",
    "ray",
    "s3fs",
    "torch",
    "transformers",
    "trl",
    "vllm",
}
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
    with_duckdb = [f for f in runner if f.name == "duck.py"]  # inside functions, and in the image that has it
    assert offenders([f for f in runner if f not in with_duckdb], set(sys.stdlib_module_names) | {"sandbox"}) == []
    assert offenders(with_duckdb, set(sys.stdlib_module_names) | {"sandbox", "duckdb"}) == []
    ours = [n for f in runner for _, n in imports(f) if n.startswith("sandbox") and not n.startswith("sandbox.runner")]
    assert ours == []


# The rooms of codelutra/ by floor: a module imports from its own room and from lower floors, never from higher ones.
FLOORS = [
    {"__init__", "addresses", "completions", "errors", "hardware", "reading", "schema"},
    {"config", "policies", "prompts"},
    {"store"},
    {"cluster", "models", "sampling", "scoring", "suites"},
    {"execution", "results", "training"},
    {"pipeline", "planning", "reporting"},
    {"experiments"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
INTO_THE_SANDBOX = {"suites", "execution", "store", "pipeline", "reporting", "cli"}
WORKERS = {
    "codelutra/suites/duck/worker.py",
    "codelutra/models/dequantise.py",
    "codelutra/models/merge_worker.py",
    "codelutra/reporting/gguf_worker.py",
    "codelutra/training/worker",
    "codelutra/sampling/engine_worker.py",
    "codelutra/sampling/serve_worker.py",
    "codelutra/sampling/__main__.py",
}  # started with `python -m`


def room(file: Path) -> str:
    """The room a module of codelutra/ is in: its package, or itself beside them."""
    first = file.relative_to(ROOT / "codelutra").parts[0]
    return first.removesuffix(".py")


def imported_rooms(file: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports(file):
        top, _, rest = name.partition(".")
        if top == "codelutra" and rest:
            yield line, rest.partition(".")[0]


def test_every_module_of_codelutra_has_a_floor() -> None:
    assert {room(f) for f in sources("codelutra")} == set(FLOOR)


def test_rooms_import_from_lower_floors_only() -> None:
    """So there is no circle between rooms either, and at most eight floors with flows beside cli."""
    wrong = [
        f"{f.relative_to(ROOT)}:{line} ({room(f)}) imports {other}"
        for f in sources("codelutra")
        for line, other in imported_rooms(f)
        if other in FLOOR and other != room(f) and FLOOR[other] >= FLOOR[room(f)]
    ]
    assert wrong == []
    assert len(FLOORS) <= 8


def test_no_two_modules_import_each_other() -> None:
    """Not even inside a room, nor inside functions; longer circles as well."""
    named = {module_name(f): f for f in sources("codelutra")}
    arrows = {
        name: {m for _, i in imports(f) for m in (i, i.rpartition(".")[0]) if m in named and m != name}
        for name, f in named.items()
    }
    graph = TopologicalSorter(arrows)
    graph.prepare()  # raises CycleError, naming the modules


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_only_some_rooms_know_the_sandbox() -> None:
    reach = {room(f) for f in sources("codelutra") for _, name in imports(f) if name.split(".")[0] == "sandbox"}
    assert reach <= INTO_THE_SANDBOX


def is_worker(file: Path) -> bool:
    return any(str(file.relative_to(ROOT)).startswith(worker) for worker in WORKERS)


def imported_at_the_top(file: Path) -> set[str]:
    """Top-level names that importing the module imports: not those inside functions or under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                found |= {f"{module}.{alias.name}" for alias in names}
    return found


def test_heavy_libraries_are_imported_at_the_top_of_workers_only() -> None:
    house = [f for package in sorted(HOUSE) for f in sources(package) if not is_worker(f)]
    allowed = {"flows": {"prefect"}, "tasks": {"prefect"}}
    wrong = [
        f"{f.relative_to(ROOT)} imports {name}"
        for f in house
        for name in imported_at_the_top(f)
        if name.split(".")[0] in HEAVY - allowed.get(f.relative_to(ROOT).parts[0], set())
    ]
    assert wrong == []


def test_nobody_imports_a_worker() -> None:
    named = (
        "codelutra.training.worker.",
        "codelutra.sampling.engine_worker",
        "codelutra.sampling.serve_worker",
        "codelutra.models.dequantise",
        "codelutra.models.merge_worker",
        "codelutra.reporting.gguf_worker",
    )
    wrong = [
        f"{f.relative_to(ROOT)}:{line} {name}"
        for package in sorted(HOUSE)
        for f in sources(package)
        if not is_worker(f)
        for line, name in imports(f)
        if name.startswith(named)
    ]
    assert wrong == []


def modules_in_strings() -> Iterator[tuple[str, str]]:
    """(where, module) of everything the code starts or loads by a name in a string."""
    dotted = re.compile(r"(?:codelutra|flows|tasks|sandbox)(?:\.[a-z_0-9]+)+")
    for package in sorted(HOUSE):
        for file in sources(package):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and dotted.fullmatch(node.value):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    yield from (("pyproject.toml", entry.partition(":")[0]) for entry in scripts.values())
    entries = re.findall(r"entrypoint: (\S+):", (ROOT / "prefect.yaml").read_text())
    yield from (("prefect.yaml", entry.removesuffix(".py").replace("/", ".")) for entry in entries)


def test_a_module_named_in_a_string_exists() -> None:
    found = list(modules_in_strings())
    assert {"codelutra.cli.__main__", "flows.refine", "codelutra.suites.mbpp"} <= {name for _, name in found}
    labels = {f"codelutra.{word}" for word in ("run", "pid", "host", "started", "image")}  # of containers, not modules
    wrong = [
        f"{where}: {name}"
        for where, name in found
        if name not in labels
        and not (ROOT / f"{name.replace('.', '/')}.py").is_file()
        and not (ROOT / name.replace(".", "/")).is_dir()
    ]
    assert wrong == []


def test_the_map_in_contributing_names_every_room_and_nothing_that_is_not_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    told = re.findall(r"`([\w./-]+)`", " ".join(line.split("|")[1] for line in text.split("\n") if line.startswith("| `")))
    there = {p.name + "/" * p.is_dir() for p in (ROOT / "codelutra").iterdir() if not p.name.startswith("__")}
    assert there - set(told) == set()
    assert {name for name in told if not any((ROOT / at / name).exists() for at in ("", "codelutra", "scripts"))} == set()


# Longer on purpose: the supervisor's bytes are the sandbox image's tag.
LONG_MODULES = {"sandbox/runner/supervisor.py"}


def test_a_module_fits_in_a_reader_s_head() -> None:
    """At most 350 lines a module and 60 a function; and no layout of its own."""
    long, forms = [], []
    for file in (f for package in sorted(HOUSE) for f in sources(package)):
        text, name = file.read_text(), str(file.relative_to(ROOT))
        if text.count("\n") > 350 and name not in LONG_MODULES:
            long.append(f"{name}: {text.count(chr(10))} lines")
        if "fmt: skip" in text:
            forms.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{name}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert long == []
    assert forms == []


def test_only_results_knows_the_keys_of_a_record() -> None:
    """Everybody else reads RunSummary: no `summary["…"]`, no summary.json read by hand."""
    by_hand = re.compile(r"""summary\[["']|\["policies"\]|\.read\("summary\.json"\)|summary\.json"\)\.read_text""")
    files = [
        f for package in sorted(HOUSE) for f in sources(package) if room_or_package(f) != "results" and not is_worker(f)
    ]
    wrong = [str(f.relative_to(ROOT)) for f in files if by_hand.search(f.read_text())]
    assert wrong == []


def room_or_package(file: Path) -> str:
    return room(file) if file.is_relative_to(ROOT / "codelutra") else file.relative_to(ROOT).parts[0]


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
names, started_alone = [], ("__main__", ".worker.", "_worker", "dequantise", "duck.worker")  # what only `python -m` starts
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
    return dict(line.removesuffix(" \\").split("==") for line in lines if re.match(r"[a-z0-9]", line))


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_locked_package_has_its_hashes_but_for_torch_s_cpu_build(extra: str) -> None:
    """PyPI does not carry that build; set-up installs it by itself, from PyTorch's index."""
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / f"{extra}.txt").read_text())[1:]
    assert len(blocks) == len(locked(extra)) > 100
    without = [block.split("\n")[0] for block in blocks if "--hash=sha256:" not in block]
    assert without == (["torch==2.13.0+cpu"] if extra == "cpu" else [])


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
