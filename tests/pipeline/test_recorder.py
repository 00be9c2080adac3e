"""What a run's record says beyond its scores: whether answers end, how long they are, what went wrong; in any order."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.tables import show_run
from codelutra.pipeline import stages
from codelutra.pipeline.recorder import Recorder, answers_shape
from codelutra.pipeline.remade import Remade
from codelutra.pipeline.run import Policy, Run
from codelutra.reporting.report import render
from codelutra.results.findings import read_findings
from codelutra.results.load import load_summary, read_summary
from codelutra.results.summary import Answers
from codelutra.schema import SAMPLES
from codelutra.store.run_dir import RunDir
from tests.helpers.example_run import Played, example_config, example_run


def samples(*answers: tuple[str, int]) -> pl.DataFrame:
    row = {"problem_id": "p", "greedy": False, "completion": "", "code": "", "prompt_tokens": 9}
    rows = [row | {"sample": i, "finish_reason": why, "completion_tokens": n} for i, (why, n) in enumerate(answers)]
    return pl.DataFrame(rows, schema=SAMPLES)


def test_answers_that_ran_into_the_limit_did_not_end_and_prompts_never_asked_do_not_count() -> None:
    got = answers_shape([samples(("stop", 10), ("length", 40)), samples(("stop", 16), ("dropped", 0))])
    assert (got.n, got.ended, got.tokens) == (3, pytest.approx(2 / 3), pytest.approx(22))
    assert answers_shape([samples(("dropped", 0))]) == Answers(n=0, ended=0.0, tokens=0.0)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second iteration no longer ends every fifth answer, and whose trainer gave the alarm before that."""
    return example_run(tmp_path_factory.mktemp("home"), ended=(0.2, 1.0, 1.0, 0.8), drift_alarm_step=12)


def policies(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "summary.json").read_text())["policies"]
    return rows


def test_length_drift_is_against_the_policy_before_on_the_same_split(forgetful: Path) -> None:
    rows = policies(forgetful)
    for split in ("dev", "train"):
        asked = [r["answers"][split] for r in rows if split in r["answers"]]
        assert asked[0]["length_drift"] is None
        for before, now in pairwise(asked):
            assert now["length_drift"] == pytest.approx(now["tokens"] / before["tokens"] - 1)


def test_a_policy_that_forgets_its_end_token_raises_an_alarm_everybody_sees(
    forgetful: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, start, first, second = policies(forgetful)
    assert (base["alarms"], start["answers"]["dev"]["ended"]) == ([], 1.0)
    assert len(first["alarms"]) == 1
    assert "80% of the dev answers end by themselves, 100% of those of policy 1 did" in second["alarms"][1]
    noted = [e["text"] for e in RunDir(forgetful).events() if e["event"] == "note"]
    assert noted == [*first["alarms"], *second["alarms"]]
    summary = load_summary(forgetful)
    assert summary
    show_run(summary, forgetful)
    assert "! policy 2: 80% of the dev answers" in capsys.readouterr().out


def test_the_drift_alarm_of_a_training_is_in_the_row_of_the_policy_it_made(forgetful: Path) -> None:
    assert policies(forgetful)[2]["alarms"][0].startswith(
        "Training of policy 1: from step 12 on the chosen answers were more than 10 nats less likely"
    )


Call = Callable[[Recorder], object]


def calls(run: Run) -> list[Call]:
    """What a run tells its recorder of three policies, the last of which forgets its end token on both splits."""
    played = Played(run, drift_alarm_step=12)
    asked, expected = played.problems, played.expected
    found: list[Call] = []
    for i, (label, skill, ended) in enumerate((("base", 0.1, 1.0), ("policy-0", 0.4, 1.0), ("policy-1", 0.6, 0.5))):
        played.ended = ended
        made = played.train(label) if i else None
        policy = Policy.of(label, made) if made else Policy(label, "/nowhere", "base")
        dev, judged = played.answers("dev", skill, 1)
        scores = run.make(stages.score(run, [judged], asked, expected, "dev"))
        found.append(lambda to, a=(policy, scores, [dev], [judged], made): to.measured(*a))
        if i:
            train, tried = played.answers("train", skill, 4)
            scores = run.make(stages.score(run, [tried], asked, expected, "train"))
            lesson = run.make(stages.pairs(run, [tried], asked, expected))
            found.append(lambda to, a=(policy, scores, [train], [tried]): to.sampled(*a))
            found.append(lambda to, a=(policy, lesson): to.learned_from(*a))
    return found


def test_calls_in_any_order_give_the_same_record(tmp_path: Path) -> None:
    def record(order: tuple[Call, ...]) -> dict[str, Any]:
        recorder = Recorder(run)
        for call in order:
            call(recorder)
        written: dict[str, Any] = json.loads((run.dir.path / "summary.json").read_text())
        return {k: v for k, v in written.items() if k not in ("started", "minutes")}

    with Run(tmp_path, example_config()) as run:
        told = calls(run)
        usual = record(tuple(told))
        names = [p["label"] for p in usual["policies"]]
        assert names == ["base", "policy-0", "policy-1"]
        last = usual["policies"][-1]
        assert len(last["alarms"]) == 3, "of the training, of dev, of train"
        assert (last["paired"]["previous"]["against"], last["pairs"]) == (
            "policy-0",
            usual["policies"][1]["funnel"]["pairs"],
        )
        orders = random.Random(0).sample(list(itertools.permutations(told)), 60)
        for order in [tuple(reversed(told)), *orders]:
            assert record(order) == usual, [told.index(call) for call in order]


# ---- started again ---------------------------------------------------------------------------------------------------


SKILLS = (0.2, 0.5, 0.6)


def test_a_finished_record_stays_until_the_remade_one_is_whole(tmp_path: Path) -> None:
    run = example_run(tmp_path, skills=SKILLS)
    before, links = load_summary(run), {p: p.resolve() for p in run.rglob("*-scores")}
    with Run(tmp_path, example_config(iterations=1)) as again:
        played = Played(again)
        recorder = Recorder(again)
        recorder.prepared(played.problems, played.expected)
        policy = Policy("base", "/nowhere", "base")
        drawn, judged = played.answers("dev", 0.9, 1)
        scores = again.make(stages.score(again, [judged], played.problems, played.expected, "dev"))
        recorder.measured(policy, scores, [drawn], [judged], None)
        with again.dir.hold():
            now = read_summary(run.parent, "example")
            assert (now.state, [p.label for p in now.policies]) == ("running", ["base"])
        assert load_summary(run) == before
        assert {p: p.resolve() for p in run.rglob("*-scores")} == links
        found = read_summary(run.parent, "example")
        assert found.finished
        assert "started again and not finished" in found.reason
        assert render(read_findings(run), [])
    example_run(tmp_path, skills=SKILLS)
    after = load_summary(run)
    assert after
    assert after.finished
    assert not (run / "summary.next.json").exists()
    assert read_summary(run.parent, "example").reason == after.reason


def test_an_interrupted_record_stays_until_its_policies_are_measured_again(tmp_path: Path) -> None:
    run = example_run(tmp_path, skills=SKILLS, finished=False)
    with Run(tmp_path, example_config(iterations=1)) as again:
        Recorder(again)
        kept = load_summary(run)
        assert kept
        assert len(kept.policies) == 3
    example_run(tmp_path, skills=SKILLS, finished=False)
    assert not (run / "summary.next.json").exists()


def notes(run: Path) -> list[str]:
    return [e["text"] for e in RunDir(run).events() if e["event"] == "note"]


def test_work_that_is_made_anew_is_told_once_with_why_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = example_run(tmp_path, skills=SKILLS)
    before = len(notes(run))
    example_run(tmp_path, skills=SKILLS)
    assert len(notes(run)) == before, "all was reused"
    for file in (tmp_path / "store").glob("*/*/manifest.json"):
        manifest = json.loads(file.read_text())
        del manifest["sha256"]
        manifest["libraries"] = manifest["libraries"] | {"codelutra": "0.0.9"}
        file.write_text(json.dumps(manifest))
    monkeypatch.setitem(stages.VERSIONS, "problems", 99)
    # The restarts are of one process here: each is told from the last by its process id.
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    (run / "ledger.jsonl").write_text("".join(json.dumps(line | {"pid": 7}) + "\n" for line in lines))
    example_run(tmp_path, skills=SKILLS)
    (told,) = notes(run)[before:]
    assert re.match(r"made by another version \(codelutra 0\.0\.9, this is [\d.]+\): remaking up to \d+ artifacts\. ", told)


def test_going_on_with_a_finished_run_is_no_remaking(tmp_path: Path) -> None:
    run = RunDir(example_run(tmp_path, skills=SKILLS))
    for label in ("policy-0/dev-000", "policy-1/dev-000"):
        run.ledger({"event": "made", "stage": "sample", "key": label[:8], "label": label})
    start = {"event": "start", "stage": "sample", "key": "new"}
    assert Remade(run, tmp_path / "store").heard(start | {"label": "policy-1/train-000"}) == ""
    assert "remaking up to" in Remade(run, tmp_path / "store").heard(start | {"label": "policy-1/dev-000"})
    (run.path / "summary.json").unlink()
    assert Remade(run, tmp_path / "store").heard(start | {"label": "policy-1/dev-000"}) == "", "it had not finished"
