"""What summary.json says of a run beyond its scores: whether answers end, how long they are, what went wrong."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.tables import ended_text, length_text, summary_table, training_text
from codelutra.pipeline.recorder import shape
from codelutra.schema import SAMPLES
from codelutra.store.run_dir import RunDir
from tests.helpers.example_run import example_run


def samples(*answers: tuple[str, int]) -> pl.DataFrame:
    row = {"problem_id": "p", "greedy": False, "completion": "", "code": "", "prompt_tokens": 9}
    rows = [row | {"sample": i, "finish_reason": why, "completion_tokens": n} for i, (why, n) in enumerate(answers)]
    return pl.DataFrame(rows, schema=SAMPLES)


def test_answers_that_ran_into_the_limit_did_not_end_and_prompts_never_asked_do_not_count() -> None:
    got = shape([samples(("stop", 10), ("length", 40)), samples(("stop", 16), ("dropped", 0))])
    assert got == {"n": 3, "ended": pytest.approx(2 / 3), "tokens": pytest.approx(22)}
    assert shape([samples(("dropped", 0))]) == {"n": 0, "ended": 0.0, "tokens": 0.0}


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
        assert "length_drift" not in asked[0]
        for before, now in pairwise(asked):
            assert now["length_drift"] == pytest.approx(now["tokens"] / before["tokens"] - 1)


def test_a_policy_that_forgets_its_end_token_raises_an_alarm_everybody_sees(
    forgetful: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, warm, first, second = policies(forgetful)
    assert (base["alarms"], warm["answers"]["dev"]["ended"]) == ([], 1.0)
    assert len(first["alarms"]) == 1
    assert "80% of the dev answers end by themselves, 100% did before (iteration 1)" in second["alarms"][1]
    noted = [e["text"] for e in RunDir(forgetful).events() if e["event"] == "note"]
    assert noted == [*first["alarms"], *second["alarms"]]
    summary_table(json.loads((forgetful / "summary.json").read_text()), forgetful.parents[1])
    assert "! iteration 2: 80% of the dev answers" in capsys.readouterr().out


def test_the_drift_alarm_of_a_training_is_in_the_row_of_the_policy_it_made(forgetful: Path) -> None:
    assert policies(forgetful)[2]["alarms"][0].startswith(
        "Training of iteration 1: from step 12 on the chosen answers were more than 10 nats less likely"
    )


def test_a_row_of_an_older_run_has_nothing_to_say_of_its_answers() -> None:
    assert (ended_text({}), length_text({})) == ("", "")
    assert length_text({"answers": {"dev": {"tokens": 21.4, "length_drift": -0.1}}}) == "21 (−10%)"


def test_a_step_of_training_reads_as_loss_log_probabilities_with_their_drift_margin_and_divergence() -> None:
    step = {
        "loss": 1.5,
        "chosen_log_prob": -4.0,
        "chosen_drift": 0.5,
        "rejected_log_prob": -9.0,
        "rejected_drift": -2.0,
        "margin": 0.25,
        "kl": 0.01,
        "learning_rate": 1e-5,
    }
    assert training_text(step, "") == "loss 1.500  chosen −4.0 (+0.5)  rejected −9.0 (−2.0)  margin 0.250  KL 0.010"
    assert training_text({"loss": 0.5}) == "  ·  loss 0.500"
    assert training_text(None) == training_text({}) == ""
