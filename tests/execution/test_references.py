"""Problems whose reference is not shown (`suite.references`), or that have none: learned from by own attempts alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.completions import extraction
from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.pipeline import stages
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import Policy, Run
from codelutra.results.text import problem_counts
from codelutra.schema import OUTCOMES, SAMPLES
from codelutra.store.artifacts import Recipe, Step, write_frame
from codelutra.suites.splits import shown
from tests.helpers.loop import small_config
from tests.helpers.tiny_model import write_tiny_model

SHOWN, TRAIN = 5, 12
SAME: dict[str, Any] = {
    "greedy": False,
    "finish_reason": "stop",
    "mode": "",
    "verdict": "host",
    "answer": "",
    "output": "",
    "seconds": 0.0,
    "error": "",
}


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
        record = Recorder(run)
        record.prepared(asked, expected)
        assert problem_counts(record.summary) == f"{TRAIN} train ({SHOWN} with a reference), 2 dev"
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, r"warm_start learns from references, and of 4 train problems none .*references: 0"),
        ({"warm_start": None, "train": {"objective": "sft"}}, r"train\.objective sft learns"),
        ({"train": {"replay_references": True}}, r"warm_start and train\.replay_references learn "),
        ({"warm_start": None, "suite": {"shots": 2}}, r"suite\.shots learns"),
    ],
)
def test_what_imitates_references_is_refused_where_none_is_shown(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    suite = {"name": "starter-sql", "train": 4, "dev": 2, "test": 0, "references": 0} | changes.pop("suite", {})
    config = load_config(small_config(tmp_path / "none.yaml", write_tiny_model(tmp_path / "tiny"), suite=suite, **changes))
    with Run(tmp_path, config) as run, pytest.raises(UserError, match=says):
        stages.problems(run)


@pytest.mark.parametrize("train", [{"replay_references": True}, {"sft_on": "right+references"}])
def test_without_an_sft_term_no_reference_is_asked_for(train: dict[str, Any], tmp_path: Path) -> None:
    suite = {"name": "starter-sql", "train": 4, "dev": 2, "test": 0, "references": 0}
    same = {"suite": suite, "warm_start": None, "train": train | {"sft_weight": 0}}
    config = load_config(small_config(tmp_path / "none.yaml", write_tiny_model(tmp_path / "tiny"), **same))
    with Run(tmp_path, config) as run:
        stages.problems(run)


def test_given_rows_judge_queries_and_nothing_is_imitated(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as made:
        made.executescript("CREATE TABLE item (name, price); INSERT INTO item VALUES ('it''s', 3), ('jug', 9), (NULL, 0.1)")
    lines = [
        {"id": "a", "question": "What there is?", "rows": [["jug", 9], ["it's", 3], [None, 0.1]], "split": "train"},
        {"id": "b", "question": "Cheapest first?", "rows": [[0.1], [3], [9]], "ordered": True, "split": "train"},
        {"id": "c", "question": "How many?", "query": "SELECT COUNT(*) FROM item", "split": "dev"},
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]")
    config = load_config(
        small_config(
            tmp_path / "shop.yaml",
            write_tiny_model(tmp_path / "tiny"),
            warm_start=None,
            suite={"name": "custom", "path": str(tmp_path)},
        )
    )
    with Run(tmp_path, config) as run:
        asked = run.make(stages.problems(run))
        expected = run.make(stages.references(run, asked))
        assert set(expected.frame("expected")["status"]) == {"correct"}
        tried = [
            ("a", "SELECT * FROM item", "correct"),
            ("a", "SELECT name FROM item", "wrong"),
            ("a", "SELECT 1, 2", "wrong"),
            ("b", "SELECT price FROM item ORDER BY price", "correct"),
            ("b", "SELECT price FROM item", "wrong"),
        ]
        answers = [(problem, n, code, code) for n, (problem, code, _) in enumerate(tried)]
        named = pl.DataFrame(answers, schema=["problem_id", "sample", "completion", "code"], orient="row")
        counts = {"greedy": False, "finish_reason": pl.lit("stop"), "prompt_tokens": 9, "completion_tokens": 9}

        def draw(out: Path, work: Path) -> dict[str, Any]:
            write_frame(named.with_columns(**counts).cast(dict(SAMPLES)), out / "samples.parquet")
            return {}

        drawn = run.make(Step(Recipe("sample", 0, {}, {}), draw))
        judged = run.make(stages.execute(run, drawn, asked, expected)).frame("outcomes").sort("sample")
        assert judged["status"].to_list() == [status for *_, status in tried]

        def draw_earlier(out: Path, work: Path) -> dict[str, Any]:
            fenced = pl.format("It is:\n```sql\n{}\n```\nAs you see.", "completion")
            earlier = named.with_columns(completion=fenced, code=pl.lit("what another version found"), **counts)
            write_frame(earlier.cast(dict(SAMPLES)), out / "samples.parquet")
            return {}

        earlier = run.make(Step(Recipe("sample", 0, {}, {"drawn": "earlier"}), draw_earlier))
        step = stages.execute(run, earlier, asked, expected)
        anew = run.make(step).frame("outcomes").sort("sample")
        assert anew.select("code", "status").equals(judged.select("code", "status")), "programs as they are found now"
        assert step.recipe.config["extraction"] == extraction()
        record = Recorder(run)
        record.prepared(asked, expected)
        assert problem_counts(record.summary) == "2 train (0 with a reference), 1 dev"
