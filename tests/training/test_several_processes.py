"""Two processes that share every optimizer step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.helpers.training import Train, distance, launched, some_pairs, some_problems, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, transformers and torch warn about each other


@pytest.mark.timeout(900)  # three processes import torch on what may be two busy cores
@pytest.mark.parametrize(
    "settings",
    [
        {"sft_norm": "sequence", "replay_references": True},
        {"method": "lora", "learning_rate": 0.02, "replay_references": True},
        {"sft_on": "right"},  # one or two answers a step beside the pairs
    ],
    ids=["full", "lora", "right"],
)
def test_two_processes_train_what_one_does(policy: Path, run: Train, tmp_path: Path, settings: dict[str, Any]) -> None:
    problems, same = some_problems(7), {"epochs": 1.5, "learning_rate": 1e-4} | settings
    one = run(some_pairs(13), references=problems, bf16=False, **same)
    two = launched(tmp_path / "two", policy, some_pairs(13), problems, processes=2, **same)
    assert two["steps"] == one["steps"] == 6
    assert two["reference_gap"] < 1e-3
    ours, theirs = (pl.read_ndjson(tmp_path / into / "out/training.jsonl") for into in ("two", "a"))
    assert ours["step"].to_list() == list(range(1, 7)), "one record a step, by one of them"
    first = [c for c in theirs.columns if c not in ("seconds", "tokens_per_second")]
    assert ours.row(0, named=True).keys() == theirs.row(0, named=True).keys()
    for name in first:
        assert ours[name][0] == pytest.approx(theirs[name][0], rel=1e-4, abs=1e-5), name
    for name in ("loss", "grad_norm", "chosen_drift", "dpo_share", "sft" if "sft_on" in settings else "replay"):
        assert ours[name].to_list() == pytest.approx(theirs[name].to_list(), rel=0.01, abs=1e-3), name
    a, b, start = weights(tmp_path / "two/out"), weights(tmp_path / "a/out"), weights(policy)
    assert distance(a, b) < 0.02 * distance(start, b)
