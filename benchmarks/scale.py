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
import asyncio
import contextlib
import heapq
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codelutra.store.artifacts import Artifact, Recipe, Step, Store

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0  # seconds for a server to start, on a busy machine
STORED = (100, 16)  # problems of a shard, answers to each
ANSWER = """```python
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
```"""


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
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with it
    if asked.child:
        way, shards, how = asked.child
        children = {"prefect": _prefect, "ray": _ray, "store": _store, "servers": _servers}
        print(json.dumps(children[way](int(shards), how == "held")), flush=True)
        os._exit(0)  # threads that wait for an engine would keep it
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
    load, command = os.getloadavg()[0], [sys.executable, "-m", "benchmarks.scale", "--child"]
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


def _step(stage: str, i: int) -> Step:
    return Step(Recipe(stage, 1, {"i": i}, {}), lambda out, work: {}, f"policy-1/train-{i:05}")


class _Sampling:
    """A policy whose shards are there as soon as somebody asks; with `held`, never."""

    def __init__(self, shards: int, held: bool) -> None:
        self.run = SimpleNamespace(store=Store(Path(os.environ["CODELUTRA_HOME"]) / "store", lambda event: None))
        self.steps, self.held = [_step("sample", i) for i in range(shards)], held

    def shard(self, i: int) -> Artifact:
        if self.held:
            threading.Event().wait()
        return Artifact("sample", f"{i:064x}", f"{i:064x}", "/store/sample/x", {"rows": 1600})


def _prefect(shards: int, held: bool) -> dict[str, Any]:
    """As `flows.refine.shards` hands them over. With `held` none is drawn: it ends when all are handed over."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.runtime import flow_run
    from prefect.task_runners import ThreadPoolTaskRunner

    from tasks.options import cached_as
    from tasks.stages import sample

    def judged(run: Any, samples: Artifact, problems: Artifact, expected: Artifact, label: str) -> Step:
        return _step("execute", int(samples.key, 16))

    @task(task_run_name="execute {label}", **cached_as(judged))
    def execute(run: Any, samples: Artifact, problems: Artifact, expected: Artifact, label: str) -> Artifact:
        return samples

    taken: dict[str, Any] = {}

    @flow(task_runner=ThreadPoolTaskRunner())  # type: ignore[arg-type]
    def refine() -> str:
        sampling, asked, results, began = _Sampling(shards, held), Artifact("problems", "0", "0", "/"), [], time.monotonic()
        for i in range(shards):
            if held and i % max(1, shards // 20) == 0:
                _tell(i, began)
            label = sampling.steps[i].label
            samples = sample.submit(sampling, i, label)  # type: ignore[call-overload]
            results.append(execute.submit(sampling.run, samples, asked, asked, label))  # type: ignore[call-overload]
        if held:
            _tell(shards, began)
            os._exit(0)
        for result in results:
            result.result()
        taken["seconds"] = round(time.monotonic() - began, 2)
        return str(flow_run.id)

    before, began = _resident_mb(), time.monotonic()
    one, recorded = FlowRunFilter(id=FlowRunFilterId(any_=[refine()])), 0
    with get_client(sync_client=True) as client:
        while (recorded := _completed(client, one)) < 2 * shards and time.monotonic() - began < 120:
            time.sleep(1)
    return {
        "per_second": round(shards / taken["seconds"], 2),
        **taken,
        "resident_mb_before": before,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "recorded": recorded,
        "recorded_seconds": round(time.monotonic() - began, 1),
    }


def _tell(handed_over: int, began: float) -> None:
    seconds, threads = round(time.monotonic() - began, 1), threading.active_count()
    said = {"handed_over": handed_over, "seconds": seconds, "threads": threads, "resident_mb": _resident_mb()}
    print(json.dumps(said), flush=True)


def _completed(client: Any, one: Any) -> int:
    """Task runs of the flow run that the server has on record as completed."""
    body = {"flow_runs": one.model_dump(mode="json"), "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    return int(client._client.post("/task_runs/count", json=body).json())


def _ray(shards: int, held: bool) -> dict[str, Any]:
    import ray

    for left in (2, 1, 0):
        try:
            ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, log_to_driver=False)
            break
        except Exception as e:  # Ray's own: a busy machine does not start its node within 30 s
            if not left or "timed out during startup" not in str(e):
                raise
            ray.shutdown()

    @ray.remote
    def shard(key: str, label: str) -> tuple[str, str]:
        return key, label

    ray.get([shard.remote("0", "first") for _ in range(8)])  # the workers are there
    began = time.monotonic()
    ray.get([shard.remote(f"{i:064x}", f"policy-1/train-{i:05}") for i in range(shards)])
    seconds = time.monotonic() - began
    ray.shutdown()
    return {"per_second": round(shards / seconds, 2), "seconds": round(seconds, 3), "resident_mb": _resident_mb()}


def _store(shards: int, held: bool) -> dict[str, Any]:
    """A twentieth of the shards: each is a hundred problems with sixteen answers."""
    import polars as pl

    from codelutra.pipeline.sampler import _writer
    from codelutra.sampling.engine import Completion, ShardResult
    from codelutra.sampling.shards import Shard, _frame
    from codelutra.schema import PROBLEMS

    problems, answers = STORED
    rows = [dict.fromkeys(PROBLEMS, "") | {"problem_id": f"p{i}", "language": "python"} for i in range(problems)]
    frame, count = pl.DataFrame(rows, schema=PROBLEMS), max(1, shards // 20)
    store = Store(Path(os.environ["CODELUTRA_HOME"]) / "store", lambda event: None)
    began, worked = time.monotonic(), time.process_time()
    for number in range(count):
        made = [
            Completion(p, k, f"{ANSWER}\n# {number} {p} {k}", "stop", 300, 60)
            for p in range(problems)
            for k in range(answers)
        ]
        samples = _frame(Shard(number, f"train-{number:05}", frame, False), ShardResult("", tuple(made)), 0)
        store.make(Step(Recipe("sample", 1, {"i": number}, {}), _writer(samples, 1.0, "", None), str(number)))
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    return {"per_second": round(count / worked, 2), "seconds": round(seconds, 2), "cpu_seconds": round(worked, 2)}


def _servers(shards: int, held: bool) -> dict[str, Any]:
    """Ten answers for each shard that the other ways hand over."""
    from transformers import AutoTokenizer

    from codelutra.sampling.endpoints import sample_endpoints
    from codelutra.sampling.engine import ShardRequest
    from tests.helpers.ports import free_port
    from tests.helpers.tiny_model import tiny_tokenizer

    policy, port = Path(os.environ["CODELUTRA_HOME"]) / "policy", free_port()
    tiny_tokenizer().save_pretrained(policy)
    (policy / "config.json").write_text("{}")
    server = multiprocessing.get_context("fork").Process(target=_answer, args=(port,), daemon=True)
    server.start()
    names = tuple(map(str, range(shards)))
    asked = ShardRequest("s", "Write SQL.", names, ("CREATE TABLE a (b int); " * 60,) * shards, 10, 1.0, 0.95, 200)
    AutoTokenizer.from_pretrained(policy)  # its import takes seconds, once a run
    began, worked = time.monotonic(), time.process_time()
    (found,) = sample_endpoints([f"http://127.0.0.1:{port}"], policy, [asked], max_model_len=4096, connections=64)
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    server.kill()
    count = len(found.completions)
    return {"per_second": round(count / worked, 1), "seconds": round(seconds, 2), "cpu_seconds": round(worked, 2)}


def _answer(port: int) -> None:
    """A server that has every answer ready."""
    choice = {"text": ANSWER, "finish_reason": "stop"}
    said = {"data": [{"id": "policy"}], "choices": [choice], "usage": {"completion_tokens": 60}}
    content = json.dumps(said).encode()
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(reply)
                await writer.drain()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(run())


def _resident_mb() -> int:
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


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
