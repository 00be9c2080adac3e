"""Several engines behind the same shards: the same greedy answers as from one, every shard once, GPUs of their own."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from codelutra import hardware
from codelutra.config import EngineSection
from codelutra.errors import StageError, UserError
from codelutra.sampling.engine import Engine, ShardRequest
from codelutra.sampling.replicas import Replicas, replicas
from codelutra.store.child import Event
from codelutra.store.files import lock_holder
from tests.helpers.tiny_model import write_tiny_model

SHARD = ShardRequest("dev-000", "Write SQL.", ("a", "b", "c"), ("How many?", "Who?", "x " * 200), 1, 0.0, 0.95, 12)
SHARDS = [replace(SHARD, key=f"dev-{i:03}", prompts=(f"How many of {i}?", f"Who is {i}?", "x " * 200)) for i in range(8)]


class Scripted:
    """An engine that answers with one empty completion a prompt: at once on GPUs `quick`, else when it has two shards."""

    def __init__(self, lock: Path | None, gpus: Sequence[str], quick: str = "", broken: str = "") -> None:
        self.lock, self.gpus, self.asked = lock, ",".join(gpus), list[str]()
        self._slow, self._broken, self._done = self.gpus != quick, self.gpus == broken, 0
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._waiting: list[Event] = []
        if lock:
            self._events.put({"event": "started"})

    def ask(self, shards: Sequence[ShardRequest], *, more: bool) -> None:
        assert more
        for shard in shards:
            self.asked.append(shard.key)
            self._done += len(shard.prompts)
            found = [(p, 0, "", "stop", 1, 1) for p in range(len(shard.prompts))]
            self._waiting.append({"event": "progress", "done": self._done, "tokens": self._done})
            self._waiting.append({"event": "shard", "key": shard.key, "completions": found})
        if not self._slow or len(self.asked) >= 2:
            for event in self._waiting:
                self._events.put(event)
            self._waiting.clear()

    def hear(self) -> Event:
        if self._slow and self._done:
            time.sleep(0.2)  # a shard takes it two of these; the other one takes next to nothing
        event = self._events.get()
        if self._broken and event["event"] == "shard":
            raise StageError("out of memory")
        return event

    def told(self, event: Event) -> None:
        assert event == {"event": "started"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpu_capabilities", lambda: (9.0,) * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3,GPU-1a2b,7")


@pytest.mark.usefixtures("four_gpus")
def test_each_has_gpus_of_its_own_one_holds_the_lock_and_the_faster_samples_more(tmp_path: Path) -> None:
    start: Any = partial(Scripted, quick="GPU-1a2b,7")
    told: list[tuple[int, int, int]] = []
    with Replicas(start, tmp_path / "lock", EngineSection(tensor_parallel=2, max_batch=1), 2) as running:
        found = list(running.generate(SHARDS, lambda *a: told.append(a)))
        slow, quick = (e for e in running.engines if isinstance(e, Scripted))  # type: ignore[unreachable]
    assert sorted(r.key for r in found) == [s.key for s in SHARDS]
    assert [(e.gpus, e.lock) for e in (slow, quick)] == [("2,3", tmp_path / "lock"), ("GPU-1a2b,7", None)]
    assert sorted(slow.asked + quick.asked) == [s.key for s in SHARDS]
    assert len(quick.asked) > len(slow.asked)
    assert told[-1] == (24, 24, 24)


@pytest.mark.usefixtures("four_gpus")
def test_what_one_of_them_raises_ends_all(tmp_path: Path) -> None:
    start: Any = partial(Scripted, quick="3", broken="3")
    with (
        Replicas(start, tmp_path / "lock", EngineSection(max_batch=1), 2) as running,
        pytest.raises(StageError, match="out of memory"),
    ):
        list(running.generate(SHARDS))


@pytest.mark.parametrize(
    ("gpus", "visible", "settings", "wanted"),
    [
        (0, None, {}, 1),
        (0, None, {"replicas": 3}, 3),  # on a CPU as many as are asked for
        (4, None, {}, 4),
        (4, None, {"tensor_parallel": 2}, 2),
        (3, None, {"tensor_parallel": 2}, 1),
        (4, None, {"replicas": 2}, 2),
        (1, "5", {}, 1),
        (
            2,
            "5,GPU-9",
            {"replicas": 3},
            r"engine.replicas 3 takes 3 GPUs and 2 can be used here \(CUDA_VISIBLE_DEVICES=5,GPU",
        ),
        (
            4,
            None,
            {"replicas": 2, "tensor_parallel": 4},
            "engine.replicas 2 with engine.tensor_parallel 4 takes 8 GPUs and 4",
        ),
        (1, None, {"tensor_parallel": 2}, r"engine.tensor_parallel 2 takes 2 GPUs and 1 can be used here \(nvidia-smi"),
    ],
)
def test_there_are_as_many_as_the_gpus_allow_and_more_are_refused(
    gpus: int, visible: str | None, settings: dict[str, int], wanted: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpu_capabilities", lambda: (9.0,) * gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(wanted, int):
        assert replicas(EngineSection(**settings)) == wanted
    else:
        with pytest.raises(UserError, match=wanted):
            replicas(EngineSection(**settings))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.extended
def test_a_model_spread_over_two_processes_gives_the_answers_it_gives_in_one_and_they_end_with_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's core runs in the engine's process here, its workers below it. On a CPU each wants cores of its own."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    policy, found = write_tiny_model(tmp_path / "tiny"), []
    for each in (1, 2):
        if each == 2:
            monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
        config = EngineSection(max_model_len=128, cache_gib=0.25, max_batch=8, dtype="float32", tensor_parallel=each)
        with Engine(policy, config, seed=7, log=tmp_path / "log", lock=tmp_path / "lock") as engine:
            found.append([r.completions for r in engine.generate(SHARDS[:2])])
            below = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    assert found[0] == found[1]
    assert len(below) >= 2
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_real_engines_give_the_greedy_answers_of_one_and_one_that_is_killed_is_told(tmp_path: Path) -> None:
    config = EngineSection(max_model_len=128, cache_gib=0.25, max_batch=2, replicas=2)
    policy, lock = write_tiny_model(tmp_path / "tiny"), tmp_path / "lock"
    start = partial(Engine, policy, config, seed=7, log=tmp_path / "log")
    many = tuple(f"problem {i}" for i in range(2000))
    endless = [replace(SHARD, key=f"train-{i:03}", ids=many, prompts=many, max_tokens=60, temperature=1.0) for i in (0, 1)]
    with start(lock=lock) as one:
        alone = {r.key: r.completions for r in one.generate(SHARDS)}
    with Replicas(start, lock, config, 2) as both, closing(both.generate([*SHARDS, *endless])) as stream:
        shared = {r.key: r.completions for r in (next(stream) for _ in SHARDS)}
        first, second = both.engines
        assert lock_holder(lock)
        assert first.pid != second.pid
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(StageError, match=r"killed from outside by signal 9, SIGKILL.*goes on from there"):
            list(stream)
    assert shared == alone
    for engine in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)
