"""The loop itself: real vLLM, Docker, TRL and Prefect on a tiny model. It ends, it can be killed, it shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import docker
import polars as pl
import pytest

from codelutra.config import load_config
from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.pipeline.sampler import measure_plan
from codelutra.reporting.report import render
from codelutra.results.findings import read_findings
from codelutra.results.load import read_summary
from codelutra.schema import GROUPS, OUTCOMES, PAIRS, PROBLEMS, SAMPLES
from codelutra.store.artifacts import Step, write_frame
from tests.helpers.loop import Command, Event, processes_of, small_config
from tests.helpers.tiny_model import write_tiny_model

pytestmark = [pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def made(event: str, stage: str, n: int = 1, label: str = "") -> Any:
    """At least `n` events of that kind, since this start."""
    return lambda new, state: (
        sum(e["event"] == event and e["stage"] == stage and label in e["label"] for e in new if "stage" in e) >= n
    )


def training(new: list[Event], state: Event) -> bool:
    started = any(e["event"] == "start" and e["stage"] == "train" for e in new)
    return started and state["checkpoints"] >= 1


MOMENTS = {
    "set-up": made("start", "references"),
    "warm start": lambda new, state: state.get("stage") == "warm start" and 2 <= state["done"] < state["total"],
    "sampling": made("made", "sample", label="policy-0/train"),
    "execution": made("start", "execute", label="policy-0/train"),
    "pairing": made("start", "pairs"),
    "between stages": made("made", "pairs"),
    "training": training,
}


HOW = {"sampling": "ask", "training": "command"}  # all else: the whole process group at once


def test_killed_at_seven_moments_the_same_command_finishes_and_repeats_nothing(
    tiny: Path, home: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    config = small_config(tmp_path / "killed.yaml", tiny)
    for moment, reached in MOMENTS.items():
        command = Command(config, home, **prefect)
        print(f"killed in {moment}, at {command.kill_when(reached, HOW.get(moment, 'all'))}")
    command = Command(config, home, **prefect)
    code, out, err = command.finish()
    assert code == 0, err
    summary = json.loads(out)
    assert summary["state"] == "finished"
    assert [r["name"] for r in summary["policies"]] == ["base", "policy 0", "policy 1", "policy 2"]

    events = command.events()
    twice = {k: n for k, n in Counter(e["key"] for e in events if e["event"] == "made").items() if n > 1}
    assert twice == {}
    resumed = [e for e in events if e["event"] == "resumed"]
    assert {e["stage"] for e in resumed} == {"warm-start", "train"}
    assert all(e["step"] >= 1 for e in resumed)
    assert processes_of(home) == []
    left = docker.from_env().containers.list(all=True, filters={"label": "codelutra.run=killed"})
    assert left == []


def test_every_artifact_of_the_run_is_what_the_schema_says(home: Path) -> None:
    run = home / "runs" / "killed"
    for file, schema in (
        ("problems.parquet", PROBLEMS),
        ("policy-0/pairs.parquet", PAIRS),
        ("policy-0/dev-samples-000/samples.parquet", SAMPLES),
        ("policy-0/dev-outcomes-000/outcomes.parquet", OUTCOMES),
    ):
        assert pl.read_parquet_schema(run / file) == schema, file


def test_only_train_problems_reach_the_pairs(home: Path) -> None:
    run = home / "runs" / "killed"
    train = pl.read_parquet(run / "problems.parquet").filter(pl.col("split") == "train")["problem_id"]
    paired = pl.concat([pl.read_parquet(p) for p in run.glob("policy-*/pairs.parquet")])["problem_id"]
    assert len(paired) > 0
    assert set(paired) <= set(train)


def cpu_of_children() -> float:
    """CPU seconds of the processes that ended below this one: the machine may be busy, so the clock says little."""
    spent = os.times()
    return spent.children_user + spent.children_system


def test_the_same_command_again_reuses_everything_and_says_so(tiny: Path, home: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path / "killed.yaml", tiny)
    summary = home / "runs" / "killed" / "summary.json"
    spent = json.loads(summary.read_text())["minutes"]
    began, computed = time.monotonic(), cpu_of_children()
    command = Command(config, home)
    before = len(command.events())
    code, _, err = command.finish()
    took, computed = time.monotonic() - began, cpu_of_children() - computed
    assert code == 0, err
    assert {e["event"] for e in command.events()[before:]} <= {"reused", "measured"}
    assert "reused" in err
    assert computed < 90  # some 12 s, thirty on a busy machine, of which nothing is an engine's or a training's
    assert spent < json.loads(summary.read_text())["minutes"] < spent + took / 60, (
        "a run's minutes are those of all its starts"
    )
    log = (command.run / "log.txt").read_text()
    assert log.count("Cached(type=COMPLETED)") > 20


def test_runs_that_differ_in_lambda_share_all_that_does_not_read_it(
    tiny: Path, home: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    config = small_config(
        tmp_path / "plain-dpo.yaml",
        tiny,
        iterations=1,
        train={"batch_size": 2, "micro_batch": 2, "checkpoint_steps": 1, "max_length": 512, "sft_weight": 0.0},
    )
    command = Command(config, home, **prefect)
    code, _, err = command.finish()
    assert code == 0, err
    events = command.events()
    fresh = {(e["stage"], e["label"].split("/")[0]) for e in events if e["event"] == "made"}
    shared = {(e["stage"], e["label"].split("/")[0]) for e in events if e["event"] == "reused"}
    assert {("warm-start", ""), ("sample", "policy-0"), ("execute", "policy-0"), ("pairs", "")} <= shared
    assert ("train", "policy 1") in fresh
    assert not {("warm-start", ""), ("sample", "policy-0"), ("execute", "policy-0"), ("pairs", "")} & fresh


def played(run: Run) -> None:
    """Put samples of policy 0 into the store as its engine would: to every problem two equal wrong answers, one right."""
    asked = run.make(stages.problems(run))
    expected = run.make(stages.references(run, asked))
    with measure_plan(run, stages.base_policy(run), asked, expected, "dev", train=True) as sampling:
        for shard, step in zip(sampling.shards, sampling.steps, strict=True):
            said = shard.problems.select("problem_id", right="reference", wrong=pl.lit("SELECT 'no'"))
            order = ["wrong"] if shard.greedy else ["wrong", "right", "wrong"]
            rows = pl.concat(
                said.select("problem_id", sample=pl.lit(n), completion=side, code=side) for n, side in enumerate(order)
            )
            counts = {"greedy": shard.greedy, "finish_reason": pl.lit("stop"), "prompt_tokens": 9, "completion_tokens": 5}
            answers = rows.with_columns(**counts).cast(dict(SAMPLES)).select(list(SAMPLES))

            def draw(out: Path, work: Path, frame: pl.DataFrame = answers) -> dict[str, Any]:
                write_frame(frame, out / "samples.parquet")
                return {"rows": frame.height, "seconds": 1.0, "tokens": 5 * frame.height}

            run.make(Step(step.recipe, draw, step.label))


def test_grpo_learns_from_the_iteration_s_own_samples_at_no_further_ones(
    tiny: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    config = small_config(
        tmp_path / "groups.yaml",
        tiny,
        warm_start=None,
        iterations=1,
        suite={"name": "starter-sql", "train": 6, "dev": 4, "test": 0},
        sample={"samples_per_problem": 3, "max_tokens": 16, "shard_problems": 8},
        train={"objective": "grpo", "batch_size": 4, "micro_batch": 4, "checkpoint_steps": 1, "max_length": 512},
    )
    with Run(tmp_path, load_config(config)) as run:
        played(run)
    command = Command(config, tmp_path, **prefect)
    code, _, err = command.finish()
    assert code == 0, err
    drawn = {
        e["label"] for e in command.events() if e["event"] == "made" and e["stage"] == "sample" and e["pid"] != os.getpid()
    }
    assert {label.split("/")[0] for label in drawn} == {"policy-1"}, "what the policy had drawn is what it learned from"
    groups = pl.read_parquet(command.run / "policy-0/groups.parquet")
    assert groups.schema == GROUPS
    assert groups.height == 12
    assert set(groups.select("status", "count").rows()) == {("correct", 1), ("wrong", 2)}
    summary = read_summary(tmp_path / "runs", "groups")
    before, after = summary.policies
    assert before.funnel is not None
    assert (before.funnel.groups, before.funnel.answers) == (6, 12)
    assert (after.trained_answers, after.pairs) == (12, None)
    assert after.training is not None
    told = after.training.facts
    assert (told["examples"], told["steps"]) == (12, 3)
    assert told["reference_gap"] < 1e-3
    assert "12 distinct answers in 6 groups" in render(read_findings(command.run), [])
    assert "12 answers in 6 groups" in err


def test_without_a_pair_the_right_answers_there_are_teach_and_a_restart_on_the_same_data_is_found(
    tiny: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    """The tiny model is never right and may not choose references: its SFT term has the references alone."""
    train = {"batch_size": 8, "micro_batch": 4, "checkpoint_steps": 1, "max_length": 512}
    config = small_config(
        tmp_path / "restarting.yaml",
        tiny,
        warm_start=None,
        suite={"name": "starter-sql", "train": 12, "dev": 6, "test": 4},
        select={"patience": 5, "samples": 3, "verifier": f"path:{tiny}", "held_out": 2},
        pairs={"references": False},
        sample={"samples_per_problem": 3, "more": 2, "max_tokens": 16, "shard_problems": 8},
        train=train | {"sft_on": "right+references", "start": "first"},
    )
    command = Command(config, tmp_path, **prefect)
    code, out, err = command.finish()
    assert code == 0, err
    first, second = json.loads(out)["policies"][:2]
    assert (first["funnel"]["pairs"], first["funnel"]["answers_from_references"], first["funnel"]["why"]) == (0, 12, "")
    assert (second["training"]["examples"], second["training"]["replayed"]) == (0, 12)
    assert (first["train"]["samples"], first["funnel"]["samples"]) == (12 * 3, 12 * 5), "sample.more: all 12 are all wrong"
    made = {e["label"]: e["key"] for e in command.events() if e["event"] == "made" and e["stage"] == "sample"}
    assert {"policy-0/more-000", "policy-0/more-001"} <= made.keys()
    assert any("no pairs from policy 0" in e.get("text", "") for e in command.events())
    assert (command.run / "policy-0/answers.parquet").is_file()
    trained = [e for e in command.events() if e.get("stage") == "train" and e["event"] in ("made", "reused")]
    assert len({e["key"] for e in trained}) == 1, "policy 2 is made of policy 0 too, of the same answers"
    test = json.loads(out)["test"]
    assert (test["n"], test["samples"], test["mean"]["n"], test["vote"]["n"]) == (4, 12, 4, 4), "select.samples"
    assert test["ranked"]["n"] == 4, "select.verifier"
    assert [p["held_out"]["pairs"] for p in json.loads(out)["policies"]] == [0] * len(json.loads(out)["policies"])
    assert (command.run / "test-votes/scores.parquet").is_file()


WITHOUT_PREFECT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prefect":
            raise ImportError("prefect is not installed")
sys.meta_path.insert(0, Refuse())
from codelutra.pipeline import stages
from codelutra.config import load_config
from codelutra.pipeline.run import Policy, open_run
from codelutra.pipeline.sampler import measure_plan
with open_run(sys.argv[2], load_config(sys.argv[1])) as run:
    asked = run.make(stages.problems(run))
    expected = run.make(stages.references(run, asked))
    base = stages.base_policy(run)
    policy = Policy.of("policy-0", run.make(stages.warm_start(run, base, asked, expected)))
    with measure_plan(run, policy, asked, expected, "dev", train=True) as sampling:
        dev, train = ([run.make(stages.execute(run, sampling.shard(i), asked, expected, label))
                       for i, label in sampling.labels(greedy=greedy)] for greedy in (True, False))
        dev, train = list(dev), list(train)
    scores = run.make(stages.score(run, dev, asked, expected, "dev"))
    pairs = run.make(stages.pairs(run, train, asked, expected))
    trained = run.make(stages.train(run, policy, pairs, asked, expected))
    print(scores.facts["split"], pairs.facts["pairs"], trained.path)
"""


def test_every_stage_works_with_prefect_uninstalled(tiny: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path / "bare.yaml", tiny, suite={"name": "starter-sql", "train": 6, "dev": 4, "test": 0})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PREFECT, str(config), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    split, pairs, trained = done.stdout.split()[-3:]
    assert split == "dev"
    assert int(pairs) > 0
    assert (Path(trained) / "config.json").exists()
