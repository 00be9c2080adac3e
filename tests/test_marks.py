"""What doesn't change a result is said on the config's field; whoever asks what a run is made of goes by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

from codelutra.config import HOW_FAR, SAME_RESULT, Mark, RunConfig, Section, parse_config, settings
from codelutra.errors import ConfigError, UserError
from codelutra.experiments.retrain import _made_of
from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import measure_plan
from codelutra.schema import EXPECTED
from codelutra.store.artifacts import Artifact, Recipe, Step, write_frame
from codelutra.store.run_dir import RunDir


def fields(
    section: type[Section] = RunConfig, prefix: str = "", mark: Mark | None = None
) -> Iterator[tuple[str, Mark | None]]:
    """Every value's dotted name with its mark, which a section gives to all within."""
    for name, field in section.model_fields.items():
        own = next((m for m in field.metadata if isinstance(m, Mark)), mark)
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
        if inner:
            yield from fields(inner, f"{prefix}{name}.", own)
        else:
            yield f"{prefix}{name}", own


MARKS = dict(fields())


def changed(raw: dict[str, Any], name: str) -> RunConfig | None:
    """The config with another valid value of this field; None where the other settings leave it no other."""
    value = settings(parse_config(raw))[name]
    *_, section, key = ("", *name.split("."))
    annotation = (type(getattr(parse_config(raw), section)) if section else RunConfig).model_fields[key].annotation
    choices = [c for c in get_args(annotation) if isinstance(c, str)]
    numbers = [value + 1, value * 2, value / 2] if isinstance(value, int | float) else []
    for other in (
        *choices,
        True,
        False,
        *numbers,
        7,
        0.5,
        "run:other",
        "other",
        "other:1",
        "s3://other/place",
        ["other"],
        ["http://other:1"],
        ["tensorboard"],
    ):
        text = {key: other}
        try:
            config = parse_config(raw | ({section: (raw.get(section) or {}) | text} if section else text))
        except ConfigError:
            continue
        if settings(config)[name] != value:
            return config
    return None


def test_the_marks_are_those_of_hardware_pace_tolerance_and_of_how_far_a_run_goes() -> None:
    assert sorted(name for name, mark in MARKS.items() if mark is SAME_RESULT) == [
        "api.connections",
        "api.price_in",
        "api.price_out",
        "cluster.address",
        "cluster.cpus",
        "cluster.engines",
        "cluster.executors",
        "engine.cache_gib",
        "engine.eager",
        "engine.gpu_memory",
        "engine.max_batch",
        "engine.replicas",
        "engine.tensor_parallel",
        "execute.max_infra_error",
        "execute.workers",
        "report_to",
        "sample.endpoints",
        "sample.follow_minutes",
        "store",
        "suite.outside",
        "train.checkpoint_steps",
        "train.gradient_checkpointing",
        "train.processes",
        "train.sharding",
        "warm_start.checkpoint_steps",
        "warm_start.gradient_checkpointing",
        "warm_start.processes",
        "warm_start.sharding",
    ]
    assert sorted(name for name, mark in MARKS.items() if mark is HOW_FAR) == [
        "iterations",
        "select.alpha",
        "select.held_out",
        "select.patience",
        "select.samples",
        "select.test",
        "select.verifier",
    ]


@pytest.mark.parametrize("name", MARKS)
def test_a_run_goes_on_with_what_is_marked_changed_and_with_nothing_else(name: str, tmp_path: Path) -> None:
    trained = {"method": "lora", "processes": 2}
    others = {"warm_start": trained, "train": trained, "cluster": {"address": "host:1"}}
    raw = {"name": "r", "suite": {"name": "custom", "generated_cases": 5}, "select": {"samples": 8}} | others
    config = changed(raw, name)
    assert config, f"no other value of {name} was found: this test would prove nothing"
    (RunDir.create(tmp_path, parse_config(raw)).path / "dev-scores").mkdir()  # something to lose
    if MARKS[name] or name == "name":
        RunDir.create(tmp_path, config)
    else:
        with pytest.raises(UserError, match=name):
            RunDir.create(tmp_path, config)


def keys(run: Run) -> list[str]:
    """The keys of all stages of a run, of stand-ins for what Docker, vLLM and TRL would make."""
    asked = run.make(stages.problems(run))
    right = asked.frame("problems").select("problem_id", status=pl.lit("correct"), expected=pl.lit("1"), error=pl.lit(""))

    def build(out: Path, work: Path) -> dict[str, Any]:
        write_frame(right.cast(dict(EXPECTED)), out / "expected.parquet")
        return {}

    expected, policy = run.make(Step(Recipe("stand-in", 1, {}, {}), build)), Policy("policy-0", "/nowhere", "digest")
    one = Artifact("stand-in", "key", "digest", "/nowhere")
    steps = [
        stages.problems(run),
        stages.references(run, asked),
        *measure_plan(run, policy, asked, expected, "dev", train=True).steps,
        stages.execute(run, one, asked, expected),
        stages.score(run, [one], asked, expected, "dev"),
        stages.pairs(run, [one], asked, expected),
        stages.answers(run, [one], asked, expected),
        stages.groups(run, [one], asked, expected),
        stages.warm_start(run, policy, asked, expected),
        stages.train(run, policy, one, asked, expected),
    ]
    return [step.recipe.key for step in steps]


@pytest.mark.parametrize("objective", ["preference", "grpo"])
def test_what_is_marked_changes_no_key_and_is_no_reason_to_retrain(objective: str, tmp_path: Path) -> None:
    suite = {"name": "starter-sql", "train": 6, "dev": 4, "test": 0}
    two = {"processes": 2}
    raw = {"name": "r", "suite": suite, "warm_start": two, "train": {"objective": objective} | two, "select": {"samples": 8}}
    raw["engine"] = {"dtype": "bfloat16"}  # where it is open, servers choose it elsewhere, and a CPU here
    with Run(tmp_path, parse_config(raw)) as run:
        wanted, made_of = keys(run), _made_of(run.config)
    elsewhere = [name for name in MARKS if name.partition(".")[0] in ("cluster", "store")]  # a run asks them when it opens
    for name in (n for n, mark in MARKS.items() if mark and n not in elsewhere):
        config = changed(raw, name)
        assert config, f"{name} has no other value"
        with Run(tmp_path, config) as run:
            assert keys(run) == wanted, name
        assert (_made_of(config) == made_of) == (MARKS[name] is SAME_RESULT), name
    other = parse_config(raw | {"name": "s", "sample": {"temperature": 0.5}})
    with Run(tmp_path, other) as run:
        assert keys(run) != wanted, "this test could not fail"
    assert _made_of(other) != made_of
