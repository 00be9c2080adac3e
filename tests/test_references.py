"""`suite.references`: of the train problems whose reference is not shown, the model learns by its own attempts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra import stages
from codelutra.config import load_config
from codelutra.run import Policy, Run
from codelutra.schema import OUTCOMES
from codelutra.show import problem_counts
from codelutra.store import Recipe, Step, write_frame
from codelutra.suites.splits import shown
from codelutra.summary import Summary
from tests.loop import small_config
from tests.tiny_model import write_tiny_model

SHOWN, TRAIN = 5, 12
SAME: dict[str, Any] = {"greedy": False, "finish_reason": "stop", "mode": "", "verdict": "host", "answer": "", "output": "",
                        "seconds": 0.0, "error": ""}  # fmt: skip


@pytest.mark.parametrize(("solved", "learned_from"), [(0, SHOWN), (3, SHOWN + 3)])
def test_a_hidden_reference_teaches_nothing_and_still_judges(solved: int, learned_from: int, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    suite = {"name": "starter-sql", "train": TRAIN, "dev": 2, "test": 0, "references": SHOWN}
    training = {"batch_size": 4, "micro_batch": 4, "max_length": 512, "replay_references": True}
    config = load_config(small_config(tmp_path / "few.yaml", model, suite=suite, train=training))
    with Run(tmp_path, config) as run:
        asked = run.make(stages.problems(run))
        expected = run.make(stages.references(run, asked))
        assert set(expected.frame("expected")["status"]) == {"correct"}
        train = asked.frame("problems").filter(pl.col("split") == "train")
        Summary(run).prepared(asked, expected)
        assert problem_counts(run.dir.read("summary.json") or {}) == f"{TRAIN} train ({SHOWN} with a reference), 2 dev"
        visible = shown(train, config.suite).filter(pl.col("reference") != "")["problem_id"].to_list()
        hidden = [i for i in train["problem_id"] if i not in visible]
        right = hidden[:solved]

        def write(out: Path, work: Path) -> dict[str, Any]:
            tried = [
                SAME | {"problem_id": i, "sample": n, "completion": code, "code": code, "status": status}
                for i in train["problem_id"]
                for n, (code, status) in enumerate(
                    [("SELECT 1", "wrong"), ("SELECT 2", "correct" if i in right else "runtime_error")]
                )
            ]
            write_frame(pl.DataFrame(tried, schema=OUTCOMES), out / "outcomes.parquet")
            return {}

        outcomes = run.make(Step(Recipe("tried", 1, {}, {}), write))
        pairs = run.make(stages.pairs(run, [outcomes], asked, expected))
        made = pairs.frame("pairs")
        assert set(made["problem_id"]) == {*visible, *right}
        assert set(made.filter(pl.col("chosen_source") == "reference")["problem_id"]) == set(visible)

        start = run.make(stages.warm_start(run, stages.base_policy(run), asked, expected))
        assert start.facts["examples"] == SHOWN
        again = run.make(stages.train(run, Policy.of("policy-0", start), pairs, asked, expected))
        assert (again.facts["replayed"], made["problem_id"].n_unique()) == (SHOWN, learned_from)
