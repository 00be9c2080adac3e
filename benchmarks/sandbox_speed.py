"""How fast is the sandbox, compared with the usual alternatives? Prints ratios, writes JSON and a figure.

    python benchmarks/sandbox_speed.py --spider DIR --out docs/results/sandbox.json

Every contender runs the same trivial programs, two at a time. The rounds rotate, so that other load on the machine affects
all of them. `llm-sandbox` is measured where it is installed (`pip install 'llm-sandbox[docker]'`).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker

from sandbox import Pool, PythonJob, SqlJob, ensure_image
from sandbox.image import ensure_base

PROGRAM, CALL, VALUE = "def f(x):\n    return x + 1\n", "f(41)", 42
SCRIPT = f"{PROGRAM}print({CALL})"
PANDAS = "import pandas as pd\ndef f():\n    return int(pd.DataFrame({'a': [1, 2, 39]})['a'].sum())\n"
PANDAS_SCRIPT = f"{PANDAS}print(f())"
AT_ONCE = 2
WALLS = [
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--pids-limit=128",
]


def both(work: Callable[[], bytes], count: int) -> float:
    """Programs a second when two run at a time, each checked to have said 42."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as hands:
        assert all(b"42" in answer for answer in hands.map(lambda _: work(), range(count)))
    return count / (time.perf_counter() - started)


def command(*argv: str) -> Callable[[], bytes]:
    return lambda: subprocess.run(argv, capture_output=True, check=True).stdout


def in_process(count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        namespace: dict[str, Any] = {}
        exec(compile(PROGRAM, "<program>", "exec"), namespace)
        assert eval(CALL, namespace) == VALUE
    return count / (time.perf_counter() - started)


def pooled(pool: Pool, count: int, program: str = PROGRAM, call: str = CALL) -> float:
    started = time.perf_counter()
    jobs = (PythonJob(str(n), program, (call,), timeout_seconds=60.0) for n in range(count))
    assert all(result.value == [{"value": VALUE}] for result in pool.map(jobs))
    return count / (time.perf_counter() - started)


@contextmanager
def warm_container(image: str) -> Iterator[str]:
    client = docker.from_env()
    container = client.containers.run(
        image, ["/bin/sleep", "3600"], entrypoint="", detach=True, network_mode="none", init=True
    )
    try:
        yield container.id
    finally:
        container.remove(force=True)
        client.close()


@contextmanager
def peer() -> Iterator[Callable[[int], float] | None]:
    """llm-sandbox with one session kept open, on the base image; None where it is not installed."""
    if importlib.util.find_spec("llm_sandbox") is None:
        yield None
        return
    from llm_sandbox import SandboxSession  # type: ignore[import-not-found]

    client = docker.from_env()
    dockerfile = (
        f"FROM {ensure_base(client, print)}\nRUN command -v python || ln -s python3 /usr/bin/python\nCMD sleep infinity\n"
    )
    client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag="codelutra/peer:1", rm=True)
    client.close()
    with SandboxSession(lang="python", image="codelutra/peer:1", keep_template=True, skip_environment_setup=True) as session:

        def run(count: int) -> float:
            started = time.perf_counter()
            for _ in range(count):
                tries = (session.run(SCRIPT).stdout for _ in range(5))  # now and then it gives back no output
                assert any("42" in said for said in tries)
            return count / (time.perf_counter() - started)

        yield run


def python_rates(rounds: int) -> dict[str, list[float]]:
    image = ensure_image("python", progress=print)
    with ExitStack() as stack:
        warm = stack.enter_context(warm_container(image))
        pool = stack.enter_context(Pool(image=image, workers=AT_ONCE, run="benchmark"))
        other = stack.enter_context(peer())
        contenders: dict[str, Callable[[], float]] = {
            "docker run per program": lambda: both(
                command("docker", "run", "--rm", "--entrypoint=", *WALLS, image, "/opt/codelutra/python3", "-c", SCRIPT), 6
            ),
            "docker exec per program": lambda: both(
                command("docker", "exec", warm, "/opt/codelutra/python3", "-c", SCRIPT), 16
            ),
            "fresh interpreter per program (host)": lambda: both(command(sys._base_executable, "-c", SCRIPT), 30),
            "fresh interpreter, bare (-I -S)": lambda: both(command(sys._base_executable, "-I", "-S", "-c", SCRIPT), 60),
            "sandbox pool": lambda: pooled(pool, 1500),
            "in-process loop, one core, no isolation": lambda: in_process(20_000),
        }
        if other is not None:
            contenders["llm-sandbox, container reused"] = lambda: other(8)
        return rotate(contenders, rounds)


def pandas_rates(rounds: int) -> dict[str, list[float]]:
    image = ensure_image("datascience", progress=print)
    inside = f"""
import subprocess, sys, time
started = time.perf_counter()
for _ in range(3):
    two = [subprocess.Popen([sys.executable, '-c', {PANDAS_SCRIPT!r}], stdout=subprocess.PIPE) for _ in range(2)]
    assert all(b'42' in p.communicate()[0] for p in two)
print(6 / (time.perf_counter() - started))
"""
    with warm_container(image) as warm, Pool(image=image, workers=AT_ONCE, run="benchmark", memory_mb=1024) as pool:
        fresh = command("docker", "exec", "-e", "OPENBLAS_NUM_THREADS=1", warm, "/opt/codelutra/python3", "-c", inside)
        return rotate(
            {
                "fresh interpreter per program": lambda: float(fresh()),
                "sandbox pool": lambda: pooled(pool, 300, PANDAS, "f()"),
            },
            rounds,
        )


def rotate(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            rates[name].append(measure())
            print(f"{name:45s} {rates[name][-1]:10.1f}/s", flush=True)
    return rates


def spider(folder: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Databases by digest, and (digest, query) of every question whose database is there."""
    paths = {path.stem: path for path in sorted(folder.glob("database/*/*.sqlite"))}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    entries = [e for name in ("dev.json", "train_spider.json") for e in json.loads((folder / name).read_text())]
    queries = [(digests[e["db_id"]], e["query"]) for e in entries if e["db_id"] in digests]
    return {digests[name]: path for name, path in paths.items()}, queries


def bare(work: tuple[dict[str, Path], list[tuple[str, str]]]) -> int:
    """The limit: connections kept open in one process, no authorizer, no deadline, no caps."""
    databases, queries = work
    connections: dict[str, sqlite3.Connection] = {}
    rows = 0
    for digest, query in queries:
        if digest not in connections:
            connections[digest] = sqlite3.connect(f"file:{databases[digest]}?mode=ro&immutable=1", uri=True)
        try:
            rows += len(connections[digest].execute(query).fetchall())
        except sqlite3.Error:
            continue
    for connection in connections.values():
        connection.close()
    return rows


def sql_rates(folder: Path, rounds: int) -> dict[str, list[float]]:
    databases, queries = spider(folder)

    def loop() -> float:
        started = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(AT_ONCE) as processes:
            processes.map(bare, [(databases, queries[part::AT_ONCE]) for part in range(AT_ONCE)], chunksize=1)
        return len(queries) / (time.perf_counter() - started)

    with Pool(image=ensure_image(), workers=AT_ONCE, databases=databases, run="benchmark") as pool:

        def ours() -> float:
            started = time.perf_counter()
            jobs = (
                SqlJob(str(n), digest, query, timeout_seconds=30.0, max_rows=1_000_000)
                for n, (digest, query) in enumerate(queries)
            )
            assert sum(result.status == "ok" for result in pool.map(jobs)) > 0.99 * len(queries)
            return len(queries) / (time.perf_counter() - started)

        ours()  # the databases travel once
        return rotate({"bare sqlite3 loop, two processes": loop, "sandbox pool": ours}, rounds)


def growth(counts: list[int], rounds: int) -> dict[str, float]:
    """Trivial programs a second by number of workers."""
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            with Pool(image=ensure_image(), workers=count, run="benchmark") as pool:
                pooled(pool, 100)
                rates[count].append(pooled(pool, 600))
    return {str(count): round(statistics.median(values), 1) for count, values in rates.items()}


def figure(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "codelutra"
    rates = report["python"]["median_per_second"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    names = sorted(rates, key=rates.get)
    left.barh(names, [rates[name] for name in names], color=["#2a6f97" if "pool" in n else "#b8c4cc" for n in names])
    left.set_xscale("log")
    left.set_xlabel("trivial programs per second (log scale)")
    counts = report["workers"]
    right.plot([int(count) for count in counts], list(counts.values()), "o-", color="#2a6f97")
    right.axvline(report["machine"]["cpus"], color="#999", linestyle=":", label=f"{report['machine']['cpus']} CPU cores")
    right.set(xlabel="workers", ylabel="programs per second", ylim=(0, None))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the pool's rate as a multiple of each other contender's, round by round."""
    ours = rates["sandbox pool"]
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
        for name, theirs in rates.items()
        if name != "sandbox pool"
    }
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {"median_per_second": medians, "pool_is_times": ratios, "rounds": len(ours)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spider", type=Path)
    parser.add_argument("--no-pandas", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/sandbox.json"))
    options = parser.parse_args()
    load = os.getloadavg()[0]
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "load_before": round(load, 1)}
    }
    report["python"] = summary(python_rates(options.rounds))
    if options.spider:
        report["sql"] = summary(sql_rates(options.spider, options.rounds))
    if not options.no_pandas:
        report["pandas"] = summary(pandas_rates(options.rounds))
    report["workers"] = growth([1, 2, 3, 4, 6], min(2, options.rounds))
    report["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    figure(report, options.out.with_suffix(".svg"))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
