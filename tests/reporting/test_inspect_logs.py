"""Evaluation logs as inspect_ai reads them: every policy's dev answers, with the numbers of the run's record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codelutra.errors import UserError
from codelutra.reporting.inspect_logs import export_logs
from codelutra.results.findings import read_findings
from tests.helpers.example_run import example_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"), name="a_run")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_logs(run, tmp_path_factory.mktemp("out") / "logs")


def test_each_policy_has_a_log_with_its_answers_and_its_pass_at_1(run: Path, exported: Path) -> None:
    logs = {log["eval"]["model"]: log for log in map(json.loads, (f.read_text() for f in exported.iterdir()))}
    policies = read_findings(run).policies
    assert set(logs) == {f"codelutra/a_run/{p.label}" for p in policies}
    for policy in policies:
        log = logs[f"codelutra/a_run/{policy.label}"]
        right = [s["scores"]["execution"]["value"] for s in log["samples"]]
        assert (right.count("C"), len(right)) == (policy.dev.correct, policy.dev.n)
        assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == policy.dev.value
    sample = logs["codelutra/a_run/base"]["samples"][0]
    assert [m["role"] for m in sample["messages"]] == ["system", "user", "assistant"]
    assert sample["output"]["choices"][0]["message"]["content"] == sample["messages"][-1]["content"]


def test_the_same_run_gives_the_same_bytes(run: Path, exported: Path, tmp_path: Path) -> None:
    again = export_logs(run, tmp_path / "logs")
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in exported.iterdir()}


def test_inspect_reads_the_logs_and_scores_them_alike(run: Path, exported: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install inspect_ai")
    scorer = pytest.importorskip("inspect_ai.scorer")
    policies = {f"codelutra/a_run/{p.label}": p for p in read_findings(run).policies}
    listed = log.list_eval_logs(str(exported))
    assert {(info.task, len(info.task_id)) for info in listed} == {("starter-sql", 22)}
    assert len(listed) == len(policies)
    for info in listed:
        read = log.read_eval_log(info)
        assert read.status == "success"
        policy = policies.pop(read.eval.model)
        value = scorer.value_to_float()
        scores = [value(sample.scores["execution"].value) for sample in read.samples]
        assert sum(scores) == policy.dev.correct
        assert read.results.scores[0].metrics["accuracy"].value == policy.dev.value
        assert log.read_eval_log(info, header_only=True).eval.dataset.samples == policy.dev.n


def test_a_run_without_answers_is_refused(tmp_path: Path) -> None:
    bare = example_run(tmp_path, skills=(), finished=False)
    with pytest.raises(UserError, match="has no answers to dev problems"):
        export_logs(bare, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
