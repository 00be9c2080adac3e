"""What the store's keys say of thinking: nothing where it is off, so earlier samples and trainings stay in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.completions.thoughts import Thought
from codelutra.config import parse_config
from codelutra.experiments.retrain import _made_of
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import Sampling
from codelutra.sampling.shards import as_read_now, plan_shards
from codelutra.schema import PROBLEMS
from tests.helpers.frames import samples_of
from tests.helpers.tiny_model import tiny_tokenizer


def keys(at: Path, name: str, prompt: dict[str, Any]) -> list[dict[str, Any]]:
    row = {"problem_id": "a", "split": "train", "prompt": "How many?", "language": "sql", "group": "", "difficulty": ""}
    problems = pl.DataFrame([row | {"judge": "", "reference": ""}], schema=PROBLEMS)
    config = parse_config({"name": name, "suite": {"name": "starter-sql"}, "prompt": prompt})
    tiny_tokenizer().save_pretrained(at / "policy")
    with Run(at / "home", config) as run:
        policy = Policy("policy-0", str(at / "policy"), "digest")
        return [step.recipe.config for step in Sampling(run, policy, plan_shards(problems, config.sample)).steps]


def test_thinking_and_its_budget_are_in_the_keys_of_samples_and_nothing_is_where_it_is_off(tmp_path: Path) -> None:
    off, still_off, on, longer = (
        keys(tmp_path, f"run-{i}", prompt)
        for i, prompt in enumerate(
            ({}, {"thinking_tokens": 99}, {"thinking": True}, {"thinking": True, "thinking_tokens": 99})
        )
    )
    assert off == still_off
    assert "thinking" not in str(off)
    assert on != off
    assert [key["thinking_tokens"] for key in (*on, *longer)] == [512, 99]


def test_thinking_is_a_reason_to_retrain_and_nothing_is_where_it_is_off() -> None:
    raw = {"name": "r", "suite": {"name": "starter-sql", "train": 6, "dev": 4, "test": 0}}
    plain, still, on = (
        _made_of(parse_config(raw | {"prompt": prompt})) for prompt in ({}, {"thinking_tokens": 99}, {"thinking": True})
    )
    assert plain == still != on


@pytest.mark.parametrize(
    ("thinking", "programs"), [(True, ["SELECT 1", "", "SELECT 3"]), (False, ["SELECT 1", "SELECT 2", "SELECT 3"])]
)
def test_programs_are_read_anew_behind_the_thought_alone(thinking: bool, programs: list[str]) -> None:
    said = ["hm SELECT 0</think>\nSELECT 1", "SELECT 2", "</think>\n```sql\nSELECT 3\n```"]
    problems = pl.DataFrame({"problem_id": ["a"], "language": ["sql"]})
    samples = samples_of([("a", "stale")] * 3).with_columns(completion=pl.Series(said))
    marks = Thought("<think>", "</think>", prompted=True) if thinking else None
    assert as_read_now(samples, problems, marks)["code"].to_list() == programs
