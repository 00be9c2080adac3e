"""How many shards a second does the orchestration carry, what does it need, and how many GPUs does that feed?

    python -m benchmarks.scale [--postgres URL] [--shards 200] [--rounds 3] [--held 1000,10000] [--out FILE]

prefect    a flow hands shards over as flows/refine.py does, but with as many threads as there are tasks unless --threads
           says otherwise: a `sample` and an `execute` task for each, with the options of
           tasks/stages.py and the store's keys; what they do takes no time. Prefect's server runs beside it with a new
           database: SQLite's, and with --postgres the one of that URL (postgresql+asyncpg://…). Give it an empty one: its
           tables are dropped at the end
ray        as many no-op shards through `ray.remote`, on a local cluster; skipped where Ray is not installed
store      what the flow's process itself does to a shard: SAMPLES frame with its code extracted, written, hashed, filed
servers    what the flow's process does to sample on servers (sample.endpoints): answers a second that it asks a server for
           which has them ready, of prompts of 1,500 characters

They take turns, --rounds times; rates are medians with the smallest and the largest. Those of store and servers are of the
process's own CPU seconds, as on a core that nobody else uses. --held measures the memory of the flow's process while so many
shards wait for an engine; with --rounds 0 it does that alone and adds it to FILE. The iteration of --gpus GPUs is calculated
from these rates by the simulation below, and from what is assumed of the GPUs (--tokens-per-second, --tokens) and of the
sandboxes (--execute).
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._scale_ways import STORED

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0  # seconds for a server to start, on a busy machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", help="postgresql+asyncpg://USER@HOST:PORT/DATABASE, of this benchmark alone")
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", default="1000,10000", help="numbers of shards to measure memory at; empty: none")
    parser.add_argument("--minutes", type=float, default=15, help="at most for each number of --held")
    parser.add_argument("--threads", type=int, help="of the flow; default Prefect's: as many as there are tasks")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--tokens-per-second", type=float, default=5000, help="of one GPU; assumed")
    parser.add_argument("--tokens", type=float, default=150, help="of an answer; assumed")
    parser.add_argument("--execute", type=float, default=300, help="programs a second that the sandboxes run, per GPU")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with it
    found = measured(asked)
    if asked.rounds:
        found["simulated"] = simulations(found, asked)
    elif asked.out and asked.out.exists():  # memory alone, beside what was measured before
        before = json.loads(asked.out.read_text())
        found = before | {"held": before["held"] | found["held"]}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    ways = ("prefect, SQLite", "prefect, PostgreSQL", "ray", "store", "servers")
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    skipped = {}
    if not asked.postgres:
        skipped["prefect, PostgreSQL"] = "no --postgres was given"
    if subprocess.run([sys.executable, "-c", "import ray"], capture_output=True).returncode:
        skipped["ray"] = "Ray is not installed"
    rounds = {way: of for way, of in rounds.items() if way not in skipped}
    held: dict[str, Any] = {}
    with contextlib.ExitStack() as there:
        folder = Path(
            there.enter_context(tempfile.TemporaryDirectory(prefix="codelutra-scale-", ignore_cleanup_errors=True))
        )
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "CODELUTRA_HOME": str(folder / "home")}
        envs = dict.fromkeys(rounds, env)
        for way, database in (("prefect, SQLite", None), ("prefect, PostgreSQL", asked.postgres)):
            if way in rounds:
                envs[way] = env | there.enter_context(_server(folder / way[-6:], env, database))
        limited = {"PREFECT_TASK_RUNNER_THREAD_POOL_MAX_WORKERS": str(asked.threads)} if asked.threads else {}
        for number in range(asked.rounds):
            for way in rounds if number % 2 else reversed(rounds):
                rounds[way].append(_once(way, asked.shards, envs[way] | limited, 600)[-1])
                print(way, rounds[way][-1], flush=True, file=sys.stderr)
        for shards in [int(text) for text in asked.held.split(",") if text]:
            name = f"{shards} shards" + (f", {asked.threads} threads" if asked.threads else "")
            held[name] = _once("prefect, SQLite", shards, envs["prefect, SQLite"] | limited, 60 * asked.minutes, "held")
            print(name, held[name], flush=True, file=sys.stderr)
    return {
        "command": __doc__.split("\n\n")[1].strip(),
        "about": {
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.processor() or platform.machine(),
            "prefect": _version("prefect"),
            "ray": _version("ray"),
            "shards": asked.shards,
        },
        "skipped": skipped,
        "rates": {way: _spread([r["per_second"] for r in of if "per_second" in r]) for way, of in rounds.items()},
        "rounds": rounds,
        "held": held,
    }


def _spread(rates: Sequence[float]) -> dict[str, float]:
    if not rates:
        return {"rounds": 0}
    return {"median": round(statistics.median(rates), 2), "smallest": round(min(rates), 2), "largest": round(max(rates), 2)}


def _version(package: str) -> str:
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _once(way: str, shards: int, env: dict[str, str], limit: float, how: str = "free") -> list[dict[str, Any]]:
    """One measurement in a process of its own: what it says, at most until `limit` seconds have passed."""
    load, command = os.getloadavg()[0], [sys.executable, "-m", "benchmarks._scale_ways"]
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [*command, way.partition(",")[0], str(shards), how], env=env, cwd=ROOT, stdout=told, stderr=errors
        )
        ended: dict[str, Any] = {}
        try:
            if child.wait(limit):
                errors.seek(0)
                ended = {"failed": (errors.read().strip().splitlines() or [""])[-1][:300]}
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            ended = {"stopped_after_seconds": limit}
        told.seek(0)
        said = [json.loads(line) for line in told.read().splitlines() if line.startswith("{")]
        return [{**line, "load": round(load, 1)} for line in [*said, *([ended] if ended else [])]]


@contextlib.contextmanager
def _server(folder: Path, env: dict[str, str], database: str | None) -> Iterator[dict[str, str]]:
    from tests.helpers.ports import free_port

    folder.mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = env | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    env |= {"PREFECT_LOGGING_LEVEL": "ERROR"} | ({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {})
    command = [str(Path(sys.executable).with_name("prefect")), "server"]
    with (folder / "server.log").open("wb") as log:
        start = [*command, "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(start, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"Prefect's server did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.3)
        yield {"PREFECT_API_URL": url, "PREFECT_HOME": env["PREFECT_HOME"], "PREFECT_LOGGING_LEVEL": "ERROR"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        if database:
            subprocess.run([*command, "database", "reset", "-y"], env=env, capture_output=True, check=True)


def simulations(found: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """The iteration of 100,000 problems with 16 answers each, by way of handing shards over, by who samples, and by problems
    in a shard."""
    medians = {way: of["median"] for way, of in found["rates"].items() if "median" in of}
    store, table = medians["store"] * STORED[0] * STORED[1], []  # answers a second
    for way in (w for w in medians if w not in ("store", "servers")):
        for sampled, asking in (("engines", 0.0), ("servers", 1 / medians["servers"])):
            for size in (1000, 100, 10):
                answers = 16 * size
                engine = answers * asked.tokens / asked.tokens_per_second
                flow = 1 / medians[way] + answers * (1 / store + asking)
                seconds = iteration(100_000 // size, asked.gpus, engine, flow, answers / (asked.execute * asked.gpus))
                ideal = 100_000 // size * engine / asked.gpus
                table.append(
                    {
                        "way": way,
                        "sampled_by": sampled,
                        "problems_in_a_shard": size,
                        "seconds_of_a_shard_on_its_gpu": round(engine, 1),
                        "seconds_of_a_shard_in_the_flow": round(flow, 4),
                        "minutes": round(seconds / 60, 1),
                        "minutes_of_the_gpus_alone": round(ideal / 60, 1),
                        "gpus_busy": round(ideal / seconds, 3),
                        "saturates_at_gpus": round(engine / flow),
                    }
                )
    assumed = {"tokens_per_second": asked.tokens_per_second, "tokens": asked.tokens, "programs_per_second": asked.execute}
    return {"problems": 100_000, "samples": 16, "gpus": asked.gpus, "assumed_per_gpu": assumed, "table": table}


def iteration(shards: int, gpus: int, engine: float, flow: float, judge: float) -> float:
    """Seconds until every shard is judged: `gpus` engines draw them, one each at a time; one process hands every drawn shard
    on, `flow` seconds each, in the order they come; and judging takes them one after another, `judge` seconds each. An
    engine takes its next shard at once."""
    free, ready = [0.0] * gpus, []
    for _ in range(shards):
        at = heapq.heappop(free) + engine
        heapq.heappush(free, at)
        ready.append(at)
    handed = judged = 0.0
    for at in sorted(ready):
        handed = max(handed, at) + flow
        judged = max(judged, handed) + judge
    return judged


if __name__ == "__main__":
    main()
