"""A killed training goes on from its last whole checkpoint, and only a training of the same loss does."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from codelutra.config import GrpoSection, TrainSection
from codelutra.training.batches import Example, plan
from codelutra.training.checkpoints import CHECKPOINT_MARK, Job, last_whole_checkpoint
from codelutra.training.worker.steps import Checkpoints
from tests.helpers.training import Train, alive, child_of, encoded, parent, some_pairs, until_step, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


def test_a_checkpoint_of_another_loss_is_not_continued() -> None:
    """With the token mean a micro-batch of another size is another loss; else it is memory alone."""
    examples, keys = encoded(some_pairs(8)), dict[tuple[str, int], str]()
    for norm in ("sequence", "token"):
        for micro_batch in (1, 4):
            config = TrainSection(batch_size=4, micro_batch=micro_batch, sft_norm=norm)
            steps = plan(examples, 1, 4, micro_batch, 0)
            keys[norm, micro_batch] = Job(Path(), Path(), Path(), config, 0, examples, steps, [], None, print).key
    assert keys["sequence", 1] == keys["sequence", 4]
    assert keys["token", 1] != keys["token", 4]


def test_what_decides_the_weights_and_nothing_else_is_in_the_key() -> None:
    examples = encoded(some_pairs(8))

    def key(processes: int = 1, max_tokens: int = 9, group: GrpoSection | None = None, **settings: Any) -> str:
        config = TrainSection(**({"batch_size": 4, "micro_batch": 4, "learning_rate": 1e-4} | settings))
        steps = plan(examples, 1, 4, config.micro_batch, 0, processes)
        return Job(
            Path(), Path(), Path(), config, 0, examples, steps, [], None, print, group=group, max_tokens=max_tokens
        ).key

    for same in ({"start": "first"}, {"sft_earlier": True}, {"checkpoint_steps": 3}, {"gradient_checkpointing": True}):
        assert key(**same) == key(), same  # where the policy and the answers come from: they are in the key themselves
    for other in ({"dpo_weight": 0.5}, {"method": "lora"}, {"method": "lora", "lora_rank": 4}, {"sft_on": "right"}):
        assert key(**other) != key(), other
    assert key(processes=2) != key(), "the mean over the tokens of a micro-batch is one over other pairs"
    assert key(processes=2, sft_norm="sequence") == key(sft_norm="sequence")
    dapo, constant = GrpoSection(), GrpoSection(loss="dr_grpo")
    assert key(group=dapo, max_tokens=8) == key(group=dapo)
    assert key(group=constant, max_tokens=8) != key(group=constant)


@pytest.mark.parametrize(
    ("pairs", "batch_size", "processes"), [(17, 4, 1), (17, 4, 4), (10, 2, 4), (33, 16, 16), (250, 8, 8)]
)
def test_all_references_are_replayed_in_a_pass_however_many_batches_it_has(
    pairs: int, batch_size: int, processes: int
) -> None:
    examples = [Example(str(i), [i], ([1], [2])) for i in range(pairs)]
    replayed = [Example(f"q{i}", [i], ([1],)) for i in range(50)]
    steps, config = plan(examples, 2, batch_size, 1, 0, processes), TrainSection(batch_size=batch_size, micro_batch=1)
    job = Job(Path(), Path(), Path(), config, 0, examples, steps, replayed, None, print, processes=processes)
    met = [e.problem_id for step in range(len(steps)) for e in job.replayed_at(step)]
    assert sorted(met) == sorted(2 * [e.problem_id for e in replayed])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_training_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(
    method: str, policy: Path, run: Train, tmp_path: Path
) -> None:
    interrupted = parent(tmp_path / "k", policy, epochs=3, method=method)
    until_step(interrupted, 4)
    child = child_of(interrupted.pid)
    interrupted.send_signal(signal.SIGKILL)
    interrupted.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)  # and with it went the lock and the memory

    half = tmp_path / "k/work/checkpoint-99"  # a kill in the middle of writing one leaves something like this
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")

    again = parent(tmp_path / "k", policy, epochs=3, method=method)
    lines = [json.loads(line) for line in again.communicate()[0].splitlines()]
    summary = lines[-1]
    assert summary["resumed_from_step"] in (3, 4, 5)
    assert [m[0] for m in lines[:-1] if m[2]["doing"] == "progress"] == list(range(summary["resumed_from_step"] + 1, 10))
    run(some_pairs(12), epochs=3, method=method)  # without interruption
    ours, theirs = weights(tmp_path / "k/out"), weights(tmp_path / "a/out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert pl.read_ndjson(tmp_path / "k/out/training.jsonl")["step"].to_list() == list(range(1, 10))


class Clock:
    """Stands for `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def saves(clock: Clock, processes: int, steps: list[float], writing: float, every: int = 10**6) -> list[int]:
    """The steps after which a training saves: one that takes so many seconds a step, and so many to write a checkpoint."""
    config = TrainSection(batch_size=1, micro_batch=1, checkpoint_steps=every)
    job = Job(Path(), Path(), Path(), config, 0, [], [[[0]]] * len(steps), [], None, print, rank=1, processes=processes)
    model, callback, found = torch.nn.Linear(1, 1), Checkpoints(job), []
    for step, seconds in enumerate(steps, 1):
        clock.now += seconds
        state = SimpleNamespace(global_step=step)
        control = SimpleNamespace(should_save=step % every == 0)
        callback.on_step_end(None, state, control)
        if control.should_save:
            clock.now += writing
            callback.on_save(None, state, control, model)
            found.append(step)
    return found


def test_slow_steps_are_saved_by_the_clock_and_by_few_of_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("codelutra.training.worker.steps.time", clock)
    assert saves(clock, 1, [1.0] * 100, writing=1.0) == [], "fast ones are not"
    assert saves(clock, 1, [20.0] * 40, writing=1.0) == [10, 20, 30], "a kill loses three minutes and a step"
    assert saves(clock, 1, [20.0] * 40, writing=1.0, every=8) == [8, 16, 24, 32], "and by their number as before"
    assert saves(clock, 1, [200.0] * 4, writing=1.0) == [1, 2, 3], "the last is the policy itself"
    slow = saves(clock, 1, [20.0] * 400, writing=60.0)
    assert 60.0 * len(slow) <= 20.0 * 400 / 20 + 60.0, "a twentieth of the time at most"
    assert saves(clock, 4, [200.0] * 4, writing=1.0) == [], "several processes have several clocks"


def test_a_training_that_saves_by_the_clock_makes_the_same_weights(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(some_pairs(12), into="b", epochs=2, checkpoint_steps=10**6)
    written: list[int] = []
    monkeypatch.setattr("codelutra.training.worker.steps.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("codelutra.training.worker.steps._SHARE", 0)
    monkeypatch.setattr("codelutra.training.worker.steps.mark_checkpoint", lambda job, step: written.append(step))
    run(some_pairs(12), epochs=2, checkpoint_steps=10**6)
    assert written == list(range(1, 6))
    ours, theirs = weights(tmp_path / "a/out"), weights(tmp_path / "b/out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("mark", ["", "{", "3", "[]", '{"key": "k"}', '{"key": "k", "files": 3}', "\0"])
def test_a_checkpoint_with_a_damaged_mark_is_not_continued_and_does_not_hide_an_earlier_one(
    mark: str, tmp_path: Path
) -> None:
    for step, text in ((3, '{"step": 3, "key": "k", "files": {}}'), (6, mark)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / CHECKPOINT_MARK).write_text(text)
    assert last_whole_checkpoint(tmp_path, "k") == tmp_path / "checkpoint-3"
