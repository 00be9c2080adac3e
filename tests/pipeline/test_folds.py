"""`sample.folds`: in the first iteration nobody samples a problem whose reference it was taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import load_config, parse_config
from codelutra.config.idle import idle
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline import stages
from codelutra.pipeline.folds import by_folds, dealt
from codelutra.pipeline.run import Policy, Run
from codelutra.sampling.shards import plan_shards
from tests.helpers.loop import Command, small_config
from tests.helpers.tiny_model import write_tiny_model

WARM = {"epochs": 1, "batch_size": 4, "micro_batch": 4, "checkpoint_steps": 1, "max_length": 512}
SAMPLE = {"samples_per_problem": 4, "max_tokens": 16, "shard_problems": 8}
SUITE = {"name": "starter-sql", "train": 24, "dev": 12, "test": 6}


def config_of(**changes: Any) -> Any:
    given = {"name": "folded", "model": "hf:a/b@main", "suite": SUITE, "warm_start": {}, "sample": SAMPLE | {"folds": 3}}
    return parse_config(given | changes)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """PROBLEMS and EXPECTED of a small suite; the first train problem's reference is unusable."""
    config = config_of(model=f"path:{write_tiny_model(tmp_path_factory.mktemp('tiny'))}")
    with Run(tmp_path_factory.mktemp("home"), config) as run:
        problems = run.make(stages.problems(run)).frame("problems")
    broken = problems.filter(pl.col("split") == "train")["problem_id"][0]
    status = pl.when(pl.col("problem_id") == broken).then(pl.lit("reference_error")).otherwise(pl.lit("correct"))
    return problems, problems.select("problem_id", status=status, expected=pl.lit(""), error=pl.lit(""))


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_every_usable_reference_is_in_one_fold_and_every_group_in_all(
    asked: tuple[pl.DataFrame, pl.DataFrame], folds: int
) -> None:
    config = config_of(sample=SAMPLE | {"folds": folds})
    found = dealt(*asked, config)
    usable = (
        asked[0]
        .filter(pl.col("split") == "train")
        .join(asked[1].filter(pl.col("status") == "correct"), on="problem_id", how="semi")
    )
    assert sorted(found["problem_id"]) == sorted(usable["problem_id"])
    sizes = found.group_by("fold").len().sort("fold")
    assert sizes["fold"].to_list() == list(range(1, folds + 1))
    assert sizes["len"].max() - sizes["len"].min() <= 1  # type: ignore[operator]
    within = found.join(asked[0].select("problem_id", "group"), on="problem_id").group_by("group", "fold").len()
    spread = within.group_by("group").agg(least=pl.col("len").min(), most=pl.col("len").max())
    assert (spread["most"] - spread["least"]).max() <= 1  # type: ignore[operator]


def test_only_problems_with_a_shown_reference_are_dealt(asked: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    few = dealt(*asked, config_of(suite=SUITE | {"references": 8}))
    assert 0 < few.height <= 8
    every = dealt(*asked, config_of())
    assert set(few["problem_id"]) < set(every["problem_id"])


def test_every_problem_is_sampled_once_by_who_was_not_taught_it(asked: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    config = config_of(suite=SUITE | {"references": 12})
    policy, folds = Policy("policy-0", "/p", "p"), [Policy("policy-0", f"/{n}", str(n)) for n in (1, 2, 3)]
    rows, fold_of = asked[0].filter(pl.col("split") != "test"), dealt(*asked, config)
    shards, policies = by_folds(rows, fold_of, policy, folds, lambda r: plan_shards(r, config.sample))
    assert [s.index for s in shards] == list(range(len(shards)))
    assert len({s.name for s in shards}) == len(shards)
    sampled = pl.concat(
        s.problems.select("problem_id", "split", who=pl.lit(p.digest)) for s, p in zip(shards, policies, strict=True)
    )
    assert sorted(sampled["problem_id"]) == sorted(rows["problem_id"])
    assert set(sampled.filter(pl.col("split") == "dev")["who"]) == {"p"}
    known = dict(fold_of.rows())
    assert all(who == (str(known[i]) if i in known else "p") for i, who in sampled.select("problem_id", "who").rows())
    assert all(s.name.startswith("dev-" if s.greedy else "train-") for s in shards)


@pytest.mark.parametrize(
    ("changes", "folds"),
    [
        ({}, 3),
        ({"warm_start": None}, 0),
        ({"iterations": 0}, 0),
        ({"train": {"objective": "sft"}}, 0),
        ({"train": {"objective": "rft"}}, 3),
        ({"sample": SAMPLE}, 0),
    ],
)
def test_folds_are_made_where_a_run_has_use_for_them_and_else_told(changes: dict[str, Any], folds: int) -> None:
    config = config_of(**changes)
    assert config.folds == folds
    told = "sample.folds" in idle(config)
    assert told is (not folds and config.sample.folds > 1 and config.iterations > 0)
    assert len(config.trainings) <= 2, "a fold needs no more memory than the warm start"


def test_what_folds_cannot_be_is_told() -> None:
    with pytest.raises(ConfigError, match="objective grpo learns from answers of the policy"):
        config_of(train={"objective": "grpo"})
    for folds in (0, 33, True, 1.5):
        with pytest.raises(ConfigError, match=r"sample\.folds"):
            config_of(sample=SAMPLE | {"folds": folds})


def test_more_folds_than_references_are_refused(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    config = config_of(model=f"path:{tiny}", suite=SUITE | {"references": 2})
    with Run(tmp_path, config) as run, pytest.raises(UserError, match=r"sample\.folds is 3 and 2 references are shown"):
        run.make(stages.problems(run))


@pytest.mark.extended
@pytest.mark.timeout(900)
def test_a_run_in_folds_can_be_killed_and_nobody_samples_what_it_was_taught(prefect: dict[str, str], tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    path = small_config(tmp_path / "folded.yaml", tiny, iterations=1, sample=SAMPLE | {"folds": 2, "more": 2})
    killed = Command(path, tmp_path, **prefect)
    killed.kill_when(lambda new, _: any(e["event"] == "made" and "fold1" in e.get("label", "") for e in new))
    command = Command(path, tmp_path, **prefect)
    code, _, err = command.finish()
    assert code == 0, err
    made = {}
    for event in command.events():
        if event["event"] == "made":
            assert event["key"] not in made, "made twice"
            made[event["key"]] = event

    def manifest(stage: str, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "store" / stage / key / "manifest.json").read_text())
        return found

    warm = {e["digest"]: manifest("warm-start", k) for k, e in made.items() if e["stage"] == "warm-start"}
    assert len(warm) == 3
    with Run(tmp_path, load_config(str(path)).model_copy(update={"name": "looked"})) as run:
        problems, expected = (
            run.make(step) for step in (stages.problems(run), stages.references(run, run.make(stages.problems(run))))
        )
        fold_of = dict(dealt(problems.frame("problems"), expected.frame("expected"), run.config).rows())
    drawn = {
        k: e
        for k, e in made.items()
        if e["stage"] == "sample" and e["label"].startswith(("policy-0/train", "policy-0/more"))
    }
    assert {e["label"].split("/")[1].split("-")[0] for e in drawn.values()} == {"train", "more"}
    asked = set()
    for key in drawn:
        sampler = warm[manifest("sample", key)["inputs"]["policy"][:16]]["config"]["without_fold"]
        ids = pl.read_parquet(tmp_path / "store" / "sample" / key / "samples.parquet")["problem_id"].unique().to_list()
        assert {fold_of[i] for i in ids} == {sampler}
        asked |= set(ids)
    assert asked == set(fold_of)
    row = json.loads((tmp_path / "runs" / "folded" / "summary.json").read_text())["policies"][1]
    assert row["train"]["samples"] == 4 * len(fold_of)
    assert row["seconds"]["train"] == pytest.approx(
        sum(e["seconds"] for e in made.values() if e["stage"] == "warm-start"), abs=0.1
    )
