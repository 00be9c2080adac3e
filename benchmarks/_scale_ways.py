"""What benchmarks/scale.py times, each in a process of its own: `python -m benchmarks._scale_ways WAY SHARDS free|held`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codelutra.store.artifacts import Artifact, Recipe, Step, Store

STORED = (100, 16)  # problems of a shard, answers to each
ANSWER = """```python
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
```"""


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


WAYS = {"prefect": _prefect, "ray": _ray, "store": _store, "servers": _servers}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] == "held")), flush=True)
    os._exit(0)  # threads that wait for an engine would keep it
