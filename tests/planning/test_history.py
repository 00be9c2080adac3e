"""What earlier work tells, and how fast that says a run will go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import RunConfig, parse_config
from codelutra.planning.calibration import Calibration
from codelutra.planning.fit import needs
from codelutra.planning.history import History, Sampled, Trained, fit, read_history
from codelutra.planning.machine import GIB
from codelutra.planning.plan import _stages
from codelutra.planning.speeds import EARLIER, GUESSED, MEASURED, speeds
from codelutra.planning.work import Work, work_of
from tests.planning.test_memory import CPU, SMOL, WORK


def made(
    store: Path, stage: str, key: str, inputs: dict[str, str], config: dict[str, Any], facts: dict[str, Any], at: int = 0
) -> None:
    folder = store / stage / key
    folder.mkdir(parents=True)
    when = f"2026-01-01T00:{at // 60:02}:{at % 60:02}Z"
    told = {"digest": f"{stage}-{key}", "inputs": inputs, "config": config, "facts": facts, "made_at": when}
    (folder / "manifest.json").write_text(json.dumps(told))


def shard(store: Path, key: str, policy: str, *, at: int, rows: int, tokens: int, seconds: float, **more: Any) -> None:
    facts = {"rows": rows, "tokens": tokens, "seconds": seconds}
    made(store, "sample", key, {"policy": policy}, {"dtype": "bfloat16", **more}, facts, at)
    outcomes = {"rows": rows, "busy_seconds": rows / 100}
    made(store, "execute", key, {"samples": f"sample-{key}"}, {"suite_version": "suite-1"}, outcomes)


TRAINING = {
    "tokens": 6000,
    "tokens_per_second": 500.0,
    "seconds": 30.0,
    "reference_seconds": 4.0,
    "steps": 9,
    "planned_steps": 9,
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model, its warm start, one training; seconds are 10 to start, .1 a prompt, .01 a token."""
    full = {"objective": "preference", "method": "full", "epochs": 1.0}
    shard(tmp_path, "a", "model", at=55, rows=50, tokens=4000, seconds=10 + 5 + 40, greedy=True)
    made(tmp_path, "warm-start", "w", {"policy": "model"}, {"epochs": 2.0}, TRAINING | {"reference_seconds": 0.0})
    shard(tmp_path, "b", "warm-start-w", at=200, rows=50, tokens=1000, seconds=150, greedy=True)  # beside the next
    shard(tmp_path, "c", "warm-start-w", at=245, rows=800, tokens=16_000, seconds=45, greedy=False, k=8)
    shard(tmp_path, "d", "warm-start-w", at=400, rows=50, tokens=1200, seconds=10 + 5 + 12, greedy=True)
    pairs = {"suite": "suite-1", "per_problem": 4}
    made(tmp_path, "pairs", "p", {}, pairs, {"pairs": 200, "problems": 100})
    made(tmp_path, "train", "t", {"policy": "warm-start-w"}, full, TRAINING | {"peak_memory_gib": 4.5})
    shard(tmp_path, "e", "train-t", at=500, rows=50, tokens=1000, seconds=10 + 5 + 10, greedy=True)
    shard(tmp_path, "x", "another model", at=600, rows=50, tokens=1000, seconds=999, greedy=True)
    made(tmp_path, "train", "u", {"policy": "another model"}, full, TRAINING | {"tokens_per_second": 1.0})
    made(tmp_path, "train", "l", {"policy": "model"}, full | {"method": "lora"}, TRAINING | {"tokens_per_second": 2.0})
    return tmp_path


def test_speeds_are_those_of_the_same_model_and_of_what_was_made_of_it(store: Path) -> None:
    found = read_history(store, "model", "suite-1", "bfloat16", "preference", "full")
    assert found.sampled
    assert (found.sampled.start, found.sampled.prompt, found.sampled.token) == pytest.approx((10, 0.1, 0.01))
    assert found.train == Trained(pytest.approx(30 - 4 - 12), 500.0, 1500.0, 4.5 * GIB)
    assert found.warm_start
    assert (found.warm_start.start, found.warm_start.reference_rate) == (18.0, 0.0)
    assert (found.answer, found.base_answer, found.paired, found.programs) == (20.0, 80.0, 0.5, 100.0)
    thinking = read_history(store, "model", "suite-1", "bfloat16", "preference", "full", 64)
    assert (thinking.answer, thinking.sampled) == (None, found.sampled), "lengths are of answers that thought as much"
    other_suite = read_history(store, "model", "suite-2", "bfloat16", "preference", "full")
    assert (other_suite.answer, other_suite.paired) == (None, None), "lengths are the suite's"
    assert other_suite.sampled == found.sampled, "speeds are the model's"
    assert read_history(store, "model", "suite-1", "float32", "preference", "full").sampled is None
    assert read_history(store, "unknown", "suite-1", "bfloat16", "preference", "full").train is None
    assert read_history(store / "nowhere", "model", "", "", "", "") == History()


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"inputs": 1}', '{"digest": "d", "inputs": {}, "config": {}, "facts": [], "made_at": ""}']
)
def test_a_damaged_manifest_is_left_out(store: Path, damage: str) -> None:
    before = read_history(store, "model", "suite-1", "bfloat16", "preference", "full")
    for stage in ("sample", "train", "warm-start", "pairs", "execute"):
        (store / stage / "zz").mkdir()
        (store / stage / "zz" / "manifest.json").write_text(damage)
    assert read_history(store, "model", "suite-1", "bfloat16", "preference", "full") == before


def test_seconds_of_a_start_a_prompt_and_a_token_are_never_negative() -> None:
    assert fit([(10, 100, 1 + 2 + 1), (10, 900, 1 + 2 + 9), (50, 100, 1 + 10 + 1)]) == pytest.approx((1, 0.2, 0.01))
    assert fit([(10, 100, 4.0), (10, 900, 12.0)]) == pytest.approx((3, 0, 0.01)), "two sessions tell two things"
    assert fit([(10, 100, 4.0)]) == pytest.approx((0, 0, 0.04))
    assert fit([]) == (0, 0, 0)
    assert min(fit([(40, 3326, 59.0), (100, 13_223, 77.0), (40, 677, 68.0), (20, 347, 53.0)])) >= 0


def config(**changes: Any) -> RunConfig:
    return parse_config(
        {"name": "r", "suite": {"name": "starter-sql"}, "warm_start": {"epochs": 2}, "iterations": 2, **changes}
    )


def planned(asked: RunConfig, history: History, calibration: Calibration | None, work: Work = WORK) -> dict[str, Any]:
    pace = speeds(asked, SMOL, CPU, work, history, calibration)
    return {s.name: s for s in _stages(asked, SMOL, work, pace, tuple(need for need, _ in needs(asked, SMOL, work, CPU)))}


EARLIER_WORK = History(Sampled(10, 0.1, 0.01), Trained(5, 500, 0), Trained(5, 500, 1500), 20.0, 80.0, 0.7, 1e9)


def test_minutes_are_work_by_speeds() -> None:
    stages = planned(config(sample={"samples_per_problem": 8}), EARLIER_WORK, None)
    assert stages["base, on dev"].seconds == pytest.approx(10 + 178 * (0.1 + 80 * 0.01))
    assert stages["warm start"].seconds == pytest.approx(5 + 2 * 400 * (83 + 22) / 500)
    one = 10 + (178 + 400) * 0.1 + (178 + 400 * 8) * 22 * 0.01
    assert stages["sampling, 2 times"].seconds == pytest.approx(2 * one)
    tokens = 560 * 2 * (83 + 22)
    assert stages["training, 2 times"].seconds == pytest.approx(2 * (5 + tokens / 500 + tokens / 1500))
    assert stages["last policy, on dev"].seconds == pytest.approx(10 + 178 * (0.1 + 22 * 0.01))
    assert stages["test"].tokens == 150 * 22
    assert {s.basis for s in stages.values()} == {EARLIER}


def test_earlier_work_goes_before_a_calibration_and_that_before_a_guess() -> None:
    calibration = Calibration(Sampled(1, 1, 1), 90.0, Trained(1, 1, 0), Trained(1, 1, 1))
    none = History()
    assert planned(config(), EARLIER_WORK, calibration)["test"].basis == EARLIER
    assert planned(config(), none, calibration)["test"].basis == MEASURED
    assert planned(config(), none, calibration)["base, on dev"].tokens == 178 * 90
    assert planned(config(), none, None)["test"].basis == GUESSED


def test_the_guess_is_of_the_order_of_what_the_demo_took() -> None:
    """docs/results/demo.json: 25.5 minutes on two cores that multiply bfloat16."""
    guessed = planned(config(sample={"samples_per_problem": 8, "max_tokens": 96}), History(), None)
    assert 10 < sum(s.seconds for s in guessed.values()) / 60 < 60


def test_no_stage_is_counted_that_the_run_has_not() -> None:
    names = set(planned(config(warm_start=None, iterations=0), EARLIER_WORK, None))
    assert names == {"references", "last policy, on dev", "test"}
    imitation = planned(config(train={"objective": "sft"}, warm_start=None), EARLIER_WORK, None)
    assert imitation["sampling, 2 times"].tokens == 2 * 178 * 22, "train problems are not sampled"
    assert imitation["training, 2 times"].tokens == 2 * 400 * (83 + 22)


def test_work_is_counted_from_the_suite(tmp_path: Path) -> None:
    asked = config(
        suite={"name": "starter-sql", "train": 60, "dev": 40, "test": 20, "references": 30}, pairs={"per_problem": 2}
    )
    work = work_of(asked, None, History(answer=33.0, paired=0.5))
    assert (work.train, work.dev, work.test, work.shown) == (60, 40, 20, 30)
    assert (work.answer, work.pairs) == (33.0, 0.5 * 2 * 60)
    assert 0 < work.shared < work.prompt < work.longest
    assert work_of(config(select={"test": False}), None, History()).test == 0
    own = work_of(asked, None, History())
    plain = work_of(config(), None, History())
    thinking = work_of(config(prompt={"thinking": True, "thinking_tokens": 64}), None, History())
    assert (thinking.answer, thinking.max_tokens) == (plain.answer + 64, plain.max_tokens + 64)
    assert thinking.basis["answer"] == "references, thoughts as long as they may be"
    assert own.basis == {"lengths": "characters / 3.3", "answer": "references", "pairs": "assumed: 0.8 of pairs.per_problem"}
