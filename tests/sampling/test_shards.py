"""Plans of shards, SAMPLES frames from a real engine, and sampling through real HTTP servers that misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import EngineSection, SampleSection
from codelutra.errors import StageError, UserError
from codelutra.sampling import following
from codelutra.sampling.endpoints import sample_endpoints
from codelutra.sampling.engine import ShardRequest, ShardResult
from codelutra.sampling.following import serves
from codelutra.sampling.shards import plan_more, plan_shards, sample_shards
from codelutra.schema import PROBLEMS, SAMPLES
from tests.helpers.http import Asked, Raw, answering
from tests.helpers.ports import free_port
from tests.helpers.tiny_model import write_tiny_model

ENGINE = EngineSection(max_model_len=128, cache_gib=0.25, max_batch=16)
SAMPLE = SampleSection(samples_per_problem=3, max_tokens=10, shard_problems=2)


def problems(**splits: int) -> pl.DataFrame:
    rows = [
        {
            "problem_id": f"{split}-{i}",
            "split": split,
            "prompt": "x " * 300 if (split, i) == ("train", 1) else f"How many {i}?",
            "reference": "SELECT 1",
            "language": "sql",
            "group": "ab"[i % 2],
            "difficulty": "",
            "judge": "",
        }
        for split, n in splits.items()
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema=PROBLEMS)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "the-policy")


def test_train_is_sampled_and_what_scores_is_greedy() -> None:
    plan = plan_shards(problems(train=5, dev=3, test=2), SAMPLE)
    assert [(s.index, s.name, s.problems["problem_id"].to_list(), s.greedy) for s in plan] == [
        (0, "dev-000", ["dev-0", "dev-2"], True),
        (1, "dev-001", ["dev-1"], True),
        (2, "train-000", ["train-0", "train-2"], False),
        (3, "train-001", ["train-4", "train-1"], False),
        (4, "train-002", ["train-3"], False),
    ]
    assert [s.name for s in plan_shards(problems(train=5, test=2), SAMPLE, ["test"])] == ["test-000"]


def test_more_answers_are_hotter_and_numbered_after_the_first() -> None:
    plan = plan_more(problems(train=3, dev=2), SAMPLE.model_copy(update={"more": 4}))
    assert [(s.name, s.problems.height, s.greedy) for s in plan] == [("more-000", 2, False), ("more-001", 1, False)]
    assert {(s.samples, s.temperature, s.first) for s in plan} == {(4, 1.2, 3)}


def test_a_plan_depends_on_which_problems_there_are_and_not_on_their_order() -> None:
    frame = problems(train=20, dev=9)
    plans = [plan_shards(f, SAMPLE) for f in (frame, frame.sample(fraction=1, shuffle=True, seed=3))]
    assert [s.problems.rows() for s in plans[0]] == [s.problems.rows() for s in plans[1]]


def test_nothing_is_started_for_nothing(tmp_path: Path) -> None:
    nothing = sample_shards(
        tmp_path, "", [], sample=SAMPLE, engine=ENGINE, seed=0, log=tmp_path / "log", lock=tmp_path / "lock"
    )
    assert list(nothing) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_samples_of_a_real_engine_fill_the_schema(policy: Path, tmp_path: Path) -> None:
    plan = plan_shards(problems(train=3, dev=2), SAMPLE)
    stream = sample_shards(
        policy, "Write SQL.", plan, sample=SAMPLE, engine=ENGINE, seed=0, log=tmp_path / "log", lock=tmp_path / "lock"
    )
    frames = {shard.name: frame for shard, frame in stream}
    assert set(frames) == {"dev-000", "train-000", "train-001"}
    assert all(frame.schema == SAMPLES for frame in frames.values())
    train = pl.concat([frames["train-000"], frames["train-001"]])
    assert train.select("problem_id", "sample").rows() == [(f"train-{i}", k) for i in (0, 2, 1) for k in range(3)]
    assert frames["dev-000"].select("problem_id", "sample", "greedy").rows() == [("dev-0", 0, True), ("dev-1", 0, True)]
    dropped = train.filter(pl.col("problem_id") == "train-1")
    assert dropped.select("finish_reason", "completion", "code").unique().rows() == [("dropped", "", "")]
    rest = train.filter(pl.col("problem_id") != "train-1")
    assert set(rest["finish_reason"]) <= {"stop", "length"}
    assert rest["completion_tokens"].is_between(1, 10).all()
    assert (rest["code"] == rest["completion"].str.strip_chars()).all()


@contextmanager
def serving(
    fault: Callable[[int], Any] = lambda n: None, delay: float = 0.0, model: dict[str, str] | None = None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible server that answers `/v1/completions` with the end of the prompt's token ids as text, and what it
    was asked. `fault(n)` is asked before the n-th completion: a status to answer with instead, "abort", or None."""
    served: list[dict[str, Any]] = []

    def answer(asked: Asked) -> Raw:
        if asked.method == "GET":
            return Raw(200, {"data": [model or {"id": "the-policy"}]})
        served.append(asked.body)
        said = fault(len(served))
        time.sleep(delay)
        if isinstance(said, int):
            return Raw(said, {"error": {"message": f"fault {said}"}})
        choice = {"text": " ".join(map(str, asked.body["prompt"][-3:])), "finish_reason": said or "stop", "index": 0}
        return Raw(200, {"choices": [choice], "usage": {"completion_tokens": 3}})

    with answering(answer) as url:
        yield url, served


def closed_port() -> str:
    return f"http://127.0.0.1:{free_port()}"


def ask(policy: Path, urls: list[str], *, patience: float = 1.0, progress: Any = None) -> Iterator[ShardResult]:
    """Two shards of 24 completions each."""
    names = tuple(f"p{i}" for i in range(12))
    shards = [ShardRequest(f"s{n}", "Write SQL.", names, names, 2, 0.7, 0.9, 10) for n in range(2)]
    return sample_endpoints(
        urls, policy, shards, max_model_len=128, connections=4, patience_seconds=patience, progress=progress
    )


def test_servers_get_the_prompts_token_ids_and_give_the_same_frames(policy: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from codelutra.prompts import prompt_ids

    plan = plan_shards(problems(train=3, dev=2), SAMPLE)
    with serving() as (one, served_one), serving() as (two, served_two):
        config = SAMPLE.model_copy(update={"endpoints": (one, two)})
        stream = sample_shards(
            policy, "Write SQL.", plan, sample=config, engine=ENGINE, seed=0, log=tmp_path / "log", lock=tmp_path / "lock"
        )
        frames = {shard.name: frame for shard, frame in stream}
    assert set(frames) == {"dev-000", "train-000", "train-001"}
    tokenizer = AutoTokenizer.from_pretrained(policy)
    ids = {i: prompt_ids(tokenizer, "Write SQL.", f"How many {i}?") for i in (0, 2)}
    assert frames["train-000"].rows() == [
        (f"train-{i}", k, False, text := " ".join(map(str, ids[i][-3:])), text, "stop", len(ids[i]), 3)
        for i in (0, 2)
        for k in range(3)
    ]
    assert frames["train-001"]["finish_reason"].to_list() == ["dropped"] * 3
    served = served_one + served_two
    assert len(served) == 2 + 2 * 3
    assert sorted(body["prompt"] for body in served if body["temperature"]) == sorted(
        ids[i] for i in (0, 2) for _ in range(3)
    )
    assert {tuple(body["stop_token_ids"]) for body in served} == {(tokenizer.eos_token_id,)}
    assert {(body["model"], body["max_tokens"], body["top_k"], body["repetition_penalty"]) for body in served} == {
        ("the-policy", 10, -1, 1.0)
    }
    assert list(tmp_path.iterdir()) == []  # no engine, no lock


def test_transient_faults_and_aborted_answers_are_asked_again(policy: Path) -> None:
    told: list[tuple[int, int, int]] = []
    with serving(lambda n: {1: 503, 3: 429, 5: "abort", 9: 500}.get(n)) as (url, served):
        results = list(ask(policy, [url], patience=30, progress=lambda *a: told.append(a)))
    assert [len(r.completions) for r in results] == [24, 24]
    assert {c.finish_reason for r in results for c in r.completions} == {"stop"}
    assert len(served) == 48 + 4
    assert told[-1] == (48, 48, 48 * 3)


def test_a_dead_server_leaves_its_work_to_the_others(policy: Path) -> None:
    with serving(delay=0.02) as (good, served), serving(lambda n: 503 if n > 5 else None) as (failing, _):
        results = list(ask(policy, [closed_port(), failing, good]))
    assert [len(r.completions) for r in results] == [24, 24]
    assert len(served) >= 48 - 5


def test_a_server_that_says_nothing_any_more_holds_nobody_up(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the end of each shard, when servers are asked whether they still have the policy."""
    monkeypatch.setattr(following, "_LOOK_SECONDS", 3.0)
    names, end, looks = ("a", "b"), threading.Event(), list[float]()
    shards = [ShardRequest(f"s{n}", "Write SQL.", names, names, 2, 0.7, 0.9, 10) for n in range(16)]

    def answer(asked: Asked) -> Raw:
        if (looks and asked.method == "GET") or asked.method == "POST":
            looks.append(asked.at)
            end.wait(60)
        return Raw(200, {"data": [{"id": "the-policy"}]})

    with serving(delay=0.02) as (good, _), answering(answer) as silent:
        given: Any = {"max_model_len": 128, "connections": 2, "patience_seconds": 30, "timeout_seconds": 10.0}
        results = list(sample_endpoints([silent, good], policy, shards, **given))
        end.set()
    assert {len(r.completions) for r in results} == {4}
    assert len(looks) < 10, "it was asked at the end of every shard"


def test_no_server_left_names_each_with_its_fault_after_the_finished_shards(policy: Path) -> None:
    nobody = closed_port()
    with serving(lambda n: 503 if n > 30 else None) as (url, _):
        stream = ask(policy, [nobody, url])
        assert next(stream).key == "s0"
        with pytest.raises(StageError) as caught:
            next(stream)
    assert f"{nobody}: ConnectError" in str(caught.value)
    assert f"{url}: 503" in str(caught.value)
    assert "empty sample.endpoints" in str(caught.value)


def test_a_server_of_another_model_is_refused_before_it_is_asked_anything(policy: Path) -> None:
    """Else its samples would be stored as this policy's, for this run and every later one."""
    before = {"id": "the-policy", "root": "/models/the-policy-before"}
    told = r"serves /models/the-policy-before, and it is .*the-policy that is to be sampled"
    with serving(model=before) as (url, served), pytest.raises(UserError, match=told):
        list(ask(policy, [url]))
    assert served == []


def test_a_server_serves_a_policy_by_its_folder_or_by_the_hub_model_of_the_snapshot() -> None:
    snapshot = Path("/hub/models--org--coder/snapshots/0123abc")
    assert serves("/elsewhere/store/train/35e8", Path("/here/store/train/35e8"))
    assert serves("org/coder", snapshot)
    assert not serves("org/other", snapshot)
    assert not serves("/elsewhere/store/train/35e9", Path("/here/store/train/35e8"))


def test_a_refused_request_is_an_error_at_once_and_not_retried(policy: Path) -> None:
    with (
        serving(lambda n: 400) as (url, served),
        pytest.raises(StageError, match=r"refused /completions with 400.*fault 400"),
    ):
        list(ask(policy, [url], patience=60))
    assert len(served) <= 4
